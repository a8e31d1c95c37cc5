"""A tube furnace as a Modbus server, over TCP or a serial line (two pseudo-terminals with a wire between them).

Holding: 0-1 float32 300.0 (known), 10 temperature in 0.1 degC, 11 minutes, 12 gas. Coils: 0 start, 1 abort. Input: 0-1
float32 mass loss in percent, 2 status (0 idle, 1 at work, 2 done), 3 error (0 none, 7 over-temperature, 9 door open).
"""

from __future__ import annotations

import argparse
import asyncio
import math
import os
import random
import struct
import time
import tty
from typing import Any

from pymodbus import FramerType
from pymodbus.constants import ExcCodes
from pymodbus.pdu.device import ModbusDeviceIdentification
from pymodbus.server import ModbusSerialServer, ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

READ_HOLDING, READ_INPUT, WRITE_COIL, WRITE_ONE = 3, 4, 5, 6
HOTTEST = 12000


def words(value: float, *, swapped: bool = False) -> list[int]:
    """Give the two words of a float."""
    both = list(struct.unpack(">HH", struct.pack(">f", value)))
    return both[::-1] if swapped else both


class Furnace:
    """The state of the furnace."""

    def __init__(self, duration: float, *, swapped: bool, fails: bool) -> None:
        self.duration, self.swapped, self.fails = duration, swapped, fails
        self.began: float | None = None
        self.done = False
        self.error = 0
        self.holding = {10: 200, 11: 10, 12: 0}
        self.loss = 0.0
        self.starts = 0

    def busy(self) -> bool:
        """Say whether it fires, and finish what is over."""
        if self.began is not None and time.monotonic() - self.began >= self.duration:
            self.began = None
            if self.fails:
                self.error = 7
            else:
                self.done = True
                self.loss = 12.0 * (1 - math.exp(-self.holding[10] * self.holding[11] / 1e5))
        return self.began is not None

    async def act(  # noqa: PLR0917  pymodbus calls it so
        self, function: int, start: int, address: int, count: int, registers: list[int], values: list[Any] | None
    ) -> ExcCodes | None:
        """Answer one request."""
        busy = self.busy()
        if function == WRITE_COIL and values and values[0]:
            if address == 0 and busy:
                return ExcCodes.DEVICE_BUSY
            self.began, self.done = (time.monotonic() if address == 0 else None), False
            self.starts += address == 0
            self.error = 0
        if function == WRITE_ONE and values:
            if busy:
                return ExcCodes.DEVICE_BUSY
            if address == 10 and values[0] > HOTTEST:
                return ExcCodes.ILLEGAL_VALUE
            self.holding[address] = values[0]
        if function == READ_INPUT:
            state = 1 if busy else 2 if self.done else 0
            now = [*words(self.loss, swapped=self.swapped), state, self.error]
            for place, value in enumerate(now):
                registers[place - start] = value
        return None


def device(furnace: Furnace) -> SimDevice:
    """Lay the registers out."""
    numbers = DataType.REGISTERS
    holding = [
        SimData(0, values=words(300.0, swapped=furnace.swapped), datatype=numbers),
        SimData(10, values=[200, 10, 0], datatype=numbers),
    ]
    return SimDevice(
        1,
        simdata=(
            [SimData(0, values=[False] * 16, datatype=DataType.BITS)],
            [SimData(0, values=[False] * 16, datatype=DataType.BITS)],
            holding,
            [SimData(0, values=[0, 0, 0, 0], datatype=numbers)],
        ),
        action=furnace.act,
    )


async def wire(one: int, other: int, late: float, late_by: float) -> None:
    """Carry bytes between two pseudo-terminals; a share of what comes from the first is late."""
    loop, draws = asyncio.get_running_loop(), random.Random(1)

    async def carry(source: int, target: int, share: float) -> None:
        ready: asyncio.Queue[bytes] = asyncio.Queue()
        loop.add_reader(source, lambda: ready.put_nowait(os.read(source, 4096)))
        while True:
            packet = await ready.get()
            if share:
                await asyncio.sleep(0.005)  # a reply may come in pieces: keep it together
                while not ready.empty():
                    packet += ready.get_nowait()
                if draws.random() < share:
                    await asyncio.sleep(late_by)
            os.write(target, packet)

    await asyncio.gather(carry(one, other, late), carry(other, one, 0.0))


async def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--rtu", action="store_true")
    parser.add_argument("--duration", type=float, default=0.1)
    parser.add_argument("--swapped", action="store_true")
    parser.add_argument("--fails", action="store_true")
    parser.add_argument("--late", type=float, default=0.0)
    given = parser.parse_args()
    furnace = Furnace(given.duration, swapped=given.swapped, fails=given.fails)
    identity = ModbusDeviceIdentification(
        info_name={"VendorName": "Matloop", "ProductCode": "TF-1", "MajorMinorRevision": "1.0"}
    )
    if given.rtu:
        (near, far), (master, line) = os.openpty(), os.openpty()
        for end in (near, far, master, line):
            tty.setraw(end)
        server: Any = ModbusSerialServer(
            device(furnace), framer=FramerType.RTU, identity=identity, port=os.ttyname(far), baudrate=115200
        )
        await server.serve_forever(background=True)
        print("READY", os.ttyname(line), flush=True)  # noqa: T201  what the tests wait for
        await wire(near, master, given.late, 0.15)
    server = ModbusTcpServer(device(furnace), identity=identity, address=("127.0.0.1", given.port))
    await server.serve_forever(background=True)
    print("READY", server.transport.sockets[0].getsockname()[1], flush=True)  # noqa: T201  the same
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
