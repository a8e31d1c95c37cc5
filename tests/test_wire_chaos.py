"""The harness of the wire-chaos benchmark, on a few cells: adapters give no wrong value; a script does, and is seen."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.benchmarks import wire_chaos
from tests.wire_adapters import ADAPTERS
from tests.wire_chaos import Bench

CELLS = {"scpi": ("delay", "duplicate", "cut"), "modbus": ("delay", "drop"), "script": ("delay",)}
ENDS = {"right", "told"}


@pytest.mark.parametrize("name", CELLS)
async def test_a_few_cells(name: str, tmp_path: Path) -> None:
    """An order ends with the right value or an error, and so does the next; the script's are wrong without a word."""
    adapter = ADAPTERS[name]
    with adapter.start(tmp_path) as server:
        bench = Bench(adapter, server, tmp_path)
        await bench.rehearse()
        for fault in CELLS[name]:
            cell = await bench.cell(fault, seed=0)
            kinds = {wire_chaos.kind(cell["faulted"]), wire_chaos.kind(cell["next"])}
            if name == "script":
                assert "wrong" in kinds
            else:
                assert kinds <= ENDS, cell
                assert cell["back"], cell


def test_sums() -> None:
    """Wrong values count where they can be told, flips apart where nothing carries a checksum."""
    right = {"faulted": "right", "next": "right", "back": True, "back_s": 0.0}
    wrong = {**right, "faulted": "WRONG"}
    lines = [
        {"parameters": {"adapter": "scpi"}, "result": {"flip": wrong, "delay": right}},
        {"parameters": {"adapter": "remote"}, "result": {"flip": wrong, "drop": {**right, "faulted": "missed"}}},
        {"parameters": {"adapter": "script"}, "result": {"delay": wrong}},
    ]
    found = {(one["who"], one["metric"]): one["median"] for one in wire_chaos.rows(lines)}
    assert found["matloop", "wrong_values"] == 1
    assert found["matloop", "wrong_values_that_cannot_be_told"] == 1
    assert found["matloop", "faults_met"] == 3
    assert found["a retrying script", "wrong_values"] == 1
    assert wire_chaos.tabulate(lines)["scpi"]["flip"]["faulted"] == {"wrong": 1}


def test_the_published_figures_are_clean() -> None:
    """What stands in the results: no adapter let a wrong value through that could have been told."""
    path = Path(wire_chaos.__file__).with_name("results") / "wire_chaos.json"
    if not path.exists():
        pytest.skip("not measured yet")
    rows = {(one["who"], one["metric"]): one["median"] for one in json.loads(path.read_text())["rows"]}
    assert rows["matloop", "wrong_values"] == 0
    assert rows["a retrying script", "wrong_values"] > 0
