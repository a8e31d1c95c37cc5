"""The guard: what must not be sent is not sent, what cannot be believed is not recorded, and every order ends."""

from __future__ import annotations

import asyncio
import math
import struct
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.config.lab import ParameterEnvelope
from orchestrator.config.steps import StepConfig
from orchestrator.domain import (
    Candidate,
    Capability,
    Crystal,
    Description,
    Limit,
    Order,
    Output,
    Parameter,
    Quality,
    Quantity,
    Reading,
    Recovery,
    Result,
    Unsure,
    frozen,
)
from orchestrator.errors import (
    Aborted,
    BadData,
    Busy,
    Effect,
    Fault,
    InstrumentError,
    Interlocked,
    NotConnected,
    Rejected,
    TimedOut,
)
from orchestrator.execution.attempts import Attempts
from orchestrator.execution.checks import check_order, check_result
from orchestrator.execution.clock import VirtualClock, run_virtual
from orchestrator.execution.events import OrderEvents, Wish
from orchestrator.execution.guard import ABORT_S, CANCEL_S, GRACE_S, Outcome, supervise
from orchestrator.execution.inputs import Context, build_order
from orchestrator.execution.raw import pack, unpack
from orchestrator.execution.retry import Next, verdict
from orchestrator.record.views import StepOutput

CUBE = Crystal(((4.0, 0.0, 0.0), (0.0, 4.0, 0.0), (0.0, 0.0, 4.0)), ("Po",), ((0.0, 0.0, 0.0),))
FIRE = Capability(
    "fire",
    outputs=(Output("strength", "MPa", 0.0, 1000.0), Output("fired", kind="structure")),
    parameters=(
        Parameter("temperature", "degC", 20.0, 1200.0, resolution=5.0),
        Parameter("hold", "hour", 0.0, 10.0, default=1.0),
        Parameter("gas", choices=("air", "argon"), default="air"),
    ),
    limits=(Limit({"temperature": 1.0, "hold": 100.0}, 1500.0, "the lining does not stand long firings that hot"),),
    takes_structure=True,
)


def order(temperature: float = 800.0, unit: str = "degC", **changed: Any) -> Order:
    """An order that the capability takes."""
    settings = {"temperature": Quantity(temperature, unit), "hold": Quantity(60.0, "minute")}
    fields: dict[str, Any] = {"settings": settings, "choices": {"gas": "argon"}, "crystal": CUBE, **changed}
    return Order(key="k", capability="fire", **fields)


def result(value: float = 12.0, unit: str = "MPa", **changed: Any) -> Result:
    """A result that can be believed."""
    fields: dict[str, Any] = {"readings": (Reading("strength", value, unit),), "structures": {"fired": CUBE}, **changed}
    return Result("k", **fields)


def check(came: object, now: int = 10**15) -> Any:
    """Check a result of `order`."""
    return check_result(came, check_order(order(), FIRE), FIRE, ordered_at=now, now=now)


# --- orders ---------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.floats(allow_nan=True, allow_infinity=True))
def test_an_order_passes_only_inside_the_bounds_and_unchanged(kelvin: float) -> None:
    """Whatever number is asked: either it is refused, or it is sent as it was asked, inside every bound."""
    envelope = {"temperature": ParameterEnvelope(min=100.0, max=900.0)}
    asked = order(kelvin, "kelvin")
    if not 373.15 <= kelvin <= 1173.15:  # NaN is not inside either
        with pytest.raises(Rejected):
            check_order(asked, FIRE, {"temperature": ParameterEnvelope(min=100.1, max=899.9)})
        return
    celsius = check_order(asked, FIRE, envelope).settings["temperature"]
    assert celsius.unit == "degC"
    assert celsius.value == pytest.approx(kelvin - 273.15)


@pytest.mark.parametrize(
    ("changed", "names"),
    [
        ({"settings": {"temperature": Quantity(800, "degC")}}, "hold is missing"),
        ({"settings": {"temprature": Quantity(800, "degC")}}, "did you mean 'temperature'"),
        ({"settings": {"temperature": Quantity(800, "C"), "hold": Quantity(1, "hour")}}, "degC"),
        ({"settings": {"temperature": Quantity(8, "bar"), "hold": Quantity(1, "hour")}}, "different things"),
        ({"settings": {"temperature": Quantity(1100, "degC"), "hold": Quantity(9, "hour")}}, "lining"),
        ({"choices": {"gas": "neon"}}, "air, argon"),
        ({"choices": {}}, "gas is missing"),
        ({"crystal": None}, "structure"),
    ],
)
def test_refusals_say_what_is_wrong_and_have_no_effect(changed: dict[str, Any], names: str) -> None:
    """Each refusal names the set-point or the bound, and states that nothing happened."""
    with pytest.raises(Rejected, match=names) as caught:
        check_order(order(**changed), FIRE)
    assert caught.value.effect is Effect.NONE


def test_bounds_survive_the_conversion_of_their_own_value() -> None:
    """A set-point exactly on a bound, given in another unit, is not refused for a rounding error."""
    assert check_order(
        order(1473.15, "kelvin", settings={"temperature": Quantity(1473.15, "kelvin"), "hold": Quantity(0, "hour")}),
        FIRE,
    ).settings["temperature"].value == pytest.approx(1200.0)


# --- results --------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.floats(allow_nan=True, allow_infinity=True))
def test_only_finite_possible_numbers_are_believed(pascal: float) -> None:
    """Whatever number comes back: either it is refused, or it is finite, converted and physically possible."""
    came = result(pascal, "Pa")
    if not -1e-2 <= pascal <= 1.001e9:  # with room for what conversion rounds; NaN is not inside either
        with pytest.raises(BadData):
            check(came)
    elif 0.0 <= pascal <= 1e9:
        only = check(came).measurements[0]
        assert (only.value, only.unit) == (pytest.approx(pascal / 1e6, abs=1e-8), "MPa")


@pytest.mark.parametrize(
    "came",
    [
        None,
        result(readings=(Reading("strength", 1.0, "MPa", std_error=math.nan),)),
        result(readings=(Reading("strength", 1.0, "MPa", std_error=-1.0),)),
        result(readings=(Reading("strength", 1.0, "MPa", quality=Quality.BAD),)),
        result(readings=(Reading("strength", 1.0, "MPa", measured_at=10**15 - 60_000_000),)),
        result(readings=()),
        result(structures={}),
        result(structures={"fired": Crystal(CUBE.lattice, ("Po",), ((0.0, math.nan, 0.0),))}),
        result(structures={"fired": Crystal(CUBE.lattice, (), ())}),
        result(applied={"temperature": Quantity(806.0, "degC")}),
        result(applied={"temperature": Quantity(math.nan, "degC")}),
        result(applied={"temperature": Quantity(8.0, "bar")}),
        result(applied={"hold": Quantity(2.0, "hour")}),
        result(applied_choices={"gas": "air"}),
        Result("other", result().readings, {"fired": CUBE}),
    ],
)
def test_what_cannot_be_believed_is_bad_data(came: object) -> None:
    """Missing, impossible, stale, shifted or not applied: refused, and the effect is that the work was done."""
    with pytest.raises(BadData) as caught:
        check(came)
    assert caught.value.effect is Effect.DONE


def test_what_can_be_believed_passes_with_its_quality_and_time() -> None:
    """Uncertain stays uncertain, the instrument's own time is kept, a set-point within the resolution is reached."""
    reading = Reading("strength", 1.0, "GPa", std_error=0.1, quality=Quality.UNCERTAIN, measured_at=10**15 + 5)
    extra = Reading("colour", 3.0, "dimensionless")
    checked = check(
        result(readings=(reading, extra), applied={"temperature": Quantity(1077.15, "kelvin")}, notes="by hand")
    )
    only = checked.measurements[0]
    assert (only.value, only.std_error, only.quality) == (
        pytest.approx(1000.0),
        pytest.approx(100.0),
        Quality.UNCERTAIN,
    )
    assert only.measured_at == 10**15 + 5
    assert checked.applied == {"temperature": pytest.approx(804.0)}
    assert "colour" in checked.notes
    assert "by hand" in checked.notes
    assert check(result()).measurements[0].measured_at == 10**15


# --- raw bytes ------------------------------------------------------------------------------------------------------

numbers = st.floats(allow_nan=True, allow_infinity=True)


@settings(deadline=None)
@given(numbers, st.none() | numbers, st.text(), st.dictionaries(st.text(), st.builds(Quantity, numbers, st.text())))
def test_a_result_comes_back_from_its_raw_bytes(
    value: float, error: float | None, text: str, applied: dict[str, Quantity]
) -> None:
    """Whatever a driver returns is read back as it was, NaN and infinities included."""
    sent = Result("k", (Reading("p", value, text, error),), {"fired": CUBE}, frozen(applied), notes=text)
    back, attachments = unpack(pack(sent)[0])
    assert repr(back.readings) == repr(sent.readings)  # as text, for NaN is not equal to itself
    assert {name: repr(q) for name, q in back.applied.items()} == {name: repr(q) for name, q in applied.items()}
    assert (back.structures, back.notes) == (sent.structures, text)
    assert pack(back)[0] == pack(sent)[0]
    assert attachments == ()


@pytest.mark.parametrize("odd", [None, 3, {"strength": 1}, Result("k", (Reading("p", "OVER", "MPa"),))])  # type: ignore[arg-type]
def test_odd_returns_are_kept_and_refused(odd: object) -> None:
    """What is no result, or holds text for a number, has raw bytes too, and is bad data when it is read."""
    content, _ = pack(odd)
    assert content
    with pytest.raises(BadData):
        unpack(content)


# --- supervising ----------------------------------------------------------------------------------------------------


class Device:
    """Takes note of aborts; `deaf` ones do not come back from them."""

    def __init__(self, *, deaf: bool = False) -> None:
        self.aborts: list[str] = []
        self.deaf = deaf

    async def abort(self, reason: str) -> None:
        self.aborts.append(reason)
        if self.deaf:
            await asyncio.sleep(1e9)


def supervised(work: Any, device: Device, *, wish_after: float | None = None) -> tuple[Outcome, float]:
    """Supervise work with a deadline of ten virtual seconds; return the outcome and how long it took."""

    async def main() -> tuple[Outcome, float]:
        clock, wish = VirtualClock(), Wish()
        events = OrderEvents(clock, wish, lambda _: None, lambda *_: None)
        if wish_after is not None:
            asyncio.get_running_loop().call_later(wish_after, wish.make, "stopped")
        outcome = await supervise(work(events), device, events, clock, deadline_s=10.0)  # type: ignore[arg-type]
        return outcome, clock.monotonic()

    return run_virtual(main())


async def endless(events: OrderEvents) -> Result:
    """Work that never ends by itself."""
    await asyncio.sleep(1e9)
    raise AssertionError


async def obedient(events: OrderEvents) -> Result:
    """Work that ends when asked."""
    while not events.abort_requested():
        await events.sleep(0.1)
    message = "asked to"
    raise Aborted(message)


async def stubborn(events: OrderEvents) -> Result:
    """Work that swallows its cancellation."""
    while True:
        try:
            await asyncio.sleep(1e9)
        except asyncio.CancelledError:
            await asyncio.sleep(30)


@pytest.mark.parametrize("deaf", [False, True])
@pytest.mark.parametrize("work", [endless, stubborn])
def test_no_driver_outlives_its_deadline_by_more_than_the_abort_takes(work: Any, deaf: bool) -> None:
    """Deadline, abort, cancel: each has its time, and the outcome is unknown because the driver was given up."""
    device = Device(deaf=deaf)
    outcome, took = supervised(work, device)
    assert isinstance(outcome.error, TimedOut)
    assert (outcome.error.effect, outcome.ended) == (Effect.UNKNOWN, False)
    assert took <= 10 + GRACE_S + ABORT_S + CANCEL_S + 0.1
    assert device.aborts == ["no result within 10 s"]


def test_an_obedient_driver_says_itself_what_happened() -> None:
    """The driver's own word on an abort counts, and comes at once."""
    device = Device()
    outcome, took = supervised(obedient, device, wish_after=3.0)
    assert isinstance(outcome.error, Aborted)
    assert (outcome.ended, outcome.aborted) == (True, "stopped")
    assert took < 3.5


def test_what_a_driver_raises_becomes_an_outcome() -> None:
    """InstrumentErrors are passed on; anything else is a fault of unknown effect."""

    async def busy(events: OrderEvents) -> Result:
        message = "in use"
        raise Busy(message)

    async def buggy(events: OrderEvents) -> Result:
        return {}["no such key"]

    assert isinstance(supervised(busy, Device())[0].error, Busy)
    fault = supervised(buggy, Device())[0].error
    assert isinstance(fault, Fault)
    assert fault.effect is Effect.UNKNOWN
    assert "KeyError" in str(fault)


def test_a_driver_that_reports_its_own_deadline_is_not_taken_for_dead() -> None:
    """A TimedOut at the deadline may leave a blocked call behind, so "never started" would be no proof."""

    async def reports(events: OrderEvents) -> Result:
        await events.sleep(10.0)
        message = "no answer"
        raise TimedOut(message)

    assert supervised(reports, Device())[0].ended is False


# --- the retry table ------------------------------------------------------------------------------------------------

ERRORS: list[type[InstrumentError]] = [NotConnected, Busy, Rejected, Interlocked, TimedOut, Aborted, BadData, Fault]


@settings(deadline=None)
@given(
    st.sampled_from(ERRORS),
    st.sampled_from(list(Effect)),
    st.integers(1, 9),
    st.sampled_from(list(Recovery)),
    st.sampled_from(["real", "simulated"]),
)
def test_nothing_that_may_have_happened_is_repeated_by_itself(
    kind: type[InstrumentError], effect: Effect, failed: int, recovery: Recovery, fidelity: str
) -> None:
    """A real act is retried only if nothing happened; unknown is never retried with a new key, and retries end."""
    description = Description((FIRE,), recovery)
    capability = Capability("fire", (), fidelity=fidelity)
    said = verdict(kind("x", effect=effect), failed=failed, description=description, capability=capability)
    if fidelity == "real" and effect is not Effect.NONE:
        assert said.next is not Next.RETRY
    if effect is Effect.UNKNOWN:
        assert said.next is not Next.RETRY
        if recovery is Recovery.BLIND:
            assert said.next is Next.HOLD
        if fidelity == "real":
            assert said.next is not Next.FAIL
    if said.next is Next.SEND_AGAIN:
        assert recovery is Recovery.IDEMPOTENT
    if failed >= 5:
        assert said.next not in (Next.RETRY, Next.SEND_AGAIN)
    if said.next is Next.PAUSE:
        assert effect is Effect.NONE
    if said.next is Next.RETRY and effect is Effect.NONE:
        assert said.wait_s > 0
    assert said.why


# --- inputs ---------------------------------------------------------------------------------------------------------


def step(**inputs: Any) -> StepConfig:
    """A firing step."""
    return StepConfig.model_validate({"step": "fire", "instrument": "kiln", "inputs": inputs})


def context(**changed: Any) -> Context:
    """A candidate with a temperature, after a weighing step."""
    candidate = Candidate.make(
        label="x", parameters={"temperature": 1073.15, "T2": 900.0}, crystal=CUBE, crystal_key="po"
    )
    outputs = {"weigh": StepOutput(frozen({"duration": (30.0, "minute")}), frozen({"pellet": CUBE}))}
    return Context(**{"candidate": candidate, "outputs": outputs, **changed})


def test_inputs_come_from_step_candidate_and_default_in_this_order() -> None:
    """By name from the candidate, in the space's unit; else as the step says; else the capability's default."""
    built = build_order(step(), FIRE, context(units={"temperature": "kelvin"}))
    assert built.settings == {"temperature": Quantity(1073.15, "kelvin"), "hold": Quantity(1.0, "hour")}
    assert (built.choices, built.crystal, built.label) == ({"gas": "air"}, CUBE, "x")
    assert check_order(built, FIRE).settings["temperature"].value == pytest.approx(800.0)
    named = build_order(
        step(
            temperature={"from": "candidate.T2"},
            hold={"from": "weigh.duration"},
            gas={"value": "argon"},
            structure={"from": "weigh.pellet"},
        ),
        FIRE,
        context(),
    )
    assert named.settings == {"temperature": Quantity(900.0, "degC"), "hold": Quantity(30.0, "minute")}
    assert (named.choices, named.crystal) == ({"gas": "argon"}, CUBE)


@pytest.mark.parametrize(
    ("inputs", "names"),
    [
        ({"temprature": {"value": 3}}, "did you mean 'temperature'"),
        ({"temperature": {"from": "candidate.T3"}}, "T2"),
        ({"hold": {"from": "weigh.mass"}}, "duration"),
        ({"hold": {"from": "mill.duration"}}, "weigh"),
        ({"structure": {"from": "weigh.powder"}}, "pellet"),
        ({"structure": {"value": "cube"}}, "candidate.structure"),
    ],
)
def test_an_input_that_is_not_there_is_named_with_what_there_is(inputs: dict[str, Any], names: str) -> None:
    """The message says what was looked for and what could have been meant."""
    with pytest.raises(Rejected, match=names):
        build_order(step(**inputs), FIRE, context())


async def test_a_look_up_that_raises_anything_is_no_answer() -> None:
    """A spoiled answer makes libraries raise what they like; the outcome stays unknown, and the campaign goes on."""

    class Spoiled:
        async def lookup(self, key: str, handle: object) -> Any:
            return struct.unpack("<i", b"\0")

        async def attach(self, handle: object, events: object) -> Any:
            raise NotImplementedError

    attempt = SimpleNamespace(key="k", handle=None)
    where = await Attempts.whereabouts(None, SimpleNamespace(instrument=Spoiled()), attempt)  # type: ignore[arg-type]
    assert isinstance(where, Unsure)
    assert "unpack requires" in where.why
