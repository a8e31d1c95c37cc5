"""A TCP proxy that spoils replies: what cables, hubs, gateways and overloaded controllers do to what devices answer.

It stands between an adapter and any TCP device (SCPI, Modbus, SiLA 2, OPC UA, HTTP …) and knows no protocol: a *reply*
is one piece of bytes as it comes from the device. Requests pass untouched: a device is never told to do a thing twice.
Faults hit the replies that are named (`at`), or each with a probability (`rate`), or the next one (`arm`). The fault of
the n-th reply is fixed by the seed and n.

========= =====================================================================
delay     the reply, and all behind it, comes late
trickle   the reply comes byte by byte
half      the second half of the reply is lost
duplicate the reply comes twice
flip      one bit of the reply is wrong
drop      the reply is lost
cut       half of the reply, then the connection ends
freeze    nothing passes in either direction for a while, then all of it does
========= =====================================================================

::

    async with Chaos("127.0.0.1", 5025, rate=0.02, seed=1) as chaos:
        driver = Scpi(ScpiOptions(address=f"TCPIP::127.0.0.1::{chaos.port}::SOCKET", …))
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Self, get_args

WireFault = Literal["delay", "trickle", "half", "duplicate", "flip", "drop", "cut", "freeze"]
FAULTS: tuple[WireFault, ...] = get_args(WireFault)
PIECE = 65536
TRICKLE_S = 0.002
TRICKLES = 200
"""Bytes that trickle; what is behind them comes at once, or a spectrum would take minutes."""


@dataclass(frozen=True)
class Injected:
    """One fault that was injected.

    Args:
        reply: number of the reply, from 0, over all connections in the order of their arrival.
        fault: what was done to it.
        size: of the reply in bytes.
    """

    reply: int
    fault: WireFault
    size: int


class Chaos:
    """A proxy in front of one TCP device, on 127.0.0.1.

    A device that is dead shows as a connection that ends at once: the proxy itself always accepts.

    Args:
        host: of the device.
        port: of the device.
        faults: to choose from.
        rate: probability that a reply meets a fault.
        at: numbers of replies that meet one for certain.
        seed: of the choice.
        delay_s: how late a delayed reply comes.
        freeze_s: how long nothing passes.
        grace: the first so many replies are left alone, such as those of a handshake.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        faults: Sequence[WireFault] = FAULTS,
        rate: float = 0.0,
        at: Collection[int] = (),
        seed: int = 0,
        delay_s: float = 0.3,
        freeze_s: float = 1.0,
        grace: int = 0,
    ) -> None:
        unknown = sorted(set(faults) - set(FAULTS))
        if unknown or not faults:
            message = f"there is no wire fault {', '.join(unknown) or '(none given)'}; choose from: {', '.join(FAULTS)}"
            raise ValueError(message)
        if not 0.0 <= rate <= 1.0:
            message = f"the rate is {rate:g}; a probability between 0 and 1 was expected"
            raise ValueError(message)
        self._target = (host, port)
        self._faults = tuple(faults)
        self._rate = rate
        self._at = frozenset(at)
        self._seed = seed
        self._delay_s = delay_s
        self._freeze_s = freeze_s
        self._grace = grace
        self._armed: tuple[int, WireFault] | None = None
        self._server: asyncio.Server | None = None
        self._links: set[asyncio.Task[None]] = set()
        self.replies = 0
        """How many replies have passed."""
        self.injected: list[Injected] = []
        """What was done to them."""

    @property
    def port(self) -> int:
        """Return the port on which the proxy listens."""
        if self._server is None:
            message = "the proxy does not listen yet; await start() first"
            raise RuntimeError(message)
        return int(self._server.sockets[0].getsockname()[1])

    async def start(self, listen: int = 0) -> int:
        """Listen.

        Args:
            listen: port on 127.0.0.1; 0 takes a free one.

        Returns:
            The port.
        """
        self._server = await asyncio.start_server(self._link, "127.0.0.1", listen)
        return self.port

    async def close(self) -> None:
        """End every connection, and listen no more."""
        if self._server is not None:
            self._server.close()
        for link in tuple(self._links):
            link.cancel()
        await asyncio.gather(*self._links, return_exceptions=True)
        if self._server is not None:
            await self._server.wait_closed()
            self._server = None

    async def __aenter__(self) -> Self:
        """Listen on a free port."""
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End every connection."""
        await self.close()

    def arm(self, fault: WireFault, *, after: int = 0) -> None:
        """Let the next reply meet a fault, once.

        Args:
            fault: what is done to it.
            after: so many replies pass first.
        """
        self._armed = (self.replies + after, fault)

    def disarm(self) -> None:
        """Let the next reply pass, where `arm` was called and no reply has come since."""
        self._armed = None

    async def serve_forever(self) -> None:
        """Pass bytes on until cancelled."""
        if self._server is None:
            await self.start()
        try:
            await asyncio.Event().wait()
        finally:
            await self.close()

    async def _link(self, client_in: asyncio.StreamReader, client_out: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._links.add(task)
        writers = [client_out]
        try:
            with suppress(OSError):
                device_in, device_out = await asyncio.open_connection(*self._target)
                writers.append(device_out)
                passing = asyncio.Event()
                passing.set()
                pumps = {
                    asyncio.create_task(self._requests(client_in, device_out, passing)),
                    asyncio.create_task(self._replies(device_in, client_out, passing)),
                }
                try:
                    await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for pump in pumps:
                        pump.cancel()
                    await asyncio.gather(*pumps, return_exceptions=True)
        except asyncio.CancelledError:
            pass  # the proxy closes; a cancelled handler would be reported as a failure of the stream
        finally:
            for writer in writers:
                writer.close()
            for writer in writers:
                with suppress(OSError, asyncio.CancelledError):
                    await writer.wait_closed()
            if task is not None:
                self._links.discard(task)

    async def _requests(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, passing: asyncio.Event
    ) -> None:
        while piece := await reader.read(PIECE):
            await passing.wait()
            writer.write(piece)
            await writer.drain()

    async def _replies(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, passing: asyncio.Event
    ) -> None:
        while piece := await reader.read(PIECE):
            number, self.replies = self.replies, self.replies + 1
            fault = self._choose(number)
            if fault is None:
                writer.write(piece)
            else:
                self.injected.append(Injected(number, fault, len(piece)))
                if await self._spoil(fault, number, piece, writer, passing):
                    return
            await writer.drain()

    def _choose(self, number: int) -> WireFault | None:
        if self._armed is not None and number >= self._armed[0]:
            fault, self._armed = self._armed[1], None
            return fault
        draw = random.Random(f"{self._seed}/{number}")  # fixed by the seed and the reply, not by who asked before
        hit = draw.random() < self._rate
        if number in self._at or (hit and number >= self._grace):
            return draw.choice(self._faults)
        return None

    async def _spoil(
        self, fault: WireFault, number: int, piece: bytes, writer: asyncio.StreamWriter, passing: asyncio.Event
    ) -> bool:
        """Pass a spoiled reply on, and say whether the connection ends here."""
        half = piece[: max(1, len(piece) // 2)] if len(piece) > 1 else b""
        if fault in {"half", "cut"}:
            writer.write(half)
        elif fault == "duplicate":
            writer.write(piece + piece)
        elif fault == "flip":
            writer.write(flipped(piece, random.Random(f"flip/{self._seed}/{number}")))
        elif fault == "delay":
            await asyncio.sleep(self._delay_s)
            writer.write(piece)
        elif fault == "trickle":
            for place in range(min(TRICKLES, len(piece))):
                writer.write(piece[place : place + 1])
                await writer.drain()
                await asyncio.sleep(TRICKLE_S)
            writer.write(piece[TRICKLES:])
        elif fault == "freeze":
            passing.clear()
            await asyncio.sleep(self._freeze_s)
            passing.set()
            writer.write(piece)
        return fault == "cut"


def flipped(piece: bytes, draw: random.Random) -> bytes:
    """Return bytes with one wrong bit.

    Args:
        piece: at least one byte.
        draw: chooses the bit.
    """
    place, bit = draw.randrange(len(piece)), draw.randrange(8)
    return piece[:place] + bytes([piece[place] ^ (1 << bit)]) + piece[place + 1 :]
