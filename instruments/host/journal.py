"""The host's own memory: which orders came, what became of them, so that none is carried out twice.

An order goes CREATED → STARTED → DONE | FAILED, or CREATED → WITHDRAWN. STARTED is on the disk before the driver hears
of the order. A job that is STARTED when the host itself begins was cut off: its state becomes LOST, and only the
driver, or a person, can say more. Results and their files stay until the campaign acknowledges them, and then a week.
"""

from __future__ import annotations

import fcntl
import json
import os
import sqlite3
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from instruments.host.wire import dump
from orchestrator.domain import Attachment, JsonObject, Order, Result, sha256
from orchestrator.errors import BadData, NotConnected

CREATED, STARTED, DONE, FAILED, WITHDRAWN, LOST = "created", "started", "done", "failed", "withdrawn", "lost"
KEEP_S = 7 * 24 * 3600.0
"""How long an acknowledged result stays: a campaign that is restored from a backup may ask again."""
TABLE = """
create table if not exists jobs (
    instrument text not null,
    key text not null,
    job text not null unique,
    state text not null,
    order_ text not null,
    order_sha256 text not null,
    handle text,
    result text,
    error text,
    created_at real not null,
    ended_at real,
    acknowledged_at real,
    primary key (instrument, key)
) strict
"""


@dataclass(frozen=True)
class Entry:
    """One order in the journal.

    Args:
        instrument: name at this host.
        key: dispatch key.
        job: id of the job that it became.
        state: one of the words above.
        order: what was asked.
        handle: by which the driver finds the job again.
        result: `Result.to_json` content.
        error: `wire.error_json` content.
    """

    instrument: str
    key: str
    job: str
    state: str
    order: Order
    handle: JsonObject | None
    result: JsonObject | None
    error: JsonObject | None


class Journal:
    """The journal of one host.

    Args:
        file: of the database; files of results lie in a folder beside it.

    Raises:
        NotConnected: another host uses it.
    """

    def __init__(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.files = file.with_suffix(".files")
        self.files.mkdir(exist_ok=True, mode=0o700)
        self._lock = os.open(file.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._lock)
            message = f"another host uses the journal {file}; end it, or name another one with --journal"
            raise NotConnected(message) from error
        self._base = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
        self._base.execute("pragma journal_mode = wal")
        self._base.execute("pragma synchronous = full")  # STARTED must outlive a power cut
        self._base.execute(TABLE)
        self._base.execute("update jobs set state = ? where state = ?", (LOST, STARTED))
        self._prune()

    def close(self) -> None:
        """Give the database back."""
        self._base.close()
        os.close(self._lock)

    def create(self, instrument: str, order: Order) -> Entry:
        """Write down an order under a new job id, in place of what the key had."""
        content, job = dump(order.to_json()).decode(), uuid.uuid4().hex
        self._base.execute(
            "insert or replace into jobs (instrument, key, job, state, order_, order_sha256, created_at)"
            " values (?, ?, ?, ?, ?, ?, ?)",
            (instrument, order.key, job, CREATED, content, sha256(content), time.time()),
        )
        return Entry(instrument, order.key, job, CREATED, order, None, None, None)

    def move(self, job: str, before: str, after: str) -> bool:
        """Change a state; say whether it was what it was thought to be."""
        changed = self._base.execute("update jobs set state = ? where job = ? and state = ?", (after, job, before))
        return changed.rowcount == 1

    def handle(self, job: str, handle: JsonObject) -> None:
        """Keep the driver's handle of a job."""
        self._base.execute("update jobs set handle = ? where job = ?", (dump(handle).decode(), job))

    def done(self, job: str, result: Result) -> None:
        """Keep a result, its files first."""
        for attachment in result.attachments:
            self._keep(attachment)
        self._end(job, DONE, "result", result.to_json())

    def failed(self, job: str, error: JsonObject) -> None:
        """Keep how a job failed."""
        self._end(job, FAILED, "error", error)

    def acknowledge(self, instrument: str, key: str) -> None:
        """Note that the campaign has the result of a key."""
        where = (time.time(), instrument, key)
        self._base.execute("update jobs set acknowledged_at = ? where instrument = ? and key = ?", where)

    def by_key(self, instrument: str, key: str) -> Entry | None:
        """Find an order by its key."""
        return self._one("instrument = ? and key = ?", (instrument, key))

    def by_job(self, instrument: str, job: str) -> Entry | None:
        """Find an order by its job's id."""
        return self._one("instrument = ? and job = ?", (instrument, job))

    def attachment(self, digest: str) -> Path | None:
        """Find a file by its hash; None where it is not (or no more) there."""
        path = self.files / digest
        return path if digest.isalnum() and path.is_file() else None

    def _one(self, where: str, values: tuple[str, ...]) -> Entry | None:
        row = self._base.execute(
            f"select instrument, key, job, state, order_, handle, result, error from jobs where {where}",  # noqa: S608
            values,
        ).fetchone()
        if row is None:
            return None
        instrument, key, job, state, order, *parts = row
        handle, result, error = (json.loads(part) if part else None for part in parts)
        return Entry(instrument, key, job, state, Order.from_json(json.loads(order)), handle, result, error)

    def _end(self, job: str, state: str, column: str, content: Any) -> None:
        self._base.execute(
            f"update jobs set state = ?, {column} = ?, ended_at = ? where job = ?",  # noqa: S608  a column of ours
            (state, dump(content).decode(), time.time(), job),
        )

    def _keep(self, attachment: Attachment) -> None:
        path = self.files / attachment.sha256
        if path.exists():
            return
        beside = self.files / f".{uuid.uuid4().hex}"
        with beside.open("wb") as file:
            file.write(attachment.content)
            file.flush()
            os.fsync(file.fileno())
        if sha256(beside.read_bytes()) != attachment.sha256:
            message = f"the file {attachment.name} could not be kept: what was written to {beside} reads otherwise"
            raise BadData(message)
        beside.replace(path)

    def _prune(self) -> None:
        """Drop the content of results that were acknowledged long ago; their keys stay for ever."""
        old = "acknowledged_at < ?"
        limit = (time.time() - KEEP_S,)
        self._base.execute(f"update jobs set result = null where {old} and state = '{DONE}'", limit)  # noqa: S608
        kept = self._base.execute("select result from jobs where result is not null")
        named = {digest for (text,) in kept for _, _, digest in json.loads(text)["attachments"]}
        for path in self.files.iterdir():
            if path.name not in named:
                path.unlink()
