"""The simulator of a device file: answers the commands that the file declares, over TCP or a serial line.

It keeps set-points within their bounds and refuses others through the error queue, is busy while a job lasts, and gives
outputs by the file's formulas. What it cannot tell you is whether the file is right about the real device.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import random
import re
import string
import threading
import time
import tty
from collections import deque
from collections.abc import Callable
from typing import Any

from instruments.scpi.device import Condition, Device, SetPoint, filled
from instruments.scpi.simulation import Formula
from orchestrator.errors import NotConnected

NAN = "9.91E37"
MANY_ERRORS = 32
CLEAR = 0.5
"""How far from done a condition is while the device is at work, in its tolerances."""


class Simulator:
    """The state of the device.

    Args:
        device: as the file says.
        late: share of the answers that come late, and by how many seconds.
    """

    def __init__(self, device: Device, *, late: tuple[float, float] = (0.0, 0.0)) -> None:
        if device.simulator is None:
            message = (
                f"the device file of {device.name} has no 'simulator'; give it an identity, a duration and outputs"
            )
            raise NotConnected(message)
        self.device = device
        self.plan = device.simulator
        self.late = late
        self.starts: list[str] = []
        self._draws = random.Random(self.plan.seed)
        self._waits = random.Random(self.plan.seed + 1)
        self._setters = {name: matcher(p.set) for name, p in device.parameters.items()}
        self._starters = {n: matcher(w.start) for n, w in device.capabilities.items() if w.start}
        self._reset()

    def answer(self, line: str) -> str | None:
        """Carry out one command.

        Args:
            line: without its terminator.

        Returns:
            The answer to a question; None for a command.
        """
        line = line.strip()
        if not line:
            return None
        fixed = self._fixed(line)
        if fixed is not None:
            return fixed or None
        if line.endswith("?") or self._asked(line):
            answered = self._question(line)
            if answered is None:
                self._error(-113, "Undefined header")
            return answered
        self._command(line)
        return None

    # state

    def _reset(self) -> None:
        self._values: dict[str, float | str] = {
            name: next(iter(p.choices), "") if p.choices else float(p.low or 0.0)
            for name, p in self.device.parameters.items()
        }
        self._errors: deque[str] = deque(maxlen=MANY_ERRORS)
        self._until = 0.0
        self._began = 0.0
        self._key = ""
        self._results: dict[str, float] | None = None
        self._pending: dict[str, float] | None = None

    def _busy(self) -> bool:
        if self._pending is not None and time.monotonic() >= self._until:
            self._results, self._pending = self._pending, None
        return self._pending is not None

    def _stop(self) -> None:
        self._pending = None

    def _error(self, code: int, text: str) -> None:
        self._errors.append(f'{code},"{text}"')

    # commands

    def _fixed(self, line: str) -> str | None:
        """Answer what every device knows; empty for a command, None for anything else."""
        errors = self.device.errors
        if line == self.device.identity.query:
            return self.plan.identity
        if errors is not None and line == errors.query:
            return self._errors.popleft() if self._errors else '0,"No error"'
        if line.upper() == "*OPC?":
            return "1"
        stops = {work.abort for work in self.device.capabilities.values()} | {"ABOR", *self.device.safe}
        known = {"*RST": self._reset, "*CLS": self._errors.clear, **dict.fromkeys(stops, self._stop)}
        if line not in known:
            return None
        known[line]()
        return ""

    def _command(self, line: str) -> None:
        for name, pattern in self._setters.items():
            found = pattern.fullmatch(line)
            if found:
                self._set(name, self.device.parameters[name], found["value"])
                return
        for capability, pattern in self._starters.items():
            found = pattern.fullmatch(line)
            if found:
                self._start(capability, found.groupdict().get("key") or "")
                return
        self._error(-113, "Undefined header")

    def _set(self, name: str, point: SetPoint, text: str) -> None:
        if self._busy():
            self._error(-221, "Settings conflict")
            return
        if point.choices:
            chosen = next((choice for choice, word in point.choices.items() if word == text), None)
            if chosen is None:
                self._error(-224, "Illegal parameter value")
            else:
                self._values[name] = chosen
        else:
            try:
                value = float(text) * point.scale
            except ValueError:
                self._error(-104, "Data type error")
                return
            low, high = point.low or 0.0, point.high or 0.0
            slack = 1e-6 * (high - low)
            if not low - slack <= value <= high + slack:
                self._error(-222, "Data out of range")
                return
            self._values[name] = value
        self._results = None
        acting = next((c for c, w in self.device.capabilities.items() if w.start is None), None)
        if acting is not None:  # the set-points act by themselves, and the next one may follow at once
            self._start(acting, "")
            self._pending, self._results = None, self._pending

    def _start(self, capability: str, key: str) -> None:
        if self._busy():
            self._error(-213, "Init ignored")
            return
        self.starts.append(key)
        self._key = key
        self._began = time.monotonic()
        self._until = self._began + self.plan.duration_s
        numbers = {name: value for name, value in self._values.items() if not isinstance(value, str)}
        names = self.device.capabilities[capability].outputs or tuple(self.device.outputs)
        self._results = None
        self._pending = {n: self.plan.outputs.get(n, Formula()).value(numbers, self._draws) for n in names}

    # questions

    def _asked(self, line: str) -> bool:
        return any(line == query for query in self._queries())

    def _queries(self) -> dict[str, Callable[[], str]]:
        queries: dict[str, Callable[[], str]] = {}
        for work in self.device.capabilities.values():
            queries[work.settle.query] = lambda condition=work.settle: self._state(condition)  # type: ignore[misc]
        if self.device.ready is not None:
            queries.setdefault(self.device.ready.query, lambda: self._state(self.device.ready))  # type: ignore[arg-type]
        for name in self.device.parameters:
            queries[self.device.parameters[name].read] = lambda name=name: self._read(name)  # type: ignore[misc]
        for name in self.device.outputs:
            queries.setdefault(self.device.outputs[name].query, lambda name=name: self._output(name))  # type: ignore[misc]
        for query in (self.device.job, self.device.shown):
            if query:
                queries[query] = lambda: f'"{self._key}"'
        return queries

    def _question(self, line: str) -> str | None:
        answer = self._queries().get(line)
        return None if answer is None else answer()

    def _read(self, name: str) -> str:
        point, value = self.device.parameters[name], self._values[name]
        if isinstance(value, str):
            return point.choices[value]
        form = next((f for _, n, f, _ in string.Formatter().parse(point.set) if n == "value"), "")
        return filled(f"{{value:{form}}}", value=value / point.scale)

    def _output(self, name: str) -> str:
        if self._busy() or self._results is None or name not in self._results:
            return NAN
        return f"{self._results[name] / self.device.outputs[name].scale:.9E}"

    def _state(self, condition: Condition) -> str:
        done = not self._busy()
        if condition.within is not None:
            near = condition.within
            goal = self._values[near.of] if isinstance(near.of, str) else near.of
            return f"{self._ramp(float(goal), near.tolerance, done=done) / condition.scale:.6E}"
        if condition.bits_set or condition.bits_clear:
            return str(condition.bits_set if done else condition.bits_clear)
        assert condition.equals is not None  # noqa: S101  a condition says at least one of the three
        return condition.equals if done else _otherwise(condition.equals)

    def _ramp(self, goal: float, tolerance: float, *, done: bool) -> float:
        if done:
            return goal
        share = (time.monotonic() - self._began) / max(self.plan.duration_s, 1e-9)
        value = self.plan.ambient + (goal - self.plan.ambient) * min(1.0, share)
        least = (1.0 + CLEAR) * tolerance
        return value if abs(value - goal) > least else goal - math.copysign(least, goal - self.plan.ambient)

    # the wire

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        end = self.device.terminator.encode()
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            while True:
                line = await reader.readuntil(end)
                await self._reply(line, writer.write)
                await writer.drain()
        writer.close()

    async def _reply(self, line: bytes, send: Callable[[bytes], Any]) -> None:
        answer = self.answer(line.decode("ascii", "replace"))
        if answer is not None:
            share, seconds = self.late
            if share and self._waits.random() < share:
                await asyncio.sleep(seconds)
            send(answer.encode() + self.device.terminator.encode())

    async def serve_line(self, master: int) -> None:
        """Serve a pseudo-terminal.

        Args:
            master: file descriptor of its near end.
        """
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader()
        transport, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(master, "rb", buffering=0, closefd=False)
        )
        try:
            while True:
                line = await reader.readuntil(self.device.terminator.encode())
                await self._reply(line, lambda answer: os.write(master, answer))
        finally:
            transport.close()


async def serve(simulator: Simulator, port: int | None, ready: Callable[[str], Any]) -> None:
    """Serve a simulator for ever.

    Args:
        simulator: the device.
        port: TCP port of the loopback interface, 0 for a free one; None for a pseudo-terminal.
        ready: told the address when it listens: the port, or the name of the serial line.
    """
    if port is not None:
        server = await asyncio.start_server(simulator.talk, "127.0.0.1", port)
        ready(str(server.sockets[0].getsockname()[1]))
        async with server:
            await server.serve_forever()
        return
    master, slave = os.openpty()
    tty.setraw(master)
    tty.setraw(slave)  # kept open: without a far end the near one would report a hang-up whenever a client leaves
    ready(os.ttyname(slave))
    await simulator.serve_line(master)


class Background:
    """The simulator in a thread of this process, on a port of the loopback interface: for practice.

    Args:
        device: as the file says.
    """

    def __init__(self, device: Device) -> None:
        self.simulator = Simulator(device)
        self.port = 0
        self._ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._end: asyncio.Event | None = None
        self._thread = threading.Thread(target=self._main, name=f"simulator of {device.name}", daemon=True)
        self._thread.start()
        self._ready.wait(10.0)

    def close(self) -> None:
        """End it."""
        if self._loop is not None and self._end is not None:
            with contextlib.suppress(RuntimeError):  # it has ended already
                self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(5.0)

    def _main(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self.simulator.talk, "127.0.0.1", 0)
        self.port = int(server.sockets[0].getsockname()[1])
        self._ready.set()
        await self._end.wait()
        server.close()


def matcher(template: str) -> re.Pattern[str]:
    """Return the pattern that a filled-in template matches.

    Args:
        template: with ``{value…}`` or ``{key}``.
    """
    parts = []
    for literal, name, _, _ in string.Formatter().parse(template):
        parts.append(re.escape(literal))
        if name is not None:
            parts.append(rf"(?P<{name}>[^\s\"']+)")
    return re.compile("".join(parts), re.IGNORECASE)


def _otherwise(word: str) -> str:
    try:
        return "1" if float(word) == 0 else "0"
    except ValueError:
        return "BUSY" if word.upper() != "BUSY" else "IDLE"
