"""What a surrogate may do besides its contract: each ability is a mix-in, found by its methods.

A surrogate from outside has those that it likes; what is missing is said where it would have been used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from orchestrator.domain import Array, Candidate, Explanation, HeldOut


@dataclass(frozen=True)
class BotorchView:
    """A surrogate as a botorch model, for acquisition with gradients.

    Args:
        model: a botorch `Model` over encoded candidates with m outputs, larger values meaning larger properties.
        encode: n candidates to an n × d array.
        differentiable: columns of the encoding that may be optimised with gradients.
        summands: where properties are weighted sums of independent models over the encoding: weight and model of each
            summand of each property, that with the noise first; empty elsewhere.
    """

    model: Any
    encode: Callable[[Sequence[Candidate]], Array]
    differentiable: tuple[int, ...]
    summands: tuple[tuple[tuple[float, Any], ...], ...] = ()


@runtime_checkable
class HasBotorchView(Protocol):
    """Mix-in of surrogates that support ``botorch``."""

    def to_botorch(self) -> BotorchView:
        """Return the posterior of the last update as a botorch model; never re-runs a graph network per call."""


@dataclass(frozen=True, eq=False)
class PoolScores:
    """What a surrogate says of a stretch of a large pool, in single precision.

    Args:
        mean: n × m.
        epistemic: standard deviations, n × m.
        members: what each member of an ensemble says, s × n × m; None where there are none.
    """

    mean: npt.NDArray[np.float32]
    epistemic: npt.NDArray[np.float32]
    members: npt.NDArray[np.float32] | None = None


@runtime_checkable
class ScoresPool(Protocol):
    """Mix-in of surrogates that score a stretch of a large pool themselves: from arrays, or with their members.

    Any other surrogate is asked by `predict`, some thousand candidates at once. The caller cuts the pool into stretches
    and keeps the scores.
    """

    def score_pool(self, pool: Any, start: int, stop: int) -> PoolScores:
        """Score the candidates at some positions.

        Args:
            pool: has ``take(positions)``, and is a `ColumnarSpace` where it has ``features`` too.
            start: first position.
            stop: position after the last one.
        """


@runtime_checkable
class HoldsOut(Protocol):
    """Mix-in of surrogates that keep what their last `fit` predicted of labels it had not seen.

    What stands on it: champion and challenger, stacking, conformal intervals.
    """

    def held_out(self) -> Mapping[str, HeldOut]:
        """Return, by property, held-out predictions of the last `fit` as calibrated by it; empty after `load`.

        Each label is calibrated by the others; `widen` does not touch them.
        """


@runtime_checkable
class Widens(Protocol):
    """Mix-in of surrogates whose standard deviations can be corrected by what came of their predictions."""

    def widen(self, factors: Mapping[str, float]) -> None:
        """Multiply every standard deviation of the last `fit`, draws included; means stay.

        The factors become part of the state that `save` writes.

        Args:
            factors: by property; a property that is missing stays as it is.
        """


@runtime_checkable
class PredictsSuccess(Protocol):
    """Mix-in of surrogates that support ``feasibility``: they learn from failed trials."""

    def success(self, candidates: Sequence[Candidate]) -> Array:
        """Return the probability that a trial of each candidate yields a value, n."""


@runtime_checkable
class Classifies(Protocol):
    """Mix-in of surrogates that support ``classes``: the values of a property are whole numbers that name classes.

    Means and standard deviations are those of the label; here is what can be read of the classes themselves.
    """

    def classes(self, name: str) -> tuple[int, ...]:
        """Return the classes of a property that were measured so far, ascending; k of them."""

    def chances(self, candidates: Sequence[Candidate], name: str, s: int, seed: int) -> Array:
        """Return the probability of each class under each of `s` functions, s × n × k.

        The functions are fixed by (fit, dataset of the last update, seed), as those of `draw`; their mean is what is
        believed, their spread is what is not known.
        """


@runtime_checkable
class KnowsItsDomain(Protocol):
    """Mix-in of surrogates that can tell a candidate unlike everything they were trained on."""

    def outside(self, candidates: Sequence[Candidate]) -> Array:
        """Return how far outside each candidate lies, n.

        The unit is the distance within which 99 % of the training candidates have another one: above 1 a prediction is
        an extrapolation.
        """


@runtime_checkable
class GivesIntervals(Protocol):
    """Mix-in of surrogates with intervals that rest on held-out labels, not on the shape of their posterior."""

    def interval(self, candidates: Sequence[Candidate], level: float) -> tuple[Array, Array]:
        """Return the ends between which one more measurement falls with probability `level`, n × m each."""


@runtime_checkable
class Forgets(Protocol):
    """Mix-in of surrogates that keep what they computed of candidates, so that asking again is cheap."""

    def forget(self) -> None:
        """Drop it: a screening asks about each of a million candidates once. Answers stay what they are."""


@runtime_checkable
class Explains(Protocol):
    """Mix-in of surrogates that can say why."""

    def explain(self, candidates: Sequence[Candidate], name: str) -> tuple[Explanation, ...]:
        """Explain the predictions of one property.

        Args:
            candidates: n candidates.
            name: of a modelled property.

        Returns:
            n explanations, in the property's unit.
        """


@runtime_checkable
class ExplainsItsNetwork(Protocol):
    """Mix-in of surrogates with networks inside that can be asked apart from what stands around them."""

    def explain_network(self, candidates: Sequence[Candidate], name: str) -> tuple[Explanation, ...]:
        """Explain what the networks alone say of one property; `sd` is how far they differ.

        Args:
            candidates: n candidates.
            name: of a modelled property.

        Returns:
            n explanations, in the property's unit.
        """


@runtime_checkable
class Transfers(Protocol):
    """Mix-in of surrogates that can start from a fit of another campaign or of a public data set."""

    def start_from(self, folder: Path) -> None:
        """Take what carries over from another fit, whatever its properties were: weights, not labels.

        Called once, before the first `fit`, which then starts from it.

        Args:
            folder: as `save` wrote it; hash and kind are checked.

        Raises:
            SurrogateError: the fit is of another kind or another network.
        """


@runtime_checkable
class JudgesFidelities(Protocol):
    """Mix-in of surrogates that know what a cheaper, less trusted result would tell of the target."""

    def informs(self, candidates: Sequence[Candidate], fidelities: Sequence[str]) -> Array:
        """Return the share of the target's variance that a result of each fidelity would remove, n × fidelities.

        0 says that nothing is learned, 1 that the target would be known: from labels that took no part in learning,
        where the surrogate can tell. A fidelity that it has not learned from says nothing.

        Args:
            candidates: n candidates.
            fidelities: names; the target is not among them.
        """


@runtime_checkable
class Learns(Protocol):
    """Mix-in of acquisition policies that want to know, not to find the best: no objective needs a better end."""

    def learns(self) -> bool:
        """Say so."""


@runtime_checkable
class ChoosesFidelity(Protocol):
    """Mix-in of acquisition policies that choose the fidelity of a trial too.

    They see results of every fidelity, and in `closed` beside ids also `closed_at` names: what is measured or in flight
    at one fidelity and may still be proposed at another.
    """

    def chooses_fidelity(self) -> bool:
        """Say so."""
