"""What a report tells, gathered from the store: plain values, so that plots and page are pure functions of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from orchestrator.config.schema import CampaignConfig
from orchestrator.domain import Crystal, Dataset, Measurement, Objective, Problem
from orchestrator.ranking import Best, rank
from orchestrator.record.queue import is_withdrawn
from orchestrator.record.states import TrialState
from orchestrator.record.views import CampaignInfo, DecisionInfo, EventInfo, FitInfo, StepOutput, TrialInfo

MICROSECONDS = 1_000_000
IMPORTED_PURPOSE = "imported"
"""`DecisionInfo.purpose` of results that were taken in from a table."""


class ReadsStore(Protocol):
    """The part of `CampaignStore` that a report reads."""

    def campaign(self, name: str) -> CampaignInfo:
        """Return the campaign."""

    def trials(self, name: str) -> list[TrialInfo]:
        """Return its trials."""

    def decisions(self, name: str) -> list[DecisionInfo]:
        """Return its decisions."""

    def fits(self, name: str) -> list[FitInfo]:
        """Return its fits."""

    def events(self, name: str) -> list[EventInfo]:
        """Return its history."""

    def dataset(self, name: str, *, units: Mapping[str, str] | None = None) -> Dataset:
        """Return what is known, in some units."""

    def measurements(self, name: str) -> list[Measurement]:
        """Return every measurement."""

    def fit_folder(self, fit_id: int) -> Path:
        """Return the folder of a fit's files."""

    def outputs(self, name: str, trial: int) -> Mapping[str, StepOutput]:
        """Return what the steps of a trial gave."""


@dataclass(frozen=True)
class Point:
    """A measured trial.

    Args:
        trial: its number.
        label: what people call its candidate.
        order: 1, 2, … in the order of completion.
        values: modelled properties as measured.
        errors: their standard errors, where known.
        predicted: mean and standard deviation of each at the time of choosing; empty in the initial design.
        feasible: whether every constraint holds.
        initial: whether the initial design, or a table of past results, chose it.
    """

    trial: int
    label: str
    order: int
    values: Mapping[str, float]
    errors: Mapping[str, float]
    predicted: Mapping[str, tuple[float, float]]
    feasible: bool
    initial: bool


@dataclass(frozen=True)
class Part:
    """How long one part of the work took, in seconds."""

    name: str
    times: tuple[float, ...]

    @property
    def total(self) -> float:
        """Sum of the times."""
        return sum(self.times)

    @property
    def median(self) -> float:
        """Middle of the times."""
        ordered = sorted(self.times)
        return ordered[len(ordered) // 2] if ordered else 0.0


@dataclass(frozen=True)
class Facts:
    """Everything that a report tells.

    Args:
        info: the campaign.
        config: its file, current revision.
        problem: what is pursued.
        points: measured trials, in the order of completion.
        best: ranked.
        trials: every trial by number.
        decisions: in order.
        fits: in order.
        events: the history.
        failures: reason → labels of the trials that failed so.
        parts: how long each part of the work took.
        crystals: trial number → structure to show, for the best.
        data_sha256: hash of the dataset.
    """

    info: CampaignInfo
    config: CampaignConfig
    problem: Problem
    points: tuple[Point, ...]
    best: tuple[Best, ...]
    trials: Mapping[int, TrialInfo]
    decisions: tuple[DecisionInfo, ...]
    fits: tuple[FitInfo, ...]
    events: tuple[EventInfo, ...]
    failures: Mapping[str, tuple[str, ...]]
    parts: tuple[Part, ...]
    crystals: Mapping[int, Crystal] = field(default_factory=dict)
    data_sha256: str = ""

    @property
    def pursued(self) -> tuple[Objective, ...]:
        """The objectives that have a better end; the others are only to be learned."""
        return tuple(objective for objective in self.problem.objectives if objective.goal != "learn")

    def count(self, *states: TrialState) -> int:
        """Count the trials in some states."""
        return sum(trial.state in states for trial in self.trials.values())


def gather(store: ReadsStore, name: str, *, shown: int = 6) -> Facts:
    """Read a campaign for its report.

    Args:
        store: the campaign database.
        name: of the campaign.
        shown: of how many of the best candidates the structure is wanted.

    Returns:
        The facts.

    Raises:
        StoreError: there is no such campaign.
    """
    info = store.campaign(name)
    config = CampaignConfig.model_validate(dict(info.config))
    problem = config.problem()
    trials = {trial.number: trial for trial in store.trials(name)}
    decisions = tuple(store.decisions(name))
    dataset = store.dataset(name, units=problem.units)
    events = tuple(store.events(name))
    fits = tuple(store.fits(name))
    best = tuple(rank(problem, dataset, list(trials.values())))
    return Facts(
        info=info,
        config=config,
        problem=problem,
        points=_points(problem, dataset, trials, decisions),
        best=best,
        trials=trials,
        decisions=decisions,
        fits=fits,
        events=events,
        failures=_failures(trials.values()),
        parts=_parts(trials.values(), decisions, fits, events),
        crystals={b.trial.number: c for b in best[:shown] if (c := _crystal(store, name, b.trial)) is not None},
        data_sha256=dataset.sha256,
    )


def _points(
    problem: Problem, dataset: Dataset, trials: Mapping[int, TrialInfo], decisions: Sequence[DecisionInfo]
) -> tuple[Point, ...]:
    purpose = {d.number: d.purpose for d in decisions}
    labels = dataset.labels(problem.properties)
    known = [(i, number) for i, number in enumerate(labels.trials) if number in trials]
    known.sort(key=lambda item: (trials[item[1]].ended_at or math.inf, item[1]))
    points = []
    for order, (i, number) in enumerate(known, start=1):
        trial = trials[number]
        values = {p: float(labels.values[i, j]) for j, p in enumerate(problem.properties)}
        errors = {p: float(labels.std_errors[i, j]) for j, p in enumerate(problem.properties)}
        means, sds = trial.proposal.mean, trial.proposal.sd
        points.append(
            Point(
                trial=number,
                label=trial.candidate.label,
                order=order,
                values={p: v for p, v in values.items() if math.isfinite(v)},
                errors={p: e for p, e in errors.items() if math.isfinite(e)},
                predicted={p: (means[p], sds[p]) for p in means if p in sds},
                feasible=all(
                    bool(c.satisfied(labels.values[i : i + 1, problem.properties.index(c.property)])[0])
                    for c in problem.constraints
                ),
                initial=purpose.get(trial.decision) in {"initial", IMPORTED_PURPOSE},
            )
        )
    return tuple(points)


def _failures(trials: Iterable[TrialInfo]) -> dict[str, tuple[str, ...]]:
    reasons: dict[str, list[str]] = {}
    for trial in trials:
        if trial.state in {TrialState.FAILED, TrialState.ABANDONED} and not is_withdrawn(trial.reason):
            reasons.setdefault(trial.reason or trial.state.value.lower(), []).append(trial.candidate.label)
    return {reason: tuple(labels) for reason, labels in sorted(reasons.items(), key=lambda item: -len(item[1]))}


def _parts(
    trials: Iterable[TrialInfo], decisions: Sequence[DecisionInfo], fits: Sequence[FitInfo], events: Sequence[EventInfo]
) -> tuple[Part, ...]:
    """Take training and choosing by their own clocks, and steps from the intent to the end of each attempt."""
    parts = []
    if fits:
        parts.append(Part("training the surrogate", tuple(fit.report.seconds for fit in fits)))
    chosen = tuple(d.seconds for d in decisions if d.purpose != IMPORTED_PURPOSE)
    if chosen:
        parts.append(Part("choosing what is next", chosen))
    names = {step.id: f"{step.name} ({step.instrument})" for trial in trials for step in trial.steps}
    began: dict[int, int] = {}
    steps: dict[str, list[float]] = {}
    for event in events:
        if event.attempt is None or event.step is None:
            continue
        if event.kind == "intent":
            began[event.attempt] = event.at
        elif event.kind in {"record", "end"} and event.attempt in began:
            steps.setdefault(names[event.step], []).append((event.at - began[event.attempt]) / MICROSECONDS)
    parts.extend(Part(name, tuple(times)) for name, times in sorted(steps.items()))
    return tuple(parts)


def _crystal(store: ReadsStore, name: str, trial: TrialInfo) -> Crystal | None:
    """Return the last structure that came back, or the one that was asked for."""
    structures = [c for output in store.outputs(name, trial.number).values() for c in output.structures.values()]
    return structures[-1] if structures else trial.candidate.crystal
