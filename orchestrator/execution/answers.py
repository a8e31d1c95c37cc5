"""What only a person can say: the outcome of an attempt that is UNKNOWN.

Each answer is an event with the person's name and reason, in the transaction that acts on it. No timer ends UNKNOWN.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.domain import Capability, Order, Quantity, Reading, Result, Value
from orchestrator.errors import Effect, StoreError
from orchestrator.execution.checks import check_result
from orchestrator.execution.clock import Clock
from orchestrator.execution.raw import pack, unpack
from orchestrator.record.states import AttemptState
from orchestrator.record.store import CampaignStore
from orchestrator.record.views import AttemptInfo


@dataclass(frozen=True)
class Question:
    """One question to the people at the instrument.

    Args:
        campaign: name.
        attempt: id, by which the answer is given.
        trial: number.
        step: name.
        instrument: that is held until the answer.
        label: what people call the candidate.
        why: why nobody knows.
        asked_at: when the order was given, UTC in microseconds.
    """

    campaign: str
    attempt: int
    trial: int
    step: str
    instrument: str
    label: str
    why: str
    asked_at: int

    def __str__(self) -> str:
        """Ask it."""
        return (
            f"was step {self.step!r} of trial {self.trial} ({self.label}) carried out on {self.instrument!r}? Attempt "
            f"{self.attempt} is UNKNOWN: {self.why}. Look at the instrument, then: matloop answer {self.campaign}"
        )


def questions(store: CampaignStore, name: str) -> list[Question]:
    """List what people are asked in a campaign, oldest first."""
    return [
        Question(
            campaign=name,
            attempt=attempt.id,
            trial=attempt.trial,
            step=attempt.step,
            instrument=attempt.instrument,
            label=str(attempt.order.get("label") or ""),
            why=attempt.note,
            asked_at=attempt.created_at,
        )
        for attempt in store.open_attempts(name)
        if attempt.state is AttemptState.UNKNOWN
    ]


def answer_not_started(store: CampaignStore, attempt_id: int, *, who: str, reason: str) -> None:
    """Say that the order of an attempt was never carried out: its step may be tried again.

    Args:
        store: of the campaign.
        attempt_id: of the question.
        who: the person's name.
        reason: how the person knows.

    Raises:
        StoreError: the attempt is not UNKNOWN, or name or reason is missing.
    """
    _asked(store, attempt_id, who, reason)
    store.end_attempt(
        attempt_id, AttemptState.NOT_STARTED, retry=True, reason=f"{who}: not started: {reason}", actor=who
    )


def answer_discard(store: CampaignStore, attempt_id: int, *, who: str, reason: str) -> None:
    """Say that nothing usable came of an attempt: its trial has failed.

    Args:
        store: of the campaign.
        attempt_id: of the question.
        who: the person's name.
        reason: what happened.

    Raises:
        StoreError: the attempt is not UNKNOWN, or name or reason is missing.
    """
    _asked(store, attempt_id, who, reason)
    effect = Effect.STARTED.value  # a sample may be spent: the budget counts it
    store.end_attempt(
        attempt_id, AttemptState.FAILED, retry=False, reason=f"{who}: discarded: {reason}", effect=effect, actor=who
    )


def answer_done(
    store: CampaignStore,
    attempt_id: int,
    values: Mapping[str, Quantity],
    *,
    capability: Capability,
    who: str,
    reason: str,
) -> None:
    """Say that an attempt was carried out, and what it gave.

    Args:
        store: of the campaign.
        attempt_id: of the question.
        values: every output that the capability declares, with units.
        capability: that the step used.
        who: the person's name.
        reason: where the numbers come from.

    Raises:
        BadData: a value is missing, of another dimension or impossible; nothing was changed.
        StoreError: the attempt is not UNKNOWN, or name or reason is missing.
    """
    attempt = _asked(store, attempt_id, who, reason)
    told = Result(
        key=attempt.key,
        readings=tuple(Reading(name, quantity.value, quantity.unit) for name, quantity in values.items()),
        notes=f"told by {who}: {reason}",
    )
    record_told(store, attempt, told, capability, who=who)


def record_told(
    store: CampaignStore,
    attempt: AttemptInfo,
    told: Result,
    capability: Capability,
    *,
    who: str,
    applied: Mapping[str, Value] | None = None,
) -> None:
    """Record a result that a person told, in the same way as an instrument's: checked, raw bytes first, once.

    Args:
        store: of the campaign.
        attempt: INTENT or UNKNOWN.
        told: what the person said.
        capability: that the person stood in for.
        who: the person's name.
        applied: set-points as the candidate names them, where the person knows them.

    Raises:
        BadData: the numbers cannot be used; nothing was changed.
    """
    content, _ = pack(told)
    result, _ = unpack(content)
    checked = check_result(
        result, Order.from_json(attempt.order), capability, ordered_at=attempt.created_at, now=Clock().now()
    )
    store.advance(attempt.id, AttemptState.MEASURED, raw_sha256=store.raw.put(content), note=told.notes, actor=who)
    store.record(
        attempt.id,
        checked.measurements,
        structures=checked.structures,
        applied=applied or {},
        notes=checked.notes,
        actor=who,
    )


def _asked(store: CampaignStore, attempt_id: int, who: str, reason: str) -> AttemptInfo:
    attempt = store.attempt(attempt_id)
    if attempt.state is not AttemptState.UNKNOWN:
        message = f"attempt {attempt_id} is {attempt.state}, not UNKNOWN: there is nothing to answer"
        raise StoreError(message)
    if not who.strip() or not reason.strip():
        message = "an answer needs the name of the person and a reason: what was seen at the instrument"
        raise StoreError(message)
    return attempt
