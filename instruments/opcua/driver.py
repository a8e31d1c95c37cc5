"""An OPC UA server as an instrument, without driver code: variables and methods of one unit say what it can do.

The client is `asyncua`. A value is read together with its status code and its source time stamp: what the server calls
*uncertain* or *bad* is no good reading, a *last usable value* is never a new measurement, and an output that is older
than the order belongs to an earlier one. Reconnecting is ours: once, then the link is lost. Where the unit has the
shape of OPC UA LADS (OPC 30500), programs are started with our key as the supervisory task id, see `lads`.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel

from instruments.opcua import lads, reading
from instruments.opcua.link import OpcUaOptions, Where, linked, our_errors
from instruments.opcua.nodes import Unit, explore, find_unit, scan_of
from instruments.opcua.reading import Since, microseconds, plain
from instruments.self_described.driver import Job, Nobody, Seen, SelfDescribed, within
from instruments.self_described.scans import Described, Scan
from orchestrator.domain import (
    Absent,
    Description,
    Finished,
    Identity,
    JsonObject,
    Recovery,
    Result,
    Running,
    Unsure,
    Whereabouts,
)
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
)
from orchestrator.protocols import Events

if TYPE_CHECKING:
    from asyncua import Client

POLL_S = 0.1
BLIND_S = 5.0
"""How long the state may come as bad before the work counts as lost from sight; sensors drop out for a moment."""


class OpcUa(SelfDescribed):
    """Carry out the methods or programs of one OPC UA unit.

    Args:
        options: endpoint, unit, scan file and what is used.
    """

    Options: ClassVar[type[BaseModel]] = OpcUaOptions
    protocol: ClassVar[str] = "opcua"

    def __init__(self, options: OpcUaOptions) -> None:
        super().__init__(options)
        self.options: OpcUaOptions = options
        self._client: Client | None = None
        self._unit: Unit | None = None
        self._booted: datetime | None = None
        self._since = Since(any_age=options.freshness == "any")
        self._told = 0.0

    # The link.

    async def _connect(self) -> Identity:
        o = self.options
        where = Where(
            o.endpoint,
            o.user_env,
            o.password_env,
            o.security,
            o.mode,
            o.certificate,
            o.private_key,
            o.server_certificate,
        )
        self._client = await linked(where, o.call_s)
        try:
            with our_errors({}, "reading the unit"):
                self._unit = await explore(await find_unit(self._client, o.unit))
                self._booted = await self._server("ServerStatus", "StartTime")
                return await self._who()
        except BaseException:
            await self._disconnect()
            raise

    async def _disconnect(self) -> None:
        client, self._client, self._unit = self._client, None, None
        if client is not None:
            try:
                async with within(self.options.call_s):
                    await client.disconnect()
            except (TimeoutError, Exception):  # noqa: BLE001  a link that is gone is given back as far as it goes
                client.disconnect_socket()

    async def _scan(self) -> Scan:
        unit = self._nodes()
        make = lads.scan_of if lads.is_lads(unit) else scan_of
        with our_errors({}, "reading the unit"):
            if make is lads.scan_of:
                await lads.read_templates(unit)
                await self._linked().load_data_type_definitions()  # of the structures that a start is made of
        return make(unit, address=self.options.endpoint, device={}, unit_path=self.options.unit)

    async def _alive(self) -> None:
        with our_errors({}, "asking whether it is alive"):
            await self._server("ServerStatus", "State")

    async def _value(self, value: Described, *, output: bool = False) -> Seen:
        node = self._nodes().variables.get(value.source)
        if node is None:
            message = f"the server has no {value.source} any more; scan it again"
            raise Fault(message, effect=Effect.NONE)
        return await reading.read(node, value, self._since, output=output)

    # Work.

    def _recovery(self) -> Recovery:
        programs = any(offer.command and offer.command.style == lads.PROGRAM for offer in self.offers.values())
        keyed = bool(self.options.key_parameter and self.options.key_value)
        return Recovery.QUERYABLE if programs or keyed else Recovery.BLIND

    async def describe(self) -> Description:
        """Declare what the scan file and the options say; no device is touched."""
        if self.options.state and not self.options.busy:
            message = "'state' alone does not tell when the work is over; list under 'busy' what it holds meanwhile"
            raise ConfigError(message, key="options.busy")
        return await super().describe()

    async def _work(self, job: Job) -> Result:
        now = await self._clock()
        self._since = replace(self._since, begun_us=now, skew_us=time.time_ns() // 1000 - now)
        command = job.offer.command
        if command is None:
            return await self._result(job, {}, {})
        if command.style == lads.PROGRAM:
            return await self._program(job)
        await self._ready()
        await self._write(job)
        answers = await self._call(job, command.source)
        handle: JsonObject = {"capability": job.offer.name, "key": job.key, "begun_us": now}
        if self._recovery() is Recovery.QUERYABLE:
            await job.events.accepted(handle)
        if job.abort_requested():
            await self._stop("it was to end before it had begun")
        await self._until_done(job)
        return await self._read(job, answers)

    async def _ready(self) -> None:
        """Refuse before anything is written: a set-point would reach into somebody else's work."""
        try:
            health = await self._checked()
        except BadData as error:
            message = f"{error}; nothing was started"
            raise Fault(message, effect=Effect.NONE) from error
        if health.state == "busy":
            message = f"the device is at work ({health.detail})"
            raise Busy(message)
        if health.state == "interlocked":
            message = f"the device waits for a person ({health.detail})"
            raise Interlocked(message)

    async def _write(self, job: Job) -> None:
        """Write the set-points that are variables, and see that the device took each."""
        from asyncua import ua  # noqa: PLC0415  optional, and loaded by now

        unit = self._nodes()
        for name, value in job.offer.parameters.items():
            if value.via != "write":
                continue
            wanted = job.settings[name]
            variant = ua.Variant(value.to_device(wanted), unit.types[value.source])
            with our_errors(self.options.errors, f"setting {name}", lost=Effect.UNKNOWN):
                await unit.variables[value.source].write_value(ua.DataValue(variant))
            held = await self._held(value)
            if not _same(held, wanted, value):
                message = f"{name} was set to {wanted} {value.unit}, and the device holds {held}; nothing was started"
                raise Rejected(message)

    async def _held(self, value: Described) -> float | str:
        """Read a set-point that was just written."""
        try:
            return (await self._value(value)).value
        except (NotConnected, TimedOut) as error:
            raise type(error)(str(error), effect=Effect.UNKNOWN) from error
        except BadData as error:
            message = f"{value.name} was set, and cannot be read back: {error}; nothing was started"
            raise Fault(message, effect=Effect.NONE) from error

    async def _call(self, job: Job, path: str) -> Mapping[str, Any]:
        """Call a method with the order's arguments: the one transmission of the start."""
        from asyncua import ua  # noqa: PLC0415  optional, and loaded by now

        unit = self._nodes()
        parent, method = unit.methods[path]
        takes, gives = unit.arguments[path]
        sent = self._sent(job)
        inputs = [ua.Variant(sent[one.Name], ua.VariantType(one.DataType.Identifier)) for one in takes]
        with our_errors(self.options.errors, job.offer.name, lost=Effect.UNKNOWN):
            answer = await parent.call_method(method, *inputs)
        values = answer if isinstance(answer, list) else [answer]
        return {one.Name: plain(value) for one, value in zip(gives, values, strict=False)}

    async def _until_done(self, job: Job) -> None:
        """Follow the state until the device has ended its work."""
        state = self.scanned.value(self.options.state) if self.options.state else None
        if state is None:
            return  # the method's answer is the end
        begun, seen_busy, relinked = time.monotonic(), False, False
        self._told = begun
        while True:
            try:
                held = await self._look(job, state)
                seen_busy |= held in self.options.busy
            except (NotConnected, TimedOut) as lost:
                if relinked:
                    raise type(lost)(str(lost), effect=Effect.UNKNOWN) from lost
                relinked = True
                await self._relink(job, lost)
                continue
            self._refuse_trouble(job, held)
            if held not in self.options.busy and (seen_busy or time.monotonic() - begun > self.options.start_s):
                break
            if not seen_busy and await self._answered_already(job):
                break
            await asyncio.sleep(POLL_S)
        if job.abort_requested():
            message = f"{job.offer.name} was stopped on request"
            raise Aborted(message)

    async def _look(self, job: Job, state: Described) -> str:
        """Read the state and tell the progress; a state that comes as bad for a moment counts as at work."""
        try:
            held = str((await self._value(state)).value)
            if held in self.options.busy:
                await self._tell_progress(job)
        except BadData as error:
            if time.monotonic() - self._told > BLIND_S:
                message = f"the device does not tell any more whether it works: {error}"
                raise Fault(message) from error
            return self.options.busy[0]
        self._told = time.monotonic()
        return held

    def _refuse_trouble(self, job: Job, held: str) -> None:
        if held in self.options.interlocked:
            message = f"the device waits for a person ({held}) in the middle of {job.offer.name}"
            raise Interlocked(message, effect=Effect.STARTED)
        if held in self.options.failed:
            message = f"the device reports {held}"
            raise Fault(message)

    async def _answered_already(self, job: Job) -> bool:
        """Say whether every output is newer than the order: a device may have ended before it was first looked at."""
        outputs = [value for value in job.offer.outputs.values() if value.via == "value"]
        if not outputs or self.options.freshness == "any":
            return False
        try:
            stamps = [(await self._value(value, output=True)).measured_at for value in outputs]
        except BadData:  # not of this order yet
            return False
        return all(stamp is not None for stamp in stamps)

    async def _tell_progress(self, job: Job) -> None:
        value = self.scanned.value(self.options.progress) if self.options.progress else None
        if value is None:
            return
        held = (await self._value(value)).value
        if isinstance(held, float):
            job.events.progress(min(1.0, max(0.0, held / (value.high or 1.0))))

    async def _relink(self, job: Job, lost: InstrumentError) -> None:
        """Make the link anew, once; a server that started again in between has lost the work."""
        job.events.progress(0.0, f"{lost}; linking again")
        booted = self._booted
        try:
            await self._drop()
            await self.open()
        except InstrumentError as error:
            message = f"the link broke while {job.offer.name} was at work, and could not be made again: {error}"
            raise NotConnected(message, effect=Effect.UNKNOWN) from error
        if self._booted != booted:
            message = f"the server started again while {job.offer.name} was at work; look what became of it"
            raise Fault(message)

    async def _read(self, job: Job, answers: Mapping[str, Any]) -> Result:
        command = job.offer.command
        found = {}
        for answer in command.answers if command else ():
            if answer.source in answers and answer.numeric:
                found[answer.name] = Seen(answer.from_device(answers[answer.source]))
        return await self._result(job, found, answers)

    # LADS programs.

    async def _program(self, job: Job, started: bool = False) -> Result:
        unit = self._nodes()
        if not started:
            with our_errors(self.options.errors, job.offer.name, lost=Effect.UNKNOWN):
                run = await lads.start(unit, job)
            await job.events.accepted({"capability": job.offer.name, "key": job.key, "run": str(run)})
            if job.abort_requested():
                await self._stop("it was to end before it had begun")
        relinked = False
        while True:
            try:
                with our_errors(self.options.errors, "looking the program up", lost=Effect.UNKNOWN):
                    entry = await lads.find(self._nodes(), job.key)
                    if entry is not None and entry.stopped:
                        break
                    job.events.progress(await lads.progress(self._nodes()))
            except (NotConnected, TimedOut) as lost:
                if relinked:
                    raise
                relinked = True
                await self._relink(job, lost)
            await asyncio.sleep(POLL_S)
        if job.abort_requested():
            message = f"{job.offer.name} was stopped on request"
            raise Aborted(message)
        return await self._from_entry(job, entry)

    async def _from_entry(self, job: Job, entry: lads.Entry) -> Result:
        """Read a result of the ResultSet; what it does not hold is read from the functions."""
        self._since = replace(self._since, begun_us=entry.started_us)
        found = {}
        for name, value in job.offer.outputs.items():
            node = entry.values.get(lads.function_of(value))
            if node is not None:
                found[name] = await reading.read(node, value, self._since, output=True)
        return await self._result(job, found, entry.properties)

    # Stopping.

    async def _stop(self, reason: str) -> None:
        unit = self._nodes()
        path = ""
        if self.options.abort_command:
            command = self.scanned.command(self.options.abort_command)
            path = command.source if command else ""
        elif lads.is_lads(unit):
            path = lads.stop_method(unit)
        if not path:
            message = (
                f"{reason}: the option 'abort_command' names no method, so nothing stops the work; use the device's own"
                " stop button"
            )
            raise Fault(message, effect=Effect.STARTED)
        parent, method = unit.methods[path]
        with our_errors(self.options.errors, "stopping"):
            await parent.call_method(method)

    # After a crash.

    async def lookup(self, key: str, handle: JsonObject | None) -> Whereabouts:
        """Say where the job of a key is: in the ResultSet, or by the variable that holds the last key."""
        await self.open()
        if lads.is_lads(self._nodes()):
            return await self._in_results(key, handle)
        value = self.scanned.value(self.options.key_value) if self.options.key_value else None
        if value is None:
            return Unsure("the device keeps no keys of orders")
        if str((await self._value(value)).value) != key:
            return Absent() if handle is None else Unsure("the device has begun another order since")
        if handle is None:
            return Unsure(
                "the device began this order; when, nobody wrote down, so its values cannot be told from older ones"
            )
        if (await self._checked()).state == "busy":
            return Running(handle)
        job = self._job(handle, Nobody())
        return Finished(await self._read(job, {}))

    async def _in_results(self, key: str, handle: JsonObject | None) -> Whereabouts:
        with our_errors({}, "looking the program up"):
            entry = await lads.find(self._nodes(), key)
        if entry is None:
            return Absent() if handle is None else Unsure("the ResultSet does not hold the program any more")
        names = [name for name, offer in self.offers.items() if offer.command and offer.command.style == lads.PROGRAM]
        known = handle or ({"capability": names[0], "key": key, "run": entry.run} if len(names) == 1 else None)
        if known is None:
            return Unsure(f"the ResultSet holds the program as {entry.run}, not which capability it was")
        if not entry.stopped:
            return Running(known)
        return Finished(await self._from_entry(self._job(known, Nobody()), entry))

    async def attach(self, handle: JsonObject, events: Events) -> Result:
        """Wait for a running job; starts nothing."""
        await self.open()
        job = self._job(handle, events)

        async def wait() -> Result:
            await self.open()
            if lads.is_lads(self._nodes()):
                return await self._program(job, started=True)
            await self._until_done(job)
            return await self._read(job, {})

        return await self._at_work(job, wait(), job.offer.capability.longest_s)

    def _job(self, handle: JsonObject, events: Events) -> Job:
        offer = self.offers.get(str(handle.get("capability", "")))
        if offer is None:
            message = f"the job was of {handle.get('capability')!r}, which this instrument does not offer any more"
            raise Fault(message)
        begun = handle.get("begun_us")
        self._since = replace(self._since, begun_us=begun if isinstance(begun, int) else None)
        return Job(str(handle.get("key", "")), offer, {}, events)

    # Small parts.

    def _linked(self) -> Client:
        if self._client is None:
            message = "the link is closed"
            raise NotConnected(message)
        return self._client

    def _nodes(self) -> Unit:
        if self._unit is None:
            message = "the link is closed"
            raise NotConnected(message)
        return self._unit

    async def _server(self, *path: str) -> Any:
        """Read a value of the server object."""
        node = await self._linked().nodes.server.get_child([f"0:{part}" for part in path])
        return await node.read_value()

    async def _clock(self) -> int:
        with our_errors({}, "reading the server's clock"):
            return microseconds(await self._server("ServerStatus", "CurrentTime"))

    async def _who(self) -> Identity:
        build = await self._server("ServerStatus", "BuildInfo")
        serial = next((v for n, v in self._nodes().variables.items() if n.endswith("SerialNumber")), None)
        return Identity(
            name=str(build.ProductName or self.options.endpoint),
            serial=str(await serial.read_value()) if serial is not None else "",
            firmware=str(build.SoftwareVersion or ""),
        )


def _same(held: float | str, wanted: float | str, value: Described) -> bool:
    if isinstance(held, str) or isinstance(wanted, str):
        return held == wanted
    step = abs(value.factor) / 2 if value.kind == "integer" else 0.0
    return math.isclose(held, wanted, rel_tol=1e-6, abs_tol=max(step, 1e-9))
