"""The guard around every order: a deadline of its own, an abort that gets through, and a clear outcome.

A time-out does not stop an instrument, and neither does cancelling a task. So whatever ends an order early (deadline,
STOP, Ctrl-C) takes the same way: tell the instrument to abort, give the driver time to say what happened, and only
then give up on it. A result that arrives meanwhile is a result.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from orchestrator.errors import Fault, InstrumentError, TimedOut
from orchestrator.execution.clock import Clock
from orchestrator.execution.events import OrderEvents
from orchestrator.protocols import Instrument

GRACE_S = 1.0  # a driver that keeps the deadline itself knows more than the guard: let it speak first
ABORT_S = 5.0  # for `abort` itself and for the driver to say what happened
CANCEL_S = 1.0  # for a cancelled driver to clean up


@dataclass(frozen=True)
class Outcome:
    """How an order ended.

    Args:
        result: what the driver returned; None where it failed.
        error: why it failed; None where it returned.
        ended: whether the driver's own work is over. False where it had to be given up: something of it may still be
            sent, so its instrument's "never started" is no proof.
        aborted: why we ended it early; empty where we did not.
    """

    result: object | None
    error: InstrumentError | None
    ended: bool
    aborted: str = ""


async def supervise(
    work: Coroutine[Any, Any, object], instrument: Instrument, events: OrderEvents, clock: Clock, *, deadline_s: float
) -> Outcome:
    """Wait for an order to end, or end it.

    Args:
        work: the driver's `run` or `attach`.
        instrument: for `abort`.
        events: of the order; asks for the abort.
        clock: of the campaign.
        deadline_s: seconds after which the order is ended.

    Returns:
        The outcome. Nothing that a driver raises gets out of here.
    """
    begun = clock.monotonic()
    task = asyncio.create_task(_at_work(work, clock))
    wished = asyncio.create_task(events.wish.wait())
    try:
        await asyncio.wait((task, wished), timeout=deadline_s + GRACE_S, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            events.overdue = not events.wish.made
            await _end(task, instrument, events.wish.reason or f"no result within {deadline_s:g} s")
    finally:
        wished.cancel()
        if not task.done():
            task.cancel()
    # A driver that looks at `abort_requested` may have ended before the guard came to it: that is our abort too.
    return _outcome(task, events.wish.reason, in_time=clock.monotonic() - begun < deadline_s)


async def _at_work(work: Coroutine[Any, Any, object], clock: Clock) -> object:
    with clock.at_work():
        return await work


async def _end(task: asyncio.Task[object], instrument: Instrument, reason: str) -> None:
    """Abort on the instrument's own path, wait for the driver's word, then give it up."""
    abort = asyncio.create_task(_abort(instrument, reason))
    await asyncio.wait((abort, task), timeout=ABORT_S)
    abort.cancel()
    if not task.done():
        task.cancel()
        await asyncio.wait((task,), timeout=CANCEL_S)


async def _abort(instrument: Instrument, reason: str) -> None:
    with suppress(Exception):  # an abort that fails leaves the outcome to the driver, which may not know it: UNKNOWN
        await instrument.abort(reason)


def _outcome(task: asyncio.Task[object], aborted: str, *, in_time: bool) -> Outcome:
    if not task.done() or task.cancelled():
        silent = TimedOut(f"the driver gave no answer after {aborted or 'its deadline'}; the work may go on")
        return Outcome(None, silent, ended=False, aborted=aborted)
    failure = task.exception()
    if failure is None:
        return Outcome(task.result(), None, ended=True, aborted=aborted)
    if isinstance(failure, InstrumentError):
        # A driver that reports its own deadline may have left a blocked call behind.
        return Outcome(None, failure, ended=in_time or not isinstance(failure, TimedOut), aborted=aborted)
    if not isinstance(failure, Exception):
        raise failure
    fault = Fault(
        f"the driver raised {type(failure).__name__}: {failure}; no InstrumentError, so its effect is unknown"
    )
    fault.__cause__ = failure
    return Outcome(None, fault, ended=True, aborted=aborted)
