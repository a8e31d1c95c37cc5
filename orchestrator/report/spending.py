"""What a campaign has used of its budgets, and at which fidelity."""

from __future__ import annotations

from typing import Any

from orchestrator.domain import TARGET
from orchestrator.record.states import TrialState
from orchestrator.report.facts import MICROSECONDS, Facts
from orchestrator.report.words import given, number, seconds

Cell = dict[str, Any]


def budgets(facts: Facts) -> list[Cell]:
    """Return the rows of the table of budgets: what is used, what is reserved, the cap, the share in percent."""
    spent, caps, info = facts.info.spent, facts.problem.budget, facts.info
    wanted = (
        ("trials", float(spent.trials), float(info.reserved_trials), caps.trials),
        ("hours", spent.hours, 0.0, caps.hours),
        ("cost", spent.cost, info.reserved_cost, caps.cost),
    )
    return [
        {
            "name": name,
            "spent": number(used, 3) if name == "hours" else given(used),
            "reserved": given(reserved) if reserved else "–",
            "cap": given(cap),
            "share": 0.0 if not cap else round(min(100.0, 100.0 * used / cap), 1),
        }
        for name, used, reserved, cap in wanted
        if cap is not None or (used > 0 and name == "cost")
    ]


def levels(facts: Facts) -> list[Cell]:
    """Return the rows of the table of fidelities, the target last: trials, cost and time; none with one level."""
    names = [level.name for level in facts.problem.fidelities]
    if len(names) == 1:
        return []
    rows = []
    for name in names:
        begun = [t for t in facts.trials.values() if t.fidelity == name and t.started_at is not None]
        ended = [t for t in begun if t.ended_at is not None]
        times = [(t.ended_at - t.started_at) / MICROSECONDS for t in ended if t.ended_at and t.started_at]
        rows.append(
            {
                "name": f"{name}, which counts" if name == TARGET else name,
                "trials": sum(t.state is TrialState.COMPLETED for t in begun),
                "failed": sum(t.state is TrialState.FAILED for t in begun),
                "cost": given(round(sum(step.cost for t in begun for step in t.steps), 6)),
                "time": seconds(sum(times)),
            }
        )
    return rows


def note(facts: Facts) -> str:
    """Say what trials cost beyond their procedure."""
    expenses = facts.problem.expenses
    parts = []
    if expenses.rates:
        parts.append(f"what is used of {_names(expenses.rates)}")
    if expenses.choices:
        parts.append(f"which {_names(expenses.choices)} is taken")
    if expenses.changeover:
        parts.append(f"every change of {_names(expenses.changeover)}")
    if not parts:
        return ""
    return f"The price of a trial counts {', '.join(parts)}; the policy weighs it against what a trial promises."


def _names(found: Any) -> str:
    return ", ".join(name.replace("_", " ") for name in found)
