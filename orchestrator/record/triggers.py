"""Triggers that hold the rules even against a program with a mistake: made from the pairs in `states`.

Illegal transitions are refused, closed rows stay as they are, what identifies a row never changes, history is
append-only, and nothing is deleted. Two holes were found by measurement and are closed elsewhere or here: SQLite's
`INSERT OR REPLACE` passes delete triggers unless `recursive_triggers` is on (`engine`), and PostgreSQL's `TRUNCATE`
passes row triggers.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Table

from orchestrator.record import table_base, tables
from orchestrator.record.states import (
    ATTEMPT_PAIRS,
    CAMPAIGN_PAIRS,
    HOLD_PAIRS,
    OPEN_ATTEMPT,
    STEP_PAIRS,
    AttemptState,
    CampaignState,
    HoldState,
    StepState,
)

MARK = "matloop:"
"""Begins the message of every trigger, so that an error can be told from the database's own."""

_OPEN_STEP = (StepState.PLANNED, StepState.CLAIMED, StepState.OPEN)
_MACHINES: tuple[tuple[Table, Iterable[tuple[Any, Any]], str, tuple[Any, ...] | None], ...] = (
    (tables.campaign, CAMPAIGN_PAIRS, CampaignState.ACTIVE, None),
    (tables.step, STEP_PAIRS, StepState.PLANNED, _OPEN_STEP),
    (tables.attempt, ATTEMPT_PAIRS, AttemptState.INTENT, OPEN_ATTEMPT),
    (tables.hold, HOLD_PAIRS, HoldState.HELD, (HoldState.HELD,)),
)
"""Table, legal pairs, first state, and the states in which a row may change at all (None: in every state)."""

_FIXED = {
    "campaign": ("uuid", "name", "seed", "created_at"),
    "ledger": ("campaign_id",),
    "trial": ("campaign_id", "number", "proposal_id", "candidate_id", "fidelity", "replicate", "planned_at"),
    "step": ("campaign_id", "trial_id", "position", "name", "instrument", "capability"),
    "attempt": (
        "campaign_id",
        "trial_id",
        "step_id",
        "number",
        "dispatch_key",
        "instrument",
        "place",
        "slot",
        "cost",
        "request",
        "created_at",
    ),
    "resource": ("name", "kind", "unit"),
    "hold": ("attempt_id", "resource_id", "amount", "at"),
}
"""Columns of state tables that never change."""


EVERY = (*tables.HISTORY, *tables.STATE, *tables.LAB_HISTORY, *tables.LAB_STATE)
"""Tables that keep every row."""


@dataclass(frozen=True)
class Guard:
    """One trigger: refuse an operation on a table when a condition over OLD and NEW holds."""

    name: str
    table: str
    operation: Literal["INSERT", "UPDATE", "DELETE"]
    when: str
    message: str


def guards() -> list[Guard]:
    """Return every trigger, in a fixed order."""
    found: list[Guard] = []
    for table, pairs, first, open_states in _MACHINES:
        name = table.name
        legal = " OR ".join(f"(OLD.state = '{a}' AND NEW.state = '{b}')" for a, b in sorted(pairs))
        illegal = f"OLD.state <> NEW.state AND NOT ({legal})"
        found.append(Guard(f"tr_{name}_pairs", name, "UPDATE", illegal, f"illegal transition of a {name}"))
        found.append(Guard(f"tr_{name}_first", name, "INSERT", f"NEW.state <> '{first}'", f"a {name} begins {first}"))
        if open_states is not None:
            closed = f"OLD.state NOT IN {table_base.one_of(open_states)}"
            found.append(Guard(f"tr_{name}_closed", name, "UPDATE", closed, f"a closed {name} cannot change"))
    for name, columns in _FIXED.items():
        moved = " OR ".join(f"OLD.{column} <> NEW.{column}" for column in ("id", *columns))
        found.append(Guard(f"tr_{name}_fixed", name, "UPDATE", moved, f"what identifies a {name} cannot change"))
    history = [table.name for table in (*tables.HISTORY, *tables.LAB_HISTORY)]
    found += [Guard(f"tr_{name}_update", name, "UPDATE", "", f"{name} is append-only") for name in history]
    found += [Guard(f"tr_{t.name}_delete", t.name, "DELETE", "", f"{t.name} keeps every row") for t in EVERY]
    return found


def trigger_names() -> frozenset[str]:
    """Return the names of all triggers on SQLite; PostgreSQL has one more a table, against TRUNCATE."""
    return frozenset(guard.name for guard in guards())


def trigger_ddl(dialect: str) -> list[str]:
    """Write the statements that make the triggers.

    Args:
        dialect: ``sqlite`` or ``postgresql``.

    Returns:
        One statement each.
    """
    if dialect == "sqlite":
        return [_sqlite(guard) for guard in guards()]
    body = f"BEGIN RAISE EXCEPTION '{MARK} %', TG_ARGV[0]; END"
    statements = [f"CREATE FUNCTION matloop_refuse() RETURNS trigger LANGUAGE plpgsql AS $$ {body} $$"]
    statements += [_postgresql(guard) for guard in guards()]
    statements += [
        f"CREATE TRIGGER tr_{table.name}_truncate BEFORE TRUNCATE ON {table.name} FOR EACH STATEMENT "
        f"EXECUTE FUNCTION matloop_refuse('{table.name} keeps every row')"
        for table in EVERY
    ]
    return statements


def _sqlite(guard: Guard) -> str:
    when = f"WHEN {guard.when} " if guard.when else ""
    return (
        f"CREATE TRIGGER {guard.name} BEFORE {guard.operation} ON {guard.table} FOR EACH ROW {when}"
        f"BEGIN SELECT RAISE(ABORT, '{MARK} {guard.message}'); END"
    )


def _postgresql(guard: Guard) -> str:
    when = f"WHEN ({guard.when}) " if guard.when else ""
    return (
        f"CREATE TRIGGER {guard.name} BEFORE {guard.operation} ON {guard.table} FOR EACH ROW {when}"
        f"EXECUTE FUNCTION matloop_refuse('{guard.message}')"
    )
