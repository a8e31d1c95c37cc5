"""Questions to this computer and to a server on it: is it there, is it the one that was started, does it answer?"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any


def is_free(port: int) -> bool:
    """Say whether nothing listens on a port of this computer."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def healthy(api: str, patience: float) -> bool:
    """Say whether a Prefect server answers at an address within some seconds."""
    end = time.monotonic() + patience
    while True:
        try:
            if ask(f"{api}/health") is True:
                return True
        except (OSError, ValueError):
            pass  # not up yet, or something that is no Prefect server
        if time.monotonic() >= end:
            return False
        time.sleep(0.3)


def ask(address: str, content: Any = None) -> Any:
    """Ask a server; with content it is a POST."""
    data = None if content is None else json.dumps(content).encode()
    request = urllib.request.Request(address, data, {"Content-Type": "application/json"})  # noqa: S310  http only
    if auth := os.environ.get("PREFECT_API_AUTH_STRING"):
        from base64 import b64encode  # noqa: PLC0415  rarely needed

        request.add_header("Authorization", f"Basic {b64encode(auth.encode()).decode()}")
    with urllib.request.urlopen(request, timeout=5.0) as answer:  # noqa: S310  http only
        return json.load(answer)


def birth(pid: int) -> str:
    """Return when a process began, so that a reused process id is not taken for our server; empty if it is gone."""
    stat = Path(f"/proc/{pid}/stat")
    if stat.exists():
        fields = stat.read_text(encoding="utf-8").rpartition(")")[2].split()
        return "" if fields[0] == "Z" else fields[19]
    if Path("/proc/self/stat").exists():
        return ""
    told = subprocess.run(  # noqa: S603  fixed arguments
        ["/bin/ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return told.stdout.strip()


def tail(log: Path, lines: int = 12) -> str:
    """Return the last lines of a log."""
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
