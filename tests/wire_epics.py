"""EPICS for the wire-chaos harness: Channel Access finds its server over UDP, and must be led through the proxy.

A relay answers searches with its own port in place of the server's, and passes the TCP circuit on to the proxy. Its
port stays the same while the process lives: Channel Access fixes its list of servers with the first signal.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from pathlib import Path
from typing import Any

from instruments.simulated.wire import Chaos
from orchestrator.protocols import Instrument
from tests.loopback_servers import start
from tests.wire_adapters import Adapter, order

HOST = "127.0.0.1"
HEADER = struct.Struct(">HHHHII")
SEARCH = 6
ANYWHERE = 0xFFFFFFFF
"""Of a search reply: the server is where the reply came from."""
PVS: dict[str, Any] = {
    "capability": "fire",
    "signals": {
        "temperature": {
            "pv": "FURN:T:SP",
            "readback": "FURN:T:RBV",
            "unit": "degC",
            "min": 20,
            "max": 900,
            "tolerance": 0.5,
            "settle_s": 2,
        },
        "gas": {"pv": "FURN:GAS", "choices": ["air", "argon"]},
    },
    "outputs": {"density": {"pv": "FURN:DENSITY", "unit": "percent", "low": 0, "high": 100}},
    "start": {"pv": "FURN:START"},
    "busy": {"pv": "FURN:BUSY"},
    "stop": {"pv": "FURN:STOP"},
    "simulated": True,
    "typical_s": 1.0,
    "longest_s": 20.0,
}


def answered_here(datagram: bytes, port: int) -> bytes:
    """Put a port into every search reply of a datagram.

    Args:
        datagram: of a Channel Access server.
        port: on which the relay listens.
    """
    out, place = bytearray(datagram), 0
    while place + HEADER.size <= len(out):
        command, size, _, count, _, second = HEADER.unpack_from(out, place)
        if command == SEARCH:
            HEADER.pack_into(out, place, command, size, port, count, ANYWHERE, second)
        place += HEADER.size + size
    return bytes(out)


class Relay(asyncio.DatagramProtocol):
    """Passes searches to the server, and its replies back with the relay's port.

    Args:
        port: of the relay.
        server: UDP port of the server.
    """

    def __init__(self, port: int, server: int) -> None:
        self._port = port
        self._server = (HOST, server)
        self._clients: dict[int, Any] = {}
        self.transport: Any = None

    def connection_made(self, transport: Any) -> None:
        """Keep the socket."""
        self.transport = transport

    def datagram_received(self, data: bytes, address: Any) -> None:
        """Pass on, whichever side it comes from."""
        if address == self._server:
            for client in self._clients.values():
                self.transport.sendto(answered_here(data, self._port), client)
            return
        self._clients[address[1]] = address
        self.transport.sendto(data, self._server)


class Place:
    """The one port of this process's Channel Access, and what stands behind it now."""

    port = 0
    circuit: Chaos | None = None
    relay: Relay | None = None

    @classmethod
    async def lead(cls, to: int, server: int) -> int:
        """Lead circuits to the proxy and searches to the server."""
        await cls.leave()
        cls.port = cls.port or _free()
        cls.circuit = Chaos(HOST, to)
        await cls.circuit.start(cls.port)
        loop = asyncio.get_running_loop()
        _, cls.relay = await loop.create_datagram_endpoint(lambda: Relay(cls.port, server), local_addr=(HOST, cls.port))
        return cls.port

    @classmethod
    async def leave(cls) -> None:
        """Let the port go."""
        if cls.relay is not None:
            cls.relay.transport.close()
        if cls.circuit is not None:
            await cls.circuit.close()
        cls.relay = cls.circuit = None


def _free() -> int:
    """Return a port that is free for TCP and UDP."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.bind((HOST, 0))
        return int(one.getsockname()[1])


async def _driver(port: int, own: int, folder: Path) -> Instrument:
    del folder
    from instruments.ophyd.driver import OphydDevice  # noqa: PLC0415  a heavy library, for this adapter only
    from instruments.ophyd.options import OphydOptions  # noqa: PLC0415  the same

    class Led(OphydDevice):
        """Gives the relay back with the link."""

        async def close(self) -> None:
            await super().close()
            await Place.leave()

    here = await Place.lead(port, own)
    return Led(OphydOptions.model_validate({**PVS, "servers": [f"{HOST}:{here}"]}))


EPICS = Adapter(
    "ophyd",
    lambda _: start("epics_furnace"),
    _driver,
    (
        order("fire", {"gas": "argon"}, temperature=(300.0, "degC")),
        order("fire", {"gas": "air"}, temperature=(500.0, "degC")),
    ),
    "Channel Access has no checksum",
)
