"""One fault on one reply of one order, over a real protocol: what came of the order, and of the next one."""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from instruments.conformance.active import readings_of
from instruments.conformance.orders import QuietEvents, new_key
from instruments.simulated.wire import Chaos, WireFault
from orchestrator.domain import Order, Result
from orchestrator.errors import BadData, InstrumentError, Rejected
from orchestrator.execution.checks import check_order, check_result
from orchestrator.protocols import Instrument
from tests.loopback_servers import Server
from tests.wire_adapters import Adapter

DELAY_S = 0.5
"""Longer than the time-out of the adapters, 0.3 s where they have one."""
FREEZE_S = 1.0
DEADLINE_S = 3.0
LATE_S = 4.0
BACK_S = 10.0


class Bench:
    """An adapter with its server, and what its orders give when nothing is wrong.

    Args:
        adapter: to measure.
        server: of its protocol.
        folder: for its files.
    """

    def __init__(self, adapter: Adapter, server: Server, folder: Path) -> None:
        self.adapter = adapter
        self.server = server
        self.folder = folder
        self.expected: list[Result] = []

    async def rehearse(self) -> None:
        """Carry out both orders twice without any fault.

        Raises:
            RuntimeError: the device gives another answer the second time, so that nothing could be told.
        """
        driver = await self.adapter.driver(self.server.port, self.server.port, self.folder)
        self.capability = (await driver.describe()).capability(self.adapter.orders[0].capability)
        await driver.open()
        try:
            self.expected = [await send(driver, order) for order in self.adapter.orders]
            for place, order in enumerate(self.adapter.orders):
                again = await send(driver, order)
                if self.wrong(place, again):
                    message = f"{self.adapter.name} is not steady: {self.wrong(place, again)}"
                    raise RuntimeError(message)
        finally:
            await driver.close()

    def wrong(self, place: int, result: Result) -> str:
        """Say what of a result is not as expected."""
        right = self.expected[place]
        if readings_of(result) != readings_of(right):
            return f"{readings_of(result)} for {readings_of(right)}"
        if dict(result.applied) != dict(right.applied):
            return f"applied {dict(result.applied)} for {dict(right.applied)}"
        return ""

    async def cell(self, fault: WireFault, seed: int) -> dict[str, Any]:
        """Spoil one reply of the second order, chosen by the seed.

        Args:
            fault: what is done to it.
            seed: of the choice.

        Returns:
            ``faulted`` and ``next``: right, missed, WRONG, the class and effect of the error, or the guard's word
            where it refuses the result before it is recorded; ``back_s``: seconds
            until an order gave the right value again; ``detail``: of what was wrong.
        """
        async with Chaos("127.0.0.1", self.server.port, seed=seed, delay_s=DELAY_S, freeze_s=FREEZE_S) as proxy:
            driver = await self.adapter.driver(proxy.port, self.server.port, self.folder)
            try:
                return await self._cell(driver, proxy, fault, seed)
            finally:
                with suppress(InstrumentError, OSError):
                    await asyncio.wait_for(driver.close(), 10)

    async def _cell(self, driver: Instrument, proxy: Chaos, fault: WireFault, seed: int) -> dict[str, Any]:
        await driver.open()
        before = proxy.replies
        await send(driver, self.adapter.orders[0])
        usual = max(1, proxy.replies - before)
        # not the very last: how many replies an order has depends a little on the time that polling takes
        proxy.arm(fault, after=random.Random(f"{fault}/{seed}").randrange(max(1, usual - 1)))
        faulted, detail = await self._order(driver, 1)
        hit = bool(proxy.injected)
        proxy.disarm()
        following, more = await self._order(driver, 0)
        began = time.monotonic()
        back, place = following == "right", 1
        while not back and time.monotonic() - began < BACK_S:
            await asyncio.sleep(0.05)
            came, more = await self._order(driver, place)
            if came == "WRONG":
                following = "WRONG"
                break
            back, place = came == "right", 1 - place
        return {
            "faulted": faulted if hit or faulted != "right" else "missed",
            "next": following,
            "back": back,
            "back_s": round(time.monotonic() - began, 2),
            "detail": "; ".join(part for part in (detail, more) if part)[:300],
        }

    async def _order(self, driver: Instrument, place: int) -> tuple[str, str]:
        asked_at = time.time_ns() // 1000
        try:
            result = await asyncio.wait_for(send(driver, self.adapter.orders[place]), DEADLINE_S + LATE_S)
        except InstrumentError as error:
            return f"{type(error).__name__}/{error.effect.value}", ""
        except TimeoutError:
            return "HUNG", f"no end {LATE_S:g} s after the deadline"
        except Exception as error:  # noqa: BLE001  a driver may raise anything; that is what is measured
            return "RAISED", f"{type(error).__name__}: {error}"
        wrong = self.wrong(place, result)
        if not wrong:
            return "right", ""
        try:
            self._guard(place, result, asked_at)
        except BadData:
            return "guard:BadData/done", wrong
        return "WRONG", wrong

    def _guard(self, place: int, result: Result, asked_at: int) -> None:
        """Check a result as a campaign does before it is recorded."""
        order = replace(self.adapter.orders[place], key=result.key)
        with suppress(Rejected):  # a default is left out
            order = check_order(order, self.capability)
        check_result(result, order, self.capability, ordered_at=asked_at, now=asked_at)


async def send(driver: Instrument, order: Order) -> Result:
    """Send an order under a new key, on the real clock."""
    return await driver.run(replace(order, key=new_key(), deadline_s=DEADLINE_S), QuietEvents(speed=1.0))
