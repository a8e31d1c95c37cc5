"""Base of instruments whose orders are programs in job folders: start, wait, end, find again.

A driver writes `description`, `identify`, `prepare` (what to start) and `collect` (what came back). See `folders`
for the folder, and `command_line` and `ase_calculator` for two drivers.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import platformdirs

from instruments.programs.folders import Exit, Job, JobFolder
from instruments.settings import capability_of, checked
from orchestrator.domain import (
    Absent,
    Capability,
    Description,
    Finished,
    Health,
    Identity,
    JsonObject,
    Order,
    Recovery,
    Result,
    Running,
    Unsure,
    Whereabouts,
)
from orchestrator.errors import Aborted, Busy, Effect, Fault, InstrumentError, NotConnected, TimedOut
from orchestrator.protocols import Events

SHARE = 0.9
"""Of the deadline that the program gets; the rest is for ending it and for reading what it wrote."""
END_S = 5.0
"""Past the grace time: a runner that has not ended the program by then is itself ended."""


def default_folder(name: str) -> Path:
    """Return the folder for jobs where no option names one.

    Args:
        name: of the kind of instrument.

    Returns:
        A folder in `$MATLOOP_HOME`, or in the user's data folder.
    """
    return Path(os.environ.get("MATLOOP_HOME") or platformdirs.user_data_dir("matloop")) / "jobs" / name


class JobInstrument(ABC):
    """An instrument whose orders are programs.

    Args:
        root: folder of the jobs.
        grace_s: between SIGTERM and SIGKILL.
    """

    def __init__(self, root: Path, grace_s: float) -> None:
        self.root = root
        self._grace_s = grace_s
        self._identity: Identity | None = None
        self._jobs: dict[str, tuple[JobFolder, Events]] = {}
        self._stops: set[str] = set()
        self._works: set[asyncio.Task[Result]] = set()

    @abstractmethod
    def description(self) -> Description:
        """Declare capabilities, recovery class and slots; touches nothing."""

    @abstractmethod
    def identify(self) -> Identity:
        """Prove that the program is there; may block."""

    @abstractmethod
    def prepare(
        self, order: Order, capability: Capability, numbers: Mapping[str, float], choices: Mapping[str, str]
    ) -> Job:
        """Say what to start for a checked order.

        Raises:
            Rejected: the program cannot do this.
        """

    @abstractmethod
    def collect(self, order: Order, folder: JobFolder, ended: Exit) -> Result:
        """Read what an ended program left.

        Raises:
            InstrumentError: it failed, or left nothing that can be used.
        """

    async def describe(self) -> Description:
        """Declare what the program can do."""
        return self.description()

    async def open(self) -> Identity:
        """Make the folder and prove that the program is there."""
        if self._identity is None:
            self._identity = await asyncio.to_thread(self._identified)
        return self._identity

    async def close(self) -> None:
        """End what this driver started."""
        self._stops.update(self._jobs)
        if self._works:
            await asyncio.wait(self._works, timeout=self._grace_s + END_S)
        self._identity = None

    async def health(self) -> Health:
        """Say how many programs run."""
        if self._identity is None:
            return Health("offline", "not opened")
        if not self.root.is_dir():
            return Health("offline", f"the folder {self.root} is gone")
        slots = self.description().slots
        if len(self._jobs) >= slots:
            return Health("busy", f"{len(self._jobs)} of {slots} slots at work")
        return Health("ready", f"{len(self._jobs)} of {slots} slots at work" if self._jobs else "")

    async def run(self, order: Order, events: Events) -> Result:
        """Start the program, unless the key knows one already, and wait for its end.

        Raises:
            Rejected: the order is outside what is declared.
            Busy: every slot is at work.
            TimedOut: the deadline passed, and the program was ended.
            Aborted: it was ended on request.
            Fault: it failed.
        """
        description = self.description()
        capability = capability_of(description, order)
        numbers, choices = checked(capability, order)
        await self.open()
        job = self.prepare(order, capability, numbers, choices)
        self._refuse_crowd(order.key)
        folder = JobFolder(self.root, order.key)
        limit_s = min(order.deadline_s, capability.longest_s)
        return await self._held(order, folder, events, limit_s, job)

    async def lookup(self, key: str, handle: JsonObject | None) -> Whereabouts:
        """Find the folder of a key."""
        del handle  # it holds the key
        return await asyncio.to_thread(self._whereabouts, key)

    async def attach(self, handle: JsonObject, events: Events) -> Result:
        """Wait for a job that runs already."""
        key = str(handle["key"])
        folder = JobFolder(self.root, key)
        order = self._order(folder)
        capability = capability_of(self.description(), order)
        return await self._held(order, folder, events, min(order.deadline_s, capability.longest_s), None)

    async def abort(self, reason: str) -> None:
        """End the programs whose campaign wants that; where none does, all of them."""
        del reason  # a program that is ended cannot be told why
        wanted = [key for key, (_, events) in self._jobs.items() if events.abort_requested()]
        self._stops.update(wanted or self._jobs)

    def _identified(self) -> Identity:
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            message = f"the folder of jobs {self.root} cannot be made: {error}; set the option 'folder'"
            raise NotConnected(message) from error
        return self.identify()

    def _refuse_crowd(self, key: str) -> None:
        slots = self.description().slots
        if key in self._jobs or len(self._jobs) >= slots:
            message = f"{len(self._jobs)} of {slots} slots are at work; ask again later"
            raise Busy(message)

    def _start(self, folder: JobFolder, order: Order, job: Job, limit_s: float) -> None:
        state = folder.state()
        if state == "lost":
            if not self._repeatable():
                message = f"the job in {folder.path} was cut off; look what it did before it is sent again"
                raise Fault(message)
            folder.set_aside()
            state = "absent"
        if state == "absent":
            note = json.dumps(order.to_json()).encode()
            folder.start(job, limit_s, self._grace_s, note)

    async def _held(self, order: Order, folder: JobFolder, events: Events, limit_s: float, job: Job | None) -> Result:
        self._jobs[order.key] = (folder, events)
        work = asyncio.create_task(self._work(order, folder, events, limit_s, job))
        self._works.add(work)
        work.add_done_callback(self._works.discard)
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            # The slot stays held until the program is gone; whoever cancelled does not wait for that.
            self._stops.add(order.key)
            work.add_done_callback(lambda done: done.cancelled() or done.exception())
            raise

    async def _work(self, order: Order, folder: JobFolder, events: Events, limit_s: float, job: Job | None) -> Result:
        try:
            if job is not None:
                await asyncio.to_thread(self._start, folder, order, job, SHARE * limit_s)
                await events.accepted({"key": order.key})
            return await self._result(order, folder, events, limit_s)
        finally:
            self._jobs.pop(order.key, None)
            self._stops.discard(order.key)

    async def _result(self, order: Order, folder: JobFolder, events: Events, limit_s: float) -> Result:
        loop = asyncio.get_running_loop()
        until = loop.time() + limit_s
        waiting = asyncio.create_task(folder.wait())
        try:
            while not waiting.done():
                if order.key in self._stops or events.abort_requested() or loop.time() > until:
                    return await self._ended(order, folder, waiting, late=loop.time() > until)
                await asyncio.wait([waiting], timeout=0.05)
            ended = waiting.result()
        finally:
            waiting.cancel()
            with contextlib.suppress(asyncio.CancelledError, InstrumentError):
                await waiting
        return await asyncio.to_thread(self._collected, order, folder, ended)

    async def _ended(self, order: Order, folder: JobFolder, waiting: asyncio.Task[Exit], *, late: bool) -> Result:
        folder.stop()
        await asyncio.wait([waiting], timeout=self._grace_s + END_S)
        if not waiting.done():
            folder.kill()
            await asyncio.wait([waiting], timeout=END_S)
        elif waiting.exception() is None and waiting.result().why == "ended":
            return await asyncio.to_thread(self._collected, order, folder, waiting.result())  # it was faster
        if late:
            raise self._too_late(order)
        message = f"{order.capability} was stopped on request; its folder is {folder.path}"
        raise Aborted(message)

    def _collected(self, order: Order, folder: JobFolder, ended: Exit) -> Result:
        if ended.why == "too long":
            raise self._too_late(order)
        if ended.why == "stopped":
            message = f"{order.capability} was stopped on request; its folder is {folder.path}"
            raise Aborted(message)
        if ended.code is None:
            message = f"{order.capability}: the program {ended.why}"
            raise Fault(message, effect=Effect.NONE)
        return self.collect(order, folder, ended)

    def _too_late(self, order: Order) -> TimedOut:
        message = f"{order.capability} took too long and was ended; nothing of it runs any more"
        return TimedOut(message, effect=Effect.STARTED if self._repeatable() else Effect.UNKNOWN)

    def _repeatable(self) -> bool:
        return self.description().recovery is Recovery.IDEMPOTENT

    def _whereabouts(self, key: str) -> Whereabouts:
        folder = JobFolder(self.root, key)
        state = folder.state()
        if state == "absent":
            return Absent()
        if state == "running":
            return Running({"key": key})
        if state == "lost":
            return Unsure(f"the job in {folder.path} was cut off; look what it did")
        try:
            return Finished(self._collected(self._order(folder), folder, folder.exit()))
        except InstrumentError:
            return Running({"key": key})  # `attach` raises what it failed of

    def _order(self, folder: JobFolder) -> Order:
        content: Any = folder.note()
        if content is None:
            message = f"the job folder {folder.path} has lost its order; look there what became of the job"
            raise Fault(message)
        return Order.from_json(content)
