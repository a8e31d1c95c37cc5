"""What happens after an instrument failed: one table.

The physical effect decides, not the name of the error. "Never again by itself" is the rule wherever something may have
moved; a second attempt needs proof that nothing did, or an instrument on which repeating changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from orchestrator.domain import Capability, Description, Recovery
from orchestrator.errors import (
    Aborted,
    BadData,
    Busy,
    Effect,
    InstrumentError,
    NotConnected,
    ProtocolDesync,
    Rejected,
    TimedOut,
)

REAL = "real"
"""Fidelity of capabilities whose work is a physical act; every other kind is a computation."""


class Next(StrEnum):
    """What happens to the step."""

    RETRY = "retry"
    """A new attempt, after a wait."""
    FAIL = "fail"
    """The step and its trial fail, with the reason: evidence about the candidate."""
    PAUSE = "pause"
    """The step is planned again and the campaign pauses: the instrument is in the way, not the candidate. An unplugged
    instrument must not turn one candidate after the other into a failure."""
    SEND_AGAIN = "send again"
    """The same attempt with the same key: the instrument returns the job that it knows."""
    LOOK_UP = "look up"
    """Ask the instrument where the job is; no proof means UNKNOWN."""
    HOLD = "hold"
    """UNKNOWN: the instrument's slot and the budget stay held until a person answers."""


@dataclass(frozen=True)
class Rule:
    """One line of the table.

    Args:
        attempts: how many attempts a step may use up on such failures, the first one included.
        wait_s: seconds before the second attempt; doubled before each further one.
        then: what happens when the attempts are used up.
        why: the reason.
    """

    attempts: int
    wait_s: float
    then: Next
    why: str


PASSING = (NotConnected, Busy, TimedOut, ProtocolDesync)
"""Errors that, with effect none, pass by themselves: links come back, others finish, a fresh session heals."""
NOTHING_HAPPENED = Rule(3, 10.0, Next.PAUSE, "nothing was sent; links come back and others finish")
"""Effect none, a passing error."""
NOTHING_COMPUTED = Rule(5, 0.2, Next.PAUSE, "nothing was sent, and asking a computer again costs nothing")
"""The same of a computation."""
REFUSED = Rule(1, 0.0, Next.FAIL, "the same order would be refused again")
"""Effect none: Rejected, Aborted; of a computation, any error that does not pass."""
OUT_OF_ORDER = Rule(1, 0.0, Next.PAUSE, "a person must see to the instrument first")
"""Effect none: Interlocked, Fault and the like, of a real act."""
STARTED = Rule(1, 0.0, Next.FAIL, "the work was begun, so the sample is spent")
DONE_REAL = Rule(1, 0.0, Next.FAIL, "the work was done; repeating it would use another sample")
DONE_COMPUTED = Rule(2, 0.0, Next.FAIL, "a computation may be repeated once; the same bad answer twice is its answer")
UNKNOWN: Mapping[Recovery, Rule] = {
    Recovery.IDEMPOTENT: Rule(3, 1.0, Next.HOLD, "the instrument knows the key, so nothing is done twice"),
    Recovery.QUERYABLE: Rule(1, 0.0, Next.LOOK_UP, "its own log says what happened"),
    Recovery.BLIND: Rule(1, 0.0, Next.HOLD, "nobody but a person can find out; no timer ends it"),
}
"""Effect unknown, by what the instrument lets us find out."""
UNKNOWN_COMPUTED = Rule(2, 1.0, Next.FAIL, "a computation may be begun again, and what fails twice fails always")
"""Effect unknown, of a computation on an idempotent instrument."""


@dataclass(frozen=True)
class Verdict:
    """What happens to a step after one failure.

    Args:
        next: what to do.
        wait_s: before doing it.
        why: for the record.
    """

    next: Next
    wait_s: float
    why: str


def verdict(error: InstrumentError, *, failed: int, description: Description, capability: Capability) -> Verdict:
    """Look up what happens after a failure.

    Args:
        error: with its physical effect.
        failed: how many tries of this step ended like this, this one included.
        description: of the instrument.
        capability: that failed.

    Returns:
        What to do, when and why.
    """
    rule = _rule(error, description, capability)
    again = Next.SEND_AGAIN if error.effect is Effect.UNKNOWN else Next.RETRY
    if failed < rule.attempts:
        return Verdict(again, rule.wait_s * 2 ** (failed - 1), rule.why)
    return Verdict(rule.then, 0.0, rule.why)


def is_computation(description: Description, capability: Capability) -> bool:
    """Say whether repeating a capability changes nothing in the physical world."""
    return description.simulated or capability.fidelity != REAL


def _rule(error: InstrumentError, description: Description, capability: Capability) -> Rule:
    if error.effect is Effect.UNKNOWN:
        if description.recovery is Recovery.IDEMPOTENT and is_computation(description, capability):
            return UNKNOWN_COMPUTED
        return UNKNOWN[description.recovery]
    if error.effect is Effect.STARTED:
        return STARTED
    if error.effect is Effect.DONE:
        repeatable = isinstance(error, BadData) and is_computation(description, capability)
        return DONE_COMPUTED if repeatable else DONE_REAL
    computed = is_computation(description, capability)
    if isinstance(error, PASSING):
        return NOTHING_COMPUTED if computed else NOTHING_HAPPENED
    return REFUSED if computed or isinstance(error, Rejected | Aborted) else OUT_OF_ORDER
