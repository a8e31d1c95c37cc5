"""Drivers as plain functions: the base class that turns blocking code into an instrument.

A driver author writes `description` and `work`, and overrides `connect`, `disconnect`, `check` or `stop` where the
device needs it. Everything else of the contract is here: one private thread a slot, deadlines, aborts, health that
answers during a job, refusal of orders outside the declared bounds, and a fresh session after a time-out (on a protocol
without request numbers a late answer would otherwise be taken for the answer to the next question).
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from typing import Any, ClassVar

from pydantic import BaseModel

from instruments.lane import LAST_CALL_S, Lane, ending
from instruments.settings import capability_of, checked
from orchestrator.domain import Description, Health, Identity, JsonObject, Order, Result
from orchestrator.errors import Aborted, Busy, Fault, InstrumentError, NotConnected, ProtocolDesync, TimedOut
from orchestrator.protocols import Events, Options

HEALTH_S = 0.8
"""`health` must answer within a second."""
WAKE_S = 0.05
"""How often a sleeping job looks for an abort."""


class Job:
    """The thread's side of one order: what `work` may tell and ask.

    Args:
        order: what is asked.
        numbers: set-points by name, checked, in the declared units.
        choices: categorical set-points by name, checked.
        events: of the campaign.
        loop: event loop that `events` belongs to.
    """

    def __init__(
        self,
        order: Order,
        numbers: dict[str, float],
        choices: dict[str, str],
        events: Events,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.order = order
        self.numbers = numbers
        self.choices = choices
        self._events = events
        self._loop = loop
        self._stop = threading.Event()

    def accepted(self, handle: JsonObject) -> None:
        """Report that the device took the job; returns when the handle is committed."""
        asyncio.run_coroutine_threadsafe(self._events.accepted(handle), self._loop).result()

    def progress(self, fraction: float, text: str = "") -> None:
        """Report progress between 0 and 1."""
        self._loop.call_soon_threadsafe(self._events.progress, fraction, text)

    def abort_requested(self) -> bool:
        """Say whether to end early; ask it between steps."""
        return self._stop.is_set() or ending.is_set() or self._events.abort_requested()

    def raise_if_aborted(self) -> None:
        """End the work here where the campaign wants it.

        Raises:
            Aborted: an abort was requested, or the deadline has passed.
        """
        if self.abort_requested():
            message = f"{self.order.capability} was stopped on request"
            raise Aborted(message)

    def sleep(self, seconds: float) -> None:
        """Wait on the campaign's clock.

        Raises:
            Aborted: an abort was requested meanwhile.
        """
        nap = asyncio.run_coroutine_threadsafe(self._events.sleep(seconds), self._loop)
        while True:
            if self.abort_requested():
                nap.cancel()
            self.raise_if_aborted()
            try:
                nap.result(timeout=WAKE_S)
            except TimeoutError:
                continue
            return

    def request_stop(self) -> None:
        """Make `abort_requested` true and wake a sleeping `work`."""
        self._stop.set()


class BlockingInstrument:
    """Base of drivers that are written as plain, blocking functions.

    Args:
        options: checked options of the driver.
    """

    Options: ClassVar[type[BaseModel]] = Options

    def __init__(self, options: Any) -> None:
        self.options = options
        self._lanes: list[Lane] = []
        self._jobs: dict[Lane, Job] = {}
        self._works: set[concurrent.futures.Future[Result]] = set()
        self._identity: Identity | None = None
        self._opening = asyncio.Lock()

    # What a driver writes.

    def description(self) -> Description:
        """Declare capabilities, recovery class and slots; touches nothing."""
        raise NotImplementedError

    def work(self, job: Job) -> Result:
        """Carry out one order, on the private thread of a slot.

        Args:
            job: order, checked set-points, and the way to report progress and to hear of an abort.

        Returns:
            What came back.
        """
        raise NotImplementedError

    # What a driver may write.

    def connect(self) -> Identity:
        """Make the link, prove it with an identity query, and return the answer; on a private thread."""
        return Identity(name=type(self).__name__)

    def disconnect(self) -> None:
        """Give the link back."""

    def check(self) -> Health:
        """Ask the device how it is; called only while no job runs."""
        return Health("ready")

    def stop(self, reason: str) -> None:
        """Tell the device to stop, on a path beside the jobs; `Job.abort_requested` is true already.

        Args:
            reason: for the device's log.
        """

    # The contract.

    async def describe(self) -> Description:
        """Declare what the driver can do."""
        return self.description()

    async def open(self) -> Identity:
        """Make the link, where there is none yet."""
        async with self._opening:
            if self._identity is None:
                self._identity = await self._free_lane().call(self._connected)
            return self._identity

    async def close(self) -> None:
        """Stop what runs and give the link back."""
        for job in list(self._jobs.values()):
            job.request_stop()
        await asyncio.to_thread(concurrent.futures.wait, list(self._works), LAST_CALL_S)
        if self._identity is not None:
            # Where a call hangs, its thread cannot give the link back; taking it away from outside often wakes it.
            idle = [lane for lane in self._lanes if not lane.busy]
            await (idle[0].call(self.disconnect) if idle else asyncio.to_thread(self.disconnect))
        self._identity = None
        for lane in self._lanes:
            await lane.close()
        self._lanes = []

    async def health(self) -> Health:
        """Read the state now, without touching the device during a job."""
        if self._identity is None:
            return Health("offline", "not opened")
        running = sum(lane.busy for lane in self._lanes)
        if running:
            return Health("busy", f"{running} of {len(self._lanes)} slots at work")
        try:
            return await asyncio.wait_for(self._free_lane().call(self.check), HEALTH_S)
        except TimeoutError:
            return Health("offline", f"no answer within {HEALTH_S:g} s")
        except InstrumentError as error:
            return Health("offline" if isinstance(error, NotConnected | TimedOut) else "fault", str(error))

    async def run(self, order: Order, events: Events) -> Result:
        """Carry out one order on the thread of a free slot.

        Raises:
            Rejected: the order is outside what is declared.
            Busy: every slot is at work.
            TimedOut: the deadline passed; the slot stays occupied until the blocking call returns.
            Fault: the driver raised something that is no `InstrumentError`.
        """
        capability = capability_of(self.description(), order)
        numbers, choices = checked(capability, order)
        await self.open()
        lane = self._free_lane()
        job = Job(order, dict(numbers), dict(choices), events, asyncio.get_running_loop())
        self._jobs[lane] = job
        work = lane.submit(self._guarded, job)
        self._works.add(work)
        work.add_done_callback(self._works.discard)
        work.add_done_callback(lambda _: self._forget(lane, job))
        limit = min(order.deadline_s, capability.longest_s)
        answer = asyncio.wrap_future(work)
        answer.add_done_callback(_heard)  # it may end long after nobody waits for it any more
        try:
            return await asyncio.wait_for(asyncio.shield(answer), limit)
        except TimeoutError as error:
            job.request_stop()
            self._identity = None  # a late answer must not meet the next question
            message = f"{order.capability} gave no result within {limit:g} s; look at the instrument before going on"
            raise TimedOut(message) from error
        except asyncio.CancelledError:
            job.request_stop()
            raise
        except (TimedOut, ProtocolDesync, NotConnected):
            self._identity = None
            raise

    async def abort(self, reason: str) -> None:
        """Stop the jobs whose campaign wants them to end; where none does, all of them. Harmless when idle."""
        jobs = list(self._jobs.values())
        # An abort names no order: without this, one job past its deadline would end those of the other slots.
        jobs = [job for job in jobs if job.abort_requested()] or jobs
        for job in jobs:
            job.request_stop()
        if jobs:
            await asyncio.to_thread(self.stop, reason)

    def _connected(self) -> Identity:
        try:
            return self.connect()
        except InstrumentError:
            raise
        except Exception as error:
            message = f"the link could not be made: {type(error).__name__}: {error}"
            raise NotConnected(message) from error

    def _guarded(self, job: Job) -> Result:
        try:
            return self.work(job)
        except InstrumentError:
            raise
        except TimeoutError as error:
            message = f"{job.order.capability}: the device did not answer in time: {error}"
            raise TimedOut(message) from error
        except Exception as error:
            message = f"{job.order.capability} failed: {type(error).__name__}: {error}"
            raise Fault(message) from error

    def _free_lane(self) -> Lane:
        if not self._lanes:
            name = type(self).__name__
            self._lanes = [Lane(f"{name}-{slot}") for slot in range(self.description().slots)]
        for lane in self._lanes:
            if not lane.busy:
                return lane
        message = f"all {len(self._lanes)} slots are at work; ask again later"
        raise Busy(message)

    def _forget(self, lane: Lane, job: Job) -> None:
        if self._jobs.get(lane) is job:  # the next job may stand there already
            del self._jobs[lane]


def _heard(answer: asyncio.Future[Result]) -> None:
    if not answer.cancelled():
        answer.exception()
