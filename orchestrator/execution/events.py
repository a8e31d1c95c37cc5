"""What an instrument may tell and ask while it works on an order, seen from the executor."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from orchestrator.domain import JsonObject
from orchestrator.execution.clock import Clock


class Wish:
    """The wish that the work on a trial ends early. The first reason counts."""

    def __init__(self) -> None:
        self._made = asyncio.Event()
        self.reason = ""
        """Why; empty while there is no such wish."""

    def make(self, reason: str) -> None:
        """Wish it."""
        if not self._made.is_set():
            self.reason = reason
            self._made.set()

    @property
    def made(self) -> bool:
        """Whether it is wished."""
        return self._made.is_set()

    async def wait(self) -> None:
        """Return when it is wished."""
        await self._made.wait()


class OrderEvents:
    """The `Events` of one order.

    Args:
        clock: of the campaign.
        wish: that the trial's work ends early.
        on_accepted: commits the handle; the instrument waits for its return.
        on_progress: gets fraction and text.
    """

    def __init__(
        self,
        clock: Clock,
        wish: Wish,
        on_accepted: Callable[[JsonObject], None],
        on_progress: Callable[[float, str], None],
    ) -> None:
        self.wish = wish
        self.overdue = False
        """Whether the order's own deadline has passed."""
        self._clock = clock
        self._on_accepted = on_accepted
        self._on_progress = on_progress

    async def accepted(self, handle: JsonObject) -> None:
        """Commit the handle, then return."""
        self._on_accepted(handle)

    def progress(self, fraction: float, text: str = "") -> None:
        """Pass on how far the work is."""
        self._on_progress(min(1.0, max(0.0, fraction)), text)

    def abort_requested(self) -> bool:
        """Say whether the campaign wants this order to end early."""
        return self.wish.made or self.overdue

    async def sleep(self, seconds: float) -> None:
        """Wait on the campaign's clock; meanwhile virtual time may pass."""
        with self._clock.at_work(-1):
            await self._clock.sleep(seconds)
