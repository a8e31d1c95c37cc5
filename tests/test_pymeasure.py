"""A driver of PyMeasure as an instrument, against a SCPI server that a device file serves."""

from __future__ import annotations

import asyncio
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from instruments import conformance
from instruments.conformance.orders import QuietEvents
from instruments.pymeasure.driver import PyMeasure
from orchestrator import plugins
from orchestrator.config.read import load_lab
from orchestrator.domain import Order, Quantity
from orchestrator.errors import Aborted, Effect, InstrumentError, NotConnected, PluginError
from tests.loopback_servers import Server
from tests.test_scpi import served

CAMPAIGNS = Path(__file__).parent.parent / "campaigns"
SUPPLY = CAMPAIGNS / "devices" / "power_supply.yaml"


def content() -> dict[str, Any]:
    """Return the options of the example lab."""
    return dict(load_lab(CAMPAIGNS / "lab_scpi.yaml").instruments["supply"].options)


def built(server: Server, **options: Any) -> PyMeasure:
    """Build the driver of the example lab, at the address of a server."""
    address = f"TCPIP::127.0.0.1::{server.port}::SOCKET"
    given = {**content(), "address": address, "simulated": True, **options}
    driver: PyMeasure = plugins.build("instruments", "pymeasure", given)
    return driver


def order(volts: float = 10.0) -> Order:
    """Ask for one heating."""
    return Order("k1", "heat", settings={"voltage": Quantity(volts, "volt")})


@pytest.fixture(scope="module")
def supply() -> Iterator[Server]:
    """Serve the example supply."""
    with served(device=SUPPLY) as server:
        yield server


async def test_conformance(supply: Server) -> None:
    """Somebody else's driver keeps our whole contract."""
    findings = await conformance.check(built(supply), level=2)
    assert not conformance.failures(findings)


async def test_attributes_become_quantities(supply: Server) -> None:
    """What was asked in millivolts is set in volts and read back, and the output has its unit."""
    driver = built(supply)
    result = await driver.run(Order("k", "heat", settings={"voltage": Quantity(4000, "mV")}), QuietEvents())
    assert result.applied == {"voltage": Quantity(4.0, "volt"), "current": Quantity(5.0, "ampere")}
    assert result.readings[0].value == pytest.approx(8.0)
    assert result.readings[0].unit == "watt"
    await driver.close()


async def test_a_dead_address_and_the_wrong_device(supply: Server) -> None:
    """Both are known at once, and nothing has happened."""
    with served(device=SUPPLY) as gone:
        driver = built(gone)
    began = time.monotonic()
    with pytest.raises(NotConnected) as caught:
        await driver.open()
    assert time.monotonic() - began < 2.0
    assert caught.value.effect is Effect.NONE
    other = built(supply, expect="^SOMEBODY")
    with pytest.raises(NotConnected, match="KEITHLEY"):
        await other.open()
    await other.close()


async def test_aborts_and_lost_links_say_what_happened() -> None:
    """An abort halts the device once; a lost link at work leaves open what became of it."""
    with served("--duration", "20", device=SUPPLY) as server:
        driver = built(server)
        job = asyncio.create_task(driver.run(order(), QuietEvents()))
        await asyncio.sleep(0.5)
        await driver.abort("a test")
        with pytest.raises(Aborted) as stopped:
            await job
        assert stopped.value.effect is Effect.STARTED
        job = asyncio.create_task(driver.run(order(), QuietEvents()))
        await asyncio.sleep(0.5)
        server.kill()
        with pytest.raises(InstrumentError) as lost:
            await job
        assert lost.value.effect is Effect.UNKNOWN
        await driver.close()


async def test_late_answers_are_never_taken_for_others() -> None:
    """An attribute is read again on a fresh session."""
    with served("--late", "0.05", "--late-by", "0.6", device=SUPPLY) as server:
        driver = built(server, timeout_s=0.4, errors=False)
        for volts in range(1, 9):
            try:
                result = await driver.run(order(float(volts)), QuietEvents())
            except InstrumentError as error:
                assert error.effect in {Effect.NONE, Effect.UNKNOWN}  # noqa: PT017  what must not come is a wrong value
                continue
            assert result.applied["voltage"].value == pytest.approx(volts)
            assert result.readings[0].value == pytest.approx(volts**2 / 2)
        await driver.close()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"class": "os:popen"}, "is not of PyMeasure"),
        ({"class": "pymeasure.instruments.keithley:Nothing"}, "has no Nothing"),
        ({"class": "pymeasure.instruments.keithley.keithley2260B:SCPIMixin"}, "a subclass of"),
        ({"get": {"power": {"attribute": "powr", "unit": "watt"}}}, "has no powr"),
        ({"get": {"power": {"attribute": "__class__"}}}, "no attribute of an instrument"),
        ({"wait": {"attribute": "voltage"}}, "'equals' or 'within'"),
        ({"start": {"method": "a", "attribute": "b"}}, "either 'method'"),
    ],
)
def test_wrong_options_are_refused_offline(change: dict[str, Any], says: str) -> None:
    """Typing errors are found before any device is touched; no class outside PyMeasure is loaded."""
    with pytest.raises(PluginError, match=says):
        plugins.build("instruments", "pymeasure", {**content(), **change})


def test_a_missing_library_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """The class cannot be loaded, and the error says what to type."""
    for name in [*(m for m in sys.modules if m.startswith("pymeasure.")), "pymeasure"]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(PluginError, match=re.escape("pip install 'matloop[pymeasure]'")):
        plugins.build("instruments", "pymeasure", content())
