"""A program run as a job in a folder named by its key: what survives the death of the campaign.

::

    ROOT/KEY/order.json      what was asked
    ROOT/KEY/job.json        what to start: arguments, limits
    ROOT/KEY/work/           where the program runs, with its input files
    ROOT/KEY/started.json    made once, by the runner that won
    ROOT/KEY/lock            held as long as the runner or the program lives
    ROOT/KEY/exit.json       how it ended
    ROOT/KEY/std{out,err}.txt

The folder's name is the dispatch key, so that after a crash the job is found again: it is still running, or it has
ended and its files are read, or it never started.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from instruments.people.tasks import KEY
from orchestrator.errors import Fault, NotConnected, Rejected

RUNNER = Path(__file__).with_name("runner.py")
LOOK_S = 0.03
"""How often a waiting driver looks whether the job has ended: small beside the start of any program."""
LARGEST = 64 * 2**20
"""Bytes of one file that are read; what is larger belongs onto a file server, not into a campaign's record."""


@dataclass(frozen=True)
class Job:
    """What is started for an order.

    Args:
        argv: program and arguments.
        files: inputs by plain file name.
        environment: of the program, complete.
    """

    argv: tuple[str, ...]
    files: Mapping[str, bytes] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Exit:
    """How a job ended.

    Args:
        code: of the program; negative for a signal; None where it could not be started.
        why: ``ended`` by itself, ``too long``, ``stopped`` on request, or why it could not be started.
        seconds: it ran.
    """

    code: int | None
    why: str
    seconds: float


State = Literal["absent", "running", "ended", "lost"]


class JobFolder:
    """The folder of one job.

    Args:
        root: folder of all jobs of an instrument.
        key: dispatch key; the name of the folder.

    Raises:
        Rejected: the key is no file name.
    """

    def __init__(self, root: Path, key: str) -> None:
        if not KEY.match(key):
            message = f"the key {key!r} is no folder name; letters, digits, - and _ were expected"
            raise Rejected(message)
        self.path = root / key
        self.work = self.path / "work"
        self._runner: subprocess.Popen[bytes] | None = None

    def state(self) -> State:
        """Say where the job is; changes nothing.

        Returns:
            ``lost`` where it was started and neither lives nor left a word: the computer went down.
        """
        if (self.path / "exit.json").exists():
            return "ended"
        if not (self.path / "started.json").exists():
            return "absent"
        if self._alive():
            return "running"
        return "ended" if (self.path / "exit.json").exists() else "lost"  # it ended between the two looks

    def host(self) -> str:
        """Return the computer that the job was started on."""
        return str(self._json("started.json").get("host", ""))

    def start(self, job: Job, limit_s: float, grace_s: float, note: bytes = b"{}") -> None:
        """Start the job, unless it was started already.

        Args:
            job: what to start.
            limit_s: it is ended after so many seconds.
            grace_s: between SIGTERM and SIGKILL.
            note: JSON that is kept with the job: the order.

        Raises:
            NotConnected: the folder cannot be written.
        """
        try:
            self.work.mkdir(parents=True, exist_ok=True)
            for name, content in job.files.items():
                _whole(self.work / name, content)
            _whole(self.path / "order.json", note)
            what = {
                "argv": list(job.argv),
                "environment": dict(job.environment),
                "limit_s": limit_s,
                "grace_s": grace_s,
            }
            _whole(self.path / "job.json", json.dumps(what).encode())
            self._runner = subprocess.Popen(  # noqa: S603  our own interpreter with our own file
                [sys.executable, "-I", "-S", str(RUNNER), str(self.path)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # it must outlive the campaign, and Ctrl-C belongs to the campaign
                env=dict(job.environment),  # through the process, not through a file: tokens stand in variables
            )
        except OSError as error:
            message = f"the job folder {self.path} cannot be used: {error}; set the option 'folder'"
            raise NotConnected(message) from error

    def note(self) -> dict[str, Any] | None:
        """Return what was kept with the job, or None."""
        return self._json("order.json") or None

    async def wait(self) -> Exit:
        """Wait until the job has ended.

        Raises:
            Fault: it ended without a word, as when the computer went down.
        """
        while True:
            runner_gone = self._runner is None or self._runner.poll() is not None
            state = self.state()
            if state == "ended":
                return self.exit()
            if runner_gone and state in {"absent", "lost"}:
                message = f"the job in {self.path} ended without leaving its exit code; was it killed?"
                raise Fault(message)
            await asyncio.sleep(LOOK_S)

    def exit(self) -> Exit:
        """Read how the job ended."""
        if self._runner is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._runner.wait(timeout=1.0)  # it writes the file and ends; leave no zombie
        content = self._json("exit.json")
        return Exit(content.get("code"), str(content.get("why")), float(content.get("seconds", 0.0)))

    def stop(self) -> None:
        """Ask the runner to end the job; harmless where nothing runs."""
        if self._runner is not None:
            if self._runner.poll() is None:
                self._runner.send_signal(signal.SIGTERM)
                return
        elif self.state() == "running" and self.host() == os.uname().nodename:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(self._json("started.json")["runner"]), signal.SIGTERM)

    def kill(self) -> None:
        """End the program's whole group, where its runner was killed; only while the lock proves that it lives."""
        group = self._json("program.json").get("group")
        if group is not None and self.state() == "running" and self.host() == os.uname().nodename:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(int(group), signal.SIGKILL)

    def set_aside(self) -> None:
        """Rename the folder of a lost job, so that the same key can be started anew."""
        for number in range(1, 1000):
            aside = self.path.with_name(f"{self.path.name}.lost.{number}")
            if not aside.exists():
                self.path.rename(aside)
                return

    def read(self, name: str) -> bytes | None:
        """Read a file that the program wrote, or ``stdout`` or ``stderr``.

        Args:
            name: plain file name in the folder where it ran.

        Returns:
            Its content; None where there is none.

        Raises:
            Fault: it is no plain file (a link could lead anywhere), or too large.
        """
        path = self.path / f"{name}.txt" if name in {"stdout", "stderr"} else self.work / name
        try:
            file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            return None
        except OSError as error:
            message = f"{path} cannot be read: {error}; a plain file was expected"
            raise Fault(message) from error
        try:
            found = os.fstat(file)
            if not stat.S_ISREG(found.st_mode) or found.st_size > LARGEST:
                message = f"{path} has {found.st_size} bytes; a plain file of at most {LARGEST} was expected"
                raise Fault(message)
            return b"".join(iter(lambda: os.read(file, 2**20), b""))
        finally:
            os.close(file)

    def _alive(self) -> bool:
        if self.host() != os.uname().nodename:
            return True  # its lock says nothing here
        try:
            lock = os.open(self.path / "lock", os.O_RDWR | os.O_NOFOLLOW)
        except OSError:
            return False
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(lock)
        return False

    def _json(self, name: str) -> dict[str, Any]:
        try:
            content = json.loads((self.path / name).read_bytes())
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}


def tail(content: bytes, lines: int = 3) -> str:
    """Return the last lines of a program's output, for messages.

    Args:
        content: of the output.
        lines: how many.
    """
    return " / ".join(content[-2000:].decode(errors="replace").strip().splitlines()[-lines:])


def _whole(path: Path, content: bytes) -> None:
    beside = path.with_name(f".{path.name}.{os.getpid()}.{time.monotonic_ns()}")
    with beside.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
