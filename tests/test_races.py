"""The races of optimisers: their arithmetic, what their campaign files say, and sharing the work among machines."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator.acquisition.outsiders import Rows
from orchestrator.domain import Candidate, Objective, Problem
from orchestrator.replay.truth import Truth, prepare
from tests.benchmarks import race, race_arms
from tests.benchmarks.race_peers import Forest, PlainBotorch, encode
from tests.benchmarks.race_works import WORKS, Line, Work, write
from tests.benchmarks.units import Unit, merge, run_missing, split_arguments
from tests.fakes import point

SMALL = Work("small", lambda _: TABLE, {"y": "maximize"}, 0.1, 2, 1, 12, 1.0, 1, (5, 10))
TABLE: list[Line] = [
    {"a": x / 4, "b": word, "y": -((x / 4 - 0.5) ** 2) + 0.1 * (word == "two")}
    for x in range(6)
    for word in ("one", "two")
]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Work:
    """A table of twelve lines as a work of its own."""
    monkeypatch.setitem(WORKS, "small", (SMALL,))  # type: ignore[arg-type]
    return SMALL


def test_the_campaign_file_names_space_problem_budget_and_seed_only(small: Work, tmp_path: Path) -> None:
    """What learns and what chooses is the shipped default, and every line of the table is a candidate."""
    file = write(small, tmp_path, 3, tmp_path)
    words = {line.split(":")[0] for line in file.read_text().splitlines() if line[:1].isalpha()}
    assert not words & {"surrogate", "acquisition", "refit", "stop"}
    config, parts, truth = prepare(file, None)
    assert (config.seed, config.budget.trials, len(truth.candidates)) == (3, 12, 12)
    assert parts.surrogate.use == "gaussian_process"
    assert len((tmp_path / "table.csv").read_text().splitlines()) == 13


@pytest.mark.parametrize("arm", ["matloop", "greedy", "forest", "botorch", "random"])
def test_every_arm_begins_alike_and_measures_nothing_twice(small: Work, tmp_path: Path, arm: str) -> None:
    """The first two are those of random choice with the same seed; the best is found and ends the campaign."""
    found = race_arms.measure(Unit("k", {"work": "small", "arm": arm, "seed": 1}), tmp_path)
    control = race_arms.measure(Unit("k", {"work": "small", "arm": "random", "seed": 1}), tmp_path)
    assert found["order"][:2] == control["order"][:2]
    assert len(set(found["order"])) == len(found["order"]) == found["measured"]
    assert len(found["hits"]) == found["best"]


def test_factors_are_those_of_the_authors() -> None:
    """Random choice needs level × rows; an arm that finds the best first is as much better as it is sooner."""
    results = [{"rows": 100, "best": 5, "hits": [10, 20, 30, 40, 50], "measured": 50}] * 3
    film = WORKS["crossed_barrel"][0]
    made = {r["metric"]: r["median"] for r in race.rows_of(film, {"matloop": dict(enumerate(_told(results)))})}
    assert made["AF_80"] == pytest.approx(80 / 40)
    assert made["AF_50"] == pytest.approx(50 / 30)
    assert made["EF_max"] == pytest.approx(0.2 / 0.1)
    assert made["n_80"] == 40
    assert made["top_50"] == 1.0


def _told(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**result, "ask_s": 0.1, "top": {"50": 1.0, "100": 1.0}} for result in results]


def test_what_was_not_found_counts_as_one_more_than_measured() -> None:
    """A campaign that ends at its cap without the wanted share is no gap."""
    assert race._reached({"hits": [3], "measured": 20}, 2) == 21


def test_differences_are_paired_by_seed() -> None:
    """Only seeds that both arms have are compared."""
    ours = _told([{"rows": 100, "best": 5, "hits": [1, 2, 3, 4, 5], "measured": 50}] * 3)
    theirs = _told([{"rows": 100, "best": 5, "hits": [2, 3, 4, 5, 9], "measured": 50}] * 2)
    rows = race.rows_of(WORKS["agnp"][0], {"matloop": dict(enumerate(ours)), "ax": dict(enumerate(theirs))})
    (pair,) = [row for row in rows if row["metric"] == "n_80_minus_ax"]
    assert (pair["median"], pair["n"]) == (-1.0, 2)


def test_random_choice_is_stated_exactly() -> None:
    """It reaches 80 % of the best beyond the cap of its campaigns: the expectation stands there instead."""
    results = _told([{"rows": 99, "best": 4, "hits": [90], "measured": 95}] * 2)
    rows = race.rows_of(WORKS["crossed_barrel"][0], {"random": dict(enumerate(results))})
    (n_80,) = [row for row in rows if row["metric"] == "n_80"]
    assert n_80["median"] == n_80["low"] == 4 * 100 / 5
    assert not [row for row in rows if row["metric"] == "AF_80"]


def test_hypervolume_is_a_share_of_the_whole_table() -> None:
    """One corner of two opposite ones dominates its own part; both are all of it."""
    values = np.array([[0.0, 2.0], [1.0, 0.0], [0.5, 1.0], [1.0, 2.0]])
    problem = Problem((Objective("a", "", "minimize"), Objective("b", "", "minimize")))
    truth = Truth(tuple(point(float(i)) for i in range(4)), -values[:, 0], values)
    assert race_arms.volumes(truth, problem, [3, 2, 0, 1], (1, 2, 4)) == [0.0, pytest.approx(1.0), pytest.approx(1.0)]


def test_peers_see_columns_between_zero_and_one() -> None:
    """Numbers are scaled over the pool, words are one column each, and both peers answer with places."""
    candidates = [
        Candidate.make(label=str(i), parameters={name: line[name] for name in ("a", "b")})
        for i, line in enumerate(TABLE)
    ]
    x = encode(Rows.learn(candidates), tuple(candidates))
    assert x.min() == 0.0
    assert x.max() == 1.0
    assert x.shape == (12, 3)
    y = np.array([[float(line["y"])] for line in TABLE])
    for peer in (PlainBotorch(), Forest()):
        places = peer.choose(x[:6], y[:6], x[6:], 2, 3)
        assert len(set(places)) == 2


def test_units_are_shared_and_merged(tmp_path: Path) -> None:
    """Two halves measured elsewhere are the whole, each unit once, and lines taken in twice count once."""
    units = [Unit(f"u{i}") for i in range(5)]
    files = []
    for i in (1, 2):
        files.append(tmp_path / f"part{i}.jsonl")
        run_missing(
            "b",
            units,
            lambda u: {"is": u.key},
            protocol="p",
            part=f"{i}/2",
            lines=files[-1],
            results=tmp_path / "there",
        )
    here = tmp_path / "here"
    here.mkdir()
    assert merge("b", files, results=here) == 5
    assert merge("b", files, results=here) == 0
    lines = run_missing("b", units, lambda _: pytest.fail("measured again"), protocol="p", results=here)
    assert [line["result"]["is"] for line in lines] == [u.key for u in units]
    with pytest.raises(ValueError, match="3/2"):
        run_missing("b", units, lambda _: {}, protocol="p", part="3/2", results=here)
    parser = argparse.ArgumentParser()
    split_arguments(parser)
    assert parser.parse_args(["--part", "2/16"]).part == "2/16"
