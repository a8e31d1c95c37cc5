"""What every built-in instrument must keep, and the base class of blocking drivers."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from typing import Any

import pytest

from instruments import conformance
from instruments.conformance.orders import QuietEvents
from instruments.sync import BlockingInstrument, Job
from orchestrator import plugins
from orchestrator.domain import (
    Capability,
    Description,
    Health,
    Identity,
    Order,
    Output,
    Parameter,
    Quantity,
    Reading,
    Result,
)
from orchestrator.errors import Aborted, Busy, Effect, Fault, NotConnected, ProtocolDesync, Rejected, TimedOut
from orchestrator.protocols import Options


def order(temperature: float = 100.0, *, unit: str = "degC", key: str = "k", deadline_s: float = 60.0) -> Order:
    """Make an order for the oven below."""
    return Order(key, "bake", settings={"temperature": Quantity(temperature, unit)}, deadline_s=deadline_s)


class Oven(BlockingInstrument):
    """A blocking driver whose `work` does what the test says."""

    def __init__(self, work: Any = None, *, slots: int = 1) -> None:
        super().__init__(Options())
        self.does = work or (lambda job: None)
        self.slots = slots
        self.connected = 0
        self.threads: list[str] = []
        self.stops: list[str] = []

    def description(self) -> Description:
        bake = Capability(
            "bake",
            outputs=(Output("strength", "MPa"),),
            parameters=(Parameter("temperature", "degC", 20.0, 800.0),),
            longest_s=30.0,
        )
        return Description((bake,), slots=self.slots, simulated=True)

    def connect(self) -> Identity:
        self.connected += 1
        return Identity("oven")

    def work(self, job: Job) -> Result:
        self.threads.append(threading.current_thread().name)
        self.does(job)
        value = job.numbers["temperature"]
        return Result(
            job.order.key, (Reading("strength", value, "MPa"),), applied={"temperature": Quantity(value, "degC")}
        )

    def stop(self, reason: str) -> None:
        self.stops.append(reason)


@pytest.mark.parametrize(
    ("name", "options", "level"),
    [
        ("simulated_furnace", {}, 2),
        ("simulated_balance", {}, 2),
        ("interatomic_potential", {"name": "emt", "atoms": 2}, 2),
        ("simulated", {"instrument": {"use": "simulated_furnace"}, "duration_s": {"mean": 60, "sd": 9}}, 2),
    ],
)
async def test_built_in_instruments_keep_the_contract(name: str, options: dict[str, Any], level: int) -> None:
    """Every check of the contract holds, and all of them are tried."""
    findings = await conformance.check(plugins.build("instruments", name, options), level=level)
    assert not [finding for finding in findings if not finding.passed]


async def test_a_blocking_driver_keeps_the_contract() -> None:
    """The base class alone makes a driver that passes all levels."""
    findings = await conformance.check(Oven(lambda job: time.sleep(0.03)), level=2)
    assert not [finding for finding in findings if not finding.passed]


def test_drivers_load_without_torch() -> None:
    """Loading and describing every built-in driver imports neither torch nor pymatgen nor ASE nor Prefect."""
    code = (
        "import asyncio, sys; from orchestrator import plugins\n"
        "for name in plugins.available('instruments'): plugins.load('instruments', name)\n"
        "asyncio.run(plugins.build('instruments', 'interatomic_potential', {}).describe())\n"
        "sys.exit(', '.join({'torch', 'pymatgen', 'ase', 'prefect', 'pandas'} & set(sys.modules)) or None)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


async def test_work_runs_on_one_private_thread_and_gets_checked_numbers() -> None:
    """All calls of a one-slot driver meet on one thread, with values in the declared unit."""
    oven = Oven()
    for temperature, unit in ((100.0, "degC"), (373.15, "kelvin")):
        result = await oven.run(order(temperature, unit=unit), QuietEvents())
        assert result.readings[0].value == pytest.approx(100.0)
    assert len(set(oven.threads)) == 1
    assert oven.threads[0] != threading.main_thread().name
    assert oven.connected == 1
    await oven.close()
    assert not [thread for thread in threading.enumerate() if thread.name in oven.threads]


async def test_slots_run_at_once_and_the_next_order_is_busy() -> None:
    """As many orders as slots run side by side; one more is refused without effect."""
    gate = threading.Barrier(3, timeout=10)
    oven = Oven(lambda job: gate.wait(), slots=2)
    jobs = [asyncio.create_task(oven.run(order(key=key), QuietEvents())) for key in "ab"]
    while len(oven.threads) < 2:  # noqa: ASYNC110  the other side is a thread
        await asyncio.sleep(0.01)
    assert (await oven.health()).state == "busy"
    with pytest.raises(Busy) as caught:
        await oven.run(order(key="c"), QuietEvents())
    assert caught.value.effect is Effect.NONE
    await asyncio.to_thread(gate.wait)
    assert [result.key for result in await asyncio.gather(*jobs)] == ["a", "b"]
    assert (await oven.health()) == Health("ready")
    await oven.close()


async def test_a_passed_deadline_is_unknown_and_ends_the_session() -> None:
    """A hanging device is not waited for; its slot stays occupied, and the link is made anew afterwards."""
    gate = threading.Event()
    oven = Oven(lambda job: gate.wait(10))
    with pytest.raises(TimedOut) as caught:
        await oven.run(order(deadline_s=0.05), QuietEvents())
    assert caught.value.effect is Effect.UNKNOWN
    with pytest.raises(Busy):
        await oven.run(order(), QuietEvents())
    gate.set()
    await asyncio.sleep(0.05)
    await oven.run(order(), QuietEvents())
    assert oven.connected == 2
    await oven.close()


@pytest.mark.parametrize("kind", [TimedOut, ProtocolDesync, NotConnected])
async def test_lost_sessions_are_opened_anew(kind: type[Exception]) -> None:
    """After an error that leaves the link in doubt the next order connects again."""
    errors = [kind("lost"), None]

    def work(job: Job) -> None:
        if error := errors.pop(0):
            raise error

    oven = Oven(work)
    with pytest.raises(kind):
        await oven.run(order(), QuietEvents())
    await oven.run(order(), QuietEvents())
    assert oven.connected == 2
    await oven.close()


async def test_aborts_reach_a_sleeping_job_and_the_device() -> None:
    """An abort wakes `job.sleep`, tells the device, and the next order works."""
    naps = [60.0, 0.0]
    oven = Oven(lambda job: job.sleep(naps.pop(0)))
    job = asyncio.create_task(oven.run(order(), QuietEvents(speed=1.0)))
    await asyncio.sleep(0.05)
    await oven.abort("the lab closes")
    with pytest.raises(Aborted):
        await job
    assert oven.stops == ["the lab closes"]
    assert await oven.run(order(), QuietEvents())
    await oven.close()


async def test_an_abort_spares_the_other_slots() -> None:
    """An abort names no order: it ends the job whose campaign asked, and all of them only where none did."""
    oven = Oven(lambda job: job.sleep(0.3), slots=2)
    overdue, other = QuietEvents(speed=1.0), QuietEvents(speed=1.0)
    jobs = [asyncio.create_task(oven.run(order(key=k), e)) for k, e in (("a", overdue), ("b", other))]
    await asyncio.sleep(0.1)
    overdue.abort = True
    await oven.abort("the deadline of a has passed")
    ended = await asyncio.gather(*jobs, return_exceptions=True)
    assert isinstance(ended[0], Aborted)
    assert isinstance(ended[1], Result)
    jobs = [asyncio.create_task(oven.run(order(key=k), QuietEvents(speed=1.0))) for k in "ab"]
    await asyncio.sleep(0.1)
    await oven.abort("everything")
    assert all(isinstance(end, Aborted) for end in await asyncio.gather(*jobs, return_exceptions=True))
    await oven.close()


async def test_strange_exceptions_become_faults() -> None:
    """What a driver did not expect is a fault of unknown effect that names the exception; a time-out stays one."""
    with pytest.raises(Fault, match="ZeroDivisionError") as caught:
        await Oven(lambda job: 1 / 0).run(order(), QuietEvents())
    assert caught.value.effect is Effect.UNKNOWN

    def silent(job: Job) -> None:
        raise TimeoutError

    with pytest.raises(TimedOut):
        await Oven(silent).run(order(), QuietEvents())


async def test_a_link_that_cannot_be_made_is_not_connected() -> None:
    """Whatever `connect` raises, nothing was sent."""

    class Dead(Oven):
        def connect(self) -> Identity:
            message = "connection refused"
            raise OSError(message)

    with pytest.raises(NotConnected, match="connection refused") as caught:
        await Dead().open()
    assert caught.value.effect is Effect.NONE


async def test_handles_and_progress_reach_the_campaign() -> None:
    """`job.accepted` returns when the campaign has the handle; progress arrives on the event loop."""

    def work(job: Job) -> None:
        job.accepted({"id": 7})
        job.progress(0.5, "half")

    events = QuietEvents()
    await Oven(work).run(order(), events)
    await asyncio.sleep(0)
    assert events.handles == [{"id": 7}]
    assert events.fractions == [0.5]


@pytest.mark.parametrize(
    ("temperature", "unit", "says"),
    [
        (801.0, "degC", "20.0 to 800.0 degC"),
        (1100.0, "kelvin", "20.0 to 800.0 degC"),
        (float("nan"), "degC", "finite"),
        (5.0, "MPa", "measure different things"),
        (5.0, "C", "ambiguous"),
    ],
)
async def test_refusals_say_what_is_allowed(temperature: float, unit: str, says: str) -> None:
    """An order outside the declaration is rejected before the link is even opened."""
    oven = Oven()
    with pytest.raises(Rejected, match=says):
        await oven.run(order(temperature, unit=unit), QuietEvents())
    assert oven.connected == 0


def test_a_hanging_driver_does_not_keep_the_program_from_ending() -> None:
    """The interpreter exits although a device call never returns."""
    code = (
        "import asyncio, time\n"
        "from instruments.lane import Lane\n"
        "async def main():\n"
        "    lane = Lane('hangs')\n"
        "    lane.submit(time.sleep, 600)\n"
        "asyncio.run(main())\n"
    )
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], timeout=30, check=False)
    assert done.returncode == 0
    assert time.monotonic() - began < 20
