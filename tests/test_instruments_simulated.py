"""Simulated duration, noise and faults, and the furnace with its known optimum."""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from instruments import conformance
from instruments.conformance.orders import QuietEvents
from instruments.simulated import furnace
from instruments.simulated.balance import Balance, BalanceOptions
from instruments.simulated.furnace import BEST, PEAK, Furnace, FurnaceOptions
from instruments.simulated.wrapper import Simulated, SimulatedOptions
from orchestrator import plugins
from orchestrator.domain import Absent, Order, Quantity, Result, Unsure
from orchestrator.errors import (
    Aborted,
    BadData,
    Busy,
    Effect,
    Fault,
    InstrumentError,
    Interlocked,
    NotConnected,
    PluginError,
    Rejected,
    TimedOut,
)


def simulated(**options: Any) -> Simulated:
    """Wrap a furnace."""
    return Simulated(SimulatedOptions.model_validate({"instrument": {"use": "simulated_furnace"}, **options}))


def fire(temperature: float = 1100.0, time: float = 5.0, excess: float = 0.4, key: str = "k") -> Order:
    """Ask for a firing."""
    settings = {
        "temperature": Quantity(temperature, "degC"),
        "time": Quantity(time, "hour"),
        "excess": Quantity(excess, "g"),
    }
    return Order(key, "fire", settings)


def value(result: Result, name: str = "conductivity") -> float:
    """Return one reading's value."""
    return next(reading.value for reading in result.readings if reading.property == name)


async def outcome(driver: Simulated, order: Order) -> Any:
    """Run an order; return its value or the kind of its error."""
    try:
        result = await driver.run(order, QuietEvents())
    except InstrumentError as error:
        return type(error)
    return value(result)


async def test_noise_is_fixed_by_seed_and_question() -> None:
    """Another order of questions, another key, another process: the same numbers; another seed: others."""
    temperatures = [1000.0, 1100.0, 1200.0]
    first, second, other = (simulated(noise={"conductivity": 1e-5}, seed=seed) for seed in (1, 1, 2))
    a = [await outcome(first, fire(t)) for t in temperatures]
    b = [await outcome(second, fire(t, key=f"other{t}")) for t in reversed(temperatures)][::-1]
    c = [await outcome(other, fire(t)) for t in temperatures]
    assert a == b
    assert not set(a) & set(c)


async def test_noise_has_the_stated_size_and_standard_error() -> None:
    """Over many questions the scatter is the option's, in the declared unit, and readings say so."""
    driver = simulated(noise={"density": 0.5})
    results = [await driver.run(fire(1100.0, 5.0, round(0.001 * i, 3)), QuietEvents()) for i in range(200)]
    off = [value(result, "density") - furnace.density(1100.0, 5.0) for result in results]
    assert 0.42 < np.std(off) < 0.58
    assert abs(np.mean(off)) < 0.15
    assert {reading.std_error for reading in results[0].readings} == {0.5, None}


@pytest.mark.parametrize(
    ("kind", "error", "effect"),
    [
        ("busy", Busy, Effect.NONE),
        ("not_connected", NotConnected, Effect.NONE),
        ("rejected", Rejected, Effect.NONE),
        ("interlocked", Interlocked, Effect.NONE),
        ("timed_out", TimedOut, Effect.UNKNOWN),
        ("fault", Fault, Effect.UNKNOWN),
    ],
)
async def test_every_kind_of_fault(kind: str, error: type[InstrumentError], effect: Effect) -> None:
    """Each fault raises its error with the effect that the contract gives it."""
    with pytest.raises(error) as caught:
        await simulated(faults={kind: 1.0}).run(fire(), QuietEvents())
    assert caught.value.effect is effect


async def test_bad_readings() -> None:
    """Not a number, a unit of another dimension and an old time stamp are given as readings, for the guard to catch."""
    broken = {kind: (await simulated(faults={kind: 1.0}).run(fire(), QuietEvents())).readings[0]
              for kind in ("nan", "wrong_unit", "stale")}  # fmt: skip
    assert math.isnan(broken["nan"].value)
    assert broken["wrong_unit"].unit == "kelvin"
    now = (await simulated(faults={"stale": 1.0}).run(fire(), QuietEvents())).readings[0].measured_at
    assert broken["stale"].measured_at is not None
    assert now is not None
    assert 0 <= now - broken["stale"].measured_at < 60e6
    rules = {
        "nan": "readings are finite and valid",
        "wrong_unit": "readings have the declared dimension",
        "stale": "time stamps are now",
    }
    for kind, rule in rules.items():
        findings = await conformance.check(simulated(faults={kind: 1.0}), level=2, order=fire())
        assert f"fire: {rule}" in {f.check for f in conformance.failures(findings)}


async def test_faults_are_fixed_by_the_seed_and_come_as_often_as_asked() -> None:
    """The same seed gives the same story; probabilities hold; passing faults pass, lasting ones stay."""
    faults = {"busy": 0.2, "fault": 0.1}
    orders = [fire(1000.0 + i, key=str(i)) for i in range(300)]
    first = simulated(faults=faults)
    stories = [[await outcome(first, order) for order in orders]]
    again = simulated(faults=faults)
    assert stories[0] == [await outcome(again, order) for order in orders]
    share = {kind: stories[0].count(kind) / len(orders) for kind in (Busy, Fault)}
    assert 0.14 < share[Busy] < 0.26
    assert 0.05 < share[Fault] < 0.16
    second = [await outcome(again, order) for order in orders]
    assert [story is Fault for story in stories[0]] == [story is Fault for story in second]
    assert sum(story is Busy and then is not Busy for story, then in zip(stories[0], second, strict=True)) > 20


async def test_a_lost_answer_has_had_its_effect() -> None:
    """`timed_out` lets the inner instrument work: the hard case for recovery."""
    driver = simulated(faults={"timed_out": 1.0})
    done: list[str] = []
    inner = driver.inner.run

    async def watched(order: Order, events: Any) -> Result:
        done.append(order.key)
        return await inner(order, events)

    driver.inner.run = watched  # type: ignore[method-assign]
    with pytest.raises(TimedOut):
        await driver.run(fire(), QuietEvents())
    assert done == ["k"]


async def test_durations_pass_on_the_campaigns_clock() -> None:
    """A simulated minute is slept through the events, with progress, and an abort ends it."""

    class Clock(QuietEvents):
        slept = 0.0

        async def sleep(self, seconds: float) -> None:
            self.slept += seconds
            await asyncio.sleep(0)

    clock = Clock()
    driver = simulated(duration_s={"mean": 60.0, "sd": 5.0})
    await driver.run(fire(), clock)
    assert 40 < clock.slept < 80
    assert clock.fractions[-1] == 1.0
    job = asyncio.create_task(driver.run(fire(), QuietEvents(speed=10.0)))
    await asyncio.sleep(0.05)
    await driver.abort("enough")
    with pytest.raises(Aborted, match="enough"):
        await asyncio.wait_for(job, 2)
    assert await driver.run(fire(), clock)
    declared = (await driver.describe()).capabilities[0]
    assert declared.typical_s > 60
    assert (await driver.describe()).simulated


async def test_recovery_is_that_of_the_inner_instrument(tmp_path: Any) -> None:
    """Look-ups reach the inner instrument; where it cannot look up, the answer is unsure."""
    inner = {"use": "operator", "options": {"outputs": {"strength": "MPa"}, "folder": str(tmp_path)}}
    operator = Simulated(SimulatedOptions.model_validate({"instrument": inner}))
    assert (await operator.describe()).recovery == "queryable"
    assert await operator.lookup("k", None) == Absent()
    assert isinstance(await simulated().lookup("k", None), Unsure)
    with pytest.raises(NotConnected):
        await simulated().attach({}, QuietEvents())


def test_wrong_options_fail_at_once() -> None:
    """A wrong inner option, too much probability and an unknown fault are told before anything runs."""
    for options in (
        {"instrument": {"use": "simulated_furnace", "options": {"heat": 1}}},
        {"instrument": {"use": "furnase"}},
        {"instrument": {"use": "simulated_furnace"}, "faults": {"busy": 0.7, "fault": 0.7}},
        {"instrument": {"use": "simulated_furnace"}, "faults": {"gremlins": 0.1}},
    ):
        with pytest.raises(ValidationError):
            SimulatedOptions.model_validate(options)
    with pytest.raises(PluginError, match="heat"):
        plugins.build("instruments", "simulated", {"instrument": {"use": "simulated_furnace", "options": {"heat": 1}}})


async def test_noise_of_an_unknown_property_is_refused() -> None:
    """A misspelt property would silently give no noise."""
    with pytest.raises(PluginError, match="'noise' names colour; the outputs are: conductivity, density"):
        await simulated(noise={"colour": 1.0}).describe()


@given(
    temperature=st.floats(900, 1400),
    time=st.floats(0.5, 24),
    excess=st.floats(0, 1),
)
def test_the_optimum_is_the_best(temperature: float, time: float, excess: float) -> None:
    """No set-points conduct better than the stated ones; density is a share of the whole."""
    assert furnace.conductivity(temperature, time, excess) <= PEAK
    assert furnace.conductivity(**BEST) == PEAK
    assert 60.0 <= furnace.density(temperature, time) <= 99.0


async def test_too_hot_and_too_long_melts() -> None:
    """There is a region where firing fails; the optimum is outside it."""
    driver = Furnace(FurnaceOptions())
    assert value(await driver.run(fire(**BEST), QuietEvents())) == PEAK
    with pytest.raises(BadData, match="melted") as caught:
        await driver.run(fire(1390.0, 20.0), QuietEvents())
    assert caught.value.effect is Effect.DONE
    await driver.close()


async def test_two_steps() -> None:
    """What the balance weighs is near the target, differs from it, is the same again, and can be fired."""
    balance, oven = Balance(BalanceOptions(seed=3)), Furnace(FurnaceOptions())
    order = Order("w", "weigh", {"target": Quantity(400.0, "mg")})
    masses = [value(await balance.run(replace(order, key=key), QuietEvents()), "mass") for key in "ab"]
    assert masses[0] == masses[1] != 0.4
    assert abs(masses[0] - 0.4) < 0.01
    fired = await oven.run(fire(BEST["temperature"], BEST["time"], masses[0]), QuietEvents())
    assert 0.99 * PEAK < value(fired) < PEAK
    await asyncio.gather(balance.close(), oven.close())
