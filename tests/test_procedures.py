"""Procedures: conditions, repeats, waits, resources and samples, also over a restart."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from orchestrator.domain import Order, Outcome
from orchestrator.errors import BadData, OutOfStock, StoreError, TimedOut
from orchestrator.execution.answers import answer_discard
from orchestrator.execution.turns import Queue
from orchestrator.record.states import CampaignState, StepState, TrialState
from orchestrator.schedule.forecast import forecast
from orchestrator.schedule.shop import Operation
from tests.bench_lab import NAME, Device, carry, config_of, executor_of, store_of

WEIGH = {"step": "weigh", "instrument": "balance"}
TEST = {"step": "test", "instrument": "press"}


def steps(store: object, trial: int = 1) -> list[StepState]:
    """States of a trial's steps."""
    return [step.state for step in store.trial(NAME, trial).steps]  # type: ignore[attr-defined]


# --- conditions -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("when", "done"),
    [
        ({"from": "weigh.mass", "above": 2}, True),
        ({"from": "weigh.mass", "above": 3}, False),
        ({"from": "weigh.mass", "at_least": 3}, True),
        ({"from": "weigh.mass", "at_most": 0.003, "unit": "GPa"}, True),
        ({"from": "weigh.mass", "below": 0.003, "unit": "GPa"}, False),
        ({"from": "candidate.x", "equals": 5}, True),
        ([{"from": "candidate.x", "equals": 5}, {"from": "weigh.mass", "above": 9}], False),
    ],
)
def test_a_condition_decides(tmp_path: Path, when: object, done: bool) -> None:
    """A step whose condition does not hold is skipped, with the reason; the trial is completed and no failure."""
    config = config_of([WEIGH, {"step": "again", "instrument": "balance", "when": when}, TEST])
    store = store_of(tmp_path / "c.db", config, [5.0])
    balance, press = Device("mass", lambda _o, _n: 3.0), Device("strength")
    carry(executor_of(store, config, {"balance": balance, "press": press}), 1)
    trial = store.trial(NAME, 1)
    assert trial.state is TrialState.COMPLETED
    assert trial.ended_at is not None
    assert steps(store)[1] is (StepState.RECORDED if done else StepState.SKIPPED)
    assert len(balance.orders) == 1 + done
    assert len(press.orders) == 1
    assert done or "wanted" in trial.steps[1].reason
    assert store.verify(NAME) == []
    store.close()


def test_a_trial_without_its_value_tells_why(tmp_path: Path) -> None:
    """Where the step that measures the objective is skipped, the dataset says so: that is evidence too."""
    config = config_of([WEIGH, {**TEST, "when": {"from": "weigh.mass", "above": 2}}])
    store = store_of(tmp_path / "c.db", config, [1.0, 2.0])
    balance = Device("mass", lambda order, _n: 2 * order.settings["x"].value)
    carry(executor_of(store, config, {"balance": balance, "press": Device("strength")}), 1, 2)
    failed = [row for row in store.dataset(NAME).rows if row.outcome is Outcome.FAILED]
    assert [row.trial for row in failed] == [1]
    assert "weigh.mass is 2 MPa, and above 2 is wanted" in failed[0].reason
    store.close()


def test_a_condition_on_a_skipped_step_does_not_hold(tmp_path: Path) -> None:
    """What was skipped gave nothing, so that a condition on it skips the next step too."""
    again = {"step": "again", "instrument": "balance", "when": {"from": "weigh.mass", "above": 9}}
    config = config_of([WEIGH, again, {**TEST, "when": {"from": "again.mass", "above": 0}}])
    store = store_of(tmp_path / "c.db", config, [1.0])
    carry(executor_of(store, config, {"balance": Device("mass"), "press": Device("strength")}), 1)
    assert steps(store) == [StepState.RECORDED, StepState.SKIPPED, StepState.SKIPPED]
    assert "again.mass is not there" in store.trial(NAME, 1).steps[2].reason
    store.close()


# --- repeats --------------------------------------------------------------------------------------------------------


def test_repeats_are_averaged_with_their_scatter(tmp_path: Path) -> None:
    """Three orders, three rows with raw bytes of their own, one value with the standard error of the mean."""
    config = config_of([{**TEST, "repeat": 3}, {**WEIGH, "inputs": {"x": {"from": "test.strength"}}}])
    store = store_of(tmp_path / "c.db", config, [1.0])
    balance = Device("mass")
    press = Device("strength", lambda _o, n: (1.0, 2.0, 4.5)[n])
    carry(executor_of(store, config, {"press": press, "balance": balance}), 1)
    assert [step.name for step in store.trial(NAME, 1).steps] == ["test#1", "test#2", "test#3", "weigh"]
    assert len({order.key for order in press.orders}) == 3
    row = next(row for row in store.dataset(NAME).rows if row.property == "strength")
    assert row.value == pytest.approx(2.5)
    assert row.std_error == pytest.approx(math.sqrt(3.25 / 3))
    assert balance.orders[0].settings["x"].value == pytest.approx(2.5)
    assert [one.value for one in store.measurements(NAME) if one.property == "strength"] == [pytest.approx(2.5)]
    assert store.trial_records(NAME)[0].measurements["test"]["strength"].value == pytest.approx(2.5)
    assert store.dataset(NAME, seen=[row.token]).rows == (row,)
    assert store.verify(NAME) == []
    store.close()


# --- waits ----------------------------------------------------------------------------------------------------------


def test_a_wait_delays_the_next_step_only(tmp_path: Path) -> None:
    """The trial rests; its instrument and the other trial go on."""
    config = config_of([{**WEIGH, "wait": {"minutes": 30}}, TEST])
    store = store_of(tmp_path / "c.db", config, [1.0, 2.0])
    balance, press = Device("mass", seconds=60.0), Device("strength", seconds=60.0)
    took = carry(executor_of(store, config, {"balance": balance, "press": press}), 1, 2)
    assert balance.begun == pytest.approx([0.0, 60.0])
    assert press.begun == pytest.approx([1860.0, 1920.0])
    assert took == pytest.approx(1980.0)
    store.close()


def test_a_wait_goes_on_after_a_restart(tmp_path: Path) -> None:
    """Its end is stored: another process waits for the rest of it only, and for no more than the whole."""
    config = config_of([{**WEIGH, "wait": {"hours": 2}}, TEST])
    store = store_of(tmp_path / "c.db", config, [1.0])
    devices = {"balance": Device("mass"), "press": Device("strength")}
    made = executor_of(store, config, devices)
    step = store.trial(NAME, 1).steps[1]
    half = made.clock._start + 3600 * 1_000_000  # type: ignore[attr-defined]  # an hour after virtual time begins
    assert store.rest(step.id, until=half) == half
    assert store.rest(step.id, until=half + 5) == half
    assert carry(made, 1) == pytest.approx(3600.0)
    assert devices["press"].begun == pytest.approx([3600.0])
    store.close()


# --- resources ------------------------------------------------------------------------------------------------------


def test_a_stock_is_spent_and_the_campaign_pauses_when_it_is_empty(tmp_path: Path) -> None:
    """Too little left: nothing is sent, the campaign pauses and says what to refill; then it goes on."""
    config = config_of([{**TEST, "needs": {"argon": "2 L"}}])
    store = store_of(tmp_path / "c.db", config, [1.0, 2.0])
    lab = {"argon": {"stock": 3000, "unit": "mL", "alarm": 1500}}
    press = Device("strength")
    carry(executor_of(store, config, {"press": press}, lab), 1, 2)
    assert len(press.orders) == 1
    assert store.resources()[0].level == pytest.approx(1000.0)
    info = store.campaign(NAME)
    assert info.state is CampaignState.PAUSED
    assert "2000 mL of 'argon' are needed, and 1000 mL are left" in info.state_reason
    assert any(event.kind == "low stock" for event in store.events(NAME))
    store.refill("argon", 1, "L", actor="Ada")
    store.set_state(NAME, CampaignState.ACTIVE, actor="Ada", reason="refilled")
    carry(executor_of(store, config, {"press": press}, lab), 2)
    assert len(press.orders) == 2
    assert store.resources()[0].level == 0.0
    assert store.verify() == []
    with pytest.raises(StoreError, match="possible"):
        store.refill("argon", -1, actor="Ada")
    with pytest.raises(StoreError, match="there is no resource 'arg'"):
        store.refill("arg", 1, actor="Ada")
    store.close()


def test_places_are_taken_and_given_back(tmp_path: Path) -> None:
    """Two samples never hold one place, though the instrument has room for both; nobody waits for ever."""
    config = config_of([{**TEST, "needs": {"crucible": 1}}])
    store = store_of(tmp_path / "c.db", config, [1.0, 2.0, 3.0])
    press = Device("strength", seconds=600.0, slots=3)
    carry(executor_of(store, config, {"press": press}, {"crucible": {"places": 1}}), 1, 2, 3)
    assert len(press.orders) == 3
    assert min(b - a for a, b in zip(press.begun, press.begun[1:], strict=False)) >= 600.0
    assert store.resources()[0].free == 1
    assert store.verify() == []
    store.close()


def test_what_an_unknown_attempt_took_stays_taken(tmp_path: Path) -> None:
    """Nobody knows whether the gas is gone: it stays reserved until a person answers, and the sample is suspect."""

    def lost(_order: Order, _n: int) -> float:
        message = "no answer"
        raise TimedOut(message)

    config = config_of([{**TEST, "needs": {"argon": "2 L", "crucible": 1}}])
    store = store_of(tmp_path / "c.db", config, [1.0])
    lab = {"argon": {"stock": 3, "unit": "L"}, "crucible": {"places": 1}}
    carry(executor_of(store, config, {"press": Device("strength", lost)}, lab), 1)
    argon, crucible = store.resources()
    assert (argon.level, argon.reserved, crucible.free, crucible.holders) == (3.0, 2.0, 0.0, ((NAME, 1),))
    assert store.samples(NAME)[0].state == "suspect"
    answer_discard(store, store.open_attempts(NAME)[0].id, who="Ada", reason="the tube is cold, the bottle is empty")
    argon, crucible = store.resources()
    assert (argon.level, argon.reserved, crucible.free) == (1.0, 0.0, 1.0)
    assert store.verify() == []
    store.close()


def test_the_database_refuses_to_overdraw(tmp_path: Path) -> None:
    """Not only the program: a stock below what is reserved, and below zero, is refused by a constraint."""
    config = config_of([{**TEST, "needs": {"argon": "2 L"}}])
    store = store_of(tmp_path / "c.db", config, [1.0])
    carry(executor_of(store, config, {"press": Device("strength")}, {"argon": {"stock": 3, "unit": "L"}}), 1)
    with store._db.engine.connect() as connection, pytest.raises(Exception, match="ck_resource_reserved"):
        connection.exec_driver_sql("UPDATE resource SET level = -1")
    store.close()


# --- samples --------------------------------------------------------------------------------------------------------


def test_samples_are_made_split_and_spent(tmp_path: Path) -> None:
    """Powder becomes a pellet, the pellet is cut, one half is broken and thrown away: the tree says it all."""
    procedure = [
        {**WEIGH, "sample": {"makes": "powder"}},
        {"step": "press", "instrument": "press", "sample": {"takes": "powder", "makes": "pellet", "at": "rack"}},
        {"step": "cut", "instrument": "press", "sample": {"splits": ["left", "right"]}},
        {"step": "break", "instrument": "press", "sample": {"takes": "left", "discards": True}},
    ]
    config = config_of(procedure)
    store = store_of(tmp_path / "c.db", config, [1.0])
    press = Device("strength")
    carry(executor_of(store, config, {"balance": Device("mass"), "press": press}, {"rack": {"places": 4}}), 1)
    found = {one.name.removeprefix(f"{NAME}-1-"): one for one in store.samples(NAME, trial=1)}
    assert list(found) == ["powder", "pellet", "left", "right"]
    assert {name: one.state for name, one in found.items()} == {
        "powder": "spent",
        "pellet": "split",
        "left": "discarded",
        "right": "there",
    }
    assert found["pellet"].place == "rack"
    assert [p.removeprefix(f"{NAME}-1-") for p in found["right"].parents] == ["pellet"]
    assert store.export_csv(NAME, tmp_path / "c.csv") == 1
    assert f"{NAME}-1-left of {NAME}-1-pellet: discarded" in (tmp_path / "c.csv").read_text()
    asked = [order.sample for order in press.orders]
    assert asked == [f"{NAME}-1-{name}" for name in ("powder", "pellet", "left")]
    assert store.verify() == []
    store.close()


def test_a_spoilt_step_makes_its_sample_suspect(tmp_path: Path) -> None:
    """What was begun and failed leaves a sample that nobody should trust; what was never begun does not."""

    def spoilt(_order: Order, _n: int) -> float:
        message = "the pellet melted"
        raise BadData(message)

    config = config_of([{**WEIGH, "sample": {"makes": "powder"}}, TEST])
    store = store_of(tmp_path / "c.db", config, [1.0])
    carry(executor_of(store, config, {"balance": Device("mass"), "press": Device("strength", spoilt)}), 1)
    (powder,) = store.samples(NAME)
    assert powder.name == f"{NAME}-1-powder"
    assert powder.state == "suspect"
    assert "melted" in powder.fates[0].note
    store.close()


def test_out_of_stock_is_an_error_of_its_own() -> None:
    """It is told from a resource that others hold."""
    assert issubclass(OutOfStock, StoreError)


# --- whose turn it is -----------------------------------------------------------------------------------------------


def test_trials_are_pipelined_as_the_plan_says(tmp_path: Path) -> None:
    """Six trials that come back to the first instrument take as long as was forecast, which arrival order would not."""
    procedure = [
        {"step": "weigh", "instrument": "balance"},
        {"step": "press", "instrument": "press"},
        {"step": "weigh_again", "instrument": "balance", "when": {"from": "weigh.mass", "above": 0}},
        {"step": "fire", "instrument": "kiln"},
    ]
    config = config_of(procedure)
    seconds = {"balance": 300.0, "press": 600.0, "kiln": 900.0}
    gives = {"balance": "mass", "press": "strength", "kiln": "density"}
    devices = {name: Device(gives[name], seconds=took) for name, took in seconds.items()}
    store = store_of(tmp_path / "c.db", config, [float(x) for x in range(1, 7)])
    took = carry(executor_of(store, config, devices), 1, 2, 3, 4, 5, 6)
    route = tuple(Operation(step["step"], step["instrument"], seconds[step["instrument"]]) for step in procedure)
    said = forecast(route, dict.fromkeys(seconds, 1), trials=6, parallel=6)
    assert took == pytest.approx(said.makespan_s, rel=0.02)
    ideal = 300.0 + 600.0 + 300.0 + 6 * 900.0  # the kiln, once it has begun, never waits
    assert took == pytest.approx(ideal, rel=0.02)
    store.close()


def test_the_earlier_planned_goes_first_on_what_both_could_take() -> None:
    """A ticket waits only for earlier ones that could take what is free to it."""
    queue = Queue()
    with queue.waiting({"a"}, lambda: 5.0) as late, queue.waiting({"a", "b"}, lambda: 1.0) as early:
        assert queue.is_next(early, {"a": 1, "b": 0})
        assert not queue.is_next(late, {"a": 1, "b": 0})
        assert queue.is_next(late, {"a": 2, "b": 0})
        with queue.waiting({"b"}) as other:
            assert queue.is_next(other, {"a": 0, "b": 1}) is False
    with queue.waiting({"a"}) as first, queue.waiting({"a"}) as second:
        assert queue.is_next(first, {"a": 1})
        assert not queue.is_next(second, {"a": 1})


def test_single_numbers_of_a_repeat_can_be_read(tmp_path: Path) -> None:
    """What watches an instrument wants each reading, not their mean."""
    config = config_of([{**TEST, "repeat": 2}])
    store = store_of(tmp_path / "c.db", config, [1.0])
    carry(executor_of(store, config, {"press": Device("strength", lambda _o, n: float(n))}), 1)
    found = store.measurements(NAME, single=True)
    assert [(one.step, one.value) for one in found] == [("test#1", 0.0), ("test#2", 1.0)]
    assert [(one.step, one.value) for one in store.measurements(NAME)] == [("test", 0.5)]
    store.close()


def test_what_others_have_reserved_is_waited_for(tmp_path: Path) -> None:
    """The gas may come back if their order was refused; nothing is claimed meanwhile, and then it is out of stock."""
    config = config_of([{**TEST, "needs": {"argon": "2 L"}}])
    store = store_of(tmp_path / "c.db", config, [1.0, 2.0])
    press = Device("strength", seconds=3600.0, slots=2)
    carry(executor_of(store, config, {"press": press}, {"argon": {"stock": 3, "unit": "L"}}), 1, 2)
    assert len(press.orders) == 1
    claims = [event for event in store.events(NAME) if event.kind == "claim"]
    assert len(claims) <= 3
    assert store.campaign(NAME).state is CampaignState.PAUSED
    store.close()
