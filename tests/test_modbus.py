"""Modbus devices described by their register map, over TCP and RTU, against pymodbus's server."""

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
from instruments.modbus.driver import Modbus
from instruments.modbus.link import ModbusLink
from instruments.modbus.register_map import Register, RegisterMap
from instruments.scpi.device import read_device
from orchestrator import plugins
from orchestrator.config.read import load_lab
from orchestrator.domain import Order, Quantity
from orchestrator.errors import Aborted, Effect, Fault, InstrumentError, NotConnected, PluginError, Rejected
from tests.loopback_servers import Server, start

CAMPAIGNS = Path(__file__).parent.parent / "campaigns"
FURNACE = CAMPAIGNS / "devices" / "tube_furnace.yaml"


def content() -> dict[str, Any]:
    """Return the content of the example file."""
    return read_device(FURNACE)


def built(address: str, **options: Any) -> Modbus:
    """Build the driver as a lab file does."""
    given = {"device": str(FURNACE), "address": address, "simulated": True, **options}
    driver: Modbus = plugins.build("instruments", "modbus", given)
    return driver


def tcp(server: Server) -> str:
    """Write the address of a server."""
    return f"127.0.0.1:{server.port}"


def order(temperature: float = 850.0) -> Order:
    """Ask for one firing."""
    settings = {"temperature": Quantity(temperature, "degC"), "time": Quantity(2.0, "hour")}
    return Order("k1", "fire", settings=settings, choices={"gas": "argon"})


@pytest.fixture(scope="module")
def furnace() -> Iterator[Server]:
    """Serve a furnace."""
    with start("modbus_furnace") as server:
        yield server


async def test_conformance_over_tcp(furnace: Server) -> None:
    """The register map keeps the whole contract over TCP."""
    dead = built("127.0.0.1:9")
    findings = await conformance.check(built(tcp(furnace)), level=2, dead=dead)
    assert not conformance.failures(findings)


async def test_conformance_over_rtu() -> None:
    """And over a serial line."""
    with start("modbus_furnace", "--rtu") as server:
        findings = await conformance.check(built(server.address, baud_rate=115200), level=2)
    assert not conformance.failures(findings)


async def test_numbers_are_scaled_and_read_back(furnace: Server) -> None:
    """A set-point is written in the register's steps, and what stands there is what was applied."""
    driver = built(tcp(furnace))
    result = await driver.run(order(850.04), QuietEvents())
    assert result.applied["temperature"].value == pytest.approx(850.0)
    assert result.applied["time"] == Quantity(120.0, "minute")
    assert result.applied_choices == {"gas": "argon"}
    assert result.readings[0].value == pytest.approx(12.0, abs=0.1)
    await driver.close()


async def test_swapped_words_are_noticed() -> None:
    """300.0 read the wrong way round is 2.4e-41; the register of known value says so, and what to write."""
    with start("modbus_furnace", "--swapped") as server:
        driver = built(tcp(server))
        with pytest.raises(NotConnected, match="word_order: little"):
            await driver.open()
        await driver.close()
        right = built(tcp(server), device={**content(), "word_order": "little"})
        assert (await right.run(order(), QuietEvents())).readings[0].value > 1.0
        await right.close()


async def test_what_the_device_refuses_has_no_effect(furnace: Server) -> None:
    """A file that allows more than the device takes ends in a refusal."""
    wide = content()
    wide["parameters"]["temperature"]["high"] = 2000
    driver = built(tcp(furnace), device=wide)
    with pytest.raises(Rejected, match="exception 3") as caught:
        await driver.run(order(1500.0), QuietEvents())
    assert caught.value.effect is Effect.NONE
    await driver.close()


async def test_a_failed_firing_is_a_fault() -> None:
    """The error register ends the wait."""
    with start("modbus_furnace", "--fails") as server:
        driver = built(tcp(server))
        with pytest.raises(Fault, match="error 7") as caught:
            await driver.run(order(), QuietEvents())
        assert caught.value.effect is Effect.STARTED
        await driver.close()


async def test_an_abort_halts_the_furnace() -> None:
    """The abort coil is written beside the waiting job, and the furnace takes the next order."""
    with start("modbus_furnace", "--duration", "20") as server:
        driver = built(tcp(server))
        job = asyncio.create_task(driver.run(order(), QuietEvents()))
        await asyncio.sleep(0.5)
        await driver.abort("a test")
        with pytest.raises(Aborted) as caught:
            await job
        assert caught.value.effect is Effect.STARTED
        assert (await driver.health()).state == "ready"
        await driver.close()


async def test_a_lost_and_a_frozen_link_are_told_apart_by_their_effect() -> None:
    """Before the start nothing has happened; at work nobody knows."""
    with start("modbus_furnace", "--duration", "20") as server:
        driver = built(tcp(server), timeout_s=0.2)
        await driver.open()
        server.freeze()
        began = time.monotonic()
        assert (await driver.health()).state == "offline"
        assert time.monotonic() - began < 1.0
        with pytest.raises(InstrumentError) as caught:
            await driver.run(order(), QuietEvents())
        assert caught.value.effect is Effect.NONE
        server.thaw()
        job = asyncio.create_task(driver.run(order(), QuietEvents()))
        await asyncio.sleep(1.0)
        server.kill()
        with pytest.raises(InstrumentError) as caught:
            await job
        assert caught.value.effect is Effect.UNKNOWN
        await driver.close()


async def test_late_answers_on_rtu_are_never_taken_for_others() -> None:
    """RTU has no request numbers: the line must be silent, and the known register right, before the next question."""
    with start("modbus_furnace", "--rtu", "--late", "0.08") as server:
        who = RegisterMap.model_validate({**content(), "identity": {"register": content()["identity"]["register"]}})
        link = ModbusLink(server.address, who.identity, timeout_s=0.1, baud_rate=115200, retries=3)
        place = Register(address=10, type="int16")

        def ask() -> int:
            link.open()
            wrong = 0
            for turn in range(40):
                try:
                    link.write(place, 100 + turn)
                except InstrumentError:
                    continue  # a write is sent once; the driver's read-back and its caller see to it
                wrong += link.read(place) != 100 + turn
            link.close()
            return wrong

        assert await asyncio.to_thread(ask) == 0
        assert link.reopened > 0


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"identity": {}}, "a register of known value"),
        ({"outputs": {"m": {"unit": "C", "register": {"address": 1}}}}, "ambiguous"),
        (
            {"parameters": {"t": {"low": 0, "high": 1, "register": {"table": "input", "address": 1}}}},
            "cannot be written",
        ),
        ({"parameters": {}}, "there are"),
        ({"nonsense": 1}, "nonsense"),
    ],
)
def test_a_wrong_map_is_refused(change: dict[str, Any], says: str) -> None:
    """The mistake is found offline."""
    given = content()
    given["capabilities"]["fire"]["parameters"] = ["temperature"]
    given["capabilities"]["fire"]["outputs"] = ["mass_loss"]
    with pytest.raises(PluginError, match=says):
        built("127.0.0.1:1", device={**given, **change})


async def test_the_example_lab_is_read() -> None:
    """The lab file's driver declares the furnace, offline."""
    lab = load_lab(CAMPAIGNS / "lab_modbus.yaml")
    given = lab.instruments["furnace"]
    driver = plugins.build("instruments", given.use, given.options, base=str(CAMPAIGNS))
    described = await driver.describe()
    assert [p.name for p in described.capability("fire").parameters] == ["temperature", "time", "gas"]
    assert not described.simulated


async def test_a_missing_library_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver is built and described without pymodbus; opening says what to type."""
    monkeypatch.setitem(sys.modules, "pymodbus.client", None)
    driver = built("127.0.0.1:9")
    assert (await driver.describe()).capability("fire").outputs[0].unit == "percent"
    with pytest.raises(NotConnected, match=re.escape("pip install 'matloop[modbus]'")):
        await driver.open()
    await driver.close()
