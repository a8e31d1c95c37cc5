"""Base of drivers whose devices are set, started, waited for and read: most bench instruments and controllers.

A transport writes how a set-point is put and read back, how the device is started, asked and halted. Here stand the
rules that are the same on every wire: every set-point is read back before the start; the start goes out once; each
error says what has physically happened by then; and an abort halts the device once, on a path beside the waiting job.
"""

from __future__ import annotations

import asyncio
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from instruments.phases import Phases
from instruments.sync import WAKE_S, BlockingInstrument, Job
from orchestrator.domain import Capability, JsonObject, Order, Quantity, Reading, Result
from orchestrator.errors import (
    Aborted,
    BadData,
    Busy,
    Effect,
    InstrumentError,
    NotConnected,
    ProtocolDesync,
    Rejected,
    TimedOut,
)
from orchestrator.protocols import Events

LOST = (NotConnected, TimedOut, ProtocolDesync)
"""Errors of the link: the device may have done what it was asked."""


@dataclass(frozen=True)
class Pace:
    """How to wait for a device.

    Args:
        every_s: seconds between two questions.
        at_most_s: seconds after which it hangs.
        for_s: how long the device must say without a break that it has finished.
        after_s: seconds before the first question; it may take a moment until the device notices the start.
    """

    every_s: float = 0.2
    at_most_s: float = 3600.0
    for_s: float = 0.0
    after_s: float = 0.0


@dataclass
class Course:
    """One order on its way.

    Args:
        capability: that is carried out.
        order: what is asked.
        numbers: set-points in the declared units.
        choices: categorical set-points.
        wants_end: says whether the campaign wants the order to end, for waits inside a library.
    """

    capability: Capability
    order: Order
    numbers: Mapping[str, float]
    choices: Mapping[str, str]
    wants_end: Callable[[], bool] = lambda: False
    phases: Phases = field(default_factory=Phases)
    lock: threading.Lock = field(default_factory=threading.Lock)
    acting: bool = False
    halted: bool = False


class SequencedInstrument(BlockingInstrument, ABC):
    """Set, read back, start, wait, read.

    Args:
        options: checked options of the driver.
    """

    def __init__(self, options: Any) -> None:
        super().__init__(options)
        self._course: Course | None = None

    # What a transport writes; each may raise any InstrumentError, its effect is set here.

    def ready(self, course: Course) -> None:
        """Refuse to begin: raise `Busy`, `Interlocked` or `Fault` where the device is not ready."""

    @abstractmethod
    def put(self, name: str, value: float | str) -> None:
        """Send a set-point, once."""

    @abstractmethod
    def get(self, name: str) -> float | str:
        """Read a set-point back from the device."""

    @abstractmethod
    def tolerance(self, name: str) -> float:
        """Say how far a set-point may be off when it is read back, in its unit."""

    @abstractmethod
    def starts(self, capability: str) -> bool:
        """Say whether there is a start; where there is none, the set-points act by themselves."""

    @abstractmethod
    def begin(self, course: Course) -> None:
        """Send the start, exactly once."""

    def handle(self, course: Course) -> JsonObject | None:
        """Give the token by which the work is found again; None where the device knows no jobs."""
        del course
        return None

    def at_work(self, course: Course) -> bool:
        """Say whether the device shows that it took this start; False where it cannot show it."""
        del course
        return False

    def complain(self) -> None:
        """Ask the device for its errors, and raise them."""

    @abstractmethod
    def pace(self, capability: str) -> Pace:
        """Say how the device is waited for."""

    @abstractmethod
    def finished(self, course: Course) -> bool:
        """Ask whether the work is done; raise `Fault` where the device says that it failed."""

    @abstractmethod
    def read(self, capability: str, output: str) -> float:
        """Read one output, in its declared unit."""

    def halt(self, capability: str) -> None:
        """Tell the device to stop this work."""

    # The rules.

    def work(self, job: Job) -> Result:
        """Carry out one order."""
        capability = self.description().capability(job.order.capability)
        course = self._course = Course(capability, job.order, job.numbers, job.choices, job.abort_requested)
        try:
            with course.phases:
                applied = self._prepared(job, course)
                self._started(job, course)
                self._awaited(job, course)
                return self._result(course, applied)
        except InstrumentError as error:
            if isinstance(error, Aborted | TimedOut):
                self._halt(course)
            raise
        finally:
            self._course = None

    def stop(self, reason: str) -> None:
        """Halt the device, beside the job that waits for it."""
        del reason
        course = self._course
        if course is not None:
            self._halt(course)

    def resumed(self, course: Course, events: Events, loop: asyncio.AbstractEventLoop) -> Result:
        """Wait for work that an earlier process began, and read it; sends nothing that starts anything.

        Args:
            course: with the set-points as the device has them.
            events: of the campaign.
            loop: that `events` belongs to.
        """
        job = Job(course.order, dict(course.numbers), dict(course.choices), events, loop)
        self._course = course
        try:
            with course.phases:
                course.phases.working()
                self._awaited(job, course)
                return self._result(course, {**course.numbers, **course.choices})
        except Aborted:
            self._halt(course)
            raise
        finally:
            self._course = None

    def found(self, course: Course) -> Result | None:
        """Read work that an earlier process began, where it is done; None where it goes on.

        Args:
            course: with the set-points as the device has them.
        """
        if not self.finished(course):
            return None
        return self._result(course, {**course.numbers, **course.choices})

    def _prepared(self, job: Job, course: Course) -> Mapping[str, float | str]:
        self.ready(course)
        job.raise_if_aborted()
        wanted: dict[str, float | str] = {**course.numbers, **course.choices}
        for name, value in wanted.items():
            self._put(course, name, value)
        self.complain()
        applied = {name: self.get(name) for name in wanted}
        for name, value in wanted.items():
            if not self._same(name, value, applied[name]):
                applied[name] = self.get(name)  # a spoilt answer is no refusal
                if not self._same(name, value, applied[name]):
                    message = f"{name} was set to {value} and the device says {applied[name]}; it did not take it"
                    raise Rejected(message)
        return applied

    def _put(self, course: Course, name: str, value: float | str) -> None:
        if not self.starts(course.capability.name):
            self._act(course)
            self.put(name, value)
            return
        try:
            self.put(name, value)
        except (*LOST, Rejected):
            self.put(
                name, value
            )  # nothing moves before the start, and a set-point is the same however often it is sent

    def _same(self, name: str, asked: float | str, seen: float | str) -> bool:
        if isinstance(asked, str) or isinstance(seen, str):
            return seen == asked
        return abs(seen - asked) <= self.tolerance(name) + 1e-9 * max(1.0, abs(asked))

    def _started(self, job: Job, course: Course) -> None:
        job.raise_if_aborted()
        if self.starts(course.capability.name):
            self._act(course)
            try:
                self._begun(course)
                self.complain()
            except (*LOST, Rejected, Busy):
                if not self._surely_begun(course):
                    raise
        course.phases.working()
        handle = self.handle(course)
        if handle is not None:
            job.accepted(handle)

    def _begun(self, course: Course) -> None:
        with course.lock:
            if course.halted:
                course.phases.place = "before"
                message = f"{course.capability.name} was stopped before it began"
                raise Aborted(message)
            self.begin(course)

    def _surely_begun(self, course: Course) -> bool:
        """Ask, where the answer to the start was lost, whether the device took it: it was ready just before."""
        try:
            return self.at_work(course)
        except InstrumentError:
            return False

    def _act(self, course: Course) -> None:
        with course.lock:
            course.acting = True
        if course.phases.place == "before":
            course.phases.sent()

    def _awaited(self, job: Job, course: Course) -> None:
        pace = self.pace(course.capability.name)
        pause(job, pace.after_s)
        began = time.monotonic()
        since: float | None = None
        while True:
            now = time.monotonic()
            since = (since or now) if self.finished(course) else None
            if since is not None and now - since >= pace.for_s:
                break
            if now - began > pace.at_most_s:
                name = course.capability.name
                message = f"{name} did not end within {pace.at_most_s:g} s and was halted; look at the device"
                raise TimedOut(message)
            job.progress(min(0.99, (now - began) / max(course.capability.typical_s, 1e-3)))
            pause(job, pace.every_s)
        course.phases.done()

    def _result(self, course: Course, applied: Mapping[str, float | str]) -> Result:
        capability = course.capability
        readings = [
            Reading(output.name, self.read(capability.name, output.name), output.unit) for output in capability.outputs
        ]
        self.complain()
        for output, reading in zip(capability.outputs, readings, strict=True):
            low, high = output.low, output.high
            if (low is not None and reading.value < low) or (high is not None and reading.value > high):
                message = f"{output.name} is {reading.value:g} {output.unit}; {low} to {high} is physically possible"
                raise BadData(message)
        units = {parameter.name: parameter.unit for parameter in capability.parameters}
        return Result(
            key=course.order.key,
            readings=tuple(readings),
            applied={n: Quantity(v, units[n]) for n, v in applied.items() if not isinstance(v, str)},
            applied_choices={n: v for n, v in applied.items() if isinstance(v, str)},
        )

    def _halt(self, course: Course) -> None:
        """Halt once, whoever comes first: the waiting job or the abort beside it."""
        with course.lock:
            if course.halted:
                return
            course.halted = True
            acting = course.acting
        if not acting or course.phases.place == "done":
            return
        try:
            self.halt(course.capability.name)
        except InstrumentError as error:
            message = f"{course.capability.name} could not be halted: {error}; look at the device"
            raise TimedOut(message, effect=Effect.UNKNOWN) from error


def pause(job: Job, seconds: float) -> None:
    """Wait by the wall clock, which is the device's, and end early where the campaign wants an abort.

    Args:
        job: looked at for an abort.
        seconds: how long.

    Raises:
        Aborted: the campaign wants the order to end.
    """
    until = time.monotonic() + seconds
    while True:
        job.raise_if_aborted()
        left = until - time.monotonic()
        if left <= 0:
            return
        time.sleep(min(WAKE_S, left))
