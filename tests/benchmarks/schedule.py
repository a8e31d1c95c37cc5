"""Eight samples over four instruments: how long are the plans, against the bound that CP-SAT proves.

Three kinds of procedures, seeded: a line (each sample through the four instruments once), a line that comes back to the
furnace and the diffractometer (re-entrant) with cooling in between, and mixed routes with a furnace of two slots.
Durations are whole seconds, so that the bound of CP-SAT is one of the problem itself.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrator.schedule import cp_sat, plain
from orchestrator.schedule.shop import Job, Operation, Plan, Shop, violations
from tests.benchmarks.units import HERE, Unit, protocol, row, run_missing, say, summarise

ROOT = HERE.parents[1]
SAMPLES = 8
SEEDS = 8
KINDS = ("line", "re-entrant", "mixed")
SECONDS = 5.0
"""Time of the CP-SAT plan, as in a campaign file by default."""
BOUND_SECONDS = 30.0
"""Time of the solver for the bound alone."""
USUAL_S = {"balance": (600, 4800), "furnace": (1200, 7200), "xrd": (900, 6000), "probe": (600, 5400)}
"""Shortest and longest duration of a step by instrument."""
ROUTES = {
    "line": ("balance", "furnace", "xrd", "probe"),
    "re-entrant": ("balance", "furnace", "xrd", "furnace", "xrd", "probe"),
}


def shop_of(kind: str, seed: int) -> Shop:
    """Make one problem."""
    draw = random.Random(f"{kind}/{seed}")
    jobs = []
    for number in range(SAMPLES):
        route = ROUTES.get(kind) or draw.choice(list(ROUTES.values()))
        operations = tuple(
            Operation(
                f"{name} {i}",
                name,
                float(draw.randint(*USUAL_S[name])),
                wait_s=float(draw.choice((0, 1800, 3600))) if name == "furnace" and kind != "line" else 0.0,
            )
            for i, name in enumerate(route)
        )
        jobs.append(Job(f"sample {number + 1}", operations, place=number))
    slots = {name: 2 if kind == "mixed" and name == "furnace" else 1 for name in USUAL_S}
    return Shop(tuple(jobs), slots)


def work(unit: Unit) -> Mapping[str, Any]:
    """Plan one problem in every way."""
    shop = shop_of(str(unit.parameters["kind"]), int(unit.parameters["seed"]))
    bound = cp_sat.plan(shop, seconds=BOUND_SECONDS, workers=2).bound_s
    arrival = _timed(lambda: plain.in_order_of_arrival(shop))
    quick = _timed(lambda: plain.plan(shop))
    solved = _timed(lambda: cp_sat.plan(shop, seconds=SECONDS, workers=1))
    found = {"arrival": arrival, "plain": quick, "cp_sat": solved}
    wrong = [f"{name}: {said}" for name, (one, _) in found.items() for said in violations(shop, one)]
    if wrong:
        raise AssertionError(wrong[0])
    return {
        "bound_s": bound,
        **{f"{name}_s": one.makespan_s for name, (one, _) in found.items()},
        **{f"{name}_seconds": round(seconds, 3) for name, (_, seconds) in found.items()},
    }


def _timed(act: Any) -> tuple[Plan, float]:
    begun = time.process_time()  # of all threads; a busy machine must not count
    found = act()
    return found, time.process_time() - begun


def main() -> None:
    """Run what is missing, and sum up."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="not needed here; given to every benchmark")
    parser.add_argument("--units", type=int, default=None, help="run at most so many units now")
    arguments = parser.parse_args()
    units = [Unit(f"{kind}/seed {seed}", {"kind": kind, "seed": seed}) for kind in KINDS for seed in range(SEEDS)]
    code = [ROOT / "orchestrator" / "schedule" / name for name in ("plain.py", "cp_sat.py", "shop.py")]
    stamp = protocol([Path(__file__), *code])
    lines = run_missing("schedule", units, work, protocol=stamp, packages=("ortools",), most=arguments.units)
    if len(lines) < len(units):
        say(f"schedule: {len(units) - len(lines)} units are left")
        return
    rows = []
    for name, who in (
        ("plain", "matloop"),
        ("cp_sat", "matloop with CP-SAT"),
        ("arrival", "first come, first served"),
    ):
        over = [100 * (line["result"][f"{name}_s"] / line["result"]["bound_s"] - 1) for line in lines]
        rows.append(row(who, "over_bound", "percent", over, low=min(over), high=max(over)))
        took = [line["result"][f"{name}_seconds"] for line in lines]
        rows.append(row(who, "plan_seconds", "s", took, low=min(took), high=max(took)))
        within = [sum(one <= 10.0 for one in over) / len(over)]
        rows.append(row(who, "within_10_percent", "share", within))
    summarise(
        "schedule",
        rows,
        work=f"Plans for {SAMPLES} samples over four instruments, {len(units)} seeded problems ({', '.join(KINDS)}),"
        " against CP-SAT's bound.",
        command="make bench-schedule",
        protocol=stamp,
        problems=len(units),
        worst_percent=max(line["result"]["plain_s"] / line["result"]["bound_s"] for line in lines) * 100 - 100,
        mean_percent=statistics.fmean(line["result"]["plain_s"] / line["result"]["bound_s"] for line in lines) * 100
        - 100,
    )


if __name__ == "__main__":
    main()
