"""A virtual device as a SCPI instrument on a TCP socket, and the device file by which `use: scpi` drives it.

Set-points are ``SOUR:NAME``, the start is ``INIT "key"``, bit 4 of ``STAT:OPER:COND?`` is set during the work, readings
are ``FETC:NAME?`` (9.91E37 where there is none). ``JOB?`` says which order was begun last, and ``FETC:JOB?`` which one
the readings belong to.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections import deque
from collections.abc import Callable
from typing import Any

from instruments.virtual.device import Device, Job, RefusedError
from instruments.virtual.timing import waits

NOT_A_NUMBER = "9.91E37"
MEASURING = 16
ERRORS = {"busy": -213, "rejected": -221, "interlocked": 701, "failed": -240, "unknown": -113, "value": -222}
QUEUE = 16


class ScpiFront:
    """What answers the commands of all connections.

    Args:
        device: behind it.
    """

    def __init__(self, device: Device) -> None:
        self.device = device
        self.errors: deque[str] = deque(maxlen=QUEUE)
        self._told: Job | None = None

    def answer(self, line: str) -> str | None:
        """Carry out one command.

        Args:
            line: without its end.

        Returns:
            The answer to a question; None for a command.
        """
        self._tell_failures()
        head, _, argument = line.strip().partition(" ")
        head = head.upper()
        if head.endswith("?"):
            return self._question(head)
        try:
            self._command(head, argument.strip())
        except RefusedError as error:
            self._error("value" if head.startswith("SOUR:") else error.kind, str(error))
        return None

    def _question(self, head: str) -> str:
        device = self.device
        plain: dict[str, Callable[[], str]] = {
            "*IDN?": lambda: f"Matloop,{device.model},{device.world.seed:05d},1.0",
            "*OPC?": lambda: "1",
            "SYST:ERR?": lambda: self.errors.popleft() if self.errors else '0,"No error"',
            "STAT:OPER:COND?": lambda: str(MEASURING if device.busy else 0),
            "JOB?": lambda: f'"{device.last_key()}"',
            "FETC:JOB?": lambda: f'"{device.shown_key()}"',
            "SYST:DOOR?": lambda: str(int(device.door_open)),
        }
        if head in plain:
            return plain[head]()
        kind, _, name = head.rstrip("?").lower().partition(":")
        if kind == "sour" and name in device.setpoints:
            return f"{device.setpoints[name]:.10g}"
        if kind == "fetc" and name in {output.name for output in device.capability().outputs}:
            value = device.reading(name)
            return f"{value:.10g}" if math.isfinite(value) else NOT_A_NUMBER
        self._error("unknown", head)
        return ""

    def _command(self, head: str, argument: str) -> None:
        kind, _, name = head.partition(":")
        if head == "*CLS":
            self.errors.clear()
        elif head == "ABOR":
            self.device.abort()
        elif head == "INIT":
            self._told = None
            self.device.start(argument.strip('"'))
        elif head == "SYST:DOOR":
            self.device.door_open = argument == "1"
        elif kind == "SOUR" and name.lower() in self.device.setpoints:
            try:
                value = float(argument)
            except ValueError:
                value = math.nan
            self.device.set(name.lower(), value)
        else:
            self._error("unknown", head)

    def _tell_failures(self) -> None:
        job = self.device.job
        if job is not None and job.state == "failed" and job is not self._told and job.ended.is_set():
            self._told = job
            self._error("failed", job.message)

    def _error(self, kind: str, message: str) -> None:
        plain = re.sub(r'["\n]', "'", message)
        self.errors.append(f'{ERRORS[kind]},"{plain}"')


async def serve(device: Device, port: int) -> asyncio.Server:
    """Listen on 127.0.0.1.

    Args:
        device: behind it.
        port: 0 takes a free one.

    Returns:
        The server, which serves already.
    """
    front = ScpiFront(device)

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                answer = front.answer(line.decode("ascii", "replace"))
                if answer is not None:
                    writer.write(f"{answer}\n".encode())
                    await writer.drain()
        except (OSError, ValueError):
            pass  # the other side is gone, or sent a line without an end
        finally:
            writer.close()

    return await asyncio.start_server(talk, "127.0.0.1", port)


def device_file(device: Device) -> dict[str, Any]:
    """Return what a lab writes about the device into the options of `use: scpi`.

    Args:
        device: only its declarations are read.
    """
    capability = device.capability()
    typical, longest, every = waits(device)
    parameters = {
        p.name: {
            "unit": p.unit,
            "low": p.low,
            "high": p.high,
            "resolution": p.resolution,
            "set": f"SOUR:{p.name.upper()} {{value:.10g}}",
            "read": f"SOUR:{p.name.upper()}?",
            **({} if p.default is None else {"default": p.default}),
        }
        for p in capability.parameters
    }
    outputs = {
        o.name: {"unit": o.unit, "low": o.low, "high": o.high, "query": f"FETC:{o.name.upper()}?"}
        for o in capability.outputs
    }
    return {
        "name": device.name,
        "identity": {"expect": f"Matloop,{device.model}"},
        "twice": True,  # a bit that flips on the wire is seen by nothing else
        "parameters": parameters,
        "outputs": outputs,
        "capabilities": {
            capability.name: {
                "start": 'INIT "{key}"',
                "settle": {"query": "STAT:OPER:COND?", "bits_clear": MEASURING, "every_s": every, "at_most_s": longest},
                "abort": "ABOR",
                "typical_s": typical,
                "longest_s": longest + 5.0,
                "cost": capability.cost,
            }
        },
        "errors": {"rejected": [-221, -222], "busy": [-213], "interlocked": [ERRORS["interlocked"]]},
        "ready": {"query": "STAT:OPER:COND?", "bits_clear": MEASURING},
        "job": "JOB?",
        "shown": "FETC:JOB?",
    }
