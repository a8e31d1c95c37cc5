"""Results that people tell: campaigns that are measured by hand, with `ask` and `tell`.

A told result goes the way of an instrument's: claim, intent, raw bytes, MEASURED, recorded once. Whatever is wrong with
it is said before anything is written, so that a slip of the pen can be mended by telling again.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches

from orchestrator.domain import Capability, Order, Output, Problem, Quantity, Reading, Result, Value
from orchestrator.errors import BadData, Effect, StoreError
from orchestrator.execution.answers import record_told
from orchestrator.execution.checks import check_result
from orchestrator.execution.clock import Clock
from orchestrator.execution.raw import unpack
from orchestrator.record.states import STEP_ENDED, AttemptState, StepState
from orchestrator.record.store import CampaignStore
from orchestrator.record.views import AttemptInfo, StepInfo

PERSON = "person"
"""Instrument name of the one step of a trial that people measure."""
HANDS = 1024  # one person measures many trials side by side: as many as a campaign may have in flight


def tell(
    store: CampaignStore,
    name: str,
    trial_number: int,
    values: Mapping[str, Quantity],
    *,
    who: str,
    problem: Problem,
    applied: Mapping[str, Value] | None = None,
) -> None:
    """Record what a person measured for a trial.

    Args:
        store: of the campaign.
        name: of the campaign.
        trial_number: of an asked trial.
        values: every objective and constrained property, in any unit of its dimension.
        who: the person's name.
        problem: objectives and constraints, with the units that are stored.
        applied: parameters as they really were, in the search space's units, where they differ from what was asked.

    Raises:
        BadData: a value is missing, unknown, not finite or of another dimension; nothing was changed.
        StoreError: the trial has ended, or is measured by an instrument.
        Stopped: the campaign is stopped or paused.
        BudgetSpent: the budget is used up.
    """
    capability = _told_capability(problem)
    units = problem.units
    for unknown in sorted(set(values) - set(units)):
        close = get_close_matches(unknown, units, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else f"; it measures: {', '.join(units)}"
        message = f"campaign {name!r} does not measure {unknown!r}{hint}"
        raise BadData(message)
    readings = tuple(Reading(one, quantity.value, quantity.unit) for one, quantity in values.items())
    step = _told_step(store, name, trial_number)
    now = Clock().now()
    rehearsal = Order(key="rehearsal", capability=capability.name)
    check_result(Result(rehearsal.key, readings), rehearsal, capability, ordered_at=now, now=now)
    attempt = _open(store, name, step, who)
    if attempt.state is AttemptState.MEASURED:  # an earlier `tell` ended in a crash just before the record
        _finish(store, attempt, capability, who)
        return
    record_told(
        store, attempt, Result(attempt.key, readings, notes=f"told by {who}"), capability, who=who, applied=applied
    )


def tell_failed(store: CampaignStore, name: str, trial_number: int, *, who: str, reason: str) -> None:
    """Record that a trial gave nothing, and why: evidence about its neighbours.

    Args:
        store: of the campaign.
        name: of the campaign.
        trial_number: of an asked trial.
        who: the person's name.
        reason: what was seen.

    Raises:
        StoreError: the reason is missing, the trial has ended, or is measured by an instrument.
    """
    if not reason.strip():
        message = "say why the trial failed: the reason is evidence for what to try next"
        raise StoreError(message)
    attempt = _open(store, name, _told_step(store, name, trial_number), who)
    if attempt.state is AttemptState.MEASURED:
        store.advance(attempt.id, AttemptState.HELD, note=f"{who}: {reason}", actor=who)
    store.end_attempt(
        attempt.id, AttemptState.FAILED, retry=False, reason=f"{who}: {reason}", effect=Effect.DONE.value, actor=who
    )


def _told_capability(problem: Problem) -> Capability:
    outputs = tuple(Output(one, unit) for one, unit in problem.units.items())
    return Capability(name="tell", outputs=outputs)


def _told_step(store: CampaignStore, name: str, trial_number: int) -> StepInfo:
    trial = store.trial(name, trial_number)
    step = trial.steps[0]
    if len(trial.steps) != 1 or step.instrument != PERSON:
        names = ", ".join(step.instrument for step in trial.steps)
        message = f"trial {trial_number} of {name!r} is measured by {names}; only trials measured by hand can be told"
        raise StoreError(message)
    if step.state in STEP_ENDED:
        message = f"trial {trial_number} of {name!r} is {trial.state}: its result was told already"
        raise StoreError(message)
    return step


def _open(store: CampaignStore, name: str, step: StepInfo, who: str) -> AttemptInfo:
    for attempt in store.open_attempts(name):
        if attempt.step_id == step.id:
            return attempt  # of an earlier `tell` that a crash cut short
    if step.state is StepState.CLAIMED:  # for the blink of an eye in a living `tell`; so this one was killed in it
        store.release_stale_claims(name)
    fence = store.claim(step.id, owner=who)
    order = Order(key="", capability="tell", label=store.trial(name, step.trial).candidate.label)
    try:
        return store.intent(step.id, fence=fence, order=order.to_json(), instrument=PERSON, slots=HANDS, cost=step.cost)
    except Exception:
        store.unclaim(step.id, fence=fence)
        raise


def _finish(store: CampaignStore, attempt: AttemptInfo, capability: Capability, who: str) -> None:
    result, _ = unpack(store.raw.get(attempt.raw_sha256 or ""))
    order = Order.from_json(attempt.order)
    checked = check_result(result, order, capability, ordered_at=attempt.created_at, now=Clock().now())
    store.record(attempt.id, checked.measurements, structures={}, applied={}, notes=checked.notes, actor=who)
