"""EPICS and bluesky devices as instruments, through ophyd-async: set, wait for the read-back, start, wait, read.

::

    use: ophyd
    options:
      servers: [10.0.0.7:5064]
      capability: fire
      signals: {temperature: {pv: FURN:T:SP, readback: FURN:T:RBV, unit: degC, min: 20, max: 900, tolerance: 1}}
      outputs: {density: {pv: FURN:DENSITY, unit: percent}}
      start: {pv: FURN:START}
      busy: {pv: FURN:BUSY}
      stop: {pv: FURN:STOP}

or ``device: my_lab.devices:Furnace`` with attributes in the place of PVs; code calls `from_ophyd`. A status that says
"done" is not believed: a set-point counts as applied when the read-back says so, a result as new when its time stamp
changed. Waiting for an ophyd status and giving up stops the waiting, not the hardware; so an abort and a deadline write
the stop signal, and stop what is a motor. Alarms become the quality of a reading: minor is uncertain, major is bad,
invalid is an error.

Recovery class *blind*: a PV holds no key. ophyd-async (BSD-3) 0.21; Channel Access through aioca (Apache-2.0).
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Awaitable
from typing import Any, ClassVar

from pydantic import BaseModel

from instruments.ophyd.links import QUALITIES, Links, Seen
from instruments.ophyd.options import OphydOptions
from instruments.settings import capability_of, checked
from orchestrator.domain import (
    Capability,
    Description,
    Health,
    Identity,
    Order,
    Output,
    Parameter,
    Quality,
    Quantity,
    Reading,
    Result,
)
from orchestrator.errors import (
    Aborted,
    BadData,
    Busy,
    Effect,
    Fault,
    InstrumentError,
    NotConnected,
    Rejected,
    TimedOut,
    UnitError,
)
from orchestrator.protocols import Events
from orchestrator.units import convert

HEALTH_S = 0.7
LOOK_S = 0.05
STOP_S = 2.0
"""For writing the stop signal; it is written on a path of its own while the order waits."""
SAME = 1e-6
"""Relative: bounds that went through single precision in a record are still the same."""


class OphydDevice:
    """An ophyd-async device, or a set of EPICS PVs.

    Args:
        options: signals and what is done with them.
        device: built by the caller; see `from_ophyd`.
    """

    Options: ClassVar[type[BaseModel]] = OphydOptions

    def __init__(self, options: OphydOptions, device: Any = None) -> None:
        self.options = options
        self._device = device
        self._links: Links | None = None
        self._identity: Identity | None = None
        self._opening = asyncio.Lock()
        self._job: tuple[str, Events] | None = None
        self._stopped = ""
        self._sent = False
        self._until = math.inf

    def description(self) -> Description:
        """Return the declared capability."""
        o = self.options
        return Description(
            capabilities=(
                Capability(
                    name=o.capability,
                    outputs=tuple(Output(name, p.unit, p.low, p.high) for name, p in o.outputs.items()),
                    parameters=tuple(
                        Parameter(name, s.unit, s.min, s.max, s.resolution, s.choices, s.default)
                        for name, s in o.signals.items()
                    ),
                    typical_s=min(o.typical_s, o.longest_s),
                    longest_s=o.longest_s,
                    cost=o.cost,
                    fidelity="simulated" if o.simulated else "real",
                ),
            ),
            simulated=o.simulated,
        )

    async def describe(self) -> Description:
        """Declare what the device can do."""
        return self.description()

    async def open(self) -> Identity:
        """Connect every signal, and compare units and limits with what is declared."""
        async with self._opening:
            if self._identity is None:
                links = Links(self.options, self._device)
                version = await links.connect()
                try:
                    await self._compare(links)
                except BaseException:
                    links.close()
                    raise
                self._links = links
                self._identity = Identity(self.options.device or type(self._device).__name__, "", version)
                if self._device is None and self.options.device is None:
                    self._identity = Identity(
                        "EPICS", ", ".join(p.text() for p in self.options.outputs.values()), version
                    )
            return self._identity

    async def close(self) -> None:
        """Stop what runs and give the signals back."""
        if self._job is not None:
            await self.abort("closed")
            until = asyncio.get_running_loop().time() + STOP_S
            while self._job is not None and asyncio.get_running_loop().time() < until:  # noqa: ASYNC110  seconds at most
                await asyncio.sleep(LOOK_S)
        links, self._links, self._identity = self._links, None, None
        if links is not None:
            links.close()

    async def health(self) -> Health:
        """Ask the busy signal, or the first one there is; also during a job."""
        links = self._links
        if links is None:
            return Health("offline", "not opened")
        try:
            async with asyncio.timeout(HEALTH_S):
                if links.has("busy"):
                    busy = not _equal((await links.see("busy")).value, self._idle())
                    return Health("busy" if busy or self._job else "ready")
                await links.see(f"output {next(iter(self.options.outputs))}")
        except (TimeoutError, OSError):
            return Health("offline", f"no answer within {HEALTH_S:g} s")
        except InstrumentError as error:
            return Health("busy" if self._job else "ready", str(error))
        except Exception as error:  # noqa: BLE001  the library's own errors have no common base
            return Health("offline", f"{type(error).__name__}: {error}")
        return Health("busy" if self._job else "ready")

    async def run(self, order: Order, events: Events) -> Result:
        """Set, wait for the read-backs, start, wait, read.

        Raises:
            Rejected: outside what is declared, or the device kept its old set-point.
            Busy: it is at work.
            NotConnected: it did not answer before anything was sent.
            TimedOut: the deadline passed, and stop was written.
            BadData: a set-point did not arrive, or a value cannot be used.
        """
        capability = capability_of(self.description(), order)
        numbers, choices = checked(capability, order)
        if self._job is not None:
            message = f"it is at work on the order {self._job[0]}; ask again later"
            raise Busy(message)
        self._job, self._stopped, self._sent = (order.key, events), "", False
        limit_s = min(order.deadline_s, capability.longest_s)
        self._until = asyncio.get_running_loop().time() + limit_s
        try:
            await self.open()
            async with asyncio.timeout(limit_s):
                return await self._work(order, {**numbers, **choices}, events)
        except asyncio.CancelledError:
            await self._stop_now()
            raise
        except InstrumentError as error:
            if self._sent and isinstance(error, BadData | Fault):
                await self._stop_now()
            raise
        except TimeoutError as error:
            await self._stop_now()
            message = f"{order.capability} gave no result within {limit_s:g} s; stop was written where there is one"
            raise TimedOut(message, effect=None if self._sent else Effect.NONE) from error
        except Exception as error:
            await self._stop_now()
            message = f"{order.capability}: {type(error).__name__}: {error}"
            raise Fault(message, effect=None if self._sent else Effect.NONE) from error
        finally:
            self._job = None

    async def abort(self, reason: str) -> None:
        """Write the stop signal beside the job; harmless when idle."""
        if self._job is not None:
            self._stopped = reason
            await self._stop_now()

    async def make_safe(self) -> None:
        """Stop, and write the set-points of the safe state.

        Raises:
            Rejected: neither 'stop' nor 'safe' is declared.
            TimedOut: a set-point was not taken in time.
        """
        if self.options.stop is None and not self.options.safe:
            message = "no safe state is declared; give 'stop' or 'safe' among the options, and stop it by hand now"
            raise Rejected(message)
        await self.open()
        self._stopped = "it is made safe" if self._job is not None else ""
        await self._stop_now()
        links = self._links
        if links is None:
            message = "the link was closed"
            raise NotConnected(message)
        for name, value in self.options.safe.items():
            try:
                await asyncio.wait_for(_awaited(links.set(f"set {name}", value)), STOP_S)
            except TimeoutError as error:
                message = f"the safe value {value} of {name} was not taken within {STOP_S:g} s; stop it by hand"
                raise TimedOut(message) from error

    async def _work(self, order: Order, wanted: dict[str, float | str], events: Events) -> Result:
        links = self._links
        if links is None:
            message = "the link was closed"
            raise NotConnected(message)
        if links.has("busy") and not _equal((await links.see("busy")).value, self._idle()):
            message = "its busy signal is on: somebody else is at work with it"
            raise Busy(message)
        before = {name: await links.see(f"output {name}") for name in self.options.outputs}
        for name, value in wanted.items():
            await self._set(links, name, value, events)
        applied = {name: await self._arrived(links, name, value, events) for name, value in wanted.items()}
        if self.options.start is not None:
            self._sent = True
            await self._watched(links.set("start", self.options.start.value), events)
        if links.has("trigger"):
            self._sent = True
            await self._watched(links.trigger(), events)
        await self._finished(links, events)
        readings = [await self._reading(links, name, before[name]) for name in self.options.outputs]
        kinds = self.options.signals
        return Result(
            key=order.key,
            readings=tuple(readings),
            applied={n: Quantity(float(v), kinds[n].unit) for n, v in applied.items() if not kinds[n].choices},
            applied_choices={n: str(v) for n, v in applied.items() if kinds[n].choices},
        )

    async def _set(self, links: Links, name: str, value: float | str, events: Events) -> None:
        first, self._sent = not self._sent, True
        await self._watched(links.set(f"set {name}", value), events)
        seen = (await links.see(f"set {name}")).value
        # A server may refuse without telling the client; what it holds now is the truth.
        if not self._near(name, seen, value):
            message = f"{name} was set to {value}, and the device kept {seen}; it refused, or has limits of its own"
            raise Rejected(message, effect=Effect.NONE if first else Effect.STARTED)

    async def _arrived(self, links: Links, name: str, value: float | str, events: Events) -> float | str:
        loop = asyncio.get_running_loop()
        limit_s = self.options.signals[name].settle_s
        until = loop.time() + limit_s
        while True:
            seen: float | str = (await links.see(f"read {name}")).value
            if self._near(name, seen, value):
                return seen
            if loop.time() > until:
                message = (
                    f"{name} was set to {value} and the device said so, but it stands at {seen} after {limit_s:g} s;"
                    " it did not move, or the tolerance is too tight"
                )
                raise BadData(message, effect=Effect.STARTED)
            await self._pause(events)

    async def _finished(self, links: Links, events: Events) -> None:
        if not links.has("busy"):
            return
        loop = asyncio.get_running_loop()
        until = loop.time() + (self.options.rise_s if self.options.start is not None else 0.0)
        rose = False
        while True:
            busy = not _equal((await links.see("busy")).value, self._idle())
            rose = rose or busy
            if not busy and (rose or loop.time() > until):
                self._raise_if_stopped(events)
                return
            await self._pause(events)

    async def _reading(self, links: Links, name: str, before: Seen) -> Reading:
        place = self.options.outputs[name]
        seen = await links.see(f"output {name}")
        asked = self.options.start or self.options.trigger
        if asked is not None and seen.at == before.at:
            message = f"{name} carries the time stamp from before the start: it was not measured anew"
            raise BadData(message)
        if isinstance(seen.value, str):
            message = f"{name} is {seen.value!r}; a number in {place.unit} was expected"
            raise BadData(message)
        quality = QUALITIES.get(seen.severity, Quality.BAD)
        return Reading(name, seen.value, place.unit, quality=quality, measured_at=int(seen.at * 1e6))

    async def _watched(self, status: Awaitable[Any], events: Events) -> None:
        waiting = asyncio.ensure_future(_awaited(status))
        try:
            while not waiting.done():
                await asyncio.wait([waiting], timeout=LOOK_S)
                self._raise_if_stopped(events)
            waiting.result()
        finally:
            waiting.cancel()

    async def _pause(self, events: Events) -> None:
        self._raise_if_stopped(events)
        await asyncio.sleep(LOOK_S)

    def _raise_if_stopped(self, events: Events) -> None:
        # Besides the time-out around the whole: Python 3.11's wait_for, under every read, can swallow a cancellation
        # that comes together with its answer, and the time-out with it.
        if asyncio.get_running_loop().time() > self._until:
            raise TimeoutError
        if self._stopped or events.abort_requested():
            message = f"stopped on request: {self._stopped or 'the campaign asked for it'}"
            raise Aborted(message, effect=None if self._sent else Effect.NONE)

    async def _stop_now(self) -> None:
        links, stop = self._links, self.options.stop
        if links is None:
            return
        # Shielded: whoever cancels the order must not cancel its stop.
        with contextlib.suppress(Exception):
            await asyncio.shield(asyncio.wait_for(links.stop(), STOP_S))
        if stop is not None:
            with contextlib.suppress(Exception):
                await asyncio.shield(asyncio.wait_for(_awaited(links.set("stop", stop.value)), STOP_S))

    async def _compare(self, links: Links) -> None:
        for name, setting in self.options.signals.items():
            about = await links.about(f"set {name}")
            if setting.choices:
                missing = sorted(set(setting.choices) - set(about.get("choices") or setting.choices))
                if missing:
                    message = f"{name}: the device knows no {', '.join(missing)}; it knows {about.get('choices')}"
                    raise NotConnected(message)
                continue
            self._same_unit(name, about.get("units"), setting.unit)
            limits = (about.get("limits") or {}).get("control") or {}
            low, high = limits.get("low"), limits.get("high")
            span = SAME * ((setting.max or 0.0) - (setting.min or 0.0))
            if (low is not None and (setting.min or 0.0) < low - span) or (
                high is not None and (setting.max or 0.0) > high + span
            ):
                message = (
                    f"{name}: the lab file allows {setting.min} to {setting.max} {setting.unit}, the device {low} to"
                    f" {high}; a record clamps without a word, so narrow the bounds"
                )
                raise NotConnected(message)
        for name, place in self.options.outputs.items():
            self._same_unit(name, (await links.about(f"output {name}")).get("units"), place.unit)

    def _same_unit(self, name: str, said: str | None, declared: str) -> None:
        if not said:
            return
        theirs = self.options.egu.get(said, said)
        with contextlib.suppress(UnitError):
            if all(math.isclose(convert(x, theirs, declared), x, rel_tol=SAME, abs_tol=SAME) for x in (0.0, 1.0)):
                return
        message = (
            f"{name}: the device gives it in {said!r}, the lab file in {declared!r}; correct the unit, or say what the"
            f" device means: egu: {{{said!r}: {declared}}}"
        )
        raise NotConnected(message)

    def _near(self, name: str, seen: float | str, wanted: float | str) -> bool:
        setting = self.options.signals[name]
        if setting.choices:
            return str(seen) == str(wanted)
        return abs(float(seen) - float(wanted)) <= setting.near() + SAME * abs(float(wanted))

    def _idle(self) -> float | str:
        return 0 if self.options.busy is None else self.options.busy.idle


def from_ophyd(device: Any, **options: Any) -> OphydDevice:
    """Make an instrument of an ophyd-async device that exists already.

    Args:
        device: built; it is connected when the instrument is opened.
        **options: of `OphydOptions`, with attributes of the device in the place of PVs.

    Returns:
        The instrument.
    """
    return OphydDevice(OphydOptions.model_validate(options, context={"device": device}), device)


async def _awaited(status: Awaitable[Any]) -> None:
    await status


def _equal(seen: float | str, wanted: float | str) -> bool:
    return str(seen) == str(wanted) if isinstance(seen, str) else float(seen) == float(wanted)
