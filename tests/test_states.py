"""The state machines, as sets, as triggers, and as the one function that derives a trial's state."""

from __future__ import annotations

import itertools
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from orchestrator.record.states import (
    ATTEMPT_PAIRS,
    CAMPAIGN_PAIRS,
    OPEN_ATTEMPT,
    SLOT_HOLDING,
    STEP_PAIRS,
    AttemptState,
    CampaignState,
    StepState,
    TrialState,
    trial_state,
)
from orchestrator.record.store import CampaignStore
from tests.records import begin, decide, start

S = StepState


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ((S.PLANNED, S.PLANNED), TrialState.PLANNED),
        ((S.CLAIMED, S.PLANNED), TrialState.RUNNING),
        ((S.RECORDED, S.PLANNED), TrialState.RUNNING),
        ((S.RECORDED, S.RECORDED), TrialState.COMPLETED),
        ((S.FAILED, S.CANCELLED), TrialState.FAILED),
        ((S.CANCELLED, S.CANCELLED), TrialState.ABANDONED),
    ],
)
def test_trial_state(steps: tuple[StepState, ...], expected: TrialState) -> None:
    """A trial's state follows from its steps alone."""
    assert trial_state(steps) is expected


def test_nothing_leaves_a_closed_state() -> None:
    """What is recorded, failed, cancelled or never started stays so; every other attempt is open and can go on."""
    assert {a for a, _ in ATTEMPT_PAIRS} == set(OPEN_ATTEMPT)
    assert {a for a, _ in STEP_PAIRS} == {S.PLANNED, S.CLAIMED, S.OPEN}
    assert set(SLOT_HOLDING) < set(OPEN_ATTEMPT)
    assert {a for a, _ in CAMPAIGN_PAIRS} == set(CampaignState)


MACHINES: dict[str, tuple[Any, Any, Any]] = {
    "step": (StepState, STEP_PAIRS, {S.PLANNED, S.CLAIMED, S.OPEN}),
    "attempt": (AttemptState, ATTEMPT_PAIRS, set(OPEN_ATTEMPT)),
    "campaign": (CampaignState, CAMPAIGN_PAIRS, set(CampaignState)),
}


@pytest.mark.parametrize("table", sorted(MACHINES))
def test_triggers_are_the_sets(store: CampaignStore, table: str) -> None:
    """For every pair of states, a plain UPDATE passes exactly if the pair is legal, or nothing changes while open."""
    states, pairs, open_states = MACHINES[table]
    begin(store)
    [trial] = decide(store, "demo", [1])
    start(store, trial.steps[0].id)
    with store._db.engine.connect() as connection, connection.begin():
        # give every row one state after another behind the triggers' back, as only a test may
        for before, after in itertools.product(states, states):
            outer = connection.begin_nested()
            _force(connection, table, before)
            inner = connection.begin_nested()
            update = text(f"UPDATE {table} SET state = :state")  # noqa: S608  names of our own
            if (before, after) in pairs or (before == after and before in open_states):
                connection.execute(update, {"state": after.value})
            else:
                with pytest.raises(DBAPIError, match="matloop:"):
                    connection.execute(update, {"state": after.value})
            if inner.is_active:
                inner.rollback()
            outer.rollback()


def _force(connection: Any, table: str, state: Any) -> None:
    raw = ", raw_sha256 = 'x'" if table == "attempt" else ""
    update = f"UPDATE {table} SET state = '{state}'{raw}"  # noqa: S608  names of our own
    if connection.dialect.name == "postgresql":
        connection.execute(text(f"ALTER TABLE {table} DISABLE TRIGGER USER"))
        connection.execute(text(update))
        connection.execute(text(f"ALTER TABLE {table} ENABLE TRIGGER USER"))
        return
    query = text("SELECT name, sql FROM sqlite_master WHERE type = 'trigger' AND tbl_name = :table")
    triggers = connection.execute(query, {"table": table}).all()
    for name, _ in triggers:
        connection.execute(text(f"DROP TRIGGER {name}"))
    connection.execute(text(update))
    for _, sql in triggers:
        connection.exec_driver_sql(sql)


class Machine(RuleBasedStateMachine):
    """Rows led through random walks by plain UPDATEs stay where the model says."""

    @initialize()
    def begin(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.store = CampaignStore.open(Path(self.folder.name) / "campaigns.db")
        begin(self.store)
        [trial] = decide(self.store, "demo", [1])
        start(self.store, trial.steps[0].id)
        self.model: dict[str, Any] = {"step": S.OPEN, "attempt": AttemptState.INTENT, "campaign": CampaignState.ACTIVE}

    @rule(table=st.sampled_from(sorted(MACHINES)), data=st.data())
    def move(self, table: str, data: st.DataObject) -> None:
        states, pairs, open_states = MACHINES[table]
        before = self.model[table]
        after = data.draw(st.sampled_from(list(states)))
        legal = (before, after) in pairs or (before == after and before in open_states)
        raw = ", raw_sha256 = 'x'" if table == "attempt" else ""
        statement = text(f"UPDATE {table} SET state = :state{raw}")  # noqa: S608  names of our own
        refusal = nullcontext() if legal else pytest.raises(DBAPIError, match="matloop:")
        with refusal, self.store._db.engine.connect() as connection, connection.begin():
            connection.execute(statement, {"state": after.value})
        if legal:
            self.model[table] = after

    @invariant()
    def agrees(self) -> None:
        with self.store._db.read() as connection:
            for table, state in self.model.items():
                assert connection.execute(text(f"SELECT state FROM {table}")).scalar_one() == state  # noqa: S608

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()
            self.folder.cleanup()


Machine.TestCase.settings = settings(
    max_examples=8, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
TestMachine = Machine.TestCase
