"""What a campaign asks people, and which answers go with which question.

Two sources, one list: attempts whose outcome only a person can tell (UNKNOWN, HELD), and questions that the executor
stored (an approval, an interlock, an instrument OUT OF SERVICE, …). The table `VERBS` is what the command line, the UI
and the programming interface offer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.errors import StoreError
from orchestrator.record.service import Asked
from orchestrator.record.states import AttemptState, TrialState
from orchestrator.record.store import CampaignStore
from orchestrator.record.views import AttemptInfo

RETRY, SKIP, BY_HAND, DISCARD = "retry", "skip", "done_by_hand", "discard"
OUT_OF_SERVICE, ABORT, APPROVE, REFUSE = "out_of_service", "abort", "approve", "refuse"

VERBS: Mapping[str, Mapping[str, str]] = {
    "unknown": {
        RETRY: "it was never started: the step may be tried again",
        BY_HAND: "it was done; the values come with the answer",
        SKIP: "give the trial up; it says nothing about its candidate",
        DISCARD: "it was begun and gave nothing usable: the trial has failed, which is evidence",
        OUT_OF_SERVICE: "no more orders to this instrument; the question stays open",
        ABORT: "stop the campaign; the question stays open",
    },
    "held": {
        APPROVE: "the result is good: record it",
        BY_HAND: "record the values that come with the answer instead",
        RETRY: "do the step once more",
        SKIP: "give the trial up; it says nothing about its candidate",
        DISCARD: "the result is bad: the trial has failed, which is evidence",
        OUT_OF_SERVICE: "no more orders to this instrument; the question stays open",
        ABORT: "stop the campaign; the question stays open",
    },
    "reference": {
        RETRY: "it was never started: the reference order may be sent again",
        DISCARD: "go on without this reference order",
        OUT_OF_SERVICE: "no more orders to this instrument; the question stays open",
        ABORT: "stop the campaign; the question stays open",
    },
    "approval": {
        APPROVE: "the order may be sent",
        REFUSE: "the order must not be sent: the trial is given up",
        ABORT: "stop the campaign",
    },
    "interlock": {
        RETRY: "look again now; nothing is bypassed",
        SKIP: "give the trial up; it says nothing about its candidate",
        OUT_OF_SERVICE: "no more orders to the instrument that waits",
        ABORT: "stop the campaign",
    },
    "service": {
        RETRY: "the instrument is in order: back to service",
        ABORT: "stop the campaign",
    },
    "resource": {
        RETRY: "it was seen to: look again",
        SKIP: "give the trial up; it says nothing about its candidate",
        ABORT: "stop the campaign",
    },
    "failure": {
        RETRY: "try the step once more",
        SKIP: "give the trial up; it says nothing about its candidate",
        OUT_OF_SERVICE: "no more orders to this instrument; another of its kind may take the step",
        ABORT: "stop the campaign",
    },
    "doubt": {
        APPROVE: "the numbers are good: trust them again",
        DISCARD: "the numbers stay doubted; nothing is learned from them",
        ABORT: "stop the campaign",
    },
}
"""Which answers go with which kind of question, and what each does."""


@dataclass(frozen=True)
class Question:
    """One question to the people at the instrument.

    Args:
        campaign: name.
        attempt: id of the attempt in question; 0 where no order was given.
        trial: number; 0 where it is about no trial.
        step: name.
        instrument: concerned.
        label: what people call the candidate.
        why: why it is asked.
        asked_at: UTC in microseconds.
        kind: a key of `VERBS`.
        id: by which it is answered: ``aN`` is about attempt N, ``qN`` is stored question N.
        step_id: of the step; None where it is about none.
        subject: what exactly it is about, such as the name of an interlock or of an output.
    """

    campaign: str
    attempt: int
    trial: int
    step: str
    instrument: str
    label: str
    why: str
    asked_at: int
    kind: str = "unknown"
    id: str = ""
    step_id: int | None = None
    subject: str = ""

    @property
    def verbs(self) -> Mapping[str, str]:
        """The answers that go with it, and what each does."""
        return VERBS[self.kind]

    def __str__(self) -> str:
        """Ask it."""
        how = f"matloop answer {self.campaign}"
        if self.kind == "unknown":
            return (
                f"was step {self.step!r} of trial {self.trial} ({self.label}) carried out on {self.instrument!r}? "
                f"Attempt {self.attempt} is UNKNOWN: {self.why}. Look at the instrument, then: {how}"
            )
        if self.kind == "reference":
            return f"was a reference order carried out on {self.instrument!r}? Nobody knows: {self.why}. Then: {how}"
        if self.kind == "held":
            return (
                f"is the result of step {self.step!r} of trial {self.trial} ({self.label}) good? It is HELD: "
                f"{self.why}. Then: {how}"
            )
        if self.kind == "service":
            return f"instrument {self.instrument!r} is OUT OF SERVICE: {self.why}. See to it, then: {how}"
        about = f"trial {self.trial}, step {self.step!r}: " if self.trial else ""
        stop = "" if self.why.endswith(("?", "!", ".")) else "."
        return f"{about}{self.why}{stop} Answer with: {how}"


def questions(store: CampaignStore, name: str) -> list[Question]:
    """List what people are asked in a campaign, oldest first."""
    found = [_of_attempt(name, attempt) for attempt in store.open_attempts(name) if waits(attempt)]
    asked = store.asked(name)
    labels = {0: ""}
    if any(one.trial for one in asked):
        open_trials = (trial for trial in store.trials(name) if trial.state in (TrialState.PLANNED, TrialState.RUNNING))
        labels |= {trial.number: trial.candidate.label for trial in open_trials}
    # what was asked about a trial that has ended otherwise needs no answer any more
    found += [_of_stored(name, one, labels[one.trial or 0]) for one in asked if (one.trial or 0) in labels]
    return sorted(found, key=lambda question: question.asked_at)


def find(store: CampaignStore, name: str, question: Question | str) -> Question:
    """Find an open question by its id.

    Raises:
        StoreError: there is none, or it has its answer already.
    """
    wanted = question if isinstance(question, str) else question.id
    there = questions(store, name)
    for one in there:
        if one.id == wanted:
            return one
    known = ", ".join(one.id for one in there) or "none"
    message = f"campaign {name!r} asks no question {wanted!r} (any more); open questions are: {known}"
    raise StoreError(message)


def waits(attempt: AttemptInfo) -> bool:
    """Say whether an open attempt waits for a person."""
    return attempt.state in (AttemptState.UNKNOWN, AttemptState.HELD)


def is_reference(attempt: AttemptInfo) -> bool:
    """Say whether an attempt is a reference order, which belongs to no trial's results."""
    return bool(attempt.order.get("reference"))


def _of_attempt(name: str, attempt: AttemptInfo) -> Question:
    kind = "held" if attempt.state is AttemptState.HELD else "unknown"
    return Question(
        campaign=name,
        attempt=attempt.id,
        trial=attempt.trial,
        step=attempt.step,
        instrument=attempt.instrument,
        label=str(attempt.order.get("label") or ""),
        why=attempt.note,
        asked_at=attempt.created_at,
        kind="reference" if is_reference(attempt) else kind,
        id=f"a{attempt.id}",
        step_id=attempt.step_id,
    )


def _of_stored(name: str, one: Asked, label: str) -> Question:
    known: dict[str, Any] = {"campaign": name, "instrument": one.instrument, "why": one.message, "label": label}
    return Question(
        **known,
        attempt=0,
        trial=one.trial or 0,
        step=one.step,
        asked_at=one.asked_at,
        kind=one.kind,
        id=f"q{one.id}",
        step_id=one.step_id,
        subject=one.subject,
    )
