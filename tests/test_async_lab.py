"""The simulated lab of the benchmark keeps time as a lab does, in rounds and asynchronously."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from orchestrator.config.schema import CampaignConfig
from orchestrator.planner import Parts, Planner
from tests.benchmarks.async_lab import INSTRUMENTS, MOST, _again, durations, ideal, reached, rows_of, simulate


def planner(rounds: int) -> Planner:
    """Choose at random in a box: what is tested is the clock."""
    content: dict[str, Any] = {
        "name": "lab",
        "objectives": [{"property": "y", "goal": "maximize"}],
        "space": {"use": "box", "options": {"parameters": {"x": {"min": 0, "max": 1}}}},
        "acquisition": {"use": "random"},
        "surrogate": {"use": "gaussian_process"},
        "initial": {"use": "random", "trials": 8},
        "parallel": INSTRUMENTS,
        "plan_when_free": rounds,
        "budget": {"trials": MOST},
    }
    config = CampaignConfig.model_validate(content)
    made = Planner(config, Parts.build(config, base=None))
    made.train = lambda *_: (None, None, 0)  # type: ignore[assignment, method-assign, return-value]
    return made


def test_the_clock_of_rounds_and_of_an_asynchronous_lab() -> None:
    """A round waits for its slowest trial; without rounds no instrument is ever idle. Both measure the same number."""
    hours = durations(0.5, 3)
    rounds = simulate(planner(INSTRUMENTS), lambda c: float(c.parameters["x"]), 2.0, hours, rounds=True)
    free = simulate(planner(1), lambda c: float(c.parameters["x"]), 2.0, hours, rounds=False)
    assert len(rounds) == len(free) == MOST
    assert max(time for time, _ in rounds) == pytest.approx(hours.reshape(-1, INSTRUMENTS).max(axis=1).sum())
    busy = hours.sum() / INSTRUMENTS
    assert busy <= max(time for time, _ in free) <= busy + hours.max()
    assert [time for time, _ in free] == sorted(time for time, _ in free)


def test_rounds_are_the_same_under_another_clock() -> None:
    """Run again under its own clock a campaign in rounds stays as it was; under another one only times change."""
    ended = simulate(planner(INSTRUMENTS), lambda c: float(c.parameters["x"]), 2.0, durations(0.5, 3), rounds=True)
    assert np.array(_again(ended, 0.5, 3)) == pytest.approx(np.array(ended))
    other = _again(ended, 1.0, 3)
    assert sorted(value for _, value in other) == sorted(value for _, value in ended)
    assert reached(other, 2.0) == (max(time for time, _ in other), MOST, False)


def test_shares_of_the_ideal() -> None:
    """Were every asynchronous campaign faster by the ideal factor, the share would be one."""
    factor = ideal(1.0)
    assert factor == pytest.approx(2.3, abs=0.15)
    lines = []
    for seed in range(5):
        done = {"hours": factor * (seed + 1), "trials": 1, "reached": True}
        lines.append(
            {"parameters": {"problem": "pool", "arm": "rounds", "seed": seed}, "result": {"0.5": done, "1": done}}
        )
        fast = {"hours": seed + 1.0, "trials": 1, "reached": True}
        lines.append({"parameters": {"problem": "pool", "arm": "draws", "sigma": 1.0, "seed": seed}, "result": fast})
    found = {row["metric"]: row["median"] for row in rows_of(lines) if row["who"] == "matloop draws"}
    assert found["share_of_ideal_sigma_1"] == pytest.approx(1.0)
    assert found["speed_up_pool_sigma_1"] == pytest.approx(factor)
