"""Scores of replayed campaigns: medians over seeds, with bootstrap intervals.

Acceleration and enhancement factor after Rohr et al., Chem. Sci. 11, 2696 (2020), doi:10.1039/C9SC05999G, against the
exact expectation of random choice; see `orchestrator.replay`. A campaign that ended early counts on with what it had.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from orchestrator.domain import Array, Problem
from orchestrator.pareto import growth, hypervolume
from orchestrator.replay.campaigns import Trajectory
from orchestrator.replay.truth import Truth

BOOTSTRAP = 2000
"""Resamples of the seeds behind every interval; more change the bounds by less than their last printed digit."""
LEVELS = (0.2, 0.5, 0.8)
"""Shares of the best at which the acceleration factor is told."""
MARKS = (10, 20, 30, 50, 100, 120, 200, 500, 1000)
"""Numbers of measurements in tables, besides the last; plots show all."""


@dataclass(frozen=True)
class Interval:
    """A median over seeds with a 90 % bootstrap interval of that median."""

    median: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, eq=False)
class Curve:
    """One number by number of measurements: median over seeds, and the quarter of the seeds on either side."""

    at: Array
    median: Array
    low: Array
    high: Array

    @classmethod
    def of(cls, at: Sequence[int] | Array, values: Array) -> Curve:
        """Summarise seeds × numbers of measurements."""
        low, median, high = np.quantile(values, [0.25, 0.5, 0.75], axis=0)
        return cls(np.asarray(at, dtype=float), median, low, high)


@dataclass(frozen=True)
class Score:
    """What one arm reached.

    Args:
        arm: its name.
        recall: by number of measurements.
        regret: best of the pool minus best found, by number of measurements, in the objective's unit.
        enhancement: recall divided by that of random choice, by number of measurements.
        acceleration: measurements that random choice needs, divided by those of the arm, by recall reached.
        seconds: of training and choosing, per campaign.
        enhancement_max: largest enhancement over the campaign; None where nothing is sought.
        hypervolume: by number of measurements, as a share of the pool's own; empty with one objective.
        learned: by metric and number of measurements: how wrong the surrogate is over the pool, of learning campaigns.
        ask_seconds: median and 95th percentile of the wall time of a decision.
        ask_peak_mib: most resident memory in any decision, in MiB.
        measured: measurements of each campaign.
        curves: by name: every number of measurements, for plots.
        each: by metric: one value a seed, in the order of the seeds, for paired comparisons.
    """

    arm: str
    recall: Mapping[int, Interval]
    regret: Mapping[int, Interval]
    enhancement: Mapping[int, Interval]
    acceleration: Mapping[str, Interval] = field(default_factory=dict)
    seconds: float = 0.0
    enhancement_max: Interval | None = None
    hypervolume: Mapping[int, Interval] = field(default_factory=dict)
    learned: Mapping[str, Mapping[int, Interval]] = field(default_factory=dict)
    ask_seconds: tuple[float, float] = (0.0, 0.0)
    ask_peak_mib: float = 0.0
    measured: tuple[int, ...] = ()
    curves: Mapping[str, Curve] = field(default_factory=dict)
    each: Mapping[str, Array] = field(default_factory=dict)


def score(
    arm: str, trajectories: Sequence[Trajectory], truth: Truth, share: float, problem: Problem | None = None
) -> Score:
    """Score the campaigns of one arm.

    Args:
        arm: its name.
        trajectories: one a seed.
        truth: the answers.
        share: of the pool that counts as the best.
        problem: with several objectives, for the hypervolume; with a learning goal nothing is sought.
    """
    asks = [ask for t in trajectories for ask in t.asks]
    took = np.array([ask.seconds for ask in asks]) if asks else np.zeros(1)
    learned, lessons, each = _learned(trajectories)
    common: dict[str, Any] = {
        "arm": arm,
        "seconds": float(np.median([t.seconds for t in trajectories])),
        "learned": learned,
        "ask_seconds": (float(np.median(took)), float(np.quantile(took, 0.95))),
        "ask_peak_mib": max((ask.peak_mib for ask in asks), default=0.0),
        "measured": tuple(len(t.chosen) for t in trajectories),
    }
    if problem is not None and problem.learns_only:
        return Score(recall={}, regret={}, enhancement={}, curves=lessons, each=each, **common)
    best, pool = truth.best(share), len(truth.candidates)
    recalls = _even([t.recall(best) for t in trajectories])
    regrets = _even([np.nanmax(truth.utility) - np.fmax.accumulate(t.utility) for t in trajectories])
    count = np.arange(1, recalls.shape[1] + 1)
    enhanced = recalls / (count / pool)
    volumes = _volumes(trajectories, truth, problem)
    marks = sorted({m for m in (*MARKS, recalls.shape[1]) if m <= recalls.shape[1]})
    factors = {level: _factors(recalls, level, len(best), pool) for level in LEVELS}
    each |= {f"AF_{level:.0%}": values for level, values in factors.items()}
    each |= {"EF_max": enhanced.max(axis=1), "recall": recalls[:, -1], "regret": regrets[:, -1]}
    curves = {"recall": recalls, "regret": regrets, "enhancement": enhanced}
    if volumes is not None:
        each["hypervolume"] = volumes[:, -1]
        curves["hypervolume"] = volumes
    return Score(
        recall={m: interval(recalls[:, m - 1]) for m in marks},
        regret={m: interval(regrets[:, m - 1]) for m in marks},
        enhancement={m: interval(enhanced[:, m - 1]) for m in marks},
        acceleration={f"{k:.0%}": interval(values) for k, values in factors.items() if np.isfinite(values).all()},
        enhancement_max=interval(enhanced.max(axis=1)),
        hypervolume={} if volumes is None else {m: interval(volumes[:, m - 1]) for m in marks},
        curves={name: Curve.of(count, values) for name, values in curves.items()} | lessons,
        each=each,
        **common,
    )


def expected_at_random(level: float, hits: int, pool: int) -> float:
    """Return how many random choices without replacement are expected to find a share of the hits.

    Args:
        level: share of the hits wanted.
        hits: how many there are.
        pool: size of the pool.

    Returns:
        k (N + 1) / (K + 1), the expected place of the k-th of K hits among N.
    """
    return int(np.ceil(level * hits - 1e-9)) * (pool + 1) / (hits + 1)


def interval(values: Any, seed: int = 0) -> Interval:
    """Return the median over seeds and the 90 % bootstrap interval of that median.

    Args:
        values: one number a seed.
        seed: of the resampling.
    """
    data = np.asarray(values, dtype=float)
    draws = np.median(np.random.default_rng(seed).choice(data, size=(BOOTSTRAP, len(data))), axis=1)
    low, high = np.quantile(draws, [0.05, 0.95])
    return Interval(float(np.median(data)), float(low), float(high), len(data))


def paired(one: Score, other: Score) -> dict[str, Interval]:
    """Return the median difference, one minus other, of every metric that both reached in every campaign.

    Differences are taken seed by seed, as both arms began with the same trials; intervals as in `interval`.
    """
    found = {}
    for metric, values in one.each.items():
        others = other.each.get(metric)
        if others is not None and len(others) == len(values):
            apart = values - others
            if np.isfinite(apart).all():
                found[metric] = interval(apart)
    return found


def _even(curves: Sequence[Array]) -> Array:
    """Stack curves; one of a campaign that ended early goes on as it ended."""
    longest = max(len(curve) for curve in curves)
    return np.array([np.pad(curve, (0, longest - len(curve)), mode="edge") for curve in curves])


def _factors(recalls: Array, level: float, hits: int, pool: int) -> Array:
    """Return the acceleration factor of each seed; NaN where the recall was not reached."""
    reached = recalls >= level - 1e-9
    first = np.where(reached.any(axis=1), reached.argmax(axis=1) + 1.0, np.nan)
    return np.asarray(expected_at_random(level, hits, pool) / first)


def _volumes(trajectories: Sequence[Trajectory], truth: Truth, problem: Problem | None) -> Array | None:
    """Return the hypervolume after each measurement as a share of the pool's own; None with one objective."""
    if problem is None or len(problem.objectives) == 1:
        return None
    worths, corner = truth.worths(problem), np.zeros(len(problem.objectives))
    column = {name: j for j, name in enumerate(problem.properties)}
    good = np.ones(len(worths), dtype=bool)
    for constraint in problem.constraints:
        good &= constraint.satisfied(truth.values[:, column[constraint.property]])
    whole = hypervolume(worths[good & np.isfinite(worths).all(axis=1)], corner)
    place = {c.id: i for i, c in enumerate(truth.candidates)}
    curves = []
    for one in trajectories:
        rows = [place[key] for key in one.chosen]
        curves.append(growth(worths[rows], good[rows], corner) / (whole or 1.0))
    return _even(curves)


Learned = Mapping[str, Mapping[int, Interval]]


def _learned(trajectories: Sequence[Trajectory]) -> tuple[Learned, dict[str, Curve], dict[str, Array]]:
    """Summarise what was learned, at the marks that every campaign reached; intervals, curves and last values."""
    shared = sorted(set.intersection(*(set(t.learned) for t in trajectories))) if trajectories else []
    shared = [m for m in shared if all(t.learned[m] for t in trajectories)]
    names = list(trajectories[0].learned[shared[0]]) if shared else []
    values = {name: np.array([[t.learned[m][name] for m in shared] for t in trajectories]) for name in names}
    return (
        {name: {m: interval(found[:, i]) for i, m in enumerate(shared)} for name, found in values.items()},
        {name: Curve.of(shared, found) for name, found in values.items()},
        {name: found[:, -1] for name, found in values.items()},
    )


Enough = Callable[[Sequence[str]], bool]


def until(truth: Truth, share: float, recall: float | None) -> Enough:
    """Return what says that a campaign has found enough.

    Args:
        truth: the answers.
        share: of the pool that counts as the best.
        recall: share of the best that is enough; None for never.
    """
    best = truth.best(share)

    def enough(chosen: Sequence[str]) -> bool:
        return recall is not None and len(best.intersection(chosen)) >= recall * len(best) - 1e-9

    return enough
