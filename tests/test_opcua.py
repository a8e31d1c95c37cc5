"""An OPC UA server is an instrument without driver code: variables, methods and LADS programs of a real server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from instruments import conformance
from instruments.opcua.driver import OpcUa
from instruments.opcua.link import OpcUaOptions, Where
from instruments.opcua.scanning import scan
from instruments.opcua.units import UNECE_URI, code_of, from_opcua
from instruments.self_described import scans
from orchestrator.domain import Absent, Finished, Order, Quality, Quantity, Recovery, Running, Unsure
from orchestrator.errors import (
    Aborted,
    BadData,
    Busy,
    ConfigError,
    Effect,
    Fault,
    InstrumentError,
    Interlocked,
    NotConnected,
    Rejected,
    TimedOut,
    UnitError,
)
from tests import loopback_servers

asyncua = pytest.importorskip("asyncua")

FURNACE: dict[str, Any] = {
    "unit": "Furnace",
    "commands": ["anneal"],
    "outputs": {"mass_loss": {}, "temperature": {}},
    "key_parameter": "order_key",
    "key_value": "last_order",
    "state": "state",
    "busy": ["Heating"],
    "interlocked": ["DoorOpen"],
    "progress": "progress",
    "abort_command": "stop",
    "typical_s": 1,
    "longest_s": 20,
}
KILN: dict[str, Any] = {"unit": "Kiln", "commands": ["anneal_template"], "typical_s": 1, "longest_s": 20}


class QuietEvents:
    """Events that remember what they were told."""

    def __init__(self) -> None:
        self.handles: list[dict[str, Any]] = []
        self.fractions: list[float] = []
        self.begun = asyncio.Event()
        self.moved = asyncio.Event()

    async def accepted(self, handle: dict[str, Any]) -> None:
        self.handles.append(handle)
        self.begun.set()

    def progress(self, fraction: float, text: str = "") -> None:
        self.fractions.append(fraction)
        if fraction:
            self.moved.set()

    def abort_requested(self) -> bool:
        return False

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


@pytest.fixture(scope="module")
def server() -> Iterator[loopback_servers.Server]:
    """Serve both furnaces for all tests that do them no harm; the address space takes seconds to build."""
    with loopback_servers.start("opcua_furnace") as one:
        yield one


@pytest.fixture
async def slow(server: loopback_servers.Server) -> AsyncIterator[loopback_servers.Server]:
    """Make the work last long enough to reach into it."""
    await _bench(server.port, "Seconds", 1.5)
    yield server
    await _bench(server.port, "Seconds", 0.3)


async def _bench(port: int, name: str, value: float | str) -> None:
    """Tell the server what is to go wrong, or how long an order takes."""
    async with asyncua.Client(f"opc.tcp://127.0.0.1:{port}", timeout=5) as client:
        node = await client.nodes.objects.get_child(["2:Bench", f"2:{name}"])
        await node.write_value(value)


async def _scan_file(port: int, folder: Path, unit: str) -> Path:
    path = folder / f"{unit}.json"
    scans.write(await scan(Where(f"opc.tcp://127.0.0.1:{port}"), unit), path)
    return path


async def _device(port: int, folder: Path, given: dict[str, Any], **more: Any) -> OpcUa:
    path = await _scan_file(port, folder, given["unit"])
    return _driver(port, path, given, **more)


def _driver(port: int, path: Path, given: dict[str, Any], **more: Any) -> OpcUa:
    return OpcUa(OpcUaOptions(endpoint=f"opc.tcp://127.0.0.1:{port}", scan=path, **{**given, **more}))


def _order(key: str = "k1", temperature: float = 800.0, unit: str = "degC", capability: str = "anneal") -> Order:
    settings = {"target_temperature": Quantity(temperature, unit), "hold_time": Quantity(5.0, "minute")}
    return Order(key, capability, settings, {"atmosphere": "argon"}, deadline_s=10.0)


def _program(key: str = "k1", temperature: float = 800.0) -> Order:
    settings = {"temperature_controller": Quantity(temperature, "degC"), "hold_timer": Quantity(5.0, "minute")}
    return Order(key, "anneal_template", settings, sample="S-1", deadline_s=10.0)


async def test_variables_and_methods_become_capabilities(server: loopback_servers.Server, tmp_path: Path) -> None:
    """Arguments take unit, range and choices from the variable of their name; the key is no set-point."""
    driver = await _device(server.port, tmp_path, FURNACE)
    (capability,) = (await driver.describe()).capabilities
    assert {p.name: (p.unit, p.low, p.high, p.choices) for p in capability.parameters} == {
        "target_temperature": ("degC", 25.0, 1200.0, ()),
        "hold_time": ("minute", 1.0, 600.0, ()),
        "atmosphere": ("dimensionless", None, None, ("air", "argon", "nitrogen")),
    }
    assert {o.name: (o.unit, o.low, o.high) for o in capability.outputs} == {
        "mass_loss": ("percent", -5.0, 100.0),
        "temperature": ("degC", -50.0, 1500.0),
    }


@pytest.mark.parametrize("command", ["anneal", "start"])
async def test_an_order_by_arguments_or_by_variables(
    command: str, server: loopback_servers.Server, tmp_path: Path
) -> None:
    """A method with arguments, and one that takes the variables written before; both are read back."""
    more = {"key_parameter": "", "key_value": ""} if command == "start" else {}
    driver, events = await _device(server.port, tmp_path, FURNACE, commands=[command], **more), QuietEvents()
    result = await driver.run(_order(temperature=1073.15, unit="kelvin", capability=command), events)
    await driver.close()
    values = {r.property: r.value for r in result.readings}
    assert values == pytest.approx({"temperature": 799.5, "mass_loss": 3.15})
    assert result.applied["target_temperature"].value == pytest.approx(800.0)
    assert result.applied_choices == {"atmosphere": "argon"}
    assert max(events.fractions) > 0.1
    assert all(r.quality is Quality.GOOD and abs(time.time() - (r.measured_at or 0) / 1e6) < 5 for r in result.readings)


async def test_a_program_runs_with_our_key(server: loopback_servers.Server, tmp_path: Path) -> None:
    """LADS: the key is the task id, and the result of the ResultSet is read."""
    driver, events = await _device(server.port, tmp_path, KILN), QuietEvents()
    result = await driver.run(_program("task-7"), events)
    assert {r.property for r in result.readings} == {
        "mass_loss_sensor",
        "temperature_controller_current",
        "hold_timer_current",
    }
    assert {r.property: r.value for r in result.readings}["mass_loss_sensor"] == pytest.approx(3.15)
    assert result.applied == {
        "temperature_controller": Quantity(800.0, "degC"),
        "hold_timer": Quantity(5.0, "minute"),
    }
    where = await driver.lookup("task-7", None)
    await driver.close()
    assert isinstance(where, Finished)
    assert where.result.readings == result.readings
    assert events.handles[0]["run"].startswith("run-")


@pytest.mark.parametrize("given", [FURNACE, KILN], ids=["methods", "programs"])
async def test_it_keeps_the_contract(given: dict[str, Any], server: loopback_servers.Server, tmp_path: Path) -> None:
    """Conformance level 2 against the server."""
    driver = await _device(server.port, tmp_path, given)
    failed = conformance.failures(await conformance.check(driver, level=2, send=True))
    assert not failed, "\n".join(map(str, failed))


async def test_refusals_come_as_returned_status_codes(slow: loopback_servers.Server, tmp_path: Path) -> None:
    """Busy and out of range by the server's own word have no effect."""
    path = await _scan_file(slow.port, tmp_path, "Furnace")
    one, other = _driver(slow.port, path, FURNACE), _driver(slow.port, path, FURNACE, state="", busy=[])
    events = QuietEvents()
    job = asyncio.create_task(one.run(_order("a"), events))
    await events.begun.wait()
    assert (await one.health()).state == "busy"
    with pytest.raises(Busy, match="BadInvalidState") as caught:
        await other.run(_order("b"), QuietEvents())
    assert caught.value.effect is Effect.NONE
    third = _driver(slow.port, path, FURNACE)
    with pytest.raises(Busy, match="Heating"):
        await third.run(_order("c"), QuietEvents())
    await job
    low = replace_bounds(other)
    with pytest.raises(Rejected, match="BadOutOfRange") as refused:
        await low.run(_order("d", temperature=1300.0), QuietEvents())
    assert refused.value.effect is Effect.NONE
    for driver in (one, other, third, low):
        await driver.close()


def replace_bounds(driver: OpcUa) -> OpcUa:
    """Return a driver that takes the device to allow more than it does, so that its own refusal is seen."""
    parameter = driver.offers["anneal"].capability.parameters[0]
    object.__setattr__(parameter, "high", 1400.0)
    return driver


@pytest.mark.parametrize(
    ("trouble", "kind", "match"),
    [
        ("bad", BadData, "BadSensorFailure"),
        ("last_usable", BadData, "no new measurement"),
        ("stale", BadData, "older than the order"),
        ("door", Interlocked, "BadConditionDisabled"),
    ],
)
async def test_what_is_no_measurement_is_refused(
    trouble: str, kind: type[InstrumentError], match: str, server: loopback_servers.Server, tmp_path: Path
) -> None:
    """Status code and source time stamp are read with the value; the lab says what a code of the device means."""
    driver = await _device(server.port, tmp_path, FURNACE, errors={"BadConditionDisabled": "interlocked"})
    await _bench(server.port, "Trouble", trouble)
    try:
        with pytest.raises(kind, match=match):
            await driver.run(_order(), QuietEvents())
    finally:
        await _bench(server.port, "Trouble", "")
        await driver.close()


async def test_uncertain_values_are_kept_as_uncertain(server: loopback_servers.Server, tmp_path: Path) -> None:
    """An uncertain value does not train a surrogate, and is no failure either."""
    driver = await _device(server.port, tmp_path, FURNACE)
    await _bench(server.port, "Trouble", "uncertain")
    try:
        result = await driver.run(_order(), QuietEvents())
    finally:
        await _bench(server.port, "Trouble", "")
        await driver.close()
    assert {r.property: r.quality for r in result.readings}["mass_loss"] is Quality.UNCERTAIN


async def test_a_job_is_found_again_by_its_key(slow: loopback_servers.Server, tmp_path: Path) -> None:
    """Plain units with a key in an argument and a variable, and LADS units by their task id."""
    for given, order in ((FURNACE, _order("p1")), (KILN, _program("p2"))):
        path, events = await _scan_file(slow.port, tmp_path, given["unit"]), QuietEvents()
        dead, heir = _driver(slow.port, path, given), _driver(slow.port, path, given)
        assert (await heir.describe()).recovery is Recovery.QUERYABLE
        assert isinstance(await heir.lookup(order.key, None), Absent)
        job = asyncio.create_task(dead.run(order, events))
        await events.begun.wait()
        where = await heir.lookup(order.key, events.handles[0])
        assert isinstance(where, Running)
        result = await heir.attach(where.handle, QuietEvents())
        values = [r.value for r in result.readings if r.property.startswith("mass_loss")]
        assert values == pytest.approx([3.15])
        assert (await job).key == result.key == order.key
        assert isinstance(await heir.lookup(order.key, events.handles[0]), Finished)
        unknown = await heir.lookup("p9", events.handles[0])
        assert isinstance(unknown, Unsure)
        await dead.close()
        await heir.close()


@pytest.mark.parametrize("given", [FURNACE, KILN], ids=["methods", "programs"])
async def test_an_abort_ends_the_job(given: dict[str, Any], slow: loopback_servers.Server, tmp_path: Path) -> None:
    """By the named method, or by the unit's own."""
    driver, events = await _device(slow.port, tmp_path, given), QuietEvents()
    job = asyncio.create_task(driver.run(_order("x") if given is FURNACE else _program("y"), events))
    await events.moved.wait()
    began = time.monotonic()
    await driver.abort("stop")
    with pytest.raises(Aborted):
        await job
    assert time.monotonic() - began < 1.0
    await driver.close()


@pytest.mark.parametrize("given", [FURNACE, KILN], ids=["methods", "programs"])
async def test_frozen_killed_and_started_again(given: dict[str, Any], tmp_path: Path) -> None:
    """Silence in a job is an unknown effect; a dead address is known within two seconds; a new server is used again."""
    order = _order if given is FURNACE else _program
    with loopback_servers.start("opcua_furnace", "--seconds", "30") as server:
        driver, events = await _device(server.port, tmp_path, given), QuietEvents()
        job = asyncio.create_task(driver.run(order(), events))
        await events.moved.wait()
        server.freeze()
        assert (await driver.health()).state == "offline"
        with pytest.raises((TimedOut, NotConnected)) as caught:
            await asyncio.wait_for(job, 10.0)
        assert caught.value.effect is Effect.UNKNOWN
        server.kill()
    began = time.monotonic()
    with pytest.raises(NotConnected) as refused:
        await driver.run(order(), QuietEvents())
    assert time.monotonic() - began < 2.0
    assert refused.value.effect is Effect.NONE
    if given is KILN:
        await driver.close()
        return
    with loopback_servers.start("opcua_furnace", port=server.port):
        assert (await driver.run(order("again"), QuietEvents())).key == "again"
        await driver.close()


async def test_a_device_that_changed_is_refused_by_name(server: loopback_servers.Server, tmp_path: Path) -> None:
    """What differs is named, nothing is sent, and the way out is said."""
    path = await _scan_file(server.port, tmp_path, "Furnace")
    with loopback_servers.start("opcua_furnace", "--highest", "1100") as other:
        driver = _driver(other.port, path, FURNACE)
        with pytest.raises(Fault, match=r"anneal\.target_temperature\.high: 1200 → 1100.*lab scan") as caught:
            await driver.open()
        await driver.close()
    assert caught.value.effect is Effect.NONE


async def test_name_and_password_come_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server with users lets in who knows the password, and nobody else; the file holds neither."""
    with loopback_servers.start("opcua_furnace", "--password", "open-sesame") as server:
        endpoint = f"opc.tcp://127.0.0.1:{server.port}"
        given = {"user_env": "FURNACE_USER", "password_env": "FURNACE_PASSWORD"}
        with pytest.raises(NotConnected, match="FURNACE_USER"):
            await scan(Where(endpoint, **given), "Furnace")
        monkeypatch.setenv("FURNACE_USER", "lab")
        monkeypatch.setenv("FURNACE_PASSWORD", "wrong")
        with pytest.raises(NotConnected):
            await scan(Where(endpoint, **given), "Furnace")
        monkeypatch.setenv("FURNACE_PASSWORD", "open-sesame")
        assert (await scan(Where(endpoint, **given), "Furnace")).command("anneal") is not None


async def test_a_signed_and_encrypted_link(tmp_path: Path) -> None:
    """A server that wants a security policy is reached with it, and not without."""
    with loopback_servers.start("opcua_furnace", "--secure", str(tmp_path)) as server:
        endpoint = f"opc.tcp://127.0.0.1:{server.port}"
        secure: dict[str, Any] = {
            "security": "Basic256Sha256",
            "certificate": tmp_path / "client.der",
            "private_key": tmp_path / "client.key.pem",
            "server_certificate": tmp_path / "server.der",
        }
        path = tmp_path / "furnace.json"
        scans.write(await scan(Where(endpoint, **secure), "Furnace"), path)
        driver = _driver(server.port, path, FURNACE, **secure)
        assert (await driver.run(_order(), QuietEvents())).key == "k1"
        await driver.close()
        with pytest.raises(NotConnected):
            await scan(Where(endpoint), "Furnace")


async def test_what_cannot_be_varied_or_told_is_refused(server: loopback_servers.Server, tmp_path: Path) -> None:
    """Free text needs a fixed value, and a state needs to say when the work is over."""
    path = await _scan_file(server.port, tmp_path, "Furnace")
    with pytest.raises(ConfigError, match="free text"):
        await _driver(server.port, path, FURNACE, key_parameter="", key_value="").describe()
    fixed = _driver(server.port, path, FURNACE, key_parameter="", key_value="", fixed={"order_key": "none"})
    assert (await fixed.describe()).recovery is Recovery.BLIND
    with pytest.raises(ConfigError, match="busy"):
        await _driver(server.port, path, FURNACE, busy=[]).describe()


def test_a_plain_link_to_another_computer_must_be_wanted(tmp_path: Path) -> None:
    """Without security only this computer, or with a word of the site."""
    with pytest.raises(ValueError, match="insecure: true"):
        OpcUaOptions(endpoint="opc.tcp://10.0.0.7:4840", scan=tmp_path / "s.json")


def test_units_by_code_and_by_name() -> None:
    """Codes of UNECE and names that pint knows; where they contradict each other, somebody must look."""
    assert code_of(4408652) == "CEL"
    assert from_opcua(UNECE_URI, 4408652, "°C") == "degC"
    assert from_opcua("http://vendor.example", 1, "mL/min") == "mL/min"
    with pytest.raises(UnitError, match="not known"):
        from_opcua("http://vendor.example", 1, "zorks")
    with pytest.raises(UnitError, match="means degC"):
        from_opcua(UNECE_URI, 4408652, "bar")
