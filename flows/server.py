"""The real, local Prefect server: start it, find it again, stop it.

Prefect's own ephemeral server gives up after 20 s and forgets its page when the script ends, so it is never used. Ours
is started once, detached, and stays until `matloop down`. Nothing here imports Prefect, which takes two seconds.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from flows.places import data_folder
from flows.probes import ask, birth, healthy, is_free, tail
from flows.server_settings import CLIENT_SETTINGS, DEAD_RUNS, SETTINGS
from orchestrator.errors import MatloopError

FIRST_PORT = 4200
"""Prefect's own default, so that its documentation fits."""

PORTS_TRIED = 20
HANGS_S = 20.0
"""A server that is up answers within seconds, even on a computer that trains at the same time."""

PORT_VARIABLE = "MATLOOP_PREFECT_PORT"
START_S = 180.0
"""A new database on a busy computer took 56 s."""

_STARTED: list[subprocess.Popen[bytes]] = []
"""Servers that this process started; they outlive it, so they are kept from Python's warning about running children."""

Say = Callable[[str], None]


class ServerProblem(MatloopError):
    """The Prefect server does not start, does not answer, or is not the one expected."""


@dataclass(frozen=True)
class Server:
    """Where a Prefect server answers.

    Args:
        api: address of its interface, ending with ``/api``.
        ours: started by Matloop, with its files in Matloop's data folder.
        pid: process id where it is ours.
        log: its log where it is ours.
    """

    api: str
    ours: bool
    pid: int = 0
    log: Path | None = None

    @property
    def ui(self) -> str:
        """Address to open in a browser."""
        return os.environ.get("PREFECT_UI_URL") or self.api.removesuffix("/").removesuffix("/api")

    def environment(self) -> dict[str, str]:
        """Return the variables that make a Prefect client talk to this server."""
        found = {key: os.environ.get(key, value) for key, value in CLIENT_SETTINGS.items()}
        found["PREFECT_API_URL"] = self.api
        if self.ours:
            found["PREFECT_HOME"] = str(home())
        return found

    def use(self) -> None:
        """Make this process a client of the server; Prefect must not be imported yet."""
        os.environ.update(self.environment())
        if self.ours:
            os.environ.pop("PREFECT_PROFILE", None)  # names a profile of the user's own Prefect folder


def home() -> Path:
    """Return the folder that our Prefect server keeps its database, log and state in."""
    return data_folder() / "prefect"


def ensure_server(say: Say = lambda _: None) -> Server:
    """Return a Prefect server that answers: the user's own where one is configured, else ours, started if need be.

    Args:
        say: is told what is waited for.

    Returns:
        The server.

    Raises:
        ServerProblem: the configured one does not answer, or ours cannot be started.
    """
    if configured := _configured():
        where, api = configured
        if not healthy(api, patience=5.0):
            message = (
                f"{where} names the Prefect server {api}, but nothing answers there; start that server, or unset"
                " it to let Matloop start its own, or run with --plain"
            )
            raise ServerProblem(message)
        return Server(api, ours=False)
    home().mkdir(parents=True, exist_ok=True)
    with _only_one():
        return running_server(say) or _start(say)


def running_server(say: Say = lambda _: None) -> Server | None:
    """Return our server if it runs and answers, else None.

    Args:
        say: is told what is waited for.

    Returns:
        The server; one that somebody is starting just now is waited for.

    Raises:
        ServerProblem: it runs under another version of Prefect, or its process does not answer.
    """
    state = _read_state()
    if state is None or birth(state["pid"]) != state["birth"]:
        return None  # never started, or its process is gone
    server = Server(f"http://127.0.0.1:{state['port']}/api", ours=True, pid=state["pid"], log=Path(state["log"]))
    starting = max(0.0, state["started"] + START_S - time.time())
    if not healthy(server.api, patience=0.0) and starting:
        say("waiting for the Prefect server that is being started")
    if not healthy(server.api, patience=max(HANGS_S, starting)):
        message = (
            f"the Prefect server (process {server.pid}, port {state['port']}) runs but does not answer; see"
            f" {server.log}, or stop it with 'matloop down' and try again"
        )
        raise ServerProblem(message)
    if state["prefect"] != version("prefect"):
        message = (
            f"the running server is Prefect {state['prefect']}, but {version('prefect')} is installed; type"
            " 'matloop down' when no campaign runs, then try again"
        )
        raise ServerProblem(message)
    if starting:
        _watch_for_dead_runs(server.api)  # whoever started it may have been killed before
    return server


def stop_server(patience: float = 15.0) -> int | None:
    """Stop our server.

    Args:
        patience: seconds to wait before it is killed.

    Returns:
        Its process id, or None where none ran.
    """
    state = _read_state()
    if state is None or birth(state["pid"]) != state["birth"]:
        _state_file().unlink(missing_ok=True)
        return None
    pid = int(state["pid"])
    os.kill(pid, signal.SIGTERM)
    end = time.monotonic() + patience
    while birth(pid) == state["birth"]:
        if time.monotonic() > end:
            os.kill(pid, signal.SIGKILL)
            end += patience
        time.sleep(0.1)
    for process in _STARTED:
        process.poll()
    _state_file().unlink(missing_ok=True)
    return pid


def _start(say: Say) -> Server:
    port = _choose_port()
    log = home() / "server.log"
    origin = f"http://127.0.0.1:{port}"
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PREFECT_")}
    environment |= {key: os.environ.get(key, value) for key, value in SETTINGS.items()}
    environment |= {
        "PREFECT_HOME": str(home()),
        "PREFECT_SERVER_API_PORT": str(port),  # --port would leave the page asking port 4200
        "PREFECT_API_URL": f"{origin}/api",
        "PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS": f"{origin},http://localhost:{port}",
    }
    say(f"starting the Prefect server on port {port} (the first time takes a minute)")
    with log.open("ab") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "prefect", "server", "start"],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            cwd=home(),
            start_new_session=True,  # Ctrl-C in the terminal must not end it
        )
    _STARTED.append(process)
    server = Server(f"{origin}/api", ours=True, pid=process.pid, log=log)
    content = {
        "pid": process.pid,
        "birth": birth(process.pid),
        "port": port,
        "log": str(log),
        "prefect": version("prefect"),
        "started": time.time(),
    }
    _state_file().write_text(json.dumps(content), encoding="utf-8")
    end = time.monotonic() + START_S
    while not healthy(server.api, patience=0.0):
        if process.poll() is not None:
            message = f"the Prefect server ended at once; the last lines of {log}:\n{tail(log)}"
            raise ServerProblem(message)
        if time.monotonic() > end:
            stop_server()
            message = f"the Prefect server did not answer within {START_S:g} s; see {log}, or run with --plain"
            raise ServerProblem(message)
        time.sleep(0.3)
    _watch_for_dead_runs(server.api)
    say(f"the Prefect server answers at {server.ui}")
    return server


def _choose_port() -> int:
    if wanted := os.environ.get(PORT_VARIABLE):
        if not wanted.isdigit() or not 0 < int(wanted) < 1 << 16:
            message = f"{PORT_VARIABLE} is {wanted!r}; a port between 1 and 65535 was expected"
            raise ServerProblem(message)
        if not is_free(int(wanted)):
            message = f"port {wanted} ({PORT_VARIABLE}) is taken by another program; name a free one or unset it"
            raise ServerProblem(message)
        return int(wanted)
    for port in range(FIRST_PORT, FIRST_PORT + PORTS_TRIED):
        if is_free(port):
            return port
    message = (
        f"ports {FIRST_PORT} to {FIRST_PORT + PORTS_TRIED - 1} are all taken by other programs; name a free one with"
        f" {PORT_VARIABLE}, or run with --plain"
    )
    raise ServerProblem(message)


def _configured() -> tuple[str, str] | None:
    """Return where the user names a Prefect server, and its address."""
    if address := os.environ.get("PREFECT_API_URL"):
        return "PREFECT_API_URL", address
    folder = Path(os.environ.get("PREFECT_HOME") or Path.home() / ".prefect")
    file = Path(os.environ.get("PREFECT_PROFILES_PATH") or folder / "profiles.toml")
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError):
        return None  # no profiles; Prefect itself reports a damaged file
    name = os.environ.get("PREFECT_PROFILE") or content.get("active", "")
    address = content.get("profiles", {}).get(name, {}).get("PREFECT_API_URL")
    return (f"the Prefect profile {name!r} in {file}", address) if address else None


def _watch_for_dead_runs(api: str) -> None:
    """Add the automation for flow runs whose process died, once."""
    known = ask(f"{api}/automations/filter", {"automations": {"name": {"any_": [DEAD_RUNS["name"]]}}})
    if not known:
        ask(f"{api}/automations/", DEAD_RUNS)


@contextmanager
def _only_one() -> Iterator[None]:
    with (home() / "server.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two campaigns started at once share one server
        yield


def _state_file() -> Path:
    return home() / "server.json"


def _read_state() -> dict[str, Any] | None:
    try:
        state = json.loads(_state_file().read_text(encoding="utf-8"))
        return {"pid": int(state["pid"]), **{key: state[key] for key in ("birth", "port", "log", "prefect", "started")}}
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        return None  # half-written by a killed process; the port probe finds a free port
