"""Fixtures that several test files share: a store on SQLite and on a PostgreSQL server of our own."""

from __future__ import annotations

import gc
import glob
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.record.store import CampaignStore

START_S = 30.0


@pytest.fixture(scope="module", autouse=True)
def _what_was_left_open() -> Iterator[None]:
    """Collect garbage after each file, so that what it left open is told of it, and not of a later one."""
    yield
    gc.collect()


def _server_programs() -> Path | None:
    """Return the folder of the newest PostgreSQL server's programs."""
    found = [Path(path).parent for path in glob.glob("/usr/lib/postgresql/*/bin/postgres")]  # noqa: PTH207  absolute
    on_path = shutil.which("postgres")
    found = sorted(found, key=lambda folder: int(folder.parent.name.split(".")[0]))
    return found[-1] if found else (Path(on_path).parent if on_path else None)


def _unprivileged() -> str | None:
    """Return a user that the server may run as: it refuses root."""
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """Start a PostgreSQL server that listens on a socket file only, and give the address of its database."""
    programs = _server_programs()
    if programs is None:
        pytest.skip("no PostgreSQL server programs (postgres, initdb) are installed")
    user = _unprivileged()
    folder = Path(tempfile.mkdtemp(prefix="matloop-pg-"))  # not under tmp_path, which only we may enter
    if user is not None:
        shutil.chown(folder, user)
    data = folder / "data"
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "C", "HOME": str(folder)}
    subprocess.run(
        [programs / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync"],
        check=True,
        capture_output=True,
        user=user,
        env=environment,
        cwd=folder,
    )
    settings = ["listen_addresses=", f"unix_socket_directories={folder}", "shared_buffers=16MB", "max_connections=80"]
    with (folder / "log").open("w") as log:
        command = [programs / "postgres", "-D", data, *(word for one in settings for word in ("-c", one))]
        server = subprocess.Popen(command, user=user, env=environment, cwd=folder, stdout=log, stderr=log)
    try:
        until = time.monotonic() + START_S
        while subprocess.run([programs / "pg_isready", "-q", "-h", folder], check=False, env=environment).returncode:
            assert server.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < until, (folder / "log").read_text()
            time.sleep(0.05)
        yield f"postgresql+psycopg://postgres@/postgres?host={folder}"
    finally:
        server.send_signal(signal.SIGQUIT)  # at once: without waiting for connections or writing what nobody reads
        server.wait(START_S)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def postgres_database(postgres: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Empty the database and give its address; the store's files go to the test's folder."""
    import psycopg  # noqa: PLC0415  optional: only where a server is

    with psycopg.connect(postgres.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute("DROP SCHEMA IF EXISTS matloop CASCADE")  # far cheaper than a database of its own
    monkeypatch.setenv("MATLOOP_HOME", str(tmp_path))
    return postgres


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Give the address of an empty store, once on each kind of database."""
    if request.param == "sqlite":
        return str(tmp_path / "campaigns.db")
    return str(request.getfixturevalue("postgres_database"))


@pytest.fixture
def store(where: str) -> Iterator[CampaignStore]:
    """Open an empty store, once on each kind of database."""
    opened = CampaignStore.open(where)
    yield opened
    opened.close()
