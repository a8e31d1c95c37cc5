"""A furnace that fails in every way that furnaces fail, on the virtual clock; its own log is the judge.

Each fault strikes the first order; whatever comes after it is in order. What a driver of an honest device would see is
what the executor sees here, and what physically happened stands in `acts`.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, replace
from typing import Any

from orchestrator.domain import (
    Absent,
    Attachment,
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
    Unsure,
    Whereabouts,
)
from orchestrator.errors import Aborted, BadData, Busy, Effect, Fault, NotConnected, ProtocolDesync, TimedOut
from orchestrator.protocols import Events

JOB_S = 30.0
"""How long a firing takes."""
LONGEST_S = 120.0
"""The declared longest duration."""
DELIVERY_S = 5.0
"""What the driver declares: nothing is on its way any longer."""
LATE_S = 3.0
"""How long a START is on its way that outlives its sender."""
DAY_US = 86_400_000_000


class Died(BaseException):
    """The process of the sender was killed here: nothing of it runs any more."""


@dataclass
class Job:
    """One firing at the device."""

    number: int
    key: str
    asked: Quantity
    ready: float
    lost: bool = False


class Furnace:
    """The device and its driver, in one recovery class.

    Args:
        recovery: what can be found out after the connection was lost.
        fault: a key of `tests.fault_matrix.TABLE`.
    """

    def __init__(self, recovery: Recovery, fault: str) -> None:
        self.recovery = recovery
        self.fault = fault
        self.acts: list[str] = []
        self.jobs: dict[str, Job] = {}
        self.orders = 0
        self.down = 0
        self.serial = "1"
        self.aborts = 0

    # --- the device ---------------------------------------------------------------------------------------------

    def fire(self, order: Order) -> Job:
        """Carry out a START; an idempotent device that knows the key gives the job that it has."""
        if self.recovery is Recovery.IDEMPOTENT and order.key in self.jobs:
            return self.jobs[order.key]
        self.acts.append(order.key)
        job = Job(len(self.acts), order.key, order.settings["temperature"], _now() + JOB_S)
        self.jobs[order.key] = job
        return job

    # --- the driver ---------------------------------------------------------------------------------------------

    async def describe(self) -> Description:
        """One capability of a real furnace."""
        capability = Capability(
            name="fire",
            parameters=(Parameter("temperature", "degC", 20.0, 1200.0, resolution=5.0),),
            outputs=(Output("strength", "MPa", 0.0, 1000.0),),
            typical_s=JOB_S,
            longest_s=LONGEST_S,
        )
        return Description((capability,), self.recovery, delivery_s=DELIVERY_S)

    async def open(self) -> Identity:
        """Name the device."""
        return Identity("furnace", serial=self.serial)

    async def identity(self) -> Identity:
        """Name the device that is there now."""
        return Identity("furnace", serial="2" if self.fault == "wrong serial number" else self.serial)

    async def close(self) -> None:
        """Nothing is kept open."""

    async def health(self) -> Health:
        """Say whether the link is there."""
        return Health("offline" if self.fault == "refused for ever" else "ready")

    async def abort(self, reason: str) -> None:
        """Stop, where the device does as it is told."""
        if self.fault == "abort refused":
            message = "not now"
            raise Busy(message)
        self.aborts += 1

    async def run(self, order: Order, events: Events) -> Result:
        """Send START once, and wait for the result."""
        self.orders += 1
        self._connect()
        job = await self._start(order)
        if self.recovery is not Recovery.BLIND:
            await events.accepted({"job": job.number, "key": job.key})
        return await self._finish(job, events)

    async def lookup(self, key: str, handle: JsonObject | None) -> Whereabouts:
        """Look into the device's own log."""
        if self.fault in {"partition for ever", "reboot, job lost"}:
            return Unsure("the log does not reach back" if "reboot" in self.fault else "nobody answers")
        job = self.jobs.get(key)
        if job is None:
            return Absent()
        return Finished(self._result(job)) if _now() >= job.ready else Running({"job": job.number, "key": job.key})

    async def attach(self, handle: JsonObject, events: Events) -> Result:
        """Wait for a job."""
        self.orders += 1
        return await self._finish(self.jobs[handle["key"]], events)

    # --- what goes wrong ----------------------------------------------------------------------------------------

    def _strikes(self, *faults: str) -> bool:
        return self.fault in faults and (self.orders == 1 or self.fault.endswith("for ever"))

    def _connect(self) -> None:
        if self._strikes("refused", "refused for ever", "hang on connect"):
            message = "the link could not be made; nothing was sent"
            raise NotConnected(message)
        if self._strikes("local control"):
            message = "a person works at the panel"
            raise Busy(message)

    async def _start(self, order: Order) -> Job:
        if self._strikes("START lost"):
            raise TimedOut(_silent("START"))
        if self._strikes("START arrives after its sender died"):
            asyncio.get_running_loop().call_later(LATE_S, self.fire, order)
            raise Died
        if self._strikes("sender died before START"):
            raise Died
        job = self.fire(order)
        if self._strikes("START duplicated"):
            job = self.fire(order)
        if self._strikes("ack lost"):
            raise TimedOut(_silent("START"))
        if self._strikes("ack late"):
            await asyncio.sleep(LONGEST_S + 60)
        if self._strikes("sender died after START"):
            raise Died
        if self._strikes("says ERROR, did run"):
            message = "E17"
            raise Fault(message)
        if self._strikes("says ERROR, began"):
            message = "the heater failed at 400 degC"
            raise Fault(message, effect=Effect.STARTED)
        return job

    async def _finish(self, job: Job, events: Events) -> Result:
        if self._strikes("partition", "partition for ever", "half-open", "reboot, job resumed", "reboot, ids restart"):
            job.number += 100 if self.fault == "reboot, ids restart" else 0
            raise (ProtocolDesync if "reboot" in self.fault else TimedOut)(_silent("the poll"))
        if self.fault == "reboot, job lost":
            job.lost = True
        if job.lost:
            message = "the device rebooted, and does not know what became of the job"
            raise Fault(message)
        if self._strikes("sender died while it ran"):
            raise Died
        if self._strikes("slow reader"):
            await asyncio.sleep(10 * LONGEST_S)
        while _now() < job.ready:
            if events.abort_requested() and self.fault != "abort refused":
                message = "stopped on request"
                raise Aborted(message)
            await events.sleep(min(1.0, job.ready - _now()))
        if self._strikes("sender died with the result"):
            raise Died
        return self._spoiled(self._result(job))

    def _result(self, job: Job) -> Result:
        reading = Reading("strength", job.asked.value / 4, "MPa", measured_at=time.time_ns() // 1000)
        return Result(job.key, (reading,), applied={"temperature": job.asked})

    def _spoiled(self, result: Result) -> Result:
        reading = result.readings[0]
        if self.fault == "stuck sensor":
            return replace(result, readings=(replace(reading, value=137.0),))
        if self.orders > 1:
            return result
        values: dict[str, Any] = {
            "nan": float("nan"),
            "inf": float("inf"),
            "OVER": "OVER",
            "decimal comma": "200,5",
            "thousand times too large": reading.value * 1000,
            "saturated": 1000.0,
            "drift": reading.value * 1.1,
            "read-back echoes the set-point": 5.0,  # it is cold, and says that it is at temperature
        }
        if self.fault in values:
            return replace(result, readings=(replace(reading, value=values[self.fault]),))
        old = (reading.measured_at or 0) - 3_600_000_000
        changed: dict[str, Any] = {
            "DONE before the data": {"readings": (replace(reading, measured_at=old),)},
            "clock a day behind": {"readings": (replace(reading, measured_at=(reading.measured_at or 0) - DAY_US),)},
            "clock a day ahead": {"readings": (replace(reading, measured_at=(reading.measured_at or 0) + DAY_US),)},
            "previous job's result": {"key": "0" * 64},
            "says DONE, did nothing": {"applied": {"temperature": Quantity(20.0, "degC")}},
            "empty": {"readings": ()},
            "truncated": {"readings": (replace(reading, property="stren"),)},
            "unit missing": {"readings": (replace(reading, unit="dimensionless"),)},
            "ten gigabytes": {"attachments": (Attachment("dump", "text/plain", b"x" * 2000),)},
            "endless line": {"notes": "x" * 20_000},
        }
        if self.fault == "bad checksum":
            message = "the checksum of the reply is wrong"
            raise BadData(message)
        return replace(result, **changed.get(self.fault, {}))


def _now() -> float:
    return asyncio.get_running_loop().time()


def _silent(what: str) -> str:
    return f"no answer to {what} in time"
