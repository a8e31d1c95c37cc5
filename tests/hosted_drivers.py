"""Drivers that the tests of the adapter host serve from another process."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Literal

from instruments.settings import applied
from instruments.sync import BlockingInstrument, Job
from orchestrator.domain import (
    Absent,
    Attachment,
    Capability,
    Description,
    Finished,
    Identity,
    JsonObject,
    Output,
    Parameter,
    Reading,
    Recovery,
    Result,
    Running,
    Whereabouts,
)
from orchestrator.errors import BadData, Interlocked
from orchestrator.protocols import Events, Options


class OvenOptions(Options):
    """How long it bakes, what it remembers, and where each firing leaves its mark."""

    seconds: float = 0.0
    marks: Path
    recovery: Literal["blind", "idempotent", "queryable"] = "blind"
    interlocked: bool = False
    nan: bool = False


class Oven(BlockingInstrument):
    """Bake for a while; every firing is one line in a file, which outlives any process."""

    Options = OvenOptions

    def description(self) -> Description:
        """Declare `bake`."""
        bake = Capability(
            name="bake",
            parameters=(Parameter("temperature", "degC", 20.0, 800.0, resolution=1.0),),
            outputs=(Output("strength", "MPa", 0.0, 1000.0),),
            typical_s=0.1,
            longest_s=60.0,
            fidelity="simulated",
        )
        return Description((bake,), recovery=Recovery(self.options.recovery), simulated=True)

    def connect(self) -> Identity:
        """Say who it is."""
        return Identity("oven", "SN-7", "1.2")

    def work(self, job: Job) -> Result:
        """Bake."""
        if self.options.interlocked:
            message = "the door is open; close it"
            raise Interlocked(message)
        with self.options.marks.open("a") as marks:
            marks.write(f"{job.order.key}\n")
        for step in range(10):
            job.progress(step / 10, "baking")
            job.sleep(self.options.seconds / 10)
        temperature = job.numbers["temperature"]
        if temperature > 790:
            message = "the bar melted"
            raise BadData(message)
        return Result(
            key=job.order.key,
            readings=(Reading("strength", float("nan") if self.options.nan else temperature / 10, "MPa"),),
            applied=applied(self.description().capabilities[0], job.numbers),
            attachments=(Attachment("trace.csv", "text/csv", b"time,temperature\n" + b"0,20\n" * 1000),),
            notes="baked",
        )

    def stop(self, reason: str) -> None:
        """Note why."""
        with self.options.marks.open("a") as marks:
            marks.write(f"stopped: {reason}\n")


class SafeOven(Oven):
    """An oven that can be made safe, and whose jobs go on without their driver."""

    async def make_safe(self) -> None:
        """Note it."""
        with self.options.marks.open("a") as marks:
            marks.write("made safe\n")

    async def lookup(self, key: str, handle: JsonObject | None) -> Whereabouts:
        """Find a key among the marks."""
        lines = self.options.marks.read_text().splitlines() if self.options.marks.exists() else []
        if f"finished {key}" in lines:
            return Finished(self._told(key))
        return Running({"key": key}) if key in lines else Absent()

    async def attach(self, handle: JsonObject, events: Events) -> Result:
        """Wait a moment and give the result."""
        await asyncio.sleep(0.1)
        return self._told(str(handle["key"]))

    def _told(self, key: str) -> Result:
        return Result(key=key, readings=(Reading("strength", 11.0, "MPa"),), notes="found again")


def oven(marks: str) -> Oven:
    """Build an oven: a plain factory."""
    return Oven(OvenOptions(marks=Path(marks)))
