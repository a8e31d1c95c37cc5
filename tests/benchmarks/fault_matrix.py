"""Every fault × recovery class on the virtual clock: cells that do not end as their table says."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.benchmarks.units import HERE, Unit, protocol, row, run_missing, say, split_arguments, summarise
from tests.fault_matrix import CLASSES, TABLE, carry_out

ROOT = HERE.parents[1]
CODE = sorted((ROOT / "orchestrator" / "execution").glob("*.py"))
"""What is measured: a change there measures anew."""


def measure(unit: Unit) -> Mapping[str, Any]:
    """Carry out the three cells of one fault."""
    fault = str(unit.parameters["fault"])
    off: dict[str, Any] = {}
    for letter, expected in zip(CLASSES, TABLE[fault], strict=True):
        with tempfile.TemporaryDirectory() as folder:
            end, wrong = carry_out(fault, letter, Path(folder))
        if end != expected or wrong:
            off[letter] = {"expected": str(expected), "seen": str(end), "wrong": wrong}
    return {"cells": len(CLASSES), "off": off}


def main() -> None:
    """Run what is missing; write the summary when all is there."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    split_arguments(parser)
    parser.add_argument("--data", default=None, help="where public data lie; this benchmark needs none")
    chosen = parser.parse_args()
    units = [Unit(fault, {"fault": fault}) for fault in TABLE]
    files = [Path(__file__), ROOT / "tests" / "fault_matrix.py", ROOT / "tests" / "fault_world.py", *CODE]
    lines = run_missing(
        "fault_matrix",
        units,
        measure,
        protocol=protocol(files),
        packages=("sqlalchemy",),
        most=chosen.units,
        part=chosen.part,
        lines=chosen.lines,
    )
    if len(lines) < len(units) or chosen.lines:
        say(f"{len(lines)} of {len(units)} units are measured; the same command goes on")
        return
    cells = sum(line["result"]["cells"] for line in lines)
    off = sum(len(line["result"]["off"]) for line in lines)
    rows = [
        row("matloop", "faults", "", [len(lines)]),
        row("matloop", "cells", "", [cells]),
        row("matloop", "cells_off", "", [off]),
    ]
    work = (
        f"{len(lines)} faults of an instrument, each with an idempotent, a queryable and a blind one, on the virtual"
        " clock: cells whose trial, instrument, questions or campaign do not end as the table says."
    )
    say(f"written: {summarise('fault_matrix', rows, work=work, command='make bench-fault_matrix').name}")


if __name__ == "__main__":
    main()
