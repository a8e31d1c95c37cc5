"""SCPI devices described by YAML alone, over TCP and a serial line, against the simulator that the file serves."""

from __future__ import annotations

import asyncio
import re
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from instruments import conformance
from instruments.conformance.orders import QuietEvents
from instruments.examples import heater as heater_example
from instruments.scpi.commands import serve
from instruments.scpi.device import Device, read_device
from instruments.scpi.driver import Scpi
from instruments.scpi.session import ScpiSession
from instruments.scpi.simulator import Background
from instruments.simulated.wire import Chaos
from orchestrator import loop, plugins
from orchestrator.campaign import Campaign
from orchestrator.domain import Absent, Finished, Order, Quantity, Running
from orchestrator.errors import Aborted, Effect, InstrumentError, NotConnected, PluginError, Rejected, TimedOut
from orchestrator.record.states import TrialState
from orchestrator.record.store import CampaignStore
from tests.loopback_servers import Server, launch

DEVICES = Path(__file__).parent.parent / "campaigns" / "devices"
HEATER = DEVICES / "heater.yaml"


def served(*arguments: str, device: Path = HEATER) -> Server:
    """Start the command that a user types."""
    return launch([sys.executable, "-m", "flows.cli", "instrument", "serve", str(device), *arguments])


def built(address: str, **options: Any) -> Scpi:
    """Build the driver as a lab file does."""
    content = {"device": "heater.yaml", "address": address, "simulated": True, **options}
    driver: Scpi = plugins.build("instruments", "scpi", content, base=str(DEVICES))
    return driver


def tcp(server: Server) -> str:
    """Write the address of a server as VISA does."""
    return f"TCPIP::127.0.0.1::{server.port}::SOCKET"


def order(key: str = "k1", temperature: float = 640.0, minutes: float = 45.0, gas: str = "argon") -> Order:
    """Ask for one anneal."""
    settings = {"temperature": Quantity(temperature, "degC"), "time": Quantity(minutes, "minute")}
    return Order(key, "anneal", settings=settings, choices={"gas": gas})


@pytest.fixture(scope="module")
def heater() -> Iterator[Server]:
    """Serve the example heater."""
    with served() as server:
        yield server


async def test_conformance_over_tcp(heater: Server) -> None:
    """The YAML-only device keeps the whole contract over a socket."""
    findings = await conformance.check(built(tcp(heater)), level=2)
    assert not conformance.failures(findings)


async def test_conformance_over_a_serial_line() -> None:
    """And over a pseudo-terminal."""
    with served("--pty") as server:
        findings = await conformance.check(built(f"ASRL{server.address}::INSTR", baud_rate=115200), level=2)
    assert not conformance.failures(findings)


async def test_a_dead_address_is_known_at_once(heater: Server) -> None:
    """pyvisa-py opens a dead port without an error; the identity query tells."""
    with served() as gone:
        address = tcp(gone)
    driver = built(address)
    began = time.monotonic()
    with pytest.raises(NotConnected) as caught:
        await driver.open()
    assert time.monotonic() - began < 2.0
    assert caught.value.effect is Effect.NONE
    await driver.close()
    other = built(tcp(heater), device={**device(), "identity": {"expect": "^SOMEBODY"}})
    with pytest.raises(NotConnected, match="MATLOOP,HEATER"):
        await other.open()
    await other.close()


def device() -> dict[str, Any]:
    """Return the content of the example file."""
    return read_device(HEATER)


async def test_late_answers_are_never_taken_for_others() -> None:
    """One reply in twenty comes after the time-out; every answer is still the right one."""
    with served("--late", "0.05", "--late-by", "0.15") as server:
        session = ScpiSession(tcp(server), expect="^MATLOOP", timeout_s=0.1)
        session.open()

        def ask() -> int:
            wrong = 0
            for turn in range(60):
                session.write(f"SOUR:TEMP {100 + turn}")
                wrong += session.number("SOUR:TEMP?") != 100 + turn
                wrong += session.query("SYST:ERR?") != '0,"No error"'
            return wrong

        assert await asyncio.to_thread(ask) == 0
        assert session.reopened > 0
        session.close()


async def test_late_answers_on_a_serial_line() -> None:
    """Reopening a serial line keeps what is under way; the identity tells where the answers stand."""
    with served("--pty", "--late", "0.1", "--late-by", "0.15") as server:
        session = ScpiSession(f"ASRL{server.address}::INSTR", expect="^MATLOOP", timeout_s=0.1)
        session.open()

        def ask() -> int:
            wrong = 0
            for turn in range(40):
                session.write(f"SOUR:TEMP {100 + turn}")
                wrong += session.number("SOUR:TEMP?") != 100 + turn
            return wrong

        assert await asyncio.to_thread(ask) == 0
        assert session.reopened > 0
        session.close()


async def test_the_device_is_asked_what_it_applied(heater: Server) -> None:
    """The set-point that the device has is what the surrogate learns from; one that it refuses ends the order."""
    driver = built(tcp(heater))
    result = await driver.run(order(temperature=640.004), QuietEvents())
    assert result.applied["temperature"] == Quantity(640.0, "degC")
    assert result.applied["time"].value == pytest.approx(45.0)
    assert result.applied_choices == {"gas": "argon"}
    assert result.readings[0].unit == "kohm"
    assert 20 < result.readings[0].value < 35
    await driver.close()
    narrow = device()
    narrow["parameters"]["temperature"]["high"] = 2000  # the file says more than the device takes
    driver = built(tcp(heater), device=narrow)
    with pytest.raises(Rejected, match="-222") as caught:
        await driver.run(order(temperature=1500), QuietEvents())
    assert caught.value.effect is Effect.NONE
    await driver.close()


async def test_an_abort_halts_the_device_at_once() -> None:
    """The abort goes beside the waiting job, and the device takes the next order."""
    with served("--duration", "20") as server:
        driver = built(tcp(server))
        job = asyncio.create_task(driver.run(order(), QuietEvents()))
        await asyncio.sleep(0.5)
        assert (await driver.health()).state == "busy"
        began = time.monotonic()
        await driver.abort("a test")
        with pytest.raises(Aborted) as caught:
            await job
        assert time.monotonic() - began < 1.0
        assert caught.value.effect is Effect.STARTED
        assert (await driver.health()).state == "ready"
        await driver.close()


async def test_the_plug_is_pulled_at_work() -> None:
    """What is under way when the link is lost stays open: nobody knows."""
    with served("--duration", "20") as server:
        driver = built(tcp(server))
        job = asyncio.create_task(driver.run(order(), QuietEvents()))
        await asyncio.sleep(0.5)
        server.kill()
        with pytest.raises(InstrumentError) as caught:
            await job
        assert caught.value.effect is Effect.UNKNOWN
        await driver.close()


async def test_a_frozen_device_is_left_in_time() -> None:
    """A peer that accepts and never answers ends as an error with the right effect, within the time-outs."""
    with served() as server:
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
        result = await driver.run(order(), QuietEvents())
        assert result.key == "k1"
        await driver.close()


async def test_a_job_is_found_again_after_a_crash() -> None:
    """Another process asks the device by the order's key: running, done, or never begun."""
    with served("--duration", "1.5") as server:
        dead, alive = built(tcp(server)), built(tcp(server))
        events = QuietEvents()
        job = asyncio.create_task(dead.run(order("mine"), events))
        await asyncio.sleep(0.5)
        assert events.handles == [{"key": "mine", "capability": "anneal"}]
        where = await alive.lookup("mine", events.handles[0])
        assert isinstance(where, Running)
        result = await alive.attach(where.handle, QuietEvents())
        assert result.applied["temperature"].value == 640.0
        assert isinstance(await alive.lookup("other", None), Absent)
        assert (await job).readings == result.readings
        found = await alive.lookup("mine", None)
        assert isinstance(found, Finished)
        assert found.result.readings == result.readings
        await dead.close()
        await alive.close()


async def test_it_practises_against_its_own_simulator() -> None:
    """`address: simulator` needs no second program, and leaves no thread behind."""
    before = set(threading.enumerate())
    driver = built("simulator")
    assert (await driver.run(order(), QuietEvents())).key == "k1"
    await driver.make_safe()
    await driver.close()
    left = {t.name for t in set(threading.enumerate()) - before if not t.name.startswith("asyncio_")}
    assert not left


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"parameters": {"temperature": {"set": "T {value}", "read": "T?"}}}, "needs 'low' below 'high'"),
        ({"parameters": {"t": {"low": 0, "high": 1, "set": "T {value.real}", "read": "T?"}}}, "a template knows"),
        ({"outputs": {"r": {"unit": "C", "query": "R?"}}}, "ambiguous"),
        ({"job": "JOB?", "capabilities": {"go": {"start": "GO", "settle": {"query": "S?", "equals": "0"}}}}, "{key}"),
        ({"capabilities": {"go": {"start": "GO", "settle": {"query": "S?"}}}}, "a condition needs one of"),
        ({"nonsense": 1}, "nonsense"),
    ],
)
def test_a_wrong_device_file_is_refused(change: dict[str, Any], says: str) -> None:
    """The mistake is found offline, and its place is told."""
    with pytest.raises(PluginError, match=re.escape(says)):
        built("simulator", device={**device(), **change})


def test_the_command_says_what_is_wrong_with_a_file(tmp_path: Path) -> None:
    """A file that cannot be served ends with a sentence, not with a trace."""
    file = tmp_path / "wrong.yaml"
    file.write_text("name: x\noutputs: {r: {query: 'R?'}}\ncapabilities: {go: {start: GO}}\n")
    answered = CliRunner().invoke(serve, [str(file)])
    assert answered.exit_code == 1
    assert "capabilities.go.settle" in answered.output


def test_a_campaign_over_a_device_of_yaml_alone(tmp_path: Path) -> None:
    """The example runs as it stands; it learns from set-points that the device read back, and finds the valley."""
    store = CampaignStore.open(tmp_path / "store.db")
    campaign = Campaign.create(DEVICES.parent / "yaml_heater.yaml", store=store, actor="test")
    reason = asyncio.run(loop.run(campaign))
    assert "budget" in reason
    trials = store.trials("yaml-heater")
    assert {t.state for t in trials} == {TrialState.COMPLETED}
    assert len(trials) == 12
    values = [best.values["resistance"] for best in campaign.best(12)]
    assert all(20 < value < 125 for value in values)
    assert values[0] < 100


def test_the_example_in_python_is_short() -> None:
    """It has less than thirty lines, not counting imports and docstrings."""
    lines = Path(heater_example.__file__).read_text().splitlines()
    code = [line for line in lines if line.strip() and not line.strip().startswith(('"""', "from ", "import "))]
    assert len(code) < 30


async def test_the_example_in_python_keeps_the_contract() -> None:
    """It passes level 2, its abort halts the device, and its errors say what happened."""
    with served(device=DEVICES / "power_supply.yaml") as server:
        driver = heater_example.Heater(heater_example.HeaterOptions(address=tcp(server)))
        findings = await conformance.check(driver, level=2, send=True)
        assert not conformance.failures(findings)
    with served("--duration", "20", device=DEVICES / "power_supply.yaml") as server:
        driver = heater_example.Heater(heater_example.HeaterOptions(address=tcp(server)))
        heat = Order("k", "heat", settings={"voltage": Quantity(12.0, "volt")})
        job = asyncio.create_task(driver.run(heat, QuietEvents()))
        await asyncio.sleep(0.5)
        await driver.abort("a test")
        with pytest.raises(Aborted) as stopped:
            await job
        assert stopped.value.effect is Effect.STARTED
        with pytest.raises(Rejected) as refused:
            await driver.run(Order("k", "heat", settings={"voltage": Quantity(25.0, "volt")}), QuietEvents())
        assert refused.value.effect is Effect.NONE
        job = asyncio.create_task(driver.run(heat, QuietEvents()))
        await asyncio.sleep(0.5)
        server.kill()
        with pytest.raises(InstrumentError) as lost:
            await job
        assert lost.value.effect is Effect.UNKNOWN
        await driver.close()


async def test_spoilt_replies_never_become_values() -> None:
    """Eight faults of the wire at 5 % of the replies: what is recorded is right, and nothing is started twice."""
    content = device()
    content["simulator"]["outputs"]["resistance"] = {"linear": {"temperature": 0.1, "time": 1.0}}
    content["simulator"]["duration_s"] = 0.0
    practice = Background(Device.model_validate(content))
    right = 0
    async with Chaos("127.0.0.1", practice.port, rate=0.05, seed=4, delay_s=0.2, freeze_s=0.3) as wire:
        driver = built(f"TCPIP::127.0.0.1::{wire.port}::SOCKET", device={**content, "timeout_s": 0.1})
        for turn in range(40):
            try:
                result = await driver.run(order(f"k{turn}", 400.0 + 5 * turn, 10.0 + turn), QuietEvents())
            except InstrumentError:
                continue
            right += 1
            assert result.applied["temperature"].value == pytest.approx(400 + 5 * turn)
            assert result.applied["time"].value == pytest.approx(10 + turn)
            assert result.readings[0].value == pytest.approx(50 + 1.5 * turn)
        await driver.close()
        assert len(wire.injected) > 10
    practice.close()
    starts = practice.simulator.starts
    assert len(starts) == len(set(starts))
    assert right > 30


async def test_a_lost_answer_to_the_start_is_asked_for_by_its_key() -> None:
    """The device says that it took the start, so the order goes on; it is not sent again."""
    content = device()
    content["simulator"]["duration_s"] = 0.0
    practice = Background(Device.model_validate(content))
    async with Chaos("127.0.0.1", practice.port, faults=["drop"], rate=0.0) as wire:
        address = f"TCPIP::127.0.0.1::{wire.port}::SOCKET"
        driver = built(address, device={**content, "timeout_s": 0.1})
        await driver.open()
        start = driver.begin

        def lose_what_comes_next(course: Any) -> None:
            start(course)
            wire.arm("drop")

        driver.begin = lose_what_comes_next  # type: ignore[method-assign]
        result = await driver.run(order(), QuietEvents())
        assert result.key == "k1"
        nameless = {k: v for k, v in content.items() if k not in {"job", "ready"}}
        mute = built(address, device={**nameless, "timeout_s": 0.1})
        await mute.open()
        start = mute.begin
        mute.begin = lose_what_comes_next  # type: ignore[method-assign]
        with pytest.raises(TimedOut) as lost:
            await mute.run(order("k2"), QuietEvents())
        assert lost.value.effect is Effect.UNKNOWN
        await driver.close()
        await mute.close()
        assert len(wire.injected) == 2
    practice.close()
    assert practice.simulator.starts == ["k1", "k2"]


async def test_a_missing_library_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver is built and described without pyvisa; opening says what to type."""
    monkeypatch.setitem(sys.modules, "pyvisa", None)
    driver = built("TCPIP::127.0.0.1::9::SOCKET")
    assert (await driver.describe()).capability("anneal").outputs[0].unit == "kohm"
    with pytest.raises(NotConnected, match=re.escape("pip install 'matloop[scpi]'")):
        await driver.open()
    await driver.close()


async def test_closing_beside_a_job_leaves_no_socket() -> None:
    """A thread that was inside a question when the link was given back does not open it again."""
    with served("--duration", "20") as server:
        driver = built(tcp(server))
        job = asyncio.create_task(driver.run(order(), QuietEvents()))
        await asyncio.sleep(0.5)
        session = driver._session
        await driver.close()
        with pytest.raises(InstrumentError):
            await job
        assert session is not None
        assert session._resource is None
        with pytest.raises(NotConnected, match="was closed"):
            session.query("*IDN?")
