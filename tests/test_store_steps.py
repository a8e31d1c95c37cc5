"""Claim, intent, advance, record, end: what execution stands on, on SQLite and on PostgreSQL."""

from __future__ import annotations

import multiprocessing
import random
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import BudgetSpent, Busy, IllegalTransition, Stopped, StoreError
from orchestrator.record import crash_points
from orchestrator.record.states import AttemptState, CampaignState, StepState, TrialState
from orchestrator.record.store import CampaignStore
from tests.records import TWO_STEPS, begin, carry_out, config, decide, measured, number, start

A = AttemptState
PROCESSES = 4


def test_the_ordinary_way(store: CampaignStore) -> None:
    """A step goes from claim to record, and budget, states and times follow."""
    begin(store, budget={"trials": 1, "cost": 2.0})
    [trial] = decide(store, "demo", [1])
    step = trial.steps[0].id
    fence = store.claim(step, owner="w")
    attempt = store.intent(step, fence=fence, order={"a": [1.5]}, instrument="toy", slots=1, cost=0.5, sample="S1")
    info = store.campaign("demo")
    assert (info.reserved_trials, info.reserved_cost, info.spent.trials) == (1, 0.5, 0)
    assert (attempt.state, attempt.number, attempt.slot, attempt.step) == (A.INTENT, 1, 0, "measure")
    assert attempt.order == {"a": [1.5], "key": attempt.key}
    assert len(attempt.key) == 64
    submitted = store.advance(attempt.id, A.SUBMITTED, handle={"job": 7})
    assert submitted.handle == {"job": 7}
    running = store.advance(attempt.id, A.RUNNING, note="warming up")
    assert (running.handle, running.note) == ({"job": 7}, "warming up")
    assert store.open_attempts("demo") == [running]
    done = measured(store, running)
    store.record(
        done.id, [number(3.0)], structures={}, applied={"x": 1}, attachments=[("a", "b", done.raw_sha256 or "")] * 2
    )
    info = store.campaign("demo")
    assert (info.reserved_trials, info.reserved_cost, info.spent.trials, info.spent.cost) == (0, 0.0, 1, 0.5)
    found = store.trial("demo", 1)
    assert (found.state, found.sample, found.steps[0].attempts) == (TrialState.COMPLETED, "S1", 1)
    assert found.started_at is not None
    assert store.open_attempts("demo") == []
    assert store.attempts("demo", trial=1)[0].state is A.RECORDED
    assert store.verify() == []


def test_a_claim_is_for_one(store: CampaignStore) -> None:
    """A second claim, a stale fence and a claim out of order are refused; stale claims are given back at start."""
    begin(store)
    [trial] = decide(store, "demo", [1], steps=TWO_STEPS)
    first, second = (step.id for step in trial.steps)
    with pytest.raises(IllegalTransition, match="before fire is recorded"):
        store.claim(second, owner="w")
    fence = store.claim(first, owner="w")
    with pytest.raises(IllegalTransition, match="owned by w"):
        store.claim(first, owner="v")
    store.unclaim(first, fence=fence)
    later = store.claim(first, owner="v")
    assert later > fence
    for act in (lambda: store.unclaim(first, fence=fence), lambda: _intent(store, first, fence)):
        with pytest.raises(IllegalTransition, match="fence"):
            act()
    assert store.release_stale_claims("demo") == 1
    assert store.release_stale_claims("demo") == 0
    with pytest.raises(IllegalTransition):
        _intent(store, first, later)
    assert store.trial("demo", 1).steps[0].state is StepState.PLANNED


def _intent(store: CampaignStore, step: int, fence: int, **changes: Any) -> Any:
    given: dict[str, Any] = {"order": {}, "instrument": "toy", "slots": 1, "cost": 0.5, **changes}
    return store.intent(step, fence=fence, **given)


def test_illegal_moves_are_refused(store: CampaignStore) -> None:
    """No state that cannot follow, no closing through `advance`, no MEASURED without raw bytes, no second record."""
    begin(store)
    [trial] = decide(store, "demo", [1])
    attempt = start(store, trial.steps[0].id)
    with pytest.raises(IllegalTransition, match="INTENT; it cannot become HELD: only"):
        store.advance(attempt.id, A.HELD)
    for closed in (A.RECORDED, A.FAILED, A.NOT_STARTED):
        with pytest.raises(IllegalTransition, match=r"record|end_attempt"):
            store.advance(attempt.id, closed)
    with pytest.raises(StoreError, match="raw"):
        store.advance(attempt.id, A.MEASURED)
    with pytest.raises(IllegalTransition):
        store.record(attempt.id, [], structures={}, applied={})
    measured(store, attempt)
    store.advance(attempt.id, A.HELD, effect="done", note="odd")
    store.record(attempt.id, [number(1.0)], structures={}, applied={})
    with pytest.raises(IllegalTransition, match="nothing can follow"):
        store.record(attempt.id, [number(1.0)], structures={}, applied={})
    with pytest.raises(StoreError, match="no attempt with id 99"):
        store.advance(99, A.RUNNING)
    assert len(store.measurements("demo")) == 1


def test_budget_of_trials_counts_what_happened(store: CampaignStore) -> None:
    """A trial is reserved once, given back where nothing happened, spent where something did, and never twice."""
    begin(store, budget={"trials": 2})
    one, two, three = decide(store, "demo", [1, 2, 3], steps=TWO_STEPS)
    attempt = start(store, one.steps[0].id)
    store.end_attempt(attempt.id, A.NOT_STARTED, retry=True, reason="the log is empty")
    info = store.campaign("demo")
    assert (info.reserved_trials, info.spent.trials, info.spent.cost) == (0, 0, 0)
    for step in one.steps:
        attempt = measured(store, start(store, step.id))
        store.record(attempt.id, [], structures={}, applied={})
    assert store.campaign("demo").spent.trials == 1
    attempt = start(store, two.steps[0].id)
    store.end_attempt(attempt.id, A.FAILED, retry=True, reason="dropped", effect="started")
    attempt = start(store, two.steps[0].id)
    assert attempt.number == 2
    store.end_attempt(attempt.id, A.FAILED, retry=False, reason="no gas", effect="none")
    info = store.campaign("demo")
    assert (info.reserved_trials, info.spent.trials, info.spent.cost) == (0, 2, 1.5)
    assert [step.state for step in store.trial("demo", two.number).steps] == [StepState.FAILED, StepState.CANCELLED]
    fence = store.claim(three.steps[0].id, owner="w")
    with pytest.raises(BudgetSpent, match=r"2 trials is used up.*amend"):
        _intent(store, three.steps[0].id, fence)
    assert store.trial("demo", three.number).steps[0].state is StepState.CLAIMED
    assert store.verify() == []


def test_budget_of_cost_is_exact(store: CampaignStore) -> None:
    """Ten steps of 0.1 fit into a cap of 1, which binary fractions would miss; an eleventh does not."""
    begin(store, budget={"cost": 1.0})
    trials = decide(store, "demo", range(11))
    for trial in trials[:10]:
        attempt = measured(store, start(store, trial.steps[0].id, cost=0.1))
        store.record(attempt.id, [number(1.0)], structures={}, applied={})
    assert store.campaign("demo").spent.cost == 1.0
    with pytest.raises(BudgetSpent, match="budget of 1"):
        start(store, trials[10].steps[0].id, cost=0.1)


def test_budget_of_hours_stops_intents(store: CampaignStore) -> None:
    """Once the hours are used no intent passes, until the cap is raised."""
    begin(store, budget={"hours": 1.0})
    [trial] = decide(store, "demo", [1])
    store.tick("demo", 1.0)
    fence = store.claim(trial.steps[0].id, owner="w")
    with pytest.raises(BudgetSpent, match="1 hours"):
        _intent(store, trial.steps[0].id, fence)
    store.amend("demo", config(budget={"hours": 2.0}), actor="Ada")
    _intent(store, trial.steps[0].id, fence)


@pytest.mark.parametrize("state", [CampaignState.PAUSED, CampaignState.STOPPED])
def test_stop_is_obeyed_by_the_intent(store: CampaignStore, state: CampaignState) -> None:
    """Nothing starts in a stopped or paused campaign, and what runs is still recorded."""
    begin(store)
    running, planned = decide(store, "demo", [1, 2])
    attempt = start(store, running.steps[0].id)
    fence = store.claim(planned.steps[0].id, owner="w")
    store.set_state("demo", state, actor="Ada", reason="fire drill")
    with pytest.raises(Stopped, match=r"fire drill.*matloop resume demo"):
        _intent(store, planned.steps[0].id, fence)
    store.record(measured(store, attempt).id, [number(1.0)], structures={}, applied={})
    store.set_state("demo", CampaignState.ACTIVE, actor="Ada", reason="")
    _intent(store, planned.steps[0].id, fence)


def test_slots_are_shared_through_the_lab(store: CampaignStore) -> None:
    """The lab's instruments have their slots across campaigns, a campaign file's for itself; UNKNOWN keeps one."""
    own = {"instruments": {"toy": {"use": "simulated"}}}
    for name in ("a", "b"):
        begin(store, name, **own)
    a, b = (decide(store, name, [1, 2, 3]) for name in ("a", "b"))
    start(store, a[0].steps[0].id, instrument="toy", slots=1)
    start(store, b[0].steps[0].id, instrument="toy", slots=1)
    first = start(store, a[1].steps[0].id, instrument="furnace", slots=2)
    second = start(store, b[1].steps[0].id, instrument="furnace", slots=2)
    assert {first.slot, second.slot} == {0, 1}
    assert store.users("a", "furnace") == store.users("b", "furnace") == ["a", "b"]
    assert (store.users("a", "toy"), store.users("b", "toy"), store.users("a", "oven")) == (["a"], ["b"], [])
    store.advance(first.id, A.UNKNOWN)
    with pytest.raises(Busy, match="all 2 slots of instrument 'furnace'"):
        start(store, b[2].steps[0].id, instrument="furnace", slots=2)
    measured(store, second)  # the instrument is free again once it has given its result
    fence = store.claim(a[2].steps[0].id, owner="w")
    assert _intent(store, a[2].steps[0].id, fence, instrument="furnace", slots=2).slot == second.slot


def test_an_order_must_be_storable(store: CampaignStore) -> None:
    """An order with NaN is refused before anything is reserved."""
    begin(store)
    [trial] = decide(store, "demo", [1])
    fence = store.claim(trial.steps[0].id, owner="w")
    with pytest.raises(StoreError, match="order cannot be stored"):
        _intent(store, trial.steps[0].id, fence, order={"t": float("nan")})
    with pytest.raises(StoreError, match="cost"):
        _intent(store, trial.steps[0].id, fence, cost=-1.0)
    assert store.campaign("demo").reserved_trials == 0


def test_too_little_space_stops_intents(store: CampaignStore, where: str) -> None:
    """With less free space than the watermark nothing new starts, and what runs is still recorded."""
    begin(store)
    running, planned = decide(store, "demo", [1, 2])
    attempt = start(store, running.steps[0].id)
    fence = store.claim(planned.steps[0].id, owner="w")
    full = CampaignStore.open(where, least_free=2**62)
    with pytest.raises(StoreError, match="free some space"):
        _intent(full, planned.steps[0].id, fence)
    full.record(measured(full, attempt).id, [number(1.0)], structures={}, applied={})
    full.close()


def test_crash_points_are_inside_the_transactions(store: CampaignStore) -> None:
    """A process that dies at an ``in_txn`` point leaves nothing; at ``after`` everything."""
    begin(store)
    [trial] = decide(store, "demo", [1])
    seen: list[str] = []
    remove = crash_points.install(seen.append)
    carry_out(store, trial, 1.0)
    remove()
    assert seen == [
        "claim.in_txn", "claim.after", "intent.in_txn", "intent.after", "raw.tmp_written", "raw.fsynced", "raw.renamed",
        "measured.in_txn", "measured.after", "record.in_txn", "record.after",
    ]  # fmt: skip

    def die(label: str) -> None:
        if label == "claim.in_txn":
            raise KeyboardInterrupt

    [trial] = decide(store, "demo", [2])
    remove = crash_points.install(die)
    with pytest.raises(KeyboardInterrupt):
        store.claim(trial.steps[0].id, owner="w")
    remove()
    store.claim(trial.steps[0].id, owner="w")
    assert store.verify() == []


def test_hot_queries_use_indexes(tmp_path: Path) -> None:
    """What is asked at every turn and at every restart reads no whole table, however long the history is."""
    store = CampaignStore.open(tmp_path / "campaigns.db")
    begin(store)
    [trial] = decide(store, "demo", [1])
    statements: list[str] = []
    with store._db.read() as connection:
        raw = connection.connection.driver_connection
        assert raw is not None
        raw.set_trace_callback(statements.append)
    store.open_attempts("demo")
    store.release_stale_claims("demo")
    start(store, trial.steps[0].id)
    raw.set_trace_callback(None)
    asked = [one for one in statements if one.startswith("SELECT")]
    assert len(asked) > 5
    with store._db.read() as connection:
        for statement in asked:
            plan = [row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}")]
            assert not [line for line in plan if line.startswith("SCAN")], (statement, plan)
        scans = [one for one in asked if "attempt.state IN" in one or "state = 'CLAIMED'" in one]
        plans = [str(connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {one}").all()) for one in scans]
    assert any("ix_attempt_open" in plan for plan in plans), plans
    assert any("ix_step_claimed" in plan for plan in plans), plans
    store.close()


# --- several processes ----------------------------------------------------------------------------------------------


def _race(work: Callable[..., None], where: str, *arguments: Any) -> list[Any]:
    """Run `work(where, queue, number, *arguments)` in several processes and return all that they put."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["orchestrator.record.store"])  # imported once for all processes
    queue: Any = context.Queue()
    workers = [context.Process(target=work, args=(where, queue, n, *arguments)) for n in range(PROCESSES)]
    for worker in workers:
        worker.start()
    found: list[Any] = []
    ended = 0
    while ended < PROCESSES:
        item = queue.get(timeout=60)
        ended += item is None
        found += [] if item is None else [item]
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    return found


def _claimer(where: str, queue: Any, number: int, steps: list[int]) -> None:
    store = CampaignStore.open(where)
    random.Random(number).shuffle(steps)
    for step in steps:
        try:
            store.claim(step, owner=f"worker {number}")
        except IllegalTransition:
            continue
        queue.put(step)
    queue.put(None)
    store.close()


def test_no_step_is_claimed_twice(store: CampaignStore, where: str) -> None:
    """Four processes that want the same hundred steps share them without a duplicate."""
    begin(store)
    steps = [trial.steps[0].id for trial in decide(store, "demo", range(100))]
    claimed = _race(_claimer, where, steps)
    assert sorted(claimed) == sorted(steps)
    assert {step.state for trial in store.trials("demo") for step in trial.steps} == {StepState.CLAIMED}
    assert store.verify() == []


def _starter(where: str, queue: Any, number: int, steps: list[int]) -> None:
    store = CampaignStore.open(where)
    for step in steps[number::PROCESSES]:
        try:
            attempt = start(store, step, slots=1000)
        except (BudgetSpent, Stopped) as refusal:
            queue.put(type(refusal).__name__)
        else:
            queue.put(attempt.slot)
    queue.put(None)
    store.close()


def test_the_cap_is_reached_exactly(store: CampaignStore, where: str) -> None:
    """Four processes that race for a budget of 17 trials get 17, each on a slot of its own."""
    begin(store, budget={"trials": 17})
    steps = [trial.steps[0].id for trial in decide(store, "demo", range(40))]
    answers = _race(_starter, where, steps)
    slots = [answer for answer in answers if isinstance(answer, int)]
    assert sorted(slots) == list(range(17))
    assert Counter(answers)["BudgetSpent"] == 23
    assert store.campaign("demo").reserved_trials == 17


def _stopper(where: str, queue: Any, number: int, steps: list[int]) -> None:
    store = CampaignStore.open(where)
    if number == 0:
        while len(store.open_attempts("demo")) < 3:
            time.sleep(0.005)
        store.set_state("demo", CampaignState.STOPPED, actor="Ada", reason="now")
        queue.put(None)
    else:
        mine = steps[number - 1 :: PROCESSES - 1]
        for step in mine:
            while step is mine[-1] and store.campaign("demo").state is CampaignState.ACTIVE:
                time.sleep(0.005)  # however slow the stopper is, one is asked for after it
            try:
                start(store, step, slots=1000)
            except Stopped:
                queue.put("Stopped")
        queue.put(None)
    store.close()


def test_no_intent_after_stop(store: CampaignStore, where: str) -> None:
    """Once STOP is committed, no process gets a permission: no intent stands after it in the history."""
    begin(store)
    steps = [trial.steps[0].id for trial in decide(store, "demo", range(80))]
    answers = _race(_stopper, where, steps)
    kinds = [event.kind for event in store.events("demo")]
    after = kinds[kinds.index("state") :]
    assert "intent" not in after
    assert len(answers) >= PROCESSES - 1
    assert kinds.count("intent") == len(store.open_attempts("demo")) >= 3
    assert store.verify() == []
