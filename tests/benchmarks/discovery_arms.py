"""What the discovery benchmark measures: which parts of the pool, which arms, one unit of work.

These lines are part of the protocol: a change here measures everything anew. How results are put into words and
intervals stands in `discovery.py` and changes nothing that was measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from orchestrator import plugins
from orchestrator.config.schema import CampaignConfig, Use
from orchestrator.planner import Parts
from orchestrator.replay import Truth, prepare, replay_once
from orchestrator.spaces.listed import Listed
from tests.benchmarks import peers
from tests.benchmarks.units import HERE, Unit, protocol

ROOT = HERE.parents[1]
CAMPAIGN = ROOT / "campaigns" / "perovskites_replay.yaml"
SEEDS = 10
SHARE = 0.01
HALVES_SEED = 20261122
"""Divides the pool, by sorted id and by row."""
PARTS = {
    "whole": (200, (100, 120, 200)),
    "half_chosen_on": (100, (50, 60, 100)),
    "half_other": (100, (50, 60, 100)),
    "quarter_unseen": (50, (25, 30, 50)),
}
"""Part of the pool → measurements in all, and those after which recall is stated: the same shares of each part.

The shipped options were chosen on `half_chosen_on` (the first half of the permuted sorted ids). Before that, kernels
and features had been explored on the first half of the permuted *rows*; `quarter_unseen` holds what is in neither.
"""
ARMS = ("matloop", "greedy", "gp_ucb", "gp_greedy", "composition_forest", "zero_shot", "random")


@cache
def known(data: Path) -> tuple[CampaignConfig, Parts, Truth]:
    """Read the campaign file and the table once."""
    return prepare(CAMPAIGN, data)


def part_of(truth: Truth, name: str) -> Truth:
    """Return a part of the pool."""
    n = len(truth.candidates)
    ids = sorted(c.id for c in truth.candidates)
    order = np.random.default_rng(HALVES_SEED).permutation(n)
    first = {ids[i] for i in order[: n // 2]}
    explored = {truth.candidates[i].id for i in order[: n // 2]}
    wanted = {
        "whole": set(ids),
        "half_chosen_on": first,
        "half_other": set(ids) - first,
        "quarter_unseen": set(ids) - first - explored,
    }[name]
    inside = np.array([c.id in wanted for c in truth.candidates])
    kept = tuple(c for c in truth.candidates if c.id in wanted)
    return Truth(kept, truth.utility[inside], truth.values[inside])


def positions(arm: str, seed: int, data: Path, part: str) -> tuple[list[int], Truth]:
    """Return positions in the part of the pool, in the order of measurement.

    Args:
        arm: one of `ARMS`.
        seed: of the campaign; the first ten are the same for every arm.
        data: table.
        part: of `PARTS`.
    """
    config, parts, everything = known(data)
    truth = part_of(everything, part)
    parts = replace(parts, space=Listed("part", truth.candidates, {}))
    budget = PARTS[part][0]
    if arm == "zero_shot":
        return [int(i) for i in np.argsort(peers.zero_shot(truth.candidates), kind="stable")[:budget]], truth
    if arm.startswith("gp_"):
        start = _replayed(config, parts, truth, "random", seed=seed, budget=config.initial.trials)
        beta = 1.0 if arm == "gp_ucb" else 0.0
        return peers.plain_process(
            truth.candidates, truth.utility, start, budget=budget, batch=config.parallel, beta=beta
        ), truth
    return _replayed(config, parts, truth, arm, seed=seed, budget=budget), truth


def _replayed(config: CampaignConfig, parts: Parts, truth: Truth, arm: str, *, seed: int, budget: int) -> list[int]:
    changes: dict[str, Any] = {"budget": {"trials": budget}}
    if arm in {"random", "greedy"}:
        changes["acquisition"] = Use(use=arm).model_dump()
    if arm == "composition_forest":
        changes["surrogate"] = Use(use=arm).model_dump()
    changed = CampaignConfig.model_validate({**config.snapshot(), **changes})
    policy = plugins.build("acquisition", changed.acquisition.use, changed.acquisition.options)
    surrogate = changed.surrogate or parts.surrogate
    done = replay_once(changed, replace(parts, policy=policy, surrogate=surrogate), truth, seed)
    place = {candidate.id: i for i, candidate in enumerate(truth.candidates)}
    return [place[i] for i in done.chosen]


def measure(unit: Unit, data: Path) -> Mapping[str, Any]:
    """Run one arm with one seed on one part of the pool."""
    arm, seed, part = unit.parameters["arm"], int(unit.parameters["seed"]), unit.parameters["part"]
    chosen, truth = positions(arm, seed, data, part)
    best = truth.best(SHARE)
    found = np.cumsum([truth.candidates[i].id in best for i in chosen]) / len(best)
    return {
        "rows": len(truth.candidates),
        "best": len(best),
        "recall": {str(n): float(found[n - 1]) for n in PARTS[part][1]},
        "curve": [round(float(found[n - 1]), 4) for n in range(10, len(found) + 1, 10)],
        "code": learned_by(arm),
        "first_ten": [truth.candidates[i].id[:12] for i in chosen[:10]],
    }


@cache
def learned_by(arm: str) -> str:
    """Return the hash of the rooms that learn and choose, for the arms that use them; empty for the peers."""
    if arm in {"zero_shot", "gp_ucb", "gp_greedy", "random"}:
        return ""
    rooms = ("acquisition", "networks", "surrogates")
    return protocol([path for room in rooms for path in (ROOT / "orchestrator" / room).glob("*.py")])


def units(seeds: int) -> list[Unit]:
    """List everything that belongs to the benchmark; what needs no seed is measured once."""
    return [
        Unit(f"{part}/{arm}/{seed}", {"arm": arm, "seed": seed, "part": part})
        for part in PARTS
        for seed in range(seeds)
        for arm in ARMS
        if arm != "zero_shot" or seed == 0
    ]
