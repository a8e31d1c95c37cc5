"""Replay: scores against what random choice is expected to reach."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.config.base import Use
from orchestrator.config.schema import CampaignConfig
from orchestrator.planner import Parts
from orchestrator.replay import Trajectory, Truth, expected_at_random, interval, replay_once, score
from tests.fakes import InOrder, ListSpace, point
from tests.honesty_lab import FaultOptions, Faulty, Telling


def _truth(n: int) -> Truth:
    utility = np.arange(n, dtype=float)
    return Truth(tuple(point(float(i)) for i in range(n)), utility, utility[:, None])


def _trajectory(truth: Truth, order: list[int]) -> Trajectory:
    return Trajectory(0, tuple(truth.candidates[i].id for i in order), truth.utility[order], 0.0)


def test_ties_with_the_last_of_the_best_count() -> None:
    """The best share is by value, so that rows with equal values are in or out together."""
    truth = Truth(tuple(point(float(i)) for i in range(10)), np.array([0.0] * 5 + [1.0] * 5), np.zeros((10, 1)))
    assert len(truth.best(0.1)) == 5


def test_a_perfect_order_finds_the_best_first() -> None:
    """Recall, regret and both factors are right for the order that nobody can beat."""
    truth = _truth(100)
    scored = score("ideal", [_trajectory(truth, list(range(99, -1, -1)))] * 3, truth, 0.1)
    assert scored.recall[10].median == 1.0
    assert scored.regret[10].median == 0.0
    assert scored.enhancement[10].median == pytest.approx(10.0)
    assert scored.acceleration["50%"].median == pytest.approx(expected_at_random(0.5, 10, 100) / 5)


@given(st.integers(1, 20), st.integers(21, 200))
def test_the_random_expectation_is_that_of_draws_without_replacement(hits: int, pool: int) -> None:
    """The last hit is expected at K (N + 1) / (K + 1): never beyond the pool."""
    assert expected_at_random(1.0, hits, pool) == pytest.approx(hits * (pool + 1) / (hits + 1))
    assert expected_at_random(1.0, hits, pool) <= pool


def test_random_choice_scores_one() -> None:
    """Random orders accelerate nothing: the factors lie around one."""
    truth = _truth(200)
    orders = [list(np.random.default_rng(seed).permutation(200)) for seed in range(200)]
    scored = score("random", [_trajectory(truth, order) for order in orders], truth, 0.1)
    assert scored.enhancement[100].median == pytest.approx(1.0, abs=0.1)
    assert scored.acceleration["50%"].median == pytest.approx(1.0, abs=0.15)


def test_an_interval_holds_its_median() -> None:
    """The bootstrap interval of a median contains it and is inside the data."""
    told = interval([1.0, 2.0, 3.0, 4.0, 10.0])
    assert 1.0 <= told.low <= told.median == 3.0 <= told.high <= 10.0


class _Parts(Parts):
    stated = 1.0

    def new_surrogate(self) -> Any:
        return Faulty(FaultOptions(stated=self.stated))


class _TooSure(_Parts):
    stated = 0.2


def _replayed(kind: type[_Parts]) -> Trajectory:
    candidates = tuple(point(float(x)) for x in range(60))
    values = np.array([[-abs(x - 23.0)] for x in range(60)])
    config = CampaignConfig.model_validate(
        {
            "name": "line",
            "objectives": [{"property": "y", "goal": "maximize"}],
            "space": {"use": "pool"},
            "initial": {"use": "random", "trials": 6},
            "parallel": 2,
            "refit": {"every": 4},
            "budget": {"trials": 44},
        }
    )
    parts = kind(
        space=ListSpace(candidates),  # type: ignore[arg-type]
        surrogate=Use(use="faulty"),
        policy=Telling(Telling.Options()),  # type: ignore[arg-type]
        initial=InOrder(),  # type: ignore[arg-type]
        stopping={},
        derived={},
        base=None,
        allowed_modules=(),
    )
    return replay_once(config, parts, Truth(candidates, values[:, 0], values), seed=1)


def test_a_replay_keeps_and_uses_what_was_predicted() -> None:
    """What proposals said stands beside what came, and widens a too sure surrogate, as in a real campaign."""
    done = _replayed(_TooSure)
    judged = done.judged["y"]
    assert len(judged) == 44 - 6
    assert judged.trials == tuple(range(7, 45))
    assert judged.widened[0] == 1.0
    assert judged.widened[-1] > 2.0
    assert judged.as_trained().coverage(0.9) < 0.5 < judged.last(10).coverage(0.9)
    assert set(_replayed(_Parts).judged["y"].widened) == {1.0}
