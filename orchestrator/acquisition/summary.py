"""What a decision knew, for stopping rules: the best, how sure it is the best, what could be gained and for how much.

The probability that nothing open is better than the best, and how far the best falls short of the optimum, are counted
on joint draws, after Wilson, NeurIPS 2024, arXiv:2402.16811 (probabilistic regret bound). The gain for each unit of
expense is the quantity of the stopping rule of Xie et al., 2025, arXiv:2507.12453.

A candidate whose trial may fail counts by its probability of success. Failures of neighbours go together, so that in
each draw one number decides for all which of them would fail; independent failures would make one of many hopeless
candidates succeed in almost every draw, and no campaign would ever stop.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from orchestrator.acquisition.draws import Draws, draw, known_feasible, reference
from orchestrator.acquisition.gains import feasible, pursued, utilities
from orchestrator.acquisition.marginal import marginal_scores
from orchestrator.acquisition.open import open_count
from orchestrator.acquisition.policy import NonFiniteValues, Policy, Situation, predict
from orchestrator.domain import TARGET, Array, Candidate, Dataset, DecisionSummary, Problem
from orchestrator.errors import SpaceExhausted
from orchestrator.pareto import hypervolume, nondominated
from orchestrator.protocols import SearchSpace, Surrogate

DRAWS = 512
"""Resolves a probability of 0.05 to about 0.01."""
SHORTLIST = 1024
"""Open candidates drawn at most, the most promising first; the others hardly ever hold the optimum."""
FEW = (128, 128)
"""Draws and shortlist with three objectives and more, where a hypervolume a draw is the price."""
SAMPLES = 1024
"""Points of a box that stand for all of it."""
LEVELS = (0.5, 0.8, 0.9, 0.95, 0.98, 0.99)
"""Probabilities for which the shortfall of the best is kept."""
PLANE = 2


def summarise(  # noqa: PLR0917  the arguments of `select`, in its order
    surrogate: Surrogate | None,
    space: SearchSpace,
    problem: Problem,
    dataset: Dataset,
    closed: frozenset[str],
    seed: int,
    *,
    pending: tuple[Candidate, ...] = (),
    epsilon: float = 0.0,
    feasibility: bool = True,
) -> DecisionSummary:
    """Summarise what is known.

    Args:
        surrogate: updated to `dataset`; None gives the best and the number of open candidates only.
        space: where candidates come from.
        problem: objectives and constraints.
        dataset: what is known.
        closed: ids that cannot be proposed.
        seed: for draws and samples.
        pending: in flight; they can still turn out to be the best.
        epsilon: improvements up to this do not count: in the objective's unit, or with several objectives a fraction
            of the dominated hypervolume.
        feasibility: whether the learned probability of success counts.

    Returns:
        The summary; what cannot be computed is None.
    """
    shut = closed - {c.id for c in pending}
    count = open_count(space, closed | {c.id for c in pending})
    if problem.learns_only:
        return DecisionSummary(open_candidates=count)
    situation = Situation(surrogate, space, 1, problem, dataset, (), shut, seed=seed, feasibility=feasibility)
    told = measured(situation, DecisionSummary(best=best_value(problem, dataset), open_candidates=count))
    if surrogate is None or "draws" not in surrogate.supports() or told.best is None:
        return told
    try:
        candidates = Policy.pool(situation, SAMPLES)
    except SpaceExhausted:
        candidates = []
    candidates = [*candidates, *(c for c in pending if c.id not in {other.id for other in candidates})]
    if not candidates:
        nothing = tuple((level, 0.0) for level in LEVELS)
        return replace(told, probability_best=1.0, expected_gain=0.0, regret=nothing)
    draws, most = (DRAWS, SHORTLIST) if len(pursued(problem)) <= PLANE else FEW
    before = pending[-1] if pending else situation.before
    paid = frozenset(c.id for c in pending)
    try:
        scores = marginal_scores(situation, predict(surrogate, candidates), candidates)
        chosen = [candidates[i] for i in _shortlist(situation, scores, candidates, before, most)]
        odds = np.exp(situation.log_success(chosen))
        drawn = draw(situation, chosen, draws, "summary")
    except NonFiniteValues:
        return told
    return _chances(situation, drawn, odds, told, epsilon, _expenses(problem, chosen, before, paid))


def best_value(problem: Problem, dataset: Dataset) -> float | None:
    """Return the best feasible measured value of the first pursued objective; None where there is none."""
    objective = pursued(problem)[0]
    labels = dataset.labels(problem.properties)
    first = labels.values[:, problem.properties.index(objective.property)]
    good = np.isfinite(first) & known_feasible(labels.values, problem)
    if not good.any():
        return None
    return float(first[good][np.argmax(objective.utility(first[good]))])


def measured(situation: Situation, told: DecisionSummary) -> DecisionSummary:
    """Add the hypervolume that the measured points dominate, where there are several objectives."""
    problem = situation.problem
    if len(pursued(problem)) == 1 or told.best is None:
        return told
    labels = situation.labels()
    values = utilities(labels.values, problem)
    good = np.isfinite(values).all(axis=1) & feasible(labels.values, problem)
    if not good.any():
        return told
    corner = reference(situation, values[good])
    volume = hypervolume(nondominated(values[good], corner), corner)
    return replace(told, hypervolume=volume, reference=tuple(float(value) for value in corner))


def _shortlist(
    situation: Situation, scores: Array, candidates: list[Candidate], before: Candidate | None, most: int
) -> list[int]:
    """Return positions of the most promising candidates and, where trials differ in expense, of the best for theirs."""
    order = [int(i) for i in np.argsort(-scores, kind="stable")[:most]]
    if not situation.problem.expenses:
        return order
    value = scores - situation.log_expense(candidates, before)
    worth = [int(i) for i in np.argsort(-value, kind="stable")[:most]]
    return list(dict.fromkeys(i for pair in zip(order, worth, strict=True) for i in pair))[:most]


def _expenses(problem: Problem, chosen: list[Candidate], before: Candidate | None, paid: frozenset[str]) -> Array:
    """Return price and hours of a trial of each candidate at the target, n × 2; NaN for those in flight."""
    spent = [problem.expense(candidate, TARGET, before) for candidate in chosen]
    rows = [
        (np.nan, np.nan) if candidate.id in paid else (one.cost, one.hours)
        for candidate, one in zip(chosen, spent, strict=True)
    ]
    return np.array(rows, dtype=np.float64)


def _chances(  # noqa: PLR0917  one place that turns draws into the summary
    situation: Situation, drawn: Draws, odds: Array, told: DecisionSummary, epsilon: float, expenses: Array
) -> DecisionSummary:
    s = len(drawn.values)
    luck = np.random.default_rng(situation.seed_for("summary success")).random(s)
    allowed = drawn.allowed & (luck[:, None] < odds[None, :])
    if drawn.values.shape[-1] > 1:
        alone = drawn.front.gains(drawn.values, drawn.allowed)
        best = np.where(allowed, alone, 0.0).max(axis=1)
        volume = drawn.front.volume()
        short = best / np.where(volume > 0, volume, np.inf) + np.where((volume <= 0) & (best > 0), np.inf, 0.0)
        mean = alone.mean(axis=0) * odds
        return replace(
            told,
            probability_best=float((best <= epsilon * volume).mean()),
            regret=_regret(short),
            gain_per_cost=_for_expense(mean, expenses[:, 0]),
            gain_per_hour=_for_expense(mean, expenses[:, 1]),
        )
    # the point that people would name as the best: the best measured one, with its drawn value
    labels = situation.labels()
    value = utilities(labels.values, situation.problem)[:, 0]
    good = np.isfinite(value) & known_feasible(labels.values, situation.problem)
    named: Array = drawn.measured[:, int(np.argmax(np.where(good, value, -np.inf))), 0]
    ahead = drawn.values[..., 0] - named[:, None]
    best = np.where(allowed, ahead, -np.inf).max(axis=1)
    others = np.where(good[None, :], drawn.measured[..., 0] - named[:, None], 0.0).max(axis=1)
    mean = np.maximum(np.where(drawn.allowed, ahead, 0.0), 0.0).mean(axis=0) * odds
    return replace(
        told,
        probability_best=float((best <= epsilon).mean()),
        expected_gain=float(mean.max()),
        regret=_regret(np.maximum(np.maximum(best, others), 0.0)),
        gain_per_cost=_for_expense(mean, expenses[:, 0]),
        gain_per_hour=_for_expense(mean, expenses[:, 1]),
    )


def _regret(short: Array) -> tuple[tuple[float, float], ...]:
    """Return for each level how much the best falls short of the optimum at most; infinite ones are left out."""
    found = [(level, float(np.quantile(short, level, method="higher"))) for level in LEVELS]
    return tuple((level, value) for level, value in found if np.isfinite(value))


def _for_expense(mean: Array, expense: Array) -> float | None:
    """Return the largest expected gain for each unit of an expense; None where some trial has none of it."""
    known = np.isfinite(expense)
    if not known.any() or not (expense[known] > 0).all():
        return None
    return float((mean[known] / expense[known]).max())
