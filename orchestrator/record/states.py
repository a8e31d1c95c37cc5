"""The state machines, each as one set of legal pairs.

From these sets come the database triggers, the test of the machines and the diagram in the documentation.
A trial's state is derived from its steps by `trial_state`; nobody writes it by hand.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum


class StepState(StrEnum):
    """Where a step is."""

    PLANNED = "PLANNED"
    CLAIMED = "CLAIMED"
    OPEN = "OPEN"
    RECORDED = "RECORDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    SKIPPED = "SKIPPED"
    """A condition of the procedure did not hold: nothing was done, and nothing is wrong."""


class AttemptState(StrEnum):
    """What is known of one permission to start."""

    INTENT = "INTENT"
    SUBMITTED = "SUBMITTED"
    RUNNING = "RUNNING"
    MEASURED = "MEASURED"
    RECORDED = "RECORDED"
    FAILED = "FAILED"
    UNKNOWN = "UNKNOWN"
    NOT_STARTED = "NOT_STARTED"
    HELD = "HELD"


class TrialState(StrEnum):
    """How a trial stands, derived from its steps."""

    PLANNED = "PLANNED"
    RUNNING = "RUNNING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    ABANDONED = "ABANDONED"


class CampaignState(StrEnum):
    """Whether new steps may start."""

    ACTIVE = "ACTIVE"
    PAUSED = "PAUSED"
    STOPPED = "STOPPED"
    DONE = "DONE"


class HoldState(StrEnum):
    """What became of what an attempt held of a resource."""

    HELD = "HELD"
    SPENT = "SPENT"
    RETURNED = "RETURNED"


S, A, C = StepState, AttemptState, CampaignState

STEP_PAIRS: frozenset[tuple[StepState, StepState]] = frozenset(
    {
        (S.PLANNED, S.CLAIMED),
        (S.CLAIMED, S.PLANNED),
        (S.CLAIMED, S.OPEN),
        (S.OPEN, S.RECORDED),
        (S.OPEN, S.FAILED),
        (S.OPEN, S.PLANNED),  # the attempt ended NOT_STARTED or FAILED and the retry table allows another
        (S.PLANNED, S.CANCELLED),
        (S.PLANNED, S.SKIPPED),
    }
)

STEP_DONE = (S.RECORDED, S.SKIPPED)
"""States after which the next step may begin."""

STEP_ENDED = (*STEP_DONE, S.FAILED, S.CANCELLED)
"""States in which a step stays."""

ATTEMPT_PAIRS: frozenset[tuple[AttemptState, AttemptState]] = frozenset(
    {
        (A.INTENT, A.SUBMITTED),
        (A.INTENT, A.RUNNING),
        (A.INTENT, A.MEASURED),
        (A.INTENT, A.FAILED),
        (A.INTENT, A.UNKNOWN),
        (A.INTENT, A.NOT_STARTED),
        (A.SUBMITTED, A.RUNNING),
        (A.SUBMITTED, A.MEASURED),
        (A.SUBMITTED, A.FAILED),
        (A.SUBMITTED, A.UNKNOWN),
        (A.RUNNING, A.MEASURED),
        (A.RUNNING, A.FAILED),
        (A.RUNNING, A.UNKNOWN),
        (A.UNKNOWN, A.NOT_STARTED),
        (A.UNKNOWN, A.SUBMITTED),
        (A.UNKNOWN, A.RUNNING),
        (A.UNKNOWN, A.MEASURED),
        (A.UNKNOWN, A.FAILED),
        (A.MEASURED, A.RECORDED),
        (A.MEASURED, A.HELD),
        (A.HELD, A.RECORDED),
        (A.HELD, A.FAILED),
    }
)

CAMPAIGN_PAIRS: frozenset[tuple[CampaignState, CampaignState]] = frozenset(
    {
        (C.ACTIVE, C.PAUSED),
        (C.PAUSED, C.ACTIVE),
        (C.ACTIVE, C.STOPPED),
        (C.PAUSED, C.STOPPED),
        (C.ACTIVE, C.DONE),
        (C.STOPPED, C.ACTIVE),  # `resume` after `stop`; an event names who did it
        (C.DONE, C.ACTIVE),  # `amend` raised the budget
    }
)

HOLD_PAIRS = frozenset({(HoldState.HELD, HoldState.SPENT), (HoldState.HELD, HoldState.RETURNED)})

OPEN_ATTEMPT = (A.INTENT, A.SUBMITTED, A.RUNNING, A.UNKNOWN, A.MEASURED, A.HELD)
"""States in which an attempt still holds its step: at most one such attempt a step."""

SLOT_HOLDING = (A.INTENT, A.SUBMITTED, A.RUNNING, A.UNKNOWN)
"""States in which an attempt holds its instrument's slot."""


def trial_state(steps: Iterable[StepState]) -> TrialState:
    """Derive a trial's state from the states of its steps.

    Args:
        steps: states in the order of the procedure.

    Returns:
        FAILED if a step failed; ABANDONED if a step was cancelled and none failed, or all were skipped; COMPLETED if
        all are recorded or skipped; PLANNED if none was begun; RUNNING otherwise.
    """
    states = list(steps)
    if S.FAILED in states:
        return TrialState.FAILED
    if S.CANCELLED in states or (states and all(state is S.SKIPPED for state in states)):
        return TrialState.ABANDONED
    if states and all(state in STEP_DONE for state in states):
        return TrialState.COMPLETED
    if all(state is S.PLANNED for state in states):
        return TrialState.PLANNED
    return TrialState.RUNNING
