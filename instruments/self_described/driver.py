"""The contract for devices that describe themselves: what SiLA 2 and OPC UA drivers have in common.

A protocol writes how to link, to scan, to read one value, to do one order and to stop. Everything else of the contract
is here: the description from the scan file, refusal of a device that changed, of orders out of bounds and of a second
order, deadlines inside the adapter, health during a job, and a fresh link after any time-out.
"""

from __future__ import annotations

import asyncio
import importlib
import ipaddress
import json
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

from pydantic import BaseModel

from instruments.self_described import offers, scans
from instruments.self_described.offers import Offer, OfferOptions
from instruments.self_described.scans import Described, Scan
from instruments.settings import capability_of, checked
from orchestrator.domain import (
    Attachment,
    Description,
    Health,
    Identity,
    JsonObject,
    Order,
    Quality,
    Quantity,
    Reading,
    Recovery,
    Result,
)
from orchestrator.errors import (
    Aborted,
    BadData,
    Busy,
    Effect,
    Fault,
    InstrumentError,
    Interlocked,
    NotConnected,
    PluginError,
    ProtocolDesync,
    Rejected,
    TimedOut,
)
from orchestrator.protocols import Events

CONNECT_S = 1.4
"""A dead address is known within two seconds, on a busy computer too."""
HEALTH_S = 0.9
"""`health` must answer within a second."""
STOP_S = 3.0
"""For a device to take the word that it is to stop."""
MEANINGS: Mapping[str, type[InstrumentError]] = {
    "rejected": Rejected,
    "busy": Busy,
    "interlocked": Interlocked,
    "aborted": Aborted,
    "bad_data": BadData,
    "fault": Fault,
    "timed_out": TimedOut,
}


@dataclass(frozen=True)
class Seen:
    """One value as it came from the device.

    Args:
        value: number in the declared unit, or the name of a choice.
        quality: trust.
        measured_at: UTC in microseconds; None where the device keeps no time.
    """

    value: float | str
    quality: Quality = Quality.GOOD
    measured_at: int | None = None


@dataclass
class Job:
    """One order at work, or one that is waited for again.

    Args:
        key: dispatch key.
        offer: what is done.
        settings: checked set-points and choices by name, in the declared units.
        events: of the campaign.
        sample: id of the physical sample, where there is one.
        stop: whether `abort` was called.
        trace: what the device said on its way, for the raw file.
    """

    key: str
    offer: Offer
    settings: Mapping[str, float | str]
    events: Events
    sample: str = ""
    stop: bool = False
    trace: list[dict[str, Any]] = field(default_factory=list)

    def abort_requested(self) -> bool:
        """Say whether the order is to end early."""
        return self.stop or self.events.abort_requested()


async def imported(module: str, install: str) -> None:
    """Import a library on a thread: large ones would hold up every other instrument.

    Args:
        module: to import.
        install: what to say where it is missing.

    Raises:
        PluginError: it is not installed.
    """
    try:
        await asyncio.to_thread(importlib.import_module, module)
    except ImportError as error:
        raise PluginError(install) from error


@asynccontextmanager
async def within(seconds: float) -> AsyncIterator[None]:
    """Raise `TimeoutError` when the body takes longer.

    Unlike `asyncio.timeout` alone it also does so where a library raises a subclass of `CancelledError` (asyncua's
    waiting does when an answer arrives at that very moment), which would else look as if we had been cancelled.

    Args:
        seconds: that the body may take.
    """
    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            yield
    except asyncio.CancelledError as error:
        if limit.expired():
            raise TimeoutError from error
        raise


def is_here(host: str) -> bool:
    """Say whether a host is this computer."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Nobody:
    """Events of a look-up: nobody listens."""

    async def accepted(self, handle: JsonObject) -> None:
        """Keep nothing: the handle is known."""

    def progress(self, fraction: float, text: str = "") -> None:
        """Tell nobody."""

    def abort_requested(self) -> bool:
        """Wish for nothing."""
        return False

    async def sleep(self, seconds: float) -> None:
        """Wait on the wall clock."""
        await asyncio.sleep(seconds)


class SelfDescribed(ABC):
    """Base of drivers whose devices describe themselves.

    Args:
        options: checked options of the driver.
    """

    Options: ClassVar[type[BaseModel]] = OfferOptions
    protocol: ClassVar[str] = ""

    def __init__(self, options: Any) -> None:
        self.options = options
        self._identity: Identity | None = None
        self._jobs: list[Job] = []
        self._opening = asyncio.Lock()

    # What a protocol writes.

    @abstractmethod
    async def _connect(self) -> Identity:
        """Make the link and prove it; nothing may be left open where that fails."""

    @abstractmethod
    async def _disconnect(self) -> None:
        """Give the link back; harmless without one."""

    @abstractmethod
    async def _scan(self) -> Scan:
        """Read over the link what the device says of itself."""

    @abstractmethod
    async def _value(self, value: Described, *, output: bool = False) -> Seen:
        """Read one value.

        Args:
            value: to be read.
            output: whether it is to be a measurement, so that an old one will not do.
        """

    @abstractmethod
    async def _work(self, job: Job) -> Result:
        """Carry out one order, with exactly one transmission of its start."""

    @abstractmethod
    async def _stop(self, reason: str) -> None:
        """Stop what runs, on a path beside the jobs."""

    @abstractmethod
    async def _alive(self) -> None:
        """Make one call that any device answers at once."""

    def _used(self, scan: Scan) -> Scan:
        """Return the part of a scan that is used."""
        return scan

    def _recovery(self) -> Recovery:
        """Say what can be found out after a crash."""
        return Recovery.BLIND

    # The contract.

    @cached_property
    def scanned(self) -> Scan:
        """What the device said of itself when it was scanned."""
        return scans.read(self.options.scan, self.protocol)

    @cached_property
    def offers(self) -> Mapping[str, Offer]:
        """What is offered, by name."""
        return {offer.name: offer for offer in offers.offers(self._used(self.scanned), self.options)}

    async def describe(self) -> Description:
        """Declare what the scan file and the options say; no device is touched."""
        return offers.description(self.offers.values(), self.options, self._recovery())

    async def open(self) -> Identity:
        """Make the link, where there is none, and refuse a device that is not as it was scanned."""
        scanned = self.scanned
        async with self._opening:
            if self._identity is None:
                identity = await self._connect()
                try:
                    scans.refuse_drift(scanned, await self._scan(), self.options.scan)
                except BaseException:
                    await self._disconnect()
                    raise
                self._identity = identity
            return self._identity

    async def close(self) -> None:
        """Stop what runs and give the link back."""
        if self._jobs:
            with suppress(Exception):
                async with within(STOP_S):
                    await self.abort("the instrument is closed")
        await self._drop()

    async def health(self) -> Health:
        """Read the state now, over the link, also during a job."""
        if self._identity is None:
            return Health("offline", "not opened")
        try:
            async with within(HEALTH_S):
                health = await self._checked()
        except TimeoutError:
            return Health("offline", f"no answer within {HEALTH_S:g} s")
        except InstrumentError as error:
            return Health("offline" if isinstance(error, NotConnected | TimedOut) else "fault", str(error))
        if self._jobs and health.state == "ready":
            return Health("busy", f"{self._jobs[0].offer.name} is at work")
        return health

    async def run(self, order: Order, events: Events) -> Result:
        """Carry out one order.

        Raises:
            Rejected: the order is outside what is declared.
            Busy: another order is at work.
            TimedOut: the deadline passed, or the device fell silent.
        """
        declared = await self.describe()
        capability = capability_of(declared, order)
        numbers, choices = checked(capability, order)
        if self._jobs:
            message = f"{self._jobs[0].offer.name} is at work; one order at a time"
            raise Busy(message)
        job = Job(order.key, self.offers[capability.name], {**numbers, **choices}, events, order.sample or "")
        return await self._at_work(job, self._started(job), min(order.deadline_s, capability.longest_s))

    async def abort(self, reason: str) -> None:
        """Stop the job, on a path of its own; harmless when idle."""
        for job in self._jobs:
            job.stop = True
        if self._jobs and self._identity is not None:
            await self._stop(reason)

    # For the protocols.

    async def _at_work(self, job: Job, work: Any, limit_s: float) -> Result:
        """Wait for a job within its deadline; end the link where answers may come late.

        Args:
            job: to be held as the one at work.
            work: coroutine of the job.
            limit_s: deadline in seconds.
        """
        self._jobs.append(job)
        try:
            async with within(limit_s):
                result: Result = await work
                return result
        except TimeoutError as error:
            await self._ended(job, "its deadline passed")
            message = f"{job.offer.name} gave no result within {limit_s:g} s; look at the device before going on"
            raise TimedOut(message) from error
        except asyncio.CancelledError:
            await asyncio.shield(self._ended(job, "the order was cancelled"))
            raise
        except (TimedOut, ProtocolDesync, NotConnected):
            await self._drop()
            raise
        except Fault as error:
            if job.abort_requested():
                message = f"{job.offer.name} was stopped on request: {error}"
                raise Aborted(message) from error
            raise
        except InstrumentError:
            raise
        except Exception as error:  # libraries meet a spoiled answer with IndexError, ValueError, …
            await self._drop()
            message = (
                f"{job.offer.name}: an answer cannot be read ({type(error).__name__}: {error}); look what became of it"
            )
            raise ProtocolDesync(message) from error
        finally:
            self._jobs.remove(job)

    async def _started(self, job: Job) -> Result:
        await self.open()
        if job.abort_requested():
            message = f"{job.offer.name} was stopped before it began"
            raise Aborted(message, effect=Effect.NONE)
        return await self._work(job)

    async def _ended(self, job: Job, reason: str) -> None:
        job.stop = True
        with suppress(Exception):  # what is reported is that nobody knows how it ended
            async with within(STOP_S):
                await self._stop(reason)
        await self._drop()

    async def _drop(self) -> None:
        self._identity = None
        with suppress(Exception):  # a link that is gone cannot always be given back
            async with within(STOP_S):
                await self._disconnect()

    async def _checked(self) -> Health:
        o = self.options
        value = self.scanned.value(o.state) if o.state else None
        if value is None:
            await self._alive()
            return Health("ready")
        state = str((await self._value(value)).value)
        if state in o.interlocked:
            return Health("interlocked", state)
        if state in o.failed:
            return Health("fault", state)
        return Health("busy" if state in o.busy else "ready", state)

    async def _own_readings(self, job: Job, raw: Mapping[str, Any]) -> None:
        """Refuse numbers that the device shows for another order: an old display looks as good as a new one."""
        name = self.options.key_answer
        if not name:
            return
        answer = next((a for a in (job.offer.command.answers if job.offer.command else ()) if a.name == name), None)
        value = None if answer is not None else self.scanned.value(name)
        held = raw.get(answer.source, "") if answer is not None else (await self._value(value)).value if value else ""
        if str(held) != job.key:
            message = f"{name} says {held!r}: the readings are not those of order {job.key!r}"
            raise BadData(message)

    async def _result(self, job: Job, answers: Mapping[str, Seen], raw: Mapping[str, Any]) -> Result:
        """Put together what came back; where the link breaks at the last moment, make it anew once.

        Args:
            job: that ended.
            answers: of the device, by name.
            raw: the answers as they came, for the raw file.
        """
        try:
            return await self._assembled(job, answers, raw)
        except (NotConnected, TimedOut):
            if job.offer.command is None:
                raise  # nothing but reading was asked for
        try:
            await self._drop()
            await self.open()
            return await self._assembled(job, answers, raw)
        except BadData:
            raise
        except InstrumentError as error:
            message = f"{job.offer.name} was done, but what it applied or measured could not be read: {error}"
            raise BadData(message) from error

    async def _assembled(self, job: Job, answers: Mapping[str, Seen], raw: Mapping[str, Any]) -> Result:
        """Read the outputs and read-backs that are no answers, and put all together."""
        offer = job.offer
        await self._own_readings(job, raw)
        readings = []
        for name, where in offer.outputs.items():
            seen = answers.get(name) or await self._value(where, output=True)
            if isinstance(seen.value, str):
                message = f"{name} is {seen.value!r}; a number in {where.unit} was expected"
                raise BadData(message)
            readings.append(Reading(name, seen.value, where.unit, quality=seen.quality, measured_at=seen.measured_at))
        applied: dict[str, Quantity] = {}
        choices: dict[str, str] = {}
        for name, where in offer.read_back.items():
            seen = answers.get(where.name) or await self._value(where)
            if isinstance(seen.value, str):
                choices[name] = seen.value
            else:
                applied[name] = Quantity(seen.value, where.unit)
        blind = sorted(set(offer.parameters) - set(offer.read_back))
        notes = f"the device does not say what it applied of: {', '.join(blind)}" if blind else ""
        content = {"answers": dict(raw), "trace": job.trace}
        attached: tuple[Attachment, ...] = ()
        if raw or job.trace:
            text = json.dumps(content, default=str, ensure_ascii=False)
            attached = (Attachment(f"{offer.name}.json", "application/json", text.encode()),)
        return Result(
            key=job.key,
            readings=tuple(readings),
            applied=applied,
            applied_choices=choices,
            attachments=attached,
            notes=notes,
        )

    def _sent(self, job: Job) -> dict[str, Any]:
        """Return what goes to the device, by the device's names."""
        offer = job.offer
        sent = {p.source: p.to_device(job.settings[name]) for name, p in offer.parameters.items()}
        for name, value in offer.fixed.items():
            given = self.options.fixed[name]
            text = str(given).lower() if isinstance(given, bool) else given
            sent[value.source] = value.to_device(text if isinstance(text, str) else float(text))
        if offer.key is not None:
            sent[offer.key.source] = job.key
        return sent
