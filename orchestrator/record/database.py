"""Transactions on the campaign database: the only place that opens one.

Every write transaction of a campaign locks the campaign's ledger row, changes state rows by compare-and-set, appends
history rows, and ends with exactly one event that names all of them with their hashes. Nothing outside the database is
called inside a transaction.
"""

from __future__ import annotations

import errno
import random
import shutil
import sqlite3
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, Row, RowMapping, Table, select
from sqlalchemy.exc import DBAPIError, IntegrityError

from orchestrator.domain import canonical_json
from orchestrator.errors import IllegalTransition, StoreError
from orchestrator.record import statements, tables
from orchestrator.record.crash_points import reached
from orchestrator.record.engine import READ
from orchestrator.record.hashing import GENESIS, plain_row, row_sha
from orchestrator.record.triggers import MARK

T = TypeVar("T")
_AGAIN = frozenset({"40001", "40P01"})  # PostgreSQL: serialization failure, deadlock
_TRIES = 8
_FULL = ("database or disk is full", "No space left on device", "disk I/O error")


class Write:
    """One write transaction of one campaign.

    Args:
        connection: in a transaction.
        campaign: id of the campaign; its ledger row is locked.
        now: UTC in microseconds, the same for every row of the transaction.
        op_id: identifies the transaction, so that an unknown commit can be looked up.
    """

    def __init__(self, connection: Connection, campaign: int, *, now: int, op_id: str) -> None:
        self.connection = connection
        self.campaign = campaign
        self.now = now
        self.op_id = op_id
        self.done = False
        self._writes: dict[str, dict[str, str]] = {}
        self._ledger: Row[Any] | None = None

    def lock(self) -> None:
        """Lock the campaign's ledger row, so that writers of one campaign take turns on PostgreSQL too."""
        self._ledger = self.connection.execute(statements.lock_ledger(), {"campaign": self.campaign}).one()

    def row(self, table: Table, row_id: int) -> Row[Any]:
        """Read one row.

        Raises:
            StoreError: there is none of that id.
        """
        found = self.connection.execute(statements.by_id(table), {"row_id": row_id}).first()
        if found is None:
            message = f"there is no {table.name} with id {row_id} in this database"
            raise StoreError(message)
        return found

    def insert(self, table: Table, **values: Any) -> int:
        """Append a row with its hash.

        Args:
            table: where.
            values: by column name; `id` and `row_sha` are made here.

        Returns:
            The new row's id.
        """
        row = plain_row(table, values)
        row["row_sha"] = row_sha(table, row)
        key = self.connection.execute(statements.insert(table), row).inserted_primary_key
        row_id = int(key[0]) if key is not None else 0
        self._writes.setdefault(table.name, {})[str(row_id)] = row["row_sha"]
        return row_id

    def change(self, table: Table, row: Row[Any], **values: Any) -> None:
        """Change a state row as it was read: compare-and-set on its hash, hence on its state, fence and all else.

        Args:
            table: whose row.
            row: as read in this transaction; read it anew before changing it twice.
            values: what changes.

        Raises:
            IllegalTransition: somebody else changed the row first.
        """
        new = plain_row(table, {**mapping(row), **values})
        new["row_sha"] = row_sha(table, new)
        self._set(table, row, new)
        self._writes.setdefault(table.name, {})[str(row.id)] = new["row_sha"]

    def event(
        self,
        kind: str,
        actor: str,
        *,
        trial: int | None = None,
        step: int | None = None,
        attempt: int | None = None,
        change: tuple[str, str] = ("", ""),
        note: str = "",
    ) -> None:
        """Append the transaction's one event and move the head of the chain.

        Args:
            kind: what happened, one word.
            actor: person or program.
            trial: number, where it is about one.
            step: id, where it is about one.
            attempt: id, where it is about one.
            change: state before and after.
            note: for people.
        """
        ledger = self._ledger
        values = {
            "campaign_id": self.campaign,
            "number": (ledger.events if ledger else 0) + 1,
            "op_id": self.op_id,
            "at": self.now,
            "actor": actor,
            "kind": kind,
            "trial": trial,
            "step_id": step,
            "attempt_id": attempt,
            "state_from": str(change[0]),
            "state_to": str(change[1]),
            "note": note,
            "writes": canonical_json(self._writes),
            "prev_sha": ledger.head_sha if ledger else GENESIS,
        }
        row = plain_row(tables.event, values)
        row["row_sha"] = row_sha(tables.event, row)
        self.connection.execute(statements.insert(tables.event), row)
        head = {"campaign_id": self.campaign, "events": row["number"], "head_sha": row["row_sha"]}
        new = plain_row(tables.ledger, {**head, "hours": ledger.hours if ledger else 0.0})
        new["row_sha"] = row_sha(tables.ledger, new)
        if ledger is None:
            self.connection.execute(statements.insert(tables.ledger), new)
        else:
            self._set(tables.ledger, ledger, new)
        self.done = True

    def _set(self, table: Table, row: Row[Any], new: Mapping[str, Any]) -> None:
        parameters = {**new, "row_id": row.id, "seen_sha": row.row_sha}
        if self.connection.execute(statements.compare_and_set(table), parameters).rowcount != 1:
            message = f"{table.name} {row.id} was changed by another process in between; read it again"
            raise IllegalTransition(message)


class Database:
    """Read and write transactions on one engine.

    Args:
        engine: with the settings of `engine.make_engine`.
        clock: returns UTC in microseconds.
    """

    def __init__(self, engine: Engine, clock: Callable[[], int]) -> None:
        self.engine = engine
        self.clock = clock
        self._reader = engine.execution_options(**{READ: True})
        if engine.dialect.name == "postgresql":
            self._reader = engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Give a connection that sees one state of the database."""
        with said_plainly(), self._reader.connect() as connection, connection.begin():
            yield connection

    def write(self, campaign: int | None, label: str, work: Callable[[Write], T]) -> T:
        """Run one write transaction; the whole of it again where the database asks for that.

        Args:
            campaign: id; None for the transaction that makes the campaign.
            label: begins the names of the crash points ``LABEL.in_txn`` and ``LABEL.after``.
            work: does the writing and ends with one event.

        Returns:
            What `work` returned.

        Raises:
            StoreError: the database refuses.
        """
        op_id = uuid.uuid4().hex
        answers: list[T] = []
        for left in reversed(range(_TRIES)):
            try:
                with said_plainly():
                    self._once(campaign, op_id, label, work, answers)
                break
            except _Again as again:
                if answers and self._committed(op_id):
                    break  # the connection broke after the commit
                if not left:
                    raise StoreError(str(again)) from again
                time.sleep(random.uniform(0.005, 0.05))  # apart, so that two writers do not meet again
        reached(f"{label}.after")
        return answers[-1]

    def add_hours(self, campaign: int, hours: float) -> None:
        """Add hours to a campaign's ledger: the one write without an event, as it comes every few seconds."""
        table = tables.ledger
        with said_plainly(), self.engine.connect() as connection, connection.begin():
            row = connection.execute(statements.lock_ledger(), {"campaign": campaign}).one()
            new = plain_row(table, {**mapping(row), "hours": row.hours + hours})
            new["row_sha"] = row_sha(table, new)
            parameters = {**new, "row_id": row.id, "seen_sha": row.row_sha}
            connection.execute(statements.compare_and_set(table), parameters)

    def _once(self, campaign: int | None, op_id: str, label: str, work: Callable[[Write], T], answers: list[T]) -> None:
        with self.engine.connect() as connection, connection.begin():
            write = Write(connection, campaign or 0, now=self.clock(), op_id=op_id)
            if campaign is not None:
                write.lock()
            answers.append(work(write))
            if not write.done:
                message = f"transaction {label!r} wrote no event"
                raise AssertionError(message)
            reached(f"{label}.in_txn")

    def _committed(self, op_id: str) -> bool:
        with said_plainly(), self._reader.connect() as connection, connection.begin():
            query = select(tables.event.c.id).where(tables.event.c.op_id == op_id)
            return connection.execute(query).first() is not None


class _Again(StoreError):
    """The transaction left no trace and may be run again."""


@contextmanager
def said_plainly() -> Iterator[None]:
    """Turn errors of the database driver into errors of the store that say what to do.

    Raises:
        StoreError: the disk is full, the server is gone, or a constraint refused.
        IllegalTransition: a trigger refused.
    """
    try:
        yield
    except IntegrityError as error:
        _refused(error)
    except DBAPIError as error:
        text = str(error.orig)
        if MARK in text:
            _refused(error)
        if any(word in text for word in _FULL):
            raise StoreError(_full_message(text)) from error
        again = isinstance(error.orig, sqlite3.OperationalError) and "locked" in text
        again = again or getattr(error.orig, "sqlstate", None) in _AGAIN or error.connection_invalidated
        message = f"the campaign database did not answer as expected: {text}"
        raise (_Again if again else StoreError)(message) from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StoreError(_full_message(str(error))) from error
        raise


def check_space(folder: Path, least: int) -> None:
    """Refuse to go on with little space left.

    Args:
        folder: on the disk in question.
        least: bytes that must be free.

    Raises:
        StoreError: less is free.
    """
    free = shutil.disk_usage(folder).free
    if free < least:
        message = (
            f"only {free / 1e6:.0f} MB are free on the disk of {folder}, and {least / 1e6:.0f} MB are wanted before a "
            "new step starts: free some space, then resume; nothing that was recorded is lost"
        )
        raise StoreError(message)


def _full_message(text: str) -> str:
    return (
        f"the disk of the campaign database is full or failing ({text}): nothing was written by this step, and "
        "everything recorded before is safe; free some space, then resume"
    )


def _refused(error: DBAPIError) -> None:
    text = str(error.orig).splitlines()[0]
    if MARK in text:
        raise IllegalTransition(text.split(MARK, 1)[1].strip()) from error
    message = f"the campaign database refuses: {text}"
    raise StoreError(message) from error


def mapping(row: Row[Any]) -> RowMapping:
    """Return a row by column name."""
    return row._mapping  # noqa: SLF001  SQLAlchemy's public name for it
