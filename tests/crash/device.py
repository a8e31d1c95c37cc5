"""The instrument of the crash harness: a process of its own whose append-only log is the only judge of what happened.

It serves many devices, one for each run, over a Unix socket; each message is a line of JSON. A START is physically
carried out when it arrives, whether its sender still lives or not, and each carrying out is one fsynced line of the
device's log.

The network is as unkind as it may be: a START whose sender dies at once is held back (`delay`) until somebody has
looked for it and found nothing, or for `HOLD_S` at most; and an answer may come `late`, when nobody waits any more.
"""

from __future__ import annotations

import json
import os
import select
import socket
import socketserver
import sys
import threading
import time
from pathlib import Path
from typing import Any

HOLD_S = 1.0  # longest time that a START is on its way
DYING_S = 0.1  # so long a START waits for its sender's death
AFTER_LOOK_S = 0.05
WORK_S = 0.004  # long enough that a job is polled at least twice


class Device:
    """One device: its log, and what it remembers of its jobs."""

    def __init__(self, log: Path) -> None:
        self.lock = threading.Lock()
        self.descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self.jobs: list[dict[str, Any]] = []
        self.looked = threading.Condition()
        self.keys: set[str] = set()

    def start(self, message: dict[str, Any], sender: socket.socket) -> int:
        """Carry out an order; with `once`, an order whose key is known gets the job that it has, at once."""
        if message["delay"] and select.select([sender], [], [], DYING_S)[0]:  # readable: its end of file
            with self.looked:
                if self.looked.wait_for(lambda: message["key"] in self.keys, HOLD_S - AFTER_LOOK_S):
                    time.sleep(AFTER_LOOK_S)
        with self.lock:
            if message["once"]:
                for job in self.jobs:
                    if job["key"] == message["key"]:
                        return int(job["job"])
            job = {"job": len(self.jobs), "key": message["key"], "what": message["what"], "value": 100 + len(self.jobs)}
            os.write(self.descriptor, json.dumps(job).encode() + b"\n")
            os.fsync(self.descriptor)
            self.jobs.append({**job, "ready": time.monotonic() + WORK_S})
        time.sleep(message["late"])
        return int(job["job"])

    def poll(self, number: int) -> dict[str, Any]:
        """Say how a job is."""
        job = self.jobs[number]
        return {"done": time.monotonic() >= job["ready"], **job}

    def lookup(self, key: str) -> dict[str, Any]:
        """Find a job by its key."""
        with self.lock:
            found = [job for job in self.jobs if job["key"] == key]
        with self.looked:
            self.keys.add(key)
            self.looked.notify_all()
        return self.poll(found[0]["job"]) if found else {"job": None}


class Handler(socketserver.StreamRequestHandler):
    """One connection."""

    server: Server

    def handle(self) -> None:
        """Answer line by line until the peer is gone."""
        for line in self.rfile:
            message = json.loads(line)
            device = self.server.device(message["device"])
            if message["op"] == "start":
                answer: dict[str, Any] = {"job": device.start(message, self.connection)}
            elif message["op"] == "poll":
                answer = device.poll(message["job"])
            else:
                answer = device.lookup(message["key"])
            try:
                self.wfile.write(json.dumps(answer).encode() + b"\n")
            except (BrokenPipeError, ConnectionResetError):
                return  # the sender was killed; what it had sent is done all the same


class Server(socketserver.ThreadingUnixStreamServer):
    """All devices of one matrix."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._devices: dict[str, Device] = {}
        self._lock = threading.Lock()
        super().__init__(str(folder / "socket"), Handler)

    def device(self, name: str) -> Device:
        """Return a device, made at first use."""
        with self._lock:
            if name not in self._devices:
                self._devices[name] = Device(self._folder / f"{name}.log")
            return self._devices[name]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Stay silent about peers that were killed in the middle of a message."""
        if not isinstance(sys.exc_info()[1], ConnectionResetError | json.JSONDecodeError):
            super().handle_error(request, client_address)


if __name__ == "__main__":
    with Server(Path(sys.argv[1])) as server:
        threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()  # ends with the harness
        sys.stdout.write("READY\n")
        sys.stdout.flush()
        server.serve_forever()
