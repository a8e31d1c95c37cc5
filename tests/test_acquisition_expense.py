"""What trials cost, and how likely they are to fail, as policies count it."""

from __future__ import annotations

import math
import pickle
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from orchestrator.acquisition.expense import PerExpense
from orchestrator.acquisition.situation import NonFiniteValues, Situation
from orchestrator.domain import (
    Array,
    Budget,
    Candidate,
    Dataset,
    Expense,
    Expenses,
    Fidelity,
    Objective,
    Outcome,
    Problem,
    Row,
    frozen,
)

BRIGHTNESS = Objective("brightness", "dimensionless", "maximize")


def made(solvent: str, amount: float = 1.0) -> Candidate:
    """Make a candidate with a solvent and an amount."""
    return Candidate.make(label=f"{solvent} {amount:g}", parameters={"solvent": solvent, "amount": amount})


def rows(candidates: Sequence[Candidate]) -> Dataset:
    """Make a dataset of measured candidates."""
    return Dataset(
        tuple(
            Row(i, c, {}, "brightness", 1.0, None, Outcome.MEASURED, measurement=i) for i, c in enumerate(candidates, 1)
        )
    )


def priced(budget: Budget, cost: float = 1.0, hours: float = 0.5, **expenses: Any) -> Problem:
    """Make a problem whose plain trial has a price and a duration."""
    return Problem(
        (BRIGHTNESS,), fidelities=(Fidelity("target", cost, hours),), budget=budget, expenses=Expenses(**expenses)
    )


def situation(problem: Problem, data: Dataset, pending: Sequence[Candidate] = (), **changes: Any) -> Situation:
    """Make a situation without a surrogate."""
    return Situation(None, Nowhere(), 1, problem, data, tuple(pending), frozenset(), **changes)


class Nowhere:
    """A space that nothing is asked of."""

    def offers(self) -> frozenset[Any]:
        return frozenset({"parameters"})

    def sample(self, n: int, seed: int) -> list[Candidate]:
        raise NotImplementedError

    def summary(self) -> dict[str, Any]:
        return {}


CHOICES = {"solvent": {"water": Expense(), "dmf": Expense(cost=9.0), "nmp": Expense(hours=4.5)}}


def test_expense_is_the_share_of_the_budget() -> None:
    """Price and hours and trials are added as shares of their caps; a plain trial has logarithm zero."""
    candidates = [made("water"), made("dmf"), made("nmp")]
    data = Dataset()
    trials_and_cost = situation(priced(Budget(trials=100, cost=100.0), choices=CHOICES), data)
    assert trials_and_cost.log_expense(candidates) == pytest.approx(np.log([1.0, 11 / 2, 1.0]))
    both = situation(priced(Budget(cost=100.0, hours=50.0), choices=CHOICES), data)
    assert both.log_expense(candidates) == pytest.approx(np.log([1.0, 11 / 2, 11 / 2]))
    only_trials = situation(priced(Budget(trials=10), choices=CHOICES), data)
    assert only_trials.log_expense(candidates) == pytest.approx(np.log([1.0, 10.0, 1.0]))
    timed = {"solvent": {"nmp": Expense(hours=4.5)}}
    only_hours = situation(priced(Budget(trials=10), choices=timed), data)
    assert only_hours.log_expense(candidates) == pytest.approx(np.log([1.0, 1.0, 10.0]))


def test_the_expense_of_a_candidate_does_not_depend_on_the_others() -> None:
    """Asked alone or together, a candidate has the same number; without expenses it is zero."""
    candidates = [made("water"), made("dmf"), made("nmp")]
    one = situation(priced(Budget(cost=100.0), choices=CHOICES), Dataset())
    together = one.log_expense(candidates)
    assert [float(one.log_expense([c])[0]) for c in candidates] == list(together)
    plain = situation(priced(Budget(cost=100.0)), Dataset())
    assert not plain.log_expense(candidates).any()
    assert not plain.price(candidates).any()


def test_a_free_trial_is_finite() -> None:
    """Nothing is infinitely cheap, whether the plain trial costs something or not."""
    problem = priced(Budget(cost=10.0), cost=0.0, hours=0.0, choices=CHOICES)
    found = situation(problem, Dataset()).log_expense([made("water"), made("dmf")])
    assert np.isfinite(found).all()
    assert found[0] < found[1]


def test_a_change_over_counts_from_what_was_set_up_last() -> None:
    """The last pending candidate, else that of the newest trial; none at the start costs nothing."""
    problem = priced(Budget(cost=100.0), changeover={"solvent": Expense(cost=9.0)})
    water, dmf = made("water"), made("dmf", 2.0)
    assert situation(problem, Dataset()).before is None
    assert not situation(problem, Dataset()).log_expense([water, dmf]).any()
    measured = situation(problem, rows([dmf, made("water", 3.0)]))
    assert measured.log_expense([water, dmf]) == pytest.approx([0.0, math.log(10)])
    waiting = situation(problem, rows([water]), pending=[water, made("dmf", 5.0)])
    assert waiting.log_expense([water, dmf]) == pytest.approx([math.log(10), 0.0])
    assert waiting.log_expense([water, dmf], before=water) == pytest.approx([0.0, math.log(10)])


def test_expense_counts_less_as_the_budget_is_used_up() -> None:
    """The price falls linearly with what is used of the nearest cap; without annealing it stays; alpha 0 is off."""
    candidates = [made("water"), made("dmf")]
    problem = priced(Budget(cost=20.0, trials=100), choices=CHOICES)
    full = situation(problem, Dataset()).price(candidates)[1]
    half = situation(problem, rows([made("dmf")]))
    assert half.used == pytest.approx(0.5)
    assert half.price(candidates)[1] == pytest.approx(full / 2)
    over = situation(problem, rows([made("dmf")]), pending=[made("dmf"), made("dmf", 2.0)])
    assert over.used == 1.0
    assert not over.price(candidates).any()
    steady = situation(problem, rows([made("dmf")]), per_expense=PerExpense(anneal=False))
    assert steady.price(candidates)[1] == pytest.approx(full)
    assert not situation(problem, Dataset(), per_expense=PerExpense(alpha=0.0)).price(candidates).any()


class Fails:
    """A surrogate that only knows how likely success is."""

    def __init__(self, odds: Sequence[float]) -> None:
        self.odds = np.array(odds)

    def supports(self) -> frozenset[Any]:
        return frozenset({"parameters", "feasibility"})

    def success(self, candidates: Sequence[Candidate]) -> Array:
        return self.odds[: len(candidates)]


def test_success_is_learned_from_failures_only() -> None:
    """Zero logarithms before the first failure, where the option is off, or where the surrogate cannot tell."""
    problem = priced(Budget(trials=10))
    pool = [made("water"), made("dmf"), made("nmp")]
    failed = Dataset((Row(1, made("water", 7.0), {}, "", None, None, Outcome.FAILED),))
    surrogate: Any = Fails([0.5, 1.0, 0.0])

    def odds(data: Dataset, who: Any = surrogate, **changes: Any) -> Array:
        return Situation(who, Nowhere(), 1, problem, data, (), frozenset(), **changes).log_success(pool)

    assert not odds(Dataset()).any()
    assert not odds(failed, None).any()
    assert not odds(failed, feasibility=False).any()
    found = odds(failed)
    assert found[:2] == pytest.approx([math.log(0.5), 0.0])
    assert -1000 < found[2] < -600
    with pytest.raises(NonFiniteValues, match="success"):
        odds(failed, Fails([math.nan, 1.0, 1.0]))


def test_a_problem_with_expenses_travels_to_another_process() -> None:
    """Screening hands the problem to its workers; what comes out there is equal and as read-only."""
    rinse = Expense(20.0, 2.0)
    expenses = Expenses(
        rates=frozen({"time": Expense(hours=1.0)}),
        choices=frozen({"solvent": frozen({"water": Expense(1.0)})}),
        changeover=frozen({"solvent": rinse}),
    )
    problem = Problem((Objective("y", "eV", "minimize"),), expenses=expenses)
    arrived = pickle.loads(pickle.dumps(problem))  # noqa: S301  our own bytes, as multiprocessing sends them
    assert arrived == problem
    with pytest.raises(TypeError):
        arrived.expenses.changeover["solvent"] = Expense()
