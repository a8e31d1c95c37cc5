"""Replays of whole files: arms, early ends, asynchrony, what is scored, and what is drawn of it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.cli import main
from orchestrator.config.base import Use
from orchestrator.config.read import load_campaign
from orchestrator.config.schema import CampaignConfig
from orchestrator.domain import Array, Objective, Problem, Proposal
from orchestrator.errors import ConfigError
from orchestrator.planner import Parts
from orchestrator.replay import (
    Lesson,
    Trajectory,
    Truth,
    arms,
    as_json,
    draw_plot,
    paired,
    prepare,
    replay,
    replay_once,
    score,
    write_page,
)
from orchestrator.replay.lessons import f1, macro_f1
from orchestrator.replay.scores import until
from tests.fakes import InOrder, ListSpace, Nearest, point
from tests.small_campaign import write_campaign

CAMPAIGNS = Path(__file__).parent.parent / "campaigns"


class Watching(InOrder):
    """Takes candidates in order, and notes how many were pending and known."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, int, int]] = []

    def needs(self) -> frozenset[str]:
        return frozenset()

    def select(self, surrogate: Any, space: Any, *, q: int, **known: Any) -> tuple[Proposal, ...]:
        self.seen.append((q, len(known["pending"]), len(known["dataset"])))
        chosen: tuple[Proposal, ...] = super().select(surrogate, space, q=q, **known)
        return chosen


def _line(n: int = 12) -> Truth:
    candidates = tuple(point(float(i)) for i in range(n))
    values = np.arange(n, dtype=float)[:, None]
    return Truth(candidates, values[:, 0], values)


def _config(**changes: Any) -> CampaignConfig:
    content = {
        "name": "line",
        "objectives": [{"property": "y", "goal": "maximize"}],
        "space": {"use": "pool"},
        "acquisition": {"use": "random"},
        "initial": {"use": "random", "trials": 3},
        "parallel": 3,
        "budget": {"trials": 9},
    }
    return CampaignConfig.model_validate({**content, **changes})


def _parts(truth: Truth, policy: Any) -> Parts:
    space: Any = ListSpace(truth.candidates)
    return Parts(space, Use(use="nearest"), policy, InOrder(), {}, {}, None, ())  # type: ignore[arg-type]


def test_an_asynchronous_campaign_plans_with_others_in_flight() -> None:
    """After the initial design one is planned as soon as one ends; with rounds all at once, nothing pending."""
    truth = _line()
    watching = Watching()
    done = replay_once(_config(plan_when_free=1), _parts(truth, watching), truth, 1)
    assert watching.seen[0] == (3, 0, 3)
    assert watching.seen[1:] == [(1, 2, 4), (1, 2, 5), (1, 2, 6)]
    assert len(done.chosen) == 9
    rounds = Watching()
    replay_once(_config(plan_when_free=3), _parts(truth, rounds), truth, 1)
    assert rounds.seen == [(3, 0, 3), (3, 0, 6)]


def test_a_long_trial_comes_back_late() -> None:
    """Trials last as their expense says: those of short ones are known first."""
    truth = _line()
    config = _config(plan_when_free=1, expenses={"rates": {"x": {"hours": 1}}, "hours": 0.5})
    done = replay_once(config, _parts(truth, Watching()), truth, 1)
    order = [int(c.parameters["x"]) for key in done.chosen for c in truth.candidates if c.id == key]
    assert order[:3] == [0, 1, 2]
    assert sorted(order) == list(range(9))


def test_a_campaign_ends_where_enough_is_found() -> None:
    """`until` ends at the measurement that finds the wanted share, and the score counts on from there."""
    truth = _line()
    enough = until(truth, 0.25, 0.6)
    assert not enough([truth.candidates[11].id])
    assert enough([truth.candidates[i].id for i in (11, 10)])
    stopped = replay_once(_config(), _parts(truth, Watching()), truth, 1, enough=lambda chosen: len(chosen) > 4)
    assert len(stopped.chosen) == 5
    scored = score("short", [stopped, replay_once(_config(), _parts(truth, Watching()), truth, 2)], truth, 0.25)
    assert scored.measured == (5, 9)
    assert scored.regret[9].n == 2


def _ordered(truth: Truth, order: Sequence[int], seed: int = 0) -> Trajectory:
    return Trajectory(seed, tuple(truth.candidates[i].id for i in order), truth.utility[list(order)], 0.0)


def _square() -> tuple[Truth, Problem]:
    problem = Problem((Objective("a", "dimensionless", "minimize"), Objective("b", "dimensionless", "maximize")))
    values = np.array([[float(a), float(b)] for a in range(5) for b in range(5)])
    return Truth(tuple(point(float(i)) for i in range(25)), -values[:, 0], values), problem


@settings(max_examples=20, deadline=None)
@given(st.permutations(list(range(25))))
def test_hypervolume_is_a_share_of_the_pools(order: list[int]) -> None:
    """It grows from 0 to 1, is 1 as soon as the one best corner is found, and less before."""
    truth, problem = _square()
    curve: Array = score("any", [_ordered(truth, order)], truth, 0.1, problem).curves["hypervolume"].median
    assert np.all(np.diff(curve) >= -1e-12)
    assert curve[-1] == pytest.approx(1.0)
    found = order.index(4)  # a = 0, b = 4
    assert curve[found] == pytest.approx(1.0)
    assert found == 0 or curve[found - 1] < 1.0


def test_differences_are_taken_seed_by_seed() -> None:
    """An arm that is always one find behind differs by exactly that, however much seeds differ."""
    truth = _line(40)
    starts = [list(range(k, k + 10)) for k in (0, 7, 29)]
    own = score("own", [_ordered(truth, start) for start in starts], truth, 0.5)
    same = score("same", [_ordered(truth, start[::-1]) for start in starts], truth, 0.5)
    assert paired(same, own)["recall"].median == 0.0
    assert paired(same, own)["regret"].high == 0.0
    better = score("better", [_ordered(truth, [39, *start[1:]]) for start in starts], truth, 0.5)
    assert paired(better, own)["regret"].median == pytest.approx(-min(30, 39 - 16))


def test_arms_change_what_their_names_say() -> None:
    """A policy, a surrogate or both; without earlier campaigns there is none to leave out."""
    made = arms(_config(), ("greedy", "thompson+composition_gp", "+composition_forest"))
    assert list(made) == ["matloop", "greedy", "thompson+composition_gp", "+composition_forest"]
    assert made["greedy"].surrogate is None
    both = made["thompson+composition_gp"]
    assert both.surrogate is not None
    assert (both.acquisition.use, both.surrogate.use) == ("thompson", "composition_gp")
    assert made["+composition_forest"].acquisition.use == "random"
    with pytest.raises(ConfigError, match="no-transfer"):
        arms(_config(), ("no-transfer",))


PEAKS = """
import numpy as np
from orchestrator.replay.memory import peak_mib, start_peak
if not start_peak():
    raise SystemExit(3)
held = np.ones(12_000_000)
high = peak_mib()
assert held[-1] == 1.0
del held
start_peak()
print(high - peak_mib())
"""


def test_the_peak_is_that_of_the_moment() -> None:
    """What is held and let go between two marks shows in the first peak, and no more in the second."""
    # a process of its own: what other tests left running here may take memory in between
    done = subprocess.run([sys.executable, "-c", PEAKS], capture_output=True, text=True, check=False)
    if done.returncode == 3:
        pytest.skip("this system cannot set the high-water mark back")
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) > 60.0


def test_lessons_are_judged_over_the_pool() -> None:
    """F1 and errors are those of the definitions; values that are unknown do not count."""
    yes, no = np.array([True, True, False, False]), np.array([False, True, True, False])
    assert f1(yes, no) == pytest.approx(0.5)
    assert f1(~(yes | True), ~(yes | True)) == 1.0
    assert macro_f1(np.array([0.0, 0.0, 1.0, 1.0]), np.array([0.0, 1.0, 1.0, 1.0])) == pytest.approx((2 / 3 + 0.8) / 2)
    truth = _line(6)
    known = Truth(truth.candidates, truth.utility, np.array([[0.0], [2.0], [2.0], [3.0], [np.nan], [5.0]]))
    surrogate = Nearest()
    surrogate.x, surrogate.y = np.arange(6.0), np.arange(6.0)[:, None]
    problem = Problem((Objective("y", "dimensionless", "learn"),))
    parts = _parts(truth, InOrder())
    assert Lesson(problem, parts).judge(surrogate, known, 1)["mae"] == pytest.approx(0.2)
    assert Lesson(problem, parts, 1.5, "y").judge(surrogate, known, 1) == {"level_set_f1": pytest.approx(6 / 7)}


def test_the_example_of_two_objectives_is_replayed(tmp_path: Path) -> None:
    """`replay` with every output: hypervolume and differences are told, plot and page stand for themselves."""
    plot, page, rows = tmp_path / "plot.png", tmp_path / "page.html", tmp_path / "rows.json"
    done = CliRunner().invoke(
        main,
        ["replay", str(CAMPAIGNS / "replay_table.yaml"), "--seeds", "2", "--share", "0.1", "--until", "0.1",
         "--against", "random,diverse", "--plot", str(plot), "--out", str(page), "--json", str(rows)],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "hypervolume after" in done.stdout
    assert plot.read_bytes().startswith(b"\x89PNG")
    html = page.read_text(encoding="utf-8")
    assert "<svg" in html
    assert "http://" not in html.replace("http://www.w3.org", "")
    assert "ask_peak" in rows.read_text(encoding="utf-8")
    refused = CliRunner().invoke(main, ["replay", str(CAMPAIGNS / "replay_table.yaml"), "--plot", "plot.jpeg"])
    assert refused.exit_code == 2


def test_direction_turns_the_objective_around(tmp_path: Path) -> None:
    """What was the worst is the best; the table may be another one."""
    file = write_campaign(tmp_path)
    _, _, truth = prepare(file, None)
    _, _, turned = prepare(file, tmp_path / "table.csv", "minimize")
    assert int(turned.utility.argmax()) == int(truth.utility.argmin())


def test_the_answers_of_a_table_that_is_the_instrument(tmp_path: Path) -> None:
    """Without kept columns the campaign's own table is asked for every candidate, in the objective's unit."""
    _, _, kept = prepare(write_campaign(tmp_path), None)
    pool = {"path": "table.csv", "parameters": {"temperature": {"unit": "degC"}}, "label_column": "run"}
    file = write_campaign(
        tmp_path,
        space={"use": "pool", "options": pool},
        objectives=[{"property": "strength", "unit": "GPa", "goal": "maximize"}],
    )
    _, _, asked = prepare(file, None)
    np.testing.assert_allclose(asked.values, kept.values / 1000.0)
    nowhere = write_campaign(tmp_path, space={"use": "pool", "options": pool}, procedure=None, instruments=None)
    with pytest.raises(ConfigError, match="keep"):
        prepare(nowhere, None)


def test_earlier_campaigns_are_one_arm_and_their_absence_another(tmp_path: Path) -> None:
    """With a database, a file that names an earlier campaign is replayed with and without its results."""
    first = write_campaign(tmp_path, name="first", budget={"trials": 10})
    environment = {"MATLOOP_STORE": str(tmp_path / "campaigns.db")}
    assert CliRunner().invoke(main, ["run", str(first), "--plain"], env=environment).exit_code == 0
    second = write_campaign(
        tmp_path, name="second", earlier=[{"campaign": "first"}], acquisition={"use": "greedy"}, budget={"trials": 5}
    )
    with pytest.raises(ConfigError, match="database"):
        replay(second, data=None, seeds=[0], against=())
    command = ["replay", str(second), "--seeds", "1", "--share", "0.1", "--against", "no-transfer"]
    done = CliRunner().invoke(main, command, env=environment)
    assert done.exit_code == 0, done.output
    assert "no-transfer" in done.stdout
    assert load_campaign(second).config.earlier


def test_scores_are_drawn_and_written(tmp_path: Path) -> None:
    """A page of arms with different ends is written; rows name every figure with its interval."""
    truth, problem = _square()
    scores = [
        score(name, [_ordered(truth, np.random.default_rng(k).permutation(25)[:n].tolist()) for k in range(4)],
              truth, 0.2, problem)
        for name, n in (("own", 20), ("other", 12))
    ]  # fmt: skip
    write_page(scores, tmp_path / "page.html", title="a <b> c", asked="?", command="matloop replay")
    assert "a &lt;b&gt; c" in (tmp_path / "page.html").read_text(encoding="utf-8")
    assert b"<svg" in draw_plot(scores, "svg")
    rows = as_json(scores, work="w", command="c")["rows"]
    names = {row["metric"] for row in rows}
    assert {"EF_max", "hypervolume_10", "EF_max_minus_own", "ask_seconds"} <= names
