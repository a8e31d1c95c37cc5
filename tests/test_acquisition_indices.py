"""Pandora's box and the probability of optimality: the numbers they choose by."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from orchestrator import plugins
from orchestrator.acquisition.draws import Draws
from orchestrator.acquisition.gains import Front
from orchestrator.acquisition.marginal import expected_improvement
from orchestrator.acquisition.optimality import most_often_best
from orchestrator.acquisition.pandora import PandoraOptions, PandorasBox, gain_per_expense, indices, standing
from orchestrator.acquisition.situation import Situation, predict
from orchestrator.domain import (
    Budget,
    Candidate,
    Dataset,
    Expense,
    Expenses,
    Fidelity,
    Objective,
    Outcome,
    Prediction,
    Problem,
    Proposal,
    Row,
)
from orchestrator.errors import IncompatibleError
from orchestrator.surrogates.gaussian_process import GaussianProcess
from tests.fakes import ListSpace

GOALS = (
    Objective("p", "eV", "maximize"),
    Objective("p", "eV", "minimize"),
    Objective("p", "eV", "target", target=0.3),
    Objective("p", "eV", "window", window=(0.2, 0.6)),
)


def at(x: float, **more: Any) -> Candidate:
    """Make a candidate at one place."""
    return Candidate.make(label=f"{x:g}", parameters={"x": round(float(x), 4), **more})


LINE = [at(x) for x in np.linspace(0, 1, 41)]


def measured(candidates: Sequence[Candidate], values: Sequence[float]) -> Dataset:
    """Make a dataset."""
    rows = [
        Row(i, c, {}, "p", float(v), None, Outcome.MEASURED, measurement=i)
        for i, (c, v) in enumerate(zip(candidates, values, strict=True), 1)
    ]
    return Dataset(tuple(rows))


def situation(problem: Problem, surrogate: Any = None, data: Dataset | None = None) -> Situation:
    """Make a situation over the line."""
    return Situation(surrogate, ListSpace(LINE), 1, problem, data or Dataset(), (), frozenset())


def choose(policy: Any, surrogate: Any, data: Dataset, problem: Problem, pool: Sequence[Candidate], q: int = 1) -> Any:  # noqa: PLR0917  the arguments of `select` that these tests vary
    """Call `select` with the rest filled in."""
    made: tuple[Proposal, ...] = policy.select(
        surrogate,
        ListSpace(pool),
        q=q,
        problem=problem,
        dataset=data,
        pending=(),
        closed=frozenset(),
        costs={},
        seed=1,
    )
    return made


@pytest.mark.parametrize("objective", GOALS, ids=lambda o: o.goal)
def test_at_its_index_a_trial_gains_just_what_it_costs(objective: Objective) -> None:
    """The expected improvement over the index is the price, over many orders of magnitude of the price."""
    problem = Problem((objective,))
    mean = np.array([[0.0], [0.4], [1.0], [0.4], [-3.0]])
    sd = np.array([[0.1], [0.5], [0.2], [1e-6], [2.0]])
    prediction = Prediction(mean, sd, np.zeros_like(mean))
    for price in (1e-6, 1e-3, 0.1, 5.0):
        worth = np.full(5, price)
        index = indices(situation(problem), LINE[:5], prediction, worth)
        gain = expected_improvement(objective, mean[:, 0], sd[:, 0], index)
        assert gain == pytest.approx(worth, rel=1e-4, abs=1e-12)


def test_the_dearer_the_lower_and_the_less_known_the_higher() -> None:
    """An index falls with the price and rises with the standard deviation."""
    problem = Problem((GOALS[0],))
    prediction = Prediction(np.zeros((3, 1)), np.array([[0.1], [0.2], [0.4]]), np.zeros((3, 1)))
    cheap = indices(situation(problem), LINE[:3], prediction, np.full(3, 0.01))
    dear = indices(situation(problem), LINE[:3], prediction, np.full(3, 0.1))
    assert (dear < cheap).all()
    assert (np.diff(cheap) > 0).all()


def learned(problem: Problem, pool: Sequence[Candidate], values: Sequence[float]) -> tuple[GaussianProcess, Dataset]:
    """Train on measured candidates."""
    data = measured(pool, values)
    surrogate = GaussianProcess()
    surrogate.fit(data, problem, 0)
    return surrogate, data


def test_worth_is_halved_until_something_is_worth_its_expense() -> None:
    """Where nothing gains a tenth of the spread, the worth of a trial falls by halves, no further than needed."""
    problem = Problem((GOALS[0],))
    surrogate, data = learned(problem, LINE[::5], [math.sin(3 * float(c.parameters["x"])) for c in LINE[::5]])
    made = choose(PandorasBox(), surrogate, data, problem, LINE)[0]
    here = situation(problem, surrogate, data)
    reached, spread = standing(here)
    known = {row.candidate.id for row in data.rows}
    left = [c for c in LINE if c.id not in known]
    best = gain_per_expense(here, left, predict(surrogate, left), reached).max()
    unit = made.details["worth_of_a_plain_trial"]
    assert unit <= best < 2 * unit
    assert math.log2(0.1 * spread / unit) == pytest.approx(round(math.log2(0.1 * spread / unit)))
    steady = choose(PandorasBox(PandoraOptions(halve=False)), surrogate, data, problem, LINE)[0]
    assert steady.details["worth_of_a_plain_trial"] == pytest.approx(0.1 * spread)


def test_prices_change_what_pandora_opens() -> None:
    """Of two equally good solvents the cheap one is opened, whichever that is; the batch stays with what is set up."""
    pool = [at(x, solvent=name) for x in np.linspace(0, 1, 21) for name in ("water", "dmf")]
    seen = pool[::8] + pool[1::8]
    values = [-((float(c.parameters["x"]) - 0.5) ** 2) for c in seen]
    level = (Fidelity("target", 1.0, 0.0),)
    for cheap, dear in (("water", "dmf"), ("dmf", "water")):
        expenses = Expenses(choices={"solvent": {dear: Expense(cost=50.0)}})
        problem = Problem((GOALS[0],), fidelities=level, budget=Budget(cost=1e6), expenses=expenses)
        surrogate, data = learned(problem, seen, values)
        made = choose(PandorasBox(), surrogate, data, problem, pool, 2)
        assert [p.candidate.parameters["solvent"] for p in made] == [cheap] * 2
    for last in ("water", "dmf"):
        order = sorted(range(len(seen)), key=lambda i: seen[i].parameters["solvent"] == last)
        expenses = Expenses(changeover={"solvent": Expense(cost=1e5)})
        problem = Problem((GOALS[0],), fidelities=level, budget=Budget(cost=1e6), expenses=expenses)
        surrogate, data = learned(problem, [seen[i] for i in order], [values[i] for i in order])
        made = choose(PandorasBox(), surrogate, data, problem, pool, 3)
        assert [p.candidate.parameters["solvent"] for p in made] == [last] * 3


def test_pandora_refuses_several_objectives() -> None:
    """It names what to use instead."""
    problem = Problem((GOALS[0], Objective("r", "eV", "minimize")))
    with pytest.raises(IncompatibleError, match="log_expected_improvement"):
        choose(PandorasBox(), GaussianProcess(), Dataset(), problem, LINE)


def test_the_share_of_draws_in_which_a_candidate_is_best() -> None:
    """Infeasible values never count, ties share a draw, and a draw without a feasible candidate counts for none."""
    values = np.array([[1.0, 2.0, 3.0], [5.0, 2.0, 3.0], [4.0, 4.0, 0.0], [1.0, 2.0, 3.0]])[..., None]
    allowed = np.array([[True, True, False], [True, True, True], [True, True, True], [False, False, False]])
    front = Front(np.zeros((4, 0, 1)), np.zeros((4, 0), dtype=bool), np.zeros(1), np.zeros(4))
    drawn = Draws(values, allowed, front, np.zeros((4, 0, 1)), 1.0, values, Problem((GOALS[0],)))
    assert most_often_best(drawn) == pytest.approx([1.5 / 4, 1.5 / 4, 0.0])


def test_the_most_probable_optimum_is_proposed_first() -> None:
    """Shares are probabilities, largest first, and the batch holds the maximum of the mean."""
    problem = Problem((GOALS[0],))
    surrogate, data = learned(problem, LINE[::8], [math.sin(3 * float(c.parameters["x"])) for c in LINE[::8]])
    policy = plugins.build("acquisition", "probability_of_optimality", {})
    made = choose(policy, surrogate, data, problem, LINE, 6)
    shares = [p.details["probability_of_optimality"] for p in made]
    assert shares == sorted(shares, reverse=True)
    assert 0.5 < sum(shares) <= 1.0 + 1e-9
    known = {row.candidate.id for row in data.rows}
    left = [c for c in LINE if c.id not in known]
    best = left[int(np.argmax(surrogate.predict(left).mean[:, 0]))]
    assert best.id in {p.candidate.id for p in made}
