"""The fidelity of a trial: the cheapest that is worth its price, a gate that says why not, visits of the target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from orchestrator.acquisition.fidelity_choice import FidelityChoice, FidelityChoiceOptions, rank_correlation
from orchestrator.domain import (
    TARGET,
    Array,
    Budget,
    Candidate,
    Dataset,
    Fidelity,
    Objective,
    Outcome,
    Problem,
    Row,
    closed_at,
)
from orchestrator.spaces.box import Box
from orchestrator.surrogates.fidelity import FidelityOptions, MultiFidelity

SPACE = Box(Box.Options.model_validate({"parameters": {"x": {"min": 0, "max": 1, "resolution": 0.001}}}))
HUNDRED, NOTHING = Budget(trials=100), Dataset()


class Told:
    """A surrogate that says how much a cheap result tells, and nothing else."""

    def __init__(self, share: float) -> None:
        self.share = share

    def informs(self, candidates: Sequence[Candidate], fidelities: Sequence[str]) -> Array:
        return np.full((len(candidates), len(fidelities)), self.share)


def problem(cheap: float = 1.0, full: float = 10.0, budget: Budget = HUNDRED) -> Problem:
    """Return a problem with one fidelity below the target."""
    levels = (Fidelity("quick", cheap), Fidelity(TARGET, full))
    return Problem((Objective("y", "dimensionless", "maximize"),), fidelities=levels, budget=budget)


def at(x: float) -> Candidate:
    """Return a point of the box."""
    return SPACE.make({"x": x})


def rows(points: Sequence[float], values: Sequence[float], fidelity: str, first: int) -> list[Row]:
    """Return measured rows with trial numbers from `first` on."""
    return [
        Row(first + i, at(x), {}, "y", float(y), None, Outcome.MEASURED, fidelity=fidelity, measurement=first + i)
        for i, (x, y) in enumerate(zip(points, values, strict=True))
    ]


def choose(share: float, what: Problem, dataset: Dataset = NOTHING, **more: Any) -> tuple[str, str]:
    """Return fidelity and reason of one pick at random."""
    policy = FidelityChoice(FidelityChoiceOptions.model_validate({"choose": "random", **more.pop("options", {})}))
    given = {"q": 1, "pending": (), "closed": frozenset(), "seed": 1, **more}
    costs = {one.name: one.cost for one in what.fidelities}
    (pick,) = policy.select(Told(share), SPACE, problem=what, dataset=dataset, costs=costs, **given)  # type: ignore[arg-type]
    return pick.fidelity, pick.reason


def test_changing_costs_changes_the_choice() -> None:
    """A cheap result that removes a third of the variance is bought at a tenth of the price, not at four tenths."""
    assert choose(0.33, problem(1.0))[0] == "quick"
    fidelity, reason = choose(0.33, problem(4.0))
    assert fidelity == TARGET
    assert "nothing cheaper tells as much per cost" in reason
    fidelity, reason = choose(0.9, problem(8.0))
    assert fidelity == TARGET
    assert "quick costs 8, more than 0.5 of the target's 10" in reason


def test_of_two_fidelities_the_one_that_tells_more_per_cost() -> None:
    """Between two that tell the same the cheaper one is taken."""
    levels = (Fidelity("rough", 2.0), Fidelity("quick", 1.0), Fidelity(TARGET, 10.0))
    assert choose(0.5, replace(problem(), fidelities=levels))[0] == "quick"


def test_a_fidelity_that_does_not_inform_is_left_aside_and_the_reason_says_so() -> None:
    """Nothing by held-out labels, too little, and a low rank correlation on shared candidates each close the gate."""
    fidelity, reason = choose(0.0, problem())
    assert (fidelity, "held-out labels do not show that quick" in reason) == (TARGET, True)
    fidelity, reason = choose(0.05, problem())
    assert (fidelity, "5% of the target's variance" in reason) == (TARGET, True)
    points, high = [0.1, 0.3, 0.5, 0.7, 0.9, 0.95], [1, 2, 3, 4, 5, 6]
    unrelated = Dataset((*rows(points, [3, 1, 6, 2, 4, 3.5], "quick", 1), *rows(points, high, TARGET, 11)))
    related = Dataset((*rows(points, [-1, -2, -3, -4, -5, -6], "quick", 1), *rows(points, high, TARGET, 11)))
    fidelity, reason = choose(0.9, problem(), unrelated)
    assert fidelity == TARGET
    assert "quick does not inform: rank correlation" in reason
    assert rank_correlation(related, problem(), "quick") == (pytest.approx(-1.0), 6)
    assert choose(0.9, problem(), related)[0] == "quick"


def test_the_target_is_visited() -> None:
    """After three cheap picks the fourth goes to the target, those in flight counted; a batch keeps to it too."""
    done = Dataset(tuple(rows([0.1, 0.2], [1, 2], "quick", 1)))
    assert choose(0.9, problem(), done)[0] == "quick"
    flying = at(0.3)
    closed = frozenset({closed_at(one.id, "quick") for one in (at(0.1), at(0.2), flying)})
    fidelity, reason = choose(0.9, problem(), done, pending=(flying,), closed=closed)
    assert (fidelity, "every 4. pick" in reason) == (TARGET, True)
    since = Dataset((*done.rows, *rows([0.6], [3], TARGET, 3)))
    assert choose(0.9, problem(), since)[0] == "quick"
    policy = FidelityChoice(FidelityChoiceOptions(choose={"use": "random"}, target_every=3))  # type: ignore[arg-type]
    picks = policy.select(
        Told(0.9),  # type: ignore[arg-type]
        SPACE,
        q=6,
        problem=problem(),
        dataset=Dataset(),
        pending=(),
        closed=frozenset(),
        costs={"quick": 1.0, TARGET: 10.0},
        seed=0,
    )
    assert [pick.fidelity for pick in picks] == ["quick", "quick", TARGET] * 2


def test_the_end_of_the_budget_belongs_to_the_target() -> None:
    """With four fifths of trials or money gone only the target is measured; earlier campaigns cost nothing."""
    done = rows([0.1, 0.2, 0.3, 0.4], [1, 2, 3, 4], TARGET, 1)
    assert choose(0.9, problem(budget=Budget(trials=5)), Dataset(tuple(done)))[0] == TARGET
    assert choose(0.9, problem(budget=Budget(trials=6)), Dataset(tuple(done)))[0] == "quick"
    assert choose(0.9, problem(budget=Budget(cost=50)), Dataset(tuple(done)))[0] == TARGET
    assert choose(0.9, problem(budget=Budget(cost=51)), Dataset(tuple(done)))[0] == "quick"
    elsewhere = Dataset(tuple(replace(row, fidelity="earlier:other", trial=-row.trial) for row in done))
    assert choose(0.9, problem(budget=Budget(trials=5)), elsewhere)[0] == "quick"


def test_never_twice_at_the_same_fidelity() -> None:
    """A candidate that was measured cheaply comes again at the target only, and then no more."""
    space = Box(Box.Options.model_validate({"parameters": {"x": {"min": 0, "max": 1, "resolution": 1}}}))
    policy = FidelityChoice(FidelityChoiceOptions(choose={"use": "random"}, target_every=9))  # type: ignore[arg-type]
    seen: set[tuple[str, str]] = set()
    closed: set[str] = set()
    for number in range(4):
        (pick,) = policy.select(
            Told(0.9),  # type: ignore[arg-type]
            space,
            q=1,
            problem=problem(),
            dataset=Dataset(),
            pending=(),
            closed=frozenset(closed),
            costs={"quick": 1.0, TARGET: 10.0},
            seed=number,
        )
        assert (pick.candidate.id, pick.fidelity) not in seen
        seen.add((pick.candidate.id, pick.fidelity))
        closed.add(closed_at(pick.candidate.id, pick.fidelity))
    assert len(seen) == 4


def test_what_a_result_would_tell_is_the_squared_correlation_with_the_target() -> None:
    """Far from all cheap results one tells much, at a measured place nothing; a level left aside tells nothing."""
    x, z = np.linspace(0.0, 0.5, 9), np.linspace(0.0, 0.5, 25)

    def low(x: np.ndarray) -> np.ndarray:
        return np.sin(9 * x)

    dataset = Dataset(
        (*rows(z.tolist(), low(z).tolist(), "quick", 1), *rows(x.tolist(), (2 * low(x)).tolist(), TARGET, 101))
    )
    surrogate = MultiFidelity(FidelityOptions(surrogate="gaussian_process"))  # type: ignore[arg-type]
    surrogate.look_at(SPACE)
    surrogate.fit(dataset, problem(), seed=0)
    shares = surrogate.informs([at(0.25), at(0.95)], ["quick", "unknown"])
    assert shares[1, 0] > 0.5
    assert (
        shares[1, 0]
        > 2
        * shares[0, 0]
        * surrogate.predict([at(0.25)]).epistemic[0, 0]
        / surrogate.predict([at(0.95)]).epistemic[0, 0]
    )
    assert shares[:, 1].tolist() == [0.0, 0.0]
    noise = np.random.default_rng(0).normal(size=25)
    unrelated = Dataset(
        (*rows(z.tolist(), noise.tolist(), "quick", 1), *rows(x.tolist(), (2 * low(x)).tolist(), TARGET, 101))
    )
    surrogate.fit(unrelated, problem(), seed=0)
    assert surrogate.informs([at(0.95)], ["quick"]).tolist() == [[0.0]]


def test_an_unknown_policy_inside_is_refused() -> None:
    """The error lists what there is; the policy cannot be put into itself."""
    for name in ("guess", "fidelity_choice"):
        with pytest.raises(
            ValidationError, match=r"there is no acquisition policy .* to choose with; there are: .*random"
        ):
            FidelityChoiceOptions(choose={"use": name})  # type: ignore[arg-type]
