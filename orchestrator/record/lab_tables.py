"""The tables of samples and of what a lab's campaigns share: places, stocks, and who holds how much of them.

Amounts are whole millionths of the resource's unit, as costs are: sums of binary fractions would not come out even.
What is in stock is what was supplied less what was spent, and what is reserved is what open holds add up to; the
constraints of `resource` refuse a stock below zero and more samples than there are places, whatever a program says.
"""

from __future__ import annotations

from sqlalchemy import CheckConstraint, Index, UniqueConstraint, text
from sqlmodel import Field

from orchestrator.record.states import HoldState
from orchestrator.record.table_base import Record, big, may_point_to, one_of, points_to

_HELD = text("state = 'HELD'")


class Sample(Record, table=True):
    """History: a physical object that a trial makes and moves about; `parents` is a JSON list of names."""

    __tablename__ = "sample"
    __table_args__ = (UniqueConstraint("campaign_id", "name", name="uq_sample_name"),)
    id: int | None = Field(default=None, primary_key=True)
    campaign_id: int = points_to("campaign")
    trial_id: int = points_to("trial")
    attempt_id: int | None = may_point_to("attempt")
    name: str
    parents: str
    at: int = big()
    row_sha: str


class SampleFate(Record, table=True):
    """History: what became of a sample."""

    __tablename__ = "sample_fate"
    __table_args__ = (
        CheckConstraint("kind IN ('spent', 'split', 'discarded', 'suspect', 'moved')", name="ck_sample_fate_kind"),
        Index("ix_sample_fate_sample", "sample_id"),
    )
    id: int | None = Field(default=None, primary_key=True)
    campaign_id: int = points_to("campaign")
    trial_id: int = points_to("trial")
    sample_id: int = points_to("sample")
    attempt_id: int | None = may_point_to("attempt")
    kind: str
    place: str
    note: str
    at: int = big()
    row_sha: str


class Resource(Record, table=True):
    """State of the lab: places or a stock; `level` is what there is, `reserved` what open holds take of it."""

    __tablename__ = "resource"
    __table_args__ = (
        UniqueConstraint("name", name="uq_resource_name"),
        CheckConstraint("kind IN ('places', 'stock')", name="ck_resource_kind"),
        CheckConstraint("reserved >= 0 AND level >= reserved", name="ck_resource_reserved"),
        CheckConstraint("capacity IS NULL OR level <= capacity", name="ck_resource_capacity"),
    )
    id: int | None = Field(default=None, primary_key=True)
    name: str
    kind: str
    unit: str
    level: int = big()
    reserved: int = big()
    capacity: int | None = big(default=None)
    alarm: int | None = big(default=None)
    row_sha: str


class Hold(Record, table=True):
    """State of the lab: what one attempt holds of a resource; SPENT is gone, RETURNED is there again."""

    __tablename__ = "hold"
    __table_args__ = (
        UniqueConstraint("attempt_id", "resource_id", name="uq_hold_resource"),
        CheckConstraint(f"state IN {one_of(HoldState)}", name="ck_hold_state"),
        CheckConstraint("amount > 0", name="ck_hold_amount"),
        Index("ix_hold_held", "resource_id", sqlite_where=_HELD, postgresql_where=_HELD),
    )
    id: int | None = Field(default=None, primary_key=True)
    attempt_id: int = points_to("attempt")
    resource_id: int = points_to("resource")
    amount: int = big()
    state: str
    at: int = big()
    row_sha: str


class Supply(Record, table=True):
    """History of the lab: what was put in, or found missing, by whom."""

    __tablename__ = "supply"
    __table_args__ = (Index("ix_supply_resource", "resource_id"),)
    id: int | None = Field(default=None, primary_key=True)
    resource_id: int = points_to("resource")
    amount: int = big()
    actor: str
    reason: str
    at: int = big()
    row_sha: str
