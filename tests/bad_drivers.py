"""Deliberately bad drivers: each is a good oven with one fault, and names the rule that must find it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from pydantic import BaseModel, ConfigDict

from orchestrator.domain import (
    Capability,
    Description,
    Health,
    Identity,
    JsonObject,
    Limit,
    Order,
    Quantity,
    Recovery,
    Result,
    Running,
    Whereabouts,
)
from orchestrator.errors import Effect, NotConnected, Rejected
from orchestrator.protocols import Events
from tests.good_oven import GAS, TEMPERATURE, TIME, Ledger, Oven

BAD: dict[str, list[type[Oven]]] = {}
"""Rule → the drivers that break it."""


def breaks(rule: str) -> Callable[[type[Oven]], type[Oven]]:
    """Note which rule a driver breaks."""

    def note(driver: type[Oven]) -> type[Oven]:
        BAD.setdefault(rule, []).append(driver)
        return driver

    return note


def declares(**changes: Any) -> Callable[[Oven], Capability]:
    """Change what the oven declares; what it does stays."""
    return lambda self: replace(Oven.capability(self), **changes)


# Level 0: declarations.


@breaks("the six methods are async")
class SyncHealth(Oven):
    """Health is a plain function."""

    def health(self) -> Health:  # type: ignore[override]
        return Health("ready")


@breaks("options refuse unknown keys")
class LooseOptions(Oven):
    """A misspelt option is ignored."""

    class Options(BaseModel):
        """Takes anything."""

        model_config = ConfigDict(extra="ignore")


@breaks("importing touches nothing")
class PollsAtImport(Oven):
    """Its module starts a thread."""

    __module__ = "tests.bad_import"


@breaks("describe works offline")
class AsksTheDevice(Oven):
    """It must be connected to say what it can do."""

    async def describe(self) -> Description:
        message = "no device"
        raise ConnectionError(message)


@breaks("describe gives the same twice")
class ChangesItsMind(Oven):
    """Its bounds depend on when it is asked."""

    async def describe(self) -> Description:
        self.calls += 1
        return replace(await super().describe(), delivery_s=float(self.calls))


@breaks("the description is plain JSON")
class StrangeNumbers(Oven):
    """A bound of a type that no file or message can hold."""

    capability = declares(cost=complex(1.0))


@breaks("capabilities have different names")
class TwoBakes(Oven):
    """Two capabilities of one name."""

    async def describe(self) -> Description:
        return Description((self.capability(), self.capability()), simulated=True)


@breaks("names can be written in a file")
class SpokenNames(Oven):
    """A parameter that no campaign file can name."""

    capability = declares(parameters=(replace(TEMPERATURE, name="hot zone [degC]"), TIME, GAS), limits=())


@breaks("every capability declares outputs")
class NoOutputs(Oven):
    """It gives a reading that it does not declare."""

    capability = declares(outputs=())


@breaks("units are known and unambiguous")
class Coulomb(Oven):
    """`C` is coulomb."""

    capability = declares(parameters=(replace(TEMPERATURE, unit="C"), TIME, GAS))


@breaks("parameters have finite bounds or choices")
class NoLimits(Oven):
    """No bounds at all."""

    capability = declares(parameters=(replace(TEMPERATURE, low=None, high=None), TIME, GAS))


@breaks("parameters have finite bounds or choices")
class ZeroToZero(Oven):
    """0 to 0, which some devices take for "no limits"."""

    capability = declares(parameters=(replace(TEMPERATURE, low=0.0, high=0.0), TIME, GAS))


@breaks("parameters have finite bounds or choices")
class DefaultOut(Oven):
    """A default that its own bounds refuse."""

    capability = declares(parameters=(replace(TEMPERATURE, default=900.0), TIME, GAS))


@breaks("joint limits name parameters")
class LostLimit(Oven):
    """A joint limit on a parameter that there is none of."""

    capability = declares(limits=(Limit({"pressure": 1.0}, 1.0, "no"),))


@breaks("durations and cost are finite")
class Forever(Oven):
    """It may take for ever."""

    capability = declares(longest_s=float("inf"))


@breaks("a queryable instrument can look up")
class CannotLookUp(Oven):
    """It promises to find jobs, and has no `lookup`."""

    async def describe(self) -> Description:
        return replace(await super().describe(), recovery=Recovery.QUERYABLE)


@breaks("there is at least one slot")
class NoSlot(Oven):
    """It is never free."""

    async def describe(self) -> Description:
        return replace(await super().describe(), slots=0)


# Level 1: the link and refusals.


@breaks("level 1 comes to its end")
class CannotOpen(Oven):
    """It cannot be opened."""

    async def open(self) -> Identity:
        message = "permission denied"
        raise NotConnected(message)


@breaks("health answers before opening")
class HealthNeedsALink(Oven):
    """Its health raises where there is no link yet."""

    async def health(self) -> Health:
        if not self.opened:
            message = "not connected"
            raise ConnectionError(message)
        return await super().health()


@breaks("the identity has a name")
class Nameless(Oven):
    """It opens without asking who is there."""

    async def open(self) -> Identity:
        await super().open()
        return Identity("")


@breaks("opening leaves the event loop free")
class BlocksToOpen(Oven):
    """It waits for the device on the event loop."""

    async def open(self) -> Identity:
        time.sleep(0.15)  # noqa: ASYNC251  this is the mistake
        return await super().open()


@breaks("opening twice is harmless")
class AnotherEachTime(Oven):
    """Each open gives another serial number."""

    async def open(self) -> Identity:
        return replace(await super().open(), serial=str(self.opened))


@breaks("health answers")
class SlowHealth(Oven):
    """Its health takes longer than a second."""

    async def health(self) -> Health:
        await asyncio.sleep(1.1)
        return await super().health()


@breaks("abort when idle is harmless")
class AbortRaises(Oven):
    """An abort with nothing to abort raises."""

    async def abort(self, reason: str) -> None:
        if not self.busy:
            message = "nothing to abort"
            raise RuntimeError(message)
        await super().abort(reason)


@breaks("an unknown key is absent or unsure")
class KnowsEveryKey(Ledger):
    """It says of every key that its job runs."""

    async def lookup(self, key: str, handle: JsonObject | None) -> Whereabouts:
        return Running({"key": key})


@breaks("refuses an unknown capability")
class BakesAnything(Oven):
    """Whatever is asked, it bakes."""

    async def run(self, order: Order, events: Events) -> Result:
        return await super().run(replace(order, capability="bake"), events)


@breaks("refuses an unknown parameter")
class IgnoresExtras(Oven):
    """A misspelt parameter is dropped."""

    async def run(self, order: Order, events: Events) -> Result:
        known = {name: q for name, q in order.settings.items() if name in {"temperature", "time"}}
        return await super().run(replace(order, settings=known), events)


@breaks("refuses a missing structure")
class NeedsNoStructure(Oven):
    """It declares that it takes a structure, and works without."""

    capability = declares(takes_structure=True)


@breaks("refuses a choice that is none")
class AnyGas(Oven):
    """An unknown gas becomes air."""

    async def run(self, order: Order, events: Events) -> Result:
        gas = order.choices.get("gas", "")
        return await super().run(replace(order, choices={"gas": gas if gas in GAS.choices else "air"}), events)


class Meddles(Oven):
    """Changes a temperature before it checks it."""

    def meddled(self, asked: Quantity) -> Quantity:
        raise NotImplementedError

    async def run(self, order: Order, events: Events) -> Result:
        settings = dict(order.settings)
        if "temperature" in settings:
            settings["temperature"] = self.meddled(settings["temperature"])
        return await super().run(replace(order, settings=settings), events)


@breaks("refuses a value above its bound")
class ClampsHigh(Meddles):
    """Too hot becomes as hot as allowed."""

    def meddled(self, asked: Quantity) -> Quantity:
        return replace(asked, value=800.0) if asked.unit == "degC" and 800 < asked.value < 1e9 else asked


@breaks("refuses a value below its bound")
class ClampsLow(Meddles):
    """Too cold becomes as cold as allowed."""

    def meddled(self, asked: Quantity) -> Quantity:
        return replace(asked, value=20.0) if asked.unit == "degC" and asked.value < 20 else asked


@breaks("refuses NaN")
class NaNIsZero(Meddles):
    """NaN becomes the lowest value, as `max` has it."""

    def meddled(self, asked: Quantity) -> Quantity:
        return asked if asked.value == asked.value else replace(asked, value=20.0)  # NaN is not itself


@breaks("refuses infinity")
class InfinityIsMost(Meddles):
    """Infinity becomes the highest value."""

    def meddled(self, asked: Quantity) -> Quantity:
        return replace(asked, value=800.0) if asked.value == float("inf") else asked


@breaks("refuses another dimension")
class IgnoresUnits(Meddles):
    """It takes the number and drops the unit."""

    def meddled(self, asked: Quantity) -> Quantity:
        return asked if asked.unit == "kelvin" else replace(asked, unit="degC")


@breaks("refuses a missing value")
class Remembers(Oven):
    """A set-point that is not given is the last one."""

    async def run(self, order: Order, events: Events) -> Result:
        settings = {"temperature": Quantity(300.0, "degC"), "time": Quantity(5.0, "minute"), **order.settings}
        return await super().run(replace(order, settings=settings), events)


@breaks("refuses a passed joint limit")
class ForgetsTheLimit(Oven):
    """Each value is checked, both together are not."""

    async def run(self, order: Order, events: Events) -> Result:
        try:
            return await super().run(order, events)
        except Rejected as error:
            if "sags" not in str(error):
                raise
            return self.result(order, {name: q.value for name, q in order.settings.items()}, dict(order.choices))


@breaks("refuses a value above its bound")
class RefusesWithEffect(Oven):
    """It refuses, and says that nobody knows what happened."""

    async def run(self, order: Order, events: Events) -> Result:
        try:
            return await super().run(order, events)
        except Rejected as error:
            raise Rejected(str(error), effect=Effect.UNKNOWN) from error


@breaks("closing twice is harmless")
class ClosesOnce(Oven):
    """The second close raises."""

    async def close(self) -> None:
        if not self.is_open:
            message = "not open"
            raise RuntimeError(message)
        await super().close()


@breaks("it opens again as the same")
class AnotherAfterClose(Oven):
    """After a close somebody else answers."""

    async def open(self) -> Identity:
        if not self.is_open:
            self.sessions = getattr(self, "sessions", 0) + 1
        return replace(await super().open(), serial=str(self.sessions))


@breaks("a dead address is not connected")
class OpensTheDead(Oven):
    """It opens where nobody answers, as a TCP library may that does not ask."""

    async def open(self) -> Identity:
        self.is_open = True
        return Identity("oven", "SN1")


@breaks("nothing is left after closing")
class LeavesAThread(Oven):
    """Its reader thread outlives it."""

    async def open(self) -> Identity:
        if not self.is_open:
            threading.Thread(target=threading.Event().wait, args=(4.0,), name="reader", daemon=True).start()
        return await super().open()
