"""A SiLA 2 server as an instrument, without driver code: its features say what it can do.

The client is `unitelabs-sila`; features are read at run time. An observable command gives a UUID, by which its progress
is followed, and by which it is found again after a crash or a lost link, as long as the server remembers it. The UUID
comes back from the call that starts, so a lost reply to that call leaves the effect unknown, unless the command takes
our key and a property tells the last one (options `key_parameter`, `key_value`). SiLA 2: https://sila-standard.com.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel

from instruments.self_described.driver import Job, Nobody, Seen, SelfDescribed
from instruments.self_described.scans import Command, Described, Scan
from instruments.sila.features import scan_of
from instruments.sila.link import SilaOptions, Where, identity_of, linked, our_errors
from orchestrator.domain import (
    Absent,
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
    BadData,
    ConfigError,
    Effect,
    Fault,
    InstrumentError,
    NotConnected,
    ProtocolDesync,
    TimedOut,
)
from orchestrator.protocols import Events

if TYPE_CHECKING:
    from sila.client import Client, CommandExecution

WATCH_S = 1.0
"""How often a silent server is asked whether it is alive."""
CANCEL = "CancelController"
OBSERVABLE = "observable"


class Sila(SelfDescribed):
    """Carry out the commands of a SiLA 2 server.

    Args:
        options: address, scan file and what is used.
    """

    Options: ClassVar[type[BaseModel]] = SilaOptions
    protocol: ClassVar[str] = "sila"

    def __init__(self, options: SilaOptions) -> None:
        super().__init__(options)
        self.options: SilaOptions = options
        self._client: Client | None = None

    # The link.

    async def _connect(self) -> Identity:
        o = self.options
        where = Where(o.host, o.port, o.tls, o.root_certificates, o.certificate, o.private_key, o.tls_name)
        self._client = await linked(where, o.call_s)
        try:
            with our_errors({}, "asking who it is"):
                return await identity_of(self._client)
        except BaseException:
            await self._disconnect()
            raise

    async def _disconnect(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    async def close(self) -> None:
        """Stop what runs and give the link back."""
        await super().close()
        # Ended streams of the library refer to themselves; a socket and a thread live on until they are collected.
        gc.collect()

    async def _scan(self) -> Scan:
        client = self._linked()
        address = f"sila://{self.options.host}:{self.options.port}"
        return scan_of(client.features.values(), address=address, device={})

    def _used(self, scan: Scan) -> Scan:
        wanted = self.options.feature
        if not wanted:
            return scan
        commands = tuple(c for c in scan.commands if c.source.split("/")[-3] == wanted)
        values = tuple(v for v in scan.values if v.source.split("/")[-3] == wanted)
        if not commands and not values:
            there = sorted({c.source.split("/")[-3] for c in scan.commands})
            message = f"the scan has no feature {wanted!r}; there are: {', '.join(there)}"
            raise ConfigError(message, key="options.feature")
        return replace(scan, commands=commands, values=values)

    async def _alive(self) -> None:
        with our_errors({}, "asking whether it is alive", garbled=Effect.NONE):
            await self._linked().get_server_uuid()

    async def _value(self, value: Described, *, output: bool = False) -> Seen:
        del output  # SiLA gives no time stamps: what is read now is now's
        feature, _, identifier = value.source.rpartition("/")
        holder = self._linked().find_feature(feature)
        if holder is None or identifier not in holder.properties:
            message = f"the server has no property {value.source} any more; scan it again"
            raise Fault(message, effect=Effect.NONE)
        held: Any = holder.properties[identifier]
        with our_errors(self.options.errors, f"reading {identifier}"):
            if held.observable:
                stream = await held.subscribe(timeout=self.options.call_s * 1000)
                try:
                    async with asyncio.timeout(self.options.call_s):
                        raw = await anext(aiter(stream))
                except TimeoutError as error:
                    message = f"{identifier} was not given within {self.options.call_s:g} s"
                    raise TimedOut(message, effect=Effect.NONE) from error
                finally:
                    stream.close()
            else:
                raw = await held.read()
        return _seen(value, raw)

    # Work.

    def _recovery(self) -> Recovery:
        return Recovery.QUERYABLE

    async def _work(self, job: Job) -> Result:
        command = job.offer.command
        if command is None:
            return await self._result(job, {}, {})
        call: Any = self._command(command)
        if command.style != OBSERVABLE:
            with our_errors(self.options.errors, command.name, lost=Effect.UNKNOWN):
                answers = await call.execute(self._sent(job), timeout=job.offer.capability.longest_s * 1000)
            return await self._answered(job, answers)
        with our_errors(self.options.errors, command.name, lost=Effect.UNKNOWN, garbled=Effect.UNKNOWN):
            execution = await call.execute(self._sent(job))
        uuid = execution.command_execution_uuid
        await job.events.accepted({"uuid": uuid, "capability": job.offer.name, "key": job.key})
        if job.abort_requested():
            await self._stop("it was to end before it had begun")
        return await self._answered(job, await self._followed(job, uuid, execution))

    async def _followed(self, job: Job, uuid: str, execution: CommandExecution | None = None) -> Mapping[str, Any]:
        """Wait for an execution; where the link breaks or spoils, make it anew once and go on by the UUID."""
        try:
            return await self._watched(job, uuid, execution)
        except (NotConnected, TimedOut, ProtocolDesync, BadData) as lost:
            job.events.progress(0.0, f"{lost}; linking again")
        try:
            await self._drop()
            await self.open()
        except InstrumentError as error:
            message = f"the link broke while {job.offer.name} was at work, and could not be made again: {error}"
            raise NotConnected(message, effect=Effect.UNKNOWN) from error
        return await self._watched(job, uuid, None)

    async def _watched(self, job: Job, uuid: str, execution: CommandExecution | None) -> Mapping[str, Any]:
        # `get_responses` does not wait for the end: the status must be followed first (measured).
        execution = execution or self._execution(job, uuid)
        call_ms = self.options.call_s * 1000
        following = asyncio.ensure_future(self._trace(job, execution))
        try:
            with our_errors(self.options.errors, job.offer.name, lost=Effect.UNKNOWN, garbled=Effect.UNKNOWN):
                stream = await execution.subscribe_status(timeout=call_ms)
                await self._until_done(job, stream)
            with our_errors(self.options.errors, job.offer.name, lost=Effect.UNKNOWN):
                return await execution.get_responses(timeout=call_ms)
        finally:
            following.cancel()
            with suppress(BaseException):
                await following
            execution.cancel()

    async def _until_done(self, job: Job, stream: Any) -> None:
        news = asyncio.ensure_future(anext(stream, None))
        try:
            while True:
                done, _ = await asyncio.wait({news}, timeout=WATCH_S)
                if not done:
                    await self._alive_during(job)
                    continue
                info = news.result()
                if info is None:
                    return
                if info.progress is not None:
                    job.events.progress(min(1.0, max(0.0, float(info.progress.value))))
                if info.status in (info.Status.FINISHED_SUCCESSFULLY, info.Status.FINISHED_WITH_ERROR):
                    return
                news = asyncio.ensure_future(anext(stream, None))
        finally:
            news.cancel()
            with suppress(BaseException):
                await news

    async def _alive_during(self, job: Job) -> None:
        try:
            await self._alive()
        except (NotConnected, TimedOut, ProtocolDesync) as error:
            message = f"the server fell silent while {job.offer.name} was at work: {error}"
            raise type(error)(message, effect=Effect.UNKNOWN) from error

    async def _trace(self, job: Job, execution: CommandExecution) -> None:
        """Keep intermediate responses for the raw file; the last ones may be outputs."""
        if job.offer.command is None or not any(a.via == "intermediate" for a in job.offer.command.answers):
            return
        with suppress(Exception):  # the status stream reports what is wrong with the link
            async for responses in await execution.subscribe_intermediate_responses():
                job.trace.append(dict(responses))

    async def _answered(self, job: Job, answers: Mapping[str, Any]) -> Result:
        command = job.offer.command
        raw = {**(job.trace[-1] if job.trace else {}), **answers}
        found = {}
        for answer in command.answers if command else ():
            if answer.source in raw and (answer.numeric or answer.choices or answer.kind == "boolean"):
                found[answer.name] = _seen(answer, raw[answer.source])
        missing = sorted(
            name for name, v in job.offer.outputs.items() if v.via in ("response", "intermediate") and name not in found
        )
        if missing:
            message = f"{job.offer.name} ended without its {', '.join(missing)}"
            raise BadData(message)
        return await self._result(job, found, answers)

    # Stopping.

    async def _stop(self, reason: str) -> None:
        client = self._linked()
        with our_errors(self.options.errors, "stopping"):
            command = self.scanned.command(self.options.abort_command) if self.options.abort_command else None
            if command is not None:
                await self._command(command).execute({})
                return
            for feature in client.features.values():
                if feature.identifier == CANCEL and "CancelAll" in feature.commands:
                    cancel: Any = feature.commands["CancelAll"]
                    await cancel.execute({})
                    return
        message = (
            f"{reason}: this server has no {CANCEL}, and the option 'abort_command' names no command, so nothing stops"
            " the work; use the device's own stop button"
        )
        raise Fault(message, effect=Effect.STARTED)

    # After a crash.

    async def lookup(self, key: str, handle: JsonObject | None) -> Whereabouts:
        """Say where the job of a key is: by its UUID, or by the property that holds the last key."""
        await self.open()
        if handle and handle.get("uuid"):
            return await self._found(handle)
        value = self.scanned.value(self.options.key_value) if self.options.key_value else None
        if value is None or not self.options.key_parameter:
            return Unsure(
                "the reply that carried the execution's UUID was lost, and the server keeps no keys of orders"
            )
        last = (await self._value(value)).value
        if last == key:
            return Unsure("the server began this order, and only its lost UUID would lead to the result")
        return Absent()

    async def attach(self, handle: JsonObject, events: Events) -> Result:
        """Wait for a running execution."""
        job = self._job(handle, events)

        async def wait() -> Result:
            await self.open()
            return await self._answered(job, await self._followed(job, str(handle["uuid"])))

        return await self._at_work(job, wait(), job.offer.capability.longest_s)

    async def _found(self, handle: JsonObject) -> Whereabouts:
        job = self._job(handle, Nobody())
        execution = self._execution(job, str(handle["uuid"]))
        try:
            with our_errors({}, "looking the execution up"):
                async with asyncio.timeout(self.options.call_s):
                    info = await anext(await execution.subscribe_status(timeout=self.options.call_s * 1000))
                if info.status is not info.Status.FINISHED_SUCCESSFULLY:
                    return Running(handle)  # one that failed says so when it is attached to
                answers = await execution.get_responses(timeout=self.options.call_s * 1000)
            return Finished(await self._answered(job, answers))
        except Fault as error:
            return Unsure(f"the server does not know the execution any more: {error}")
        except (TimeoutError, StopAsyncIteration):
            return Unsure("the server does not say how the execution is")
        finally:
            execution.cancel()

    def _job(self, handle: JsonObject, events: Events) -> Job:
        offer = self.offers.get(str(handle.get("capability", "")))
        if offer is None:
            message = f"the job was of {handle.get('capability')!r}, which this instrument does not offer any more"
            raise Fault(message)
        return Job(str(handle.get("key", "")), offer, {}, events)

    # Small parts.

    def _linked(self) -> Client:
        if self._client is None:
            message = "the link is closed"
            raise NotConnected(message)
        return self._client

    def _command(self, command: Command) -> Any:
        feature, _, identifier = command.source.rpartition("/")
        holder = self._linked().find_feature(feature)
        if holder is None or identifier not in holder.commands:
            message = f"the server has no command {command.source} any more; scan it again"
            raise Fault(message, effect=Effect.NONE)
        return holder.commands[identifier]

    def _execution(self, job: Job, uuid: str) -> CommandExecution:
        from sila.client import CommandExecution  # noqa: PLC0415  optional, and loaded by now

        if job.offer.command is None or job.offer.command.style != OBSERVABLE:
            message = f"{job.offer.name} is no command that can be followed"
            raise Fault(message)
        return CommandExecution(self._command(job.offer.command), uuid)


def _seen(value: Described, raw: Any) -> Seen:
    try:
        return Seen(value.from_device(raw))
    except (TypeError, ValueError) as error:
        message = f"{value.name} is {raw!r}; {value.kind} was expected"
        raise BadData(message) from error
