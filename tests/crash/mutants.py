"""Design mistakes, seeded on purpose: the harness must catch each of them, or its zeros mean nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from orchestrator.domain import Order, Recovery, Result, sha256
from orchestrator.errors import TimedOut
from orchestrator.execution.attempts import Attempts, Work
from orchestrator.execution.checks import check_result
from orchestrator.execution.events import OrderEvents
from orchestrator.execution.executor import Executor
from orchestrator.execution.guard import Outcome
from orchestrator.execution.raw import pack, unpack
from orchestrator.record import tables
from orchestrator.record.database import Write
from orchestrator.record.recording import write_result
from orchestrator.record.states import AttemptState
from orchestrator.record.steps import dispatch_key
from orchestrator.record.views import AttemptInfo
from tests.crash.world import NAME


class _Early(Attempts):
    """Takes for sent what was sent before."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.early: dict[int, Result] = {}

    async def send(self, work: Work, attempt: AttemptInfo, order: Order) -> Outcome:
        if attempt.id in self.early:
            return Outcome(self.early.pop(attempt.id), None, ended=True)
        return await super().send(work, attempt, order)


class SendBeforeIntent(Executor):
    """The order goes out first, and the permission is written down afterwards."""

    attempts_type = _Early

    async def _intent(self, work: Work, fence: int, order: Order) -> AttemptInfo | None:
        uuid = self.store.campaign(NAME).uuid
        key = dispatch_key(uuid, work.trial.number, work.step.name, work.step.attempts + 1)
        events = OrderEvents(self.clock, work.wish, lambda _: None, lambda *_: None)
        result = await work.instrument.run(replace(order, key=key), events)
        attempt = await super()._intent(work, fence, order)
        if attempt is not None and isinstance(self.attempts, _Early):
            self.attempts.early[attempt.id] = result
        return attempt


class _TrustAbsent(Attempts):
    async def quiesce(self, work: Work) -> None:
        """Believe an empty log at once."""


class _ResendOnTimeout(Attempts):
    async def settle(self, work: Work, attempt: AttemptInfo, outcome: Outcome, tries: int) -> bool:
        if isinstance(outcome.error, TimedOut) and tries == 1:
            return await self.perform(work, attempt, tries + 1)
        return await super().settle(work, attempt, outcome, tries)


class _ResendWithoutLooking(Attempts):
    async def resume(self, work: Work, attempt: AttemptInfo) -> bool:
        if work.description.recovery is Recovery.QUERYABLE and attempt.raw_sha256 is None:
            return await self.perform(work, attempt)
        return await super().resume(work, attempt)


class _UnknownTimesOut(Attempts):
    def hold(self, attempt: AttemptInfo, why: str) -> bool:
        super().hold(attempt, why)
        self.store.end_attempt(attempt.id, AttemptState.NOT_STARTED, retry=True, reason="it has been long enough")
        return True


class _StateBeforeBytes(Attempts):
    def keep(self, attempt: AttemptInfo, result: object) -> None:
        content, _ = pack(result)
        self.store.advance(attempt.id, AttemptState.MEASURED, raw_sha256=sha256(content))
        self.store.raw.put(content)


class _RecordInTwo(Attempts):
    async def record(self, work: Work, attempt_id: int) -> bool:
        attempt = self.store.attempt(attempt_id)
        result, _ = unpack(self.store.raw.get(attempt.raw_sha256 or ""))
        order = Order.from_json(attempt.order)
        checked = check_result(result, order, work.capability, ordered_at=attempt.created_at, now=self.clock.now())

        def half(write: Write) -> None:
            row = write.row(tables.attempt, attempt_id)
            step = write.row(tables.step, row.step_id)
            write_result(write, row, step, checked.measurements, structures={}, applied={}, attachments=(), notes="")
            write.event("half", "matloop")

        self.store._db.write(self.store.campaign(NAME).id, "half", half)
        self.store.record(attempt_id, (), structures={}, applied={})
        return True


def _with(attempts: type[Attempts]) -> type[Executor]:
    return type(attempts.__name__.strip("_"), (Executor,), {"attempts_type": attempts})


@dataclass(frozen=True)
class Mistake:
    """A seeded mistake, and where it must show.

    Args:
        executor: the product with the mistake.
        classes: recovery classes in which it does harm.
        labels: points at which a kill brings it out.
        harm: how the judge's sentence begins.
        network: whether it needs a slow network: ``delayed``, ``late`` or none.
    """

    executor: type[Executor]
    classes: tuple[str, ...]
    labels: tuple[str, ...]
    harm: str
    network: str = ""


MISTAKES: Mapping[str, Mistake] = {
    "send before intent": Mistake(
        SendBeforeIntent, ("queryable", "blind"), ("intent.in_txn", "poll.before"), "repeated"
    ),
    "trust 'not found' at once": Mistake(
        _with(_TrustAbsent), ("queryable",), ("send.after_bytes",), "repeated", "delayed"
    ),
    "send again after a time-out": Mistake(
        _with(_ResendOnTimeout), ("queryable", "blind"), ("claim.after",), "repeated", "late"
    ),
    "send again without looking": Mistake(
        _with(_ResendWithoutLooking), ("queryable",), ("ack.before_commit", "poll.before"), "repeated"
    ),
    "UNKNOWN times out": Mistake(_with(_UnknownTimesOut), ("blind",), ("ack.before_commit", "raw.fsynced"), "repeated"),
    "state before bytes": Mistake(
        _with(_StateBeforeBytes), ("idempotent", "queryable", "blind"), ("measured.after",), "lost"
    ),
    "record in two transactions": Mistake(
        _with(_RecordInTwo), ("idempotent", "queryable", "blind"), ("record.in_txn",), "stuck"
    ),
}
"""Each must give violations where it is looked for."""


def executor_of(mistake: str) -> type[Executor]:
    """Return the product, or the product with a mistake."""
    return MISTAKES[mistake].executor if mistake else Executor
