"""The loop's acts as Prefect tasks: coarse, by ids, never cached, never retried.

A task's arguments are what the page shows: names and numbers. The act itself, which holds the campaign and its
instruments, comes through a context variable, so that nothing of it is serialised. Whether an act may be repeated is
for the campaign database to say; Prefect only shows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any, Generic, TypeVar

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.logging import get_logger
from prefect.states import Completed, Failed

from orchestrator.record.states import TrialState

T = TypeVar("T")
LABELS = 5
"""Candidates named in the message of a choice."""


class Act(Generic[T]):
    """One act of the loop, carried out once whatever Prefect does around it.

    Args:
        call: carries it out.
    """

    def __init__(self, call: Callable[[], Awaitable[T]]) -> None:
        self._call = call
        self._future: asyncio.Future[T] | None = None

    def begin(self) -> asyncio.Future[T]:
        """Begin the act, or return what was begun."""
        if self._future is None:
            self._future = asyncio.ensure_future(self._call())
        return self._future

    async def outcome(self) -> T:
        """Await the act."""
        future = self.begin()
        try:
            return await future
        except asyncio.CancelledError:
            future.cancel()  # an awaited future is cancelled with its waiter, but one that a task began may not be
            await asyncio.gather(future, return_exceptions=True)
            raise


_ACT: ContextVar[Act[Any]] = ContextVar("act of the loop")


async def shown(wrapped: Any, call: Callable[[], Awaitable[T]], *, not_before_s: float = 0.0, **ids: Any) -> T:
    """Carry out an act inside a Prefect task; if Prefect fails, carry it out all the same.

    Args:
        wrapped: one of the tasks below.
        call: the act.
        not_before_s: an act that ends within so many seconds is no task.
        ids: the task's arguments.

    Returns:
        What the act returns.
    """
    act = Act(call)
    if not_before_s:
        await asyncio.wait({act.begin()}, timeout=not_before_s)
        if act.begin().done():
            return await act.outcome()
    token = _ACT.set(act)
    try:
        await wrapped(**ids, return_state=True)
    except Exception as error:  # noqa: BLE001  whatever Prefect's own trouble is, the act goes on without it
        get_logger("matloop").warning("Prefect could not show a task: %r", error)
    finally:
        _ACT.reset(token)
    return await act.outcome()


@task(name="fit", task_run_name="train", cache_policy=NO_CACHE, retries=0, persist_result=False)
async def fit(campaign: str) -> State[Any]:
    """Train the surrogate."""
    del campaign  # shown on the page
    made = await _ACT.get().outcome()
    if made is None:
        return Completed(message="no training was due")
    return Completed(message=f"fit {made.number}: {made.report.labels} labels, {made.report.seconds:.1f} s")


@task(name="propose", task_run_name="choose", cache_policy=NO_CACHE, retries=0, persist_result=False)
async def propose(campaign: str) -> State[Any]:
    """Choose what to measure next."""
    del campaign  # shown on the page
    plan = await _ACT.get().outcome()
    names = [trial.candidate.label for trial in plan.trials]
    more = f" and {len(names) - LABELS} more" if len(names) > LABELS else ""
    return Completed(message=f"decision {plan.decision} by {plan.policy}: {', '.join(names[:LABELS])}{more}")


@task(name="trial", task_run_name="{number:04d} {label}", cache_policy=NO_CACHE, retries=0, persist_result=False)
async def trial(campaign: str, number: int, label: str) -> State[Any]:
    """Carry out one trial on its instruments."""
    del campaign, number, label  # shown on the page
    ended = await _ACT.get().outcome()
    if ended.state is TrialState.FAILED:
        return Failed(message=ended.reason or "failed; see 'matloop why'")
    return Completed(message=f"{ended.state.value.lower()} {ended.reason}".rstrip())
