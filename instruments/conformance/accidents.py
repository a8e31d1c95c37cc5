"""Level 3 of the conformance checks: accidents. For simulators, or for a device that nobody minds being unplugged.

A row of orders, a jump of the wall clock and a full disk need nothing. A device that freezes needs its process; one
that is unplugged also a command that starts it again; spoiled replies need its port, to put a chaos proxy before it.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from unittest import mock

from instruments.conformance.active import readings_of, wrong_readings
from instruments.conformance.orders import QuietEvents, Window, edge_order, good_order, new_key
from instruments.conformance.passive import HEALTH_S, NOT_TRIED, OPEN_S
from instruments.conformance.rules import Findings
from instruments.simulated.wire import FAULTS, Chaos, WireFault
from orchestrator.domain import Capability, Description, Health, Order, Result
from orchestrator.errors import BadData, Busy, Effect, InstrumentError
from orchestrator.protocols import Instrument

ALONE = ("offline", "fault", "unknown")
LATE_S = 3.0
"""An order may end so long after its deadline."""
BACK_S = 20.0
"""For a device to be usable again after an accident."""
JUMP_S = 7200.0
SLOWER, BEGUN_S = 20.0, 0.01
"""Speed of the campaign's clock, and seconds after which the wall clock jumps: the job must have begun, not ended."""
GROWS = 3
"""Threads and files more than before that are still no leak."""
SHARES = (-0.6, 0.0, 0.6)
"""Places in the bounds between which a row of orders alternates, so that a shifted answer shows."""


@dataclass(frozen=True)
class Accidents:
    """What level 3 may do.

    Args:
        orders: how many to send in a row.
        pid: process of the device, to freeze; 0 for none.
        restart: command that starts the device again at the same address, after it was killed.
        device: host and port of the device, to put a chaos proxy before it.
        through: makes the driver for another port.
        deadline_s: of the orders of the drills.
    """

    orders: int = 200
    pid: int = 0
    restart: str = ""
    device: tuple[str, int] | None = None
    through: Callable[[int], Instrument] | None = None
    deadline_s: float = 2.0


@dataclass(frozen=True)
class Drill:
    """What the drills of one capability need."""

    instrument: Instrument
    capability: Capability
    findings: Findings
    orders: tuple[Order, ...]
    expected: tuple[Result, ...]
    steady: bool
    deadline_s: float

    def that(self, rule: str, passed: bool, detail: str = "", about: str = "") -> bool:
        """Note one finding about this capability."""
        name = f"{self.capability.name}, {about}" if about else self.capability.name
        return self.findings.that(rule, passed, detail, about=name)

    def wrong(self, place: int, result: Result) -> str:
        """Say what is wrong with the result of one of the orders; nothing where it is right."""
        faults = [fault for _, fault in wrong_readings(self.capability, result)]
        expected = self.expected[place]
        if self.steady and readings_of(result) != readings_of(expected):
            faults.append(f"{readings_of(result)} for {readings_of(expected)}")
        if self.steady and dict(result.applied) != dict(expected.applied):
            faults.append(f"applied {dict(result.applied)} for {dict(expected.applied)}")
        return "; ".join(faults)

    async def send(
        self,
        place: int,
        instrument: Instrument | None = None,
        deadline_s: float | None = None,
        speed: float = 1000.0,
    ) -> Result:
        """Send one of the orders under a new key."""
        order = replace(self.orders[place], key=new_key(), deadline_s=deadline_s or self.deadline_s)
        return await (instrument or self.instrument).run(order, QuietEvents(speed))


async def drilled(
    instrument: Instrument,
    description: Description,
    findings: Findings,
    *,
    order: Order | None,
    send: bool,
    window: Window | None,
    accidents: Accidents,
) -> None:
    """Make accidents, and see what the driver does.

    Args:
        instrument: built, not opened.
        description: what it declares.
        findings: to add to.
        order: one that works.
        send: whether orders may be sent.
        window: what may be set.
        accidents: what may be done.
    """
    for capability in description.capabilities:
        if order is not None and order.capability != capability.name:
            continue
        if not send:
            findings.that("orders in a row stay right", None, NOT_TRIED, about=capability.name)
            continue
        await asyncio.wait_for(instrument.open(), OPEN_S)
        try:
            good = order or good_order(capability, window=window)
            orders = [good] if order else [edge_order(capability, good, window, share) or good for share in SHARES]
            limit = max(accidents.deadline_s, 2 * capability.typical_s)
            drill = Drill(instrument, capability, findings, tuple(orders), (), steady=False, deadline_s=limit)
            drill = await _rehearsed(drill)
            await _row(drill, accidents.orders)
            await _jump(drill)
            await _full(drill)
            if accidents.pid:
                await _frozen(drill, accidents.pid)
                if accidents.restart:
                    await _killed(drill, accidents.pid, accidents.restart)
        finally:
            await instrument.close()
        if accidents.device is not None and accidents.through is not None:
            for fault in FAULTS:
                await _spoiled(drill, fault, accidents.device, accidents.through)


async def _rehearsed(bare: Drill) -> Drill:
    """Carry each order out twice: where the readings are the same, a later one that differs is wrong."""
    orders, first, second = [], [], []
    for place, order in enumerate(bare.orders):
        try:
            results = [await bare.send(place, deadline_s=bare.capability.longest_s) for _ in range(2)]
        except BadData:
            continue  # a melted pellet is a fact, and nothing to compare with
        orders.append(order)
        first.append(results[0])
        second.append(results[1])
    steady = [readings_of(one) for one in first] == [readings_of(one) for one in second]
    return replace(bare, orders=tuple(orders), expected=tuple(first), steady=steady)


async def _row(drill: Drill, orders: int) -> None:
    before = _held()
    wrong = []
    for number in range(orders):
        place = number % len(drill.orders)
        try:
            fault = drill.wrong(place, await drill.send(place))
        except InstrumentError as error:
            fault = f"{type(error).__name__}: {error}"
        if fault:
            wrong.append(f"order {number + 1} of {orders}: {fault}")
    drill.that("orders in a row stay right", not wrong, "; ".join(wrong[:3]))
    more = _held() - before
    drill.that("nothing grows with orders", more <= GROWS, f"{more} threads and files more after {orders} orders")


def _held() -> int:
    files = Path("/proc/self/fd")
    return threading.active_count() + (len(list(files.iterdir())) if files.exists() else 0)


async def _jump(drill: Drill) -> None:
    """Move the wall clock back and forth while an order is at work, as a network time service does."""
    for seconds in (-JUMP_S, JUMP_S):
        job = asyncio.create_task(drill.send(0, speed=SLOWER))
        await asyncio.sleep(BEGUN_S)
        with _clock_moved(seconds):
            await asyncio.wait([job], timeout=drill.deadline_s + LATE_S)
        error = job.exception() if job.done() else TimeoutError("it did not end")
        job.cancel()
        drill.that("a jump of the clock changes nothing", error is None, repr(error), about=f"{seconds:+.0f} s")


@contextmanager
def _clock_moved(seconds: float) -> Iterator[None]:
    now, now_ns = time.time, time.time_ns

    def later() -> float:
        return now() + seconds

    def later_ns() -> int:
        return now_ns() + int(seconds) * 10**9

    with mock.patch("time.time", later), mock.patch("time.time_ns", later_ns):
        yield


async def _full(drill: Drill) -> None:
    """Let no file grow while an order is at work: what cannot be kept must be told, or not be needed."""
    if os.name != "posix":
        return
    with _full_disk():
        try:
            wrong = drill.wrong(0, await drill.send(0))
        except InstrumentError:
            wrong = ""  # told
        except Exception as error:  # noqa: BLE001  a driver may raise anything; that is what is reported
            wrong = f"{type(error).__name__} is no InstrumentError: {error}"
    drill.that("a full disk is told", not wrong, wrong)


@contextmanager
def _full_disk() -> Iterator[None]:
    import resource  # noqa: PLC0415  not on Windows, where drivers are hosted too

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)


async def _frozen(drill: Drill, pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)
    try:
        await _noticed(drill, "a frozen device is noticed", "a frozen device ends the order")
    finally:
        os.kill(pid, signal.SIGCONT)
    await _works(drill, "it works after a freeze", drill.instrument)


async def _killed(drill: Drill, pid: int, restart: str) -> None:
    os.kill(pid, signal.SIGKILL)
    await asyncio.sleep(0.2)
    await _noticed(drill, "a killed device is noticed", "a killed device ends the order")
    device = subprocess.Popen(  # noqa: ASYNC220, S603  the command that the person gave
        shlex.split(restart), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    try:
        await _works(drill, "it works after a restart", drill.instrument)
    finally:
        device.kill()
        device.wait()


async def _noticed(drill: Drill, health_rule: str, order_rule: str) -> None:
    began = time.monotonic()
    health = await _health(drill.instrument)
    took = time.monotonic() - began
    fine = health.state in ALONE and took < 2 * HEALTH_S
    drill.that(health_rule, fine, f"{health} after {took:.1f} s")
    began = time.monotonic()
    job = asyncio.create_task(drill.send(0))
    await asyncio.wait([job], timeout=drill.deadline_s + LATE_S)
    took = time.monotonic() - began
    job.cancel()
    if not job.done():
        seen = f"still at work after {took:.1f} s"
    else:
        error = job.exception()
        seen = "" if isinstance(error, InstrumentError) else f"{error!r}; an InstrumentError was expected"
    drill.that(order_rule, not seen, seen)


async def _health(instrument: Instrument) -> Health:
    try:
        return await asyncio.wait_for(instrument.health(), 5 * HEALTH_S)
    except Exception as error:  # noqa: BLE001  a driver may raise anything; that is what is reported
        return Health("ready", f"it raised {type(error).__name__}: {error}")


async def _works(drill: Drill, rule: str, instrument: Instrument, about: str = "") -> None:
    """Send every order until it is carried out; a value that belongs to another order must not come."""
    until = time.monotonic() + BACK_S
    for place in range(len(drill.orders)):
        while True:
            try:
                seen = drill.wrong(place, await drill.send(place, instrument))
            except InstrumentError as error:
                seen = f"{type(error).__name__}: {error}"
                if time.monotonic() < until and (isinstance(error, Busy) or error.effect is not Effect.DONE):
                    await asyncio.sleep(0.1)
                    continue
            break
        if not drill.that(rule, not seen, seen, about):
            return


async def _spoiled(
    drill: Drill, fault: WireFault, device: tuple[str, int], through: Callable[[int], Instrument]
) -> None:
    """Spoil the first reply of an order: it gives the right value or an error, and the next order the right one."""
    async with _proxied(device, drill.deadline_s) as proxy:
        driver = through(proxy.port)
        await asyncio.wait_for(driver.open(), OPEN_S)
        try:
            proxy.arm(fault)
            try:
                seen = drill.wrong(1 % len(drill.orders), await drill.send(1 % len(drill.orders), driver))
            except InstrumentError:
                seen = ""  # told
            except Exception as error:  # noqa: BLE001  a driver may raise anything; that is what is reported
                seen = f"{type(error).__name__} is no InstrumentError: {error}"
            proxy.disarm()
            drill.that("a spoiled reply gives no wrong value", not seen, seen, fault)
            await _works(drill, "it works after a spoiled reply", driver, fault)
        finally:
            await driver.close()


@asynccontextmanager
async def _proxied(device: tuple[str, int], deadline_s: float) -> AsyncIterator[Chaos]:
    async with Chaos(*device, delay_s=deadline_s / 2, freeze_s=deadline_s) as proxy:
        yield proxy
