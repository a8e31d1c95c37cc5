"""What most lab scripts do with a SCPI device: ask again after a time-out, on the same session, and trust the answer.

It stands beside the adapters in the wire-chaos benchmark, to show what the rules of the adapters are for.
"""

from __future__ import annotations

import socket
import time
from typing import Any

from instruments.settings import applied
from instruments.sync import BlockingInstrument, Job
from orchestrator.domain import Capability, Description, Identity, Output, Parameter, Reading, Result
from orchestrator.errors import TimedOut

TRIES = 3
TIMEOUT_S = 0.3


class Script(BlockingInstrument):
    """Anneal with the heater of the examples, as a script does.

    Args:
        options: with `port`.
    """

    def __init__(self, port: int) -> None:
        super().__init__(self.Options())
        self._port = port
        self._socket: socket.socket | None = None
        self._file: Any = None

    def description(self) -> Description:
        """Declare one capability."""
        anneal = Capability(
            "anneal",
            outputs=(Output("resistance", "kohm", 0.0, 10000.0),),
            parameters=(
                Parameter("temperature", "degC", 50.0, 900.0),
                Parameter("time", "minute", 1.0, 120.0),
                Parameter("gas", choices=("air", "argon")),
            ),
        )
        return Description((anneal,), simulated=True)

    def connect(self) -> Identity:
        """Open the session once; a script does not open it again."""
        if self._socket is None:
            self._socket = socket.create_connection(("127.0.0.1", self._port), timeout=TIMEOUT_S)
            self._left = b""
        return Identity(self._ask("*IDN?"))

    def disconnect(self) -> None:
        """Close the session."""
        if self._socket is not None:
            self._socket.close()
        self._socket = None

    def work(self, job: Job) -> Result:
        """Set, start, wait, read."""
        self._tell(f"SOUR:TEMP {job.numbers['temperature']:.2f}")
        self._tell(f"SOUR:TIME {job.numbers['time'] * 60:.0f}")
        self._tell(f"SOUR:GAS {'AR' if job.choices['gas'] == 'argon' else 'AIR'}")
        self._tell(f'INIT "{job.order.key}"')
        until = time.monotonic() + job.order.deadline_s
        while int(float(self._ask("STAT:OPER:COND?"))) & 16 and time.monotonic() < until:
            job.sleep(0.02)
        value = float(self._ask("FETC:RES?")) / 1000.0
        capability = self.description().capabilities[0]
        return Result(
            job.order.key,
            (Reading("resistance", value, "kohm"),),
            applied=applied(capability, job.numbers),
            applied_choices=job.choices,
        )

    def _tell(self, command: str) -> None:
        assert self._socket is not None
        self._socket.sendall(command.encode() + b"\n")

    def _ask(self, question: str) -> str:
        for _ in range(TRIES):
            self._tell(question)
            try:
                return self._line()
            except TimeoutError:
                continue
        message = f"no answer to {question}"
        raise TimedOut(message)

    def _line(self) -> str:
        assert self._socket is not None
        while b"\n" not in self._left:
            piece = self._socket.recv(4096)
            if not piece:
                message = "the device closed the link"
                raise ConnectionError(message)
            self._left += piece
        line, _, self._left = self._left.partition(b"\n")
        return line.decode("ascii", "replace").strip()
