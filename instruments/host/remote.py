"""An instrument behind an adapter host (`matloop host`): in another process, on another computer, with other libraries.

An order is created first, which moves nothing, and started by one message that is sent once. What is lost on the way is
asked for, never repeated: the host's journal knows each order by its key. Waiting, asking and fetching may go through
as many connections as it takes.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, Field

from instruments.host import tokens, wire
from instruments.host.descriptions import Declared, ask, load
from instruments.host.link import HostLink, prepare
from instruments.settings import capability_of, checked
from orchestrator.domain import (
    Absent,
    Description,
    Finished,
    Health,
    Identity,
    JsonObject,
    Order,
    Result,
    Running,
    Unsure,
    Whereabouts,
    sha256,
)
from orchestrator.errors import Aborted, BadData, Effect, InstrumentError, NotConnected, TimedOut
from orchestrator.protocols import Events, InputPath, Options

WAIT_S = 2.0
"""Of one long poll: an abort that came before the job began is passed on so soon."""
HEALTH_S = 0.8
AGAIN_S = 0.2
"""Between two tries to reach a host that is away."""
GONE = (NotConnected, TimedOut, wire.KINDS["ProtocolDesync"])


class RemoteOptions(Options):
    """Where the host is."""

    url: str = Field(pattern=r"^https?://[^/]+/\w[\w.-]*/?$", description="http://HOST:PORT/INSTRUMENT")
    description: InputPath | None = Field(
        default=None, description="file of the host's description, so that files are checked while the host is off"
    )
    token_env: str = Field(default=tokens.VARIABLE, description="environment variable that holds the token")
    token_file: InputPath | None = Field(default=None, description="file that holds the token, mode 0600")
    ca: InputPath | None = Field(default=None, description="certificate of the host's authority, for https")
    patience_s: float = Field(default=30.0, gt=0, description="how long a host may be away while it works for us")


class Remote:
    """Drive an instrument of an adapter host.

    Args:
        options: address, token, description.
    """

    Options: ClassVar[type[BaseModel]] = RemoteOptions

    def __new__(cls, options: RemoteOptions) -> Remote:  # noqa: PYI034  one of two classes
        """Offer what the instrument offers: a safe state, where its description names one."""
        if cls is Remote and options.description is not None and options.description.exists():
            safe = "SafeState" in load(options.description).mixins
            return super().__new__(SafeRemote if safe else Remote)
        return super().__new__(cls)

    def __init__(self, options: RemoteOptions) -> None:
        prepare()
        self.options = options
        self._link: HostLink | None = None
        self._declared: Declared | None = None
        self._identity: Identity | None = None
        self._mine: dict[str, Events] = {}
        self._delivered: set[str] = set()

    # --- the contract -----------------------------------------------------------------------------------------------

    async def describe(self) -> Description:
        """Read the description from its file; without one, ask the host."""
        return (await self._described()).description

    async def open(self) -> Identity:
        """Reach the host and open the instrument there.

        Raises:
            NotConnected: nobody answers, the token is wrong, or the instrument is not the one of the description.
        """
        if self._identity is None:
            there, here = await ask(self._way()), await self._described()
            if there.sha256 != here.sha256:
                message = (
                    f"{self.options.url} is not as described in {self.options.description}: it offers"
                    f" {_names(there.description)} (hash {there.sha256[:12]}, expected {here.sha256[:12]});"
                    " scan it again and look at the campaign's bounds"
                )
                raise NotConnected(message)
            # Opening moves nothing, but a driver may take its time: a potential loads, a device warms its link up.
            self._identity = wire.identity_from(await self._way().say("POST", "/open", answer_s=60.0))
        return self._identity

    async def identity(self) -> Identity:
        """Ask the host who is there now."""
        return wire.identity_from(await self._way().say("POST", "/open", answer_s=HEALTH_S))

    async def close(self) -> None:
        """Let go of the host, which keeps the instrument; tell it which results have arrived for good."""
        for key in list(self._delivered):
            try:
                await self._way().say("POST", f"/keys/{key}/acknowledge", answer_s=1.0)
            except InstrumentError:
                break  # it keeps them, then
            self._delivered.discard(key)
        self._identity = None
        if self._link is not None:
            link, self._link = self._link, None
            await link.close()

    async def health(self) -> Health:
        """Ask the host, which asks the instrument."""
        try:
            answer = await asyncio.wait_for(self._way().say("GET", "/health", answer_s=HEALTH_S), HEALTH_S)
        except (InstrumentError, TimeoutError) as error:
            return Health("offline", str(error) or f"no answer within {HEALTH_S:g} s")
        health = Health(_state(answer.get("state")), str(answer.get("detail", "")))
        # Between its creation and the driver's own word, an order is under way all the same.
        return Health("busy", "an order of ours") if health.state == "ready" and self._mine else health

    async def run(self, order: Order, events: Events) -> Result:
        """Create the order, start it once, and wait for what comes."""
        capability = capability_of(await self.describe(), order)
        checked(capability, order)
        self._mine[order.key] = events
        try:
            await self.open()
            created = await self._way().say("POST", "/orders", order.to_json())
            await events.accepted({"job": created["job"], "key": order.key})
            if events.abort_requested():
                await self._way().say("POST", f"/jobs/{created['job']}/withdraw")
                message = f"{order.capability} was stopped before it began"
                raise Aborted(message, effect=Effect.NONE)
            if created["state"] == "created":
                await self._start(created["job"])
            return await self._wait(created["job"], order.key, events, min(order.deadline_s, capability.longest_s))
        finally:
            self._mine.pop(order.key, None)

    async def abort(self, reason: str) -> None:
        """Stop the orders whose campaign wants them to end; where it names none, all that this driver waits for."""
        keys = [key for key, events in self._mine.items() if events.abort_requested()] or list(self._mine)
        await self._way().say("POST", "/abort", {"reason": reason, "keys": keys})

    async def lookup(self, key: str, handle: JsonObject | None) -> Whereabouts:
        """Ask the host's journal."""
        del handle  # the journal knows the key
        try:
            answer = await self._way().say("GET", f"/keys/{key}")
            where = answer["where"]
            if where == "finished":
                return Finished(await self._result(answer["result"]))
        except InstrumentError as error:
            return Unsure(f"the host cannot be asked: {error}")
        if where == "absent":
            return Absent()
        return Running(answer["handle"]) if where == "running" else Unsure(str(answer.get("why", where)))

    async def attach(self, handle: JsonObject, events: Events) -> Result:
        """Wait for a job that runs at the host."""
        key = str(handle["key"])
        self._mine[key] = events
        try:
            longest = max(capability.longest_s for capability in (await self.describe()).capabilities)
            return await self._wait(str(handle["job"]), key, events, longest)
        finally:
            self._mine.pop(key, None)

    async def heartbeat(self, ttl_s: float) -> None:
        """Tell the host that the orchestrator lives; without another beat for so long it stops what runs."""
        await self._way().say("POST", "/beat", {"ttl_s": ttl_s}, answer_s=HEALTH_S)

    # --- small parts ------------------------------------------------------------------------------------------------

    async def _start(self, job: str) -> None:
        """Send the one message that starts something; where its answer is lost, ask what became of it."""
        try:
            await self._way().say("POST", f"/jobs/{job}/start", effect=Effect.UNKNOWN)
        except NotConnected:
            raise
        except GONE as error:
            if error.effect is not Effect.UNKNOWN:
                raise
            try:  # a job that was not started never will be after this, so that the answer stays true
                state = await self._way().say("POST", f"/jobs/{job}/withdraw", effect=Effect.UNKNOWN)
            except InstrumentError as second:
                message = f"{error}; whether the order was started is not known, and the host does not say: {second}"
                raise TimedOut(message) from error
            if state["state"] == "withdrawn":
                message = f"{error}; the host says that the order was not started"
                raise NotConnected(message) from error

    async def _wait(self, job: str, key: str, events: Events, limit_s: float) -> Result:
        until, seen, last = time.monotonic() + limit_s + WAIT_S, -1, time.monotonic()
        told = False
        while True:
            try:
                answer = await self._way().say(
                    "GET", f"/jobs/{job}?after={seen}&wait={WAIT_S}", answer_s=WAIT_S + 3.0, effect=Effect.UNKNOWN
                )
            except GONE as error:
                await self._away(error, last)
                if time.monotonic() > until:
                    raise self._overdue(limit_s) from error
                continue
            last = time.monotonic()
            if answer["state"] in ("done", "failed", "withdrawn", "lost"):
                return await self._ended(answer, key)
            if answer.get("change", -1) > seen >= 0 or answer.get("fraction"):
                events.progress(float(answer.get("fraction", 0.0)), str(answer.get("text", "")))
            seen = int(answer.get("change", seen))
            if events.abort_requested() and not told:
                told = True  # the abort itself may have come before the job
                await self._way().say("POST", "/abort", {"reason": "the campaign asked for it", "keys": [key]})
            if time.monotonic() > until:
                raise self._overdue(limit_s)

    async def _away(self, error: InstrumentError, last: float) -> None:
        away = time.monotonic() - last
        if away > self.options.patience_s:
            message = f"the host was away for {away:.0f} s while it worked for us: {error}; the work may go on"
            raise type(error)(message, effect=Effect.UNKNOWN) from error
        await asyncio.sleep(AGAIN_S)

    def _overdue(self, limit_s: float) -> TimedOut:
        return TimedOut(f"{self.options.url} gave no result within {limit_s:g} s; the work may go on")

    async def _ended(self, answer: dict[str, Any], key: str) -> Result:
        if answer["state"] == "failed":
            raise wire.error_from(answer["error"])
        if answer["state"] == "withdrawn":
            message = "the order was withdrawn before it began"
            raise Aborted(message, effect=Effect.NONE)
        if answer["state"] == "lost" or answer["result"] is None:
            message = f"the host was cut off while the order {key} was at work; look at the instrument before going on"
            raise NotConnected(message, effect=Effect.UNKNOWN)
        return await self._result(answer["result"])

    async def _result(self, content: dict[str, Any]) -> Result:
        try:
            files = {digest: await self._file(str(digest)) for _, _, digest in content["attachments"]}
            result = Result.from_json(content, files.__getitem__)
        except (KeyError, TypeError, ValueError) as error:
            message = f"what the host calls a result cannot be read: {type(error).__name__}: {error}"
            raise BadData(message) from error
        self._delivered.add(result.key)
        return result

    async def _file(self, digest: str) -> bytes:
        for final in (False, True):
            try:
                path = f"/v1/{self._way().name}/attachments/{digest}"
                response = await self._way().ask("GET", path, answer_s=30.0, effect=Effect.DONE)
            except GONE as error:
                if final:
                    message = f"the raw file {digest[:12]} of a result could not be fetched: {error}"
                    raise BadData(message) from error
                continue
            if response.is_success and sha256(response.content) == digest:
                return response.content
        message = f"the raw file {digest[:12]} of a result is not what the host says (HTTP {response.status_code})"
        raise BadData(message)

    async def _described(self) -> Declared:
        if self._declared is None:
            file = self.options.description
            if file is not None:
                self._declared = await asyncio.to_thread(load, file)
            else:
                self._declared = await ask(self._way())
        return self._declared

    def _way(self) -> HostLink:
        if self._link is None:
            o = self.options
            token = tokens.find(o.token_file, o.token_env)
            self._link = HostLink(o.url, token, o.token_env, o.ca)
        return self._link


class SafeRemote(Remote):
    """A remote instrument that has a safe state."""

    async def make_safe(self) -> None:
        """Go to the safe state and stay there."""
        await self._way().say("POST", "/safe", answer_s=10.0, effect=Effect.UNKNOWN)


def _state(text: Any) -> Literal["ready", "busy", "fault", "interlocked", "offline", "unknown"]:
    return text if text in ("ready", "busy", "fault", "interlocked", "offline") else "unknown"


def _names(description: Description) -> str:
    return ", ".join(capability.name for capability in description.capabilities)
