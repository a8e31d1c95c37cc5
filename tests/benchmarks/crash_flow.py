"""kill -9 of `matloop run` under Prefect, at random moments and in the middle of fits, until the campaign is done.

The instrument is a process of its own, and its log is the only judge: nothing may be carried out twice, and nothing
that was carried out may be missing from the database.

A unit is one campaign, killed `KILLS` times; every second kill comes while a fit is under way.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.benchmarks.units import HERE, Unit, protocol, run_missing, say, summarise

ROOT = HERE.parents[1]
MATLOOP = str(Path(sys.executable).with_name("matloop"))
CAMPAIGNS = 10
KILLS = 6
TRIALS = 24
CLASSES = ("idempotent", "queryable")
FILE = """
name: killed
objectives: [{{property: shrinkage, goal: maximize}}]
space: {{use: "tests.crash.lab:Temperatures"}}
instruments: {{kiln: {{use: "tests.crash.lab:Kiln", options: {{folder: "{folder}", device: d, recovery: {recovery}}}}}}}
procedure: [{{step: fire, instrument: kiln, capability: fire}}]
surrogate: {{use: "tests.crash.lab:Slow"}}
acquisition: {{use: "tests.crash.lab:Best"}}
initial: {{use: "tests.crash.lab:First", trials: 3}}
refit: {{every: 1}}
budget: {{trials: {trials}}}
"""


def measure(unit: Unit) -> Mapping[str, Any]:
    """Run, kill and resume one campaign; compare the instrument's log with the database."""
    chance = random.Random(str(unit.parameters["seed"]))
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        environment = {**os.environ, "MATLOOP_HOME": place, "CRASH_FIT_LOG": str(folder / "fits.log")}
        (folder / "killed.yaml").write_text(
            FILE.format(folder=place, recovery=unit.parameters["recovery"], trials=TRIALS)
        )
        (folder / "lab.yaml").write_text("allowed_modules: [tests.crash.lab]\n")
        device = subprocess.Popen(
            [sys.executable, "-m", "tests.crash.device", place],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
        )
        try:
            if device.stdout is not None:
                device.stdout.readline()
            found = _campaign(folder, environment, chance)
        finally:
            device.kill()
            subprocess.run([MATLOOP, "down"], check=False, capture_output=True, env=environment)
        return {**found, **_judge(folder)}


def _campaign(folder: Path, environment: Mapping[str, str], chance: random.Random) -> dict[str, Any]:
    """Begin the campaign, kill it `KILLS` times, and let the last process live."""
    store = str(folder / "killed.db")
    kills = in_fit = 0
    command = [MATLOOP, "run", str(folder / "killed.yaml"), "--store", store]
    while True:
        process = subprocess.Popen(
            command, cwd=ROOT, env=dict(environment), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        if kills == KILLS:
            said, _ = process.communicate(timeout=300)
            if "budget: all" not in said:
                raise RuntimeError(said)
            return {"kills": kills, "kills_in_fit": in_fit}
        during_fit = bool(kills % 2)
        if not _wait(process, folder, during_fit=during_fit):
            message = f"the campaign ended after {kills} of {KILLS} kills: {process.communicate()[0]}"
            raise RuntimeError(message)
        time.sleep(chance.uniform(0.0, 0.7))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        kills += 1
        in_fit += during_fit
        command = [MATLOOP, "resume", "killed", "--store", store]


def _wait(process: subprocess.Popen[str], folder: Path, *, during_fit: bool) -> bool:
    """Wait until this process has begun a fit, or has had something carried out."""
    log = folder / ("fits.log" if during_fit else "d.log")
    before = log.stat().st_size if log.exists() else 0
    while process.poll() is None:
        if log.exists() and log.stat().st_size > before:
            return True
        time.sleep(0.01)
    return False


def _judge(folder: Path) -> dict[str, Any]:
    """Compare what was carried out with what is recorded."""
    from orchestrator.record.store import CampaignStore  # noqa: PLC0415  only the judge looks into the database

    done = [json.loads(line) for line in (folder / "d.log").read_text().splitlines()]
    repeated = [what for what, count in Counter(job["what"] for job in done).items() if count > 1]
    store = CampaignStore.open(folder / "killed.db")
    recorded = Counter(int(m.value) for m in store.measurements("killed"))
    lost = [job["what"] for job in done if recorded[job["value"]] != 1]
    problems = store.verify("killed")
    store.close()
    return {"executions": len(done), "violations": [*repeated, *lost, *problems]}


def main() -> None:
    """Run what is missing; write the summary when all is there."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--units", type=int, default=None, help="run at most so many units now")
    parser.add_argument("--data", default=None, help="where public data lie; this benchmark needs none")
    chosen = parser.parse_args()
    units = [Unit(f"{CLASSES[i % 2]}/campaign {i}", {"seed": i, "recovery": CLASSES[i % 2]}) for i in range(CAMPAIGNS)]
    lines = run_missing(
        "crash_flow",
        units,
        measure,
        protocol=protocol(
            [Path(__file__), *(ROOT / "tests" / "crash" / f"{n}.py" for n in ("lab", "device", "driver"))]
        ),
        packages=("prefect", "sqlalchemy"),
        most=chosen.units,
    )
    if len(lines) < len(units):
        say(f"{len(lines)} of {len(units)} units are measured; the same command goes on")
        return
    totals = {
        "kills": sum(line["result"]["kills"] for line in lines),
        "kills_in_fit": sum(line["result"]["kills_in_fit"] for line in lines),
        "executions": sum(line["result"]["executions"] for line in lines),
        "violations": sum(len(line["result"]["violations"]) for line in lines),
    }
    rows = [
        {"who": "matloop", "metric": metric, "unit": "count", "median": n, "low": n, "high": n, "n": len(lines)}
        for metric, n in totals.items()
    ]
    work = f"{CAMPAIGNS} campaigns of {TRIALS} trials by `matloop run` under Prefect; SIGKILL {KILLS} times in each."
    say(f"written: {summarise('crash_flow', rows, work=work, command='make bench-crash_flow').name}")


if __name__ == "__main__":
    main()
