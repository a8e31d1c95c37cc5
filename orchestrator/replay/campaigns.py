"""One replayed campaign: the planner chooses, the table answers."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from orchestrator.config.schema import CampaignConfig
from orchestrator.domain import Array, Candidate, Dataset, Outcome, Proposal, Row, derive_seed
from orchestrator.errors import NotEnoughData, SpaceExhausted
from orchestrator.fitting import widen
from orchestrator.planner import Parts, Planner
from orchestrator.prospective import Judged
from orchestrator.protocols import Surrogate
from orchestrator.replay.lessons import Lesson
from orchestrator.replay.memory import peak_mib, start_peak
from orchestrator.replay.truth import Truth


@dataclass(frozen=True)
class Ask:
    """What one decision took, training included where it was due.

    Args:
        after: measurements known.
        seconds: wall time.
        peak_mib: most resident memory meanwhile, in MiB.
    """

    after: int
    seconds: float
    peak_mib: float


@dataclass(frozen=True, eq=False)
class Trajectory:
    """One replayed campaign.

    Args:
        seed: of the campaign.
        chosen: candidate ids in the order of measurement.
        utility: of the first objective, in that order.
        seconds: wall time of training and choosing.
        judged: what was predicted of the chosen candidates, beside what came, by property.
        asks: what each decision after the initial design took.
        learned: after so many measurements: metric → how wrong the surrogate was over the pool.
    """

    seed: int
    chosen: tuple[str, ...]
    utility: Array
    seconds: float
    judged: Mapping[str, Judged] = field(default_factory=dict)
    asks: tuple[Ask, ...] = ()
    learned: Mapping[int, Mapping[str, float]] = field(default_factory=dict)

    def recall(self, best: frozenset[str]) -> Array:
        """Return the share of `best` found after 1, 2, … measurements."""
        found = np.cumsum([candidate in best for candidate in self.chosen])
        return np.asarray(found / len(best), dtype=float)


@dataclass(frozen=True, eq=False)
class _Flight:
    ends: float
    trial: int
    proposal: Proposal
    initial: bool
    widened: Mapping[str, float]


def replay_once(
    config: CampaignConfig,
    parts: Parts,
    truth: Truth,
    seed: int,
    *,
    enough: Callable[[Sequence[str]], bool] = lambda _chosen: False,
    lesson: Lesson | None = None,
) -> Trajectory:
    """Run one campaign against the table.

    As in the laboratory, `parallel` trials are in flight, and as soon as `plan_when_free` of them are free the campaign
    plans again with the others pending: in rounds where both numbers are equal. Trials last as long as their expense
    says, all alike where it says nothing. The initial design is measured before anything else is chosen.

    Args:
        config: the campaign; its budget caps the number of measurements.
        parts: its plug-ins.
        truth: the answers.
        seed: instead of the file's.
        enough: asked after each measurement with the ids measured so far; true ends the campaign there.
        lesson: what is to be learned of the pool; scored at some numbers of measurements.

    Returns:
        What was measured, in order.
    """
    config = CampaignConfig.model_validate({**config.snapshot(), "seed": derive_seed(seed, 0, "replay") % 2**31})
    bench = _Bench(config, parts, truth)
    learned: dict[int, Mapping[str, float]] = {}
    marks = lesson.marks(config.initial.trials, bench.budget) if lesson is not None else frozenset()
    while bench.plan() or bench.flights:
        bench.land()
        if lesson is not None and len(bench.chosen) in marks:
            learned[len(bench.chosen)] = lesson.score(truth, bench.dataset, seed)
        if enough(bench.chosen):
            break
    utility = truth.utility[[bench.place[i] for i in bench.chosen]]
    return Trajectory(
        seed, tuple(bench.chosen), utility, bench.seconds, bench.told.judged(), tuple(bench.asks), learned
    )


class _Bench:
    """The state of one replayed campaign."""

    def __init__(self, config: CampaignConfig, parts: Parts, truth: Truth) -> None:
        self.config, self.truth = config, truth
        self.planner = Planner(config, parts)
        self.place = {candidate.id: i for i, candidate in enumerate(truth.candidates)}
        self.budget = min(config.budget.trials or len(self.place), len(self.place))
        self.flights: list[_Flight] = []
        self.started: list[str] = []
        self.chosen: list[str] = []
        self.rows: list[Row] = []
        self.asks: list[Ask] = []
        self.told = _Told(self.planner.problem.properties)
        self.seconds, self.now = 0.0, 0.0
        self._fits = self._decision = 0
        self._fitted: int | None = None
        self._surrogate: Surrogate | None = None
        self._widened: dict[str, float] = {}
        self._exhausted = False

    @property
    def dataset(self) -> Dataset:
        """What is known, results of earlier campaigns included where this one names some."""
        return Dataset((*self.rows, *(self.truth.earlier if self.config.earlier else ())))

    def plan(self) -> bool:
        """Choose what to begin, where enough is free; say whether something was begun."""
        free, left = self.config.parallel - len(self.flights), self.budget - len(self.started)
        waiting = self.flights and (free < self.config.plan_when_free or self.flights[0].initial)
        if waiting or left < 1 or self._exhausted:
            return False
        start_peak()
        started = time.perf_counter()
        dataset, initial = self.dataset, self.planner.is_initial(len(self.started), self.dataset)
        if not initial:
            initial = not self._trained(dataset)
        wanted = max(self.config.initial.trials - len(self.started), free) if initial else free
        self._decision += 1
        try:
            made = self.planner.choose(
                self._decision,
                q=min(wanted, left),
                initial=initial,
                dataset=dataset,
                pending=tuple(flight.proposal.candidate for flight in self.flights),
                closed=frozenset(self.started),
                surrogate=self._surrogate,
                summarised=False,
            ).proposals
        except SpaceExhausted:
            self._exhausted = True
            return False
        took = time.perf_counter() - started
        self.seconds += took
        if not initial:
            self.asks.append(Ask(len(self.chosen), took, peak_mib()))
        for proposal in made:
            self._begin(proposal, initial=initial)
        return bool(made)

    def land(self) -> None:
        """Measure what ends first."""
        flight = min(self.flights, key=lambda one: (one.ends, one.trial))
        self.flights.remove(flight)
        self.now = flight.ends
        candidate = flight.proposal.candidate
        place = self.place[candidate.id]
        self.chosen.append(candidate.id)
        self.rows.extend(_answers(self.planner, self.truth, place, trial=flight.trial))
        self.told.add(flight.trial, flight.proposal, self.truth.values[place], flight.widened)

    def _begin(self, proposal: Proposal, *, initial: bool) -> None:
        hours = self.planner.problem.expense(proposal.candidate).hours
        self.started.append(proposal.candidate.id)
        ends = self.now + (hours if hours > 0 else 1.0)
        self.flights.append(_Flight(ends, len(self.started), proposal, initial, dict(self._widened)))

    def _trained(self, dataset: Dataset) -> bool:
        """Train where that is due; say whether there is something to choose with."""
        if not self.planner.refit_due(dataset, self._fitted):
            return True
        try:
            self._surrogate, report, _ = self.planner.train(self._fits + 1, dataset, None)
        except NotEnoughData:
            return self._surrogate is not None
        self._fits += 1
        self._fitted, self._widened = report.labels, widen(self._surrogate, self.told.judged())
        return True


class _Told:
    """What proposals said, and what the table says."""

    def __init__(self, properties: Sequence[str]) -> None:
        self._rows: dict[str, list[tuple[int, str, float, float, float, float]]] = {name: [] for name in properties}

    def add(self, trial: int, proposal: Proposal, values: Array, widened: Mapping[str, float]) -> None:
        """Take in one proposal with the values of the modelled properties; the initial design said nothing."""
        for (name, rows), value in zip(self._rows.items(), values, strict=True):
            if name in proposal.mean and proposal.sd.get(name, 0.0) > 0 and np.isfinite(value):
                said = (proposal.mean[name], proposal.sd[name], float(value), widened.get(name, 1.0))
                rows.append((trial, proposal.candidate.label, *said))

    def judged(self) -> dict[str, Judged]:
        """Return predictions beside values, by property; without those of which there is none."""
        return {name: Judged.of_rows(name, rows) for name, rows in self._rows.items() if rows}


def _answers(planner: Planner, truth: Truth, place: int, trial: int) -> list[Row]:
    """Turn the table's line of one candidate into dataset rows."""
    candidate: Candidate = truth.candidates[place]
    return [
        Row(
            trial=trial,
            candidate=candidate,
            applied=dict(candidate.parameters),
            property=name,
            value=float(value),
            std_error=None,
            outcome=Outcome.MEASURED,
            measurement=trial * len(planner.problem.properties) + j,
        )
        for j, (name, value) in enumerate(zip(planner.problem.properties, truth.values[place], strict=True))
        if np.isfinite(value)
    ]
