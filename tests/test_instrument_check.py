"""`matloop instrument check`: levels never rise by themselves, windows are kept, reports can be read by programs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from instruments.commands import instrument
from orchestrator.domain import Description, Order
from orchestrator.domain import Result as Measured
from orchestrator.protocols import Events
from tests.good_oven import Oven

ORDERS: list[Order] = []


class RealOven(Oven):
    """An oven that gets hot."""

    async def describe(self) -> Description:
        """Say that it is real."""
        return replace(await super().describe(), simulated=False)

    async def run(self, order: Order, events: Events) -> Measured:
        """Remember what was ordered."""
        ORDERS.append(order)
        return await super().run(order, events)


@pytest.fixture(autouse=True)
def _drivers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the command find the two ovens by name."""
    ORDERS.clear()
    kinds = {"good": Oven, "real": RealOven}

    def build(kind: str, name: str, options: dict[str, Any], **_: Any) -> Oven:
        return kinds[name](kinds[name].Options.model_validate(options))

    monkeypatch.setattr("orchestrator.plugins.build", build)


def call(*arguments: str, text: str = "") -> Result:
    """Call the command."""
    return CliRunner().invoke(instrument, ["check", *arguments], input=text)


WINDOW = ("--window", "temperature=25..40degC", "--window", "time=60..120 second")


def test_a_report_for_programs(tmp_path: Path) -> None:
    """The report names driver, identity, level, versions and each finding with its seconds; on screen or in a file."""
    file = tmp_path / "report.json"
    done = call("good", "--level", "2", "--dead", '{"port": "dead"}', "--json", str(file))
    assert done.exit_code == 0, done.output
    assert ", 0 failed, 0 not tried" in done.output
    report = json.loads(file.read_text())
    assert report["identity"] == {"name": "oven", "serial": "SN1", "firmware": ""}
    assert (report["name"], report["level"], report["passed"]) == ("good", 2, True)
    assert {"matloop", "python", "platform"} <= set(report["versions"])
    assert any(one["rule"] == "a dead address is not connected" and one["passed"] for one in report["findings"])
    assert 0 < report["seconds"] < 60  # a second or two; this may run on a busy computer
    assert json.loads(call("good", "--level", "0", "--json", "-").output)["findings"]


def test_real_instruments_move_only_when_their_name_is_typed() -> None:
    """Without a window, or with a wrong name, nothing is sent; with both, orders are."""
    assert "--window 'temperature=" in call("real", "--level", "2").output
    assert call("real", "--level", "2", *WINDOW, text="the oven\n").exit_code == 2
    assert call("real", "--level", "2", *WINDOW, "--yes", "oven").exit_code == 2
    passive = call("real", "--level", "1")
    assert passive.exit_code == 0, passive.output
    assert "not tried: a real instrument" in passive.output
    assert not ORDERS
    done = call("real", "--level", "2", *WINDOW, text="real\n")
    assert done.exit_code == 0, done.output
    assert ORDERS


def test_levels_do_not_rise_by_themselves() -> None:
    """--yes at level 1 sends what must be refused, and nothing that works."""
    done = call("real", "--yes", "real", "--all")
    assert done.exit_code == 0, done.output
    assert "refuses NaN" in done.output
    assert "a good order works" not in done.output


@pytest.mark.parametrize(
    ("window", "message"),
    [
        ("temperature", "is no window"),
        ("temperature=40..25degC", "is no window"),
        ("temperature=25..40C", "coulomb"),
        ("pressure=1..2bar", "the numbers to set are: temperature, time"),
        ("temperature=25..900degC", "20.0 to 800.0 is declared"),
        ("temperature=1..2meter", "--window temperature"),
    ],
)
def test_wrong_windows(window: str, message: str) -> None:
    """A window that cannot be read, or lies outside of what is declared, is told before anything is sent."""
    done = call("real", "--level", "2", "--window", window, "--yes", "real")
    assert done.exit_code == 2
    assert message in done.output
    assert not ORDERS


def test_the_rules_are_listed() -> None:
    """`--rules` names every rule with the mistake it catches; no driver is needed."""
    done = call("--rules")
    assert done.exit_code == 0
    assert len(done.output.splitlines()) > 70
    assert "2  the event loop stays free: a blocking read in an async method" in done.output
    assert "name a driver" in call().output


def test_accidents() -> None:
    """Level 3 adds a row of orders, a clock that jumps and a full disk, which a good driver does not mind."""
    done = call("good", "--level", "3", "--orders", "9", "--all")
    assert done.exit_code == 0, done.output
    for rule in ("orders in a row stay right", "nothing grows", "a jump of the clock", "a full disk is told"):
        assert rule in done.output
    assert "needs --pid" in call("good", "--level", "3", "--restart-command", "true").output
    assert "write HOST:PORT" in call("good", "--level", "3", "--wire", "127.0.0.1:5025").output
