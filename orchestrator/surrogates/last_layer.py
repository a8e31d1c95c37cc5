"""The Bayesian last layer: a Gaussian posterior over the weights of a linear layer on given columns, in closed form.

Laplace's approximation of the last layer's posterior (Daxberger et al., NeurIPS 2021,
doi:10.48550/arXiv.2106.14806) is exact for a Gaussian likelihood, because the layer is linear: Bayesian linear
regression. Each block of columns has a prior precision of its own; the network's own answers are among the columns, so
that the prior allows more in the direction of the trained weights than elsewhere. Same methods and the same numbers as
`GaussianHead` with linear terms, but the cost grows with the labels' number and not with its third power.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from scipy.linalg import cho_factor, cho_solve, solve_triangular

from orchestrator.domain import Array
from orchestrator.surrogates.hyper import Hyperparameters, Points
from orchestrator.surrogates.kernels import Term


class LastLayerHead:
    """Posterior over weights of one property; see `GaussianHead` for the methods.

    Args:
        terms: blocks of columns, all linear.
        hyper: variance of the weights of each block (the inverse prior precision), noise and constant.
        data: what it is conditioned on.
        sd_scale: calibration: factor of all standard deviations.
    """

    jitter = 0.0

    def __init__(self, terms: tuple[Term, ...], hyper: Hyperparameters, data: Points, sd_scale: float = 1.0) -> None:
        self.terms, self.hyper, self.data, self.sd_scale = terms, hyper, data, sd_scale
        rows = self._layer(data.x)
        self._noise = math.exp(hyper.log_noise) + data.known
        precision = np.eye(rows.shape[1]) + (rows / self._noise[:, None]).T @ rows
        self._factor = cho_factor(precision, lower=True)
        self._weights: Array = cho_solve(self._factor, rows.T @ ((data.y - hyper.mean) / self._noise))

    def conditioned(self, data: Points) -> LastLayerHead:
        """Return the posterior given other labels: exact Bayesian linear regression, in milliseconds."""
        return LastLayerHead(self.terms, self.hyper, data, self.sd_scale)

    def scaled(self, sd_scale: float) -> LastLayerHead:
        """Return the same posterior with its standard deviations multiplied by `sd_scale`."""
        other = LastLayerHead.__new__(LastLayerHead)
        other.__dict__.update(self.__dict__)
        other.sd_scale = sd_scale
        return other

    @property
    def noise_variance(self) -> float:
        """Variance of one more measurement: learned noise plus the typical known one, calibrated."""
        typical = float(np.median(self.data.known)) if len(self.data.known) else 0.0
        return self.sd_scale**2 * (math.exp(self.hyper.log_noise) + typical)

    def predict(self, x: Array) -> tuple[Array, Array]:
        """Return the mean and the epistemic variance at k points, in standardised units."""
        rows = self._layer(x)
        variance = np.maximum(self._spread(rows), 1e-12)
        return self.hyper.mean + rows @ self._weights, self.sd_scale**2 * variance

    def draw(self, x: Array, s: int, seed: Sequence[int]) -> Array:
        """Return values of `s` functions at k points, s × k: each is one draw of all weights.

        Args:
            x: k × d columns.
            s: number of functions; the first functions are the same for a larger `s`.
            seed: fixes the weights, together with the labels.
        """
        rows = self._layer(x)
        normal = np.random.default_rng(list(seed)).standard_normal((s, rows.shape[1]))
        # The posterior's precision is L Lᵀ, so that L⁻ᵀ ε has its covariance.
        deviations = solve_triangular(self._factor[0], normal.T, lower=True, trans="T")
        values: Array = self.hyper.mean + (rows @ (self._weights[:, None] + self.sd_scale * deviations)).T
        return values

    def leave_one_out(self) -> tuple[Array, Array]:
        """Return residuals (label minus prediction without it) and their standard deviations, noise included."""
        rows = self._layer(self.data.x)
        leverage = np.minimum(self._spread(rows) / self._noise, 1.0 - 1e-9)
        residuals = (self.data.y - self.hyper.mean - rows @ self._weights) / (1.0 - leverage)
        return residuals, self.sd_scale * np.sqrt(self._noise / (1.0 - leverage))

    def arrays(self) -> dict[str, Array]:
        """Return the state as arrays."""
        return {"hyper": self.hyper.pack(), "x": self.data.x, "y": self.data.y, "known": self.data.known}

    @classmethod
    def from_arrays(cls, terms: tuple[Term, ...], arrays: Mapping[str, Array], sd_scale: float) -> LastLayerHead:
        """Build from `arrays`."""
        hyper = Hyperparameters.unpack(arrays["hyper"], terms)
        return cls(terms, hyper, Points(arrays["x"], arrays["y"], arrays["known"]), sd_scale)

    def _layer(self, x: Array) -> Array:
        """Return the layer's inputs, k × D, so that every weight has the prior variance 1."""
        blocks = [
            x[:, list(term.columns)] * math.exp(0.5 * (log_variance - math.log(len(term.columns))))
            for term, log_variance in zip(self.terms, self.hyper.log_variances, strict=True)
        ]
        return np.hstack(blocks)

    def _spread(self, rows: Array) -> Array:
        half = solve_triangular(self._factor[0], rows.T, lower=True)
        spread: Array = (half * half).sum(0)
        return spread


def linear_terms(terms: Sequence[Term]) -> tuple[Term, ...]:
    """Return one linear block for each set of columns among the terms of a covariance."""
    blocks = dict.fromkeys(term.columns for term in terms)
    return tuple(Term("linear", (columns,)) for columns in blocks)
