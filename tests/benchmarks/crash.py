"""kill -9 at every labelled point × 20 seeds × three recovery classes, judged by the instrument's own log.

    python -m tests.benchmarks.crash             goes on where it was cut off
    python -m tests.benchmarks.crash --units 5   at most five units now
    python -m tests.benchmarks.crash --fresh     also what was measured on other code than today's

A unit is one seed in one class: 19 runs, one for each label; half of the runs are killed a second time while they
recover. Seeded design mistakes are measured with the same harness, to show that its zeros mean something.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.benchmarks.units import HERE, RESULTS, Unit, protocol, run_missing, say, summarise
from tests.crash.harness import CLASSES, LABELS, Case
from tests.crash.mutants import MISTAKES

SEEDS = 20
MUTANT_SEEDS = 3
SIDE_BY_SIDE = 2
PARTS = ("device", "driver", "harness", "mutants", "world")  # of tests/crash: what defines this measurement
ROOT = HERE.parents[1]
MEMORY = Path("/dev/shm")  # noqa: S108  fsync plays no part in the death of a process, so memory serves


def harness(cases: list[Case]) -> list[dict[str, Any]]:
    """Run cases in a harness process of its own and return their findings."""
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder:
        done = subprocess.run(
            [sys.executable, "-m", "tests.crash.harness", folder],
            input="".join(json.dumps(asdict(case)) + "\n" for case in cases),
            capture_output=True,
            text=True,
            check=False,
            cwd=ROOT,
        )
    if done.returncode != 0:
        raise RuntimeError(done.stderr)
    return [json.loads(line)["finding"] for line in done.stdout.splitlines()]


def measure(unit: Unit) -> Mapping[str, Any]:
    """Run the cases of one unit, in two harness processes side by side: they wait more than they work."""
    cases = [Case(**case) for case in unit.parameters["cases"]]
    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        parts = pool.map(harness, [cases[start::SIDE_BY_SIDE] for start in range(SIDE_BY_SIDE)])
        findings = [finding for part in parts for finding in part]
    return {
        "runs": len(findings),
        "kills": sum(f["kills"] for f in findings),
        "unfired": sum(f["unfired"] for f in findings),
        "executions": sum(f["executions"] for f in findings),
        "questions": sum(f["questions"] for f in findings),
        "runs_with_violations": sum(bool(f["violations"]) for f in findings),
        "violations": [text for f in findings for text in f["violations"]],
        "product": product(),
    }


def product() -> str:
    """Return the hash of the code that was killed: execution and record."""
    digest = hashlib.sha256()
    for room in ("execution", "record"):
        for path in sorted((ROOT / "orchestrator" / room).glob("*.py")):
            digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def units() -> list[Unit]:
    """Return all units: the product's, then the mistakes'."""
    made = [
        Unit(f"{kind}/seed {seed}", {"cases": [asdict(Case(label, kind, seed)) for label in LABELS]})
        for seed in range(SEEDS)
        for kind in CLASSES
    ]
    for name, mistake in MISTAKES.items():
        cases = [
            asdict(Case(label, kind, seed, name, mistake.network))
            for seed in range(MUTANT_SEEDS)
            for kind in mistake.classes
            for label in mistake.labels
        ]
        made.append(Unit(f"mistake: {name}", {"cases": cases}))
    return made


def rows(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Sum up: totals of the product, by class, and violations of each mistake."""
    ours = [line for line in lines if not line["unit"].startswith("mistake")]
    table = []
    for who, part in [("matloop", ours)] + [
        (f"matloop, {kind} instrument", [line for line in ours if line["unit"].startswith(kind)]) for kind in CLASSES
    ]:
        runs = sum(line["result"]["runs"] for line in part)
        totals = {
            "kills": sum(line["result"]["kills"] for line in part),
            "violations": sum(len(line["result"]["violations"]) for line in part),
            "questions": sum(line["result"]["questions"] for line in part),
        }
        table += [_total(who, metric, value, runs) for metric, value in totals.items()]
    for line in lines:
        if line["unit"].startswith("mistake"):
            who = line["unit"].replace("mistake: ", "seeded mistake: ")
            table.append(_total(who, "violations", len(line["result"]["violations"]), line["result"]["runs"]))
    return table


def _total(who: str, metric: str, value: int, runs: int) -> dict[str, Any]:
    return {"who": who, "metric": metric, "unit": "count", "median": value, "low": value, "high": value, "n": runs}


def main() -> None:
    """Run what is missing; write the summary when all is there."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--units", type=int, default=None, help="run at most so many units now")
    parser.add_argument("--fresh", action="store_true", help="measure again what was measured on other code than now")
    parser.add_argument("--data", default=None, help="where public data lie; this benchmark needs none")
    chosen = parser.parse_args()
    wanted = units()
    of = protocol(
        [ROOT / "tests" / "crash" / f"{name}.py" for name in PARTS], [[unit.key, unit.parameters] for unit in wanted]
    )
    now = product()
    lines = run_missing(
        "crash",
        wanted,
        measure,
        protocol=of,
        packages=("sqlalchemy", "sqlmodel", "pydantic"),
        counts=lambda line: not chosen.fresh or line["result"]["product"] == now,
        most=chosen.units,
    )
    unfired = sum(line["result"]["unfired"] for line in lines if not line["unit"].startswith("mistake"))
    if unfired:
        message = f"{unfired} kills did not fire: the harness proves nothing there; look at results/crash.jsonl"
        raise SystemExit(message)
    if len(lines) < len(wanted):
        say(f"{len(lines)} of {len(wanted)} units are measured; the same command goes on")
        return
    path = summarise(
        "crash",
        rows(lines),
        work=(
            f"SIGKILL at {len(LABELS)} labelled points × {SEEDS} seeds × {len(CLASSES)} recovery classes, half of the "
            "runs killed again while they recover; the instrument's own log, kept by another process, is the judge."
        ),
        command="make bench-crash",
        protocol=of,
        products=sorted({line["result"]["product"] for line in lines}),
    )
    say(f"written: {path.relative_to(RESULTS.parents[2])}")


if __name__ == "__main__":
    main()
