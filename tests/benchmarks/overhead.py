"""Seconds of orchestration per trial, beyond the instrument's own time: in the plain loop and under Prefect.

The instrument answers at once and the policy takes the next of a list, so that what is left is the loop: claim, intent,
guard, raw bytes, record, decision, and under Prefect its tasks, log lines and artifacts.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.benchmarks.units import HERE, Unit, protocol, row, run_missing, say, summarise

ROOT = HERE.parents[1]
TRIALS = 100
REPEATS = 5
ARMS = {"plain": "matloop", "prefect": "matloop under Prefect"}
CAMPAIGN = f"""
name: overhead
objectives: [{{property: y, goal: maximize}}]
space: {{use: "tests.line_lab:Line", options: {{points: {TRIALS}}}}}
instruments: {{bench: {{use: "tests.line_lab:bench"}}}}
procedure: [{{step: measure, instrument: bench}}]
acquisition: {{use: "tests.line_lab:First"}}
initial: {{use: "tests.line_lab:First", trials: 0}}
budget: {{trials: {TRIALS}}}
"""


def run_once(arm: str, folder: Path) -> float:
    """Run one campaign in this process.

    Args:
        arm: ``plain`` or ``prefect``.
        folder: for its database.

    Returns:
        Seconds per trial.
    """
    from orchestrator import loop  # noqa: PLC0415  the parent process needs none of it
    from orchestrator.campaign import Campaign  # noqa: PLC0415
    from orchestrator.record.store import CampaignStore  # noqa: PLC0415

    (folder / "overhead.yaml").write_text(CAMPAIGN)
    (folder / "lab.yaml").write_text("allowed_modules: [tests.line_lab]\n")
    store = CampaignStore.open(folder / "overhead.db")
    campaign = Campaign.create(folder / "overhead.yaml", store=store, actor="benchmark")
    work = loop.run(campaign)
    if arm == "prefect":
        work.close()
        from flows.server import ensure_server  # noqa: PLC0415  the plain arm needs no Prefect

        ensure_server().use()
        from flows.campaign import lent  # noqa: PLC0415

        work = lent(campaign, loop.Plain())
    started = time.perf_counter()
    asyncio.run(work)
    seconds = time.perf_counter() - started
    measured = len(store.measurements(campaign.name))
    if measured != TRIALS:
        message = f"{measured} of {TRIALS} trials were measured"
        raise RuntimeError(message)
    return seconds / TRIALS


def measure(unit: Unit) -> Mapping[str, Any]:
    """Run one campaign in a process of its own, with a data folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "MATLOOP_HOME": folder}
        try:
            done = subprocess.run(
                [sys.executable, "-m", "tests.benchmarks.overhead", "--once", str(unit.parameters["arm"]), folder],
                capture_output=True,
                text=True,
                check=False,
                cwd=ROOT,
                env=environment,
            )
        finally:
            subprocess.run(
                [str(Path(sys.executable).with_name("matloop")), "down"],
                check=False,
                capture_output=True,
                env=environment,
            )
    if done.returncode != 0:
        raise RuntimeError(done.stdout + done.stderr)
    return {"seconds_per_trial": json.loads(done.stdout.splitlines()[-1])}


def main() -> None:
    """Run what is missing; write the summary when all is there."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--once", nargs=2, metavar=("ARM", "FOLDER"), help="run one campaign here")
    parser.add_argument("--units", type=int, default=None, help="run at most so many units now")
    parser.add_argument("--data", default=None, help="where public data lie; this benchmark needs none")
    chosen = parser.parse_args()
    if chosen.once:
        say(json.dumps(run_once(chosen.once[0], Path(chosen.once[1]))))
        return
    units = [Unit(f"{arm}/repeat {i}", {"arm": arm}) for i in range(REPEATS) for arm in ARMS]
    lines = run_missing(
        "overhead",
        units,
        measure,
        protocol=protocol([Path(__file__), ROOT / "tests" / "line_lab.py"]),
        packages=("prefect", "sqlalchemy"),
        most=chosen.units,
    )
    if len(lines) < len(units):
        say(f"{len(lines)} of {len(units)} units are measured; the same command goes on")
        return
    rows = [
        row(
            who,
            "orchestration_per_trial",
            "s",
            [line["result"]["seconds_per_trial"] for line in lines if line["parameters"]["arm"] == arm],
        )
        for arm, who in ARMS.items()
    ]
    work = f"Campaigns of {TRIALS} trials on an instrument that answers at once, one trial at a time, on SQLite."
    say(f"written: {summarise('overhead', rows, work=work, command='make bench-overhead').name}")


if __name__ == "__main__":
    main()
