"""A potential in a process of its own: `python -m instruments.potentials.worker FD NAME THREADS`.

Threads do not help here: a five-atom relaxation is mostly Python between small tensor operations, and two at once in
one process took more than twice as long as one after the other. The worker answers over a socket that it inherits, one
JSON message at a time, and ends when the other side is gone; nothing it prints can disturb the campaign's screen.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from instruments.potentials import catalogue, dynamics
from instruments.potentials.catalogue import Potential, PotentialName
from instruments.potentials.dynamics import Dynamics, Path
from instruments.potentials.relaxation import Relaxed, Settings, relax
from orchestrator.domain import Crystal
from orchestrator.errors import Fault

LOOK_S = 0.2
"""How often the waiting side looks for an abort."""
GRACE_S = 10.0
"""One step of a relaxation takes well under a second; a worker that does not stop by then is ended."""


class Stopped(Exception):
    """The relaxation was stopped on request."""


class Here:
    """A potential in this process.

    Args:
        name: of the potential.
        threads: for torch.
    """

    def __init__(self, name: PotentialName, threads: int) -> None:
        self._potential = catalogue.load(name, threads)

    def identity(self) -> tuple[str, str]:
        """Return the hash of the weights and the versions of the programs."""
        return self._potential.identity()

    def relax(
        self, crystal: Crystal, settings: Settings, on_step: Callable[[int], None], stop: Callable[[], bool]
    ) -> Relaxed:
        """Relax a structure.

        Args:
            crystal: where to start.
            settings: when to end.
            on_step: called with the number of each finished step.
            stop: asked between steps.

        Raises:
            Stopped: `stop` said so.
            ValueError: the potential cannot describe the structure.
        """

        def each(step: int) -> None:
            if stop():
                raise Stopped
            on_step(step)

        return relax(self._potential, crystal, settings, each)

    def path(self, crystal: Crystal, what: Dynamics, on_step: Callable[[int], None], stop: Callable[[], bool]) -> Path:
        """Run molecular dynamics.

        Args:
            crystal: where to start.
            what: to run.
            on_step: called with the number of steps done.
            stop: asked at each sample.

        Raises:
            Stopped: `stop` said so.
            ValueError: the path blows up, or the potential cannot describe what it comes to.
        """

        def each(step: int) -> None:
            if stop():
                raise Stopped
            on_step(step)

        return dynamics.run(self._potential, crystal, what, each)

    def close(self) -> None:
        """Nothing to give back."""


class Elsewhere:
    """A potential in a worker process; the same methods as `Here`.

    Args:
        name: of the potential.
        threads: for torch.
    """

    def __init__(self, name: PotentialName, threads: int) -> None:
        ours, theirs = socket.socketpair()
        # The file belongs to the worker's whole life; it is read where the worker dies and closed with it.
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603  our own interpreter with our own module
                [sys.executable, "-P", "-m", "instruments.potentials.worker", str(theirs.fileno()), name, str(threads)],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=self._errors,
                stderr=self._errors,
                start_new_session=True,  # Ctrl-C belongs to the campaign, which ends the step in order
                env={**os.environ, "OMP_NUM_THREADS": str(threads)},
            )
        self._link = Connection(ours.detach())
        self._identity: tuple[str, str] | None = None

    def identity(self) -> tuple[str, str]:
        """Wait for the worker to have loaded the potential; return hash and versions."""
        if self._identity is None:
            serial, programs = self._receive(lambda: False)["identity"]
            self._identity = serial, programs
        return self._identity

    def relax(
        self, crystal: Crystal, settings: Settings, on_step: Callable[[int], None], stop: Callable[[], bool]
    ) -> Relaxed:
        """Relax a structure in the worker; see `Here.relax`."""
        answer = self._ask({"crystal": crystal.to_json(), "settings": vars(settings)}, on_step, stop)
        return Relaxed.from_json(answer["found"])

    def path(self, crystal: Crystal, what: Dynamics, on_step: Callable[[int], None], stop: Callable[[], bool]) -> Path:
        """Run molecular dynamics in the worker; see `Here.path`."""
        answer = self._ask({"crystal": crystal.to_json(), "dynamics": vars(what)}, on_step, stop)
        return Path.from_json(answer["found"])

    def close(self) -> None:
        """End the worker."""
        self._link.close()
        try:
            self._process.wait(timeout=LOOK_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._errors.close()

    def _ask(
        self, question: dict[str, Any], on_step: Callable[[int], None], stop: Callable[[], bool]
    ) -> dict[str, Any]:
        self.identity()
        self._send(question)
        while True:
            answer = self._receive(stop)
            if "step" in answer:
                self._send({"go": not stop()})
                on_step(answer["step"])
            elif "found" in answer:
                return answer
            elif "stopped" in answer:
                raise Stopped
            elif "impossible" in answer:
                raise ValueError(answer["impossible"])
            else:
                raise Fault(str(answer["failed"]))

    def _send(self, message: dict[str, Any]) -> None:
        try:
            self._link.send_bytes(json.dumps(message).encode())
        except OSError as error:
            raise self._died() from error

    def _receive(self, stop: Callable[[], bool]) -> dict[str, Any]:
        until = None
        try:
            while not self._link.poll(LOOK_S):
                if stop() and until is None:
                    until = time.monotonic() + GRACE_S
                if until is not None and time.monotonic() > until:
                    self._process.kill()
                    raise Stopped
            answer: dict[str, Any] = json.loads(self._link.recv_bytes())
        except (EOFError, OSError) as error:
            raise self._died() from error
        return answer

    def _died(self) -> Fault:
        code = self._process.wait()
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace").strip().splitlines()[-1:]
        message = f"the worker process of the potential ended with code {code}: {''.join(said) or 'it said nothing'}"
        return Fault(message)


def serve(link: Connection, name: PotentialName, threads: int) -> None:
    """Answer orders until the other side is gone.

    Args:
        link: to the driver.
        name: of the potential.
        threads: for torch.
    """
    potential = catalogue.load(name, threads)

    def send(message: dict[str, Any]) -> None:
        link.send_bytes(json.dumps(message).encode())

    def each(step: int) -> None:
        send({"step": step})
        if not json.loads(link.recv_bytes())["go"]:
            raise Stopped

    send({"identity": potential.identity()})
    while True:
        order = json.loads(link.recv_bytes())
        try:
            found = _found(potential, order, each)
        except Stopped:
            send({"stopped": True})
        except ValueError as error:
            send({"impossible": str(error)})
        except (EOFError, OSError):
            raise
        except Exception as error:  # noqa: BLE001  it is told to the other side, which raises it as a fault
            send({"failed": f"{type(error).__name__}: {error}"})
        else:
            send({"found": found.to_json()})


def _found(potential: Potential, order: dict[str, Any], each: Callable[[int], None]) -> Relaxed | Path:
    crystal = Crystal.from_json(order["crystal"])
    if "dynamics" in order:
        return dynamics.run(potential, crystal, Dynamics(**order["dynamics"]), each)
    return relax(potential, crystal, Settings(**order["settings"]), each)


if __name__ == "__main__":
    with contextlib.suppress(EOFError, ConnectionError), Connection(int(sys.argv[1])) as inherited:
        serve(inherited, "emt" if sys.argv[2] == "emt" else "chgnet", int(sys.argv[3]))
