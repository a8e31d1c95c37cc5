"""The driver of the crash harness's device, in the three recovery classes. It retries nothing."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.domain import (
    Absent,
    Capability,
    Description,
    Finished,
    Health,
    Identity,
    JsonObject,
    Order,
    Output,
    Parameter,
    Quantity,
    Reading,
    Recovery,
    Result,
    Running,
    Whereabouts,
)
from orchestrator.errors import TimedOut
from orchestrator.protocols import Events
from orchestrator.record.crash_points import reached

PROCEDURE = [
    {"step": "fire", "instrument": "kiln", "capability": "fire"},
    {"step": "test", "instrument": "kiln", "capability": "test"},
]
OUTPUTS = {"fire": "shrinkage", "test": "strength"}
DELIVERY_S = 0.5  # what the driver declares: a busy computer reads a socket by then
DELIVERY_DELAYED_S = 1.4  # the same where the network holds STARTs back, for 1.0 s at most
ACK_S = 1.0  # after this the driver gives the answer up
LATE_S = 1.5
WAIT_S = 0.002  # between two looks at a job


@dataclass(frozen=True)
class Network:
    """How the network of one run behaves.

    Args:
        delayed: labels of the orders (``sample/capability``) whose START is held back if its sender dies.
        late: labels of the orders whose answer comes after the driver has given up.
    """

    delayed: frozenset[str] = frozenset()
    late: frozenset[str] = frozenset()

    @property
    def delivery_s(self) -> float:
        """Longest time that a START may be on its way after its sender died."""
        return DELIVERY_DELAYED_S if self.delayed else DELIVERY_S


class BlindKiln:
    """The device, of which nothing can be found out after a crash."""

    recovery = Recovery.BLIND

    def __init__(self, folder: Path, device: str, slots: int, network: Network) -> None:
        self._socket = str(folder / "socket")
        self._device = device
        self._slots = slots
        self._network = network

    async def describe(self) -> Description:
        """Declare two capabilities of the one device."""
        temperature = Parameter("temperature", "degC", 0.0, 2000.0)
        capabilities = tuple(
            Capability(name, (Output(output, "dimensionless"),), (temperature,), longest_s=20.0)
            for name, output in OUTPUTS.items()
        )
        return Description(capabilities, self.recovery, slots=self._slots, delivery_s=self._network.delivery_s)

    async def open(self) -> Identity:
        """Name the device."""
        return Identity("kiln", serial=self._device)

    async def close(self) -> None:
        """Nothing is kept open."""

    async def health(self) -> Health:
        """Answer that all is well."""
        return Health("ready")

    async def abort(self, reason: str) -> None:
        """The device cannot be stopped."""

    async def run(self, order: Order, events: Events) -> Result:
        """Send START once; poll until the job is done."""
        what = f"{order.sample}/{order.capability}"
        message = {
            "op": "start",
            "key": order.key,
            "what": what,
            "once": self.recovery is Recovery.IDEMPOTENT,
            "delay": what in self._network.delayed,
            "late": LATE_S if what in self._network.late else 0.0,
        }
        reached("send.before")
        try:
            answer = await asyncio.wait_for(self._ask(message, after_bytes="send.after_bytes"), ACK_S)
        except TimeoutError as error:
            text = f"no answer to START within {ACK_S} s"
            raise TimedOut(text) from error
        handle: JsonObject = {"job": answer["job"], "key": order.key}
        await events.accepted(handle)
        return await self._wait(handle, order.settings["temperature"])

    async def _wait(self, handle: Mapping[str, Any], asked: Quantity | None) -> Result:
        while True:
            reached("poll.before")
            answer = await self._ask({"op": "poll", "job": handle["job"]})
            if answer["done"]:
                return self._result(answer, asked)
            await asyncio.sleep(WAIT_S)

    def _result(self, answer: Mapping[str, Any], asked: Quantity | None) -> Result:
        output = OUTPUTS[answer["what"].rpartition("/")[2]]
        applied = {"temperature": asked} if asked is not None else {}
        return Result(answer["key"], (Reading(output, float(answer["value"]), "dimensionless"),), applied=applied)

    async def _ask(self, message: Mapping[str, Any], after_bytes: str = "") -> dict[str, Any]:
        reader, writer = await asyncio.open_unix_connection(self._socket)
        try:
            writer.write(json.dumps({"device": self._device, **message}).encode() + b"\n")
            await writer.drain()
            if after_bytes:
                reached(after_bytes)
            return dict(json.loads(await reader.readline()))
        finally:
            writer.close()


class LoggedKiln(BlindKiln):
    """The device, whose log can be asked."""

    recovery = Recovery.QUERYABLE

    async def lookup(self, key: str, handle: JsonObject | None) -> Whereabouts:
        """Find a job by its key."""
        answer = await self._ask({"op": "lookup", "key": key})
        if answer["job"] is None:
            return Absent()
        if answer["done"]:
            return Finished(self._result(answer, None))
        return Running({"job": answer["job"], "key": key})

    async def attach(self, handle: JsonObject, events: Events) -> Result:
        """Poll a job that runs."""
        return await self._wait(handle, None)


class SafeKiln(BlindKiln):
    """The device, which returns the job it has for a key that it knows."""

    recovery = Recovery.IDEMPOTENT


KILNS: Mapping[str, type[BlindKiln]] = {"idempotent": SafeKiln, "queryable": LoggedKiln, "blind": BlindKiln}
