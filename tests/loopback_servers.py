"""Starts the protocol servers of `tests/loopback` as processes, and ends them."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Self

FOLDER = Path(__file__).with_name("loopback")
START_S = 60.0
"""An OPC UA address space takes three seconds to build on an idle computer."""


@dataclass
class Server:
    """A protocol server in a process of its own.

    Args:
        address: what stands after READY: a port, or the name of a serial line.
        process: of the server.
    """

    address: str
    process: subprocess.Popen[str]

    @property
    def port(self) -> int:
        """Return the TCP port."""
        return int(self.address)

    def freeze(self) -> None:
        """Stop the process: the peer that accepts and never answers."""
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """Pull the plug."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()

    def __enter__(self) -> Self:
        """Use it in a `with` statement."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it."""
        self.kill()


def start(name: str, *arguments: str, port: int = 0) -> Server:
    """Start ``tests/loopback/NAME.py`` and wait until it listens.

    Args:
        name: of the script.
        arguments: of the script.
        port: to listen on; 0 takes a free one.
    """
    command = [sys.executable, str(FOLDER / f"{name}.py"), "--port", str(port), *arguments]
    return launch(command)


def launch(command: list[str]) -> Server:
    """Start any command that prints ``READY ADDRESS``, and wait for that line."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True, env=environment, bufsize=1
    )
    assert process.stdout is not None
    address = _ready(process, process.stdout)
    return Server(address, process)


def _ready(process: subprocess.Popen[str], lines: IO[str]) -> str:
    until = time.monotonic() + START_S
    while time.monotonic() < until and process.poll() is None:
        if select.select([lines], [], [], 0.2)[0]:
            line = lines.readline().strip()
            if line.startswith("READY "):
                return line.removeprefix("READY ").strip()
    process.kill()
    message = f"{process.args} did not say READY within {START_S:g} s"
    raise AssertionError(message)
