"""Every fault of simulated instruments does what its table says, and the campaign's checks see what they can see."""

from __future__ import annotations

import asyncio
import time
from typing import Any, get_args

import pytest

from instruments.conformance.orders import QuietEvents
from instruments.simulated.faults import UNSEEN, FaultKind
from instruments.simulated.wrapper import Simulated, SimulatedOptions
from orchestrator.domain import Order, Quantity, Result
from orchestrator.errors import BadData, Effect, InstrumentError, NotConnected, TimedOut
from orchestrator.execution.checks import check_result

FIRE = {"temperature": Quantity(1100.0, "degC"), "time": Quantity(5.0, "hour"), "excess": Quantity(0.4, "g")}
SEEN = ("times_1000", "nan", "wrong_unit", "stale", "partial", "wrong_key")


def simulated(**options: Any) -> Simulated:
    """Wrap a furnace."""
    return Simulated(SimulatedOptions.model_validate({"instrument": {"use": "simulated_furnace"}, **options}))


def fire(key: str = "k") -> Order:
    """Ask for a firing."""
    return Order(key, "fire", FIRE)


async def checked(driver: Simulated, order: Order) -> list[float]:
    """Run an order and pass its result through the campaign's checks."""
    asked = time.time_ns() // 1000
    result = await driver.run(order, QuietEvents())
    capability = (await driver.describe()).capabilities[0]
    found = check_result(result, order, capability, ordered_at=asked, now=asked)
    return [one.value for one in found.measurements]


@pytest.mark.parametrize("fault", SEEN)
async def test_what_a_result_shows(fault: str) -> None:
    """The checks of the campaign refuse the result."""
    with pytest.raises(BadData):
        await checked(simulated(faults={fault: 1.0}), fire())


@pytest.mark.parametrize("fault", UNSEEN)
async def test_what_no_result_shows(fault: str) -> None:
    """These pass the checks: the documentation says so, and this test keeps it true."""
    right = await checked(simulated(), fire())
    wrong = await checked(simulated(faults={fault: 1.0}), fire())
    assert (wrong != right) == (fault in {"offset", "drift"})


@pytest.mark.parametrize(
    ("fault", "error", "done"),
    [("timed_out_before", TimedOut, 0), ("timed_out", TimedOut, 1), ("disconnected", NotConnected, 1)],
)
async def test_lost_answers(fault: str, error: type[InstrumentError], done: int) -> None:
    """The effect is unknown, whether the work was done or not: the error is the same, the device is not."""
    driver = simulated(faults={fault: 1.0})
    keys = record(driver)
    with pytest.raises(error) as caught:
        await driver.run(fire(), QuietEvents())
    assert caught.value.effect is Effect.UNKNOWN
    assert len(keys) == done


async def test_the_work_is_done_twice() -> None:
    """The inner instrument gets the order twice, with the same key."""
    driver = simulated(faults={"double_effect": 1.0})
    keys = record(driver)
    await driver.run(fire("one"), QuietEvents())
    assert keys == ["one", "one"]


async def test_drift_grows_with_each_order() -> None:
    """The tenth reading is further off than the first."""
    driver = simulated(faults={"drift": 1.0})
    values = [(await checked(driver, fire(str(i))))[0] for i in range(10)]
    assert values == sorted(values)
    assert values[-1] / values[0] == pytest.approx(1.02 / 1.002)


async def test_a_hang_ends_with_its_task_only() -> None:
    """Aborts are not heard; the guard's last resort, cancelling, ends it."""
    driver, events = simulated(faults={"hang": 1.0}), QuietEvents()
    await driver.open()
    job = asyncio.create_task(driver.run(fire(), events))
    await asyncio.sleep(0.02)
    events.abort = True
    await driver.abort("stop")
    await asyncio.sleep(0.02)
    assert not job.done()
    assert (await driver.health()).state == "busy"
    job.cancel()
    with pytest.raises(asyncio.CancelledError):
        await job
    assert (await driver.health()).state == "ready"
    await driver.close()


async def test_slow_is_right_and_late() -> None:
    """Ten times the simulated time passes, and the value is the right one."""
    slept = []

    class Slept(QuietEvents):
        async def sleep(self, seconds: float) -> None:
            slept.append(seconds)

    quick, slow = (simulated(duration_s={"mean": 3.0}, **more) for more in ({}, {"faults": {"slow": 1.0}}))
    right = await quick.run(fire(), Slept())
    usual = sum(slept)
    late = await slow.run(fire(), Slept())
    assert late.readings == right.readings
    assert sum(slept) - usual == pytest.approx(10 * usual)


async def test_a_deadline_ends_simulated_time() -> None:
    """An order whose deadline passes on the campaign's clock is a time-out with an effect."""
    with pytest.raises(TimedOut) as caught:
        await simulated(duration_s={"mean": 60.0}).run(Order("k", "fire", FIRE, deadline_s=5.0), QuietEvents())
    assert caught.value.effect is Effect.STARTED


def test_every_fault_is_tested() -> None:
    """The list of faults holds the seventeen of the plan and more; none is left out of the tests here and beside."""
    beside = {"busy", "not_connected", "rejected", "interlocked", "fault"}  # tests/test_instruments_simulated.py
    here = {*SEEN, *UNSEEN, "timed_out_before", "timed_out", "disconnected", "hang", "slow"}
    assert here | beside == set(get_args(FaultKind))
    assert len(get_args(FaultKind)) >= 17


def record(driver: Simulated) -> list[str]:
    """Note the keys of the orders that the inner instrument gets."""
    keys: list[str] = []
    inner = driver.inner.run

    async def watched(order: Order, events: Any) -> Result:
        keys.append(order.key)
        return await inner(order, events)

    driver.inner.run = watched  # type: ignore[method-assign]
    return keys
