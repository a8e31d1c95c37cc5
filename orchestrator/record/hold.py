"""One process at a time carries a campaign on: a lock that the kernel frees when its holder dies.

`flock` is freed by process death and by nothing else, not by a time-out and not by a broken connection. On PostgreSQL
an advisory lock is held besides, so that two computers with one database exclude each other.
"""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import Engine, text

from orchestrator.errors import Held

_PG_CLASS = 0x6D61746C  # "matl": our advisory locks' own number space
_descriptors: set[int] = set()


@contextmanager
def hold(folder: Path, campaign: int, name: str, engine: Engine, *, who: str) -> Iterator[None]:
    """Hold a campaign.

    Args:
        folder: of the lock files.
        campaign: id.
        name: for messages.
        engine: of the database.
        who: what the holder is, told to whoever is refused.

    Raises:
        Held: another process holds it; the message says which.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{campaign}.lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Held(_message(name, os.pread(descriptor, 4096, 0))) from error
        _descriptors.add(descriptor)
        card = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "since": datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC"),
            "command": who or shlex.join([Path(sys.argv[0] or "python").name, *sys.argv[1:]]),
        }
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(card).encode(), 0)
        if engine.dialect.name == "postgresql":
            with _advisory(engine, campaign, name):
                yield
        else:
            yield
    finally:
        if descriptor in _descriptors:
            fcntl.flock(descriptor, fcntl.LOCK_UN)  # closing is not enough while a forked child has not closed its copy
            _descriptors.discard(descriptor)
        os.close(descriptor)


@contextmanager
def _advisory(engine: Engine, campaign: int, name: str) -> Iterator[None]:
    keys = {"space": _PG_CLASS, "campaign": campaign}
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        if not connection.execute(text("SELECT pg_try_advisory_lock(:space, :campaign)"), keys).scalar_one():
            row = connection.execute(
                text(
                    "SELECT a.application_name, a.client_addr::text AS address, a.backend_start::text AS since "
                    "FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid WHERE l.locktype = 'advisory' "
                    "AND l.classid = :space AND l.objid = :campaign AND l.granted"
                ),
                keys,
            ).first()
            who = "another process" if row is None else f"{row.application_name} ({row.address or 'local'})"
            since = "" if row is None else f" since {row.since}"
            message = (
                f"campaign {name!r} is held by {who}{since}; end that process, or wait for it, before you carry on here"
            )
            raise Held(message)
        try:
            yield
        finally:
            connection.execute(text("SELECT pg_advisory_unlock(:space, :campaign)"), keys)


def _message(name: str, content: bytes) -> str:
    try:
        card = json.loads(content)
        who = f"process {card['pid']} on {card['host']} since {card['since']} ({card['command']})"
    except (ValueError, KeyError, TypeError):
        who = "another process, which has just begun"
    return f"campaign {name!r} is held by {who}; end that process, or wait for it, before you carry on here"


def _let_go() -> None:
    for descriptor in tuple(_descriptors):
        os.close(descriptor)  # a child that outlives its parent must not keep the campaign held
    _descriptors.clear()


os.register_at_fork(after_in_child=_let_go)
