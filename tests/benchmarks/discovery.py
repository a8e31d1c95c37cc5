"""How fast are the best crystals found? Seven ways to choose, side by side, from the same first ten.

    python -m tests.benchmarks.discovery --data matloop-data/public        goes on where it was cut off
    python -m tests.benchmarks.discovery --data … --units 5                at most five units now

3,787 cubic ABX3 structures with their DFT heat of formation, to be minimised: 10 random measurements, then rounds of 10
up to 200. Recall is the share of all rows found whose heat of formation is at most the value of the best 1 % (41 rows,
ties included). Settings were chosen on one half of the pool only (`CHOSEN_ON`); both halves are reported beside the
whole.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from orchestrator import plugins
from orchestrator.config.schema import CampaignConfig, Use
from orchestrator.domain import Array
from orchestrator.planner import Parts
from orchestrator.replay import Truth, prepare, replay_once
from orchestrator.spaces.listed import Listed
from tests.benchmarks import peers
from tests.benchmarks.data import SOURCES, provide
from tests.benchmarks.units import HERE, Unit, protocol, row, run_missing, say, summarise

ROOT = HERE.parents[1]
CAMPAIGN = ROOT / "campaigns" / "perovskites_replay.yaml"
SEEDS = 10
SHARE = 0.01
HALVES_SEED = 20261122
"""Divides the pool's ids, sorted, into two halves; the first is the one that settings were chosen on."""
PARTS = {"whole": (200, (100, 120, 200)), "half_chosen_on": (100, (50, 60, 100)), "half_other": (100, (50, 60, 100))}
"""Part of the pool → measurements in all, and those after which recall is stated (halves: the same shares)."""
CHOSEN_ON = f"half_chosen_on: the first half of numpy.random.default_rng({HALVES_SEED}).permutation of the sorted ids"
RESAMPLES = 4000
ARMS = ("matloop", "greedy", "gp_ucb", "gp_greedy", "composition_forest", "zero_shot", "random")
WORDS = {
    "matloop": "the shipped campaign file",
    "greedy": "the same surrogate, its mean only",
    "gp_ucb": "plain Gaussian process on frozen CHGNet features (PCA 16, Matérn 5/2), upper confidence bound 1",
    "gp_greedy": "the same plain Gaussian process, its mean only",
    "composition_forest": "forest on composition features, same acquisition",
    "zero_shot": "ranked by CHGNet's formation energy with crude elemental references, no label used",
    "random": "random",
}


@cache
def known(data: Path) -> tuple[CampaignConfig, Parts, Truth]:
    """Read the campaign file and the table once."""
    return prepare(CAMPAIGN, data)


def part_of(truth: Truth, name: str) -> Truth:
    """Return a part of the pool."""
    ids = sorted(c.id for c in truth.candidates)
    order = np.random.default_rng(HALVES_SEED).permutation(len(ids))
    chosen = order[: len(ids) // 2] if name == "half_chosen_on" else order[len(ids) // 2 :]
    wanted = set(ids) if name == "whole" else {ids[i] for i in chosen}
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


def rows_of(lines: Sequence[Mapping[str, Any]], seeds: int) -> list[dict[str, Any]]:
    """Turn the lines into rows: recall by arm, and what Matloop finds more than each arm, paired by seed."""
    found: dict[tuple[str, str], dict[int, Mapping[str, float]]] = {}
    for line in lines:
        p = line["parameters"]
        found.setdefault((p["part"], p["arm"]), {})[p["seed"]] = line["result"]["recall"]
    made = []
    for part, (_, marks) in PARTS.items():
        suffix = "" if part == "whole" else f"_{part}"
        for arm in ARMS:
            by_seed = found.get((part, arm), {})
            ours = found.get((part, "matloop"), {})
            for mark in marks:
                values = {seed: by_seed[seed][str(mark)] for seed in by_seed}
                if not values:
                    continue
                made.append(_with_interval(arm, f"recall_best1pct_{mark}{suffix}", list(values.values())))
                if arm == "matloop" or not ours:
                    continue
                pairs = [
                    ours[seed][str(mark)] - (values[0] if arm == "zero_shot" else values[seed])
                    for seed in range(seeds)
                    if seed in ours and (arm == "zero_shot" or seed in values)
                ]
                made.append(_with_interval("matloop", f"recall_best1pct_{mark}{suffix}_minus_{arm}", pairs, mean=True))
    return made


def _with_interval(who: str, metric: str, values: Sequence[float], *, mean: bool = False) -> dict[str, Any]:
    """Return a row with a 95 % bootstrap interval of the median, or of the mean for paired differences."""
    data: Array = np.asarray(values, dtype=np.float64)
    drawn = np.random.default_rng(0).choice(data, size=(RESAMPLES, len(data)))
    middle = drawn.mean(axis=1) if mean else np.median(drawn, axis=1)
    low, high = (float(x) for x in np.quantile(middle, [0.025, 0.975]))
    made = row(who, metric, "share", [float(v) for v in values], low=low, high=high)
    return {**made, "median": float(data.mean())} if mean else made


def main() -> None:
    """Measure what is missing and write the summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT / "matloop-data" / "public", help="folder of `make data`")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--units", type=int, default=None, help="run at most so many units now")
    arguments = parser.parse_args()
    table = arguments.data / SOURCES["discovery"].name
    if not table.exists():
        table = provide(SOURCES["discovery"], ROOT.parent / "shared" / "data", arguments.data)
    import torch  # noqa: PLC0415  only to keep it to one thread, as the measurement states

    torch.set_num_threads(1)
    mark = protocol([Path(__file__), HERE / "peers.py", CAMPAIGN, table])
    everything = units(arguments.seeds)
    lines = run_missing(
        "discovery",
        everything,
        lambda unit: measure(unit, table),
        protocol=mark,
        packages=("chgnet", "numpy", "scikit-learn", "scipy", "torch"),
        most=arguments.units,
    )
    if len(lines) < len(everything):
        say(f"discovery: {len(lines)} of {len(everything)} units are measured; run again to go on")
        sys.exit(0 if arguments.units is not None else 1)
    summarise(
        "discovery",
        rows_of(lines, arguments.seeds),
        work=(
            "Share of the best 1 % (41 of 3,787 cubic perovskites by heat of formation, ties included) found after 100,"
            " 120 and 200 measurements: 10 random, then rounds of 10. Differences are means over paired seeds."
        ),
        command="make bench-discovery",
        protocol=mark,
        settings_chosen_on=CHOSEN_ON,
        arms=WORDS,
    )


if __name__ == "__main__":
    main()
