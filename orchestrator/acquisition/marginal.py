"""Scores of single candidates from their own mean and standard deviation: cheap enough for every candidate of a pool.

The logarithm of the expected improvement is computed without underflow, after Ament et al., NeurIPS 2023,
arXiv:2310.20708.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.special import erfcx, log_ndtr, ndtr

from orchestrator.acquisition.draws import known_feasible, reference
from orchestrator.acquisition.gains import hypervolume_gains, nth_best, pursued, utilities
from orchestrator.acquisition.situation import SMALLEST, Situation, predict
from orchestrator.domain import Array, Candidate, Constraint, Objective, Prediction

FARTHEST_OUT = 1e150
"""Standard deviations that are still squared without an overflow."""
FARTHEST = -1e5
"""Below so many standard deviations even the scaled form loses its digits, and the asymptote 1/u² takes over."""


def log_expected_improvement(mean: Array, sd: Array, best: float | Array) -> Array:
    """Return the logarithm of E[max(value - best, 0)] of normal values, n.

    Args:
        mean: n means of the utility.
        sd: n standard deviations.
        best: utility already reached; one number, or n.
    """
    safe, u = np.maximum(sd, SMALLEST), _in_sd(mean - best, sd)
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        direct = np.log(np.maximum(_density(u) + u * ndtr(u), SMALLEST))
        # for u << 0 the two terms cancel: write them over the scaled complementary error function
        ratio = -u * erfcx(-u / math.sqrt(2.0)) * math.sqrt(math.pi / 2.0)
        far = -0.5 * u**2 - 0.5 * math.log(2 * math.pi) + np.log(np.maximum(1.0 - ratio, SMALLEST))
        farther = -0.5 * u**2 - 0.5 * math.log(2 * math.pi) - 2.0 * np.log(np.maximum(-u, SMALLEST))
        log_h = np.where(u > -1.0, direct, np.where(u > FARTHEST, far, farther))
        certain = np.log(np.maximum(mean - best, 0.0) + SMALLEST)
    return np.where(sd > 0, log_h + np.log(safe), certain)


def ends(objective: Objective) -> tuple[float, float] | None:
    """Return the lowest and highest value than which none is better; None where more, or less, is always better."""
    if objective.goal == "window" and objective.window is not None:
        return objective.window
    if objective.goal == "target" and objective.target is not None:
        return objective.target, objective.target
    return None


def expected_improvement(objective: Objective, mean: Array, sd: Array, best: float | Array) -> Array:
    """Return E[max(utility - best, 0)] of a normally distributed property, n, whatever the goal.

    Args:
        objective: gives the utility.
        mean: n means of the property.
        sd: n standard deviations.
        best: utility already reached; one number, or n.
    """
    between = ends(objective)
    if between is None:
        return np.exp(log_expected_improvement(objective.utility(mean), sd, best))
    low, high = between
    near = np.maximum(-np.asarray(best, dtype=np.float64), 0.0)  # the distance that is already reached
    # max(near - distance, 0) is a tent over a target and a trapezium over a window: four hinges
    hinges = [(low - near, 1.0), (np.asarray(low), -1.0), (np.asarray(high), -1.0), (high + near, 1.0)]
    tent = sum(weight * np.exp(log_expected_improvement(mean, sd, edge)) for edge, weight in hinges)
    return np.maximum(tent, 0.0)


def log_gain(objective: Objective, mean: Array, sd: Array, best: float) -> Array:
    """Return the logarithm of the expected improvement, n; where it underflows, nearness still ranks.

    Nearness is the distance to a target in standard deviations, and for a window the logarithm of the probability to
    lie inside. Where the window is reached already nothing can be better, and that probability decides alone: the
    campaign then looks for more of the same.

    Args:
        objective: gives the utility.
        mean: n means of the property.
        sd: n standard deviations.
        best: utility already reached.
    """
    between = ends(objective)
    if between is None:
        return log_expected_improvement(objective.utility(mean), sd, best)
    gain = expected_improvement(objective, mean, sd, best)
    if objective.goal == "window":
        inside = Constraint(objective.property, objective.unit, *between)
        near = log_probability_feasible(inside, mean, sd)
        if best >= 0.0:
            return near
    else:
        near = -np.abs(_in_sd(mean - between[0], sd))
    # where hinges cancel, nothing but rounding is left
    lost = 4 * np.finfo(np.float64).eps * (np.abs(mean - between[0]) + sd + between[1] - between[0] - best)
    return np.where(gain > lost, np.log(np.maximum(gain, SMALLEST)), np.log(SMALLEST) + near)


def log_probability_feasible(constraint: Constraint, mean: Array, sd: Array) -> Array:
    """Return the logarithm of the probability that a normally distributed property satisfies a constraint, n."""
    low = -np.inf if constraint.low is None else constraint.low
    high = np.inf if constraint.high is None else constraint.high
    if not math.isfinite(low):
        return np.asarray(log_ndtr(_in_sd(high - mean, sd)))
    if not math.isfinite(high):
        return np.asarray(log_ndtr(_in_sd(mean - low, sd)))
    flip = mean < (low + high) / 2  # work in the lower tail, where logarithms of probabilities keep their digits
    a = np.where(flip, _in_sd(mean - high, sd), _in_sd(low - mean, sd))
    b = np.where(flip, _in_sd(mean - low, sd), _in_sd(high - mean, sd))
    log_a, log_b = log_ndtr(a), log_ndtr(b)
    return np.asarray(log_b + np.log(np.maximum(-np.expm1(np.minimum(log_a - log_b, 0.0)), SMALLEST)))


def log_feasible(situation: Situation, prediction: Prediction, candidates: Sequence[Candidate] | None) -> Array:
    """Return the logarithm of the probability that a trial succeeds and every constraint holds, n.

    Args:
        situation: with a trained surrogate.
        prediction: of the n candidates.
        candidates: the n candidates themselves; without them every trial is taken to succeed.
    """
    problem = situation.problem
    column = {name: j for j, name in enumerate(problem.properties)}
    total = np.zeros(len(prediction.mean)) if candidates is None else situation.log_success(candidates)
    for constraint in problem.constraints:
        j = column[constraint.property]
        total = total + log_probability_feasible(constraint, prediction.mean[:, j], prediction.epistemic[:, j])
    return total


def marginal_scores(
    situation: Situation, prediction: Prediction, candidates: Sequence[Candidate] | None = None, *, good: float = 0.0
) -> Array:
    """Rank every candidate by itself: log expected improvement plus log probability of being feasible, n.

    With several objectives: the hypervolume that the candidate would add were it one standard deviation better than
    predicted, then how near it comes.

    Args:
        situation: with a trained surrogate.
        prediction: of the n candidates.
        candidates: the n candidates themselves, to add the logarithm of their probability of success; without them
            every trial is taken to succeed.
        good: with one objective, the share of the measured points that count as good: improvement is counted over the
            poorest of them; 0 counts it over the best.
    """
    problem = situation.problem
    goals = pursued(problem)
    allowed = log_feasible(situation, prediction, candidates)
    labels = situation.labels()
    if len(labels):
        reached = utilities(predict(situation.trained, labels.candidates).mean, problem)
        reached = reached[known_feasible(labels.values, problem)]
    else:
        reached = np.zeros((0, len(goals)))
    if len(goals) == 1:
        objective = goals[0]
        j = problem.properties.index(objective.property)
        mean, sd = prediction.mean[:, j], prediction.epistemic[:, j]
        best = float(nth_best(reached[None, :, 0], good)[0]) if len(reached) else float(objective.utility(mean).min())
        return log_gain(objective, mean, sd, best) + allowed
    hopeful = optimistic(situation, prediction, 1.0)
    corner = reference(situation, hopeful)
    grown = hypervolume_gains(reached, hopeful, corner)
    spread = np.maximum(hopeful.std(axis=0), SMALLEST)
    near = ((hopeful - hopeful.max(axis=0)) / spread).sum(axis=1)
    return np.where(grown > 0, np.log(np.maximum(grown, SMALLEST)), np.log(SMALLEST) + near) + allowed


def optimistic(situation: Situation, prediction: Prediction, beta: float) -> Array:
    """Return the best utilities within `beta` epistemic standard deviations of the mean, n × k."""
    problem = situation.problem
    column = {name: j for j, name in enumerate(problem.properties)}
    parts = []
    for objective in pursued(problem):
        j = column[objective.property]
        mean, reach = prediction.mean[:, j], beta * prediction.epistemic[:, j]
        best = objective.utility(mean) + reach
        parts.append(best if ends(objective) is None else np.minimum(best, 0.0))
    return np.stack(parts, axis=1)


def _in_sd(difference: Array, sd: Array) -> Array:
    """Return differences in standard deviations, n; what is certain lies far out, but not at infinity."""
    with np.errstate(over="ignore"):
        return np.asarray(np.clip(difference / np.maximum(sd, SMALLEST), -FARTHEST_OUT, FARTHEST_OUT))


def _density(u: Array) -> Array:
    return np.asarray(np.exp(-0.5 * u**2) / math.sqrt(2 * math.pi), dtype=np.float64)
