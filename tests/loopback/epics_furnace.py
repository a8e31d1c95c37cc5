"""An EPICS furnace over Channel Access, by caproto: set, start, ramp, measure. `python epics_furnace.py --port 0`."""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import logging
import os
import signal
import socket
import sys
import time
from typing import Any

HOST = "127.0.0.1"


def free_port() -> int:
    """Find a port that is free for both TCP and UDP."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.bind((HOST, 0))
        return int(one.getsockname()[1])


def main() -> None:  # noqa: C901  caproto wants its group in one class, behind the environment
    """Serve until killed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--stuck", action="store_true", help="the temperature never moves, and nobody says so")
    parser.add_argument("--severity", type=int, default=0, help="alarm severity of the density")
    parser.add_argument("--bake", type=float, default=0.2, help="seconds")
    parser.add_argument("--units", default="degC")
    given = parser.parse_args()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # end with the parent
    port = given.port or free_port()
    logging.getLogger("caproto").setLevel(logging.CRITICAL)  # nobody listens to its beacons, and it says so
    os.environ.update(
        EPICS_CA_SERVER_PORT=str(port),
        EPICS_CAS_INTF_ADDR_LIST=HOST,
        EPICS_CAS_BEACON_ADDR_LIST=HOST,
        EPICS_CAS_AUTO_BEACON_ADDR_LIST="NO",
        EPICS_CA_ADDR_LIST=HOST,
        EPICS_CA_AUTO_ADDR_LIST="NO",
        EPICS_CA_REPEATER_PORT=str(free_port()),
        EPICS_CAS_BEACON_PORT=str(free_port()),
    )
    from caproto import AlarmSeverity, AlarmStatus, ChannelType  # noqa: PLC0415  the environment comes first
    from caproto.asyncio.server import start_server  # noqa: PLC0415  the same
    from caproto.server import PVGroup, pvproperty  # noqa: PLC0415  the same

    class Furnace(PVGroup):
        """One furnace."""

        setpoint = pvproperty(
            name="T:SP", value=25.0, units=given.units, precision=2, lower_ctrl_limit=0.0, upper_ctrl_limit=1000.0
        )
        readback = pvproperty(name="T:RBV", value=25.0, units=given.units, precision=2, read_only=True)
        gas = pvproperty(name="GAS", value="air", enum_strings=["air", "argon"], dtype=ChannelType.ENUM)
        start = pvproperty(name="START", value=0)
        busy = pvproperty(name="BUSY", value=0, read_only=True)
        stop = pvproperty(name="STOP", value=0)
        starts = pvproperty(name="STARTS", value=0, read_only=True)
        stops = pvproperty(name="STOPS", value=0, read_only=True)
        density = pvproperty(
            name="DENSITY", value=0.0, units="percent", precision=3, read_only=True, alarm_group="density"
        )

        async def _until(self, seconds: float) -> bool:
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                if self.stop.value:
                    return False
                await asyncio.sleep(0.01)
            return True

        @setpoint.putter
        async def setpoint(self, instance: Any, value: Any) -> None:
            if self.busy.value:
                message = "busy"
                raise RuntimeError(message)
            if not 0 <= value <= 1000:
                message = "out of range"
                raise ValueError(message)

        @setpoint.scan(period=0.02, use_scan_field=False)
        async def setpoint(self, instance: Any, async_lib: Any) -> None:
            if not given.stuck:
                here, there = float(self.readback.value), float(self.setpoint.value)
                step = max(-100.0, min(100.0, there - here))
                await self.readback.write(here + step)

        @start.putter
        async def start(self, instance: Any, value: Any) -> None:
            if value and not self.busy.value:
                asyncio.get_running_loop().create_task(self._bake())

        @stop.putter
        async def stop(self, instance: Any, value: Any) -> None:
            if value:
                await self.stops.write(self.stops.value + 1)

        async def _bake(self) -> None:
            await self.busy.write(1)
            await self.stop.write(0, verify_value=False)
            await self.starts.write(self.starts.value + 1)
            if await self._until(given.bake):
                value = 50 + float(self.readback.value) / 20
                await self.density.write(value)  # which clears the alarm
                await self.density.alarm.write(
                    severity=AlarmSeverity(given.severity), status=AlarmStatus(4 if given.severity else 0)
                )
            await self.busy.write(0)

    async def serve() -> None:
        async def ready(_async_lib: object) -> None:
            print(f"READY {port}", flush=True)  # noqa: T201  what the tests wait for

        await start_server(Furnace(prefix="FURN:").pvdb, interfaces=[HOST], log_pv_names=False, startup_hook=ready)

    asyncio.run(serve())


if __name__ == "__main__":
    main()
