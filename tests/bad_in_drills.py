"""Deliberately bad drivers that show it only in a row of orders or in an accident: level 3 of the checks.

Importing this module adds them to `tests.bad_drivers.BAD`. Those that need a device are in `tests/test_drills.py`.
"""

from __future__ import annotations

import os
import tempfile
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from orchestrator.domain import Attachment, Order, Result
from orchestrator.errors import TimedOut
from orchestrator.protocols import Events
from tests.bad_drivers import breaks
from tests.good_oven import Oven


@breaks("orders in a row stay right")
class OneBehind(Oven):
    """From the thirtieth order on, each answer is that of the order before."""

    last: tuple[Any, ...] = ()

    def result(self, order: Order, numbers: dict[str, float], choices: dict[str, str]) -> Result:
        result = super().result(order, numbers, choices)
        before, self.last = self.last, result.readings
        return replace(result, readings=before) if self.calls > 30 else result


@breaks("nothing grows with orders")
class AFileAnOrder(Oven):
    """Each order opens a file and forgets it."""

    kept: ClassVar[list[int]] = []

    async def bake(self, events: Events) -> None:
        self.kept.append(os.open(os.devnull, os.O_RDONLY))
        await super().bake(events)


@breaks("a jump of the clock changes nothing")
class WallClock(Oven):
    """Its deadline is measured on the wall clock."""

    async def bake(self, events: Events) -> None:
        began = time.time()
        await super().bake(events)
        if time.time() - began > 60.0:
            message = "an hour has passed"
            raise TimedOut(message)


@breaks("a full disk is told")
class LosesItsFile(Oven):
    """Where the raw file cannot be written, it goes on with half of it."""

    def result(self, order: Order, numbers: dict[str, float], choices: dict[str, str]) -> Result:
        with tempfile.TemporaryDirectory() as folder:
            raw = Path(folder) / "raw.csv"
            with suppress(OSError):
                raw.write_text("time,temperature\n")
            content = raw.read_bytes()
        if not content:
            numbers = {**numbers, "temperature": 20.0}  # the mean of nothing
        result = super().result(order, numbers, choices)
        return replace(result, attachments=(Attachment("raw.csv", "text/csv", content),))


def forget_files() -> None:
    """Close what `AFileAnOrder` left."""
    while AFileAnOrder.kept:
        os.close(AFileAnOrder.kept.pop())
