"""How fast are the best crystals found? Seven ways to choose, side by side, from the same first ten.

    python -m tests.benchmarks.discovery --data matloop-data/public        goes on where it was cut off
    python -m tests.benchmarks.discovery --data … --units 5                at most five units now

3,787 cubic ABX3 structures with their DFT heat of formation, to be minimised: 10 random measurements, then rounds of 10
up to 200. Recall is the share of all rows found whose heat of formation is at most the value of the best 1 % (41 rows,
ties included). Options were chosen on one half of the pool; both halves, and a quarter that no earlier exploration had
seen either, are reported beside the whole.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from orchestrator.domain import Array
from tests.benchmarks.data import SOURCES, provide
from tests.benchmarks.discovery_arms import ARMS, CAMPAIGN, HALVES_SEED, PARTS, ROOT, SEEDS, measure, units
from tests.benchmarks.units import HERE, protocol, row, run_missing, say, summarise

CHOSEN_ON = (
    f"half_chosen_on: the first half of numpy.random.default_rng({HALVES_SEED}).permutation over the sorted ids."
    " Kernels and features had been explored before on the first half of the same permutation over the table's rows;"
    " quarter_unseen holds the rows in neither. The acquisition was left at the default: greedy was a little ahead of"
    " it on half_chosen_on early on, and level at the end."
)
RESAMPLES = 4000
WORDS = {
    "matloop": "the shipped campaign file",
    "greedy": "the same surrogate, its mean only",
    "gp_ucb": "plain Gaussian process on frozen CHGNet features (PCA 16, Matérn 5/2), upper confidence bound 1",
    "gp_greedy": "the same plain Gaussian process, its mean only",
    "composition_forest": "forest on composition features, same acquisition",
    "zero_shot": "ranked by CHGNet's formation energy with crude elemental references, no label used",
    "random": "random",
}


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
    mark = protocol([HERE / "discovery_arms.py", HERE / "peers.py", CAMPAIGN, table])
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
