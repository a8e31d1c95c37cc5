"""The acceptance campaign: wrong numbers, orders done twice and unrecorded faults among faults and bad wires.

A virtual lab of four devices over SCPI, OPC UA and SiLA 2. One order in ten meets a fault of its device; one reply in
fifty of every device meets a fault of the wire (an order takes about ten to thirty replies). The world's log, which
nothing in Matloop reads, is the truth. An operator answers questions through the public interface.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.benchmarks.units import HERE, Unit, protocol, row, run_missing, say, summarise

ROOT = HERE.parents[1]
NAME = "lab_acceptance"
TRIALS, SEEDS = 200, 2
FAULTS, WIRE, SPEED = 0.10, 0.02, 200_000.0
METRICS = {
    "wrong_values": "numbers",
    "executed_twice": "orders",
    "faults_recorded_share": "share",
    "values_compared": "numbers",
    "device_faults": "faults",
    "wire_faults": "faults",
    "trials_completed": "trials",
    "ended_normally": "share",
    "minutes": "min",
}


def once(seed: int, trials: int) -> dict[str, Any]:
    """Run one campaign in this process."""
    from tests.benchmarks.acceptance_campaign import campaign_once  # noqa: PLC0415  the parent needs none of it

    with tempfile.TemporaryDirectory() as folder:
        return campaign_once(Path(folder), seed=seed, trials=trials, faults=FAULTS, wire=WIRE, speed=SPEED)


def measure(unit: Unit) -> Mapping[str, Any]:
    """Run one campaign in a process of its own."""
    command = [sys.executable, "-m", f"tests.benchmarks.{NAME}", "--once", str(unit.parameters["seed"])]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=environment)
    if done.returncode != 0:
        raise RuntimeError(done.stdout[-2000:] + done.stderr[-2000:])
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def counted(result: Mapping[str, Any]) -> dict[str, float]:
    """Return the metrics of one campaign."""
    over = result["trials"]
    ended = result["state"] == "DONE" and not result["open_attempts"] and not ({"RUNNING", "PLANNED"} & set(over))
    return {
        "wrong_values": result["wrong_values"],
        "executed_twice": result["executed_twice"] + result["steps_done_again"],
        "faults_recorded_share": result["faults_recorded"] / result["faults"] if result["faults"] else 1.0,
        "values_compared": result["values"],
        "device_faults": result["faults"],
        "wire_faults": result["wire_faults"],
        "trials_completed": over.get("COMPLETED", 0),
        "ended_normally": float(ended and not result["verify_problems"]),
        "minutes": round(result["seconds"] / 60, 2),
    }


def main() -> None:
    """Run what is missing; write the summary when all is there."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--once", type=int, metavar="SEED", help="run one campaign here")
    parser.add_argument("--trials", type=int, default=TRIALS, help="of a campaign with --once")
    parser.add_argument("--units", type=int, default=None, help="run at most so many units now")
    parser.add_argument("--part", default="1/1", help="i/n: every n-th unit from the i-th only")
    parser.add_argument("--data", default=None, help="where public data lie; this benchmark needs none")
    chosen = parser.parse_args()
    if chosen.once is not None:
        say(json.dumps(once(chosen.once, chosen.trials)))
        return
    units = [Unit(f"seed {seed}", {"seed": seed}) for seed in range(1, SEEDS + 1)]
    files = [HERE / f"{name}.py" for name in ("acceptance_campaign", "acceptance_operator", NAME)]
    lines = run_missing(
        NAME,
        units,
        measure,
        protocol=protocol(files),
        packages=("pyvisa-py", "unitelabs-sila", "asyncua", "sila2"),
        most=chosen.units,
        part=chosen.part,
    )
    if len(lines) < len(units):
        say(f"{len(lines)} of {len(units)} units are measured; the same command goes on")
        return
    results = [counted(line["result"]) for line in lines]
    rows = [row("matloop", metric, unit, [one[metric] for one in results]) for metric, unit in METRICS.items()]
    work = (
        f"{SEEDS} campaigns of {TRIALS} trials of four steps over SCPI, OPC UA and SiLA 2, with"
        f" {FAULTS:.0%} device faults by order and {WIRE:.0%} wire faults by reply."
    )
    say(f"written: {summarise(NAME, rows, work=work, command='make bench-lab_acceptance').name}")


if __name__ == "__main__":
    main()
