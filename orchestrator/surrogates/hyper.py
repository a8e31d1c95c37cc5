"""Hyperparameters of a Gaussian process: their priors, their ranges, and their most probable values.

Priors are those of Hvarfner et al., ICML 2024, doi:10.48550/arXiv.2402.02229: lengthscales grow with the square root of
the number of columns, noise is small, variances are near that of the labels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize

from orchestrator.domain import Array
from orchestrator.errors import Diverged
from orchestrator.surrogates.evidence import NOISE_CENTER, Labels, density, log_prior
from orchestrator.surrogates.kernels import Term

NOISE_FLOOR = 1e-5
"""Smallest noise variance in units of the labels' variance; below it the matrices lose their precision."""
SHORTEST = math.log(0.025)
"""Log of the shortest lengthscale: shorter ones make every point an island."""
LONGEST = 4.5
"""Lengthscales stay within e^4.5 of the prior's median: beyond it a column has no influence that could be seen."""
MOST_FOR_HYPERPARAMETERS = 800
"""More labels than this do not change hyperparameters noticeably, but cost the third power."""
STARTS = (-1.5, 0.0, 1.5)
"""Starting lengthscales: factors e^x of the square root of the number of columns."""


@dataclass(frozen=True)
class Hyperparameters:
    """What `fit` learns, in units of standardised labels.

    Args:
        log_lengthscales: of all terms, one after the other.
        log_variances: one a term.
        log_noise: of the learned noise variance.
        mean: constant.
    """

    log_lengthscales: Array
    log_variances: Array
    log_noise: float
    mean: float

    def pack(self) -> Array:
        """Return all numbers as one vector."""
        return np.concatenate([self.log_lengthscales, self.log_variances, [self.log_noise, self.mean]])

    @classmethod
    def unpack(cls, vector: Array, terms: tuple[Term, ...]) -> Hyperparameters:
        """Build from `pack`'s vector."""
        scales = sum(term.lengthscales for term in terms)
        return cls(
            np.array(vector[:scales]),
            np.array(vector[scales : scales + len(terms)]),
            float(vector[-2]),
            float(vector[-1]),
        )


@dataclass(frozen=True, eq=False)
class Points:
    """What a process is conditioned on.

    Args:
        x: n × d features, already normalised.
        y: n standardised labels.
        known: n known noise variances in units of standardised labels; zeros where unknown.
    """

    x: Array
    y: Array
    known: Array

    def __len__(self) -> int:
        """Count the labels."""
        return len(self.y)


def learn(terms: tuple[Term, ...], data: Points, start: Hyperparameters | None, steps: int = 60) -> Hyperparameters:
    """Maximise the marginal likelihood times the priors.

    Args:
        terms: the covariance.
        data: labels.
        start: an earlier fit's hyperparameters, tried besides the fixed starts.
        steps: most iterations of L-BFGS.

    Returns:
        The hyperparameters.

    Raises:
        Diverged: no finite optimum was found.
    """
    return learn_shared(terms, (data,), start, steps)


def learn_shared(
    terms: tuple[Term, ...], several: Sequence[Points], start: Hyperparameters | None, steps: int = 60
) -> Hyperparameters:
    """Maximise the product of the marginal likelihoods of processes that share their hyperparameters; see `learn`.

    Args:
        terms: the covariance.
        several: labels of each process; the priors count once for each.
        start: an earlier fit's hyperparameters, tried besides the fixed starts.
        steps: most iterations of L-BFGS.
    """
    few = []
    for data in several:
        pick = spread(len(data), MOST_FOR_HYPERPARAMETERS)
        few.append(Labels.of(terms, data.x[pick], data.y[pick], data.known[pick]))
    starts = [initial(terms, factor) for factor in STARTS]
    if start is not None and len(start.pack()) == len(starts[0]):
        starts.append(start.pack())
    found = most_probable(terms, few, starts, steps, priors=len(few))
    if found is None:
        message = (
            f"the Gaussian process has no finite optimum on {len(several[0])} labels; look for extreme values among"
            " them"
        )
        raise Diverged(message)
    return found


def most_probable(
    terms: tuple[Term, ...], several: Sequence[Labels], starts: Sequence[Array], steps: int, *, priors: int
) -> Hyperparameters | None:
    """Climb from the best of some starts to the most probable hyperparameters.

    Args:
        terms: the covariance.
        several: labels of which each part is a factor of the likelihood.
        starts: packed hyperparameters.
        steps: most iterations of L-BFGS.
        priors: how often the prior counts.

    Returns:
        The hyperparameters; None where no finite optimum was found.
    """

    def loss(vector: Array) -> tuple[float, Array]:
        value, slope = log_prior(vector, terms)
        value, slope = priors * value, priors * slope
        for labels in several:
            found = density(vector, labels)
            if found is None:  # a step too far: the line search turns back
                return 1e10, np.zeros_like(vector)
            value, slope = value + found[0], slope + found[1]
        if not (math.isfinite(value) and np.all(np.isfinite(slope))):
            return 1e10, np.zeros_like(vector)
        return -value, -slope

    best = min(starts, key=lambda vector: loss(vector)[0])
    found = minimize(loss, best, jac=True, method="L-BFGS-B", bounds=bounds(terms), options={"maxiter": steps})
    if not (np.all(np.isfinite(found.x)) and np.isfinite(found.fun)):
        return None
    return Hyperparameters.unpack(found.x, terms)


def covariance(
    terms: tuple[Term, ...],
    one: torch.Tensor,
    two: torch.Tensor,
    vector: torch.Tensor,
) -> torch.Tensor:
    """Return the covariance of a sum of terms.

    Args:
        terms: the summands.
        one: n × d normalised features.
        two: k × d normalised features.
        vector: packed hyperparameters.

    Returns:
        n × k, without noise.
    """
    scales = sum(term.lengthscales for term in terms)
    total = torch.zeros(len(one), len(two), dtype=torch.float64)
    offset = 0
    for j, term in enumerate(terms):
        part = term.matrix(one, two, vector[offset : offset + term.lengthscales])
        total = total + torch.exp(vector[scales + j]) * part
        offset += term.lengthscales
    return total


def initial(terms: tuple[Term, ...], factor: float) -> Array:
    """Return packed hyperparameters to start from: lengthscales e^factor times the square root of the columns."""
    scales = [factor + 0.5 * math.log(len(term.columns)) for term in terms for _ in range(term.lengthscales)]
    return np.array([*scales, *(-math.log(len(terms)) for _ in terms), NOISE_CENTER, 0.0])


def bounds(terms: tuple[Term, ...]) -> list[tuple[float, float]]:
    """Return the range of each packed hyperparameter."""
    scales = [(SHORTEST, term.prior_center() + LONGEST) for term in terms for _ in range(term.lengthscales)]
    return [*scales, *((-10.0, 6.0) for _ in terms), (math.log(NOISE_FLOOR), 2.0), (-5.0, 5.0)]


def spread(n: int, most: int) -> Array:
    """Return at most `most` indices spread evenly over the trials, old and new ones alike."""
    return np.unique(np.linspace(0, n - 1, min(n, most)).round().astype(np.int64)) if n else np.zeros(0, np.int64)
