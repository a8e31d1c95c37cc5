"""Answers: every verb does what its table says, once, with name and reason, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.domain import Capability, Order, Quantity, Reading, Result
from orchestrator.errors import Effect, Fault, IllegalTransition, StoreError
from orchestrator.execution.answers import VERBS, answer, questions
from orchestrator.execution.raw import pack
from orchestrator.record.states import AttemptState, CampaignState, StepState, TrialState
from orchestrator.record.store import CampaignStore
from tests.crash.world import NAME, new_store
from tests.test_executor import FIRE, Kiln, carry, good

ADA: dict[str, Any] = {"who": "Ada", "reason": "seen at the kiln"}
VALUES = {"strength": Quantity(150.0, "MPa"), "shrinkage": Quantity(5.0, "percent")}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[CampaignStore]:
    """A store with two planned trials."""
    made = new_store(tmp_path / "c.db", [FIRE], [800.0, 900.0])
    yield made
    made.close()


def capability() -> Capability:
    """What the kiln declares."""
    return asyncio.run(Kiln().describe()).capability(None)


def unknown(store: CampaignStore) -> str:
    """Leave trial 1 UNKNOWN; return the question."""
    carry(store, Kiln(Fault("smoke")), 1)
    return questions(store, NAME)[0].id


def held(store: CampaignStore) -> str:
    """Leave trial 1 HELD, its strength out of the declared range; return the question."""
    step = store.trial(NAME, 1).steps[0]
    fence = store.claim(step.id, owner="test")
    order = Order("", "fire", {"temperature": Quantity(800.0, "degC")})
    attempt = store.intent(step.id, fence=fence, order=order.to_json(), instrument="kiln", slots=1, cost=0.0)
    strong = (Reading("strength", 2000.0, "MPa"), Reading("shrinkage", 5.0, "percent"))
    result: Result = good(Order.from_json(attempt.order), readings=strong, attachments=())
    raw = store.raw.put(pack(result)[0])
    store.advance(attempt.id, AttemptState.MEASURED, raw_sha256=raw)
    store.advance(attempt.id, AttemptState.HELD, effect=Effect.DONE.value, note="too strong")
    return questions(store, NAME)[0].id


@pytest.mark.parametrize(
    ("verb", "attempt", "trial"),
    [
        ("retry", AttemptState.NOT_STARTED, TrialState.PLANNED),
        ("done_by_hand", AttemptState.RECORDED, TrialState.COMPLETED),
        ("skip", AttemptState.FAILED, TrialState.ABANDONED),
        ("discard", AttemptState.FAILED, TrialState.FAILED),
        ("out_of_service", AttemptState.UNKNOWN, TrialState.RUNNING),
        ("abort", AttemptState.UNKNOWN, TrialState.RUNNING),
    ],
)
def test_every_answer_to_an_unknown_attempt(
    store: CampaignStore, verb: str, attempt: AttemptState, trial: TrialState
) -> None:
    """Each verb ends where its table says; name and reason stand in an event; only a failure is evidence."""
    asked = unknown(store)
    answer(store, NAME, asked, verb, **ADA, values=VALUES, capability=capability())
    assert store.attempts(NAME)[0].state is attempt
    assert store.trial(NAME, 1).state is trial
    assert any(event.actor == "Ada" and "seen at the kiln" in event.note for event in store.events(NAME))
    assert len(store.dataset(NAME).rows) == {"done_by_hand": 2, "discard": 1}.get(verb, 0)
    assert ("kiln" in store.out_of_service(NAME)) == (verb == "out_of_service")
    assert (store.campaign(NAME).state is CampaignState.STOPPED) == (verb == "abort")
    assert store.verify(NAME) == []
    assert set(VERBS["unknown"]) == {"retry", "done_by_hand", "skip", "discard", "out_of_service", "abort"}


@pytest.mark.parametrize(
    ("verb", "state", "strength"),
    [
        ("approve", TrialState.COMPLETED, 2000.0),
        ("done_by_hand", TrialState.COMPLETED, 150.0),
        ("retry", TrialState.PLANNED, None),
        ("skip", TrialState.ABANDONED, None),
        ("discard", TrialState.FAILED, None),
    ],
)
def test_every_answer_to_a_held_result(
    store: CampaignStore, verb: str, state: TrialState, strength: float | None
) -> None:
    """A held result is recorded as it came only where a person approves it."""
    asked = held(store)
    values = VALUES if verb == "done_by_hand" else None
    answer(store, NAME, asked, verb, **ADA, values=values, capability=capability())
    assert store.trial(NAME, 1).state is state
    found = [one.value for one in store.measurements(NAME) if one.property == "strength"]
    assert found == ([] if strength is None else [strength])
    assert store.campaign(NAME).spent.trials == 1
    assert store.verify(NAME) == []


def test_an_answer_needs_a_name_a_fitting_verb_and_an_open_question(store: CampaignStore) -> None:
    """What is wrong with an answer is said, and nothing changes."""
    asked = unknown(store)
    with pytest.raises(StoreError, match="name of the person"):
        answer(store, NAME, asked, "retry", who=" ", reason="cold")
    with pytest.raises(StoreError, match="answers are: retry, done_by_hand"):
        answer(store, NAME, asked, "approve", **ADA)
    with pytest.raises(StoreError, match="open questions are: a1"):
        answer(store, NAME, "q7", "retry", **ADA)
    with pytest.raises(StoreError, match="needs the capability"):
        answer(store, NAME, asked, "done_by_hand", **ADA, values=VALUES)
    assert store.attempts(NAME)[0].state is AttemptState.UNKNOWN


def test_a_stored_question_is_asked_once_and_answered_once(store: CampaignStore) -> None:
    """Asking again gives the same question; a refusal gives the trial up; a second answer is refused."""
    step = store.trial(NAME, 1).steps[0]
    first = store.ask(NAME, "approval", "above 700 degC", trial=1, step_id=step.id, instrument="kiln", subject="t")
    assert first == store.ask(NAME, "approval", "asked anew", trial=1, step_id=step.id, instrument="kiln", subject="t")
    question = questions(store, NAME)[0]
    assert (question.kind, question.trial, question.step, question.label) == ("approval", 1, "fire", "800 degC")
    assert "above 700 degC" in str(question)
    answer(store, NAME, question, "refuse", **ADA)
    assert store.trial(NAME, 1).state is TrialState.ABANDONED
    assert store.trial(NAME, 1).steps[0].state is StepState.CANCELLED
    with pytest.raises(IllegalTransition, match="answered by Ada"):
        store.reply(NAME, first, "approve", actor="Bob", reason="no")
    assert [(one.verb, one.by) for one in store.asked(NAME, answered=True)] == [("refuse", "Ada")]


def test_an_instrument_goes_out_of_service_and_returns(store: CampaignStore) -> None:
    """The service question brings it back; the record keeps since, reason and by."""
    assert store.take_out_of_service(NAME, "kiln", cause="fault", reason="smoke", actor="matloop")
    assert not store.take_out_of_service(NAME, "kiln", cause="fault", reason="smoke", actor="matloop")
    out = store.out_of_service(NAME)["kiln"]
    assert (out.cause, out.reason, out.by, out.passing) == ("fault", "smoke", "matloop", False)
    store.ask(NAME, "service", "smoke", instrument="kiln")
    answer(store, NAME, questions(store, NAME)[0], "retry", **ADA)
    assert store.out_of_service(NAME) == {}
    assert questions(store, NAME) == []


def test_doubted_trials_teach_nothing_until_a_person_trusts_them(store: CampaignStore) -> None:
    """The numbers stay in the record; the dataset leaves them out while they are doubted."""
    carry(store, Kiln(), 1, 2)
    store.doubt(NAME, [1], cause="reference", reason="the reference was off")
    assert store.doubted(NAME) == {1: "the reference was off"}
    assert {row.trial for row in store.dataset(NAME).rows} == {2}
    assert len(store.measurements(NAME)) == 4
    store.ask(NAME, "doubt", "the reference was off", subject="1")
    answer(store, NAME, questions(store, NAME)[0], "approve", **ADA)
    assert {row.trial for row in store.dataset(NAME).rows} == {1, 2}
