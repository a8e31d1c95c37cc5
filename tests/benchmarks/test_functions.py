"""Constrained, mixed and multi-fidelity test functions of botorch: the shipped default beside its tutorials' strategy.

    python -m tests.benchmarks.test_functions                                       goes on where it was cut off
    python -m tests.benchmarks.test_functions --unit ackley_mixed/botorch/0         one unit
    python -m tests.benchmarks.test_functions --part 3/16 --lines part3.jsonl       a share, elsewhere
    python -m tests.benchmarks.test_functions --merge part*.jsonl --units 0         takes the shares in

Regret is the best feasible value measured at the target, less the optimum; before anything feasible it is that of the
worst of 1,024 random points. An ask is one training and one choice.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from orchestrator.domain import Array
from tests.benchmarks.test_functions_arms import ARMS, WORDS, WORKS, learned_by, measure, units
from tests.benchmarks.units import HERE, merge, protocol, row, run_missing, say, split_arguments, summarise

SEEDS, CHEAP_SEEDS = 10, 30
RESAMPLES = 4000
NAME = "test_functions"


def rows_of(lines: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Turn lines into rows: regret and seconds an ask of each arm, and paired differences of log10 regret."""
    found: dict[tuple[str, str], dict[int, Mapping[str, Any]]] = {}
    for line in lines:
        p = line["parameters"]
        found.setdefault((p["work"], p["arm"]), {})[p["seed"]] = line["result"]
    made = []
    for work in WORKS:
        ours = found.get((work, "matloop"), {})
        for arm in ARMS:
            results = found.get((work, arm), {})
            if not results:
                continue
            made.append(_row(arm, f"{work}_regret", "", [r["regret"] for r in results.values()]))
            if arm != "random":
                made.append(_row(arm, f"{work}_seconds", "s", [r["seconds_an_ask"] for r in results.values()]))
            both = sorted(set(ours) & set(results))
            if arm != "matloop" and len(both) > 1:
                pairs = [np.log10(_positive(ours[s]) / _positive(results[s])) for s in both]
                made.append(_row("matloop", f"{work}_log10_regret_minus_{arm}", "", pairs, mean=True))
    return made


def _positive(result: Mapping[str, Any]) -> float:
    return max(float(result["regret"]), 1e-9)  # an optimum that is printed with few digits can be passed


def _row(who: str, metric: str, unit: str, values: Sequence[float], *, mean: bool = False) -> dict[str, Any]:
    """Return a row with a 95 % bootstrap interval of the median, or of the mean for paired differences."""
    given: Array = np.asarray(values, dtype=np.float64)
    drawn = np.random.default_rng(0).choice(given, size=(RESAMPLES, len(given)))
    middle = drawn.mean(axis=1) if mean else np.median(drawn, axis=1)
    low, high = (float(x) for x in np.quantile(middle, [0.025, 0.975]))
    made = row(who, metric, unit, [float(v) for v in given], low=low, high=high)
    return {**made, "median": float(given.mean())} if mean else made


def main() -> None:
    """Measure what is missing and write the summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=None, help="taken for the sake of `make`; nothing is read")
    parser.add_argument("--only", default="", help="arms to measure now, with commas between")
    parser.add_argument("--unit", default="", help="measure this unit only")
    split_arguments(parser)
    chosen = parser.parse_args()
    if chosen.merge:
        say(f"{NAME}: {merge(NAME, chosen.merge)} new lines")
    import torch  # noqa: PLC0415  only to keep it to one thread: seconds an ask are stated for one

    torch.set_num_threads(1)
    everything = units(SEEDS, CHEAP_SEEDS)
    only = {arm for arm in chosen.only.split(",") if arm}
    wanted = [u for u in everything if (not only or u.parameters["arm"] in only) and chosen.unit in {"", u.key}]
    settings: dict[str, Any] = {
        "protocol": protocol([HERE / "test_functions_arms.py"]),
        "packages": ("torch", "botorch", "gpytorch", "scipy"),
        "counts": lambda line: line["result"]["code"] == learned_by(line["parameters"]["arm"]),
    }
    run_missing(NAME, wanted, measure, most=chosen.units, part=chosen.part, lines=chosen.lines, **settings)
    if chosen.lines is not None:
        return
    lines = run_missing(NAME, everything, measure, most=0, **settings)
    say(f"{NAME}: {len(lines)} of {len(everything)} units are measured")
    if lines:
        path = summarise(
            NAME,
            rows_of(lines),
            work="Seven test functions of botorch from the same Sobol points; regret at the end, seconds an ask.",
            command=f"make bench-{NAME}",
            protocol=settings["protocol"],
            arms=WORDS,
        )
        say(f"wrote {path}")


if __name__ == "__main__":
    main()
