"""What a decision knew, for stopping rules: the best, how sure it is the best, what could still be gained.

The probability that nothing open is better than the best is counted on joint draws, after Wilson, NeurIPS 2024,
arXiv:2402.16811 (probabilistic regret bound).
"""

from __future__ import annotations

import numpy as np

from orchestrator.acquisition.draws import Draws, draw, known_feasible
from orchestrator.acquisition.gains import utilities
from orchestrator.acquisition.marginal import marginal_scores
from orchestrator.acquisition.open import open_candidates, open_count
from orchestrator.acquisition.policy import NonFiniteValues, Situation, predict
from orchestrator.domain import Array, Candidate, Dataset, DecisionSummary, Problem
from orchestrator.protocols import SearchSpace, Surrogate

DRAWS = 512
"""Resolves a probability of 0.05 to about 0.01."""
SHORTLIST = 1024
"""Open candidates drawn at most, the most promising first; the others hardly ever hold the optimum."""
SAMPLES = 1024
"""Points of a box that stand for all of it."""


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

    Returns:
        The summary; what cannot be computed is None.
    """
    shut = closed - {c.id for c in pending}
    best = best_value(problem, dataset)
    count = open_count(space, closed | {c.id for c in pending})
    situation = Situation(surrogate, space, 1, problem, dataset, (), shut, seed=seed)
    if surrogate is None or "draws" not in surrogate.supports() or best is None:
        return DecisionSummary(best=best, open_candidates=count)
    candidates = open_candidates(space, shut, SAMPLES, situation.seed_for("summary"))
    candidates += [c for c in pending if c.id not in {other.id for other in candidates}]
    if not candidates:
        return DecisionSummary(best=best, probability_best=1.0, expected_gain=0.0, open_candidates=count)
    try:
        scores = marginal_scores(situation, predict(surrogate, candidates))
        order = np.argsort(-scores, kind="stable")[:SHORTLIST]
        drawn = draw(situation, [candidates[i] for i in order], DRAWS, "summary")
    except NonFiniteValues:
        return DecisionSummary(best=best, open_candidates=count)
    probability, gain = _chances(situation, drawn, epsilon)
    return DecisionSummary(best=best, probability_best=probability, expected_gain=gain, open_candidates=count)


def best_value(problem: Problem, dataset: Dataset) -> float | None:
    """Return the best feasible measured value of the first objective; None where there is none."""
    labels = dataset.labels(problem.properties)
    first = labels.values[:, 0]
    good = np.isfinite(first) & known_feasible(labels.values, problem)
    if not good.any():
        return None
    return float(first[good][np.argmax(problem.objectives[0].utility(first[good]))])


def _chances(situation: Situation, drawn: Draws, epsilon: float) -> tuple[float, float | None]:
    if len(situation.problem.objectives) > 1:
        gains = drawn.front.gains(drawn.values, drawn.allowed).max(axis=1)
        return float((gains <= epsilon * drawn.front.volume()).mean()), None
    # the point that people would name as the best: the best measured one, with its drawn value
    labels = situation.labels()
    value = utilities(labels.values, situation.problem)[:, 0]
    value = np.where(np.isfinite(value) & known_feasible(labels.values, situation.problem), value, -np.inf)
    named: Array = drawn.measured[:, int(np.argmax(value)), 0]
    gains = np.where(drawn.allowed, drawn.values[..., 0] - named[:, None], -np.inf)
    probability = float((gains.max(axis=1) <= epsilon).mean())
    return probability, float(np.maximum(gains, 0.0).mean(axis=0).max())
