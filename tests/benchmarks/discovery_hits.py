"""How soon are needles found? Perovskites near the hull with a direct gap in the visible: four among 3,787.

    python -m tests.benchmarks.discovery_hits --data matloop-data/public

10 random measurements, then rounds of 10 up to 300. A hit has heat_all ≤ 0.2 eV/atom and a direct gap of 1.5 to 3 eV.
Four hits carry no claim of significance; what is stated is how many measurements each arm needed for each of them, 300
where it was not found by then.
"""

from __future__ import annotations

import argparse
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
from orchestrator.replay import Truth, expected_at_random, prepare, replay_once
from tests.benchmarks import peers
from tests.benchmarks.data import SOURCES, provide
from tests.benchmarks.units import HERE, Unit, protocol, row, run_missing, summarise

ROOT = HERE.parents[1]
CAMPAIGN = ROOT / "campaigns" / "perovskites_gap_replay.yaml"
SEEDS, CAP, NEAR, HITS = 10, 300, 0.2, 4
ARMS = ("matloop", "greedy", "composition_forest", "gp_on_chgnet", "zero_shot", "random")
WORDS = {
    "matloop": "the campaign file: constrained log expected improvement",
    "greedy": "the same surrogate, its means only",
    "composition_forest": "forest on composition features, same acquisition",
    "gp_on_chgnet": "plain Gaussian process on frozen CHGNet features of the heat of formation alone, upper bound 1",
    "zero_shot": "ranked by CHGNet's formation energy with crude elemental references, no label used",
    "random": "random; `expected` is exact for sampling without replacement",
}


@cache
def known(data: Path) -> tuple[CampaignConfig, Parts, Truth]:
    """Read the campaign file and the table once."""
    return prepare(CAMPAIGN, data)


def hits(truth: Truth) -> list[int]:
    """Return the positions of the needles."""
    heat, gap = truth.values[:, 0], truth.values[:, 1]
    return [int(i) for i in np.flatnonzero((heat <= NEAR) & (gap >= 1.5) & (gap <= 3.0))]


def order_of(arm: str, seed: int, data: Path) -> tuple[list[int], Truth]:
    """Return positions in the pool in the order of measurement."""
    config, parts, truth = known(data)
    if arm == "zero_shot":
        return [int(i) for i in np.argsort(peers.zero_shot(truth.candidates), kind="stable")[:CAP]], truth
    if arm == "gp_on_chgnet":
        start = _replayed(config, parts, truth, "random", seed=seed, budget=config.initial.trials)
        utility: Array = truth.utility
        return peers.plain_process(truth.candidates, utility, start, budget=CAP, batch=config.parallel, beta=1.0), truth
    return _replayed(config, parts, truth, arm, seed=seed, budget=CAP), truth


def _replayed(config: CampaignConfig, parts: Parts, truth: Truth, arm: str, *, seed: int, budget: int) -> list[int]:
    changes: dict[str, Any] = {"budget": {"trials": budget}}
    if arm in {"random", "greedy"}:
        changes["acquisition"] = Use(use=arm).model_dump()
    if arm == "composition_forest":
        changes["surrogate"] = Use(use=arm).model_dump()
    changed = CampaignConfig.model_validate({**config.snapshot(), **changes})
    policy = plugins.build("acquisition", changed.acquisition.use, changed.acquisition.options)
    changed_parts = replace(parts, policy=policy, surrogate=changed.surrogate or parts.surrogate)
    done = replay_once(changed, changed_parts, truth, seed)
    place = {candidate.id: i for i, candidate in enumerate(truth.candidates)}
    return [place[i] for i in done.chosen]


def measure(unit: Unit, data: Path) -> Mapping[str, Any]:
    """Run one arm with one seed, and say after how many measurements each hit was found; the cap where it was not."""
    chosen, truth = order_of(unit.parameters["arm"], int(unit.parameters["seed"]), data)
    needles = set(hits(truth))
    found = [i + 1 for i, position in enumerate(chosen) if position in needles]
    return {
        "rows": len(truth.candidates),
        "hits": len(needles),
        "found_at": found + [CAP] * (len(needles) - len(found)),
    }


def rows_of(lines: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Turn the lines into rows: measurements to each hit, by arm."""
    made = []
    for arm in ARMS:
        done = [line["result"] for line in lines if line["parameters"]["arm"] == arm]
        made += [
            row(arm, f"measurements_to_hit_{k + 1}", "", [float(d["found_at"][k]) for d in done])
            for k in range(HITS if done else 0)
        ]
    pool = lines[0]["result"]["rows"] if lines else 0
    made += [
        row("random, expected", f"measurements_to_hit_{k + 1}", "", [expected_at_random((k + 1) / HITS, HITS, pool)])
        for k in range(HITS if lines else 0)
    ]
    return made


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
    everything = [
        Unit(f"{arm}/{seed}", {"arm": arm, "seed": seed})
        for seed in range(arguments.seeds)
        for arm in ARMS
        if arm != "zero_shot" or seed == 0
    ]
    mark = protocol([Path(__file__), HERE / "peers.py", CAMPAIGN, table])
    lines = run_missing(
        "discovery_hits",
        everything,
        lambda unit: measure(unit, table),
        protocol=mark,
        packages=("chgnet", "numpy", "scikit-learn", "scipy", "torch"),
        most=arguments.units,
    )
    summarise(
        "discovery_hits",
        rows_of(lines),
        work=(
            f"Measurements until each of the {HITS} hits (heat_all ≤ 0.2 eV/atom, direct gap 1.5–3 eV) among 3,787"
            f" cubic perovskites was found: 10 random, then rounds of 10 up to {CAP} (stated where not found)."
        ),
        command="make bench-discovery_hits",
        protocol=mark,
        arms=WORDS,
    )


if __name__ == "__main__":
    main()
