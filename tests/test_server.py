"""The care of the local Prefect server: found again by process and port. No Prefect is started here."""

from __future__ import annotations

import http.server
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest

from flows import server
from flows.server_settings import SETTINGS

CLEARED = ("PREFECT_API_URL", "PREFECT_PROFILE", "PREFECT_PROFILES_PATH", "PREFECT_UI_URL", server.PORT_VARIABLE)


@pytest.fixture(autouse=True)
def _own_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MATLOOP_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    for name in CLEARED:
        monkeypatch.delenv(name, raising=False)


class _Healthy(http.server.BaseHTTPRequestHandler):
    """Answers as a Prefect server does, as far as it is asked."""

    def do_GET(self) -> None:
        """Say that all is well."""
        self._answer(b"true")

    def do_POST(self) -> None:
        """Know no automation."""
        self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(b"[]")

    def log_message(self, *_: object) -> None:
        """Stay silent."""

    def _answer(self, content: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@pytest.fixture
def healthy() -> Iterator[int]:
    """Port of something that answers as a Prefect server does."""
    fake = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Healthy)
    thread = threading.Thread(target=fake.serve_forever)
    thread.start()
    yield fake.server_address[1]
    fake.shutdown()
    thread.join()
    fake.server_close()


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """A process that stands for a server's."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    yield process
    process.kill()
    process.wait()


def _remember(pid: int, port: int, prefect: str | None = None, birth: str | None = None, started: float = 0.0) -> None:
    server.home().mkdir(parents=True, exist_ok=True)
    content = {
        "pid": pid,
        "birth": server.birth(pid) if birth is None else birth,
        "port": port,
        "log": str(server.home() / "server.log"),
        "prefect": prefect or version("prefect"),
        "started": started,
    }
    (server.home() / "server.json").write_text(json.dumps(content), encoding="utf-8")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def test_a_configured_server_is_used(monkeypatch: pytest.MonkeyPatch, healthy: int) -> None:
    """A server that the user names with PREFECT_API_URL is used as it is, and nothing is started."""
    monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{healthy}/api")
    found = server.ensure_server()
    assert not found.ours
    assert found.ui == f"http://127.0.0.1:{healthy}"
    assert "PREFECT_HOME" not in found.environment()
    assert not server.home().exists()


def test_a_configured_server_that_is_away_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the configured server does not answer, the message names it and the ways out; none is started in its place."""
    address = f"http://127.0.0.1:{_free_port()}/api"
    monkeypatch.setenv("PREFECT_API_URL", address)
    monkeypatch.setattr(server, "healthy", lambda api, patience: False)
    with pytest.raises(server.ServerProblem, match="--plain") as refused:
        server.ensure_server()
    assert address in str(refused.value)


def test_a_profile_is_a_configuration(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, healthy: int) -> None:
    """A server that the active Prefect profile names counts as configured; a profile without one does not."""
    folder = tmp_path / "prefect"
    folder.mkdir()
    text = f'active = "lab"\n[profiles.lab]\nPREFECT_API_URL = "http://127.0.0.1:{healthy}/api"\n[profiles.none]\n'
    (folder / "profiles.toml").write_text(text, encoding="utf-8")
    assert server.ensure_server().api == f"http://127.0.0.1:{healthy}/api"
    monkeypatch.setenv("PREFECT_PROFILE", "none")
    assert server._configured() is None


def test_a_running_server_is_found_again(healthy: int, sleeper: subprocess.Popen[bytes]) -> None:
    """A server of ours that runs and answers is used again, by process and port."""
    _remember(sleeper.pid, healthy)
    found = server.ensure_server()
    assert (found.ours, found.pid) == (True, sleeper.pid)
    assert found.environment()["PREFECT_HOME"] == str(server.home())


def test_a_reused_process_id_is_not_taken_for_the_server(healthy: int, sleeper: subprocess.Popen[bytes]) -> None:
    """After a restart of the computer another program may have the process id: its birth tells them apart."""
    _remember(sleeper.pid, healthy, birth="another time")
    assert server.running_server() is None
    assert server.stop_server() is None
    assert sleeper.poll() is None


def test_a_dead_server_is_forgotten(healthy: int, sleeper: subprocess.Popen[bytes]) -> None:
    """A server whose process is gone counts as not running, even while it is a zombie and even if its port answers."""
    _remember(sleeper.pid, healthy)
    sleeper.kill()
    while server.birth(sleeper.pid):
        pass
    assert server.running_server() is None


def test_another_version_is_refused(healthy: int, sleeper: subprocess.Popen[bytes]) -> None:
    """A server of another Prefect version is not used; the message says how to renew it."""
    _remember(sleeper.pid, healthy, prefect="3.0.0")
    with pytest.raises(server.ServerProblem, match="matloop down") as refused:
        server.running_server()
    assert "3.0.0" in str(refused.value)


def test_a_server_that_hangs_is_named(monkeypatch: pytest.MonkeyPatch, sleeper: subprocess.Popen[bytes]) -> None:
    """A server whose process lives and that does not answer is named with its log."""
    _remember(sleeper.pid, _free_port())
    monkeypatch.setattr(server, "healthy", lambda api, patience: False)
    with pytest.raises(server.ServerProblem, match=r"server\.log"):
        server.running_server()


def test_a_server_that_is_being_started_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, healthy: int, sleeper: subprocess.Popen[bytes]
) -> None:
    """A campaign that begins while another one starts the server waits for it, and makes sure of the automation."""
    _remember(sleeper.pid, healthy, started=time.time())
    waits, asked = [], []
    monkeypatch.setattr(server, "healthy", lambda api, patience: bool(waits.append(patience)) or patience > 0)
    monkeypatch.setattr(server, "_watch_for_dead_runs", asked.append)
    said: list[str] = []
    assert server.ensure_server(said.append).pid == sleeper.pid
    assert waits[-1] > server.HANGS_S
    assert len(asked) == len(said) == 1


def test_stop_ends_the_process_and_forgets_it(sleeper: subprocess.Popen[bytes]) -> None:
    """`matloop down` ends the server's process and forgets it; a second time there is nothing to stop."""
    _remember(sleeper.pid, 4200)
    assert server.stop_server() == sleeper.pid
    assert sleeper.wait(5) < 0
    assert server.stop_server() is None


def test_a_half_written_state_file_is_no_server() -> None:
    """A file that a killed process left half-written does not stand in the way."""
    server.home().mkdir(parents=True)
    (server.home() / "server.json").write_text('{"pid": 12', encoding="utf-8")
    assert server.running_server() is None


def test_a_taken_port_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where another program has the first port, the next free one is taken."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        monkeypatch.setattr(server, "FIRST_PORT", taken)
        assert taken < server._choose_port() < taken + server.PORTS_TRIED


def test_a_wanted_port_that_is_taken_is_an_error(monkeypatch: pytest.MonkeyPatch, healthy: int) -> None:
    """A port that the user asked for is never silently replaced."""
    monkeypatch.setenv(server.PORT_VARIABLE, str(healthy))
    with pytest.raises(server.ServerProblem, match=str(healthy)):
        server._choose_port()
    monkeypatch.setenv(server.PORT_VARIABLE, "many")
    with pytest.raises(server.ServerProblem, match="many"):
        server._choose_port()


def test_the_start_uses_the_settings_that_were_found_good(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server is started with our settings, its own home and port, and none of the user's Prefect variables."""
    seen: dict[str, str] = {}
    port = _free_port()
    script = (
        f"import http.server, sys; sys.path[:0] = [{str(Path(__file__).parent)!r}]; from test_server import _Healthy;"
    )
    script += f" http.server.ThreadingHTTPServer(('127.0.0.1', {port}), _Healthy).serve_forever()"

    class Recorded(subprocess.Popen[bytes]):
        def __init__(self, command: list[str], env: dict[str, str], **more: object) -> None:
            seen.update(env)
            super().__init__([sys.executable, "-c", script], env=env, **more)  # type: ignore[call-overload]

    monkeypatch.setattr(server.subprocess, "Popen", Recorded)
    monkeypatch.setenv(server.PORT_VARIABLE, str(port))
    monkeypatch.setenv("PREFECT_SERVER_DATABASE_CONNECTION_URL", "sqlite:////other.db")
    said: list[str] = []
    started = server.ensure_server(said.append)
    try:
        assert started.api == f"http://127.0.0.1:{port}/api"
        assert {key: seen[key] for key in SETTINGS} == dict(SETTINGS)
        assert seen["PREFECT_SERVER_API_PORT"] == str(port)
        assert seen["PREFECT_HOME"] == str(server.home())
        assert "PREFECT_SERVER_DATABASE_CONNECTION_URL" not in seen
        assert any(str(port) in line for line in said)
        assert server.running_server() == started
    finally:
        assert server.stop_server() == started.pid


def test_a_server_that_ends_at_once_shows_its_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the server cannot start, the last lines of its log stand in the message."""

    class Failing(subprocess.Popen[bytes]):
        def __init__(self, command: list[str], **more: object) -> None:
            super().__init__([sys.executable, "-c", "raise SystemExit('no such table')"], **more)  # type: ignore[call-overload]

    monkeypatch.setattr(server.subprocess, "Popen", Failing)
    with pytest.raises(server.ServerProblem, match="no such table"):
        server.ensure_server()
