"""The conformance kit: how many rules and bad drivers there are, how many are caught, how long a good driver takes.

Each bad driver has one fault and names the rule that must find it; being caught by another rule does not count.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from instruments import conformance
from instruments.conformance import RULES, Accidents, Level
from instruments.conformance import active as conformance_active
from instruments.conformance import passive as conformance_passive
from orchestrator import plugins
from tests import bad_at_work, bad_in_drills
from tests.bad_drivers import BAD
from tests.benchmarks.units import HERE, Unit, protocol, row, run_missing, say, summarise
from tests.good_oven import Ledger, Oven, OvenOptions

ROOT = HERE.parents[1]
KIT = sorted((ROOT / "instruments").glob("conformance*.py"))
FILES = [
    *KIT,
    *(ROOT / "tests" / name for name in ("bad_drivers.py", "bad_at_work.py", "bad_in_drills.py", "good_oven.py")),
]
GOOD = ("oven", "ledger", "simulated_furnace", "simulated_balance")
OVENS: dict[str, type[Oven]] = {"oven": Oven, "ledger": Ledger}


async def _good(name: str) -> dict[str, Any]:
    kind = OVENS.get(name)
    driver = kind() if kind else plugins.build("instruments", name, {})
    dead = kind(OvenOptions(port="dead")) if kind else None
    report = await conformance.examine(driver, level=Level.ACTIVE, dead=dead)
    return {
        "checks": len(report.findings),
        "failed": len(conformance.failures(report.findings)),
        "seconds": report.seconds,
    }


async def _bad(level: int) -> dict[str, Any]:
    caught, missed = [], []
    for rule, drivers in BAD.items():
        for driver in drivers if RULES[rule].level == level else ():
            findings = await conformance.check(
                driver(), level=level, dead=driver(OvenOptions(port="dead")), accidents=Accidents(orders=60)
            )
            found = rule in {finding.rule for finding in conformance.failures(findings)}
            (caught if found else missed).append(driver.__name__)
    bad_at_work.forget_connections()
    bad_in_drills.forget_files()
    return {"caught": caught, "missed": missed}


def measure(unit: Unit) -> Mapping[str, Any]:
    """Check one good driver, or the bad ones of one level."""
    logging.disable(logging.CRITICAL)  # the bad drivers are meant
    if "good" in unit.parameters:
        return asyncio.run(_good(str(unit.parameters["good"])))
    # A bad driver is given up sooner than a slow device would be.
    conformance_active.ABORT_S = 0.5
    conformance_passive.LEFT_S = 0.3
    return asyncio.run(_bad(int(unit.parameters["bad"])))


def main() -> None:
    """Run what is missing; write the summary when all is there."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--units", type=int, default=None, help="run at most so many units now")
    parser.add_argument("--data", default=None, help="where public data lie; this benchmark needs none")
    chosen = parser.parse_args()
    units = [Unit(f"good/{name}", {"good": name}) for name in GOOD]
    units += [Unit(f"bad/level {level:d}", {"bad": int(level)}) for level in Level]
    lines = run_missing("conformance", units, measure, protocol=protocol(FILES), most=chosen.units)
    if len(lines) < len(units):
        say(f"{len(lines)} of {len(units)} units are measured; the same command goes on")
        return
    good = [line["result"] for line in lines if "good" in line["parameters"]]
    bad = [line["result"] for line in lines if "bad" in line["parameters"]]
    caught, missed = (sum(len(one[word]) for one in bad) for word in ("caught", "missed"))
    rows = [
        row("matloop", "rules", "rules", [len(RULES)]),
        row("matloop", "checks", "checks", [one["checks"] for one in good]),
        row("matloop", "failed_of_good_drivers", "checks", [sum(one["failed"] for one in good)]),
        row("matloop", "seconds", "s", [one["seconds"] for one in good]),
        row("matloop", "bad_drivers", "drivers", [caught + missed]),
        row("matloop", "bad_drivers_caught", "drivers", [caught]),
    ]
    work = (
        f"Levels 0 to 2 on {len(GOOD)} good simulated drivers; and {caught + missed} drivers with one deliberate fault"
        " each, which count as caught only by the rule that is there for it."
    )
    target: Path = summarise("conformance", rows, work=work, command="make bench-conformance")
    say(f"written: {target.name}")


if __name__ == "__main__":
    main()
