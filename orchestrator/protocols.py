"""The contracts of Matloop: read this first.

Every plug-in, the built-in ones too, is a class that is built with one argument, its options, and that has the
methods of one protocol below. Methods only, so that a class can be checked before it is built. NumPy at the boundary.

Shape letters: `n` candidates, `q` chosen together, `m` modelled properties, `s` draws.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationInfo

from orchestrator.domain import (
    Array,
    Candidate,
    Dataset,
    DecisionSummary,
    DerivedValue,
    Description,
    FitReport,
    Health,
    Identity,
    JsonObject,
    Order,
    Prediction,
    Problem,
    Proposal,
    Result,
    Spent,
    TrialRecord,
    Value,
    Whereabouts,
)


class Options(BaseModel):
    """Base of every plug-in's options: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False, allow_inf_nan=False)


def _beside_the_file(path: Path, info: ValidationInfo) -> Path:
    base = (info.context or {}).get("base")
    return path if base is None or path.is_absolute() else Path(base) / path


InputPath = Annotated[Path, AfterValidator(_beside_the_file)]
"""A path in a plug-in's options: relative paths start at the folder of the file that says it, be it a
campaign or a lab file."""


# --- instruments ----------------------------------------------------------------------------------------------------


@runtime_checkable
class Events(Protocol):
    """What an instrument may tell and ask while it runs an order."""

    async def accepted(self, handle: JsonObject) -> None:
        """Report that the job was accepted; returns when the handle is committed to the campaign database."""

    def progress(self, fraction: float, text: str = "") -> None:
        """Report progress between 0 and 1; free to call often."""

    def abort_requested(self) -> bool:
        """Say whether the campaign wants this order to end early."""

    async def sleep(self, seconds: float) -> None:
        """Wait on the campaign's clock, which a test may run faster than the wall's."""


@runtime_checkable
class Instrument(Protocol):
    """A device, as Matloop sees it. A driver is a class with these six methods.

    `describe` works offline and before `open`. `run` raises an `InstrumentError` whose `effect` says what physically
    happened. `health` answers within a second, also during a job.
    """

    async def describe(self) -> Description:
        """Declare capabilities with units and bounds, recovery class, slots and knowledge; no device is touched."""

    async def open(self) -> Identity:
        """Make the link and prove it. Opening twice is harmless."""

    async def close(self) -> None:
        """Give the link back. Closing twice is harmless."""

    async def health(self) -> Health:
        """Read the state of the instrument now."""

    async def run(self, order: Order, events: Events) -> Result:
        """Carry out one order with exactly one transmission of its start."""

    async def abort(self, reason: str) -> None:
        """Stop what runs, on a path of its own; harmless when idle."""


@runtime_checkable
class Recoverable(Protocol):
    """Mix-in of instruments whose jobs can be found again after a crash."""

    async def lookup(self, key: str, handle: JsonObject | None) -> Whereabouts:
        """Say where the job of a key is; changes nothing."""

    async def attach(self, handle: JsonObject, events: Events) -> Result:
        """Wait for a running job; sends nothing that starts anything."""


@runtime_checkable
class Identified(Protocol):
    """Mix-in of instruments that can say quickly what they are; compared before each start."""

    async def identity(self) -> Identity:
        """Read name, serial number and firmware from the device, under a second."""


@runtime_checkable
class Leased(Protocol):
    """Mix-in of instruments with a dead-man's switch: without a heartbeat they go to their safe state by themselves.

    The switch must sit in the device or its controller, so that it works with our process dead.
    """

    async def heartbeat(self, ttl_s: float) -> None:
        """Say that somebody watches; the instrument stops by itself where nothing is heard for `ttl_s` seconds."""


@runtime_checkable
class AsksPeople(Protocol):
    """Mix-in of instruments that are people: their task cards can be shown and answered anywhere."""

    def cards(self) -> list[JsonObject]:
        """Read the cards that wait: ``key``, ``task``, ``label``, ``settings``, ``answer_with`` (property → unit)."""

    def reply(self, answer: JsonObject) -> None:
        """Take the answer to a card: ``key``, ``by``, ``at`` and ``values``, ``failed`` or ``not_started``.

        Raises:
            MatloopError: it is not what the card expects; the message says what is.
        """


@runtime_checkable
class SafeState(Protocol):
    """Mix-in of instruments that can be put into a safe state."""

    async def make_safe(self) -> None:
        """Go to the safe state and stay there."""


# --- surrogates -----------------------------------------------------------------------------------------------------

Support = Literal["structure", "composition", "parameters", "uncertainty", "draws", "botorch", "feasibility", "classes"]


@runtime_checkable
class Surrogate(Protocol):
    """A learned map from candidates to a joint posterior over m properties.

    Contract, checked by `tests/test_surrogate_contract.py`:

    - `update` is absolute: the state after it depends on the fit and the dataset alone, not on earlier updates.
    - `draw(candidates, s, seed)` evaluates `s` latent *functions* fixed by (fit, dataset of the last update, seed): a
      value never depends on which other candidates are asked, in which order or in which chunk.
    - An instance that was filled by `load` and is then asked to `fit` starts warm; a new one starts cold.
    - On a CPU the same seed and the same dataset give the same state.
    - Caches of features by candidate id are no state.
    """

    def supports(self) -> frozenset[Support]:
        """Name what it can learn from and answer."""

    def knows(self) -> frozenset[str]:
        """Name the pretrained knowledge inside, such as ``chgnet-0.3.0``."""

    def fit(self, dataset: Dataset, problem: Problem, seed: int) -> FitReport:
        """Train on a dataset.

        Raises:
            NotEnoughData: too few labels.
            Diverged: no finite state was reached.
        """

    def update(self, dataset: Dataset) -> None:
        """Take in results cheaply (under a second), keeping what `fit` trained."""

    def predict(self, candidates: Sequence[Candidate]) -> Prediction:
        """Return means and standard deviations, n × m, epistemic and noise apart."""

    def draw(self, candidates: Sequence[Candidate], s: int, seed: int) -> Array:
        """Return the values of `s` functions from the posterior, s × n × m."""

    def save(self, folder: Path) -> None:
        """Write the state of the last fit (not of later updates) as safetensors and JSON into an existing folder."""

    def load(self, folder: Path, problem: Problem) -> None:
        """Read what `save` wrote."""


# --- search spaces --------------------------------------------------------------------------------------------------


@runtime_checkable
class SearchSpace(Protocol):
    """Where candidates come from. A space is also a `FiniteSpace` or a `BoxSpace`."""

    def offers(self) -> frozenset[Literal["structure", "composition", "parameters"]]:
        """Name what its candidates carry."""

    def sample(self, n: int, seed: int) -> list[Candidate]:
        """Draw up to n different candidates at random."""

    def summary(self) -> JsonObject:
        """Describe the space for people and for the record: size, hash, what was left out and why."""


@runtime_checkable
class FiniteSpace(SearchSpace, Protocol):
    """A space whose candidates can be listed."""

    def candidates(self) -> Sequence[Candidate]:
        """Return every candidate in a fixed order."""

    def get(self, candidate_id: str) -> Candidate:
        """Return a candidate by id.

        Raises:
            KeyError: there is none.
        """


@runtime_checkable
class HasParameterUnits(Protocol):
    """Mix-in of listed spaces whose candidates carry process parameters: says in which units they stand.

    Without it the unit that the instrument declares is meant. A box says it in its axes.
    """

    def parameter_units(self) -> Mapping[str, str]:
        """Return the unit of each numeric parameter."""


@runtime_checkable
class ColumnarSpace(FiniteSpace, Protocol):
    """A listed space of so many candidates that they are kept as arrays; made one by one when they are looked at.

    Positions count the candidates in the order of their ids, which is the order of `candidates` too.
    """

    def count(self) -> int:
        """Return the number of candidates, n."""

    def ids(self) -> npt.NDArray[np.bytes_]:
        """Return the ids as 32 bytes each, sorted: n."""

    def take(self, positions: Sequence[int] | npt.NDArray[np.intp]) -> list[Candidate]:
        """Make the candidates at the given positions."""

    def ranges(self) -> Mapping[str, tuple[float, float] | frozenset[str]]:
        """Return the smallest and the largest value, or the names, of each parameter."""

    def features(self) -> tuple[npt.NDArray[np.float32], tuple[str, ...]]:
        """Return plain numbers of every candidate, n × d, and the names of the columns."""


@runtime_checkable
class GrowingSpace(FiniteSpace, Protocol):
    """Mix-in of listed spaces to which candidates may be added while a campaign runs; none may be taken away."""

    def growing(self) -> bool:
        """Say whether this one may grow; where it does not, `refresh` does nothing."""

    def refresh(self) -> bool:
        """Look where candidates come from, between decisions; say whether anything is new."""


@dataclass(frozen=True)
class Axis:
    """One dimension of a box.

    Args:
        name: parameter name.
        unit: its unit.
        kind: how values are spread.
        low: smallest value.
        high: largest value.
        log: spread evenly in the logarithm.
        resolution: values are rounded to multiples of it from `low`.
        choices: allowed names of a categorical axis.
    """

    name: str
    kind: Literal["continuous", "integer", "categorical"]
    unit: str = "dimensionless"
    low: float = 0.0
    high: float = 1.0
    log: bool = False
    resolution: float | None = None
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class LinearConstraint:
    """Sum of coefficient × parameter, compared with a bound: ``<=`` or ``==``."""

    coefficients: Mapping[str, float]
    sense: Literal["<=", "=="]
    bound: float


@runtime_checkable
class BoxSpace(SearchSpace, Protocol):
    """A space of process parameters, to be optimised over with gradients."""

    def axes(self) -> tuple[Axis, ...]:
        """Return the dimensions."""

    def linear(self) -> tuple[LinearConstraint, ...]:
        """Return the linear constraints, a simplex among them."""

    def make(self, values: Mapping[str, Value]) -> Candidate:
        """Round values to the resolution and return the candidate.

        Raises:
            SpaceError: the rounded point lies outside the bounds or constraints.
        """


@runtime_checkable
class ProductSpace(SearchSpace, Protocol):
    """A space of materials under process parameters: which compound, at which temperature."""

    def materials(self) -> FiniteSpace:
        """Return the listed space of what is to be made."""

    def settings(self) -> BoxSpace:
        """Return the box of parameters."""

    def join(self, material: Candidate, settings: Candidate) -> Candidate:
        """Return the material under the settings as one candidate."""

    def split(self, candidate: Candidate) -> tuple[Candidate, Candidate]:
        """Return the material and the settings of a candidate.

        Raises:
            KeyError: it is none of this space.
        """


@runtime_checkable
class LooksAtSpace(Protocol):
    """Mix-in of surrogates that use what the space says of its parameters: ranges, logarithms, choices."""

    def look_at(self, space: SearchSpace) -> None:
        """Take over what the options leave open; called once, before anything is learned or loaded."""


# --- choosing -------------------------------------------------------------------------------------------------------


@runtime_checkable
class AcquisitionPolicy(Protocol):
    """Picks what to measure next. A pure function of its arguments."""

    def needs(self) -> frozenset[Support]:
        """Name what the surrogate must support; empty where none is needed."""

    def select(
        self,
        surrogate: Surrogate | None,
        space: SearchSpace,
        *,
        q: int,
        problem: Problem,
        dataset: Dataset,
        pending: Sequence[Candidate],
        closed: frozenset[str],
        costs: Mapping[str, float],
        seed: int,
    ) -> tuple[Proposal, ...]:
        """Choose up to q candidates.

        Args:
            surrogate: updated to `dataset`; None where `needs` is empty.
            space: where candidates come from.
            q: how many are wanted.
            problem: objectives, constraints, fidelities, budget.
            dataset: what is known.
            pending: in flight; to be conditioned on, never proposed.
            closed: ids that must not be proposed: measured, pending, vetoed.
            costs: cost by fidelity.
            seed: for everything random.

        Returns:
            At most q proposals, best first, each with its reasons.

        Raises:
            SpaceExhausted: nothing is left to propose.
        """


@dataclass(frozen=True)
class CampaignView:
    """What a stopping rule sees.

    Args:
        problem: what is pursued.
        dataset: what is known.
        spent: against the budget.
        summary: of the last decision; None before the first.
        decisions: number of decisions so far.
        summaries: of every decision that has one, in order; the last is `summary`.
    """

    problem: Problem
    dataset: Dataset
    spent: Spent
    summary: DecisionSummary | None
    decisions: int
    summaries: tuple[DecisionSummary, ...] = ()


@runtime_checkable
class StoppingRule(Protocol):
    """Says why to stop, or nothing."""

    def reason(self, view: CampaignView) -> str | None:
        """Return one sentence for people, or None to go on."""


# --- derived properties ---------------------------------------------------------------------------------------------


@runtime_checkable
class DerivedProperty(Protocol):
    """Computes a property from stored rows; named and versioned; computed anew when its inputs grow."""

    def version(self) -> str:
        """Identify function and reference data, such as ``potential_hull/1/ab12``."""

    def unit(self) -> str:
        """Name the unit of the values."""

    def compute(self, trials: Sequence[TrialRecord], step: str) -> Mapping[int, DerivedValue]:
        """Return a value, or the reason why there is none, for each trial number.

        Args:
            trials: completed trials of the campaign.
            step: name of the step whose outputs are used.
        """


@runtime_checkable
class HasReference(Protocol):
    """Mix-in of derived properties that compare what is measured with reference data of one origin."""

    def check_reference(self, names: frozenset[str]) -> None:
        """Refuse an instrument of another origin.

        Args:
            names: what the instrument says of itself: its `knows`, and its capability's fidelity after the colon.

        Raises:
            IncompatibleError: what it measures cannot be compared with the reference data.
        """


PROTOCOLS: Mapping[str, type] = {
    "instruments": Instrument,
    "surrogates": Surrogate,
    "acquisition": AcquisitionPolicy,
    "spaces": SearchSpace,
    "stopping": StoppingRule,
    "derived": DerivedProperty,
}
"""Entry-point group (after ``matloop.``) → the contract of its classes."""


class Plugin(Protocol):
    """What every plug-in class has besides its contract."""

    Options: ClassVar[type[BaseModel]]
