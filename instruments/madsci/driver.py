"""A node of MADSci, the lab framework of Argonne, over its REST interface; MADSci itself is not needed here.

A node says which actions and arguments it has, not which units and bounds: those stand in the options, and `open`
compares both. Seen on real nodes (0.8.1): busy, locked and failed arrive as HTTP 200, so the status inside is what
counts; an argument of a wrong name is ignored, so names are compared; a second start of the same action says "not
found", so start is sent once; more than 100 requests a minute are refused, so waiting asks seldom; one exception of a
driver stops the whole node until a person resets it; what ran is forgotten with a restart.

An action is created first, which moves nothing. Its id is committed to the campaign's database, and only then is it
started: a crash before that is known to have started nothing.
"""

from __future__ import annotations

import asyncio
import io
import os
import time
import zipfile
from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import BaseModel

from instruments.host.link import Link, prepare
from instruments.madsci.options import ActionOptions, MadsciOptions, capability
from instruments.settings import applied, capability_of, checked
from orchestrator.domain import (
    Absent,
    Attachment,
    Capability,
    Description,
    Finished,
    Health,
    Identity,
    JsonObject,
    Order,
    Quantity,
    Reading,
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
    Effect,
    Fault,
    InstrumentError,
    Interlocked,
    NotConnected,
    ProtocolDesync,
    Rejected,
    TimedOut,
)
from orchestrator.protocols import Events

HEALTH_S = 0.8
FIRST_POLL_S, LONGEST_POLL_S = 0.25, 2.0
"""Asked more often than once a second for a minute, a node refuses: the wait between two questions grows."""
START_S = 10.0
"""A node answers a start half a second after the action began."""
TOO_MANY = 429
UNPROCESSABLE = 422
LARGEST = 2**30
"""Bytes of an action's files, unpacked."""
NUMBERS = ("float", "int")


class MadsciNode:
    """Drive the actions of a MADSci node.

    Args:
        options: address and actions.
    """

    Options: ClassVar[type[BaseModel]] = MadsciOptions

    def __init__(self, options: MadsciOptions) -> None:
        prepare()
        self.options = options
        self._link: Link | None = None
        self._identity: Identity | None = None
        self._whole: set[tuple[str, str]] = set()
        self._mine: dict[str, Events] = {}

    # --- the contract -----------------------------------------------------------------------------------------------

    async def describe(self) -> Description:
        """Declare the actions as the options describe them."""
        o = self.options
        capabilities = tuple(capability(name, action) for name, action in o.actions.items())
        return Description(capabilities, recovery=Recovery.QUERYABLE, slots=o.slots, simulated=o.simulated)

    async def open(self) -> Identity:
        """Ask the node who it is, and compare its actions with the options.

        Raises:
            NotConnected: nobody answers, or an action or argument is not there.
        """
        if self._identity is None:
            info = await self._ask("GET", "/info", answer_s=1.9)
            self._compare(info)
            firmware = f"{info.get('module_name')} {info.get('module_version')}"
            self._identity = Identity(str(info.get("node_name")), str(info.get("node_id") or ""), firmware)
        return self._identity

    async def close(self) -> None:
        """Let go of the node."""
        self._identity = None
        if self._link is not None:
            link, self._link = self._link, None
            await link.close()

    async def health(self) -> Health:
        """Ask the node."""
        try:
            status = await asyncio.wait_for(self._ask("GET", "/status", answer_s=HEALTH_S), HEALTH_S)
        except Busy:
            return Health("unknown", "the node takes no more questions for a minute (rate limit)")
        except (InstrumentError, TimeoutError) as error:
            return Health("offline", str(error) or f"no answer within {HEALTH_S:g} s")
        health = _health(status)
        return Health("busy", "an order of ours") if health.state == "ready" and self._mine else health

    async def run(self, order: Order, events: Events) -> Result:
        """Create the action, commit its id, start it once, and wait for its result."""
        asked = capability_of(await self.describe(), order)
        numbers, choices = checked(asked, order)
        if len(self._mine) >= self.options.slots:
            message = f"the node does {len(self._mine)} actions for us already; ask again later"
            raise Busy(message)
        self._mine[order.key] = events
        try:
            await self.open()
            numbers = self._rounded(asked, numbers)
            await self._free()
            action = self.options.actions[order.capability]
            created = await self._ask(
                "POST", f"/action/{order.capability}", {"args": self._arguments(order.capability, numbers, choices)}
            )
            handle: JsonObject = {"action": order.capability, "id": str(created["action_id"])}
            await events.accepted(handle)
            if events.abort_requested():
                message = f"{order.capability} was stopped before it began"
                raise Aborted(message, effect=Effect.NONE)
            await self._start(handle)
            ended = await self._ended(handle, events, min(order.deadline_s, asked.longest_s))
            return await self._result(order, action, ended, numbers, choices)
        finally:
            self._mine.pop(order.key, None)

    async def abort(self, reason: str) -> None:
        """Send the node's `cancel`, which ends all of its actions; harmless when none is ours.

        Raises:
            Rejected: the node cannot cancel.
        """
        del reason  # a node takes none
        if self._mine:
            answer = await self._ask("POST", "/admin/cancel")
            if not answer.get("success"):
                message = f"the node cannot cancel: {_words(answer.get('errors'))}; stop it at the device"
                raise Rejected(message, effect=Effect.UNKNOWN)

    async def lookup(self, key: str, handle: JsonObject | None) -> Whereabouts:
        """Ask the node what became of an action."""
        if handle is None:
            return Absent()  # the id is committed before anything is started
        try:
            ended = await self._ask("GET", _path(handle, "result"))
        except InstrumentError as error:
            return Unsure(f"the node cannot be asked: {error}")
        status = str(ended.get("status"))
        if status in ("not_ready", "unknown"):
            words = f"the node knows no action {handle['id']}: it was never started, or the node was restarted"
            return Unsure(words) if status == "unknown" else Absent()
        if status != "succeeded":
            return Running(handle)  # a failed one too: `attach` raises what it gave
        action = self.options.actions[str(handle["action"])]
        order = Order(key, str(handle["action"]))
        try:
            return Finished(await self._result(order, action, ended, {}, {}))
        except InstrumentError:
            return Running(handle)

    async def attach(self, handle: JsonObject, events: Events) -> Result:
        """Wait for an action that runs."""
        key, name = str(handle["id"]), str(handle["action"])
        action = self.options.actions[name]
        self._mine[key] = events
        try:
            ended = await self._ended(handle, events, action.longest_s)
            return await self._result(Order(key, name), action, ended, {}, {})
        finally:
            self._mine.pop(key, None)

    # --- one action -------------------------------------------------------------------------------------------------

    async def _free(self) -> None:
        """Refuse where the node is not ready; it says so too, but only after half a second."""
        status = await self._ask("GET", "/status")
        at_work = len(status.get("running_actions") or ())
        if at_work >= self.options.slots:
            message = f"the node does {at_work} actions, not only ours; ask again later"
            raise Busy(message)
        if not status.get("ready"):
            raise _not_ready(status)

    def _arguments(self, name: str, numbers: Mapping[str, float], choices: Mapping[str, str]) -> dict[str, Any]:
        action = self.options.actions[name]
        sent: dict[str, Any] = dict(action.fixed)
        for parameter, number in numbers.items():
            argument = action.parameters[parameter].argument or parameter
            sent[argument] = int(number) if (name, argument) in self._whole else number
        return sent | {action.parameters[p].argument or p: choice for p, choice in choices.items()}

    def _rounded(self, asked: Capability, numbers: Mapping[str, float]) -> Mapping[str, float]:
        """Round what the node takes as whole numbers; the result says so as what was applied."""
        made, action = dict(numbers), self.options.actions[asked.name]
        for p in asked.parameters:
            if p.name in made and (asked.name, action.parameters[p.name].argument or p.name) in self._whole:
                made[p.name] = float(round(made[p.name]))
                if not (p.low or 0.0) <= made[p.name] <= (p.high or 0.0):
                    message = f"{p.name} is {numbers[p.name]:g}: no whole number within {p.low:g} to {p.high:g}"
                    raise Rejected(message)
        return made

    async def _start(self, handle: JsonObject) -> None:
        """Send the one message that starts the action; where its answer is lost, ask what became of it."""
        try:
            started = await self._ask("POST", _path(handle, "start"), answer_s=START_S, effect=Effect.UNKNOWN)
        except (TimedOut, ProtocolDesync) as error:
            try:
                status = (await self._ask("GET", _path(handle, "result"), effect=Effect.UNKNOWN)).get("status")
            except InstrumentError:
                status = "unknown"
            if status == "unknown":
                message = f"{error}; whether action {handle['id']} was started is not known: look at the node"
                raise TimedOut(message) from error
            return
        if started.get("status") == "not_ready":
            raise _not_ready(await self._ask("GET", "/status"))
        if started.get("status") == "failed" and _kinds(started) == {"NotFound"}:
            message = f"the node forgot action {handle['id']} before it was started (a restart?); nothing moved"
            raise NotConnected(message)

    async def _ended(self, handle: JsonObject, events: Events, limit_s: float) -> dict[str, Any]:
        begun = last = time.monotonic()
        pause = FIRST_POLL_S
        while True:
            try:
                ended = await self._ask("GET", _path(handle, "result"), effect=Effect.UNKNOWN)
                last = time.monotonic()
            except Busy:  # asked too often; the action goes on
                ended, last, pause = {"status": "running"}, time.monotonic(), LONGEST_POLL_S
            except (NotConnected, TimedOut, ProtocolDesync) as error:
                ended = {"status": "running"}
                if time.monotonic() - last > self.options.patience_s:
                    message = f"the node was away for {time.monotonic() - last:.0f} s: {error}; the work may go on"
                    raise type(error)(message, effect=Effect.UNKNOWN) from error
            if ended.get("status") not in ("running", "not_started", "paused"):
                return self._final(handle, ended, events)
            if time.monotonic() - begun > limit_s:
                message = f"action {handle['id']} gave no result within {limit_s:g} s; it may go on"
                raise TimedOut(message)
            await asyncio.sleep(pause)
            pause = min(LONGEST_POLL_S, pause * 1.3)

    def _final(self, handle: JsonObject, ended: dict[str, Any], events: Events) -> dict[str, Any]:
        status, words = ended.get("status"), _words(ended.get("errors"))
        if status == "succeeded":
            return ended
        if status == "cancelled" or (status == "failed" and events.abort_requested()):
            message = f"action {handle['action']} was stopped: {words or 'cancelled'}"
            raise Aborted(message)
        if status == "failed":
            # The node is done with it; what it did to the sample before it failed, nobody says.
            message = f"action {handle['action']} failed: {words or 'no reason given'}"
            raise Fault(message, effect=Effect.STARTED)
        message = f"the node does not know action {handle['id']} any more ({status}): it was restarted; look at it"
        raise NotConnected(message, effect=Effect.UNKNOWN)

    async def _result(
        self,
        order: Order,
        action: ActionOptions,
        ended: Mapping[str, Any],
        numbers: Mapping[str, float],
        choices: Mapping[str, str],
    ) -> Result:
        content = ended.get("json_result")
        readings = tuple(
            Reading(name, _number(content, output.place or name, alone=len(action.outputs) == 1), output.unit)
            for name, output in action.outputs.items()
        )
        told = {
            name: Quantity(_number(content, argument.read_back), argument.unit)
            for name, argument in action.parameters.items()
            if argument.read_back and not argument.choices
        }
        sent = sorted(set(numbers) - set(told))
        return Result(
            key=order.key,
            readings=readings,
            applied={**applied(capability(order.capability, action), numbers), **told},
            applied_choices=dict(choices),
            attachments=await self._files(order.capability, str(ended["action_id"])) if ended.get("files") else (),
            notes=f"as sent, since the action gives no read-back: {', '.join(sent)}" if sent else "",
        )

    async def _files(self, name: str, identity: str) -> tuple[Attachment, ...]:
        response = await self._way().ask(
            "GET", f"/action/{name}/{identity}/download", answer_s=60.0, effect=Effect.DONE
        )
        if not response.is_success:
            message = f"the node named files of action {identity}, but gives none (HTTP {response.status_code})"
            raise BadData(message)
        return await asyncio.to_thread(_unpacked, response.content)

    # --- small parts ------------------------------------------------------------------------------------------------

    def _compare(self, info: Mapping[str, Any]) -> None:
        there = info.get("actions")
        for name, action in self.options.actions.items():
            found = there.get(name) if isinstance(there, dict) else None
            if not isinstance(found, dict):
                names = ", ".join(there) if isinstance(there, dict) else "none"
                message = f"the node at {self.options.url} has no action {name!r}; it has: {names}"
                raise NotConnected(message)
            arguments = found.get("args") or {}
            if isinstance(arguments, list):
                arguments = {one["name"]: one for one in arguments}
            self._compare_arguments(name, action, arguments)

    def _compare_arguments(self, name: str, action: ActionOptions, there: Mapping[str, Any]) -> None:
        given = {p.argument or parameter: p for parameter, p in action.parameters.items()}
        for argument in (*given, *action.fixed):
            if argument not in there:  # a node ignores it, and fires at its default
                message = f"action {name!r} has no argument {argument!r}; it has: {', '.join(there) or 'none'}"
                raise NotConnected(message)
        missing = sorted(a for a, one in there.items() if one.get("required") and a not in (*given, *action.fixed))
        if missing:
            message = f"action {name!r} needs {', '.join(missing)}; give them as 'parameters' or 'fixed'"
            raise NotConnected(message)
        for argument, p in given.items():
            kind = str(there[argument].get("argument_type"))
            if kind in (*NUMBERS, "str") and (kind in NUMBERS) == bool(p.choices):
                wanted = "a number with 'min' and 'max'" if kind in NUMBERS else "'choices'"
                message = f"argument {argument!r} of action {name!r} is a {kind}; the options must give {wanted}"
                raise NotConnected(message)
            if kind == "int":
                self._whole.add((name, argument))

    async def _ask(
        self, method: str, path: str, content: Any = None, *, answer_s: float = 5.0, effect: Effect = Effect.NONE
    ) -> dict[str, Any]:
        response = await self._way().ask(method, path, content, answer_s=answer_s, effect=effect)
        if response.status_code == TOO_MANY:
            message = "the node refuses further requests for a while (its rate limit); nothing was done"
            raise Busy(message)
        if response.status_code == UNPROCESSABLE:
            message = f"the node does not take this: {response.text[:300]}"
            raise Rejected(message)
        try:
            answer = response.json()
        except ValueError:
            answer = None
        if not response.is_success or not isinstance(answer, dict):
            message = f"{self.options.url} answered {method} {path} with HTTP {response.status_code}; is it a node?"
            raise ProtocolDesync(message, effect=effect)
        return answer

    def _way(self) -> Link:
        if self._link is None:
            o = self.options
            token = os.environ.get(o.token_env, "") if o.token_env else ""
            self._link = Link(o.url, {"Authorization": f"Bearer {token}"} if token else {}, o.ca)
        return self._link


def _health(status: Mapping[str, Any]) -> Health:
    words = str(status.get("description", ""))
    if status.get("errored"):
        return Health("fault", f"{words}: {_words(status.get('errors'))}; a person must look, then reset the node")
    if status.get("locked") or status.get("stopped") or status.get("paused"):
        return Health("interlocked", words)
    if status.get("disconnected"):
        return Health("offline", words)
    if status.get("busy") or status.get("running_actions") or status.get("initializing"):
        return Health("busy", words)  # some nodes say ready while an action runs
    return Health("ready" if status.get("ready") else "unknown", words)


def _not_ready(status: Mapping[str, Any]) -> InstrumentError:
    health = _health(status)
    message = f"the node did not take the action: {health.detail or health.state}; nothing was started"
    if health.state == "fault":
        return Fault(message, effect=Effect.NONE)
    if health.state == "interlocked":
        return Interlocked(message)
    return NotConnected(message) if health.state == "offline" else Busy(message)


def _path(handle: JsonObject, what: str) -> str:
    return f"/action/{handle['action']}/{handle['id']}/{what}"


def _words(errors: Any) -> str:
    found = [str(one.get("message", one)) if isinstance(one, dict) else str(one) for one in errors or ()]
    return "; ".join(found[-3:])


def _kinds(ended: Mapping[str, Any]) -> set[str]:
    return {str(one.get("error_type")) for one in ended.get("errors") or () if isinstance(one, dict)}


def _number(content: Any, place: str, *, alone: bool = False) -> float:
    found = content
    if not (alone and isinstance(content, int | float)):
        for part in place.split("."):
            if not isinstance(found, dict) or part not in found:
                message = f"the action's result has no {place!r}; it is {content!r:.200}"
                raise BadData(message)
            found = found[part]
    if isinstance(found, bool) or not isinstance(found, int | float | str):
        message = f"{place!r} of the action's result is {found!r:.100}; a number was expected"
        raise BadData(message)
    try:
        return float(found)
    except ValueError as error:
        message = f"{place!r} of the action's result is {found!r:.100}; a number was expected"
        raise BadData(message) from error


def _unpacked(content: bytes) -> tuple[Attachment, ...]:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            total = sum(entry.file_size for entry in archive.infolist())
            if total > LARGEST:
                message = f"the action's files have {total} bytes; {LARGEST} at most were expected"
                raise BadData(message)
            return tuple(
                Attachment(entry.filename, "application/octet-stream", archive.read(entry))
                for entry in archive.infolist()
            )
    except (zipfile.BadZipFile, NotImplementedError) as error:
        message = f"the action's files cannot be unpacked: {error}"
        raise BadData(message) from error
