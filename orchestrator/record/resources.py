"""Places and stocks: held with an intent, spent or given back when the attempt ends, refilled by people.

A hold is made in the transaction of the intent and settled in the one that ends the attempt, so a crash leaves what an
open attempt holds: an attempt that is UNKNOWN keeps it until a person answers. The constraints of the table `resource`
refuse a stock below zero and more samples than places even to a program with a mistake.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeVar

from sqlalchemy import Connection, Row, func, select

from orchestrator.config.resources import ResourceConfig
from orchestrator.config.steps import NeedConfig
from orchestrator.errors import Busy, OutOfStock, StoreError
from orchestrator.record import statements, tables
from orchestrator.record.base import MICRO, StorePart
from orchestrator.record.crash_points import reached
from orchestrator.record.database import Write, mapping, said_plainly
from orchestrator.record.hashing import row_sha
from orchestrator.record.states import HoldState
from orchestrator.units import convert, shown

T = TypeVar("T")
NOTHING_NEEDED: Mapping[str, NeedConfig] = MappingProxyType({})
PLACES = "places"
STOCK = "stock"


@dataclass(frozen=True)
class ResourceInfo:
    """A resource as it stands now.

    Args:
        kind: ``places`` or ``stock``.
        level: how much there is: places in all, or what is in stock.
        reserved: of it, by attempts that have not ended.
        capacity: most that fits in; None where unknown.
        alarm: below it people are told; None for never.
        holders: trials that hold some of it: campaign and number.
    """

    name: str
    kind: str
    unit: str
    level: float
    reserved: float
    capacity: float | None
    alarm: float | None
    holders: tuple[tuple[str, int], ...] = ()

    @property
    def free(self) -> float:
        """What a new step could take."""
        return self.level - self.reserved

    @property
    def low(self) -> bool:
        """Whether less is left than the alarm asks for."""
        return self.alarm is not None and self.free < self.alarm

    def __str__(self) -> str:
        """Say it in one line."""
        if self.kind == PLACES:
            return f"{self.name}: {self.free:g} of {self.level:g} places free"
        unit = f" {shown(self.unit)}".rstrip()
        most = "" if self.capacity is None else f" of {self.capacity:g}{unit}"
        held = f", {self.reserved:g}{unit} of it reserved" if self.reserved else ""
        low = f"; LOW, below {self.alarm:g}{unit}: matloop refill {self.name} AMOUNT --by NAME" if self.low else ""
        return f"{self.name}: {self.level:g}{unit}{most}{held}{low}"


class Resources(StorePart):
    """The part of the store that knows what the campaigns of a lab share besides instruments."""

    def declare_resources(self, declared: Mapping[str, ResourceConfig]) -> None:
        """Take in what the lab file says; a stock that is known already keeps the level that was counted.

        Args:
            declared: by name.

        Raises:
            StoreError: a resource changed its kind or unit, or has fewer places than are taken.
        """
        for name, config in sorted(declared.items()):
            self._apart("declare", lambda write, name=name, config=config: _declare(write, name, config))  # type: ignore[misc]

    def resources(self) -> list[ResourceInfo]:
        """Read all resources, by name."""
        table, hold, attempt = tables.resource, tables.hold, tables.attempt
        held = (
            select(hold.c.resource_id, tables.campaign.c.name, tables.trial.c.number)
            .join(attempt, attempt.c.id == hold.c.attempt_id)
            .join(tables.trial, tables.trial.c.id == attempt.c.trial_id)
            .join(tables.campaign, tables.campaign.c.id == attempt.c.campaign_id)
            .where(hold.c.state == HoldState.HELD.value)
            .order_by(hold.c.id)
        )
        with self._db.read() as connection:
            rows = connection.execute(table.select().order_by(table.c.name)).all()
            holders = connection.execute(held).all()
        return [
            _info(row, tuple((one.name, one.number) for one in holders if one.resource_id == row.id)) for row in rows
        ]

    def refill(
        self, name: str, amount: float, unit: str | None = None, *, actor: str, reason: str = "refilled"
    ) -> None:
        """Put something into a stock; a negative amount corrects what was counted wrongly.

        Args:
            name: of the resource.
            amount: in `unit`.
            unit: the resource's own where None.
            actor: who did it.
            reason: for people.

        Raises:
            StoreError: there is none of that name, it consists of places, or so much does not fit or is not there.
        """
        if not actor.strip():
            message = "say who refilled it: the record keeps a name with every change of a stock"
            raise StoreError(message)

        def work(write: Write) -> None:
            row = _row(write.connection, name)
            if row.kind != STOCK:
                message = f"{name!r} consists of places, which are not refilled; change 'places' in the lab file"
                raise StoreError(message)
            change = _micro(convert(amount, unit or row.unit, row.unit))
            level = row.level + change
            if level < row.reserved or (row.capacity is not None and level > row.capacity):
                most = "" if row.capacity is None else f" to {row.capacity / MICRO:g}"
                message = (
                    f"{amount:g} {unit or row.unit} would make {level / MICRO:g} {row.unit} of {name!r};"
                    f" {row.reserved / MICRO:g}{most} {row.unit} are possible: look again, and correct the amount"
                )
                raise StoreError(message)
            _supply(write, row, change, actor, reason)

        self._apart("refill", work)

    def _apart(self, label: str, work: Callable[[Write], T]) -> T:
        """Run a transaction that belongs to no campaign: it has no event, and `verify` adds its rows up instead."""
        with said_plainly(), self._db.engine.connect() as connection, connection.begin():
            answer = work(Write(connection, 0, now=self._db.clock(), op_id=f"{label}-{time.monotonic_ns()}"))
            reached(f"{label}.in_txn")
        reached(f"{label}.after")
        return answer


def take(write: Write, attempt: int, needs: Mapping[str, NeedConfig]) -> None:
    """Hold what a step needs, in the transaction of its intent.

    Args:
        write: the transaction.
        attempt: id of the attempt.
        needs: amounts by resource.

    Raises:
        Busy: others hold it; some of it will come back.
        OutOfStock: there is less than is needed, and nothing will come back by itself.
        StoreError: no lab file declared such a resource.
    """
    for name, need in sorted(needs.items()):  # in one order, so that two campaigns never wait for each other
        row = _row(write.connection, name)
        amount = _micro(convert(need.amount, need.unit, row.unit))
        if amount > row.level:
            raise OutOfStock(_lacking(row, amount))
        if amount > row.level - row.reserved:
            message = (
                f"all of {name!r} is taken or reserved ({(row.level - row.reserved) / MICRO:g} of {row.level / MICRO:g}"
                f" {row.unit} free, {amount / MICRO:g} needed); nothing was sent. An attempt that is UNKNOWN keeps what"
                " it holds until a person says what happened: see `matloop resources` and `matloop status`"
            )
            raise Busy(message)
        write.insert(
            tables.hold, attempt_id=attempt, resource_id=row.id, amount=amount, state=HoldState.HELD, at=write.now
        )
        write.change(tables.resource, row, reserved=row.reserved + amount)


def give_back(write: Write, attempt: int, *, spent: bool) -> None:
    """Settle what an attempt holds, in the transaction that ends it.

    Args:
        write: the transaction.
        attempt: id of the attempt.
        spent: whether anything happened physically: then stocks are used up; places are free again in any case.
    """
    hold = tables.hold
    for one in write.connection.execute(statements.by(hold, "attempt_id"), {"attempt_id": attempt}).all():
        if one.state != HoldState.HELD:
            continue
        row = write.connection.execute(_locked().where(tables.resource.c.id == one.resource_id)).one()
        gone = spent and row.kind == STOCK
        write.change(hold, one, state=HoldState.SPENT if gone else HoldState.RETURNED)
        level = row.level - one.amount if gone else row.level
        write.change(tables.resource, row, reserved=row.reserved - one.amount, level=level)


def resource_problems(connection: Connection) -> Iterator[str]:
    """Add up supplies and holds, and compare them with what the resources say; compare every row with its hash.

    Args:
        connection: reading one state of the database.

    Yields:
        What is wrong, one sentence each.
    """
    for table in (*tables.LAB_HISTORY, *tables.LAB_STATE):
        for row in connection.execute(table.select().order_by(table.c.id)):
            if row_sha(table, mapping(row)) != row.row_sha:
                yield f"row {row.id} of table {table.name} was changed after it was written"
    hold, supply = tables.hold, tables.supply

    def total(column: Any, *where: Any) -> int:
        return int(connection.execute(select(func.coalesce(func.sum(column), 0)).where(*where)).scalar_one())

    for row in connection.execute(tables.resource.select().order_by(tables.resource.c.name)).all():
        mine = hold.c.resource_id == row.id
        level = total(supply.c.amount, supply.c.resource_id == row.id)
        level -= total(hold.c.amount, mine, hold.c.state == HoldState.SPENT.value)
        reserved = total(hold.c.amount, mine, hold.c.state == HoldState.HELD.value)
        if (level, reserved) != (row.level, row.reserved):
            yield (
                f"resource {row.name!r} says {row.level / MICRO:g} with {row.reserved / MICRO:g} reserved, and its"
                f" supplies and holds add up to {level / MICRO:g} with {reserved / MICRO:g}"
            )


def _declare(write: Write, name: str, config: ResourceConfig) -> None:
    kind = PLACES if config.places is not None else STOCK
    caps = {
        "capacity": None if config.capacity is None else _micro(config.capacity),
        "alarm": None if config.alarm is None else _micro(config.alarm),
    }
    found = write.connection.execute(_locked().where(tables.resource.c.name == name)).first()
    amount = _micro(float(config.places if config.places is not None else config.stock or 0.0))
    if found is None:
        plain = {"name": name, "kind": kind, "unit": config.unit, "reserved": 0, **caps}
        row_id = write.insert(tables.resource, level=0, **plain)
        _supply(write, write.row(tables.resource, row_id), amount, "matloop", "as the lab file says")
        return
    if (found.kind, found.unit) != (kind, config.unit):
        message = (
            f"resource {name!r} was {found.kind} in {found.unit or 'pieces'} and the lab file now says {kind} in"
            f" {config.unit}: give the new one another name"
        )
        raise StoreError(message)
    if kind == PLACES and amount != found.level:
        if amount < found.reserved:
            message = f"resource {name!r} is to have {config.places} places, and {found.reserved // MICRO} are taken"
            raise StoreError(message)
        _supply(write, found, amount - found.level, "matloop", "as the lab file says")
        found = write.row(tables.resource, found.id)
    if (found.capacity, found.alarm) != (caps["capacity"], caps["alarm"]):
        write.change(tables.resource, found, **caps)


def _supply(write: Write, row: Row[Any], amount: int, actor: str, reason: str) -> None:
    if amount:
        write.insert(tables.supply, resource_id=row.id, amount=amount, actor=actor, reason=reason, at=write.now)
        write.change(tables.resource, row, level=row.level + amount)


def _locked() -> Any:
    return tables.resource.select().with_for_update()  # on PostgreSQL campaigns meet here; SQLite has one writer


def _row(connection: Connection, name: str) -> Row[Any]:
    found = connection.execute(_locked().where(tables.resource.c.name == name)).first()
    if found is None:
        names = connection.execute(select(tables.resource.c.name).order_by(tables.resource.c.name)).scalars().all()
        message = (
            f"there is no resource {name!r}; there are: {', '.join(names) or 'none'}; resources stand in lab.yaml"
            " under 'resources'"
        )
        raise StoreError(message)
    row: Row[Any] = found
    return row


def _micro(amount: float) -> int:
    return round(amount * MICRO)


def _lacking(row: Row[Any], amount: int) -> str:
    unit = shown(row.unit)
    if row.kind == PLACES:
        return f"{amount / MICRO:g} places of {row.name!r} are needed, and there are {row.level / MICRO:g}"
    return (
        f"{amount / MICRO:g} {unit} of {row.name!r} are needed, and {row.level / MICRO:g} {unit} are left: refill it,"
        f" say so with `matloop refill {row.name} AMOUNT --by NAME`, then go on with `matloop resume`"
    )


def _info(row: Row[Any], holders: tuple[tuple[str, int], ...]) -> ResourceInfo:
    return ResourceInfo(
        name=row.name,
        kind=row.kind,
        unit=row.unit,
        level=row.level / MICRO,
        reserved=row.reserved / MICRO,
        capacity=None if row.capacity is None else row.capacity / MICRO,
        alarm=None if row.alarm is None else row.alarm / MICRO,
        holders=holders,
    )
