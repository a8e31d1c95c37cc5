"""A Modbus device that is described by its register map alone: furnaces, mass-flow controllers, chillers, PLCs.

::

    furnace:
      use: modbus
      options: {device: devices/furnace.yaml, address: "10.0.0.8:502"}        # or /dev/ttyUSB0
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, Field

from instruments.lane import Lane
from instruments.modbus.link import ModbusLink
from instruments.modbus.register_map import MapFile, Register, RegisterMap, State
from instruments.sequence import Course, Pace, SequencedInstrument
from orchestrator.domain import Description, Health, Identity
from orchestrator.errors import BadData, Busy, Fault, Interlocked, NotConnected, ProtocolDesync, Rejected
from orchestrator.protocols import Options

HEALTH_S = 0.3
"""Patience of a health question: the whole of `health` takes less than a second."""
ASKED = 4
"""How often a number is read at most, until two in a row are alike."""


class ModbusOptions(Options):
    """Which device, and where it is."""

    device: MapFile
    address: str
    device_id: int | None = Field(default=None, ge=0, le=255)
    timeout_s: float | None = Field(default=None, gt=0)
    baud_rate: int = Field(default=9600, gt=0)
    parity: Literal["N", "E", "O"] = "N"
    simulated: bool = False
    """The address is that of a simulator: nothing physical happens."""


class Modbus(SequencedInstrument):
    """Drive a device as its register map says.

    Args:
        options: device and address.
    """

    Options: ClassVar[type[BaseModel]] = ModbusOptions

    def __init__(self, options: ModbusOptions) -> None:
        super().__init__(options)
        self._map: RegisterMap = options.device
        self._link: ModbusLink | None = None
        self._described = self._map.description(simulated=options.simulated)

    def description(self) -> Description:
        """Declare what the file says."""
        return self._described

    def connect(self) -> Identity:
        """Open the link and prove it."""
        options = self.options
        if self._link is None:
            self._link = ModbusLink(
                options.address,
                self._map.identity,
                device_id=self._map.device_id if options.device_id is None else options.device_id,
                word_order=self._map.word_order,
                timeout_s=options.timeout_s or self._map.timeout_s,
                baud_rate=options.baud_rate,
                parity=options.parity,
            )
        return self._link.open()

    def disconnect(self) -> None:
        """Give the link back."""
        if self._link is not None:
            self._link.close()
            self._link = None

    def check(self) -> Health:
        """Ask the device how it is."""
        state = self._map.ready
        place: Register | None = state or self._map.identity.register_ or self._map.errors
        if place is None:
            place = next(iter(self._map.outputs.values())).register_
        value = self._line().read(place, timeout_s=HEALTH_S, retries=0)
        if state is not None and not _holds(state, value, None):
            return Health("busy", f"{place.table} {place.address} is {value:g}")
        return Health("ready")

    # SequencedInstrument

    def ready(self, course: Course) -> None:
        """Refuse while the device is at work, or in trouble from earlier."""
        del course
        state = self._map.ready
        if state is not None:
            value = self._number(state)
            if not _holds(state, value, None):
                message = f"{self._map.name} is not ready: {state.table} {state.address} is {value:g}"
                raise Busy(message)

    def put(self, name: str, value: float | str) -> None:
        """Write a set-point."""
        told = self._map.parameters[name]
        self._line().write(told.register_, told.choices[value] if isinstance(value, str) else value)

    def get(self, name: str) -> float | str:
        """Read a set-point back."""
        told = self._map.parameters[name]
        value = self._number(told.read or told.register_)
        if not told.choices:
            return value
        for choice, number in told.choices.items():
            if value == number:
                return choice
        message = f"{name} reads back as {value:g}; one of {sorted(told.choices.values())} was expected"
        raise ProtocolDesync(message)

    def tolerance(self, name: str) -> float:
        """Say what the file says."""
        return self._map.parameters[name].off()

    def starts(self, capability: str) -> bool:
        """Say whether the file has a start."""
        return self._map.capabilities[capability].start is not None

    def begin(self, course: Course) -> None:
        """Write the start, once."""
        command = self._map.capabilities[course.capability.name].start
        if command is not None:
            course.phases.sent()
            self._line().command(command)

    def at_work(self, course: Course) -> bool:
        """Ask whether the device is busy."""
        del course
        state = self._map.ready
        return state is not None and not _holds(state, self._number(state), None)

    def complain(self) -> None:
        """Raise what the error register says."""
        trouble = self._map.errors
        if trouble is None:
            return
        code = round(self._number(trouble))
        if code in trouble.none:
            return
        message = f"{self._map.name} reports error {code} in {trouble.table} {trouble.address}"
        if code in trouble.rejected:
            raise Rejected(message)
        if code in trouble.busy:
            raise Busy(message)
        if code in trouble.interlocked:
            raise Interlocked(message)
        raise Fault(message)

    def pace(self, capability: str) -> Pace:
        """Say what the file says."""
        settle = self._map.capabilities[capability].settle
        return Pace(settle.every_s, settle.at_most_s, settle.for_s, settle.after_s)

    def finished(self, course: Course) -> bool:
        """Ask whether the device has settled."""
        settle = self._map.capabilities[course.capability.name].settle
        done = _holds(settle, self._number(settle), course)
        if not done:
            self.complain()
        return done

    def read(self, capability: str, output: str) -> float:
        """Read one output."""
        del capability
        try:
            return self._number(self._map.outputs[output].register_)
        except ProtocolDesync as error:
            raise BadData(str(error)) from error

    def halt(self, capability: str) -> None:
        """Write the abort."""
        command = self._map.capabilities[capability].abort
        if command is not None:
            self._line().command(command)

    # SafeState

    async def make_safe(self) -> None:
        """Write the file's safe commands, or where there are none its aborts.

        Raises:
            Rejected: the file has neither.
        """
        aborts = tuple(work.abort for work in self._map.capabilities.values() if work.abort)
        commands = self._map.safe or aborts
        if not commands:
            message = f"the device file of {self._map.name} says neither 'safe' nor 'abort'; add one"
            raise Rejected(message)
        await self.open()
        lane = Lane(f"{self._map.name} aside")
        try:
            for command in commands:
                await lane.call(self._line().command, command)
        finally:
            await lane.close()

    def _number(self, place: Register) -> float:
        """Read a number, where that is wanted until two in a row are alike."""
        seen = [self._line().read(place)]
        while self._map.twice and len(seen) < ASKED and (len(seen) == 1 or seen[-1] != seen[-2]):
            seen.append(self._line().read(place))
        if not self._map.twice or seen[-1] == seen[-2]:
            return seen[-1]
        message = f"{place.table} {place.address} is {', '.join(f'{one:g}' for one in seen)}: no two in a row are alike"
        raise ProtocolDesync(message)

    def _line(self) -> ModbusLink:
        if self._link is None:
            message = f"the link with {self._map.name} was closed"
            raise NotConnected(message)
        return self._link


def _holds(state: State, value: float, course: Course | None) -> bool:
    if state.equals is not None and value != state.equals:
        return False
    if state.one_of and value not in state.one_of:
        return False
    bits = round(value)
    if bits & state.bits_set != state.bits_set or bits & state.bits_clear:
        return False
    if state.within is None:
        return True
    near = state.within
    goal: Any = course.numbers.get(near.of, math.nan) if course and isinstance(near.of, str) else near.of
    return abs(value - float(goal)) <= near.tolerance
