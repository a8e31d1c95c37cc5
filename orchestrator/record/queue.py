"""Trials that were planned ahead: a newer decision may withdraw those that have not begun.

A withdrawn trial is ABANDONED, and its steps name the decision that superseded it; nothing that has begun is touched.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, select

from orchestrator.errors import IllegalTransition
from orchestrator.record import statements, tables
from orchestrator.record.database import Write
from orchestrator.record.states import StepState

_SUPERSEDED = "superseded in decision "
_UNNEEDED = "not begun when the campaign stopped: "


def superseded(decision: int) -> str:
    """Return the reason of the trials that a decision withdrew."""
    return f"{_SUPERSEDED}{decision}"


def unneeded(reason: str) -> str:
    """Return the reason of trials that were withdrawn because the campaign stops."""
    return f"{_UNNEEDED}{reason}"


def is_withdrawn(reason: str) -> bool:
    """Say by its reason whether an abandoned trial was withdrawn from the queue: nothing was wrong with it."""
    return reason.startswith((_SUPERSEDED, _UNNEEDED))


def withdraw(write: Write, numbers: Sequence[int], reason: str) -> None:
    """Abandon planned trials of which nothing has begun.

    Args:
        write: a transaction.
        numbers: of the trials.
        reason: kept with their steps.

    Raises:
        IllegalTransition: a step of one is claimed or further.
    """
    for number in sorted(numbers):
        key = {"campaign_id": write.campaign, "number": number}
        row = write.connection.execute(statements.by(tables.trial, *key), key).one()
        steps = write.connection.execute(statements.by(tables.step, "trial_id"), {"trial_id": row.id}).all()
        begun = [step for step in steps if step.state != StepState.PLANNED]
        if begun or row.charge != "none":
            state = f"step {begun[0].name!r} is {begun[0].state}" if begun else f"its charge is {row.charge}"
            message = f"trial {number} cannot be withdrawn: it has begun ({state}); it will be finished"
            raise IllegalTransition(message)
        for step in steps:
            write.change(tables.step, step, state=StepState.CANCELLED, reason=reason)
        write.change(tables.trial, row, ended_at=write.now)


def withdrawn_by(connection: Connection, campaign: int) -> dict[int, str]:
    """Return the reasons of the withdrawn trials of a campaign, by number."""
    step, trial = tables.step, tables.trial
    query = (
        select(trial.c.number, step.c.reason)
        .join(step, step.c.trial_id == trial.c.id)
        .where((trial.c.campaign_id == campaign) & (step.c.state == StepState.CANCELLED))
        .where(step.c.reason.startswith(_SUPERSEDED))
    )
    return {row.number: row.reason for row in connection.execute(query)}
