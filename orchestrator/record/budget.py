"""The budget: what an attempt reserves, and what becomes of the reservation.

A trial is reserved with its first step's first intent and spent once anything has happened; cost is reserved and spent
by attempt. Where nothing happened the reservation is given back.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Row

from orchestrator.errors import BudgetSpent
from orchestrator.record import statements, tables
from orchestrator.record.base import MICRO, current
from orchestrator.record.database import Write, mapping
from orchestrator.record.resources import give_back
from orchestrator.record.states import STEP_ENDED


def reserve(write: Write, campaign: Row[Any], trials: int, cost: int) -> None:
    """Reserve from the budget; the database's constraint says the same again.

    Args:
        write: the transaction of an intent.
        campaign: its row.
        trials: 1 with a trial's first intent, else 0.
        cost: of the attempt, in millionths of the campaign's unit.

    Raises:
        BudgetSpent: a cap would be passed.
    """
    cap = campaign.cap_trials
    if cap is not None and campaign.reserved_trials + campaign.spent_trials + trials > cap:
        message = (
            f"the budget of {cap} trials is used up ({campaign.spent_trials} spent, {campaign.reserved_trials} "
            "reserved); raise budget.trials in the campaign file and run `matloop amend`"
        )
        raise BudgetSpent(message)
    cap = campaign.cap_cost
    if cap is not None and campaign.reserved_cost + campaign.spent_cost + cost > cap:
        message = (
            f"a step of cost {cost / MICRO:g} would pass the budget of {cap / MICRO:g} "
            f"({campaign.spent_cost / MICRO:g} spent, {campaign.reserved_cost / MICRO:g} reserved); "
            "raise budget.cost in the campaign file and run `matloop amend`"
        )
        raise BudgetSpent(message)
    if campaign.cap_hours is not None:
        ledger = tables.ledger
        query = statements.by(ledger, "campaign_id")
        hours = write.connection.execute(query, {"campaign_id": campaign.id}).one().hours
        if hours >= campaign.cap_hours:
            message = (
                f"the budget of {campaign.cap_hours:g} hours is used up ({hours:.3g} spent); "
                "raise budget.hours in the campaign file and run `matloop amend`"
            )
            raise BudgetSpent(message)
    if trials or cost:
        write.change(
            tables.campaign,
            campaign,
            reserved_trials=campaign.reserved_trials + trials,
            reserved_cost=campaign.reserved_cost + cost,
        )


def settle(write: Write, attempt: Row[Any], *, happened: bool) -> int:
    """Turn a reservation into an expense, or give it back; close the trial if that was its end.

    Args:
        write: the transaction that ends an attempt, after the step was changed.
        attempt: its row.
        happened: whether anything happened physically.

    Returns:
        The trial's number.
    """
    give_back(write, attempt.id, spent=happened)
    campaign, trial = current(write), write.row(tables.trial, attempt.trial_id)
    values = {"reserved_cost": campaign.reserved_cost - attempt.cost}
    if happened:
        values["spent_cost"] = campaign.spent_cost + attempt.cost
    charge = trial.charge
    if charge == "reserved":
        values["reserved_trials"] = campaign.reserved_trials - 1
        charge = "spent" if happened else "none"
        if happened:
            values["spent_trials"] = campaign.spent_trials + 1
    if any(mapping(campaign)[key] != value for key, value in values.items()):
        write.change(tables.campaign, campaign, **values)
    states = {one.state for one in steps_of(write, trial.id)}
    ended = write.now if states <= set(STEP_ENDED) else None
    if charge != trial.charge or ended is not None:
        write.change(tables.trial, trial, charge=charge, ended_at=ended)
    return int(trial.number)


def steps_of(write: Write, trial: int) -> Sequence[Row[Any]]:
    """Read the steps of a trial, in their order."""
    return write.connection.execute(statements.by(tables.step, "trial_id"), {"trial_id": trial}).all()
