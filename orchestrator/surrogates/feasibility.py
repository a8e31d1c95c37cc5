"""Will a trial yield a value at all? A Gaussian-process classifier that learns from failed trials.

Bernoulli likelihood with a logistic link, Laplace's approximation of the posterior (Rasmussen and Williams, Gaussian
Processes for Machine Learning, 2006, algorithms 3.1 and 3.2), the probability averaged over the latent function after
MacKay (Neural Computation 4, 720, 1992, doi:10.1162/neco.1992.4.5.720). scikit-learn's classifier has a prior mean of
zero, so that it would call everything unknown a coin toss; here the prior mean is the rate of success so far.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_solve, cholesky, solve_triangular
from scipy.special import expit

from orchestrator.domain import Array
from orchestrator.surrogates.familiarity import column_weights
from orchestrator.surrogates.hyper import spread
from orchestrator.surrogates.kernels import Term

MOST = 300
"""Trials of each outcome that are kept: a thousandth second a Newton step; left-out ones count through weights."""
AMPLITUDES = (0.5, 1.0, 2.0, 4.0)
"""Standard deviations of the latent function that are tried; the prior of them is flat on this list."""
LENGTHS = (0.25, 0.5, 1.0, 2.0)
"""Lengthscales that are tried, in units of the median distance between trials."""
NEWTON_STEPS, CLOSE = 30, 1e-8


@dataclass(frozen=True, eq=False)
class Feasibility:
    """Probability of success over normalised columns.

    Args:
        rate: prior probability of success.
        weights: d factors of the columns.
        points: k × d weighted columns of the trials.
        length: of the covariance, in the same units.
        amplitude: standard deviation of the latent function.
        gradient: k slopes of the log likelihood at the mode.
        root: k square roots of its curvature.
        factor: k × k lower Cholesky factor of 1 + root · covariance · root.
    """

    rate: float
    weights: Array
    points: Array
    length: float
    amplitude: float
    gradient: Array
    root: Array
    factor: Array

    @classmethod
    def learn(cls, terms: Sequence[Term], good: Array, failed: Array) -> Feasibility:
        """Learn from trials that gave a value and trials that did not.

        Args:
            terms: the covariance over the columns, whose groups count equally.
            good: n × d normalised columns of the trials with a value.
            failed: k × d normalised columns of the failed ones; may be none.

        Returns:
            The classifier. Without a failure its probability is the prior rate, (n + 1) / (n + 2), everywhere.
        """
        rate = (len(good) + 1.0) / (len(good) + len(failed) + 2.0)
        width = (good if len(good) else failed).shape[1]
        weights = column_weights(terms, width)
        kept = [part[spread(len(part), MOST)] for part in (good, failed)]
        if not len(good) or not len(failed):
            empty = np.zeros(0)
            return cls(rate, weights, np.zeros((0, width)), 1.0, 1.0, empty, empty, np.zeros((0, 0)))
        points = np.vstack(kept) * weights
        sign = np.repeat([1.0, -1.0], [len(part) for part in kept])
        counts = np.repeat([len(good) / len(kept[0]), len(failed) / len(kept[1])], [len(part) for part in kept])
        distances = _distances(points, points)
        typical = float(np.median(distances[np.triu_indices(len(points), 1)])) or 1.0
        best: tuple[float, Feasibility] | None = None
        for length in (typical * share for share in LENGTHS):
            shape = _matern(distances / length)
            for amplitude in AMPLITUDES:
                evidence, state = _laplace(amplitude**2 * shape, sign, counts, _prior(rate, amplitude))
                if best is None or evidence > best[0]:
                    best = evidence, cls(rate, weights, points, length, amplitude, *state)
        assert best is not None  # noqa: S101  for mypy: the lists are not empty
        return best[1]

    def probability(self, x: Array) -> Array:
        """Return P(success) at n points.

        Args:
            x: n × d normalised columns.
        """
        if not len(self.points):
            return np.full(len(x), self.rate)
        cross = self.amplitude**2 * _matern(_distances(x * self.weights, self.points) / self.length)
        half = solve_triangular(self.factor, (self.root * cross).T, lower=True)
        variance = np.maximum(self.amplitude**2 - (half * half).sum(0), 0.0)
        mean = _prior(self.rate, self.amplitude) + cross @ self.gradient
        averaged: Array = expit(mean / np.sqrt(1.0 + math.pi * variance / 8.0))
        return averaged


def _prior(rate: float, amplitude: float) -> float:
    """Return the mean of the latent function under which the averaged probability of success is `rate`."""
    return math.log(rate / (1 - rate)) * math.sqrt(1.0 + math.pi * amplitude**2 / 8.0)


def _laplace(matrix: Array, sign: Array, counts: Array, prior: float) -> tuple[float, tuple[Array, Array, Array]]:
    """Find the mode of the latent function by Newton's method.

    Args:
        matrix: k × k prior covariance.
        sign: +1 for success, −1 for failure.
        counts: trials that each point stands for.
        prior: mean of the latent function.

    Returns:
        Log evidence; slopes and roots of the curvature at the mode, and the Cholesky factor.
    """
    k = len(sign)
    centred = np.zeros(k)  # latent function minus its prior mean
    last = -np.inf
    for _ in range(NEWTON_STEPS):
        latent = centred + prior
        p = expit(latent)
        slope = counts * ((sign + 1) / 2 - p)
        root = np.sqrt(np.maximum(counts * p * (1 - p), 1e-12))
        factor = cholesky(np.eye(k) + root[:, None] * matrix * root[None, :], lower=True)
        b = root**2 * centred + slope
        a = b - root * cho_solve((factor, True), root * (matrix @ b))
        centred = matrix @ a
        value = -0.5 * a @ centred - (counts * np.logaddexp(0.0, -sign * (centred + prior))).sum()
        if value - last < CLOSE:
            break
        last = value
    evidence = float(value - np.log(np.diag(factor)).sum())
    return evidence, (a, root, factor)  # at the mode the slope is `a`


def _distances(one: Array, two: Array) -> Array:
    squared = (one * one).sum(1)[:, None] + (two * two).sum(1)[None, :] - 2.0 * (one @ two.T)
    distances: Array = np.sqrt(np.maximum(squared, 0.0))
    return distances


def _matern(distances: Array) -> Array:
    scaled = math.sqrt(5.0) * distances
    values: Array = (1.0 + scaled + scaled * scaled / 3.0) * np.exp(-scaled)
    return values
