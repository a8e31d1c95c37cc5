"""Faults on the wire × every TCP adapter: what comes of the order that meets one, and of the next.

A proxy between the adapter and a real server of its protocol spoils one reply of one order. An order may end with the
right value, an error, or a value that the campaign's checks refuse; a wrong value must never be recorded where the
protocol lets one tell. A flipped bit cannot be told where nothing on the wire carries a checksum: those are counted
apart. A script that asks again after a time-out on the same session, as most lab scripts do, stands beside.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from instruments.simulated.wire import FAULTS
from orchestrator.errors import InstrumentError
from tests import wire_adapters
from tests.benchmarks.units import HERE, Unit, protocol, row, run_missing, say, split_arguments, summarise
from tests.wire_chaos import Bench
from tests.wire_epics import EPICS

ROOT = HERE.parents[1]
ADAPTERS = {**wire_adapters.ADAPTERS, EPICS.name: EPICS}
SEEDS = 5
TRIES = 5
"""A busy computer does not always open a session in time; that is no fault on the wire."""
SCRIPT = "script"
CODE = {
    "scpi": ["instruments/scpi"],
    "script": ["instruments/scpi/simulator.py"],
    "pymeasure": ["instruments/pymeasure/driver.py", "instruments/pymeasure/options.py"],
    "modbus": ["instruments/modbus/driver.py", "instruments/modbus/link.py", "instruments/modbus/register_map.py"],
    "sila": ["instruments/sila", "instruments/self_described/driver.py", "instruments/self_described/offers.py"],
    "opcua": ["instruments/opcua", "instruments/self_described/driver.py", "instruments/self_described/offers.py"],
    "remote": ["instruments/host"],
    "madsci": ["instruments/madsci/driver.py", "instruments/madsci/options.py"],
    "ophyd": ["instruments/ophyd/driver.py", "instruments/ophyd/links.py", "instruments/ophyd/options.py"],
}
"""What is measured; a changed adapter is measured anew."""
COMMON = ["instruments/sync.py", "instruments/lane.py", "instruments/settings.py"]
FILES = ["instruments/simulated/wire.py", "tests/wire_chaos.py", "tests/wire_adapters.py", "tests/wire_script.py"]


async def _measure(name: str, seed: int) -> dict[str, Any]:
    adapter, cells, tries = ADAPTERS[name], {}, TRIES
    while len(cells) < len(FAULTS):
        with tempfile.TemporaryDirectory() as text:
            folder = Path(text)
            with adapter.start(folder) as server:
                bench = Bench(adapter, server, folder)
                try:
                    await bench.rehearse()
                    for fault in FAULTS:
                        if fault not in cells:
                            cells[fault] = await bench.cell(fault, seed)
                except InstrumentError:  # the session could not be opened, before any fault: begin with a fresh server
                    tries -= 1
                    if not tries:
                        raise
    return {fault: cells[fault] for fault in FAULTS}


def measure(unit: Unit) -> Mapping[str, Any]:
    """Let one adapter meet each fault once."""
    logging.disable(logging.CRITICAL)  # libraries report each fault; here they are meant
    return asyncio.run(_measure(str(unit.parameters["adapter"]), int(unit.parameters["seed"])))


def code(name: str) -> str:
    """Return the hash of an adapter's program.

    Args:
        name: of the adapter.
    """
    places = [ROOT / place for place in (*CODE[name], *COMMON)]
    return protocol(file for place in places for file in (sorted(place.glob("*.py")) if place.is_dir() else [place]))


def kind(outcome: str) -> str:
    """Return what an outcome means: right, told, wrong, hung or missed."""
    return {"right": "right", "WRONG": "wrong", "HUNG": "hung", "RAISED": "hung", "missed": "missed"}.get(
        outcome, "told"
    )


def tabulate(lines: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, dict[str, dict[str, int]]]]:
    """Count outcomes by adapter, fault and order.

    Args:
        lines: of the benchmark.
    """
    table: dict[str, dict[str, dict[str, dict[str, int]]]] = {}
    for line in lines:
        faults = table.setdefault(line["parameters"]["adapter"], {})
        for fault, cell in line["result"].items():
            orders = faults.setdefault(fault, {"faulted": {}, "next": {}})
            for which in ("faulted", "next"):
                orders[which] = dict(Counter(orders[which]) + Counter([kind(cell[which])]))
    return table


def rows(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Sum up: wrong values by adapter, those that could have been told, and how often the adapter was usable again."""
    made = []
    told = untold = 0
    ours = [line for line in lines if line["parameters"]["adapter"] != SCRIPT]
    for name, adapter in ADAPTERS.items():
        cells = [
            (fault, cell)
            for line in lines
            if line["parameters"]["adapter"] == name
            for fault, cell in line["result"].items()
        ]
        wrong = [fault for fault, cell in cells if "WRONG" in {cell["faulted"], cell["next"]}]
        made.append(row("a retrying script" if name == SCRIPT else name, "wrong_values", "orders", [len(wrong)]))
        if name != SCRIPT:
            flips = sum(fault == "flip" for fault in wrong) if adapter.no_checksum else 0
            untold, told = untold + flips, told + len(wrong) - flips
    cells = [cell for line in ours for cell in line["result"].values()]
    met = [cell for cell in cells if cell["faulted"] != "missed"]
    hung = sum(cell[which] in {"HUNG", "RAISED"} for cell in met for which in ("faulted", "next"))
    return [
        row("matloop", "faults_met", "faults", [len(met)]),
        row("matloop", "wrong_values", "orders", [told]),
        row("matloop", "wrong_values_that_cannot_be_told", "orders", [untold]),
        row("matloop", "orders_without_a_clear_end", "orders", [hung]),
        row("matloop", "usable_again_share", "1", [sum(cell["back"] for cell in met) / max(1, len(met))]),
        row("matloop", "seconds_until_usable_again", "s", [cell["back_s"] for cell in met if cell["back"]]),
        *made,
    ]


def main() -> None:
    """Run what is missing; write the summary when all is there."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    split_arguments(parser)
    parser.add_argument("--data", default=None, help="where public data lie; this benchmark needs none")
    parser.add_argument("--adapter", choices=sorted(ADAPTERS), nargs="+", default=list(ADAPTERS), help="only these")
    parser.add_argument("--earlier", action="store_true", help="let lines of earlier programs count; it is stated")
    chosen = parser.parse_args()
    codes = {name: code(name) for name in ADAPTERS}
    units = [
        Unit(f"{name}/seed {seed}", {"adapter": name, "seed": seed, "code": codes[name]})
        for seed in range(SEEDS)
        for name in ADAPTERS
    ]
    lines = run_missing(
        "wire_chaos",
        [unit for unit in units if unit.parameters["adapter"] in chosen.adapter],
        measure,
        protocol=protocol([ROOT / file for file in FILES]),
        packages=("pyvisa-py", "pymeasure", "pymodbus", "unitelabs-sila", "asyncua", "aioca"),
        counts=lambda line: chosen.earlier or line["parameters"]["code"] == codes[line["parameters"]["adapter"]],
        most=chosen.units,
        part=chosen.part,
        lines=chosen.lines,
    )
    if len(lines) < len(units) or chosen.lines is not None:
        say(f"{len(lines)} of {len(units)} units are measured; the same command goes on")
        return
    work = (
        f"{len(FAULTS)} faults on one reply of one order, {SEEDS} times for each adapter, against a real server of its"
        " protocol on loopback; and of the order after it."
    )
    why = {name: adapter.no_checksum for name, adapter in ADAPTERS.items() if adapter.no_checksum}
    target = summarise(
        "wire_chaos",
        rows(lines),
        work=work,
        command="make bench-wire_chaos",
        table=tabulate(lines),
        flips_cannot_be_told=why,
        programs={
            name: sorted({line["parameters"]["code"] for line in lines if line["parameters"]["adapter"] == name})
            for name in ADAPTERS
        },
        not_measured_here={
            "modbus over a serial line": "no transaction number: a reply that comes after the time-out and before the"
            " next question is told by nothing but the fresh session; frames have a CRC, so flips are told",
        },
    )
    say(f"written: {target.name}")


if __name__ == "__main__":
    main()
