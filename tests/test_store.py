"""Campaigns, decisions, trials and results, on SQLite and on PostgreSQL."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from orchestrator.domain import Candidate, Crystal, DecisionSummary, DerivedValue, FitReport, Outcome, Proposal, Quality
from orchestrator.errors import Damaged, IllegalTransition, StoreError
from orchestrator.record import tables
from orchestrator.record.states import AttemptState, CampaignState, StepState, TrialState
from orchestrator.record.store import CampaignStore
from tests.records import (
    ONE_STEP,
    TWO_STEPS,
    begin,
    candidate,
    carry_out,
    config,
    decide,
    measured,
    number,
    start,
)

CRYSTAL = Crystal(((3.0, 0.0, 0.0), (0.0, 3.0, 0.0), (0.0, 0.0, 3.0)), ("Na", "Cl"), ((0, 0, 0), (0.5, 0.5, 0.5)))


def reopened(store: CampaignStore, where: str) -> CampaignStore:
    """Close a store and open it anew, as another process would."""
    store.close()
    return CampaignStore.open(where, create=False)


# --- campaigns ------------------------------------------------------------------------------------------------------


def test_a_campaign_survives_reopening(store: CampaignStore, where: str) -> None:
    """What was created is read back equal by another process."""
    made = store.create_campaign(config(seed=2**61), file="a.yaml", actor="Ada")
    store.set_link("demo", "prefect_flow_run_id", "1")
    store.set_link("demo", "prefect_flow_run_id", "2")
    again = reopened(store, where)
    found = again.campaign("demo")
    assert found.config == config(seed=2**61).snapshot()
    assert (found.seed, found.file, found.revision, found.state) == (2**61, "a.yaml", 1, CampaignState.ACTIVE)
    assert found.uuid == made.uuid
    assert found.links == {"prefect_flow_run_id": "2"}
    assert [info.name for info in again.campaigns()] == ["demo"]
    again.close()


def test_names_are_unique_and_suggested(store: CampaignStore) -> None:
    """A taken name says how to go on, and an unknown one names the nearest."""
    begin(store, "perovskites")
    with pytest.raises(StoreError, match=r"resume perovskites.*--name"):
        begin(store, "perovskites")
    with pytest.raises(StoreError, match="did you mean perovskites"):
        store.campaign("perovskite")


def test_a_new_campaign_needs_no_cap_of_trials(store: CampaignStore) -> None:
    """A budget of hours alone leaves the trials unlimited."""
    begin(store, budget={"hours": 1.0})
    for trial in decide(store, "demo", [1, 2, 3]):
        carry_out(store, trial, 1.0)
    assert store.campaign("demo").spent.trials == 3


def test_amend_stores_a_revision_and_moves_the_caps(store: CampaignStore) -> None:
    """The newest revision counts, the old ones stay, and a cap below what is spent is refused."""
    begin(store, budget={"trials": 2})
    for trial in decide(store, "demo", [1, 2]):
        carry_out(store, trial, 1.0)
    with pytest.raises(StoreError, match="below the 2"):
        store.amend("demo", config(budget={"trials": 1}), actor="Ada")
    info = store.amend("demo", config(budget={"trials": 3}), actor="Ada")
    assert (info.revision, info.config["budget"]["trials"]) == (2, 3)
    assert [r["config"]["budget"]["trials"] for r in store.revisions("demo")] == [2, 3]
    start(store, decide(store, "demo", [3])[0].steps[0].id)


def test_states_follow_the_pairs(store: CampaignStore) -> None:
    """A stopped campaign is not paused; asking for the state it has is harmless."""
    begin(store)
    store.set_state("demo", CampaignState.STOPPED, actor="Ada", reason="enough")
    store.set_state("demo", CampaignState.STOPPED, actor="Ada", reason="enough")
    with pytest.raises(IllegalTransition, match="STOPPED; it cannot become PAUSED"):
        store.set_state("demo", CampaignState.PAUSED, actor="Ada", reason="")
    assert store.campaign("demo").state_reason == "enough"


def test_hours_add_up(store: CampaignStore) -> None:
    """Ticks are summed; a negative or infinite one is refused."""
    begin(store)
    for _ in range(3):
        store.tick("demo", 0.25)
    assert store.campaign("demo").spent.hours == 0.75
    for wrong in (-1.0, math.nan, math.inf):
        with pytest.raises(StoreError):
            store.tick("demo", wrong)
    assert store.verify() == []


def test_events_tell_the_history(store: CampaignStore) -> None:
    """Events are numbered without gaps, name who did what, and can be read from a point on."""
    begin(store)
    [trial] = decide(store, "demo", [1])
    carry_out(store, trial, 1.0)
    store.add_event("demo", kind="notice", actor="Bob\0", note="hello \ud800")
    events = store.events("demo")
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    kinds = [event.kind for event in events]
    assert kinds == ["created", "decision", "claim", "intent", "measured", "record", "notice"]
    record = events[5]
    assert (record.trial, record.step, record.frm, record.to) == (1, trial.steps[0].id, "MEASURED", "RECORDED")
    assert store.events("demo", since=6) == events[6:]
    assert "\0" not in events[6].actor


# --- decisions and trials -------------------------------------------------------------------------------------------


def test_a_decision_is_read_back_equal(store: CampaignStore, where: str) -> None:
    """Proposals with structures, predictions and odd details come back; NumPy numbers and NaN are made plain."""
    begin(store)
    one = Candidate.make(label="NaCl", crystal=CRYSTAL, crystal_key="k", attributes={"t": np.float32(0.5)})
    details = {"rank": np.int64(1), "bad": math.nan, "list": np.arange(2)}
    proposal = Proposal(one, "greedy", "best", score=1.5, mean={"y": -1.0}, sd={"y": 0.1}, details=details)
    summary = DecisionSummary(best=1.0, probability_best=math.nan, expected_gain=0.1, open_candidates=4)
    fresh = store.record_decision(
        "demo", number=1, policy="greedy", purpose="acquisition", proposals=[proposal], seen=[3, -1, 2],
        seen_sha256="a" * 64, pending=["p"], closed_sha256="b" * 64, fit=None, seed=2**62, device="cpu", threads=2,
        seconds=0.5, summary=summary, steps=TWO_STEPS,
    )  # fmt: skip
    again = reopened(store, where)
    [decision] = again.decisions("demo")
    assert decision.seen == (-1, 2, 3)
    assert (decision.pending, decision.seed, decision.trials) == (("p",), 2**62, (1,))
    assert decision.summary == DecisionSummary(best=1.0, probability_best=None, expected_gain=0.1, open_candidates=4)
    [found] = decision.proposals
    assert found.candidate.crystal == CRYSTAL
    assert found.candidate.id == one.id
    assert found.details == {"rank": 1, "bad": None, "list": [0, 1]}
    assert (found.score, found.mean, found.sd) == (1.5, {"y": -1.0}, {"y": 0.1})
    assert again.trials("demo") == fresh
    assert [step.name for step in fresh[0].steps] == ["fire", "scan"]
    again.close()


def test_a_decision_must_be_the_next_one(store: CampaignStore) -> None:
    """Two processes that decide at once cannot both be stored, and a refused decision leaves nothing."""
    begin(store)
    decide(store, "demo", [1])
    with pytest.raises(StoreError, match="2 is expected"):
        decide(store, "demo", [2], number=1)
    with pytest.raises(StoreError, match="Out of range float"):
        decide(store, "demo", [], proposals=[Proposal(candidate(3), "p", "", score=math.nan)])
    assert len(store.trials("demo")) == 1
    assert store.verify() == []


def test_a_candidate_is_measured_again_only_on_purpose(store: CampaignStore) -> None:
    """A repeat by mistake is refused; one that was asked for or follows a failure gets the next replicate."""
    begin(store)
    [first] = decide(store, "demo", [1])
    with pytest.raises(StoreError, match="has trial 1 already"):
        decide(store, "demo", [1])
    [second] = decide(store, "demo", [1], purpose="asked")
    again = Proposal(candidate(1), "p", "noise", details={"replicate": True})
    [third] = decide(store, "demo", [], proposals=[again])
    assert [trial.replicate for trial in (first, second, third)] == [0, 1, 2]
    [failing] = decide(store, "demo", [2])
    store.end_attempt(start(store, failing.steps[0].id).id, AttemptState.FAILED, retry=False, reason="broke")
    assert decide(store, "demo", [2])[0].replicate == 1


def test_trials_can_be_asked_by_state(store: CampaignStore) -> None:
    """Filtering by state gives the same as reading all and choosing."""
    begin(store)
    trials = decide(store, "demo", [1, 2, 3, 4])
    carry_out(store, trials[0], 1.0)
    start(store, trials[1].steps[0].id)
    store.end_attempt(start(store, trials[2].steps[0].id).id, AttemptState.FAILED, retry=False, reason="broke")
    every = store.trials("demo")
    assert [t.state for t in every] == [TrialState.COMPLETED, TrialState.RUNNING, TrialState.FAILED, TrialState.PLANNED]
    for states in ({TrialState.PLANNED, TrialState.RUNNING}, {TrialState.FAILED}, set(TrialState)):
        assert store.trials("demo", states=states) == [t for t in every if t.state in states]
    assert every[2].reason == "broke"
    assert every[0].ended_at is not None
    assert store.trial("demo", 2) == every[1]
    with pytest.raises(StoreError, match="no trial 9"):
        store.trial("demo", 9)


def test_a_veto_cancels_what_has_not_started(store: CampaignStore) -> None:
    """Planned and claimed trials of the candidate are abandoned, running ones go on, and a claim is worth nothing."""
    begin(store)
    [planned, claimed, running] = decide(store, "demo", [1, 2, 3])
    fence = store.claim(claimed.steps[0].id, owner="w")
    attempt = start(store, running.steps[0].id)
    for x in (1, 2, 3):
        store.veto("demo", candidate(x).id, actor="Ada", reason="poisonous")
        store.veto("demo", candidate(x).id, actor="Ada", reason="poisonous")
    assert store.vetoes("demo") == {candidate(x).id for x in (1, 2, 3)}
    states = [trial.state for trial in store.trials("demo")]
    assert states == [TrialState.ABANDONED, TrialState.ABANDONED, TrialState.RUNNING]
    assert "poisonous" in store.trial("demo", planned.number).reason
    with pytest.raises(IllegalTransition):
        store.intent(claimed.steps[0].id, fence=fence, order={}, instrument="toy", slots=1, cost=0)
    store.record(measured(store, attempt).id, [number(1.0)], structures={}, applied={})
    assert store.verify() == []


# --- fits -----------------------------------------------------------------------------------------------------------


def test_a_fit_is_kept_with_its_files(store: CampaignStore, tmp_path: Path, where: str) -> None:
    """The report comes back, NaN included; the files are a copy, and a changed file is noticed."""
    begin(store)
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "weights").write_bytes(b"123")
    report = FitReport(3, "d" * 64, metrics={"y": {"mae": np.float64(0.1), "r2": math.nan}}, notes=("a",), seconds=2.0)
    given: dict[str, Any] = {
        "surrogate": "gp",
        "seed": 1,
        "seen": [2, 1],
        "report": report,
        "folder": tmp_path / "state",
    }
    first = store.record_fit("demo", number=1, parent=None, **given)
    second = store.record_fit("demo", number=2, parent=first.id, **given)
    with pytest.raises(StoreError, match="3 is expected"):
        store.record_fit("demo", number=5, parent=None, **given)
    again = reopened(store, where)
    assert [(fit.number, fit.parent, fit.seen) for fit in again.fits("demo")] == [
        (1, None, (1, 2)),
        (2, first.id, (1, 2)),
    ]
    found = again.fits("demo")[0].report
    assert found.metrics["y"]["mae"] == 0.1
    assert math.isnan(found.metrics["y"]["r2"])
    folder = again.fit_folder(second.id)
    assert (folder / "weights").read_bytes() == b"123"
    (folder / "weights").chmod(0o644)
    (folder / "weights").write_bytes(b"124")
    with pytest.raises(Damaged, match="restore"):
        again.fit_folder(second.id)
    again.close()


# --- results --------------------------------------------------------------------------------------------------------


def test_the_dataset_holds_values_and_failures(store: CampaignStore, where: str) -> None:
    """Good values of finished trials, failures with their reason, applied set-points merged over the steps."""
    begin(store)
    done, failed, running = decide(store, "demo", [1, 2, 3], steps=TWO_STEPS)
    for step, applied in zip(done.steps, ({"x": 1.25, "t": 5.0}, {"x": 1.5, "gas": "argon"}), strict=True):
        attempt = measured(store, start(store, step.id))
        numbers = [number(float(step.index), f"p{step.index}"), number(9, "doubtful", quality=Quality.UNCERTAIN)]
        store.record(attempt.id, numbers, structures={}, applied=applied)
    store.record(measured(store, start(store, failed.steps[0].id)).id, [number(7.0, "p0")], structures={}, applied={})
    store.end_attempt(start(store, failed.steps[1].id).id, AttemptState.FAILED, retry=False, reason="melted")
    store.record(measured(store, start(store, running.steps[0].id)).id, [number(8.0, "p0")], structures={}, applied={})
    dataset = store.dataset("demo")
    rows = [(row.trial, row.property, row.value, row.outcome, row.reason) for row in dataset.rows]
    assert rows == [
        (1, "p0", 0.0, Outcome.MEASURED, ""),
        (1, "p1", 1.0, Outcome.MEASURED, ""),
        (2, "", None, Outcome.FAILED, "melted"),
        (2, "p0", 7.0, Outcome.MEASURED, ""),
    ]
    assert dataset.rows[0].applied == {"x": 1.5, "t": 5.0, "gas": "argon"}
    assert dataset.rows[0].applied_candidate.parameters == {"x": 1.5}
    again = reopened(store, where)
    assert again.dataset("demo") == dataset
    assert again.dataset("demo").sha256 == dataset.sha256
    again.close()


def test_the_dataset_converts_units(store: CampaignStore) -> None:
    """Values and standard errors come in the unit that is asked for."""
    begin(store)
    [trial] = decide(store, "demo", [1])
    carry_out(store, trial, 2.0)
    [row] = store.dataset("demo", units={"y": "meV"}).rows
    assert row.value == pytest.approx(2000.0)
    assert row.std_error == pytest.approx(10.0)


def test_derived_values_supersede_each_other(store: CampaignStore) -> None:
    """Only the newest version counts; what an earlier decision saw can still be read; no value is a failure."""
    begin(store)
    for trial in decide(store, "demo", [1, 2, 3]):
        step = trial.steps[0]
        store.record(measured(store, start(store, step.id)).id, [number(1.0, "e")], structures={}, applied={})
    first = {1: DerivedValue(0.1, 0.01), 2: DerivedValue(0.2), 3: DerivedValue(None, reason="no hull")}
    for _ in range(2):
        store.record_derived("demo", property="y", unit="eV", version="hull/1", values=first)
    old = store.dataset("demo")
    assert [(r.trial, r.value) for r in old.rows if r.property == "y"] == [(1, 0.1), (2, 0.2)]
    assert [(r.trial, r.reason) for r in old.failures] == [(3, "y: no hull")]
    second = {n: DerivedValue(n * 1.0) for n in (1, 2, 3)}
    store.record_derived("demo", property="y", unit="eV", version="hull/2", values=second)
    new = store.dataset("demo")
    assert [r.value for r in new.rows if r.property == "y"] == [1.0, 2.0, 3.0]
    assert not new.failures
    tokens = [row.token for row in old.rows]
    assert store.dataset("demo", seen=tokens).sha256 == old.sha256
    store.record_derived("demo", property="y", unit="eV", version="hull/1", values=first)
    assert store.dataset("demo").sha256 == old.sha256
    with pytest.raises(StoreError, match="trials \\[9\\]"):
        store.record_derived("demo", property="y", unit="eV", version="hull/3", values={9: DerivedValue(1.0)})
    with pytest.raises(StoreError, match="finite"):
        store.record_derived("demo", property="y", unit="eV", version="hull/3", values={1: DerivedValue(math.nan)})
    assert store.verify() == []


def test_outputs_feed_later_steps(store: CampaignStore) -> None:
    """Numbers and structures of recorded steps are read by step name; derived functions see completed trials."""
    begin(store)
    done, half = decide(store, "demo", [1, 2], steps=TWO_STEPS)
    carry_out(store, done, 5.0, structures={"relaxed": CRYSTAL})
    attempt = measured(store, start(store, half.steps[0].id))
    store.record(attempt.id, [number(4.0, "mass", unit="g")], structures={}, applied={})
    outputs = store.outputs("demo", half.number)
    assert list(outputs) == ["fire"]
    assert outputs["fire"].numbers == {"mass": (4.0, "g")}
    [record] = store.trial_records("demo")
    assert record.trial == done.number
    assert record.measurements["scan"]["y"].value == 5.0
    assert record.structures["fire"]["relaxed"] == CRYSTAL
    assert [one.property for one in store.measurements("demo", trial=half.number)] == ["mass"]


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf, 1e301])
def test_no_number_that_is_none(store: CampaignStore, wrong: float) -> None:
    """NaN, infinities and overflows are refused by the store and by the database, and the attempt stays as it was."""
    begin(store)
    [trial] = decide(store, "demo", [1])
    attempt = measured(store, start(store, trial.steps[0].id))
    with pytest.raises(StoreError, match="finite"):
        store.record(attempt.id, [number(1.0, "a"), number(wrong)], structures={}, applied={})
    assert store.attempt(attempt.id).state is AttemptState.MEASURED
    assert store.measurements("demo") == []
    store.record(attempt.id, [number(1.0)], structures={}, applied={})
    with store._db.read() as connection:
        row = dict(connection.execute(tables.measurement.select()).one()._mapping)
    row.update(id=99, property="other")
    with store._db.engine.connect() as connection, connection.begin() as transaction:
        connection.execute(tables.measurement.insert(), row)  # nothing but the number is wrong with the next one
        transaction.rollback()
    with pytest.raises(DBAPIError), store._db.engine.connect() as connection, connection.begin():
        connection.execute(tables.measurement.insert(), {**row, "value": wrong})


# --- history --------------------------------------------------------------------------------------------------------


def test_history_is_append_only(store: CampaignStore, tmp_path: Path) -> None:
    """No UPDATE of history, no DELETE of anything, no REPLACE and no TRUNCATE passes, not even by plain SQL."""
    begin(store)
    [trial, planned] = decide(store, "demo", [1, 2], steps=ONE_STEP)
    carry_out(store, trial, 1.0)
    store.veto("demo", "f" * 64, actor="Ada", reason="no")
    statements = [f"DELETE FROM {table.name}" for table in tables.STATE]  # noqa: S608  names of our own
    for name in ("event", "measurement", "candidate", "proposal", "decision", "revision", "veto"):
        statements += [f"DELETE FROM {name}", f"UPDATE {name} SET row_sha = 'x'"]  # noqa: S608
    statements += ["UPDATE attempt SET dispatch_key = 'x'", "UPDATE attempt SET note = 'x' WHERE state = 'RECORDED'"]
    if store._db.engine.dialect.name == "sqlite":
        statements += ["INSERT OR REPLACE INTO event SELECT * FROM event LIMIT 1"]
    else:
        statements += ["TRUNCATE event", "TRUNCATE campaign CASCADE"]
    before = store.events("demo")
    for statement in statements:
        with (
            pytest.raises(DBAPIError, match="matloop:"),
            store._db.engine.connect() as connection,
            connection.begin(),
        ):
            connection.execute(text(statement))
    assert store.events("demo") == before
    assert store.trial("demo", planned.number).steps[0].state is StepState.PLANNED
    assert store.verify() == []
