"""What a decision knows for stopping rules: shortfall, gains for each expense, hypervolume, chances of success."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from orchestrator.acquisition.summary import summarise
from orchestrator.domain import (
    Array,
    Candidate,
    Dataset,
    DecisionSummary,
    Expense,
    Expenses,
    Objective,
    Outcome,
    Prediction,
    Problem,
    Row,
)
from orchestrator.record.codec import summary_from_json, summary_to_json
from tests.fakes import ListSpace, point

Y = Objective("y", "eV", "maximize")
POOL = [point(float(x)) for x in range(10)]


class Independent:
    """Normal values, independent from point to point; what is measured is known."""

    def __init__(self, mean: Sequence[Sequence[float]], sd: float, odds: Sequence[float] | None = None) -> None:
        self.mean = np.array(mean, dtype=float)
        self.deviation, self.odds = sd, odds

    def supports(self) -> frozenset[str]:
        return frozenset({"uncertainty", "draws"} | ({"feasibility"} if self.odds is not None else set()))

    def _at(self, candidates: Sequence[Candidate]) -> list[int]:
        return [int(c.parameters["x"]) for c in candidates]

    def predict(self, candidates: Sequence[Candidate]) -> Prediction:
        mean = self.mean[self._at(candidates)]
        sd = np.full_like(mean, self.deviation) * (np.array(self._at(candidates)) >= 3)[:, None]
        return Prediction(mean, sd, np.full_like(mean, 1e-6))

    def draw(self, candidates: Sequence[Candidate], s: int, seed: int) -> Array:
        noise = np.random.default_rng(seed).normal(size=(s, *self.mean.shape)) * self.deviation
        noise[:, :3] = 0.0
        return (self.mean[None] + noise)[:, self._at(candidates)]

    def success(self, candidates: Sequence[Candidate]) -> Array:
        assert self.odds is not None
        return np.array([self.odds[i] for i in self._at(candidates)])


def told(surrogate: Any, problem: Problem, *, failed: bool = False, **more: Any) -> DecisionSummary:
    """Summarise after the first three points were measured."""
    rows = [
        Row(i + 1, POOL[i], {}, name, float(surrogate.mean[i, j]), None, Outcome.MEASURED, measurement=10 * i + j)
        for i in range(3)
        for j, name in enumerate(problem.properties)
    ]
    if failed:
        rows.append(Row(4, POOL[9], {}, "", None, None, Outcome.FAILED, reason="melted"))
    closed = frozenset(row.candidate.id for row in rows)
    return summarise(surrogate, ListSpace(POOL), problem, Dataset(tuple(rows)), closed, 7, **more)


def test_shortfall_of_the_best() -> None:
    """Seven open points of mean 0 and sd 1 against a best of 1: the optimum exceeds it as the largest of seven does."""
    summary = told(Independent([[0.0], [1.0], [0.5], *[[0.0]] * 7], 1.0), Problem((Y,)))
    largest = np.maximum(np.random.default_rng(0).normal(size=(200_000, 7)).max(axis=1) - 1.0, 0.0)
    assert summary.best == 1.0
    assert summary.probability_best == pytest.approx((largest <= 0).mean(), abs=0.06)
    for level, short in summary.regret:
        assert short == pytest.approx(np.quantile(largest, level), abs=0.35)
    assert [short for _, short in summary.regret] == sorted(short for _, short in summary.regret)


def test_gain_for_each_expense() -> None:
    """A price that grows with x: the cheap open point is worth more a unit than the dear one of equal promise."""
    expenses = Expenses(rates={"x": Expense(cost=2.0, hours=0.5)})
    summary = told(Independent([[0.0], [1.0], [0.5], *[[1.5]] * 7], 0.1), Problem((Y,), expenses=expenses))
    cheapest = Expense(1.0 + 2.0 * 3, 0.5 * 3)
    assert summary.gain_per_cost == pytest.approx(0.5 / cheapest.cost, rel=0.05)
    assert summary.gain_per_hour == pytest.approx(0.5 / cheapest.hours, rel=0.05)
    in_flight = told(
        Independent([[0.0], [1.0], [0.5], *[[1.5]] * 7], 0.1), Problem((Y,), expenses=expenses), pending=(POOL[3],)
    )
    assert in_flight.gain_per_cost == pytest.approx(0.5 / (1.0 + 2.0 * 4), rel=0.05)  # what is in flight is paid


def test_hopeless_trials_promise_little() -> None:
    """Candidates that hardly ever succeed neither promise a gain nor keep a campaign going."""
    mean = [[0.0], [1.0], [0.5], *[[3.0]] * 7]
    sure = told(Independent(mean, 0.1, [1.0] * 10), Problem((Y,)), failed=True)
    poor = told(Independent(mean, 0.1, [0.04] * 10), Problem((Y,)), failed=True)
    assert sure.probability_best == 0.0
    assert poor.probability_best == pytest.approx(0.96, abs=0.04)
    assert poor.expected_gain == pytest.approx(0.04 * 2.0, rel=0.1)
    assert dict(poor.regret)[0.9] == 0.0


def test_hypervolume_and_its_reference() -> None:
    """Three measured points of two objectives: the area above the corner that their front infers."""
    problem = Problem((Y, Objective("z", "K", "minimize")))
    mean = [[0.0, 0.0], [1.0, 1.0], [0.2, 5.0], *[[0.0, 9.0]] * 7]
    summary = told(Independent(mean, 0.01), problem)
    # the front: (0, 0) and (1, -1) in utilities; its corner a tenth of its range below
    assert summary.reference == pytest.approx((-0.1, -1.1))
    assert summary.hypervolume == pytest.approx(0.1 * 1.1 + 1.0 * 0.1)
    assert summary.probability_best == 1.0
    assert summary.expected_gain is None


def test_windows_and_learning() -> None:
    """Inside a window nothing is better; where all is only to be learned there is no best."""
    window = Problem((Objective("y", "eV", "window", window=(0.8, 1.2)),))
    summary = told(Independent([[0.0], [1.0], [0.5], *[[1.0]] * 7], 0.01), window)
    assert summary.best == 1.0
    assert summary.probability_best == 1.0
    learn = told(Independent([[0.0]] * 10, 1.0), Problem((Objective("y", "eV", "learn"),)))
    assert learn == DecisionSummary(open_candidates=7)


def test_summaries_are_stored_and_old_ones_load() -> None:
    """Every field survives; a row written before the newer fields existed leaves them unknown."""
    full = DecisionSummary(1.0, 0.5, 0.1, 3, ((0.9, 0.2),), 0.01, 0.02, 7.0, (0.0, -1.0))
    assert summary_from_json(summary_to_json(full)) == full
    old = {"best": 1.0, "probability_best": None, "expected_gain": 0.1, "open_candidates": 4}
    assert summary_from_json(old) == DecisionSummary(best=1.0, expected_gain=0.1, open_candidates=4)
