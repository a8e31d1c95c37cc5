"""Level 3 of the conformance checks: accidents at a device, which a good driver survives and a bad one does not."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from instruments import conformance
from instruments.conformance import RULES, Accidents, Finding, Level
from instruments.scpi.driver import Scpi
from orchestrator import plugins
from orchestrator.domain import Health
from tests import bad_in_drills
from tests.bad_drivers import BAD
from tests.loopback_servers import Server, launch
from tests.wire_script import Script

HEATER = Path(__file__).parents[1] / "campaigns" / "devices" / "heater.yaml"
ALONE = [(driver, rule) for rule, drivers in BAD.items() for driver in drivers if RULES[rule].level is Level.DRILLS]


@pytest.fixture
def device(tmp_path: Path) -> Path:
    """Write the example heater without noise, and with a short time-out."""
    file = tmp_path / "heater.yaml"
    text = HEATER.read_text().replace("noise: 0.005", "noise: 0.0").replace("timeout_s: 1.0", "timeout_s: 0.3")
    file.write_text(text)
    return file


@pytest.fixture
def heater(device: Path) -> Iterator[Server]:
    """Serve it."""
    with launch(serving(device, 0)) as server:
        yield server


def serving(device: Path, port: int) -> list[str]:
    """Return the command that serves a device."""
    return [sys.executable, "-m", "flows.cli", "instrument", "serve", str(device), "--port", str(port)]


def scpi(device: Path, port: int) -> Scpi:
    """Build the driver."""
    options = {"device": str(device), "address": f"TCPIP::127.0.0.1::{port}::SOCKET", "simulated": True}
    driver: Scpi = plugins.build("instruments", "scpi", options)
    return driver


def drills(findings: list[Finding]) -> dict[str, bool]:
    """Return the outcome of each rule of level 3."""
    found: dict[str, bool] = {}
    for one in findings:
        if one.level is Level.DRILLS:
            found[one.rule] = found.get(one.rule, True) and bool(one.passed)
    return found


@pytest.mark.parametrize(("driver", "rule"), ALONE, ids=[driver.__name__ for driver, _ in ALONE])
async def test_mistakes_are_caught(driver: type, rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each bad driver fails the rule that is there for it."""
    monkeypatch.setattr("instruments.conformance.active.ABORT_S", 0.5)
    try:
        findings = await conformance.check(driver(), level=3, accidents=Accidents(orders=60))
    finally:
        bad_in_drills.forget_files()
    assert rule in {finding.rule for finding in conformance.failures(findings)}


@pytest.mark.slow
async def test_a_good_driver_survives_everything(heater: Server, device: Path) -> None:
    """The SCPI driver notices a device that freezes or dies, and works again; no spoiled reply gives a wrong value."""
    again = " ".join(serving(device, heater.port))
    spoiled = Accidents(orders=3, device=("127.0.0.1", heater.port), through=lambda port: scpi(device, port))
    findings = await conformance.check(scpi(device, heater.port), level=3, accidents=spoiled)
    unplugged = Accidents(orders=30, pid=heater.process.pid, restart=again)
    findings += await conformance.check(scpi(device, heater.port), level=3, accidents=unplugged)
    assert not conformance.failures(findings)
    assert set(drills(findings)) == {rule.name for rule in RULES.values() if rule.level is Level.DRILLS}


class Liar(Scpi):
    """A driver whose health never asks the device, and which waits for it as long as it takes."""

    async def health(self) -> Health:
        return Health("ready")


@pytest.mark.slow
async def test_a_script_and_a_liar_are_caught(heater: Server, device: Path) -> None:
    """A script on one session gives wrong values; a health from a cache does not notice a frozen device."""
    script = Accidents(orders=3, device=("127.0.0.1", heater.port), through=Script)
    found = drills(await conformance.check(Script(heater.port), level=3, accidents=script))
    assert not found["a spoiled reply gives no wrong value"]
    assert not found["it works after a spoiled reply"]
    liar = scpi(device, heater.port)
    liar.__class__ = Liar
    found = drills(await conformance.check(liar, level=3, accidents=Accidents(orders=3, pid=heater.process.pid)))
    assert not found["a frozen device is noticed"]
    assert found["it works after a freeze"]
