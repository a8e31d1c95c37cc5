"""What labels say of a Gaussian process's hyperparameters, and the slope of that, in closed form.

Learning hyperparameters asks for both hundreds of times on a few dozen labels, where most of what automatic
differentiation costs is its own book-keeping: in closed form (Rasmussen and Williams, Gaussian Processes for Machine
Learning, 2006, equation 5.9) an ask of a campaign takes half the time. The covariance is that of `kernels`, which a
test asserts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.linalg.lapack import dpotrf, dpotri, dpotrs

from orchestrator.domain import Array
from orchestrator.surrogates.kernels import LENGTHSCALE_SIGMA, Term

NOISE_CENTER, NOISE_SIGMA = -4.0, 1.0
"""Log-normal prior of the noise variance (Hvarfner et al. 2024)."""
VARIANCE_SIGMA = 1.0
"""Log-normal prior of a term's variance around 1: labels are standardised."""
LEAST_NOISE = 1e-8
"""Added to the diagonal besides the noise."""


@dataclass(frozen=True, eq=False)
class Labels:
    """Labels with what does not change while hyperparameters do.

    Args:
        terms: the covariance.
        x: n × d normalised features.
        y: n standardised labels.
        known: n known noise variances.
        first: how many labels, from the first, the others' density is conditional on.
        fixed: n × n, one a term: products of a linear one, squared distances of one with a single lengthscale;
            otherwise None.
    """

    terms: tuple[Term, ...]
    x: Array
    y: Array
    known: Array
    first: int
    fixed: tuple[Array | None, ...]

    @classmethod
    def of(cls, terms: tuple[Term, ...], x: Array, y: Array, known: Array, first: int = 0) -> Labels:
        """Compute what does not change; see `Labels`."""
        fixed: list[Array | None] = []
        for term in terms:
            columns = x[:, list(term.columns)]
            if term.kind == "linear":
                fixed.append(columns @ columns.T / columns.shape[1])
            else:
                fixed.append(_squares(columns) if term.lengthscales == 1 else None)
        return cls(terms, x, y, known, first, tuple(fixed))


def density(vector: Array, labels: Labels) -> tuple[float, Array] | None:
    """Return the log density of labels and its slope.

    Args:
        vector: packed hyperparameters.
        labels: those from `first` on are judged, given those before.

    Returns:
        The density but for a constant, and its derivatives; None where the covariance has no factor.
    """
    n, first = len(labels.y), labels.first
    scales = sum(term.lengthscales for term in labels.terms)
    noise = math.exp(vector[-2])
    total, parts, offset = np.zeros((n, n)), [], 0
    for j, term in enumerate(labels.terms):
        own = vector[offset : offset + term.lengthscales]
        part = _Part.of(term, labels, j, own, math.exp(vector[scales + j]))
        parts.append(part)
        total += part.matrix
        offset += term.lengthscales
    total[np.diag_indices(n)] += noise + labels.known + LEAST_NOISE
    chol, info = dpotrf(total, lower=1)
    if info != 0:
        return None
    residual = labels.y - vector[-1]
    weights, alpha, value = _weights(chol, residual, n)
    if first:
        some, alpha_first, value_first = _weights(np.asfortranarray(chol[:first, :first]), residual[:first], first)
        weights[:first, :first] -= some
        value -= value_first
        alpha = alpha.copy()
        alpha[:first] -= alpha_first
    slope = np.zeros(len(vector))
    offset = 0
    for j, (term, part) in enumerate(zip(labels.terms, parts, strict=True)):
        slope[offset : offset + term.lengthscales] = part.slopes(weights)
        slope[scales + j] = float((weights * part.matrix).sum())
        offset += term.lengthscales
    slope[-2] = noise * float(np.trace(weights))
    slope[-1] = float(alpha.sum())
    return value, slope


def log_prior(vector: Array, terms: tuple[Term, ...]) -> tuple[float, Array]:
    """Return the log density of packed hyperparameters' prior but for a constant, and its slope."""
    slope = np.zeros(len(vector))
    scales, value, offset = sum(term.lengthscales for term in terms), 0.0, 0
    for term in terms:
        own = slice(offset, offset + term.lengthscales)
        value += term.log_prior(vector[own])
        slope[own] = (term.prior_center() - vector[own]) / LENGTHSCALE_SIGMA**2
        slope[[offset + k for k in term.ranged]] -= 1.0
        offset += term.lengthscales
    rest = np.concatenate([vector[scales:-2] / VARIANCE_SIGMA, [(vector[-2] - NOISE_CENTER) / NOISE_SIGMA, vector[-1]]])
    slope[scales:] = -rest / np.array([*(VARIANCE_SIGMA for _ in terms), NOISE_SIGMA, 1.0])
    return value - 0.5 * float(rest @ rest), slope


@dataclass(frozen=True, eq=False)
class _Part:
    """One term's covariance of labels among each other, and how it changes."""

    term: Term
    matrix: Array
    by_square: Array | None  # derivative of the covariance by the squared scaled distance
    squares: Array | None  # squared scaled distances, of terms with one lengthscale
    scaled: Array | None  # scaled columns, of terms with several

    @classmethod
    def of(cls, term: Term, labels: Labels, j: int, log_lengthscales: Array, variance: float) -> _Part:
        fixed = labels.fixed[j]
        if term.kind == "linear":
            return cls(term, variance * np.asarray(fixed), None, None, None)
        if fixed is not None:
            scaled, squares = None, fixed * math.exp(-2.0 * log_lengthscales[0])
        else:
            inverse = np.repeat(np.exp(-log_lengthscales), [len(group) for group in term.groups])
            scaled = labels.x[:, list(term.columns)] * inverse
            squares = _squares(scaled)
        if term.kind == "rbf":
            matrix = variance * np.exp(-0.5 * squares)
            by_square = -0.5 * matrix
        else:
            distance = np.sqrt(5.0 * squares)
            decay = variance * np.exp(-distance)
            by_square = (-5.0 / 6.0) * (1.0 + distance) * decay
            matrix = (1.0 + distance + (5.0 / 3.0) * squares) * decay
        return cls(term, matrix, by_square, squares if scaled is None else None, scaled)

    def slopes(self, weights: Array) -> Array:
        """Return the derivatives by each log lengthscale of the sum of `weights` times the covariance."""
        if self.by_square is None:
            return np.zeros(0)
        change = weights * self.by_square
        if self.squares is not None:
            return np.array([-2.0 * float((change * self.squares).sum())])
        scaled = np.asarray(self.scaled)
        a = scaled - scaled.mean(0)
        by_column = 2.0 * (change.sum(1) @ (a * a)) - 2.0 * (a * (change @ a)).sum(0)
        ends = np.cumsum([len(group) for group in self.term.groups])
        return -2.0 * np.add.reduceat(by_column, [0, *ends[:-1]])


def _weights(chol: Array, residual: Array, n: int) -> tuple[Array, Array, float]:
    """Return the derivative of the log density by each covariance, K⁻¹ residual, and the log density."""
    alpha = dpotrs(chol, residual, lower=1)[0]
    half = dpotri(chol, lower=1)[0]  # the lower half, over zeros
    inverse = half + half.T
    inverse[np.diag_indices(n)] *= 0.5
    value = -0.5 * float(residual @ alpha) - float(np.log(np.diag(chol)).sum())
    return 0.5 * (np.outer(alpha, alpha) - inverse), alpha, value


def _squares(columns: Array) -> Array:
    """Return squared distances between rows."""
    a = columns - columns.mean(0)  # keeps the expanded square accurate far from the origin
    own = (a * a).sum(1)
    return np.asarray(np.maximum(own[:, None] + own[None, :] - 2.0 * (a @ a.T), 0.0), dtype=np.float64)
