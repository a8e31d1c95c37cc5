"""What happens after an instrument failed: one table.

The physical effect decides, not the name of the error. "Never again by itself" is the rule wherever something may have
moved; a second attempt needs proof that nothing did, or an instrument on which repeating changes nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from orchestrator.config.safety import FailureConfig
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
    """UNKNOWN: the instrument's slot and the budget stay held until a person answers. A result in hand is HELD."""
    OUT_OF_SERVICE = "out of service"
    """The step is planned again and the instrument goes OUT OF SERVICE: another of its kind takes over, the rest of the
    campaign goes on, and only where nothing can go on does the campaign pause."""
    OTHER = "other instrument"
    """A new attempt on another instrument of the kind."""
    SKIP = "skip"
    """The trial is given up; it says nothing about its candidate."""
    ASK = "ask"
    """The step is planned again and waits until a person has answered."""


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
NOTHING_HAPPENED = Rule(3, 10.0, Next.OUT_OF_SERVICE, "nothing was sent; links come back and others finish")
"""Effect none, a passing error."""
NOTHING_COMPUTED = Rule(5, 0.2, Next.OUT_OF_SERVICE, "nothing was sent, and asking a computer again costs nothing")
"""The same of a computation."""
REFUSED = Rule(1, 0.0, Next.FAIL, "the same order would be refused again")
"""Effect none: Rejected, Aborted; of a computation, any error that does not pass."""
OUT_OF_ORDER = Rule(1, 0.0, Next.OUT_OF_SERVICE, "a person must see to the instrument first")
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


def verdict(
    error: InstrumentError,
    *,
    failed: int,
    description: Description,
    capability: Capability,
    table: Sequence[FailureConfig] = (),
    names: Collection[str] = (),
) -> Verdict:
    """Look up what happens after a failure: the lab's own line where one fits, then the built-in one.

    Args:
        error: with its physical effect.
        failed: how many tries of this step ended like this, this one included.
        description: of the instrument.
        capability: that failed.
        table: the lab's lines.
        names: of the instrument and of its kind.

    Returns:
        What to do, when and why.
    """
    rule = _rule(error, description, capability)
    line = next((one for one in table if _fits(one, error, names)), None)
    if line is not None:
        what = LAB_WORDS[line.then]
        why = f"the lab's table says {line.then!r} after {line.error}, effect {line.effect.value!r}"
        if what not in (Next.RETRY, Next.OTHER):
            return Verdict(what, 0.0, why)
        if failed < line.attempts:
            return Verdict(what, line.wait_s * 2 ** (failed - 1), why)
        return Verdict(rule.then, 0.0, f"{rule.why}; {why}, and {failed} attempts are used up")
    again = Next.SEND_AGAIN if error.effect is Effect.UNKNOWN else Next.RETRY
    if failed < rule.attempts:
        return Verdict(again, rule.wait_s * 2 ** (failed - 1), rule.why)
    return Verdict(rule.then, 0.0, rule.why)


LAB_WORDS: Mapping[str, Next] = {
    "retry": Next.RETRY,
    "other_instrument": Next.OTHER,
    "skip": Next.SKIP,
    "hold": Next.HOLD,
    "ask": Next.ASK,
    "pause": Next.PAUSE,
    "out_of_service": Next.OUT_OF_SERVICE,
    "fail": Next.FAIL,
}
"""The words of the lab file's table."""


def _fits(line: FailureConfig, error: InstrumentError, names: Collection[str]) -> bool:
    return (
        line.error in {"any", type(error).__name__}
        and line.effect is error.effect
        and (line.instrument is None or line.instrument in names)
    )


def table_of_retries() -> str:
    """Write the built-in table in Markdown, for people."""
    rows = [
        ("none", "NotConnected, Busy, TimedOut, ProtocolDesync", "real", NOTHING_HAPPENED),
        ("none", "NotConnected, Busy, TimedOut, ProtocolDesync", "computed", NOTHING_COMPUTED),
        ("none", "Rejected, Aborted; of a computation any other", "both", REFUSED),
        ("none", "Interlocked, Fault and any other", "real", OUT_OF_ORDER),
        ("started", "any", "both", STARTED),
        ("done", "any", "real", DONE_REAL),
        ("done", "BadData", "computed", DONE_COMPUTED),
        *(("unknown", "any", f"{recovery.value}", rule) for recovery, rule in UNKNOWN.items()),
        ("unknown", "any", "computed, idempotent", UNKNOWN_COMPUTED),
    ]
    lines = ["| effect | error | work | attempts | then | because |", "|---|---|---|---|---|---|"]
    lines += [f"| {e} | {n} | {w} | {r.attempts} | {r.then.value} | {r.why} |" for e, n, w, r in rows]
    return "\n".join(lines)


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
