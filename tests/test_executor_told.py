"""Results told by people go the way of an instrument's, and a slip of the pen changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.domain import Objective, Outcome, Problem, Quantity
from orchestrator.errors import BadData, BudgetSpent, Stopped, StoreError
from orchestrator.execution.told import tell, tell_failed
from orchestrator.record.crash_points import install
from orchestrator.record.states import AttemptState, CampaignState, TrialState
from orchestrator.record.store import CampaignStore
from tests.crash.world import NAME, new_store

PROBLEM = Problem(objectives=(Objective("strength", "MPa", "maximize"), Objective("shrinkage", "percent", "minimize")))
VALUES = {"strength": Quantity(0.2, "GPa"), "shrinkage": Quantity(0.1, "dimensionless")}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[CampaignStore]:
    """Two trials to be measured by hand, with a budget of two."""
    made = new_store(tmp_path / "c.db", [], [800.0, 900.0], {"trials": 2})
    yield made
    made.close()


def test_told_values_are_recorded_in_the_objectives_units(store: CampaignStore) -> None:
    """Units are converted, name and raw bytes are kept, and the budget counts the trial."""
    tell(store, NAME, 1, VALUES, who="Ada", problem=PROBLEM, applied={"temperature": 805.0})
    found = {m.property: m for m in store.measurements(NAME)}
    assert {name: (m.value, m.unit) for name, m in found.items()} == {
        "strength": (pytest.approx(200.0), "MPa"),
        "shrinkage": (pytest.approx(10.0), "percent"),
    }
    assert b"told by Ada" in store.raw.get(found["strength"].raw_sha256 or "")
    assert store.trial(NAME, 1).state is TrialState.COMPLETED
    assert store.dataset(NAME).rows[0].applied["temperature"] == 805.0
    assert store.campaign(NAME).spent.trials == 1
    assert store.verify() == []


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ({"strength": VALUES["strength"]}, "shrinkage is missing"),
        ({**VALUES, "strenght": Quantity(1, "MPa")}, "did you mean 'strength'"),
        ({**VALUES, "strength": Quantity(1, "kelvin")}, "different things"),
        ({**VALUES, "strength": Quantity(float("nan"), "MPa")}, "finite"),
    ],
)
def test_a_slip_of_the_pen_changes_nothing(store: CampaignStore, values: dict[str, Quantity], names: str) -> None:
    """What is wrong is said, nothing is written, and the same trial can be told again."""
    with pytest.raises(BadData, match=names):
        tell(store, NAME, 1, values, who="Ada", problem=PROBLEM)
    assert store.attempts(NAME) == []
    tell(store, NAME, 1, VALUES, who="Ada", problem=PROBLEM)
    assert store.trial(NAME, 1).state is TrialState.COMPLETED


def test_a_trial_is_told_once(store: CampaignStore) -> None:
    """A second result for the same trial is refused, and the first one stands."""
    tell(store, NAME, 1, VALUES, who="Ada", problem=PROBLEM)
    with pytest.raises(StoreError, match="told already"):
        tell(store, NAME, 1, {**VALUES, "strength": Quantity(1, "MPa")}, who="Bob", problem=PROBLEM)
    with pytest.raises(StoreError, match="told already"):
        tell_failed(store, NAME, 1, who="Bob", reason="cracked")
    assert [m.value for m in store.measurements(NAME) if m.property == "strength"] == [pytest.approx(200.0)]


def test_a_failure_needs_a_reason_and_is_evidence(store: CampaignStore) -> None:
    """A failed trial stands in the dataset with its reason."""
    with pytest.raises(StoreError, match="why"):
        tell_failed(store, NAME, 1, who="Ada", reason=" ")
    tell_failed(store, NAME, 1, who="Ada", reason="the pellet cracked")
    rows = store.dataset(NAME).rows
    assert [(row.outcome, row.value) for row in rows] == [(Outcome.FAILED, None)]
    assert "cracked" in rows[0].reason
    assert store.campaign(NAME).spent.trials == 1


@pytest.mark.parametrize("label", ["claim.after", "intent.after", "measured.after", "record.in_txn"])
def test_telling_goes_on_after_a_crash(store: CampaignStore, label: str) -> None:
    """A `tell` that was cut short is finished by telling again, without a second attempt."""

    class Crash(BaseException):
        """Stands for the death of the process."""

    def hook(reached: str) -> None:
        if reached == label:
            raise Crash

    remove = install(hook)
    with pytest.raises(Crash):
        tell(store, NAME, 1, VALUES, who="Ada", problem=PROBLEM)
    remove()
    tell(store, NAME, 1, VALUES, who="Ada", problem=PROBLEM)
    assert store.trial(NAME, 1).state is TrialState.COMPLETED
    assert [attempt.state for attempt in store.attempts(NAME)] == [AttemptState.RECORDED]
    assert len(store.measurements(NAME)) == 2


def test_stop_and_budget_hold_for_people_too(store: CampaignStore) -> None:
    """A stopped campaign and a spent budget refuse, and the trial stays open."""
    store.set_state(NAME, CampaignState.STOPPED, actor="Ada", reason="lunch")
    with pytest.raises(Stopped):
        tell(store, NAME, 1, VALUES, who="Ada", problem=PROBLEM)
    store.set_state(NAME, CampaignState.ACTIVE, actor="Ada", reason="back")
    tell(store, NAME, 1, VALUES, who="Ada", problem=PROBLEM)
    assert store.trial(NAME, 2).state is TrialState.PLANNED


def test_a_spent_budget_refuses(tmp_path: Path) -> None:
    """The trial beyond the cap is not recorded."""
    store = new_store(tmp_path / "c.db", [], [800.0, 900.0], {"trials": 1})
    tell(store, NAME, 2, VALUES, who="Ada", problem=PROBLEM)
    with pytest.raises(BudgetSpent):
        tell(store, NAME, 1, VALUES, who="Ada", problem=PROBLEM)
    assert store.trial(NAME, 1).state is TrialState.PLANNED
    store.close()


def test_an_instruments_trial_cannot_be_told(tmp_path: Path) -> None:
    """A trial with a procedure is measured by its instruments."""
    store = new_store(tmp_path / "c.db", [{"step": "fire", "instrument": "kiln"}], [800.0])
    with pytest.raises(StoreError, match="kiln"):
        tell(store, NAME, 1, VALUES, who="Ada", problem=PROBLEM)
    store.close()
