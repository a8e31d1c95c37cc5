"""Looking for damage: does the record still say what was written?

Every row is compared with its hash, every hash with the event that wrote the row, every event with the one before it,
and every raw file and fit with its name. So a flipped bit, a deleted row, two exchanged rows and a lost file are found.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Row, Table, text
from sqlalchemy.exc import DBAPIError

from orchestrator.domain import sha256
from orchestrator.errors import MatloopError
from orchestrator.record import tables
from orchestrator.record.codec import from_text
from orchestrator.record.database import Database, mapping
from orchestrator.record.earlier import link_of
from orchestrator.record.hashing import GENESIS, row_sha
from orchestrator.record.raw import folder_sha256
from orchestrator.record.resources import resource_problems
from orchestrator.record.schema import differences

POOL = "pool"
"""Kind of the events that tell of a growing pool; their note ends with the hash of a raw file of ids."""
HASH_DIGITS = 64

Written = dict[str, dict[str, str]]
"""By table and row id: the hash that the last event about a row names."""


def verify(db: Database, folder: Path, campaign: int | None) -> list[str]:
    """Compare everything stored with its hashes.

    Args:
        db: the database.
        folder: of raw files and fits.
        campaign: id; None for all.

    Returns:
        What was found, one sentence each.
    """
    problems: list[str] = []
    with db.read() as connection:
        try:
            problems += _database(connection)
            ids = connection.execute(tables.campaign.select().order_by(tables.campaign.c.id)).all()
            for row in ids:
                if campaign in (None, row.id):
                    problems += [f"campaign {row.name!r}: {what}" for what in _campaign(connection, row.id, folder)]
        except (
            DBAPIError,
            UnicodeDecodeError,
            ValueError,
            TypeError,
        ) as error:  # what damaged pages make drivers raise
            problems.append(f"the database cannot be read to the end ({error}); restore a backup")
    return problems


def _database(connection: Connection) -> Iterator[str]:
    yield from differences(connection)
    yield from resource_problems(connection)
    if connection.dialect.name == "sqlite":
        found = [str(line) for line in connection.execute(text("PRAGMA quick_check")).scalars()]
        if found != ["ok"]:
            yield f"SQLite's own check says: {'; '.join(found[:3])}"


def _campaign(connection: Connection, campaign: int, folder: Path) -> Iterator[str]:
    written: Written = {}
    yield from _events(connection, campaign, written)
    for table in (*tables.HISTORY, *tables.STATE):
        if table.name not in ("event", "ledger"):
            yield from _rows(connection, table, campaign, written.get(table.name, {}))
    yield from _files(connection, campaign, folder)


def _events(connection: Connection, campaign: int, written: Written) -> Iterator[str]:
    table = tables.event
    number, head = 0, GENESIS
    own = table.c.campaign_id + 0 == campaign  # see _rows
    for row in connection.execute(table.select().where(own).order_by(table.c.number + 0)):
        if row.number != number + 1:
            yield f"events {number + 1} to {row.number - 1} are missing"
        elif row.prev_sha != head:
            yield f"event {row.number} does not follow from the one before it: events were exchanged or rewritten"
        if row_sha(table, mapping(row)) != row.row_sha:
            yield f"event {row.number} was changed after it was written"
        number, head = row.number, row.row_sha
        try:
            writes: Mapping[str, Mapping[str, str]] = from_text(row.writes)
        except ValueError:
            continue  # said above: its hash cannot match
        for name, rows in writes.items():
            written.setdefault(name, {}).update(rows)
    ledger = connection.execute(tables.ledger.select().where(tables.ledger.c.campaign_id == campaign)).first()
    if ledger is None:
        yield "its ledger is missing"
        return
    if row_sha(tables.ledger, mapping(ledger)) != ledger.row_sha:
        yield "its ledger was changed after it was written"
    if (ledger.events, ledger.head_sha) != (number, head):
        yield f"the last events are missing: {ledger.events} were written and {number} are there"


def _rows(connection: Connection, table: Table, campaign: int, written: Mapping[str, str]) -> Iterator[str]:
    # "+ 0": an index must not serve the query, since SQLite would answer with the index's copy of a damaged column
    own = (table.c.id if table is tables.campaign else table.c.campaign_id) + 0
    missing = dict(written)
    for row in connection.execute(table.select().where(own == campaign).order_by(table.c.id)):
        named = missing.pop(str(row.id), None)
        if _hash(table, row) != row.row_sha:
            yield f"row {row.id} of table {table.name} was changed after it was written"
        elif named is None:
            yield f"row {row.id} of table {table.name} was written by no event"
        elif named != row.row_sha:
            yield f"row {row.id} of table {table.name} is not the one that the events name: exchanged or set back"
    for row_id in missing:
        yield f"row {row_id} of table {table.name} is missing"


def _hash(table: Table, row: Row[Any]) -> str:
    try:
        return row_sha(table, mapping(row))
    except ValueError:  # a NaN or a broken character where none can be
        return ""


def _raw_files(connection: Connection, campaign: int) -> Mapping[str, str]:
    """Return the raw files that must be there, by hash, with what they belong to."""
    attempt, artifact = tables.attempt, tables.artifact
    raw: dict[str, str] = {}
    for row in connection.execute(attempt.select().where(attempt.c.campaign_id == campaign).order_by(attempt.c.id)):
        if row.raw_sha256 is not None:
            raw.setdefault(row.raw_sha256, f"attempt {row.id}")
    attached = (artifact.c.campaign_id == campaign) & (artifact.c.kind == "attachment")
    for row in connection.execute(artifact.select().where(attached).order_by(artifact.c.id)):
        raw.setdefault(row.content, f"attachment {row.name!r} of attempt {row.attempt_id}")
    taken = link_of(connection, campaign)
    if taken is not None:
        raw.setdefault(taken, "the earlier campaigns")
    event = tables.event
    grown = (event.c.campaign_id == campaign) & (event.c.kind == POOL)
    for row in connection.execute(event.select().where(grown).order_by(event.c.number)):
        raw.setdefault(row.note[-HASH_DIGITS:], f"the growing pool at event {row.number}")
    return raw


def _files(connection: Connection, campaign: int, folder: Path) -> Iterator[str]:
    fit = tables.fit
    for digest, whose in _raw_files(connection, campaign).items():
        path = folder / "raw" / digest
        if not path.is_file():
            yield f"the raw file {digest} of {whose} is missing"
        elif sha256(path.read_bytes()) != digest:
            yield f"the raw file {digest} of {whose} was changed after it was written"
    for row in connection.execute(fit.select().where(fit.c.campaign_id == campaign).order_by(fit.c.id)):
        kept = folder / "fits" / row.checkpoint_sha256
        try:
            good = folder_sha256(kept) == row.checkpoint_sha256
        except (MatloopError, OSError):
            good = False
        if not good:
            yield f"the files of fit {row.number} in {kept.name} are missing or were changed"
