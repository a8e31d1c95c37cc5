"""What the parts of the store share: the database, the files' folder, and names to ids."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Row, select

from orchestrator.domain import Candidate
from orchestrator.errors import Damaged, StoreError
from orchestrator.record import statements, tables
from orchestrator.record.codec import from_text
from orchestrator.record.database import Database, Write, mapping
from orchestrator.record.earlier import Kept
from orchestrator.record.hashing import row_sha
from orchestrator.record.raw import RawStore

MICRO = 1_000_000
"""Costs are stored as whole millionths of the campaign's unit."""


class StorePart:
    """Base of the store's parts.

    Args:
        db: the database.
        folder: of raw files, fits and locks.
        least_free: bytes that must be free before a new step may start.
    """

    def __init__(self, db: Database, folder: Path, *, least_free: int) -> None:
        self._db = db
        self.folder = folder
        self.raw = RawStore(folder / "raw")
        self._least_free = least_free
        self._ids: dict[str, int] = {}
        self._owners: dict[tuple[str, int], int] = {}  # (table, row id) → campaign; neither ever changes
        self._candidates: dict[int, Candidate] = {}  # rows of history never change: read each once
        self._kept: dict[str, Kept] = {}  # by the hash of the file: read each once

    def _id(self, name: str) -> int:
        """Return the id of a campaign.

        Raises:
            StoreError: there is none of that name; the message names the nearest.
        """
        if name not in self._ids:
            with self._db.read() as connection:
                self._ids = {
                    row.name: row.id for row in connection.execute(select(tables.campaign.c.name, tables.campaign.c.id))
                }
        if name not in self._ids:
            near = difflib.get_close_matches(name, self._ids, n=3, cutoff=0.4) or sorted(self._ids)[:5]
            known = (
                f"did you mean {' or '.join(near)}?" if near else "there are none yet; start one with: matloop run FILE"
            )
            message = f"there is no campaign {name!r} in this database; {known}"
            raise StoreError(message)
        return self._ids[name]

    def _campaign_of(self, table: Any, row_id: int) -> int:
        key = (table.name, row_id)
        if key not in self._owners:
            with self._db.read() as connection:
                query = statements.one_column(table, "campaign_id")
                found = connection.execute(query, {"row_id": row_id}).scalar()
            if found is None:
                message = f"there is no {table.name} with id {row_id} in this database"
                raise StoreError(message)
            self._owners[key] = int(found)
        return self._owners[key]

    def _candidates_of(self, connection: Connection, campaign: int) -> dict[int, Candidate]:
        """Return the candidates of a campaign by row id.

        Raises:
            Damaged: a stored candidate does not match its hash.
        """
        table = tables.candidate
        ids = connection.execute(
            select(table.c.id).where(table.c.campaign_id == campaign).order_by(table.c.id)
        ).scalars()
        wanted = list(ids)
        if any(row_id not in self._candidates for row_id in wanted):
            known = max((row_id for row_id in wanted if row_id in self._candidates), default=0)
            query = table.select().where((table.c.campaign_id == campaign) & (table.c.id > known))
            for row in connection.execute(query):
                check_row(table, row)
                self._candidates[row.id] = Candidate.from_json(from_text(row.content))
        return {row_id: self._candidates[row_id] for row_id in wanted}


def check_row(table: Any, row: Row[Any]) -> None:
    """Compare a row that is about to be used with its hash.

    Raises:
        Damaged: they differ.
    """
    if row_sha(table, mapping(row)) != row.row_sha:
        message = (
            f"row {row.id} of table {table.name} was changed after it was stored; run `matloop verify` to see what "
            "else, and restore a backup"
        )
        raise Damaged(message)


def config_of(connection: Connection, campaign: Row[Any]) -> Mapping[str, Any]:
    """Return the snapshot of a campaign's current revision."""
    config: Mapping[str, Any] = from_text(_revision(connection, campaign).config)
    return config


def _revision(connection: Connection, campaign: Row[Any]) -> Row[Any]:
    query = statements.by(tables.revision, "campaign_id", "number")
    return connection.execute(query, {"campaign_id": campaign.id, "number": campaign.revision}).one()


def micro(cost: float) -> int:
    """Return a cost in whole millionths; a cost above zero stays above zero.

    Raises:
        StoreError: the cost is negative or not finite.
    """
    if not 0 <= cost < float("inf"):
        message = f"a cost must be a finite number of at least 0, not {cost}"
        raise StoreError(message)
    return max(1, round(cost * MICRO)) if cost > 0 else 0


def current(write: Write) -> Row[Any]:
    """Return the campaign's row within a write transaction."""
    return write.row(tables.campaign, write.campaign)
