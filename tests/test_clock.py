"""The virtual clock: durations cost no waiting, and nothing real is overtaken."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from orchestrator.execution.clock import EPOCH_US, Clock, VirtualClock, run_virtual


def test_a_virtual_week_passes_at_once() -> None:
    """Sleeping a week takes no real time, and both clocks show the week."""

    async def week() -> tuple[float, int]:
        clock = VirtualClock()
        await clock.sleep(7 * 86400)
        return clock.monotonic(), clock.now()

    begun = time.monotonic()
    seconds, now = run_virtual(week())
    assert time.monotonic() - begun < 1
    assert seconds == pytest.approx(7 * 86400)
    assert now - EPOCH_US == pytest.approx(7 * 86400 * 1e6)


def test_timers_fire_in_order_and_equally_each_time() -> None:
    """Concurrent sleepers wake in the order of their durations, the same in every run."""

    async def race() -> list[tuple[str, float]]:
        clock, woken = VirtualClock(), []

        async def sleeper(name: str, seconds: float) -> None:
            await clock.sleep(seconds)
            woken.append((name, clock.monotonic()))

        await asyncio.gather(sleeper("slow", 30), sleeper("fast", 0.5), sleeper("middle", 7))
        return woken

    first = run_virtual(race())
    assert [name for name, _ in first] == ["fast", "middle", "slow"]
    assert first == run_virtual(race())


def test_a_thread_of_the_pool_takes_no_virtual_time() -> None:
    """While a pool thread works, a timer that is due much later must not fire first."""

    async def work() -> str:
        try:
            return await asyncio.wait_for(asyncio.to_thread(lambda: time.sleep(0.05) or "done"), timeout=1)
        except TimeoutError:
            return "overtaken"

    assert run_virtual(work()) == "done"


def test_a_driver_thread_holds_the_time_until_its_order_rests() -> None:
    """An order that works on a private thread is not overtaken by its deadline; one that sleeps lets time pass."""

    async def order() -> tuple[str, float]:
        clock = VirtualClock()
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        loop = asyncio.get_running_loop()

        def driver() -> None:
            time.sleep(0.05)
            loop.call_soon_threadsafe(future.set_result, "measured")
            time.sleep(0.2)

        thread = threading.Thread(target=driver, daemon=True)
        with clock.at_work():
            thread.start()
            answer = await asyncio.wait_for(future, timeout=1)
            with clock.at_work(-1):
                await clock.sleep(600)
        return answer, clock.monotonic()

    answer, seconds = run_virtual(order())
    assert answer == "measured"
    assert seconds == pytest.approx(600)


def test_a_virtual_clock_on_a_real_loop_is_refused() -> None:
    """A virtual clock outside `run_virtual` would mix two times; the error says what to use."""

    async def misuse() -> None:
        with VirtualClock().at_work():
            pass

    with pytest.raises(TypeError, match="Clock\\(\\)"):
        asyncio.run(misuse())


async def test_the_real_clock_goes_with_the_wall() -> None:
    """The real clock's `now` is UTC in microseconds, and its sleep is real."""
    clock = Clock()
    before, begun = clock.now(), clock.monotonic()
    with clock.at_work():
        await clock.sleep(0.01)
    assert clock.monotonic() - begun >= 0.009
    assert abs(before - time.time() * 1e6) < 1e6
