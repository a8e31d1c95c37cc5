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
    """

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._held: set[int] = set()
        self._working = 0
        self._changed = asyncio.Condition()

    @property
    def working(self) -> int:
        """How many orders run now."""
        return self._working

    @property
    def stuck(self) -> bool:
        """Whether every slot is held by an attempt that a person must answer for."""
        return len(self._held) >= self._slots

    async def enter(self) -> bool:
        """Wait for a free slot and take it; False, without one, where all are held by unanswered attempts."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.stuck or self._working + len(self._held) < self._slots)
            if self.stuck:
                return False
            self._working += 1
            return True

    async def leave(self) -> None:
        """Give the slot back."""
        async with self._changed:
            self._working -= 1
            self._changed.notify_all()

    async def hold(self, attempts: set[int]) -> None:
        """Take note of the attempts of this instrument whose outcome is unknown."""
        async with self._changed:
            self._held = attempts
            self._changed.notify_all()
