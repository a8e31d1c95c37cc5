"""Connections to the campaign database, with the settings that durability rests on read back and checked.

SQLite: write-ahead log with full syncs where the version has no WAL-reset bug (3.7.0 to 3.51.2 can lose commits when
two connections meet a checkpoint; fixed in 3.51.3, 3.50.7 and 3.44.6), else a rollback journal with extra syncs.
Writers say BEGIN IMMEDIATE: a deferred transaction that reads first and then writes fails at once with SQLITE_BUSY,
whatever the time-out. PostgreSQL: `fsync`, `full_page_writes` and `synchronous_commit` must be on (with the last off,
103 of 41,937 acknowledged commits were lost when the server was killed).
"""

from __future__ import annotations

import os
import socket
import sqlite3
import weakref
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url

from orchestrator.errors import StoreError

BUSY_MS = 30_000
"""How long a connection waits for another writer; a transaction takes milliseconds, a checkpoint at most seconds."""
READ = "matloop_read"
"""Execution option of connections that only read."""
PG_SCHEMA = "matloop"
"""Our tables' own schema, so that a database shared with Prefect has no clashes of names."""
_NETWORK = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "fuse.sshfs", "afs"})
"""File systems whose locks SQLite cannot trust."""
_FIXED_WAL = (3, 51, 3)
_BACKPORTS = ((3, 50, 7), (3, 44, 6))


def is_postgresql(where: str) -> bool:
    """Say whether a store's address is one of PostgreSQL."""
    return where.startswith(("postgresql://", "postgresql+", "postgres://"))


def journal_for(version: tuple[int, ...]) -> tuple[str, str]:
    """Choose journal mode and sync level for a version of SQLite.

    Args:
        version: such as ``(3, 40, 1)``.

    Returns:
        `journal_mode` and `synchronous` as the pragmas take them.
    """
    safe = version >= _FIXED_WAL or any(version[:2] == good[:2] and version >= good for good in _BACKPORTS)
    return ("wal", "FULL") if safe else ("truncate", "EXTRA")


def make_engine(where: str | Path, *, create: bool) -> Engine:
    """Make an engine whose every connection has the settings of this page.

    Args:
        where: path of an SQLite file, or a PostgreSQL address.
        create: whether a missing SQLite file may be made.

    Returns:
        The engine.

    Raises:
        StoreError: there is no such file, or its file system cannot be trusted with locks.
    """
    text = str(where)
    engine = _postgresql(text) if is_postgresql(text) else _sqlite(Path(text), create=create)
    _close_in_children(engine)
    return engine


def masked(engine: Engine) -> str:
    """Return the address of an engine without its password."""
    return engine.url.render_as_string(hide_password=True)


def _sqlite(path: Path, *, create: bool) -> Engine:
    if not create and not path.exists():
        message = f"there is no campaign database at {path}; give its path with --store, or start a campaign first"
        raise StoreError(message)
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = file_system(path.parent)
    if kind in _NETWORK:
        message = (
            f"{path} lies on a network file system ({kind}), whose locks SQLite cannot trust; choose a local disk with "
            "--store PATH or MATLOOP_HOME, or use PostgreSQL with --store postgresql+psycopg://…"
        )
        raise StoreError(message)
    journal, sync = journal_for(sqlite3.sqlite_version_info)
    wanted: dict[str, Any] = {
        "busy_timeout": BUSY_MS,
        "journal_mode": journal,
        "synchronous": {"FULL": 2, "EXTRA": 3}[sync],
        "foreign_keys": 1,
        "recursive_triggers": 1,
        "trusted_schema": 0,
        "cell_size_check": 1,
        "fullfsync": 1,
        "checkpoint_fullfsync": 1,
        "mmap_size": 0,
    }
    engine = create_engine(URL.create("sqlite", database=str(path)), pool_size=4, max_overflow=28)

    @event.listens_for(engine, "connect")
    def _settings(raw: sqlite3.Connection, _record: Any) -> None:
        raw.isolation_level = None  # we send BEGIN ourselves
        for name, value in wanted.items():
            raw.execute(f"PRAGMA {name}={value}").close()
            seen = raw.execute(f"PRAGMA {name}").fetchone()
            # a build without memory maps knows no mmap_size and answers nothing: it has none, which is what we want
            if (seen is None and name != "mmap_size") or (seen is not None and seen[0] != value):
                message = (
                    f"SQLite did not take the setting {name}={value} for {path} (it says {seen}); another program may "
                    "have the database open in another mode: close it and try again"
                )
                raise StoreError(message)

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        reads = connection.get_execution_options().get(READ)
        connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")

    return engine


def _postgresql(text: str) -> Engine:
    url = make_url(text)
    if url.drivername in ("postgresql", "postgres"):
        url = url.set(drivername="postgresql+psycopg")
    options = f"-c search_path={PG_SCHEMA} -c timezone=UTC"
    name = f"matloop {os.getpid()}@{socket.gethostname()}"[:63]
    try:
        engine = create_engine(
            url, connect_args={"options": options, "application_name": name}, pool_size=4, max_overflow=28
        )
    except ModuleNotFoundError as error:
        message = f"PostgreSQL needs the driver psycopg ({error}); install it with: pip install 'matloop[postgres]'"
        raise StoreError(message) from error

    @event.listens_for(engine, "connect")
    def _settings(raw: Any, _record: Any) -> None:
        with raw.cursor() as cursor:
            for name, bad in (("fsync", "off"), ("full_page_writes", "off"), ("synchronous_commit", "off local")):
                cursor.execute(f"SHOW {name}")
                (seen,) = cursor.fetchone()
                if seen in bad.split():
                    message = (
                        f"the PostgreSQL server at {url.host or 'its socket'} runs with {name}={seen}, with which "
                        "acknowledged results can be lost; set it to on"
                    )
                    raise StoreError(message)
        raw.rollback()

    return engine


def file_system(folder: Path) -> str:
    """Return the type of the file system that holds a folder, or an empty text where it cannot be told."""
    try:
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    target = folder.resolve()
    best, kind = -1, ""
    for line in lines:
        before, _, after = line.partition(" - ")
        mount = Path(before.split()[4].replace("\\040", " "))
        if len(mount.parts) > best and target.is_relative_to(mount):
            best, kind = len(mount.parts), after.split()[0]
    return kind


_ENGINES: weakref.WeakSet[Engine] = weakref.WeakSet()


def _close_in_children(engine: Engine) -> None:
    _ENGINES.add(engine)


def _forget_connections() -> None:
    for engine in _ENGINES:
        engine.dispose(close=False)  # a database connection carried over a fork damages both sides


os.register_at_fork(after_in_child=_forget_connections)
