"""The dead-man lease: heartbeats as long as the executor lives; without them a leased instrument stops by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress

from orchestrator.errors import ConfigError
from orchestrator.execution.clock import Clock
from orchestrator.protocols import Leased


class Lease:
    """Heartbeats to the instruments of one campaign.

    Args:
        clock: of the campaign.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._beating: list[asyncio.Task[None]] = []

    def begin(self, instruments: Mapping[str, tuple[object, float]]) -> None:
        """Begin to send heartbeats.

        Args:
            instruments: by name: the instrument, and the seconds after which it stops by itself.

        Raises:
            ConfigError: one has no heartbeat.
        """
        for name, (instrument, ttl_s) in instruments.items():
            if not isinstance(instrument, Leased):
                message = (
                    f"{name!r} has a lease of {ttl_s:g} s in the lab file, and its driver has no heartbeat: nothing "
                    "would stop it; remove lease_s, or give the driver 'async def heartbeat(self, ttl_s)'"
                )
                raise ConfigError(message)
            self._beating.append(asyncio.create_task(self._beat(instrument, ttl_s)))

    async def end(self) -> None:
        """Send no more; the instruments stop by themselves, as they must when we are gone."""
        for task in self._beating:
            task.cancel()
        await asyncio.gather(*self._beating, return_exceptions=True)
        self._beating.clear()

    async def _beat(self, instrument: Leased, ttl_s: float) -> None:
        while True:
            with suppress(Exception):  # a heartbeat that is lost is what the lease is for
                await asyncio.wait_for(instrument.heartbeat(ttl_s), ttl_s / 3)
            await self._clock.sleep(ttl_s / 3)
