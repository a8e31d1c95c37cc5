"""Any driver of PyMeasure as an instrument: what is a set-point and what an output is said in the lab file.

::

    supply:
      use: pymeasure
      options:
        class: pymeasure.instruments.keithley:Keithley2260B
        address: "TCPIP::10.0.0.9::2268::SOCKET"
        set: {voltage: {attribute: voltage_setpoint, unit: volt, low: 0, high: 20}}
        get: {power: {attribute: power, unit: watt, low: 0, high: 400}}
        start: {attribute: output_enabled, value: true}
        abort: {attribute: output_enabled, value: false}

PyMeasure's drivers know neither limits nor units nor aborts, and raise what their libraries raise; all of that is added
here, and the wire is treated as in `scpi.session`. PyMeasure (MIT); ``pip install 'matloop[pymeasure]'``.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import inspect
import math
import re
import threading
from collections.abc import Callable
from typing import Any, ClassVar

from pydantic import BaseModel

from instruments.lane import Lane
from instruments.pymeasure.options import OWN, Act, Is, PyMeasureOptions, SetAttribute, Until
from instruments.scpi.answers import identity, mapped, stray
from instruments.scpi.session import IDENTIFY_S, LOST
from instruments.sequence import Course, Pace, SequencedInstrument
from orchestrator.domain import Capability, Description, Health, Identity, Output, Parameter
from orchestrator.errors import (
    BadData,
    Busy,
    Fault,
    InstrumentError,
    NotConnected,
    PluginError,
    ProtocolDesync,
    Rejected,
    TimedOut,
)

RETRIES = 2
"""How often an attribute is read again on a fresh session; what is written is written once."""
HEALTH_S = 0.3


class PyMeasure(SequencedInstrument):
    """Drive a device through PyMeasure.

    Args:
        options: class, address and the meaning of attributes.
    """

    Options: ClassVar[type[BaseModel]] = PyMeasureOptions

    def __init__(self, options: PyMeasureOptions) -> None:
        super().__init__(options)
        self._class = _loaded(options.driver)
        self._missing()
        self._device: Any = None
        self._known = ""
        self._closed = False
        self._lock = threading.RLock()

    def description(self) -> Description:
        """Declare what the lab file says."""
        o = self.options
        work = Capability(
            o.capability,
            parameters=tuple(
                Parameter(n, p.unit, p.low, p.high, p.resolution, tuple(p.choices), p.default) for n, p in o.set.items()
            ),
            outputs=tuple(Output(n, g.unit, g.low, g.high) for n, g in o.get.items()),
            typical_s=o.typical_s,
            longest_s=o.longest_s,
            cost=o.cost,
            fidelity="simulated" if o.simulated else o.fidelity,
        )
        return Description((work,), simulated=o.simulated)

    def connect(self) -> Identity:
        """Build the driver and ask the device who it is."""
        with self._lock:
            self._drop()
            self._known, self._closed = "", False
            self._reopen()
            return identity(self._known)

    def disconnect(self) -> None:
        """Give the line back."""
        self._closed = True  # a thread that is inside a call must not open it again
        held = self._lock.acquire(timeout=self.options.timeout_s)
        try:
            self._drop()
        finally:
            if held:
                self._lock.release()

    def check(self) -> Health:
        """Ask the device who it is."""
        with self._lock:
            if self._device is None:
                self._reopen()
            self._patience(HEALTH_S)
            try:
                self._touch(lambda device: _get(device, self.options.identity), self.options.identity)
            finally:
                self._patience(self.options.timeout_s)
        return Health("ready")

    # SequencedInstrument

    def ready(self, course: Course) -> None:
        """Prove the link before anything is set, and empty the error queue."""
        self._asked(self.options.identity)
        ready: Is | None = self.options.ready
        if ready is not None and not self._is(ready, course):
            message = f"the device at {self.options.address} is not ready: {ready.attribute} is not as it must be"
            raise Busy(message)
        if self.options.errors:
            self._done(lambda device: device.check_errors(), "check_errors")

    def put(self, name: str, value: float | str) -> None:
        """Set an attribute, once."""
        told = self.options.set[name]
        self._written(told.attribute, told.choices[value] if isinstance(value, str) else value)

    def get(self, name: str) -> float | str:
        """Read a set-point back."""
        told: SetAttribute = self.options.set[name]
        attribute = told.readback or told.attribute
        if not told.choices:
            return self._number(attribute)
        value = self._asked(attribute)
        for choice, word in told.choices.items():
            if value == word:
                return choice
        message = f"{attribute} reads back as {value!r}; one of {sorted(map(str, told.choices.values()))} was expected"
        raise ProtocolDesync(message)

    def tolerance(self, name: str) -> float:
        """Say what the lab file says."""
        told = self.options.set[name]
        return float(told.off())

    def starts(self, capability: str) -> bool:
        """Say whether something begins to happen only with the start."""
        del capability
        return self.options.start is not None and self.options.effects == "start"

    def begin(self, course: Course) -> None:
        """Start, once."""
        course.phases.sent()
        self._acted(self.options.start)

    def complain(self) -> None:
        """Raise what the driver finds in the device's error queue."""
        if not self.options.errors:
            return
        found = self._done(lambda device: device.check_errors(), "check_errors")
        if found:
            message = f"the device reports {found}"
            refused = self._course is None or self._course.phases.place in {"before", "sent"}
            raise Rejected(message) if refused else Fault(message)

    def pace(self, capability: str) -> Pace:
        """Say what the lab file says."""
        del capability
        until = self.options.wait
        return Pace() if until is None else Pace(until.every_s, until.at_most_s, until.for_s, until.after_s)

    def finished(self, course: Course) -> bool:
        """Ask whether the device has settled, or let the driver's own method wait."""
        until: Until | None = self.options.wait
        if until is None:
            return True
        if until.method is not None:
            name = until.method
            try:
                self._done(lambda device: _call(device, name, course.wants_end), name)
            except InstrumentError:
                if not course.wants_end():  # many such methods raise where they are told to stop
                    raise
            return not course.wants_end()
        return self._is(until, course)

    def at_work(self, course: Course) -> bool:
        """Ask whether the device is busy, where the lab file says what shows it."""
        ready: Is | None = self.options.ready
        return ready is not None and not self._is(ready, course)

    def read(self, capability: str, output: str) -> float:
        """Read one output."""
        del capability
        attribute = self.options.get[output].attribute
        try:
            return self._number(attribute)
        except ProtocolDesync as error:
            raise BadData(str(error)) from error

    def halt(self, capability: str) -> None:
        """Stop."""
        del capability
        self._acted(self.options.abort)

    # SafeState

    async def make_safe(self) -> None:
        """Do what the lab file says under `safe`, or else `abort`.

        Raises:
            Rejected: it says neither.
        """
        act = self.options.safe or self.options.abort
        if act is None:
            message = f"the lab file says neither 'safe' nor 'abort' for {self.options.driver}; add one"
            raise Rejected(message)
        await self.open()
        lane = Lane(f"{self._class.__name__} aside")
        try:
            await lane.call(self._acted, act)
        finally:
            await lane.close()

    # inside

    def _missing(self) -> None:
        o = self.options
        named = [p for s in o.set.values() for p in (s.attribute, s.readback) if p] + [
            g.attribute for g in o.get.values()
        ]
        named += [a for act in (o.start, o.abort, o.safe, o.wait) if act for a in (act.method, act.attribute) if a]
        named += [o.ready.attribute] if o.ready else []
        unknown = sorted({name for name in named if not hasattr(self._class, name.split(".", maxsplit=1)[0])})
        if unknown:
            there = ", ".join(name for name in sorted(vars(self._class)) if not name.startswith("_"))
            message = f"{o.driver} has no {', '.join(unknown)}; it has: {there}"
            raise PluginError(message)

    def _reopen(self) -> None:
        o = self.options
        if self._closed:
            message = f"the session with {o.address} was closed"
            raise NotConnected(message)
        try:
            wire = {
                "visa_library": o.library,
                "timeout": int(IDENTIFY_S * 1000),
                "open_timeout": int(IDENTIFY_S * 1000),
            }
            self._device = self._class(o.address, **wire, **o.keywords)
            answer = str(self._touch(lambda device: _get(device, o.identity), o.identity)).strip()
            self._patience(o.timeout_s)
        except InstrumentError as error:
            self._drop()
            message = f"{o.address}: nobody answers {o.driver} ({error}); is it switched on and free?"
            raise NotConnected(message) from error
        except Exception as error:
            self._drop()
            message = f"{o.address} cannot be opened by {o.driver}: {type(error).__name__}: {error}"
            raise NotConnected(message) from error
        if not re.search(o.expect, answer) or (self._known and answer != self._known):
            self._drop()
            message = (
                f"{o.address} says it is {answer!r}; {self._known or o.expect!r} was expected; look at the address"
            )
            raise NotConnected(message)
        self._known = answer

    def _is(self, state: Is | Until, course: Course) -> bool:
        if state.within is None:
            return bool(self._asked(state.attribute) == state.equals)
        near = state.within
        goal = float(course.numbers[near.of] if isinstance(near.of, str) else near.of)
        return abs(self._number(str(state.attribute)) - goal) <= near.tolerance

    def _number(self, attribute: str) -> float:
        """Read a number; what is none may be a spoilt answer, and is asked for again."""
        for _ in range(RETRIES + 1):
            value = self._asked(attribute)
            try:
                number = float(value)
            except (TypeError, ValueError):
                continue
            if math.isfinite(number):
                return number
        message = f"{attribute} is {value!r}; a finite number was expected"
        raise ProtocolDesync(message)

    def _asked(self, attribute: str | None) -> Any:
        name = str(attribute)
        return self._done(lambda device: _get(device, name), name, retries=RETRIES)

    def _written(self, attribute: str, value: Any) -> None:
        try:
            self._done(lambda device: _set(device, attribute, value), attribute, reading=False)
        except ValueError as error:  # PyMeasure's validators
            message = f"{self.options.driver} does not take {value!r} for {attribute}: {error}"
            raise Rejected(message) from error

    def _acted(self, act: Act | None) -> None:
        if act is None:
            return
        if act.attribute is not None:
            self._written(act.attribute, act.value)
        else:
            self._done(lambda device: _get(device, str(act.method))(), str(act.method))

    def _done(self, call: Callable[[Any], Any], name: str, *, retries: int = 0, reading: bool = True) -> Any:
        if not self._lock.acquire(timeout=self.options.timeout_s + 1.0):
            message = f"{name}: the driver is inside another call that does not return"
            raise TimedOut(message)
        try:
            for left in range(retries, -1, -1):
                try:
                    if self._device is None:
                        self._reopen()
                    return self._touch(call, name, reading=reading)
                except LOST:
                    if not left:
                        raise
        finally:
            self._lock.release()
        raise AssertionError  # the loop returns or raises

    def _touch(self, call: Callable[[Any], Any], name: str, *, reading: bool = True) -> Any:
        where = f"{self.options.address}, {name}"
        if stray(getattr(self._device.adapter, "connection", None)):
            self._drop()
            message = f"before {where} was asked, the device had sent something that nobody asked for"
            raise ProtocolDesync(message)
        try:
            return call(self._device)
        except ValueError as error:
            if not reading:
                raise
            self._drop()
            raise mapped(error, where, self.options.timeout_s) from error
        except Exception as error:
            self._drop()
            raise mapped(error, where, self.options.timeout_s) from error

    def _patience(self, seconds: float) -> None:
        connection = getattr(self._device.adapter, "connection", None) if self._device is not None else None
        if connection is not None:
            connection.timeout = int(seconds * 1000)

    def _drop(self) -> None:
        device, self._device = self._device, None
        if device is not None:
            with contextlib.suppress(Exception):  # the line may be gone already
                device.adapter.close()


def _loaded(name: str) -> type[Any]:
    module, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except ImportError as error:
        if importlib.util.find_spec(OWN) is None:
            message = f"PyMeasure drivers need pymeasure ({error}); type: pip install 'matloop[pymeasure]'"
        else:
            message = f"{name!r} cannot be imported: {error}"
        raise PluginError(message) from error
    except AttributeError as error:
        message = f"the module {module} has no {attribute}"
        raise PluginError(message) from error
    if not isinstance(found, type) or not any(base.__name__ == "CommonBase" for base in found.__mro__):
        message = f"{name!r} is {found!r}; a subclass of pymeasure.instruments.Instrument was expected"
        raise PluginError(message)
    return found


def _get(device: Any, path: str) -> Any:
    for part in path.split("."):
        device = getattr(device, part)
    return device


def _set(device: Any, path: str, value: Any) -> None:
    *inner, last = path.split(".")
    setattr(_get(device, ".".join(inner)) if inner else device, last, value)


def _call(device: Any, path: str, wants_end: Callable[[], bool]) -> None:
    method = _get(device, path)
    if "should_stop" in inspect.signature(method).parameters:
        method(should_stop=wants_end)
    else:
        method()
