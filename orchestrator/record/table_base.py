"""What every table of the campaign database is made of."""

from __future__ import annotations

from typing import Any, ClassVar

from sqlalchemy import BigInteger, MetaData
from sqlmodel import Field, SQLModel


def one_of(states: Any) -> str:
    """Write states as an SQL list of literals; bound parameters would keep partial indexes from being used."""
    return "(" + ", ".join(f"'{state}'" for state in states) + ")"


def big(**options: Any) -> Any:
    """Make a column of 64 bits."""
    return Field(sa_type=BigInteger, **options)  # PostgreSQL's INTEGER has 32 bits: no room for microseconds


def points_to(table: str) -> Any:
    """Make a column that names a row of another table."""
    return Field(foreign_key=f"{table}.id", ondelete="RESTRICT")


def may_point_to(table: str) -> Any:
    """Make a column that may name a row of another table."""
    return Field(default=None, foreign_key=f"{table}.id", ondelete="RESTRICT")


class Record(SQLModel):
    """Base of all tables, with a metadata of its own and names for every constraint."""

    metadata: ClassVar[MetaData] = MetaData(
        naming_convention={
            "pk": "pk_%(table_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
        }
    )
