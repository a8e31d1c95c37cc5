"""Safety: doubted instruments leave, others take over, and nothing is sent where a gate is shut."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.config.lab import LabConfig
from orchestrator.domain import (
    Attachment,
    Capability,
    DecisionSummary,
    Description,
    Health,
    Identity,
    Order,
    Output,
    Proposal,
    Reading,
    Recovery,
    Result,
)
from orchestrator.errors import Aborted, BadData, Busy, ConfigError, Effect, Fault, NotConnected, TimedOut, Unanswered
from orchestrator.execution import raw
from orchestrator.execution.answers import answer, questions
from orchestrator.execution.clock import VirtualClock, run_virtual
from orchestrator.execution.executor import Executor
from orchestrator.protocols import Events
from orchestrator.record.states import AttemptState, CampaignState, TrialState
from orchestrator.record.store import CampaignStore, StepPlan
from tests import records
from tests.crash.world import NAME, candidate, config, new_store
from tests.test_executor import Kiln, good

ADA: dict[str, Any] = {"who": "Ada", "reason": "looked at it"}
INSTRUMENTS = {"kiln": {"use": "test"}, "oven": {"use": "test"}, "door": {"use": "test"}}
STEP = {"step": "fire", "instrument": "furnace", "capability": "fire"}


class Door(Kiln):
    """A switch that gives 1 for closed; as many readings as told, then closed for ever."""

    def __init__(self, *readings: float) -> None:
        super().__init__()
        self.readings = list(readings)

    async def describe(self) -> Description:
        return Description((Capability("look", (Output("closed", "dimensionless", 0.0, 1.0),)),))

    async def run(self, order: Order, events: Events) -> Result:
        self.orders.append(order)
        return Result(order.key, (Reading("closed", self.readings.pop(0) if self.readings else 1.0, "dimensionless"),))


class Absent(Kiln):
    """A kiln whose plug may be pulled."""

    def __init__(self, *script: Any) -> None:
        super().__init__(*script)
        self.plugged = True
        self.opened = self.session = 0

    async def open(self) -> Identity:
        self._there()
        self.opened += 1
        return await super().open()

    async def health(self) -> Health:
        return Health("ready" if self.plugged and self.opened >= self.session else "offline")

    async def run(self, order: Order, events: Events) -> Result:
        self._there()
        return await super().run(order, events)

    def _there(self) -> None:
        if not self.plugged:
            message = "nobody answers"
            raise NotConnected(message)


def lab(**more: Any) -> LabConfig:
    """A lab of two furnaces and a door, in which nobody waits longer than ten minutes."""
    instruments = {name: {**entry, **more.pop(name, {})} for name, entry in INSTRUMENTS.items()}
    kinds = {"furnace": ["kiln", "oven"]}
    return LabConfig.model_validate({"instruments": instruments, "kinds": kinds, "patience_s": 600, **more})


@pytest.fixture
def store(tmp_path: Path) -> Iterator[CampaignStore]:
    """A store with four planned trials on whichever furnace is free."""
    made = new_store(tmp_path / "c.db", [STEP], [800.0, 850.0, 900.0, 950.0])
    yield made
    made.close()


def carry(
    store: CampaignStore, here: LabConfig, instruments: dict[str, Any], trials: Sequence[int], *, together: bool = False
) -> Executor:
    """Carry out trials in virtual time."""
    made = Executor(store, NAME, instruments, config([STEP]).procedure, clock=VirtualClock(), lab=here)

    async def main() -> None:
        await made.open()
        try:
            await made.recover()
            if together:
                await asyncio.gather(*(made.carry_out(trial) for trial in trials))
            for trial in [] if together else trials:
                await made.carry_out(trial)
        finally:
            await made.close()

    run_virtual(main())
    return made


def completed(store: CampaignStore) -> list[int]:
    """Numbers of the trials that are done."""
    return [one.number for one in store.trials(NAME) if one.state is TrialState.COMPLETED]


# --- out of service -------------------------------------------------------------------------------------------------


def test_another_of_the_kind_takes_over(store: CampaignStore) -> None:
    """A furnace that reports a fault goes out of service, is asked about, and gets no more orders."""
    kiln, oven = Kiln(Fault("heater broken", effect=Effect.NONE)), Kiln()
    carry(store, lab(), {"kiln": kiln, "oven": oven}, [1, 2, 3])
    assert completed(store) == [1, 2, 3]
    assert (len(kiln.orders), len(oven.orders)) == (1, 3)
    assert [attempt.instrument for attempt in store.attempts(NAME)] == ["kiln", "oven", "oven", "oven"]
    assert store.trial(NAME, 1).steps[0].instrument == "furnace"
    assert store.out_of_service(NAME)["kiln"].cause == "fault"
    assert [(q.kind, q.instrument) for q in questions(store, NAME)] == [("service", "kiln")]
    assert store.campaign(NAME).state is CampaignState.ACTIVE
    answer(store, NAME, questions(store, NAME)[0], "retry", **ADA)
    carry(store, lab(), {"kiln": kiln, "oven": oven}, [4])
    assert len(kiln.orders) == 2


def _others_order(store: CampaignStore, instrument: str) -> int:
    """Let another campaign of the database use an instrument of the lab; return its attempt."""
    name = f"other-of-{instrument}"
    records.begin(store, name)
    (trial,) = records.decide(store, name, [1])
    return records.start(store, trial.steps[0].id, instrument=instrument, slots=1).id


def test_the_furnace_that_no_other_campaign_uses_is_taken(store: CampaignStore) -> None:
    """Of two furnaces, the free one is asked, whichever is named first."""
    _others_order(store, "kiln")
    kiln, oven = Kiln(), Kiln()
    carry(store, lab(), {"kiln": kiln, "oven": oven}, [1, 2])
    assert (completed(store), len(kiln.orders), len(oven.orders)) == ([1, 2], 0, 2)


def test_waiting_for_another_campaign_writes_nothing_into_the_journal(store: CampaignStore) -> None:
    """An hour's wait for furnaces that others use leaves no claims behind, and ends with the others' order."""
    theirs = [_others_order(store, name) for name in ("kiln", "oven")]
    here = lab(patience_s=7200)
    kiln, oven = Kiln(), Kiln()
    made = Executor(store, NAME, {"kiln": kiln, "oven": oven}, config([STEP]).procedure, clock=VirtualClock(), lab=here)

    async def main() -> None:
        await made.open()
        trial = asyncio.create_task(made.carry_out(1))
        await asyncio.sleep(3600)
        assert not [one for one in store.events(NAME) if one.kind == "claim"]
        store.end_attempt(theirs[1], AttemptState.NOT_STARTED, retry=False, reason="test")
        await trial
        await made.close()

    run_virtual(main())
    assert (completed(store), len(kiln.orders), len(oven.orders)) == ([1], 0, 1)


def test_both_furnaces_work_at_once(store: CampaignStore) -> None:
    """Trials on a kind share its members: two fire side by side, and none waits for the one that is taken."""

    async def slow(order: Order, events: Events) -> Result:
        await events.sleep(30)
        return good(order)

    kiln, oven = Kiln(slow, slow), Kiln(slow, slow)
    carry(store, lab(), {"kiln": kiln, "oven": oven}, [1, 2, 3, 4], together=True)
    assert (len(kiln.orders), len(oven.orders)) == (2, 2)


def test_failures_in_a_row_are_the_instruments_doing(store: CampaignStore) -> None:
    """After so many failures one after the other a real instrument is doubted; a success in between counts anew."""
    kiln, oven = Kiln(*[BadData("nan")] * 9), Kiln()
    carry(store, lab(kiln={"doubt_after": 2}), {"kiln": kiln, "oven": oven}, [1, 2, 3, 4])
    assert len(kiln.orders) == 2
    assert store.out_of_service(NAME)["kiln"].cause == "faults"
    assert completed(store) == [3, 4]


def test_a_lost_link_comes_back_by_itself(store: CampaignStore) -> None:
    """Nothing else can go on, so the campaign waits; when the device answers again it goes on, and nobody is asked."""
    kiln = Absent()
    alone = lab(kinds={"furnace": ["kiln"]})

    async def main() -> None:
        made = Executor(store, NAME, {"kiln": kiln}, config([STEP]).procedure, clock=VirtualClock(), lab=alone)
        await made.open()
        kiln.plugged = False
        trial = asyncio.create_task(made.carry_out(1))
        await asyncio.sleep(300)
        assert store.out_of_service(NAME)["kiln"].cause == "offline"
        assert [q.kind for q in made.questions()] == ["service"]
        kiln.plugged = True
        assert (await trial).state is TrialState.COMPLETED
        assert made.questions() == []
        await made.close()

    run_virtual(main())
    assert store.out_of_service(NAME) == {}
    assert store.asked(NAME, answered=True)[0].by == "matloop"


def test_where_nothing_can_go_on_the_campaign_pauses_in_the_end(store: CampaignStore) -> None:
    """Patience ends: PAUSED, with the reason; no trial has failed, and nothing was spent."""
    kiln = Absent()

    async def main() -> None:
        alone = lab(kinds={"furnace": ["kiln"]})
        made = Executor(store, NAME, {"kiln": kiln}, config([STEP]).procedure, clock=VirtualClock(), lab=alone)
        await made.open()
        kiln.plugged = False
        begun = made.clock.monotonic()
        await asyncio.gather(made.carry_out(1), made.carry_out(2))
        assert 600 <= made.clock.monotonic() - begun < 900
        await made.close()

    run_virtual(main())
    assert store.campaign(NAME).state is CampaignState.PAUSED
    assert "'kiln' cannot go on" in store.campaign(NAME).state_reason
    assert store.campaign(NAME).spent.trials == 0
    assert [one.state for one in store.trials(NAME)] == [TrialState.PLANNED] * 4


def test_a_device_that_comes_back_as_another_one_stays_out(store: CampaignStore) -> None:
    """The serial number changed while the plug was pulled: a person must say that it is in order."""
    kiln, oven = Absent(), Kiln()

    async def main() -> None:
        instruments = {"kiln": kiln, "oven": oven}
        made = Executor(store, NAME, instruments, config([STEP]).procedure, clock=VirtualClock(), lab=lab())
        await made.open()
        kiln.plugged = False
        await made.carry_out(1)
        kiln.plugged, kiln.serial = True, "2"
        kiln.session = kiln.opened + 1  # the old one died with the plug
        for trial in (2, 3):
            await made.carry_out(trial)
            await made._bench.look()
        await made.close()

    run_virtual(main())
    assert store.out_of_service(NAME)["kiln"].cause == "identity"
    assert completed(store) == [1, 2, 3]
    assert kiln.orders == []


def test_an_instrument_that_cannot_be_opened_does_not_stop_the_others(store: CampaignStore) -> None:
    """At the start too: out of service, and the rest goes on."""
    kiln = Absent()
    kiln.plugged = False
    carry(store, lab(), {"kiln": kiln, "oven": Kiln()}, [1, 2])
    assert completed(store) == [1, 2]
    assert "cannot be opened" in store.out_of_service(NAME)["kiln"].reason


class Garbled(Kiln):
    """A kiln whose line spoils the answers, so that a library raises what it likes."""

    async def open(self) -> Identity:
        message = "3840 is not a valid NodeClass"
        raise ValueError(message)


def test_nonsense_on_opening_does_not_stop_the_others(store: CampaignStore) -> None:
    """What a library raises over a flipped bit takes the instrument out of service, and ends no campaign."""
    carry(store, lab(), {"kiln": Garbled(), "oven": Kiln()}, [1, 2])
    assert completed(store) == [1, 2]
    assert "not a valid NodeClass" in store.out_of_service(NAME)["kiln"].reason


class Labelled(Kiln):
    """A kiln that says quickly what it is."""

    async def identity(self) -> Identity:
        return Identity("kiln", serial=self.serial)


def test_the_identity_is_compared_before_each_start(store: CampaignStore) -> None:
    """An exchanged device gets no order, where it can say quickly what it is."""
    kiln = Labelled()

    async def exchanged(order: Order, events: Events) -> Result:
        kiln.serial = "7"
        return good(order)

    kiln.script = [exchanged]
    carry(store, lab(), {"kiln": kiln, "oven": Kiln()}, [1, 2])
    assert len(kiln.orders) == 1
    assert store.out_of_service(NAME)["kiln"].cause == "identity"
    assert completed(store) == [1, 2]


# --- interlocks and approvals ---------------------------------------------------------------------------------------

DOOR = {
    "name": "door",
    "before": ["furnace"],
    "read": {"instrument": "door"},
    "output": "closed",
    "equals": 1,
    "message": "close the door",
}


def test_an_interlock_is_read_before_each_order_and_waits(store: CampaignStore) -> None:
    """The door is open twice: nothing was sent meanwhile, a question stood, and went away by itself."""
    kiln, door = Kiln(), Door(0.0, 0.0)
    here = lab(interlocks=[DOOR], kinds={"furnace": ["kiln"]})
    carry(store, here, {"kiln": kiln, "door": door}, [1, 2])
    assert completed(store) == [1, 2]
    assert len(kiln.orders) == 2
    assert len(door.orders) == 4
    asked = store.asked(NAME, answered=True)
    assert [(one.kind, one.verb, one.by) for one in asked] == [("interlock", "settled", "matloop")]
    assert "close the door (closed is 0); nothing was sent" in asked[0].message


def test_an_interlock_whose_meter_is_at_work_is_read_a_moment_later(store: CampaignStore) -> None:
    """Two trials read the same meter: that it is busy with the other is no question to a person."""

    class Shared(Door):
        """A meter that is at work for another trial, once."""

        async def run(self, order: Order, events: Events) -> Result:
            if not self.orders:
                self.orders.append(order)
                message = "all 1 slots are at work"
                raise Busy(message)
            return await super().run(order, events)

    kiln, door = Kiln(), Shared()
    carry(store, lab(interlocks=[DOOR], kinds={"furnace": ["kiln"]}), {"kiln": kiln, "door": door}, [1])
    assert completed(store) == [1]
    assert len(door.orders) == 2
    assert not store.asked(NAME, answered=True)


def test_an_interlock_that_cannot_be_read_does_not_hold(store: CampaignStore) -> None:
    """No news is no permission: the step waits, and in the end the campaign pauses."""

    class Broken(Door):
        async def run(self, order: Order, events: Events) -> Result:
            message = "line cut"
            raise NotConnected(message)

    kiln = Kiln()
    here = lab(interlocks=[DOOR], kinds={"furnace": ["kiln"]})
    carry(store, here, {"kiln": kiln, "door": Broken()}, [1])
    assert kiln.orders == []
    assert store.campaign(NAME).state is CampaignState.PAUSED
    assert "cannot be read: NotConnected: line cut" in store.campaign(NAME).state_reason
    assert store.attempts(NAME) == []


class Forgetful(Kiln):
    """A kiln that knows the keys of its orders, and loses the first answer."""

    def __init__(self) -> None:
        async def lost(order: Order, events: Events) -> Result:
            message = "no answer"
            raise TimedOut(message)

        super().__init__(lost, recovery=Recovery.IDEMPOTENT)


def test_an_interlock_is_read_again_before_an_order_is_sent_again(store: CampaignStore) -> None:
    """The door was opened after the first sending: an order that never arrived must not begin now."""
    kiln = Forgetful()
    here = lab(interlocks=[DOOR], kinds={"furnace": ["kiln"]})
    carry(store, here, {"kiln": kiln, "door": Door(1.0, 0.0)}, [1])
    assert len(kiln.orders) == 1
    asked = [q for q in questions(store, NAME) if q.kind == "unknown"]
    assert "must not be sent again: interlock 'door'" in asked[0].why


SIGN = {"instrument": "furnace", "parameter": "temperature", "above": 1150, "unit": "kelvin", "message": "hot"}


@pytest.mark.parametrize("verb", ["approve", "refuse"])
def test_a_person_signs_what_lies_above_the_limit(store: CampaignStore, verb: str) -> None:
    """850 degC is below 1150 K and goes on; 900 degC waits for a name, also over a restart, and then goes as told."""
    kiln, here = Kiln(), lab(approvals=[SIGN], kinds={"furnace": ["kiln"]})
    carry(store, here, {"kiln": kiln}, [2])
    with pytest.raises(Unanswered, match=r"temperature = 900 degC needs a signature: above 1150 kelvin.*hot"):
        carry(store, here, {"kiln": kiln}, [3])
    assert len(kiln.orders) == 1
    asked = questions(store, NAME)
    assert [(q.kind, q.trial, q.label) for q in asked] == [("approval", 3, "900 degC")]
    with pytest.raises(Unanswered):
        carry(store, here, {"kiln": kiln}, [3])
    answer(store, NAME, asked[0], verb, **ADA)
    carry(store, here, {"kiln": kiln}, [3])
    state = {"approve": TrialState.COMPLETED, "refuse": TrialState.ABANDONED}[verb]
    assert store.trial(NAME, 3).state is state
    assert len(kiln.orders) == (2 if verb == "approve" else 1)
    assert questions(store, NAME) == []


def test_what_is_not_signed_holds_up_nothing_else(store: CampaignStore) -> None:
    """While one trial waits for a signature the others are done."""
    kiln, here = Kiln(), lab(approvals=[SIGN], kinds={"furnace": ["kiln"]})

    async def main() -> None:
        made = Executor(store, NAME, {"kiln": kiln}, config([STEP]).procedure, clock=VirtualClock(), lab=here)
        await made.open()
        hot = asyncio.create_task(made.carry_out(3))
        await asyncio.gather(made.carry_out(1), made.carry_out(2))
        assert not hot.done()
        answer(store, NAME, questions(store, NAME)[0], "approve", **ADA)
        assert (await hot).state is TrialState.COMPLETED
        await made.close()

    run_virtual(main())


# --- the lab's own retry table --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "error", "ends", "orders"),
    [
        ({"then": "retry", "attempts": 5, "wait_s": 0}, Busy("in use"), TrialState.COMPLETED, 5),
        ({"then": "skip"}, Busy("in use"), TrialState.ABANDONED, 1),
        ({"then": "fail"}, Busy("in use"), TrialState.FAILED, 1),
        ({"then": "skip", "effect": "done", "error": "BadData"}, BadData("nan"), TrialState.ABANDONED, 1),
        ({"then": "retry", "effect": "done", "attempts": 9, "wait_s": 0}, BadData("nan"), TrialState.COMPLETED, 5),
        ({"then": "fail", "error": "Fault"}, Busy("in use"), TrialState.PLANNED, 3),
        ({"then": "fail", "instrument": "oven"}, Busy("in use"), TrialState.PLANNED, 3),
    ],
)
def test_the_labs_own_line_comes_first(
    store: CampaignStore, line: dict[str, Any], error: Exception, ends: TrialState, orders: int
) -> None:
    """A line that fits by error, effect and instrument counts; where none fits, the built-in table does."""
    kiln = Kiln(*[error] * 4)
    here = lab(failures=[line], kinds={"furnace": ["kiln"]}, patience_s=0)
    carry(store, here, {"kiln": kiln}, [1])
    assert len(kiln.orders) == orders
    assert store.trial(NAME, 1).state is ends


def test_another_instrument_tries_what_one_refused(store: CampaignStore) -> None:
    """After a failure with no effect the other member gets the step, and the first one stays in service."""
    kiln, oven = Kiln(Busy("in use")), Kiln()
    here = lab(failures=[{"error": "Busy", "then": "other_instrument", "wait_s": 1}])
    carry(store, here, {"kiln": kiln, "oven": oven}, [1])
    assert [one.instrument for one in store.attempts(NAME)] == ["kiln", "oven"]
    assert completed(store) == [1]
    assert store.out_of_service(NAME) == {}


@pytest.mark.parametrize(("verb", "ends"), [("retry", TrialState.COMPLETED), ("skip", TrialState.ABANDONED)])
def test_a_person_is_asked_where_the_lab_says_so(store: CampaignStore, verb: str, ends: TrialState) -> None:
    """`ask`: the step waits, and goes on as the person says."""
    kiln = Kiln(Aborted("the sample fell", effect=Effect.STARTED))
    here = lab(failures=[{"effect": "started", "then": "ask"}], kinds={"furnace": ["kiln"]}, patience_s=0)
    with pytest.raises(Unanswered, match="the sample fell"):
        carry(store, here, {"kiln": kiln}, [1])
    answer(store, NAME, questions(store, NAME)[0], verb, **ADA)
    carry(store, here, {"kiln": kiln}, [1])
    assert store.trial(NAME, 1).state is ends


def test_a_bad_result_is_held_where_the_lab_says_so(store: CampaignStore) -> None:
    """`hold`: the raw result waits for a person; other trials use the instrument meanwhile, also after a restart."""
    here = lab(failures=[{"effect": "done", "then": "hold"}], kinds={"furnace": ["kiln"]})

    async def strong(order: Order, events: Events) -> Result:
        readings = (Reading("strength", 2000.0, "MPa"), Reading("shrinkage", 5.0, "percent"))
        return good(order, readings=readings)

    carry(store, here, {"kiln": Kiln(strong)}, [1, 2])
    carry(store, here, {"kiln": Kiln()}, [3])
    assert store.attempts(NAME)[0].state is AttemptState.HELD
    assert completed(store) == [2, 3]
    asked = questions(store, NAME)[0]
    capability = asyncio.run(Kiln().describe()).capability(None)
    answer(store, NAME, asked, "approve", **ADA, capability=capability)
    assert completed(store) == [1, 2, 3]


# --- references and alarms ------------------------------------------------------------------------------------------

REFERENCE = {
    "every": 2,
    "settings": {"temperature": {"value": 500, "unit": "degC"}},
    "output": "strength",
    "value": 200,
    "tolerance": 10,
    "unit": "MPa",
}


def drifting(kiln: Kiln, *strengths: float) -> Kiln:
    """Let a kiln give one strength after the other."""

    def script(strength: float) -> Any:
        async def run(order: Order, events: Events) -> Result:
            readings = (Reading("strength", strength, "MPa"), Reading("shrinkage", 5.0, "percent"))
            return good(order, readings=readings)

        return run

    kiln.script = [script(one) for one in strengths]
    return kiln


def test_a_reference_is_measured_at_first_and_every_so_many_trials(store: CampaignStore) -> None:
    """Its results stand beside the trials' and in no dataset; the trials' budget does not count it."""
    kiln = drifting(Kiln(), 201, 100, 110, 199, 120, 130)
    here = lab(kiln={"reference": REFERENCE}, kinds={"furnace": ["kiln"]})
    carry(store, here, {"kiln": kiln}, [1, 2, 3, 4])
    assert [one.settings["temperature"].value for one in kiln.orders] == [500, 800, 850, 500, 900, 950]
    assert [(one.value, one.good) for one in store.references(NAME)] == [(201.0, True), (199.0, True)]
    assert {r.value for r in store.dataset(NAME).rows if r.property == "strength"} == {100, 110, 120, 130}
    assert store.campaign(NAME).spent.trials == 4
    assert completed(store) == [1, 2, 3, 4]
    assert store.verify(NAME) == []


def test_a_reference_that_is_off_doubts_what_was_measured_since(store: CampaignStore) -> None:
    """The instrument leaves, the trials since the last good reference teach nothing, and the other one takes over."""
    kiln = drifting(Kiln(), 201, 100, 110, 250)
    here = lab(kiln={"reference": REFERENCE})
    carry(store, here, {"kiln": kiln, "oven": Kiln()}, [1, 2, 3])
    assert store.out_of_service(NAME)["kiln"].cause == "reference"
    assert set(store.doubted(NAME)) == {1, 2}
    assert {row.trial for row in store.dataset(NAME).rows} == {3}
    assert store.attempts(NAME, trial=3)[-1].instrument == "oven"
    assert sorted(q.kind for q in questions(store, NAME)) == ["doubt", "service"]


def test_a_reference_whose_outcome_is_unknown_is_asked_about(store: CampaignStore) -> None:
    """A person goes on without it; the trial is not charged with it and not failed by it."""
    kiln = Kiln(Fault("smoke"))
    here = lab(kiln={"reference": REFERENCE}, kinds={"furnace": ["kiln"]})
    carry(store, here, {"kiln": kiln}, [1])
    asked = questions(store, NAME)
    assert [q.kind for q in asked] == ["reference"]
    answer(store, NAME, asked[0], "retry", **ADA)
    kiln = drifting(Kiln(), 200)
    carry(store, here, {"kiln": kiln}, [1])
    assert len(kiln.orders) == 2
    assert completed(store) == [1]


def test_a_stuck_sensor_is_found(store: CampaignStore) -> None:
    """Three times the same bits at three temperatures: out of service, and the three trials are doubted."""
    kiln = drifting(Kiln(), 133.7, 133.7, 133.7)
    carry(store, lab(kiln={"alarms": {"stuck": 3}}), {"kiln": kiln, "oven": Kiln()}, [1, 2, 3, 4])
    assert store.out_of_service(NAME)["kiln"].cause == "stuck"
    assert set(store.doubted(NAME)) == {1, 2, 3}
    assert store.attempts(NAME, trial=4)[0].instrument == "oven"


def test_a_reading_far_off_its_prediction_is_doubted(store: CampaignStore) -> None:
    """Nine readings lie within a few MPa of their prediction; the tenth, 60 MPa off, teaches nothing until trusted."""
    proposals = [
        Proposal(candidate(500.0 + 10 * i), policy="given", reason="for a test", mean={"strength": 200.0})
        for i in range(10)
    ]
    trials = store.record_decision(
        NAME,
        number=2,
        policy="given",
        purpose="asked",
        proposals=proposals,
        seen=[],
        seen_sha256="0" * 64,
        pending=[],
        closed_sha256="0" * 64,
        fit=None,
        seed=0,
        device="cpu",
        threads=1,
        seconds=0.0,
        summary=DecisionSummary(),
        steps=[StepPlan("fire", "furnace", "fire")],
    )
    numbers = [trial.number for trial in trials]
    kiln = drifting(Kiln(), *(200.0 + (-1) ** i * i for i in range(9)), 260.0)
    here = lab(kiln={"alarms": {"residual": 6}}, kinds={"furnace": ["kiln"]})
    carry(store, here, {"kiln": kiln}, numbers)
    assert set(store.doubted(NAME)) == {numbers[-1]}
    assert "robust standard deviations off its prediction" in store.doubted(NAME)[numbers[-1]]
    assert [q.kind for q in questions(store, NAME)] == ["doubt"]
    assert len({row.trial for row in store.dataset(NAME).rows}) == 9
    answer(store, NAME, questions(store, NAME)[0], "approve", **ADA)
    assert len({row.trial for row in store.dataset(NAME).rows}) == 10


def test_a_saturated_reading_is_uncertain(store: CampaignStore) -> None:
    """At the end of the range the sensor may have been blind: kept, and nothing is learned from it."""
    kiln = drifting(Kiln(), 1000, 400)
    here = lab(kiln={"alarms": {"saturation": ["strength"]}}, kinds={"furnace": ["kiln"]})
    carry(store, here, {"kiln": kiln}, [1, 2])
    found = {one.trial: one.quality.value for one in store.measurements(NAME) if one.property == "strength"}
    assert found == {1: "uncertain", 2: "good"}
    assert {row.trial for row in store.dataset(NAME).rows if row.property == "strength"} == {2}


# --- leases, sizes, stop --------------------------------------------------------------------------------------------


class Watched(Kiln):
    """A kiln with a dead-man's switch."""

    def __init__(self, *script: Any) -> None:
        super().__init__(*script)
        self.beats: list[float] = []

    async def heartbeat(self, ttl_s: float) -> None:
        self.beats.append(ttl_s)


def test_heartbeats_come_three_times_a_lease_while_the_executor_lives(store: CampaignStore) -> None:
    """A minute of work with a lease of 15 s: a beat every 5 s, and none after the end."""

    async def slow(order: Order, events: Events) -> Result:
        await events.sleep(59)
        return good(order)

    kiln = Watched(slow)
    here = lab(kiln={"lease_s": 15}, kinds={"furnace": ["kiln"]})
    carry(store, here, {"kiln": kiln}, [1])
    assert 11 <= len(kiln.beats) <= 13
    assert set(kiln.beats) == {15.0}


def test_a_lease_without_a_heartbeat_is_refused(store: CampaignStore) -> None:
    """A dead-man's switch that nothing holds would be worse than none."""
    with pytest.raises(ConfigError, match="no heartbeat"):
        carry(store, lab(kiln={"lease_s": 15}, kinds={"furnace": ["kiln"]}), {"kiln": Kiln()}, [1])


@pytest.mark.parametrize("what", ["file", "text"])
def test_a_result_larger_than_any_can_be_is_bad(
    store: CampaignStore, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """A reader that ran away fills no disk: the result is refused, with its size, and the campaign goes on."""
    monkeypatch.setattr(raw, "LARGEST_FILE", 1000)
    monkeypatch.setattr(raw, "LARGEST_TEXT", 5000)

    async def endless(order: Order, events: Events) -> Result:
        if what == "file":
            return good(order, attachments=(Attachment("dump", "text/plain", b"x" * 1001),))
        return replace(good(order), notes="x" * 6000)

    carry(store, lab(kinds={"furnace": ["kiln"]}), {"kiln": Kiln(endless)}, [1, 2])
    assert store.trial(NAME, 1).state is TrialState.FAILED
    assert "at most" in store.trial(NAME, 1).reason
    assert completed(store) == [2]
