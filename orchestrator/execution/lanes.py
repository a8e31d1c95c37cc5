"""Lanes: how many orders one instrument works on at once, within this process.

The database enforces one job an instrument's slot; a lane makes trials wait their turn instead of running into that.
An attempt whose outcome is unknown keeps its slot, and no timer takes it away.
"""

from __future__ import annotations

import asyncio


class Lane:
    """The slots of one instrument.

    Args:
        slots: how many orders run at once.
        changed: notified whenever a slot comes free; the lanes of one bench share it.
    """

    def __init__(self, slots: int, changed: asyncio.Condition | None = None) -> None:
        self.slots = slots
        self.changed = changed or asyncio.Condition()
        self.held: set[int] = set()
        """Attempts whose outcome is unknown."""
        self.working = 0
        """How many orders run now."""

    @property
    def stuck(self) -> bool:
        """Whether every slot is held by an attempt that a person must answer for."""
        return len(self.held) >= self.slots

    @property
    def taken(self) -> int:
        """How many slots cannot be had now."""
        return self.working + len(self.held)

    @property
    def free(self) -> bool:
        """Whether an order could run now."""
        return self.taken < self.slots

    async def leave(self) -> None:
        """Give the slot back."""
        async with self.changed:
            self.working -= 1
            self.changed.notify_all()

    async def hold(self, attempts: set[int]) -> None:
        """Take note of the attempts of this instrument whose outcome is unknown."""
        async with self.changed:
            self.held = attempts
            self.changed.notify_all()
