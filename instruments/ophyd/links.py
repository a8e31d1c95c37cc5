"""Signals of ophyd-async: built from PVs or found in a device, connected, read with time stamp and alarm.

Channel Access comes through aioca, whose context belongs to the process: the servers are fixed when the first signal is
connected, and its C threads live until the program ends; channels and sockets are given back when the last instrument
closes. Instruments that need other servers go into an adapter host. ``pip install 'matloop[epics]'``.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import math
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from instruments.ophyd.options import OphydOptions, Place
from orchestrator.domain import Quality
from orchestrator.errors import BadData, NotConnected

MISSING = "ophyd-async and aioca are not installed; type: pip install 'matloop[epics]'"
READ_S = 5.0
"""For reading one value; a record answers in milliseconds."""
INVALID = (-1, 3)
"""Alarm severities that say that a value means nothing."""
QUALITIES = {0: Quality.GOOD, 1: Quality.UNCERTAIN, 2: Quality.BAD}


@dataclass(frozen=True)
class Seen:
    """One value with what EPICS says of it.

    Args:
        value: number, or text of a choice.
        at: time stamp of the device, in seconds.
        severity: alarm: 0 none, 1 minor, 2 major, others invalid.
    """

    value: Any
    at: float
    severity: int


class Channels:
    """The process's Channel Access: one list of servers, shared by every instrument."""

    servers: tuple[str, ...] | None = None
    users = 0

    @classmethod
    def enter(cls, servers: tuple[str, ...]) -> None:
        """Use some servers.

        Raises:
            NotConnected: the process speaks to others already.
        """
        if cls.servers is not None and not set(servers) <= set(cls.servers):
            message = (
                f"this process speaks to the EPICS servers {', '.join(cls.servers)}, and {', '.join(servers)} cannot be"
                " added; give every EPICS instrument the same list, or run this one with 'matloop host'"
            )
            raise NotConnected(message)
        if cls.servers is None:
            cls.servers = servers
            os.environ["EPICS_CA_ADDR_LIST"] = " ".join(servers)
            os.environ["EPICS_CA_AUTO_ADDR_LIST"] = "NO"  # no broadcast: a lab network has other people's devices
            os.environ.setdefault("EPICS_CA_REPEATER_PORT", str(_free_port()))
        cls.users += 1

    @classmethod
    def leave(cls) -> None:
        """Give back; the last one closes every channel."""
        cls.users -= 1
        if cls.users == 0:
            importlib.import_module("aioca").purge_channel_caches()


class Links:
    """The connected signals of one device.

    Args:
        options: which signals.
        device: of ophyd-async, where the caller has built one.
    """

    def __init__(self, options: OphydOptions, device: Any = None) -> None:
        self._options = options
        self._device = device
        self._signals: dict[str, Any] = {}
        self._epics = False

    async def connect(self) -> str:
        """Build and connect every signal at the same time.

        Returns:
            The version of the library.

        Raises:
            NotConnected: a signal does not answer, the library is missing, or the device cannot be built.
        """
        version = await asyncio.to_thread(_load)  # six seconds on a cold start: not on the event loop
        o = self._options
        if o.servers:
            Channels.enter(o.servers)
            self._epics = True
        try:
            if o.device is not None and self._device is None:
                self._device = _built(o.device, o.arguments)
            places: dict[str, Place | None] = {"start": o.start, "busy": o.busy, "stop": o.stop, "trigger": o.trigger}
            for name, setting in o.signals.items():
                place = setting.readback or setting.text()
                places[f"set {name}"] = setting
                places[f"read {name}"] = Place(**{"attribute" if setting.pv is None else "pv": place})
            places |= {f"output {name}": place for name, place in o.outputs.items()}
            self._signals = {name: self._signal(name, place) for name, place in places.items() if place is not None}
            work = [_connected(name, signal, o.connect_s) for name, signal in self._signals.items()]
            await asyncio.gather(*work)
        except BaseException:
            self.close()
            raise
        return version

    def close(self) -> None:
        """Give the signals back."""
        self._signals = {}
        if self._epics:
            self._epics = False
            Channels.leave()

    def has(self, name: str) -> bool:
        """Say whether there is a signal of a name."""
        return name in self._signals

    def set(self, name: str, value: float | str) -> Any:
        """Write a value, once; return the status to wait for."""
        signal = self._signals[name]
        timed = "timeout" in inspect.signature(signal.set).parameters  # a movable that is no signal takes none
        return signal.set(value, timeout=None) if timed else signal.set(value)

    async def stop(self) -> None:
        """Stop everything that can be stopped: motors and the like, not plain signals."""
        stops = [getattr(signal, "stop", None) for name, signal in self._signals.items() if name.startswith("set ")]
        await asyncio.gather(*(stop() for stop in stops if inspect.iscoroutinefunction(stop)))

    async def see(self, name: str) -> Seen:
        """Read a value with its time stamp and alarm.

        Raises:
            BadData: it is no number, or its alarm says that it means nothing.
        """
        signal = self._signals[name]
        readings = await signal.read()
        reading = self._one(name, readings)
        value, severity = reading["value"], int(reading.get("alarm_severity", 0))
        if severity in INVALID:
            message = f"{name}: the device marks its value {value!r} as invalid"
            raise BadData(message)
        if not isinstance(value, str):
            value = float(value)
            if not math.isfinite(value):
                message = f"{name} is {value}; a finite number was expected"
                raise BadData(message)
        return Seen(value, float(reading["timestamp"]), severity)

    async def about(self, name: str) -> Mapping[str, Any]:
        """Return what the device says of a signal: units, limits, choices."""
        signal = self._signals[name]
        found: Mapping[str, Any] = self._one(name, await signal.describe())
        return found

    async def trigger(self) -> None:
        """Trigger the detector, staged for it as bluesky would; it is unstaged whatever happens."""
        detector = self._signals["trigger"]
        if hasattr(detector, "stage"):
            await detector.stage()
        try:
            await detector.trigger()
        finally:
            if hasattr(detector, "unstage"):
                await detector.unstage()

    def _one(self, name: str, found: Mapping[str, Any]) -> Any:
        output = self._options.outputs.get(name.removeprefix("output ")) if name.startswith("output ") else None
        if output is not None and output.field is not None:
            if output.field not in found:
                message = f"{name}: the device gives no {output.field!r}; it gives {', '.join(found)}"
                raise NotConnected(message)
            return found[output.field]
        return found.get(self._signals[name].name) or next(iter(found.values()))

    def _signal(self, name: str, place: Place) -> Any:
        if place.pv is not None:
            from ophyd_async.epics.core import epics_signal_r, epics_signal_rw  # noqa: PLC0415  optional

            written = name.startswith("set ") or name in {"start", "stop"}
            # The type is the device's; what we ask of it is checked when it is read.
            make: Any = epics_signal_rw if written else epics_signal_r
            return make(None, f"ca://{place.pv}", name=name, timeout=READ_S)
        found = self._device
        for part in filter(None, str(place.attribute).split(".")):
            found = getattr(found, part, None)
        if found is None:
            message = f"the device {self._options.device or type(self._device).__name__} has no {place.attribute!r}"
            raise NotConnected(message)
        return found


def _load() -> str:
    try:
        module = importlib.import_module("ophyd_async")
        importlib.import_module("ophyd_async.epics.core")
    except ImportError as error:
        raise NotConnected(MISSING) from error
    return f"ophyd-async {getattr(module, '__version__', '?')}"


def _built(name: str, arguments: Mapping[str, Any]) -> Any:
    module, _, attribute = name.partition(":")
    try:
        device = getattr(importlib.import_module(module), attribute)(**arguments)
    except Exception as error:
        message = f"the device {name} cannot be built: {type(error).__name__}: {error}"
        raise NotConnected(message) from error
    if not device.name:
        device.set_name(attribute.lower())
    return device


async def _connected(name: str, signal: Any, limit_s: float) -> None:
    try:
        await asyncio.wait_for(signal.connect(timeout=limit_s), limit_s + 0.3)
    except Exception as error:
        source = getattr(signal, "source", "")
        message = f"{name} does not answer ({source or error}); is its server on, and is it in 'servers'?"
        raise NotConnected(message) from error


def _free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
