"""What only a person can say: the outcome of an attempt that is UNKNOWN, a signature, that an instrument is in order.

Each answer is an event with the person's name and reason, in the transaction that acts on it. No timer ends UNKNOWN.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from orchestrator.domain import Capability, Order, Quantity, Reading, Result, Value, frozen
from orchestrator.errors import Effect, StoreError
from orchestrator.execution.checks import check_result
from orchestrator.execution.clock import Clock
from orchestrator.execution.questions import (
    ABORT,
    APPROVE,
    BY_HAND,
    OUT_OF_SERVICE,
    REFUSE,
    RETRY,
    SKIP,
    VERBS,
    Question,
    find,
    questions,
)
from orchestrator.execution.raw import pack, unpack
from orchestrator.record.states import AttemptState, CampaignState
from orchestrator.record.store import CampaignStore
from orchestrator.record.views import AttemptInfo

__all__ = ["VERBS", "Question", "answer", "answer_discard", "answer_done", "answer_not_started", "questions"]

NAMELESS = "an answer needs the name of the person and a reason: what was seen at the instrument"


def answer(
    store: CampaignStore,
    campaign: str,
    question: Question | str,
    verb: str,
    *,
    who: str,
    reason: str,
    values: Mapping[str, Quantity] | None = None,
    capability: Capability | None = None,
) -> None:
    """Answer a question; the command line, the UI and programs all come here.

    Args:
        store: of the campaign.
        campaign: name.
        question: from `questions`, or its id.
        verb: one of the question's `verbs`.
        who: the person's name.
        reason: how the person knows, or why it is decided so.
        values: for ``done_by_hand``: every output that the capability declares.
        capability: for ``done_by_hand`` and for ``approve`` of a HELD result: what the step's instrument declares.

    Raises:
        StoreError: no such question is open, the verb does not go with it, or name or reason is missing.
        BadData: values are missing or cannot be used; nothing was changed.
    """
    if not who.strip() or not reason.strip():
        raise StoreError(NAMELESS)
    asked = find(store, campaign, question)
    if verb not in asked.verbs:
        message = f"{verb!r} is no answer to a question of kind {asked.kind!r}; answers are: {', '.join(asked.verbs)}"
        raise StoreError(message)
    told = f"{who}: {verb}: {reason}"
    if verb in (BY_HAND, APPROVE) and asked.attempt:
        if capability is None:
            message = f"{verb!r} needs the capability that the step's instrument declares, to check the values by it"
            raise StoreError(message)
        _record(store, asked, capability, values, who=who, reason=reason)
        return
    if verb == OUT_OF_SERVICE:
        store.take_out_of_service(campaign, asked.instrument, cause="person", reason=reason, actor=who)
        store.ask(campaign, "service", told, instrument=asked.instrument)
    elif verb == ABORT:
        store.set_state(campaign, CampaignState.STOPPED, actor=who, reason=told)
    elif asked.attempt:
        _settle_attempt(store, asked, verb, who=who, told=told)
    else:
        _settle_stored(store, asked, verb, who=who, told=told)
    if not asked.attempt and (asked.kind, verb) != ("service", RETRY):  # which has its answer by the return
        store.reply(campaign, int(asked.id[1:]), verb, actor=who, reason=reason)


def _settle_stored(store: CampaignStore, asked: Question, verb: str, *, who: str, told: str) -> None:
    """Do what an answer to a stored question means; the executor sees the answer and goes on by itself."""
    if asked.kind == "service":
        store.return_to_service(asked.campaign, asked.instrument, reason=told, actor=who)
    elif verb in (SKIP, REFUSE):
        store.give_up(asked.campaign, asked.trial, actor=who, reason=told)
    elif asked.kind == "doubt" and verb == APPROVE:
        trials = [int(number) for number in asked.subject.split(",")]
        store.lift_doubt(asked.campaign, trials, reason=told, actor=who)


def _settle_attempt(store: CampaignStore, asked: Question, verb: str, *, who: str, told: str) -> None:
    """End an attempt as a person says; that something may have happened counts against the budget."""
    if verb == RETRY and asked.kind != "held":
        store.end_attempt(asked.attempt, AttemptState.NOT_STARTED, retry=True, reason=told, actor=who)
        return
    effect = (Effect.DONE if asked.kind == "held" else Effect.STARTED).value
    again = verb in (RETRY, SKIP) or asked.kind == "reference"
    store.end_attempt(asked.attempt, AttemptState.FAILED, retry=again, reason=told, effect=effect, actor=who)
    if verb == SKIP:
        store.give_up(asked.campaign, asked.trial, actor=who, reason=told)


def _record(
    store: CampaignStore,
    asked: Question,
    capability: Capability,
    values: Mapping[str, Quantity] | None,
    *,
    who: str,
    reason: str,
) -> None:
    """Record an attempt by what a person says: the values told, or the held result as it came."""
    if asked.kind == "unknown":
        answer_done(store, asked.attempt, values or {}, capability=capability, who=who, reason=reason)
        return
    attempt = store.attempt(asked.attempt)
    order = Order.from_json(attempt.order)
    if values is None:
        # The person vouches for it: bounds, age and read-back, which the guard judges by, count no more.
        result, attachments = unpack(store.raw.get(attempt.raw_sha256 or ""))
        result = replace(result, applied=frozen(), applied_choices=frozen())
        capability = replace(capability, outputs=tuple(replace(o, low=None, high=None) for o in capability.outputs))
    else:
        readings = tuple(Reading(name, quantity.value, quantity.unit) for name, quantity in values.items())
        result, attachments = Result(key=attempt.key, readings=readings), ()
    checked = check_result(result, order, capability, ordered_at=0, now=Clock().now())
    store.record(
        attempt.id,
        checked.measurements,
        structures=checked.structures,
        applied={},
        attachments=attachments,
        notes=f"{checked.notes}; {who}: {reason}".removeprefix("; "),
        actor=who,
    )


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
        raise StoreError(NAMELESS)
    return attempt
