"""One instrument behind the host: carries out each order at most once, whatever its clients and the host go through."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, replace
from typing import Any

from instruments.host.journal import CREATED, DONE, FAILED, LOST, STARTED, WITHDRAWN, Entry, Journal
from instruments.host.wire import dump, error_from, error_json
from instruments.settings import capability_of, checked
from orchestrator.domain import (
    Absent,
    Description,
    Finished,
    Health,
    Identity,
    JsonObject,
    Order,
    Parameter,
    Recovery,
    Result,
    Running,
    Unsure,
    Whereabouts,
)
from orchestrator.errors import Aborted, Busy, Effect, InstrumentError, Rejected, TimedOut
from orchestrator.protocols import Identified, Instrument, Recoverable, SafeState

HEALTH_S = 0.7
"""The client's second has the way there and back in it."""
MARGIN_S = 2.0
"""A driver that keeps its deadline itself knows more: let it speak first."""


@dataclass(frozen=True)
class Bounds:
    """An envelope of the lab file for one parameter, in the unit that the instrument declares."""

    low: float | None = None
    high: float | None = None


class Progress:
    """The `Events` of one order at the host.

    Args:
        journal: keeps the handle.
        job: id.
    """

    def __init__(self, journal: Journal, job: str) -> None:
        self.changes = 0
        """Counts what a client may want to hear of."""
        self.fraction = 0.0
        self.text = ""
        self.stop = ""
        """Why the order is to end early; empty while it is not."""
        self._changed = asyncio.Event()
        self._journal = journal
        self._job = job

    async def accepted(self, handle: JsonObject) -> None:
        """Keep the driver's handle on the disk, then return."""
        self._journal.handle(self._job, handle)

    def progress(self, fraction: float, text: str = "") -> None:
        """Tell the client."""
        self.fraction, self.text = min(1.0, max(0.0, fraction)), text
        self.changed()

    def abort_requested(self) -> bool:
        """Say whether a client wants this order to end."""
        return bool(self.stop)

    async def sleep(self, seconds: float) -> None:
        """Wait; a host lives by the wall's clock."""
        await asyncio.sleep(seconds)

    def changed(self) -> None:
        """Wake who waits for a change."""
        self.changes += 1
        self._changed.set()

    async def wait(self, after: int, seconds: float) -> None:
        """Return when there is something newer, or after some seconds."""
        while self.changes <= after:
            self._changed.clear()
            try:
                await asyncio.wait_for(self._changed.wait(), seconds)
            except TimeoutError:
                return


class Station:
    """An instrument with its journal.

    Args:
        name: at this host.
        instrument: built, not opened.
        journal: of the host.
        envelope: of the lab file, by parameter.
    """

    def __init__(
        self, name: str, instrument: Instrument, journal: Journal, envelope: Mapping[str, Bounds] | None = None
    ) -> None:
        self.name = name
        self.instrument = instrument
        self._journal = journal
        self._envelope = envelope or {}
        self._progress: dict[str, Progress] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._dead_man: asyncio.TimerHandle | None = None
        self._aborts: set[asyncio.Task[None]] = set()

    # --- what it is -------------------------------------------------------------------------------------------------

    async def describe(self) -> Description:
        """Return the instrument's description within the envelope; recovery is what this journal makes of it."""
        inner = await self.instrument.describe()
        capabilities = tuple(
            replace(c, parameters=tuple(_within(p, self._envelope.get(p.name, Bounds())) for p in c.parameters))
            for c in inner.capabilities
        )
        # Sending again is harmless where it is for the driver; for the others the journal can be asked.
        recovery = Recovery.IDEMPOTENT if inner.recovery is Recovery.IDEMPOTENT else Recovery.QUERYABLE
        # A lookup withdraws what was not started, so that nothing that is still on its way can start.
        return replace(inner, capabilities=capabilities, recovery=recovery, delivery_s=0.0)

    async def open(self) -> Identity:
        """Open the instrument; the host keeps it open, whoever comes and goes."""
        identity = await self.instrument.open()
        return await self.instrument.identity() if isinstance(self.instrument, Identified) else identity

    async def health(self) -> Health:
        """Ask the instrument now."""
        try:
            return await asyncio.wait_for(self.instrument.health(), HEALTH_S)
        except TimeoutError:
            return Health("unknown", f"the driver gave no health within {HEALTH_S:g} s")

    async def close(self) -> None:
        """End what runs and close the instrument."""
        self.release()
        if self._tasks:
            await self.abort("the host ends")
            await asyncio.wait(list(self._tasks.values()), timeout=5.0)
        for task in self._tasks.values():
            task.cancel()
        await self.instrument.close()

    # --- orders -----------------------------------------------------------------------------------------------------

    async def create(self, order: Order) -> Entry:
        """Check and write down an order; nothing moves. A known key gives what it gave before.

        Raises:
            Rejected: it is out of bounds, or the key belongs to another order.
        """
        description = await self.describe()
        checked(capability_of(description, order), order)
        known = self._journal.by_key(self.name, order.key)
        if known is None or self._may_come_again(known, description):
            return self._journal.create(self.name, order)
        if _plain(known.order) != _plain(order):
            message = f"the key {order.key} belongs to another order at this host; every order needs a key of its own"
            raise Rejected(message)
        return known

    async def start(self, job: str) -> Entry:
        """Start a job that was created; one that is started already is not started again.

        Raises:
            Busy: every slot is at work; nothing was sent.
            Rejected: it is unknown or withdrawn.
            Aborted: a client wanted it to end before it began.
        """
        entry = self._known(job)
        if entry.state in (STARTED, DONE, FAILED, LOST):
            return entry
        description = await self.describe()
        if len(self._tasks) >= description.slots:
            message = f"all {description.slots} slots of {self.name} are at work; ask again later"
            raise Busy(message)
        progress = self.progress(job)
        if progress.stop and self._journal.move(job, CREATED, WITHDRAWN):
            raise Aborted(progress.stop, effect=Effect.NONE)
        if not self._journal.move(job, CREATED, STARTED):
            message = f"job {job} was withdrawn; nothing was started"
            raise Rejected(message)
        self._begin(replace(entry, state=STARTED), attach=False)
        return replace(entry, state=STARTED)

    def withdraw(self, job: str) -> Entry:
        """Make sure that a job that was not started never will be."""
        self._known(job)
        self._journal.move(job, CREATED, WITHDRAWN)
        return self._known(job)

    async def state(self, job: str, *, after: int = -1, wait_s: float = 0.0) -> tuple[Entry, Progress | None]:
        """Return how a job stands, as soon as there is something newer."""
        entry, progress = self._known(job), self._progress.get(job)
        if entry.state == STARTED and progress is not None:
            await progress.wait(after, wait_s)
            entry = self._known(job)
        return entry, progress

    async def abort(self, reason: str, keys: list[str] | None = None) -> None:
        """Stop the orders of some keys; without keys, all of them. Harmless when nothing runs."""
        for key in keys or []:
            entry = self._journal.by_key(self.name, key)
            if entry is not None:
                self.progress(entry.job).stop = reason
        if keys is None:
            for job in self._tasks:
                self.progress(job).stop = reason
        if any(self.progress(job).stop for job in self._tasks) or not self._tasks:
            await self.instrument.abort(reason)

    async def make_safe(self) -> None:
        """Put the instrument into its safe state.

        Raises:
            Rejected: the driver has none.
        """
        if not isinstance(self.instrument, SafeState):
            message = f"the driver of {self.name} has no safe state; stop it by hand"
            raise Rejected(message)
        await self.instrument.make_safe()

    def beat(self, ttl_s: float) -> None:
        """Note that the orchestrator lives; without another beat for so long, everything is stopped and made safe."""
        self.release()
        self._dead_man = asyncio.get_running_loop().call_later(ttl_s, self._let_go, ttl_s)

    def release(self) -> None:
        """Wait for no further beat."""
        if self._dead_man is not None:
            self._dead_man.cancel()
            self._dead_man = None

    # --- after a crash ----------------------------------------------------------------------------------------------

    async def lookup(self, key: str) -> Whereabouts:
        """Say where the order of a key is; what was not started is withdrawn, so that "absent" stays true."""
        entry = self._journal.by_key(self.name, key)
        if entry is not None and entry.state == CREATED:
            self._journal.move(entry.job, CREATED, WITHDRAWN)
            entry = self._journal.by_key(self.name, key)
        if entry is None or entry.state == WITHDRAWN:
            return Absent()
        if entry.state == LOST:
            found = await self._found(entry)
            if isinstance(found, Unsure):
                return found
            entry = found
        if entry.state == FAILED and error_from(entry.error).effect is Effect.NONE:
            return Absent()
        if entry.state == DONE and entry.result is None:
            return Unsure(f"the result of {key} was acknowledged, and dropped from the host's journal since")
        if entry.state == DONE and entry.result is not None:
            return Finished(Result.from_json(entry.result, self._content))
        return Running({"job": entry.job, "key": key})  # a failed one too: `attach` raises what it gave

    async def _found(self, entry: Entry) -> Entry | Unsure:
        """Ask the driver for a job that the host was cut off from."""
        inner = self.instrument
        description = await inner.describe()
        if not isinstance(inner, Recoverable) or description.recovery is not Recovery.QUERYABLE:
            return Unsure(
                f"the host was cut off while {entry.key} was at work, and its driver keeps no log of its jobs"
            )
        where = await inner.lookup(entry.key, entry.handle)
        if isinstance(where, Unsure):
            return where
        if isinstance(where, Absent):
            nothing = error_json(Aborted("the host was cut off before the order began", effect=Effect.NONE))
            self._journal.failed(entry.job, nothing)
        elif isinstance(where, Finished):
            self._journal.done(entry.job, where.result)
        elif self._journal.move(entry.job, LOST, STARTED):
            self._begin(replace(entry, handle=where.handle), attach=True)
        return self._known(entry.job)

    # --- small parts ------------------------------------------------------------------------------------------------

    def progress(self, job: str) -> Progress:
        """Return the events of a job."""
        return self._progress.setdefault(job, Progress(self._journal, job))

    def _may_come_again(self, known: Entry, description: Description) -> bool:
        if known.state in (CREATED, WITHDRAWN):
            return known.job not in self._tasks
        if known.state == FAILED:
            return error_from(known.error).effect is Effect.NONE
        return known.state == LOST and description.recovery is Recovery.IDEMPOTENT

    def _begin(self, entry: Entry, *, attach: bool) -> None:
        task = asyncio.create_task(self._carry_out(entry, self.progress(entry.job), attach=attach))
        self._tasks[entry.job] = task
        task.add_done_callback(lambda _: self._forget(entry.job))

    def _forget(self, job: str) -> None:
        self._tasks.pop(job, None)
        self._progress.pop(job, None)  # a host runs for months; the journal has what counts

    async def _carry_out(self, entry: Entry, events: Progress, *, attach: bool) -> None:
        inner = self.instrument
        try:
            limit = min(entry.order.deadline_s, capability_of(await inner.describe(), entry.order).longest_s)
            if attach and isinstance(inner, Recoverable) and entry.handle is not None:
                work = inner.attach(entry.handle, events)
            else:
                work = inner.run(entry.order, events)
            self._journal.done(entry.job, await self._in_time(work, limit))
        except asyncio.CancelledError:
            self._journal.failed(entry.job, error_json(TimedOut("the host ended while the order was at work")))
            raise
        except Exception as error:  # noqa: BLE001  whatever the driver raises belongs to the client
            self._journal.failed(entry.job, error_json(error))
        finally:
            events.changed()

    async def _in_time(self, work: Coroutine[Any, Any, object], limit_s: float) -> Result:
        try:
            result = await asyncio.wait_for(work, limit_s + MARGIN_S)
        except TimeoutError as error:
            with contextlib.suppress(Exception):  # the time-out is what counts
                await asyncio.wait_for(self.instrument.abort("no result in time"), HEALTH_S)
            message = f"the driver of {self.name} gave no result within {limit_s:g} s; the work may go on"
            raise TimedOut(message) from error
        if not isinstance(result, Result):
            message = f"the driver of {self.name} returned {result!r:.100}; a Result was expected"
            raise InstrumentError(message, effect=Effect.DONE)
        return result

    def _let_go(self, ttl_s: float) -> None:
        if self._tasks:
            task = asyncio.create_task(self._stop_all(f"the orchestrator gave no sign of life for {ttl_s:g} s"))
            self._aborts.add(task)
            task.add_done_callback(self._aborts.discard)

    async def _stop_all(self, reason: str) -> None:
        await self.abort(reason)
        if isinstance(self.instrument, SafeState):
            await self.instrument.make_safe()

    def _known(self, job: str) -> Entry:
        entry = self._journal.by_job(self.name, job)
        if entry is None:
            message = f"no job {job} at {self.name} (withdrawn, and its key came again, or another host's)"
            raise Rejected(message)
        return entry

    def _content(self, digest: str) -> bytes:
        path = self._journal.attachment(digest)
        return path.read_bytes() if path is not None else b""


def _plain(order: Order) -> bytes:
    return dump(order.to_json())


def _within(parameter: Parameter, bounds: Bounds) -> Parameter:
    if parameter.choices:
        return parameter
    lows = [bound for bound in (parameter.low, bounds.low) if bound is not None]
    highs = [bound for bound in (parameter.high, bounds.high) if bound is not None]
    return replace(parameter, low=max(lows, default=None), high=min(highs, default=None))
