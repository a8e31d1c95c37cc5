"""The discovery benchmark's own arithmetic: halves, pairs, intervals; and peers that read only what they measured."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from orchestrator.domain import Array, Candidate
from orchestrator.replay import Truth
from tests.benchmarks import peers
from tests.benchmarks.discovery import rows_of
from tests.benchmarks.discovery_arms import ARMS, PARTS, part_of, units


def pool(n: int) -> Truth:
    """Make a pool of n candidates with random utilities."""
    made = tuple(Candidate.make(label=str(i), parameters={"x": i}) for i in range(n))
    values = np.random.default_rng(0).normal(size=(n, 1))
    return Truth(made, values[:, 0], values)


def test_the_halves_share_nothing_and_make_the_whole() -> None:
    """Every candidate is in exactly one half, with its own values, whatever the order of the table."""
    truth = pool(41)
    one, two = part_of(truth, "half_chosen_on"), part_of(truth, "half_other")
    ids = [c.id for c in (*one.candidates, *two.candidates)]
    assert sorted(ids) == sorted(c.id for c in truth.candidates)
    utility = {c.id: u for c, u in zip(truth.candidates, truth.utility, strict=True)}
    assert [utility[c.id] for c in one.candidates] == list(one.utility)
    backwards = Truth(truth.candidates[::-1], truth.utility[::-1], truth.values[::-1])
    assert {c.id for c in part_of(backwards, "half_other").candidates} == {c.id for c in two.candidates}
    assert len(part_of(truth, "whole").candidates) == 41
    unseen = {c.id for c in part_of(truth, "quarter_unseen").candidates}
    assert unseen < {c.id for c in two.candidates}
    assert unseen


def test_differences_are_paired_by_seed() -> None:
    """Matloop minus an arm is the mean over the same seeds; what needs no seed is compared with every one."""
    lines: list[dict[str, Any]] = []
    for unit in units(4):
        p = unit.parameters
        base = {"matloop": 0.9, "zero_shot": 0.5, "random": 0.0}.get(p["arm"], 0.7)
        value = base + 0.01 * p["seed"]
        recall = {str(mark): value for mark in PARTS[p["part"]][1]}
        lines.append({"parameters": p, "result": {"recall": recall}})
    rows = {(r["who"], r["metric"]): r for r in rows_of(lines, 4)}
    for arm in ARMS[1:]:
        made = rows["matloop", f"recall_best1pct_200_minus_{arm}"]
        expected = {"zero_shot": 0.415, "random": 0.9}.get(arm, 0.2)
        assert made["median"] == pytest.approx(expected)
        assert made["low"] - 1e-9 <= expected <= made["high"] + 1e-9
        assert made["n"] == 4
    assert rows["matloop", "recall_best1pct_100"]["median"] == pytest.approx(0.915)
    assert rows["zero_shot", "recall_best1pct_100"]["n"] == 1
    assert ("matloop", "recall_best1pct_50_half_other_minus_gp_ucb") in rows


def test_the_plain_process_finds_the_best_and_reads_only_what_it_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a smooth pool it beats chance, measures nothing twice, and is blind to values it has not asked for."""
    truth = pool(120)
    features = np.random.default_rng(1).normal(size=(120, 20))
    utility: Array = features[:, 0] - 0.3 * features[:, 1] ** 2
    monkeypatch.setattr(peers, "crystal_features", lambda _candidates: features)
    chosen = peers.plain_process(truth.candidates, utility, list(range(10)), budget=50, batch=10, beta=1.0)
    assert len(set(chosen)) == 50
    assert chosen[:10] == list(range(10))
    best = set(np.argsort(-utility)[:10])
    assert len(best & set(chosen)) >= 7
    unseen = utility.copy()
    unseen[[i for i in range(120) if i not in chosen[:20]]] = 99.0
    again = peers.plain_process(truth.candidates, unseen, list(range(10)), budget=30, batch=10, beta=1.0)
    assert again[:30] == chosen[:30]
