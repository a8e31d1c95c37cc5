"""What a candidate costs, in shares of the budget, and how much that counts: expected improvement per expense.

A candidate's score is lowered by `alpha` times the logarithm of its expense, so that with `alpha` 1 the improvement
per expense is compared (Snoek, Larochelle, Adams, NeurIPS 2012, arXiv:1206.2944). Improvement per expense over-favours
what is cheap; `alpha` therefore falls to zero as the budget is used up (Lee, Perrone, Archambeau, Seeger, 2020,
arXiv:2003.10870).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from pydantic import Field

from orchestrator.domain import TARGET, Array, Candidate, Dataset, Expense, Problem
from orchestrator.protocols import Options

CHEAPEST = 1e-3
"""Expenses count as at least this share of a plain trial: what is free would otherwise win whatever it promises."""


class PerExpense(Options):
    """How much a candidate's price and duration count. Nothing counts where the problem names no ``expenses``.

    Args:
        alpha: 1 compares improvement per expense, 0 ignores expense.
        anneal: let `alpha` fall linearly to 0 as the budget is used up.
    """

    alpha: float = Field(default=1.0, ge=0.0, le=4.0)
    anneal: bool = True


def share(problem: Problem, expense: Expense) -> float:
    """Return the share of the budget that one trial uses.

    Shares of the price, the hours and the number of trials are added, each where it has a cap. Without a cap on price
    or hours: the price itself, or the hours where nothing has a price.

    Args:
        problem: gives the budget.
        expense: of one trial.
    """
    budget = problem.budget
    if budget.cost is None and budget.hours is None:
        return expense.cost if _has_price(problem) else expense.hours
    parts = 0.0 if budget.trials is None else 1.0 / budget.trials
    if budget.cost is not None:
        parts += expense.cost / budget.cost
    if budget.hours is not None:
        parts += expense.hours / budget.hours
    return parts


def log_expense(
    problem: Problem, candidates: Sequence[Candidate], before: Candidate | None, fidelity: str = TARGET
) -> Array:
    """Return the logarithm of what each candidate's trial uses of the budget, against a plain trial, n.

    A plain trial is one at the target fidelity to which the candidate adds nothing: the number of a candidate never
    depends on which others are asked for.

    Args:
        problem: gives expenses and budget.
        candidates: n.
        before: what the instruments were set up for last; None costs no change-over.
        fidelity: at which level they would be measured.

    Returns:
        Zeros where the problem names no expenses.
    """
    if not problem.expenses:
        return np.zeros(len(candidates))
    level = problem.fidelity(TARGET)
    plain = share(problem, Expense(level.cost, level.hours)) or 1.0
    shares = np.array([share(problem, problem.expense(c, fidelity, before)) for c in candidates], dtype=np.float64)
    return np.asarray(np.log(np.maximum(shares / plain, CHEAPEST)), dtype=np.float64)


def used(problem: Problem, dataset: Dataset, pending: Iterable[Candidate] = ()) -> float:
    """Return the used share of the budget, between 0 and 1: of whichever cap is nearest.

    Args:
        problem: gives expenses and budget.
        dataset: its trials count with what the problem says they cost, in the order of their numbers.
        pending: trials in flight, at the target fidelity.
    """
    trials: dict[int, tuple[Candidate, str]] = {row.trial: (row.candidate, row.fidelity) for row in dataset.rows}
    levels = {one.name for one in problem.fidelities}
    total, count, before = Expense(), 0, None
    for candidate, fidelity in [*trials.values(), *((c, TARGET) for c in pending)]:
        total += problem.expense(candidate, fidelity if fidelity in levels else TARGET, before)
        count, before = count + 1, candidate
    budget = problem.budget
    caps = ((count, budget.trials), (total.cost, budget.cost), (total.hours, budget.hours))
    return min(max((amount / cap for amount, cap in caps if cap is not None), default=0.0), 1.0)


def _has_price(problem: Problem) -> bool:
    expenses = problem.expenses
    added = [*expenses.rates.values(), *expenses.changeover.values()]
    added += [one for by_choice in expenses.choices.values() for one in by_choice.values()]
    return any(one.cost > 0 for one in added)
