"""Deliberately bad drivers that show it only when an order works: level 2 of the conformance checks.

Importing this module adds them to `tests.bad_drivers.BAD`.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any, ClassVar

from orchestrator.domain import Attachment, Health, Order, Quantity, Result
from orchestrator.errors import Busy, Effect, Fault, Rejected, TimedOut
from orchestrator.protocols import Events
from tests.bad_drivers import Meddles, breaks
from tests.good_oven import Ledger, Oven


@breaks("level 2 comes to its end")
class RaisesAnything(Oven):
    """In the second order it raises what is no InstrumentError."""

    async def run(self, order: Order, events: Events) -> Result:
        result = await super().run(order, events)
        if self.calls > 1:
            raise KeyError(order.key)
        return result


@breaks("a good order works")
class NeverWorks(Oven):
    """It refuses what it declares."""

    async def bake(self, events: Events) -> None:
        message = "the door is open"
        raise Fault(message)


@breaks("the event loop stays free")
class BlocksToBake(Oven):
    """It blocks the event loop while it works."""

    async def bake(self, events: Events) -> None:
        time.sleep(0.2)  # noqa: ASYNC251  this is the mistake


class Spoils(Oven):
    """A good oven whose result is changed."""

    def spoiled(self, result: Result) -> Result:
        raise NotImplementedError

    def result(self, order: Order, numbers: dict[str, float], choices: dict[str, str]) -> Result:
        return self.spoiled(super().result(order, numbers, choices))


@breaks("the key comes back")
class WrongKey(Spoils):
    """It gives the result of another order."""

    def spoiled(self, result: Result) -> Result:
        return replace(result, key="other")


@breaks("every output is given once")
class GivesNothing(Spoils):
    """A partial result, as if it were whole."""

    def spoiled(self, result: Result) -> Result:
        return replace(result, readings=())


def reading(**changes: Any) -> Callable[[Spoils, Result], Result]:
    """Change the first reading."""
    return lambda _, result: replace(result, readings=(replace(result.readings[0], **changes),))


@breaks("readings have the declared dimension")
class Kelvins(Spoils):
    """A strength in kelvin."""

    spoiled = reading(unit="kelvin")


@breaks("readings are finite and valid")
class NotANumber(Spoils):
    """It gives NaN where it measured nothing."""

    spoiled = reading(value=float("nan"))


@breaks("readings are finite and valid")
class Saturates(Spoils):
    """Over-range is 9.9e37, as SCPI devices have it."""

    spoiled = reading(value=9.9e37)


@breaks("standard errors are finite")
class NegativeError(Spoils):
    """A standard error of -1 for "unknown"."""

    spoiled = reading(std_error=-1.0)


@breaks("time stamps are now")
class Seconds(Spoils):
    """A time stamp in seconds."""

    def spoiled(self, result: Result) -> Result:
        return replace(result, readings=(replace(result.readings[0], measured_at=int(time.time())),))


@breaks("time stamps are now")
class Stale(Spoils):
    """The reading is an hour old."""

    def spoiled(self, result: Result) -> Result:
        hour_ago = time.time_ns() // 1000 - 3600 * 10**6
        return replace(result, readings=(replace(result.readings[0], measured_at=hour_ago),))


@breaks("setpoints are read back")
class NoReadback(Spoils):
    """It does not say what it set."""

    def spoiled(self, result: Result) -> Result:
        return replace(result, applied={})


@breaks("applied follows what is asked")
class StuckSensor(Spoils):
    """Its thermometer always says 400 degC."""

    def spoiled(self, result: Result) -> Result:
        return replace(result, applied={**result.applied, "temperature": Quantity(400.0, "degC")})


@breaks("progress is between 0 and 1")
class Percents(Oven):
    """Its progress is in percent."""

    async def bake(self, events: Events) -> None:
        events.progress(50.0)
        await super().bake(events)


@breaks("attachments are named bytes")
class PathForFile(Spoils):
    """An attachment with a path for a name."""

    def spoiled(self, result: Result) -> Result:
        return replace(result, attachments=(Attachment("../log.csv", "csv", b""),))


@breaks("the same key gives the same readings")
class MeasuresAgain(Spoils):
    """It says that it is idempotent, and measures again."""

    def spoiled(self, result: Result) -> Result:
        return replace(result, readings=(replace(result.readings[0], value=100.0 + self.calls),))


@breaks("a finished order is found")
class ForgetsWhenClosed(Ledger):
    """Its log ends with the session."""

    async def close(self) -> None:
        await super().close()
        self.log.clear()


@breaks("units of orders are converted")
class KelvinIsCelsius(Meddles):
    """300 K become 300 degC."""

    def meddled(self, asked: Quantity) -> Quantity:
        return Quantity(asked.value, "degC") if asked.unit == "kelvin" else asked


@breaks("the declared range is accepted")
class SmallerThanItSays(Oven):
    """It declares 800 degC and takes 500."""

    async def run(self, order: Order, events: Events) -> Result:
        asked = order.settings.get("temperature")
        if asked is not None and asked.unit == "degC" and asked.value > 500:
            message = "the element is rated for 500 degC"
            raise Rejected(message)
        return await super().run(order, events)


@breaks("more orders than slots are Busy or wait")
class FaultsWhenBusy(Oven):
    """A second order is a fault of unknown effect."""

    async def run(self, order: Order, events: Events) -> Result:
        try:
            return await super().run(order, events)
        except Busy as error:
            raise Fault(str(error)) from error


@breaks("health says busy during a job")
class CachedHealth(Oven):
    """Its health is that of the time when it was opened."""

    async def health(self) -> Health:
        return Health("ready" if self.is_open else "offline")


@breaks("abort answers within a second")
class QueuesTheAbort(Oven):
    """The stop waits for the job that it should stop."""

    async def abort(self, reason: str) -> None:
        if self.busy:
            await asyncio.sleep(1.1)
        await super().abort(reason)


@breaks("an abort ends the job")
class DeafToAbort(Oven):
    """A job goes on after STOP."""

    async def bake(self, events: Events) -> None:
        began = time.monotonic()
        await events.sleep(0.3)
        if time.monotonic() - began > 0.2:  # only on the real clock, or every check would take as long
            await asyncio.sleep(1.0)

    async def abort(self, reason: str) -> None:
        return


@breaks("usable after an abort")
class StaysStopped(Oven):
    """After an abort somebody must switch it off and on."""

    async def run(self, order: Order, events: Events) -> Result:
        if self.stop.is_set() and self.calls > 1:
            message = "emergency stop is pressed"
            raise Fault(message)
        return await super().run(order, events)


@breaks("the deadline ends the order")
class NoDeadline(Oven):
    """It takes as long as it takes."""

    async def run(self, order: Order, events: Events) -> Result:
        short = order.deadline_s < 1.0
        result = await super().run(replace(order, deadline_s=20.0), events)
        if short:
            await asyncio.sleep(2.5)
        return result


@breaks("a passed deadline is never without effect")
class NothingHappened(Oven):
    """It says that nothing happened, while the oven is hot."""

    async def run(self, order: Order, events: Events) -> Result:
        try:
            return await super().run(order, events)
        except TimedOut as error:
            raise TimedOut(str(error), effect=Effect.NONE) from error


@breaks("a cancelled order ends")
class SwallowsTheCancel(Oven):
    """It catches its own cancellation and goes on."""

    async def bake(self, events: Events) -> None:
        try:
            await super().bake(events)
        except asyncio.CancelledError:
            with suppress(TimeoutError):
                await asyncio.wait_for(self.stop.wait(), 5.0)


@breaks("usable after a cancel")
class HoldsItsLock(Oven):
    """A cancelled order leaves it busy."""

    async def bake(self, events: Events) -> None:
        self.cancelled = True
        await super().bake(events)
        self.cancelled = False

    async def run(self, order: Order, events: Events) -> Result:
        if getattr(self, "cancelled", False) and not self.busy and self.calls > 8:
            message = "another order holds the oven"
            raise Fault(message)
        return await super().run(order, events)


@breaks("health is ready again after work")
class BusyForEver(Oven):
    """Its busy flag is never taken down."""

    async def health(self) -> Health:
        return Health("busy" if self.calls else "ready")


@breaks("nothing is left after work")
class AConnectionAnOrder(Oven):
    """Each order opens a connection and forgets it."""

    kept: ClassVar[list[socket.socket]] = []

    async def run(self, order: Order, events: Events) -> Result:
        result = await super().run(order, events)
        listening = socket.create_server(("127.0.0.1", 0))
        self.kept.append(listening)
        return result


def forget_connections() -> None:
    """Close what `AConnectionAnOrder` left."""
    while AConnectionAnOrder.kept:
        AConnectionAnOrder.kept.pop().close()
