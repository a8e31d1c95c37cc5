"""What a surrogate may do besides its contract: each ability is a mix-in, found by its methods.

A surrogate from outside has those that it likes; what is missing is said where it would have been used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from orchestrator.domain import Array, Candidate, Explanation, HeldOut


@dataclass(frozen=True)
class BotorchView:
    """A surrogate as a botorch model, for acquisition with gradients.

    Args:
        model: a botorch `Model` over encoded candidates with m outputs, larger values meaning larger properties.
        encode: n candidates to an n × d array.
        differentiable: columns of the encoding that may be optimised with gradients.
    """

    model: Any
    encode: Callable[[Sequence[Candidate]], Array]
    differentiable: tuple[int, ...]


@runtime_checkable
class HasBotorchView(Protocol):
    """Mix-in of surrogates that support ``botorch``."""

    def to_botorch(self) -> BotorchView:
        """Return the posterior of the last update as a botorch model; never re-runs a graph network per call."""


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
