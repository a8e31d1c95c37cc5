"""A SCPI device that is described by YAML alone.

::

    heater:
      use: scpi
      options: {device: devices/heater.yaml, address: "TCPIP::10.0.0.7::5025::SOCKET"}

``address: simulator`` practises against the file's own simulator, in this process and over a real socket.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, Field

from instruments.lane import Lane
from instruments.scpi.answers import NUMBER, error_code, number
from instruments.scpi.device import Condition, Device, DeviceFile, filled
from instruments.scpi.session import HEALTH_S, LONGEST_QUEUE, ScpiSession
from instruments.scpi.simulator import Background
from instruments.sequence import Course, Pace, SequencedInstrument
from orchestrator.domain import (
    Absent,
    Description,
    Finished,
    Health,
    Identity,
    JsonObject,
    Order,
    Result,
    Running,
    Unsure,
    Whereabouts,
)
from orchestrator.errors import BadData, Busy, Fault, Interlocked, NotConnected, ProtocolDesync, Rejected
from orchestrator.protocols import Events, Options

T = TypeVar("T")

SIMULATOR = "simulator"
PLAIN_KEY = re.compile(r"[\w.:-]+")
"""What may stand in a command: no quote, no separator, no line end."""
ASKED = 4
"""How often a question is asked at most, until an answer can be read and two in a row are alike."""


class ScpiOptions(Options):
    """Which device, and where it is."""

    device: DeviceFile
    address: str
    library: str = "@py"
    baud_rate: int = Field(default=9600, gt=0)
    timeout_s: float | None = Field(default=None, gt=0)
    simulated: bool = False
    """The address is that of a simulator: nothing physical happens."""


class Scpi(SequencedInstrument):
    """Drive a device as its file says.

    Args:
        options: device and address.
    """

    Options: ClassVar[type[BaseModel]] = ScpiOptions

    def __init__(self, options: ScpiOptions) -> None:
        super().__init__(options)
        self._device: Device = options.device
        self._session: ScpiSession | None = None
        self._practice: Background | None = None
        self._described = self._device.description(simulated=options.simulated or options.address == SIMULATOR)

    def description(self) -> Description:
        """Declare what the file says."""
        return self._described

    def connect(self) -> Identity:
        """Open the line and ask who is there."""
        options = self.options
        address = options.address
        if address == SIMULATOR:
            self._practice = self._practice or Background(self._device)
            address = f"TCPIP::127.0.0.1::{self._practice.port}::SOCKET"
        if self._session is None:
            self._session = ScpiSession(
                address,
                expect=self._device.identity.expect,
                identify=self._device.identity.query,
                timeout_s=options.timeout_s or self._device.timeout_s,
                terminator=self._device.terminator,
                library=options.library,
                baud_rate=options.baud_rate,
            )
        return self._session.open()

    def disconnect(self) -> None:
        """Give the line back."""
        if self._session is not None:
            self._session.close()
            self._session = None
        if self._practice is not None:
            self._practice.close()
            self._practice = None

    def check(self) -> Health:
        """Ask the device how it is."""
        ready = self._device.ready
        if ready is None:
            self._line().query(self._device.identity.query, timeout_s=HEALTH_S, retries=0)
            return Health("ready")
        answer = self._line().query(ready.query, timeout_s=HEALTH_S, retries=0)
        return Health("ready") if self._holds(ready, answer, None) else Health("busy", f"{ready.query} says {answer}")

    # SequencedInstrument

    def ready(self, course: Course) -> None:
        """Refuse while the device is at work for somebody else."""
        if not PLAIN_KEY.fullmatch(course.order.key):
            message = f"the key {course.order.key!r} cannot stand in a command; letters, digits and .:-_ can"
            raise Rejected(message)
        condition = self._device.ready
        if condition is not None:
            answer = self._state(condition)
            if not self._holds(condition, answer, None):
                message = f"{self._device.name} is not ready: {condition.query} says {answer}"
                raise Busy(message)
        errors = self._device.errors
        if errors is not None:  # what stands in the queue from earlier must not be taken for this order's
            for _ in range(LONGEST_QUEUE):
                if error_code(self._line().query(errors.query), errors.query) == 0:
                    return
            message = f"the error queue of {self._device.name} does not become empty; look at the device"
            raise Fault(message)

    def put(self, name: str, value: float | str) -> None:
        """Send a set-point."""
        point = self._device.parameters[name]
        word = point.choices[value] if isinstance(value, str) else value / point.scale
        self._line().write(filled(point.set, value=word))

    def get(self, name: str) -> float | str:
        """Read a set-point back."""
        point = self._device.parameters[name]
        if not point.choices:
            answer = self._answer(point.read, twice=self._device.twice, pattern=NUMBER)
            return number(answer, point.read, scale=point.scale)
        answer = self._answer(point.read, twice=self._device.twice)
        for choice, word in point.choices.items():
            if answer.strip("\"'") == word:
                return choice
        message = f"{point.read!r} answers {answer!r}; one of {', '.join(point.choices.values())} was expected"
        raise ProtocolDesync(message)

    def tolerance(self, name: str) -> float:
        """Say what the file says."""
        return self._device.parameters[name].off()

    def starts(self, capability: str) -> bool:
        """Say whether the file has a start."""
        return self._device.capabilities[capability].start is not None

    def begin(self, course: Course) -> None:
        """Send the start, once."""
        template = self._device.capabilities[course.capability.name].start
        if template is not None:
            course.phases.sent()
            self._line().write(filled(template, key=course.order.key))

    def handle(self, course: Course) -> JsonObject | None:
        """Give what `lookup` finds the work by, where the file has `job`."""
        if not self._device.job:
            return None
        return {"key": course.order.key, "capability": course.capability.name}

    def at_work(self, course: Course) -> bool:
        """Ask for the key of the last order, or else whether the device is busy."""
        if self._device.job:
            return self._answer(self._device.job, twice=True).strip("\"' ") == course.order.key
        ready = self._device.ready
        return ready is not None and not self._holds(ready, self._state(ready), None)

    def complain(self) -> None:
        """Raise what stands in the error queue."""
        errors = self._device.errors
        if errors is None:
            return
        # A lost answer took the error with it: after the start, asking again would find an empty queue.
        sent = self._course is not None and self._course.phases.place == "sent"
        answer = self._line().query(errors.query, retries=0 if sent else None)
        code = error_code(answer, errors.query)
        if code == 0:
            return
        message = f"{self._device.name} reports {answer}"
        if code in errors.rejected:
            raise Rejected(message)
        if code in errors.busy:
            raise Busy(message)
        if code in errors.interlocked:
            raise Interlocked(message)
        raise Fault(message)

    def pace(self, capability: str) -> Pace:
        """Say what the file says."""
        settle = self._device.capabilities[capability].settle
        return Pace(settle.every_s, settle.at_most_s, settle.for_s, settle.after_s)

    def finished(self, course: Course) -> bool:
        """Ask whether the device has settled."""
        settle = self._device.capabilities[course.capability.name].settle
        if not self._holds(settle, self._state(settle), course):
            return False
        return not self._device.twice or self._holds(settle, self._state(settle), course)

    def _result(self, course: Course, applied: Mapping[str, float | str]) -> Result:
        self._own_readings(course)
        return super()._result(course, applied)

    def _own_readings(self, course: Course) -> None:
        """Refuse numbers that the device shows for another order: an old display looks as good as a new one."""
        if not self._device.shown:
            return
        shown = self._answer(self._device.shown, twice=True).strip("\"' ")
        if shown != course.order.key:
            message = f"{self._device.shown!r} answers {shown!r}; the readings are not of order {course.order.key!r}"
            raise BadData(message)

    def read(self, capability: str, output: str) -> float:
        """Read one output."""
        del capability
        told = self._device.outputs[output]
        pattern = re.compile(told.number)
        twice = self._device.twice if told.twice is None else told.twice
        try:
            answer = self._answer(told.query, twice=twice, pattern=pattern)
        except ProtocolDesync as error:
            raise BadData(str(error)) from error
        return number(answer, told.query, scale=told.scale, pattern=pattern)

    def halt(self, capability: str) -> None:
        """Send the abort command."""
        command = self._device.capabilities[capability].abort
        if command is not None:
            self._line().write(command)

    # SafeState

    async def make_safe(self) -> None:
        """Send the file's safe commands, or where there are none its aborts.

        Raises:
            Rejected: the file has neither.
        """
        aborts = dict.fromkeys(work.abort for work in self._device.capabilities.values() if work.abort)
        commands = self._device.safe or tuple(aborts)
        if not commands:
            message = f"the device file of {self._device.name} says neither 'safe' nor 'abort'; add one"
            raise Rejected(message)
        await self.open()
        await self._aside(lambda: self._send(commands))

    # Recoverable, where the file has `job`

    async def lookup(self, key: str, handle: JsonObject | None) -> Whereabouts:
        """Ask the device which order it started last."""
        if not self._device.job:
            return Unsure("the device file has no 'job', a question whose answer holds the key of the last order")
        await self.open()
        last = (await self._aside(lambda: self._line().query(str(self._device.job)))).strip("\"' ")
        if last != key:
            return (
                Absent() if last else Unsure(f"{self._device.name} remembers no order; it may have been switched off")
            )
        token = handle or {"key": key}
        try:
            result = await self._aside(lambda: self.found(self._course_of(token)))
        except BadData as error:
            return Unsure(f"{self._device.name} started it last, and now: {error}; it may have been halted")
        return Running(token) if result is None else Finished(result)

    async def attach(self, handle: JsonObject, events: Events) -> Result:
        """Wait for the order that the device works on, or has done, and read it."""
        await self.open()
        loop = asyncio.get_running_loop()
        return await self._aside(lambda: self.resumed(self._course_of(handle), events, loop))

    # inside

    def _course_of(self, handle: JsonObject) -> Course:
        """Ask the device for the set-points of what it works on."""
        name = str(handle.get("capability") or self.description().capabilities[0].name)
        capability = self.description().capability(name)
        settings = {p.name: self.get(p.name) for p in capability.parameters}
        return Course(
            capability,
            Order(str(handle["key"]), name),
            {n: v for n, v in settings.items() if not isinstance(v, str)},
            {n: v for n, v in settings.items() if isinstance(v, str)},
            acting=True,
        )

    def _send(self, commands: Sequence[str]) -> None:
        for command in commands:
            self._line().write(command)

    async def _aside(self, call: Callable[[], T]) -> T:
        lane = Lane(f"{self._device.name} aside")
        try:
            return await lane.call(call)
        finally:
            await lane.close()

    def _line(self) -> ScpiSession:
        if self._session is None:
            message = f"the session with {self._device.name} was closed"
            raise NotConnected(message)
        return self._session

    def _answer(self, query: str, *, twice: bool = False, pattern: re.Pattern[str] | None = None) -> str:
        """Ask until an answer can be read, and where that is wanted until two in a row are alike."""
        seen: list[str] = []
        for _ in range(ASKED):
            answer = self._line().query(query)
            if pattern is not None and not pattern.fullmatch(answer):
                seen.append(answer)
                continue
            if not twice or (seen and seen[-1] == answer):
                return answer
            seen.append(answer)
        message = f"{query!r} answers {', '.join(map(repr, seen))}: none can be read, or no two in a row are alike"
        raise ProtocolDesync(message)

    def _state(self, condition: Condition) -> str:
        return self._answer(condition.query, pattern=NUMBER if condition.numeric() else None)

    def _holds(self, condition: Condition, answer: str, course: Course | None) -> bool:
        if condition.equals is not None and answer.strip("\"'") != condition.equals:
            return False
        if condition.bits_set or condition.bits_clear:
            bits = round(number(answer, condition.query))
            if bits & condition.bits_set != condition.bits_set or bits & condition.bits_clear:
                return False
        if condition.within is None:
            return True
        near = condition.within
        goal: Any = course.numbers.get(near.of, math.nan) if course and isinstance(near.of, str) else near.of
        return abs(number(answer, condition.query, scale=condition.scale) - float(goal)) <= near.tolerance
