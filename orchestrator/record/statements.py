"""The statements of every transaction, built once: SQLAlchemy takes longer to build one than SQLite to run it."""

from __future__ import annotations

from functools import cache
from typing import Any

from sqlalchemy import Insert, Select, Table, Update, bindparam, select

from orchestrator.record import tables


@cache
def insert(table: Table) -> Insert:
    """Insert a row; execute it with the columns as parameters."""
    return table.insert()


@cache
def by_id(table: Table) -> Select[Any]:
    """Read a row by ``row_id``."""
    return table.select().where(table.c.id == bindparam("row_id"))


@cache
def by(table: Table, *columns: str) -> Select[Any]:
    """Read the rows that have these values in these columns, given as parameters of the same names, by id."""
    query = table.select().order_by(table.c.id)
    for name in columns:
        query = query.where(table.c[name] == bindparam(name))
    return query


@cache
def compare_and_set(table: Table) -> Update:
    """Change the row ``row_id`` if it still has the hash ``seen_sha``; execute it with the columns as parameters."""
    return table.update().where((table.c.id == bindparam("row_id")) & (table.c.row_sha == bindparam("seen_sha")))


@cache
def one_column(table: Table, column: str) -> Select[Any]:
    """Read one column of the row ``row_id``."""
    return select(table.c[column]).where(table.c.id == bindparam("row_id"))


@cache
def lock_ledger() -> Select[Any]:
    """Read and lock the ledger of ``campaign``."""
    return tables.ledger.select().where(tables.ledger.c.campaign_id == bindparam("campaign")).with_for_update()
