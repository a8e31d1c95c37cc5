"""EPICS PVs over Channel Access, and ophyd-async devices, as instruments."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

pytest.importorskip("ophyd_async")
pytest.importorskip("aioca")
pytest.importorskip("caproto")

from instruments import conformance
from instruments.conformance.orders import QuietEvents
from instruments.ophyd.driver import OphydDevice, from_ophyd
from instruments.ophyd.links import Channels
from instruments.ophyd.options import OphydOptions
from orchestrator import loop
from orchestrator.campaign import Campaign
from orchestrator.domain import Order, Quality, Quantity, Result
from orchestrator.errors import Aborted, BadData, Busy, Effect, NotConnected, Rejected, TimedOut
from orchestrator.protocols import SafeState
from orchestrator.record.states import TrialState
from orchestrator.record.store import CampaignStore
from tests.loopback_servers import Server, start

PVS: dict[str, Any] = {
    "capability": "fire",
    "signals": {
        "temperature": {
            "pv": "FURN:T:SP",
            "readback": "FURN:T:RBV",
            "unit": "degC",
            "min": 20,
            "max": 900,
            "tolerance": 0.5,
            "settle_s": 2,
        },
        "gas": {"pv": "FURN:GAS", "choices": ["air", "argon"]},
    },
    "outputs": {"density": {"pv": "FURN:DENSITY", "unit": "percent", "low": 0, "high": 100}},
    "start": {"pv": "FURN:START"},
    "busy": {"pv": "FURN:BUSY"},
    "stop": {"pv": "FURN:STOP"},
    "simulated": True,
    "typical_s": 1.0,
    "longest_s": 20.0,
}


@pytest.fixture(scope="module")
def port() -> int:
    """Return the one port of this process's EPICS servers: its Channel Access is fixed with the first signal."""
    with start("epics_furnace") as server:
        return server.port


@pytest.fixture
def furnace(port: int, request: pytest.FixtureRequest) -> Iterator[Server]:
    """Start the furnace, with the marker's arguments."""
    mark = request.node.get_closest_marker("parametrize")
    arguments = request.node.callspec.params.get("arguments", []) if mark else []
    with start("epics_furnace", *arguments, port=port) as server:
        yield server


BUILT: list[OphydDevice] = []


@pytest.fixture(autouse=True)
async def closed() -> AsyncIterator[None]:
    """Close every driver while its event loop lives: Channel Access calls back into it."""
    yield
    while BUILT:
        await BUILT.pop().close()
    assert Channels.users == 0


def epics(port: int, **options: Any) -> OphydDevice:
    """Build the driver."""
    BUILT.append(OphydDevice(OphydOptions.model_validate({**PVS, "servers": [f"127.0.0.1:{port}"], **options})))
    return BUILT[-1]


def order(kelvin: float = 573.15, key: str = "k1", **changes: Any) -> Order:
    """Ask for one firing, in another unit than the device's."""
    return Order(key, "fire", {"temperature": Quantity(kelvin, "kelvin")}, {"gas": "argon"}, **changes)


async def count(driver: OphydDevice, pv: str) -> int:
    """Read a counter of the furnace."""
    import aioca  # noqa: PLC0415  after the driver has named the servers

    await driver.open()
    return int(await aioca.caget(f"FURN:{pv}"))


async def test_contract(furnace: Server) -> None:
    """It keeps the instrument contract over Channel Access, up to orders that work; nothing is left behind."""
    findings = await conformance.check(epics(furnace.port), level=2)
    assert conformance.failures(findings) == []
    assert Channels.users == 0


async def test_set_start_and_read(furnace: Server) -> None:
    """Set-points arrive in the device's unit, the start is sent once, and the reading has the device's time."""
    driver = epics(furnace.port)
    result = await driver.run(order(), QuietEvents())
    assert [(r.property, r.value, r.unit, r.quality) for r in result.readings] == [
        ("density", pytest.approx(65.0), "percent", Quality.GOOD)
    ]
    assert result.readings[0].measured_at is not None
    assert result.applied["temperature"].value == pytest.approx(300.0)
    assert result.applied_choices == {"gas": "argon"}
    assert await count(driver, "STARTS") == 1
    await driver.close()


@pytest.mark.parametrize("arguments", [["--stuck"]])
async def test_succeeded_but_did_not_move(furnace: Server, arguments: list[str]) -> None:
    """The server takes the set-point and nothing moves: bad data, and no start (ophyd-async issue 933)."""
    driver = epics(furnace.port, signals={"temperature": {**PVS["signals"]["temperature"], "settle_s": 0.3}})
    with pytest.raises(BadData, match="did not move") as seen:
        await driver.run(Order("k", "fire", {"temperature": Quantity(300, "degC")}), QuietEvents())
    assert seen.value.effect is Effect.STARTED
    assert await count(driver, "STARTS") == 0
    await driver.close()


@pytest.mark.parametrize(
    ("arguments", "quality"), [(["--severity", "1"], Quality.UNCERTAIN), (["--severity", "2"], Quality.BAD)]
)
async def test_alarms_become_quality(furnace: Server, arguments: list[str], quality: Quality) -> None:
    """A minor alarm is uncertain, a major one bad."""
    driver = epics(furnace.port)
    assert (await driver.run(order(), QuietEvents())).readings[0].quality is quality
    await driver.close()


@pytest.mark.parametrize("arguments", [["--severity", "3"]])
async def test_an_invalid_value_is_bad_data(furnace: Server, arguments: list[str]) -> None:
    """What the device marks as invalid is no reading."""
    driver = epics(furnace.port)
    with pytest.raises(BadData, match="invalid"):
        await driver.run(order(), QuietEvents())
    await driver.close()


@pytest.mark.parametrize("arguments", [["--bake", "30"]])
async def test_an_abort_writes_stop(furnace: Server, arguments: list[str]) -> None:
    """The furnace is told to stop, on a path beside the order; meanwhile it is busy to others."""
    driver = epics(furnace.port)
    job = asyncio.create_task(driver.run(order(), QuietEvents()))
    for _ in range(200):
        if await count(driver, "BUSY"):
            break
        await asyncio.sleep(0.02)
    assert (await driver.health()).state == "busy"
    with pytest.raises(Busy):
        await driver.run(order(key="k2"), QuietEvents())
    other = epics(furnace.port)
    with pytest.raises(Busy, match="somebody else"):
        await other.run(order(key="k3"), QuietEvents())
    await other.close()
    await driver.abort("enough")
    with pytest.raises(Aborted) as seen:
        await asyncio.wait_for(job, 2)
    assert seen.value.effect is Effect.STARTED
    assert await count(driver, "STOPS") == 1
    await driver.close()


@pytest.mark.parametrize("arguments", [["--bake", "30"]])
async def test_a_deadline_writes_stop(furnace: Server, arguments: list[str]) -> None:
    """Giving up waiting is not enough: the furnace is told."""
    driver = epics(furnace.port)
    with pytest.raises(TimedOut) as seen:
        await driver.run(order(deadline_s=1.0), QuietEvents())
    assert seen.value.effect is Effect.UNKNOWN
    assert await count(driver, "STOPS") == 1
    await driver.close()


async def test_a_server_that_dies_and_comes_back(port: int) -> None:
    """Offline within a second; a deadline ends the order; with the server back it goes on without a new driver."""
    driver = epics(port)
    with start("epics_furnace", port=port):
        await driver.run(order(), QuietEvents())
    assert (await driver.health()).state == "offline"
    with pytest.raises(TimedOut) as seen:
        await driver.run(order(key="k2", deadline_s=0.5), QuietEvents())
    assert seen.value.effect is Effect.NONE
    with start("epics_furnace", port=port):
        for _ in range(100):
            if (await driver.health()).state == "ready":
                break
            await asyncio.sleep(0.1)
        assert isinstance(await driver.run(order(key="k3"), QuietEvents()), Result)
    await driver.close()


async def test_the_safe_state(furnace: Server) -> None:
    """Stop is written, then the safe set-points; without any declared it says so."""
    driver = epics(furnace.port, safe={"temperature": 30.0})
    assert isinstance(driver, SafeState)
    await driver.run(order(), QuietEvents())
    await driver.make_safe()
    assert await count(driver, "STOPS") == 1
    assert await count(driver, "T:SP") == 30
    with pytest.raises(Rejected, match="no safe state"):
        await epics(furnace.port, stop=None).make_safe()


async def test_a_frozen_server(furnace: Server) -> None:
    """It is offline within a second, an order ends with its deadline, and it is ready again when it thaws."""
    driver = epics(furnace.port)
    await driver.open()
    furnace.freeze()
    began = time.monotonic()
    assert (await driver.health()).state == "offline"
    with pytest.raises(TimedOut):
        await driver.run(order(deadline_s=0.5), QuietEvents())
    assert time.monotonic() - began < 4.0
    furnace.thaw()
    for _ in range(100):
        if (await driver.health()).state == "ready":
            break
        await asyncio.sleep(0.05)
    assert isinstance(await driver.run(order(key="k2"), QuietEvents()), Result)
    assert await count(driver, "STARTS") == 1


async def test_what_the_device_says_must_agree(furnace: Server) -> None:
    """Other units, wider bounds, unknown choices and unknown PVs are told before anything is sent."""
    temperature = PVS["signals"]["temperature"]
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"signals": {"temperature": {**temperature, "unit": "kelvin"}}}, "degC"),
        ({"signals": {"temperature": {**temperature, "max": 1200}}}, "narrow the bounds"),
        ({"signals": {"gas": {"pv": "FURN:GAS", "choices": ["air", "helium"]}}}, "helium"),
        ({"stop": {"pv": "FURN:NO:SUCH"}, "connect_s": 0.3}, "does not answer"),
    ]
    for options, says in wrong:
        with pytest.raises(NotConnected, match=says):
            await epics(furnace.port, **options).open()
    assert Channels.users == 0  # what failed has given its channels back


@pytest.mark.parametrize("arguments", [["--units", "C"]])
async def test_a_unit_of_another_name(furnace: Server, arguments: list[str]) -> None:
    """What a device calls C may be degrees or coulomb: the lab file says which."""
    with pytest.raises(NotConnected, match="egu"):
        await epics(furnace.port).open()
    driver = epics(furnace.port, egu={"C": "degC"})
    await driver.open()
    await driver.close()


async def test_other_servers_need_another_process(furnace: Server) -> None:
    """Channel Access is fixed for the process; the message says what to do."""
    with pytest.raises(NotConnected, match="matloop host"):
        await epics(1).open()


def heater(**options: Any) -> Any:
    """Make a soft device of ophyd-async."""
    from ophyd_async.core import StandardReadable, soft_signal_rw  # noqa: PLC0415  loads for seconds

    class Heater(StandardReadable):
        def __init__(self, name: str = "") -> None:
            self.target = soft_signal_rw(float, 20.0, units="degC")
            self.power = soft_signal_rw(float, options.get("power", 1.0), units="W")
            super().__init__(name)

    return Heater("heater")


SOFT: dict[str, Any] = {
    "signals": {"target": {"attribute": "target", "unit": "degC", "min": 0, "max": 500}},
    "outputs": {"power": {"attribute": "power", "unit": "W"}},
    "simulated": True,
    "longest_s": 5.0,
    "typical_s": 0.1,
}


async def test_an_ophyd_device() -> None:
    """A device that code has built is set and read through its attributes."""
    driver = from_ophyd(heater(), **SOFT)
    result = await driver.run(Order("k", "measure", {"target": Quantity(350.0, "degC")}), QuietEvents())
    assert result.applied["target"] == Quantity(350.0, "degC")
    assert result.readings[0].value == 1.0
    await driver.close()


MOTOR: dict[str, Any] = {
    "capability": "move",
    "signals": {
        "position": {
            "attribute": ".",
            "readback": "user_readback",
            "unit": "mm",
            "min": -10,
            "max": 10,
            "tolerance": 0.01,
            "settle_s": 1,
        }
    },
    "outputs": {"speed": {"attribute": "velocity"}},
    "simulated": True,
    "longest_s": 60.0,
    "typical_s": 1.0,
}


def motor(**arguments: Any) -> OphydDevice:
    """Name a motor of ophyd-async's simulation as a lab file would."""
    content = {**MOTOR, "device": "ophyd_async.sim:SimMotor", "arguments": arguments}
    return OphydDevice(OphydOptions.model_validate(content, context={"allowed_modules": ["ophyd_async.sim"]}))


async def test_a_device_that_the_lab_file_names() -> None:
    """A motor is moved, its read-back is what was applied, and its contract holds."""
    driver = motor(instant=True)
    result = await driver.run(Order("k", "move", {"position": Quantity(0.5, "cm")}), QuietEvents())
    assert result.applied["position"] == Quantity(5.0, "mm")
    await driver.close()
    assert conformance.failures(await conformance.check(motor(instant=True), level=2)) == []


async def test_a_detector_is_triggered() -> None:
    """Each order triggers the detector of ophyd-async's simulation, and takes the field that the file names."""
    content = {
        "device": "ophyd_async.sim:SimPointDetector",
        "arguments": {"pattern_generator": None},
        "signals": {"time": {"attribute": "acquire_time", "min": 0.01, "max": 1.0}},
        "trigger": {"attribute": "."},
        "outputs": {"counts": {"attribute": ".", "field": "simpointdetector-channel-2-value"}},
        "simulated": True,
        "longest_s": 20.0,
        "typical_s": 1.0,
    }
    context = {"allowed_modules": ["ophyd_async.sim"]}
    driver = OphydDevice(OphydOptions.model_validate(content, context=context))
    result = await driver.run(Order("k", "measure", {"time": Quantity(0.2, "dimensionless")}), QuietEvents())
    assert result.readings[0].value > 0
    await driver.close()
    assert conformance.failures(await conformance.check(driver, level=2)) == []
    wrong = {**content, "outputs": {"counts": {"attribute": ".", "field": "channel-9"}}}
    with pytest.raises(NotConnected, match="channel-2-value"):
        await OphydDevice(OphydOptions.model_validate(wrong, context=context)).open()


async def test_a_motor_is_stopped() -> None:
    """An abort stops the motor itself, and it stays where it is."""
    driver = motor(instant=False)
    job = asyncio.create_task(driver.run(Order("k", "move", {"position": Quantity(9.0, "mm")}), QuietEvents()))
    await asyncio.sleep(0.5)
    await driver.abort("enough")
    with pytest.raises(Aborted):
        await asyncio.wait_for(job, 3)
    assert driver._links is not None
    stands = (await driver._links.see("read position")).value
    await asyncio.sleep(0.3)
    assert (await driver._links.see("read position")).value == stands
    assert stands < 8.0
    await driver.close()


async def test_a_value_that_is_no_number() -> None:
    """NaN is no reading."""
    with pytest.raises(BadData, match="finite"):
        await from_ophyd(heater(power=float("nan")), **SOFT).run(
            Order("k", "measure", {"target": Quantity(350.0, "degC")}), QuietEvents()
        )


async def test_an_attribute_that_is_not_there() -> None:
    """The message names it."""
    with pytest.raises(NotConnected, match="voltage"):
        await from_ophyd(heater(), **{**SOFT, "outputs": {"v": {"attribute": "voltage"}}}).open()


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"servers": []}, "servers"),
        ({"start": {"attribute": "go"}}, "no 'device'"),
        ({"start": {"pv": "A", "attribute": "go"}}, "'pv' or 'attribute'"),
        ({"device": "os:system"}, "allowed_modules"),
        ({"outputs": {}}, "at least 1"),
    ],
)
def test_wrong_options(wrong: dict[str, Any], says: str) -> None:
    """A wrong option fails offline."""
    with pytest.raises(ValidationError, match=says):
        epics(1, **wrong)


async def test_out_of_bounds_is_refused_unopened() -> None:
    """Nothing is connected for an order that cannot be carried out."""
    with pytest.raises(Rejected):
        await epics(1).run(order(3000.0), QuietEvents())


LAB = """
name: beam-line
instruments:
  furnace:
    use: ophyd
    options: {options}
"""
CAMPAIGN = """
name: epics
objectives: [{property: density, unit: percent, goal: maximize}]
space: {use: box, options: {parameters: {temperature: {unit: kelvin, min: 400, max: 1100, resolution: 1}}}}
procedure: [{step: fire, instrument: furnace, inputs: {gas: {value: argon}}}]
budget: {trials: 3}
"""


def test_a_campaign_over_epics(furnace: Server, tmp_path: Path) -> None:
    """Three trials in another unit than the device's; what was read back is learned; channels are given back."""
    options = json.dumps({**PVS, "servers": [f"127.0.0.1:{furnace.port}"]})
    (tmp_path / "lab.yaml").write_text(LAB.replace("{options}", options))
    (tmp_path / "campaign.yaml").write_text(CAMPAIGN)
    store = CampaignStore.open(tmp_path / "store.db")
    campaign = Campaign.create(tmp_path / "campaign.yaml", store=store, actor="test")
    assert "budget" in asyncio.run(loop.run(campaign))
    trials = store.trials("epics")
    assert [trial.state for trial in trials] == [TrialState.COMPLETED] * 3
    for trial, row in zip(trials, store.dataset("epics").rows, strict=True):
        kelvin = trial.candidate.parameters["temperature"]
        assert row.applied["temperature"] == pytest.approx(kelvin, abs=0.6)
        assert row.value == pytest.approx(50 + (float(kelvin) - 273.15) / 20, abs=0.1)
    assert Channels.users == 0
