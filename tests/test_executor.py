"""The executor: steps in order, retries by the table, nothing forgotten when it is stopped or begun anew."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.config.lab import ParameterEnvelope
from orchestrator.domain import (
    Absent,
    Attachment,
    Capability,
    Crystal,
    Description,
    Finished,
    Health,
    Identity,
    JsonObject,
    Order,
    Outcome,
    Output,
    Parameter,
    Quantity,
    Reading,
    Recovery,
    Result,
    Running,
    Unsure,
    Whereabouts,
)
from orchestrator.errors import (
    Aborted,
    BadData,
    BudgetSpent,
    Busy,
    ConfigError,
    Effect,
    Fault,
    Interlocked,
    NotConnected,
    Rejected,
    StoreError,
    TimedOut,
    Unanswered,
)
from orchestrator.execution.answers import answer_discard, answer_done, answer_not_started
from orchestrator.execution.attempts import Progress
from orchestrator.execution.clock import VirtualClock, run_virtual
from orchestrator.execution.executor import Executor
from orchestrator.protocols import Events
from orchestrator.record.states import AttemptState, CampaignState, StepState, TrialState
from orchestrator.record.store import CampaignStore
from tests.crash.world import NAME, candidate, config, new_store, plan

FIRE = {"step": "fire", "instrument": "kiln"}
TEST = {"step": "test", "instrument": "press", "inputs": {"load": {"from": "fire.shrinkage"}}}
CUBE = Crystal(((4.0, 0.0, 0.0), (0.0, 4.0, 0.0), (0.0, 0.0, 4.0)), ("Po",), ((0.0, 0.0, 0.0),))

Script = Callable[[Order, Events], Awaitable[Result]]


class Kiln:
    """An instrument that does what its script says, order by order, and then its ordinary work."""

    def __init__(
        self, *script: Exception | Script | Result, recovery: Recovery = Recovery.BLIND, **declared: Any
    ) -> None:
        self.script = list(script)
        self.recovery = recovery
        self.declared = declared
        self.orders: list[Order] = []
        self.aborts: list[str] = []
        self.serial = "1"
        self.fidelity = declared.pop("fidelity", "real")

    async def describe(self) -> Description:
        capability = Capability(
            name="fire",
            parameters=(Parameter("temperature", "degC", 20.0, 1200.0, resolution=5.0),),
            outputs=(
                Output("strength", "MPa", 0.0, 1000.0),
                Output("shrinkage", "percent", 0.0, 100.0),
            ),
            longest_s=60.0,
            fidelity=self.fidelity,
        )
        return Description((capability,), self.recovery, delivery_s=2.0, **self.declared)

    async def open(self) -> Identity:
        return Identity("kiln", serial=self.serial)

    async def close(self) -> None:
        pass

    async def health(self) -> Health:
        return Health("ready")

    async def abort(self, reason: str) -> None:
        self.aborts.append(reason)

    async def run(self, order: Order, events: Events) -> Result:
        self.orders.append(order)
        what = self.script.pop(0) if self.script else None
        if isinstance(what, Exception):
            raise what
        if isinstance(what, Result):
            return what
        if what is not None:
            return await what(order, events)
        return good(order)


class Logged(Kiln):
    """A kiln that can be asked for its jobs."""

    def __init__(self, *script: Any, jobs: dict[str, Whereabouts] | None = None, **declared: Any) -> None:
        super().__init__(*script, recovery=Recovery.QUERYABLE, **declared)
        self.jobs = {} if jobs is None else jobs
        self.lookups = 0

    async def lookup(self, key: str, handle: JsonObject | None) -> Whereabouts:
        self.lookups += 1
        return self.jobs.get(key, Absent())

    async def attach(self, handle: JsonObject, events: Events) -> Result:
        await events.sleep(5)
        return good(self.orders[-1])


class Press:
    """A second instrument, which takes a number that the first one gave."""

    def __init__(self) -> None:
        self.orders: list[Order] = []

    async def describe(self) -> Description:
        load = Parameter("load", "dimensionless", 0.0, 1.0)
        return Description((Capability("test", (Output("modulus", "GPa"),), (load,)),))

    async def open(self) -> Identity:
        return Identity("press")

    async def close(self) -> None:
        pass

    async def health(self) -> Health:
        return Health("ready")

    async def abort(self, reason: str) -> None:
        pass

    async def run(self, order: Order, events: Events) -> Result:
        self.orders.append(order)
        return Result(order.key, (Reading("modulus", 70.0, "GPa"),))


def good(order: Order, **changed: Any) -> Result:
    """A faultless result of the kiln, in other units than the declared ones."""
    asked = order.settings["temperature"].value
    fields: dict[str, Any] = {
        "readings": (Reading("strength", 2.0e8, "Pa", std_error=1.0e6), Reading("shrinkage", 0.1, "dimensionless")),
        "applied": {"temperature": Quantity(asked + 273.15 + 2, "kelvin")},
        "attachments": (Attachment("curve.csv", "text/csv", b"t,T\n0,20\n"),),
    }
    return Result(order.key, **{**fields, **changed})


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with two planned trials, to be copied: making the schema is what takes time."""
    where = tmp_path_factory.mktemp("template") / "c.db"
    new_store(where, [FIRE], [800.0, 900.0]).close()
    return where


@pytest.fixture
def store(template: Path, tmp_path: Path) -> Iterator[CampaignStore]:
    """A store with two planned trials."""
    shutil.copy(template, tmp_path / "c.db")
    made = CampaignStore.open(tmp_path / "c.db")
    yield made
    made.close()


def executor(store: CampaignStore, kiln: Kiln, procedure: Any = (FIRE,), **more: Any) -> Executor:
    """An executor in virtual time."""
    instruments = {"kiln": kiln, **more.pop("others", {})}
    steps = config(procedure).procedure
    return Executor(store, NAME, instruments, steps, clock=VirtualClock(), **more)


def carry(store: CampaignStore, kiln: Kiln, *trials: int, **more: Any) -> Executor:
    """Carry out trials one after the other, in virtual time."""
    made = executor(store, kiln, **more)

    async def main() -> None:
        await made.open()
        await made.recover()
        for trial in trials:
            await made.carry_out(trial)
        await made.close()

    run_virtual(main())
    return made


def states(store: CampaignStore, trial: int = 1) -> list[AttemptState]:
    """States of a trial's attempts, oldest first."""
    return [attempt.state for attempt in store.attempts(NAME, trial=trial)]


# --- the ordinary way -----------------------------------------------------------------------------------------------


def test_a_trial_is_recorded_with_raw_bytes_and_applied_settings(store: CampaignStore) -> None:
    """Numbers are in the declared units, raw result and attachment are stored, and set-points are as read back."""
    kiln = Kiln()
    carry(store, kiln, 1)
    trial = store.trial(NAME, 1)
    assert trial.state is TrialState.COMPLETED
    found = {m.property: m for m in store.measurements(NAME, trial=1)}
    assert (found["strength"].value, found["strength"].unit) == (pytest.approx(200.0), "MPa")
    assert found["strength"].std_error == pytest.approx(1.0)
    assert found["shrinkage"].value == pytest.approx(10.0)
    row = next(row for row in store.dataset(NAME).rows if row.property == "strength")
    assert row.applied["temperature"] == pytest.approx(802.0)
    assert row.candidate.parameters["temperature"] == 800.0
    assert b'"strength"' in store.raw.get(found["strength"].raw_sha256 or "")
    assert store.raw.get(good(kiln.orders[0]).attachments[0].sha256) == b"t,T\n0,20\n"
    assert kiln.orders[0].sample == "kiln-1"
    assert store.verify() == []


def test_a_later_step_uses_what_an_earlier_one_gave(tmp_path: Path) -> None:
    """The second step's set-point is the first step's output, converted into the unit that the instrument declares."""
    store = new_store(tmp_path / "c.db", [FIRE, TEST], [800.0])
    press = Press()
    carry(store, Kiln(), 1, procedure=[FIRE, TEST], others={"press": press})
    assert store.trial(NAME, 1).state is TrialState.COMPLETED
    assert press.orders[0].settings["load"] == Quantity(pytest.approx(0.1), "dimensionless")
    store.close()


def test_a_fixed_setting_does_not_overwrite_what_the_campaign_explores(tmp_path: Path) -> None:
    """Two steps with a set-point of one name: only the one that comes from the candidate is the candidate's."""
    dry = {"step": "dry", "instrument": "kiln", "inputs": {"temperature": {"value": 383.15, "unit": "kelvin"}}}
    store = new_store(tmp_path / "c.db", [FIRE, dry], [800.0])
    carry(store, Kiln(), 1, procedure=[FIRE, dry])
    row = next(row for row in store.dataset(NAME).rows if row.property == "strength")
    assert row.applied["temperature"] == pytest.approx(802.0)
    assert row.applied["dry.temperature"] == pytest.approx(112.0)
    store.close()


def test_a_handle_is_committed_before_accepted_returns(store: CampaignStore) -> None:
    """When `accepted` returns, the database already knows the job: a crash right after it loses nothing."""
    seen: list[tuple[AttemptState, JsonObject | None]] = []

    async def with_handle(order: Order, events: Events) -> Result:
        await events.accepted({"job": 7})
        attempt = store.open_attempts(NAME)[0]
        seen.append((attempt.state, attempt.handle))
        return good(order)

    carry(store, Kiln(with_handle), 1)
    assert seen == [(AttemptState.SUBMITTED, {"job": 7})]
    assert store.trial(NAME, 1).state is TrialState.COMPLETED


def test_trials_wait_their_turn_for_a_slot(store: CampaignStore) -> None:
    """Two trials at once on an instrument with one slot: one after the other, no error."""
    at_work = 0
    most = 0

    async def slow(order: Order, events: Events) -> Result:
        nonlocal at_work, most
        at_work += 1
        most = max(most, at_work)
        await events.sleep(30)
        at_work -= 1
        return good(order)

    made = executor(store, Kiln(slow, slow))

    async def main() -> None:
        await made.open()
        await asyncio.gather(made.carry_out(1), made.carry_out(2))
        await made.close()

    run_virtual(main())
    assert most == 1
    assert [t.state for t in store.trials(NAME)] == [TrialState.COMPLETED] * 2


# --- errors and the retry table -------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [Busy, NotConnected])
def test_nothing_happened_so_it_is_tried_three_times(store: CampaignStore, error: type[Exception]) -> None:
    """Busy and NotConnected are retried, with waits, as new attempts with new keys."""
    kiln = Kiln(error("first"), error("second"))
    carry(store, kiln, 1)
    assert states(store) == [AttemptState.FAILED, AttemptState.FAILED, AttemptState.RECORDED]
    assert len({order.key for order in kiln.orders}) == 3
    spent = store.campaign(NAME).spent
    assert spent.trials == 1


@pytest.mark.parametrize("error", [Busy("in use"), Interlocked("door open"), Fault("no power", effect=Effect.NONE)])
def test_an_instrument_that_cannot_go_on_pauses_the_campaign(store: CampaignStore, error: Exception) -> None:
    """Nothing happened, and it is not the candidate's fault: no trial fails, nothing is spent, a person is needed."""
    kiln = Kiln(*[error] * 9)
    carry(store, kiln, 1, 2)
    assert len(kiln.orders) == (3 if isinstance(error, Busy) else 1)
    assert [t.steps[0].state for t in store.trials(NAME)] == [StepState.PLANNED] * 2
    campaign = store.campaign(NAME)
    assert (campaign.state, campaign.spent.trials, campaign.reserved_trials) == (CampaignState.PAUSED, 0, 0)
    assert "'kiln'" in campaign.state_reason
    assert str(error) in campaign.state_reason
    assert store.dataset(NAME).rows == ()
    store.set_state(NAME, CampaignState.ACTIVE, actor="Ada", reason="switched on")
    if isinstance(error, Fault):  # links come back and doors are closed; that a fault is mended, a person says
        store.return_to_service(NAME, "kiln", actor="Ada", reason="switched on")
    carry(store, Kiln(Busy("in use")), 1)
    assert store.trial(NAME, 1).state is TrialState.COMPLETED


@pytest.mark.parametrize("error", [Rejected("no"), Aborted("by hand"), BadData("noise")])
def test_what_must_not_be_repeated_fails_at_once(store: CampaignStore, error: Exception) -> None:
    """Refusals, aborts and bad data of a real act are never repeated by themselves."""
    kiln = Kiln(error)
    carry(store, kiln, 1)
    assert len(kiln.orders) == 1
    assert store.trial(NAME, 1).state is TrialState.FAILED


def test_bad_data_of_a_computation_gets_one_more_attempt(store: CampaignStore) -> None:
    """A computation may be repeated once; the second bad answer stands."""
    kiln = Kiln(BadData("noise"), fidelity="simulated")
    carry(store, kiln, 1)
    assert states(store) == [AttemptState.FAILED, AttemptState.RECORDED]
    kiln = Kiln(BadData("noise"), BadData("noise"), fidelity="simulated")
    carry(store, kiln, 2)
    assert store.trial(NAME, 2).state is TrialState.FAILED


def test_an_order_outside_the_envelope_is_never_sent(store: CampaignStore) -> None:
    """The lab's tighter bound refuses the order; the trial fails with both numbers in its reason."""
    kiln = Kiln()
    carry(store, kiln, 1, 2, envelopes={"kiln": {"temperature": ParameterEnvelope(max=850.0)}})
    assert [order.settings["temperature"].value for order in kiln.orders] == [800.0]
    failed = store.trial(NAME, 2)
    assert failed.state is TrialState.FAILED
    assert "900" in failed.steps[0].reason
    assert "850" in failed.steps[0].reason
    assert store.campaign(NAME).spent.trials == 1


BAD: dict[str, Callable[[Order], Any]] = {
    "another order's key": lambda o: good(o, applied={}).__class__("other", good(o).readings),
    "a missing output": lambda o: good(o, readings=(Reading("strength", 1.0, "MPa"),)),
    "not a number": lambda o: good(
        o, readings=(Reading("strength", float("nan"), "MPa"), Reading("shrinkage", 1, "percent"))
    ),
    "an infinity": lambda o: good(
        o, readings=(Reading("strength", float("inf"), "MPa"), Reading("shrinkage", 1, "percent"))
    ),
    "text": lambda o: good(o, readings=(Reading("strength", "OVER", "MPa"), Reading("shrinkage", 1, "percent"))),  # type: ignore[arg-type]
    "another dimension": lambda o: good(
        o, readings=(Reading("strength", 1.0, "K"), Reading("shrinkage", 1, "percent"))
    ),
    "an impossible value": lambda o: good(
        o, readings=(Reading("strength", -1.0, "MPa"), Reading("shrinkage", 1, "percent"))
    ),
    "an old reading": lambda o: good(
        o, readings=(Reading("strength", 1.0, "MPa", measured_at=10**15), Reading("shrinkage", 1, "percent"))
    ),
    "a set-point not reached": lambda o: good(o, applied={"temperature": Quantity(25.0, "degC")}),
    "the same output twice": lambda o: good(o, readings=(*good(o).readings, Reading("strength", 3.0, "MPa"))),
    "nothing": lambda o: None,
    "a dictionary": lambda o: {"strength": 3},
}


@pytest.mark.parametrize("what", BAD)
def test_bad_results_are_kept_raw_and_never_trained_on(store: CampaignStore, what: str) -> None:
    """Each kind of unusable result fails the trial with a reason, keeps the raw bytes, and gives no measurement."""

    async def bad(order: Order, events: Events) -> Any:
        return BAD[what](order)

    kiln = Kiln(bad)
    carry(store, kiln, 1)
    attempt = store.attempts(NAME, trial=1)[0]
    assert (attempt.state, attempt.effect) == (AttemptState.FAILED, "done")
    assert store.raw.get(attempt.raw_sha256 or "")
    assert store.measurements(NAME) == []
    rows = store.dataset(NAME).rows
    assert [row.outcome for row in rows] == [Outcome.FAILED]
    assert store.verify() == []


def test_a_driver_error_that_is_no_instrument_error_is_unknown(store: CampaignStore) -> None:
    """A bug of a driver says nothing about the world: on a blind instrument a person is asked."""
    made = carry(store, Kiln(ZeroDivisionError("oops")), 1)
    assert states(store) == [AttemptState.UNKNOWN]
    assert "ZeroDivisionError" in str(made.questions()[0])


# --- deadlines, stopping, cancelling --------------------------------------------------------------------------------


async def forever(order: Order, events: Events) -> Result:
    """A driver that never comes back."""
    await asyncio.sleep(1e9)
    raise AssertionError


def test_a_hanging_driver_is_aborted_at_the_deadline(store: CampaignStore) -> None:
    """After `longest_s` the instrument is told to abort; a blind one leaves a question, and nothing is repeated."""
    kiln = Kiln(forever)
    made = carry(store, kiln, 1)
    assert len(kiln.aborts) == 1
    assert len(kiln.orders) == 1
    assert [(q.trial, q.kind) for q in made.questions()] == [(1, "unknown"), (0, "service")]  # it hangs: doubted


async def obedient(order: Order, events: Events) -> Result:
    """A driver that ends when it is asked to."""
    while not events.abort_requested():
        await events.sleep(0.1)
    message = "stopped on request"
    raise Aborted(message)


def test_stop_aborts_what_runs_within_a_second(store: CampaignStore) -> None:
    """STOP of a real act: aborted once, failed with its effect, and the next trial does not start."""
    kiln = Kiln(obedient)
    made = Executor(store, NAME, {"kiln": kiln}, config([FIRE]).procedure)

    async def main() -> float:
        await made.open()
        running = asyncio.create_task(made.carry_out(1))
        while not kiln.orders:  # noqa: ASYNC110  the kiln is a plain fake
            await asyncio.sleep(0.01)
        store.set_state(NAME, CampaignState.STOPPED, actor="ada", reason="smoke")
        begun = time.monotonic()
        trial = await running
        took = time.monotonic() - begun
        assert trial.state is TrialState.FAILED
        assert "smoke" in trial.steps[0].reason
        after = await made.carry_out(2)
        assert after.state is TrialState.PLANNED
        assert after.steps[0].state is StepState.PLANNED
        await made.close()
        return took

    assert asyncio.run(main()) < 1.0  # seen within a quarter of a second, and the driver looks every tenth
    assert len(kiln.aborts) == 1
    assert len(kiln.orders) == 1


def cancel(store: CampaignStore, kiln: Kiln, times: int = 1) -> None:
    """Begin trial 1 and cancel it after ten seconds of virtual time."""
    made = executor(store, kiln)

    async def main() -> None:
        await made.open()
        running = asyncio.create_task(made.carry_out(1))
        await asyncio.sleep(10)
        for _ in range(times):
            running.cancel()
            await asyncio.sleep(0.2)
        with pytest.raises(asyncio.CancelledError):
            await running
        await made.close()

    run_virtual(main())


@pytest.mark.parametrize("times", [1, 3])
def test_cancelling_a_blind_act_leaves_a_question(store: CampaignStore, times: int) -> None:
    """Ctrl-C, even pressed again: the abort is sent, the attempt becomes UNKNOWN, nothing is half written."""
    kiln = Kiln(forever)
    cancel(store, kiln, times)
    assert kiln.aborts == ["cancelled"]
    assert states(store) == [AttemptState.UNKNOWN]
    assert store.verify() == []


def test_a_result_that_arrives_while_cancelling_is_recorded(store: CampaignStore) -> None:
    """A driver that answers the abort with its result has measured: nothing is thrown away."""

    async def answers(order: Order, events: Events) -> Result:
        while not events.abort_requested():
            await events.sleep(0.5)
        return good(order)

    cancel(store, Kiln(answers))
    assert store.trial(NAME, 1).state is TrialState.COMPLETED


def test_a_cancelled_computation_can_be_begun_again(store: CampaignStore) -> None:
    """Cancelling a computation costs nothing: its step is planned again, and the next run carries it out."""
    cancel(store, Kiln(obedient, fidelity="simulated", recovery=Recovery.IDEMPOTENT))
    assert store.trial(NAME, 1).steps[0].state is StepState.PLANNED
    assert store.campaign(NAME).spent.trials == 0
    carry(store, Kiln(fidelity="simulated"), 1)
    assert store.trial(NAME, 1).state is TrialState.COMPLETED


def test_cancelling_a_queryable_act_lets_the_next_start_find_it(store: CampaignStore) -> None:
    """The attempt stays open; the next process looks the job up and records it without starting anything."""
    kiln = Logged(forever)
    cancel(store, kiln)
    assert states(store) == [AttemptState.INTENT]
    order = kiln.orders[0]
    again = Logged(jobs={order.key: Finished(good(order))})
    made = carry(store, again, 1)
    assert again.orders == []
    assert made.questions() == []
    assert store.trial(NAME, 1).state is TrialState.COMPLETED


# --- lost sight of a job --------------------------------------------------------------------------------------------


def test_a_time_out_on_a_queryable_instrument_is_looked_up(store: CampaignStore) -> None:
    """The driver loses the job; the instrument's log says where it is; nothing is sent twice."""
    kiln = Logged()

    async def loses(order: Order, events: Events) -> Result:
        kiln.jobs[order.key] = Running({"job": 1})
        message = "no answer"
        raise TimedOut(message)

    kiln.script = [loses]
    carry(store, kiln, 1)
    assert len(kiln.orders) == 1
    assert states(store) == [AttemptState.RECORDED]


def test_never_started_needs_a_second_look_after_the_longest_delivery(store: CampaignStore) -> None:
    """An empty log is believed only after `delivery_s`; an order that arrives meanwhile is found and not repeated."""
    kiln = Logged()

    async def late(order: Order, events: Events) -> Result:
        asyncio.get_running_loop().call_later(1.5, kiln.jobs.__setitem__, order.key, Finished(good(order)))
        message = "no answer"
        raise TimedOut(message)

    kiln.script = [late]
    carry(store, kiln, 1)
    assert (len(kiln.orders), kiln.lookups) == (1, 2)
    assert states(store) == [AttemptState.RECORDED]


def test_a_start_that_was_lost_is_tried_again_with_a_new_key(store: CampaignStore) -> None:
    """Proof that nothing started: the attempt ends NOT_STARTED, and a second one is made."""
    kiln = Logged(TimedOut("lost on the way"))
    carry(store, kiln, 1)
    assert states(store) == [AttemptState.NOT_STARTED, AttemptState.RECORDED]
    assert kiln.orders[0].key != kiln.orders[1].key


@pytest.mark.parametrize("why", ["accepted before", "gave up", "unsure"])
def test_not_found_is_no_proof_where_it_could_still_run(store: CampaignStore, why: str) -> None:
    """An accepted job that is gone, a driver that had to be given up, a log that cannot tell: a person is asked."""
    kiln = Logged()

    async def loses(order: Order, events: Events) -> Result:
        if why == "accepted before":
            await events.accepted({"job": 1})
        if why == "gave up":
            await asyncio.sleep(1e9)
        if why == "unsure":
            kiln.jobs[order.key] = Unsure("log rotated")
        message = "no answer"
        raise TimedOut(message)

    kiln.script = [loses]
    made = carry(store, kiln, 1)
    assert len(kiln.orders) == 1
    assert [q.kind for q in made.questions()] == ["unknown"] + ["service"] * (why == "gave up")


def test_an_idempotent_instrument_gets_the_same_key_again(store: CampaignStore) -> None:
    """Sending again is harmless there, so nobody is asked."""
    kiln = Kiln(TimedOut("no answer"), recovery=Recovery.IDEMPOTENT)
    carry(store, kiln, 1)
    assert [order.key for order in kiln.orders] == [kiln.orders[0].key] * 2
    assert states(store) == [AttemptState.RECORDED]


def test_an_idempotent_instrument_that_stays_silent_is_never_written_off(store: CampaignStore) -> None:
    """A real act whose outcome stays unknown ends as a question, even if the later tries had no effect."""
    errors = [TimedOut("no answer"), NotConnected("cable"), NotConnected("cable")]
    made = carry(store, Kiln(*errors, recovery=Recovery.IDEMPOTENT), 1)
    assert len(made.questions()) == 1
    assert states(store) == [AttemptState.UNKNOWN]


def test_a_failing_computation_ends_after_two_tries(store: CampaignStore) -> None:
    """The same bug twice is the answer of a computation."""
    kiln = Kiln(Fault("diverged"), Fault("diverged"), recovery=Recovery.IDEMPOTENT, fidelity="simulated")
    carry(store, kiln, 1)
    assert len(kiln.orders) == 2
    assert store.trial(NAME, 1).state is TrialState.FAILED


def test_an_exchanged_instrument_is_not_asked_for_the_old_ones_jobs(store: CampaignStore) -> None:
    """Another serial number: its empty log proves nothing about the order that the old one got."""
    cancel(store, Logged(forever))
    other = Logged()
    other.serial = "2"
    made = carry(store, other, 1)
    assert (other.lookups, other.orders) == (0, [])
    assert sorted(q.kind for q in made.questions()) == ["service", "unknown"]
    store.return_to_service(NAME, "kiln", actor="Ada", reason="it is the new one")
    assert carry(store, other).questions()[0].kind == "unknown"  # and at the next start it proves as little
    assert (other.lookups, other.orders) == (0, [])


# --- questions and answers ------------------------------------------------------------------------------------------


def unknown(store: CampaignStore) -> int:
    """Leave trial 1 UNKNOWN and return the attempt."""
    return carry(store, Kiln(TimedOut("no answer")), 1).questions()[0].attempt


def test_unknown_holds_the_instrument_until_answered(store: CampaignStore) -> None:
    """Another trial cannot use the instrument, and the error says who must answer what."""
    unknown(store)
    kiln = Kiln()
    with pytest.raises(Unanswered, match="trial 1"):
        carry(store, kiln, 2)
    assert kiln.orders == []
    assert store.trial(NAME, 2).steps[0].state is StepState.PLANNED


def test_an_answer_from_outside_sets_the_instrument_free(tmp_path: Path) -> None:
    """While something else runs, a trial waits for the answer instead of failing, and goes on when it comes."""
    long = {"step": "long", "instrument": "second"}
    store = new_store(tmp_path / "c.db", [FIRE], [800.0, 900.0])
    attempt = unknown(store)

    async def slow(order: Order, events: Events) -> Result:
        await events.sleep(50)
        return good(order)

    plan(store, [candidate(700.0)], config([long]).procedure)
    made = executor(store, Kiln(), procedure=[FIRE, long], others={"second": Kiln(slow)})

    async def main() -> None:
        await made.open()
        await made.recover()
        working, waiting = asyncio.create_task(made.carry_out(3)), asyncio.create_task(made.carry_out(2))
        await asyncio.sleep(20)
        assert not waiting.done()
        answer_not_started(store, attempt, who="Ada", reason="the kiln is cold")
        await working
        assert (await waiting).state is TrialState.COMPLETED
        await made.close()

    run_virtual(main())
    store.close()


def test_answer_not_started_plans_the_step_again(store: CampaignStore) -> None:
    """With a name and a reason the attempt is closed, and the step gets another."""
    attempt = unknown(store)
    answer_not_started(store, attempt, who="Ada", reason="the kiln is cold")
    assert any(e.actor == "Ada" and "cold" in e.note for e in store.events(NAME))
    carry(store, Kiln(), 1)
    assert states(store) == [AttemptState.NOT_STARTED, AttemptState.RECORDED]


def test_answer_done_records_what_the_person_read(store: CampaignStore) -> None:
    """Values with units go the ordinary way; a missing or impossible one is refused and changes nothing."""
    attempt = unknown(store)
    capability = run_virtual(Kiln().describe()).capabilities[0]
    with pytest.raises(BadData, match="shrinkage"):
        answer_done(store, attempt, {"strength": Quantity(3, "MPa")}, capability=capability, who="Ada", reason="log")
    assert states(store) == [AttemptState.UNKNOWN]
    values = {"strength": Quantity(3e6, "Pa"), "shrinkage": Quantity(4, "percent")}
    answer_done(store, attempt, values, capability=capability, who="Ada", reason="read from the kiln's log")
    assert {m.property: m.value for m in store.measurements(NAME)} == {"strength": 3.0, "shrinkage": 4.0}
    assert store.trial(NAME, 1).state is TrialState.COMPLETED
    with pytest.raises(StoreError, match="nothing to answer"):
        answer_discard(store, attempt, who="Ada", reason="twice")


def test_answer_discard_fails_the_trial_and_needs_a_name(store: CampaignStore) -> None:
    """The sample is lost: the trial fails, and the budget counts it."""
    attempt = unknown(store)
    with pytest.raises(StoreError, match="name"):
        answer_discard(store, attempt, who=" ", reason="broken")
    answer_discard(store, attempt, who="Ada", reason="the crucible broke")
    trial = store.trial(NAME, 1)
    assert trial.state is TrialState.FAILED
    assert store.campaign(NAME).spent.trials == 1


# --- what else can go wrong -----------------------------------------------------------------------------------------


def test_the_budget_is_obeyed_and_the_claim_given_back(tmp_path: Path) -> None:
    """The intent beyond the cap raises, and the step is PLANNED as before."""
    store = new_store(tmp_path / "c.db", [FIRE], [800.0, 900.0], budget={"trials": 1})
    with pytest.raises(BudgetSpent):
        carry(store, Kiln(), 1, 2)
    assert store.trial(NAME, 1).state is TrialState.COMPLETED
    assert store.trial(NAME, 2).steps[0].state is StepState.PLANNED
    store.close()


def test_a_full_disk_is_waited_for_with_the_result_in_hand(
    store: CampaignStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Storing the raw bytes fails twice; the result is kept in memory, told about, and stored when there is room."""
    put, failures, news = store.raw.put, [OSError("full"), StoreError("full")], []

    def full(content: bytes) -> str:
        if failures:
            raise failures.pop()
        return put(content)

    monkeypatch.setattr(store.raw, "put", full)
    kiln = Kiln()
    carry(store, kiln, 1, on_progress=news.append)
    assert store.trial(NAME, 1).state is TrialState.COMPLETED
    assert len(kiln.orders) == 1
    assert sum("cannot be stored" in one.text for one in news) == 2


def test_progress_reaches_the_campaign(store: CampaignStore) -> None:
    """What an instrument tells while it works arrives with trial and step, between 0 and 1."""
    news: list[Progress] = []

    async def telling(order: Order, events: Events) -> Result:
        events.progress(0.5, "half")
        events.progress(7.0)
        return good(order)

    carry(store, Kiln(telling), 1, on_progress=news.append)
    assert [(n.trial, n.step, n.fraction) for n in news] == [(1, "fire", 0.5), (1, "fire", 1.0)]


def test_names_that_do_not_fit_are_found_before_anything_runs(store: CampaignStore) -> None:
    """A wrong capability, a missing instrument and an envelope for nothing are refused at `open`."""
    for procedure, envelopes in (
        ([{**FIRE, "capability": "bake"}], {}),
        ([{"step": "x", "instrument": "oven"}], {}),
        ([FIRE], {"kiln": {"temprature": ParameterEnvelope(max=1.0)}}),
    ):
        made = executor(store, Kiln(), procedure=procedure, envelopes=envelopes)
        with pytest.raises(ConfigError):
            run_virtual(made.open())


def test_a_step_whose_inputs_cannot_be_built_fails_with_the_reason(tmp_path: Path) -> None:
    """An input that an earlier step did not give fails the trial before anything is sent."""
    lost = {**TEST, "inputs": {"load": {"from": "fire.colour"}}}
    store = new_store(tmp_path / "c.db", [FIRE, lost], [800.0])
    press = Press()
    carry(store, Kiln(), 1, procedure=[FIRE, lost], others={"press": press})
    trial = store.trial(NAME, 1)
    assert (trial.state, press.orders) == (TrialState.FAILED, [])
    assert "fire.colour" in trial.steps[1].reason
    store.close()


def test_effects_are_what_the_record_says(store: CampaignStore) -> None:
    """An error that says its effect is believed: a Busy after the start is unknown, and is not retried."""
    made = carry(store, Kiln(Busy("after the start", effect=Effect.UNKNOWN)), 1)
    assert len(made.questions()) == 1
