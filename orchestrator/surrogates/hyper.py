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
from orchestrator.surrogates.kernels import Term

NOISE_FLOOR = 1e-5
"""Smallest noise variance in units of the labels' variance; below it the matrices lose their precision."""
NOISE_CENTER, NOISE_SIGMA = -4.0, 1.0
"""Log-normal prior of the noise variance (Hvarfner et al. 2024)."""
VARIANCE_SIGMA = 1.0
"""Log-normal prior of a term's variance around 1: labels are standardised."""
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
        few.append(tuple(torch.from_numpy(np.ascontiguousarray(a[pick])) for a in (data.x, data.y, data.known)))
    prepared = [tuple(term.prepare(x, x) for term in terms) for x, _, _ in few]

    def objective(vector: Array) -> tuple[float, Array]:
        parts = [_objective(vector, terms, one, ready) for one, ready in zip(few, prepared, strict=True)]
        return sum(value for value, _ in parts), np.sum([slope for _, slope in parts], axis=0)

    starts = [initial(terms, factor) for factor in STARTS]
    if start is not None and len(start.pack()) == len(starts[0]):
        starts.append(start.pack())
    values = [objective(vector)[0] for vector in starts]
    best = starts[int(np.argmin(values))]
    found = minimize(objective, best, jac=True, method="L-BFGS-B", bounds=bounds(terms), options={"maxiter": steps})
    if not (np.all(np.isfinite(found.x)) and np.isfinite(found.fun)):
        message = (
            f"the Gaussian process has no finite optimum on {len(several[0])} labels; look for extreme values among"
            " them"
        )
        raise Diverged(message)
    return Hyperparameters.unpack(found.x, terms)


Prepared = tuple[torch.Tensor | None, ...]
"""What terms need of features whatever the hyperparameters are; see `Term.prepare`."""


def covariance(
    terms: tuple[Term, ...],
    one: torch.Tensor,
    two: torch.Tensor,
    vector: torch.Tensor,
    prepared: Prepared | None = None,
) -> torch.Tensor:
    """Return the covariance of a sum of terms.

    Args:
        terms: the summands.
        one: n × d normalised features.
        two: k × d normalised features.
        vector: packed hyperparameters.
        prepared: of the same features, one a term.

    Returns:
        n × k, without noise.
    """
    scales = sum(term.lengthscales for term in terms)
    total = torch.zeros(len(one), len(two), dtype=torch.float64)
    offset = 0
    for j, term in enumerate(terms):
        given = None if prepared is None else prepared[j]
        part = term.matrix(one, two, vector[offset : offset + term.lengthscales], given)
        total = total + torch.exp(vector[scales + j]) * part
        offset += term.lengthscales
    return total


def log_prior(v: torch.Tensor, terms: tuple[Term, ...]) -> torch.Tensor:
    """Return the log density of packed hyperparameters' prior, up to a constant."""
    scales = sum(term.lengthscales for term in terms)
    prior = -0.5 * ((v[-2] - NOISE_CENTER) / NOISE_SIGMA) ** 2 - 0.5 * v[-1] ** 2
    prior = prior - 0.5 * ((v[scales:-2] / VARIANCE_SIGMA) ** 2).sum()
    offset = 0
    for term in terms:
        prior = prior + term.log_prior(v[offset : offset + term.lengthscales])
        offset += term.lengthscales
    return prior


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


def _objective(
    vector: Array, terms: tuple[Term, ...], data: tuple[torch.Tensor, ...], prepared: Prepared
) -> tuple[float, Array]:
    x, y, known = data
    v = torch.from_numpy(np.array(vector, dtype=np.float64)).requires_grad_()
    matrix = covariance(terms, x, x, v, prepared) + torch.diag(torch.exp(v[-2]) + known + 1e-8)
    chol, info = torch.linalg.cholesky_ex(matrix)
    if int(info) != 0:
        return 1e10, np.zeros_like(vector)  # a step too far: the line search turns back
    residual = y - v[-1]
    half = torch.linalg.solve_triangular(chol, residual[:, None], upper=False)
    likelihood = -0.5 * (half * half).sum() - torch.log(torch.diagonal(chol)).sum()
    loss = -(likelihood + log_prior(v, terms))
    gradient = torch.autograd.grad(loss, v)[0].numpy()
    if not (math.isfinite(float(loss.detach())) and np.all(np.isfinite(gradient))):
        return 1e10, np.zeros_like(vector)
    return float(loss.detach()), gradient.astype(np.float64)
