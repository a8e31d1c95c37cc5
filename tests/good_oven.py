"""A simulated oven whose driver keeps the contract; `tests.bad_drivers` break it in one place each."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any, ClassVar

from pydantic import BaseModel

from instruments.settings import capability_of, checked
from orchestrator.domain import (
    Absent,
    Attachment,
    Capability,
    Description,
    Finished,
    Health,
    Identity,
    JsonObject,
    Limit,
    Order,
    Output,
    Parameter,
    Quantity,
    Reading,
    Recovery,
    Result,
    Whereabouts,
)
from orchestrator.errors import Aborted, Busy, NotConnected, TimedOut
from orchestrator.protocols import Events, Options

BAKES_S = 0.6
"""On the campaign's clock: longer than the deadline that the checks give."""
TEMPERATURE = Parameter("temperature", "degC", 20.0, 800.0, resolution=1.0)
TIME = Parameter("time", "minute", 1.0, 60.0)
GAS = Parameter("gas", choices=("air", "argon"))
STRENGTH = Output("strength", "MPa", 0.0, 900.0)
HOT_AND_LONG = Limit({"temperature": 1.0, "time": 10.0}, 1300.0, "the tube sags when hot for long")


class OvenOptions(Options):
    """Where the oven is."""

    port: str = "COM1"


class Oven:
    """A driver that keeps the contract; the others break it in one place each."""

    Options: ClassVar[type[BaseModel]] = OvenOptions

    def __init__(self, options: Any = None) -> None:
        self.options = options or OvenOptions()
        self.is_open = self.busy = False
        self.stop = asyncio.Event()
        self.calls = 0
        self.opened = 0

    def capability(self) -> Capability:
        return Capability(
            "bake",
            outputs=(STRENGTH,),
            parameters=(TEMPERATURE, TIME, GAS),
            limits=(HOT_AND_LONG,),
            longest_s=20.0,
        )

    async def describe(self) -> Description:
        return Description((self.capability(),), recovery=Recovery.IDEMPOTENT, simulated=True)

    async def open(self) -> Identity:
        if self.options.port == "dead":
            message = "nobody answers at 'dead'"
            raise NotConnected(message)
        self.is_open = True
        self.opened += 1
        return Identity("oven", "SN1")

    async def close(self) -> None:
        self.is_open = self.busy = False

    async def health(self) -> Health:
        if not self.is_open:
            return Health("offline")
        return Health("busy" if self.busy else "ready")

    async def run(self, order: Order, events: Events) -> Result:
        capability = capability_of(await Oven.describe(self), order)
        numbers, choices = checked(Oven.capability(self), order)
        if self.busy:
            message = "baking"
            raise Busy(message)
        self.busy = True
        self.stop.clear()
        self.calls += 1
        try:
            await asyncio.wait_for(self.bake(events), min(order.deadline_s, capability.longest_s))
        except TimeoutError as error:
            message = "still baking at the deadline"
            raise TimedOut(message) from error
        finally:
            self.busy = False
        if self.stop.is_set() or events.abort_requested():
            message = "stopped"
            raise Aborted(message)
        events.progress(1.0)
        return self.result(order, dict(numbers), dict(choices))

    async def bake(self, events: Events) -> None:
        nap = asyncio.ensure_future(events.sleep(BAKES_S))
        stop = asyncio.ensure_future(self.stop.wait())
        try:
            await asyncio.wait((nap, stop), return_when=asyncio.FIRST_COMPLETED)
        finally:
            nap.cancel()
            stop.cancel()

    def result(self, order: Order, numbers: dict[str, float], choices: dict[str, str]) -> Result:
        temperature, minutes = numbers["temperature"], numbers["time"]
        return Result(
            order.key,
            (Reading("strength", temperature, "MPa", std_error=1.0),),
            applied={"temperature": Quantity(temperature, "degC"), "time": Quantity(minutes, "minute")},
            applied_choices=choices,
            attachments=(Attachment("log.csv", "text/csv", b"time,temperature\n"),),
        )

    async def abort(self, reason: str) -> None:
        self.stop.set()


class Ledger(Oven):
    """A good oven that keeps a log of its jobs."""

    def __init__(self, options: Any = None) -> None:
        super().__init__(options)
        self.log: dict[str, Result] = {}

    async def describe(self) -> Description:
        return replace(await super().describe(), recovery=Recovery.QUERYABLE)

    async def run(self, order: Order, events: Events) -> Result:
        result = await super().run(order, events)
        self.log[order.key] = result
        return result

    async def lookup(self, key: str, handle: JsonObject | None) -> Whereabouts:
        return Finished(self.log[key]) if key in self.log else Absent()

    async def attach(self, handle: JsonObject, events: Events) -> Result:
        message = "no job runs"
        raise NotConnected(message)
