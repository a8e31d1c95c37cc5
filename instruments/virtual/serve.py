"""Serve one virtual device: ``python -m instruments.virtual.serve DEVICE --folder FOLDER``.

Prints ``READY PORT`` when it listens on 127.0.0.1, and ends with the process that started it.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from instruments.virtual.device import FAULTS, Device
from instruments.virtual.devices import DEVICES
from instruments.virtual.world import World

LOOK_S = 1.0
PROTOCOLS = {"dispenser": "scpi", "tube_furnace": "opcua", "diffractometer": "sila", "probe": "scpi"}
"""What each device speaks in the virtual lab; any of them can speak any of these."""


async def scpi(device: Device, port: int) -> tuple[int, Any]:
    """Serve SCPI over TCP."""
    from instruments.virtual.scpi_server import serve  # noqa: PLC0415  each server needs another library

    server = await serve(device, port)
    return int(server.sockets[0].getsockname()[1]), server


async def sila(device: Device, port: int) -> tuple[int, Any]:
    """Serve SiLA 2."""
    from instruments.virtual.sila_server import serve  # noqa: PLC0415  as above

    return serve(device, port)


async def opcua(device: Device, port: int) -> tuple[int, Any]:
    """Serve OPC UA."""
    from instruments.virtual.opcua_server import serve  # noqa: PLC0415  as above

    return await serve(device, port)


SERVERS: dict[str, Callable[[Device, int], Awaitable[tuple[int, Any]]]] = {"scpi": scpi, "sila": sila, "opcua": opcua}


async def _serve(device: Device, protocol: str, port: int) -> None:
    port, server = await SERVERS[protocol](device, port)
    if hasattr(device, "known"):
        device.known()  # before READY, so that the first scan takes no longer than the others
    sys.stdout.write(f"READY {port}\n")
    sys.stdout.flush()
    parent = os.getppid()
    while os.getppid() == parent:  # noqa: ASYNC110  a lab that was killed must leave no servers, and sets no event
        await asyncio.sleep(LOOK_S)
    del server


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("device", choices=sorted(DEVICES))
    parser.add_argument("--folder", type=Path, required=True, help="of the virtual world")
    parser.add_argument("--protocol", choices=sorted(SERVERS), help="default: what the device speaks in the lab")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--speed", type=float, default=3600.0, help="virtual seconds in a second")
    parser.add_argument("--faults", type=float, default=0.0, help="probability that an order meets a fault")
    parser.add_argument("--kinds", default=",".join(FAULTS), help="of faults, with commas between")
    given = parser.parse_args()
    kinds = tuple(kind for kind in FAULTS if kind in given.kinds.split(","))
    world = World(given.folder, seed=given.seed, speed=given.speed)
    device = DEVICES[given.device](world, faults=given.faults, kinds=kinds)
    asyncio.run(_serve(device, given.protocol or PROTOCOLS[given.device], given.port))


if __name__ == "__main__":
    main()
