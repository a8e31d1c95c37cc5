"""Runs one program in its job folder and writes down how it ended: `python -I -S runner.py FOLDER`.

It stands between the campaign and the program so that the exit code survives the campaign's death: nobody else can
wait for a process whose parent is gone. Only the standard library is imported, and nothing of Matloop: it starts in
some twenty milliseconds. The file ``started.json`` is made with O_EXCL, so that of two runners for one folder the
second does nothing; the lock is inherited by the program, so that it is held as long as any of the two lives.

The program leads a process group of its own. SIGTERM to this process, or the deadline, ends the whole group: SIGTERM
first, SIGKILL after the grace time. A program that leaves its group by `setsid` escapes; batch queues do that.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

LOOK_S = 0.02


def run(folder: Path) -> int:
    """Run the job of a folder.

    Args:
        folder: with ``job.json``: argv, limit_s, grace_s. The program gets this process's environment.

    Returns:
        This process's exit code: 0 where the job was run, 3 where somebody else runs or ran it.
    """
    job: dict[str, Any] = json.loads((folder / "job.json").read_bytes())
    asked: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: asked.append(number))
    lock = os.open(folder / "lock", os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        mark = os.open(folder / "started.json", os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW, 0o600)
    except FileExistsError:
        return 3
    with os.fdopen(mark, "w") as file:
        json.dump({"runner": os.getpid(), "host": os.uname().nodename, "at": time.time()}, file)
        file.flush()
        os.fsync(file.fileno())
    began = time.monotonic()
    with (folder / "stdout.txt").open("wb") as out, (folder / "stderr.txt").open("wb") as err:
        try:
            program = subprocess.Popen(  # noqa: S603  the program that the lab file names, without a shell
                job["argv"],
                cwd=folder / "work",
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                process_group=0,
                pass_fds=(lock,),
            )
        except OSError as error:
            _write(folder / "exit.json", {"code": None, "why": f"cannot be started: {error}", "seconds": 0.0})
            return 0
        _write(folder / "program.json", {"group": program.pid})
        why = "ended"
        while program.poll() is None:
            if asked or time.monotonic() - began > job["limit_s"]:
                why = "stopped" if asked else "too long"
                _end(program, float(job["grace_s"]))
                break
            time.sleep(LOOK_S)
        code = program.wait()
    seconds = time.monotonic() - began
    _write(folder / "exit.json", {"code": code, "why": why, "seconds": seconds, "at": time.time()})
    return 0


def _end(program: subprocess.Popen[bytes], grace_s: float) -> None:
    _signal(program.pid, signal.SIGTERM)
    until = time.monotonic() + grace_s
    while program.poll() is None and time.monotonic() < until:
        time.sleep(LOOK_S)
    _signal(program.pid, signal.SIGKILL)  # what the program started may outlive it


def _signal(group: int, number: int) -> None:
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):  # macOS answers the second for a group of zombies
        return


def _write(path: Path, content: dict[str, Any]) -> None:
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    with beside.open("w") as file:
        json.dump(content, file)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


if __name__ == "__main__":
    sys.exit(run(Path(sys.argv[1])))
