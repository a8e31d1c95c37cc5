"""Windows, properties that are only to be learned, and trials that fail, as policies on pools count them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from orchestrator import plugins
from orchestrator.acquisition.gains import pursued
from orchestrator.acquisition.greedy import Greedy
from orchestrator.acquisition.improvement import LogExpectedImprovement
from orchestrator.acquisition.marginal import expected_improvement, log_gain, optimistic
from orchestrator.acquisition.policy import Policy, Situation
from orchestrator.domain import (
    Budget,
    Candidate,
    Constraint,
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

GAP = Objective("gap", "eV", "window", window=(1.5, 3.0))
YIELD = Objective("yield", "dimensionless", "maximize")
LOOKING = ("greedy", "log_expected_improvement", "thompson", "upper_confidence_bound")
"""Built-in policies that look for the best with any surrogate."""


def at(x: float, **more: Any) -> Candidate:
    """Make a candidate at one place."""
    return Candidate.make(label=f"{x:g}", parameters={"x": round(x, 4), **more})


LINE = [at(x) for x in np.linspace(0, 1, 41)]


def learned(
    candidates: Sequence[Candidate],
    functions: dict[str, Callable[[float], float]],
    problem: Problem,
    fails: Callable[[float], bool] = lambda _: False,
) -> tuple[GaussianProcess, Dataset]:
    """Measure candidates and train on them."""
    rows: list[Row] = []
    for trial, candidate in enumerate(candidates, 1):
        x = float(candidate.parameters["x"])
        if fails(x):
            rows.append(Row(trial, candidate, {}, "", None, None, Outcome.FAILED, reason="it burned"))
            continue
        for j, (name, function) in enumerate(functions.items()):
            rows.append(Row(trial, candidate, {}, name, function(x), None, Outcome.MEASURED, measurement=9 * trial + j))
    data = Dataset(tuple(rows))
    surrogate = GaussianProcess()
    surrogate.fit(data, problem, 0)
    return surrogate, data


def choose(  # noqa: PLR0917  the arguments of `select` that these tests vary
    policy: Policy, surrogate: GaussianProcess, data: Dataset, problem: Problem, pool: Sequence[Candidate], q: int = 3
) -> tuple[Proposal, ...]:
    """Call `select` with the rest filled in."""
    return policy.select(
        surrogate,
        ListSpace(pool),
        q=q,
        problem=problem,
        dataset=data,
        pending=(),
        closed=frozenset(),
        costs={"target": 1.0},
        seed=1,
    )


# --- windows ------------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(st.floats(-1, 5), st.floats(0.05, 2), st.floats(-2, -0.01))
def test_expected_improvement_into_a_window_agrees_with_integration(mean: float, sd: float, best: float) -> None:
    """The trapezium formula equals the integral of the improvement over the normal density."""
    y = np.linspace(mean - 8 * sd, mean + 8 * sd, 40_001)
    gain = np.maximum(GAP.utility(y) - best, 0.0)
    integral = float(np.trapezoid(gain * norm.pdf(y, mean, sd), y))
    value = float(expected_improvement(GAP, np.array([mean]), np.array([sd]), best)[0])
    assert value == pytest.approx(integral, rel=1e-4, abs=1e-9)


def test_what_is_already_reached_is_ranked_by_the_probability_to_lie_inside() -> None:
    """With a point inside nothing is better, and P(inside) ranks; far outside the order is by nearness, and finite."""
    mean, sd = np.array([2.2, 1.4, 3.9, 40.0, 400.0]), np.array([0.5, 0.5, 0.5, 0.5, 0.5])
    inside = log_gain(GAP, mean, sd, 0.0)
    assert np.exp(inside[:3]) == pytest.approx(norm.cdf((3 - mean[:3]) / sd[:3]) - norm.cdf((1.5 - mean[:3]) / sd[:3]))
    for best in (0.0, -0.5, -30.0):
        scores = log_gain(GAP, mean, sd, best)
        assert np.isfinite(scores).all()
        assert (np.diff(scores[[0, 1, 2, 3, 4]]) <= 0).all()
        assert scores[4] < scores[3] < scores[2]


def test_hopes_for_a_window_end_at_the_window() -> None:
    """Within one standard deviation the best utility is 0 where the window is reached, else the distance left."""
    problem = Problem((GAP,))
    prediction = Prediction(np.array([[2.0], [1.2], [4.0]]), np.full((3, 1), 0.5), np.zeros((3, 1)))
    situation = Situation(None, ListSpace(LINE), 1, problem, Dataset(), (), frozenset())
    assert optimistic(situation, prediction, 1.0)[:, 0] == pytest.approx([0.0, 0.0, -0.5])


@pytest.mark.parametrize("name", LOOKING)
def test_a_window_is_hit(name: str) -> None:
    """Every looking policy proposes candidates whose value lies inside the window, also after one was found."""
    problem = Problem((GAP,))

    def gap(x: float) -> float:
        return 6.0 * x  # inside from x = 0.25 to 0.5

    for measured in (LINE[::8], LINE[::5]):  # the second holds a point inside
        surrogate, data = learned(measured, {"gap": gap}, problem)
        made = choose(plugins.build("acquisition", name, {}), surrogate, data, problem, LINE, q=4)
        assert all(1.4 <= gap(float(p.candidate.parameters["x"])) <= 3.1 for p in made), name


def test_a_window_and_another_goal_together() -> None:
    """With two objectives the batch has points inside the window and does not chase values beyond it."""
    problem = Problem((GAP, YIELD))
    functions = {"gap": lambda x: 6.0 * x, "yield": lambda x: x}
    surrogate, data = learned(LINE[::8], functions, problem)
    made = choose(LogExpectedImprovement(), surrogate, data, problem, LINE, q=4)
    xs = [float(p.candidate.parameters["x"]) for p in made]
    assert any(0.25 <= x <= 0.5 for x in xs)
    assert min(xs) > 0.2  # less yield and a gap too small: dominated


# --- only to be learned -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LOOKING)
def test_what_is_only_to_be_learned_does_not_rank(name: str) -> None:
    """A further objective with the goal to learn changes no choice; with nothing else the policies refuse."""
    curious = Objective("colour", "dimensionless", "learn")
    problem = Problem((YIELD,))
    both = Problem((YIELD, curious))
    assert pursued(both) == (YIELD,)
    functions = {"yield": lambda x: -((x - 0.6) ** 2), "colour": lambda x: math.sin(9 * x)}
    policy = plugins.build("acquisition", name, {})
    surrogate, data = learned(LINE[::8], functions, both)
    made = choose(policy, surrogate, data, both, LINE)
    assert np.median([abs(float(p.candidate.parameters["x"]) - 0.6) for p in made]) < 0.2
    if name in {"greedy", "log_expected_improvement"}:
        alone, less = learned(LINE[::8], {"yield": functions["yield"]}, problem)
        assert made[0].candidate.id == choose(policy, alone, less, problem, LINE)[0].candidate.id
    only = Problem((curious,))
    surrogate, data = learned(LINE[::8], {"colour": functions["colour"]}, only)
    with pytest.raises(IncompatibleError, match="integrated_variance"):
        choose(policy, surrogate, data, only, LINE)


# --- trials that fail ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LOOKING)
def test_where_trials_fail_less_is_proposed(name: str) -> None:
    """The best yield lies where every trial fails: policies rather stay out of there, unless told to ignore it."""
    problem = Problem((YIELD,))
    surrogate, data = learned(LINE[::2], {"yield": lambda x: -((x - 0.75) ** 2)}, problem, fails=lambda x: x > 0.55)
    made = choose(plugins.build("acquisition", name, {}), surrogate, data, problem, LINE)
    blind = choose(plugins.build("acquisition", name, {"feasibility": False}), surrogate, data, problem, LINE)
    careful, careless = (surrogate.success([p.candidate for p in batch]) for batch in (made, blind))
    assert careful.mean() > 1.5 * careless.mean()
    assert max(float(p.candidate.parameters["x"]) for p in blind) > 0.66
    assert [p.details["probability_of_success"] for p in made] == pytest.approx(list(careful))
    assert all("probability_of_success" not in p.details for p in blind)


def test_constraints_and_failures_count_together() -> None:
    """A constraint closes the left, failures close the right: greedy stays between."""
    problem = Problem(
        (Objective("yield", "dimensionless", "minimize"),), (Constraint("load", "dimensionless", low=0.3),)
    )
    functions = {"yield": lambda x: (x - 0.1) ** 2, "load": lambda x: x}
    surrogate, data = learned(LINE[::3], functions, problem, fails=lambda x: x > 0.8)
    made = choose(Greedy(), surrogate, data, problem, LINE)
    assert all(0.27 <= float(p.candidate.parameters["x"]) <= 0.5 for p in made)


# --- trials that cost ---------------------------------------------------------------------------------------------


def priced(**expenses: Any) -> Problem:
    """Make a problem with a price of one a trial, besides what candidates add."""
    return Problem(
        (YIELD,), fidelities=(Fidelity("target", 1.0, 0.0),), budget=Budget(cost=1e9), expenses=Expenses(**expenses)
    )


BOTH = [at(x, solvent=name) for x in np.linspace(0, 1, 21) for name in ("water", "dmf")]


def test_prices_change_choices() -> None:
    """With equal yields the cheap solvent is bought; where the prices are exchanged, the other one."""
    for cheap, dear in (("water", "dmf"), ("dmf", "water")):
        problem = priced(choices={"solvent": {dear: Expense(cost=50.0)}})
        surrogate, data = learned(BOTH[::8] + BOTH[1::8], {"yield": lambda x: -((x - 0.5) ** 2)}, problem)
        made = choose(LogExpectedImprovement(), surrogate, data, problem, BOTH, q=2)
        assert [p.candidate.parameters["solvent"] for p in made] == [cheap] * 2
        assert all(p.details["expense"] == {"cost": 1.0, "hours": 0.0} for p in made)


def test_a_batch_is_ordered_by_change_over() -> None:
    """A dear change-over keeps the batch with what is set up, and counts from the pick before."""
    problem = priced(changeover={"solvent": Expense(cost=1e6)})
    for last in ("water", "dmf"):
        measured = [c for c in BOTH[::8] + BOTH[1::8] if c.parameters["solvent"] != last]
        measured += [c for c in BOTH[::8] + BOTH[1::8] if c.parameters["solvent"] == last]
        surrogate, data = learned(measured, {"yield": lambda x: -((x - 0.5) ** 2)}, problem)
        made = choose(LogExpectedImprovement(), surrogate, data, problem, BOTH, q=3)
        assert [p.candidate.parameters["solvent"] for p in made] == [last] * 3


@pytest.mark.parametrize("name", LOOKING)
def test_what_is_only_to_be_learned_does_not_rank_in_a_box(name: str) -> None:
    """The same with gradients: of a yield and a colour to be learned, only the yield draws the search."""
    box = plugins.build("spaces", "box", {"parameters": {"x": {"min": 0, "max": 1}}})
    curious = Objective("colour", "dimensionless", "learn")
    functions = {"yield": lambda x: -((x - 0.6) ** 2), "colour": lambda x: math.sin(9 * x)}
    problem = Problem((YIELD, curious))
    surrogate, data = learned(LINE[::8], functions, problem)
    policy = plugins.build("acquisition", name, {"samples": 64})
    made = policy.select(
        surrogate, box, q=2, problem=problem, dataset=data, pending=(), closed=frozenset(), costs={}, seed=1
    )
    assert all(abs(float(p.candidate.parameters["x"]) - 0.6) < 0.25 for p in made)


@pytest.mark.parametrize("q", [1, 2])
def test_a_window_that_is_reached_promises_no_improvement(q: int) -> None:
    """Every measured gap lies inside: the next one is hoped to lie inside too, and the sentence says just that."""
    problem = Problem((GAP,))
    surrogate, data = learned(LINE[12:20:2], {"gap": lambda x: 6.0 * x}, problem)
    for proposal in choose(LogExpectedImprovement(), surrogate, data, problem, LINE, q=q):
        assert "inside the window, which is reached already, with probability" in proposal.reason
        assert proposal.details["expected_gain"] == 0.0
