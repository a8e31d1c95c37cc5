"""A Gaussian process for many labels: a variational posterior on inducing points, in closed form.

With a Gaussian likelihood the best variational posterior for given inducing points is known exactly (Titsias, AISTATS
2009): no stochastic optimiser has to approach it, and conditioning on other labels takes less than a second. The
hyperparameters are those that `hyper.learn` finds on a part of the labels. Moving them to the maximum of the collapsed
bound on all labels was tried (5,000 labels, 200 columns): it took minutes, the error grew by 1 to 4 %, and the noise
doubled, a known bias of the bound. The inducing points are centres of k-means on the columns. Draws are pathwise, a
prior function from random features plus the update at the inducing points (Wilson et al., JMLR 22, 2021,
doi:10.48550/arXiv.2011.04026).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from orchestrator.domain import Array
from orchestrator.errors import IncompatibleError
from orchestrator.surrogates.encoding import Scaling
from orchestrator.surrogates.familiarity import column_weights
from orchestrator.surrogates.heads import GaussianHead, cholesky, prior_draws
from orchestrator.surrogates.hyper import Hyperparameters, Points, spread
from orchestrator.surrogates.kernels import Term

INDUCING = 300
"""Inducing points: with 300 a refresh on 5,000 labels stays below a second."""
MOST_FOR_CENTRES = 5_000
"""Labels that k-means looks at."""
JITTER = 1e-6
"""Added to the diagonal of the inducing points' covariance, in units of its mean."""


class VariationalHead(GaussianHead):
    """Gaussian process of one property on inducing points.

    Args:
        terms: the covariance.
        hyper: hyperparameters.
        data: what it is conditioned on.
        inducing: M × d inducing points.
        sd_scale: calibration: factor of all standard deviations.
    """

    def __init__(
        self, terms: tuple[Term, ...], hyper: Hyperparameters, data: Points, inducing: Array, sd_scale: float = 1.0
    ) -> None:
        self.terms, self.hyper, self.data, self.sd_scale, self.inducing = terms, hyper, data, sd_scale, inducing
        self._z = _tensor(inducing)
        matrix = self._covariance(self._z, self._z).numpy()
        matrix[np.diag_indices_from(matrix)] += JITTER * matrix.trace() / len(matrix)
        self._outer, self.jitter = cholesky(matrix)
        noise = torch.from_numpy(math.exp(hyper.log_noise) + data.known)
        rows = self._whiten(data.x) / torch.sqrt(noise)  # M × n
        self._inner, _ = cholesky((torch.eye(len(inducing), dtype=torch.float64) + rows @ rows.T).numpy())
        right = rows @ (torch.from_numpy(data.y - hyper.mean) / torch.sqrt(noise))
        self._centre = _solve(self._inner, right[:, None])[:, 0]

    @classmethod
    def place(cls, terms: tuple[Term, ...], hyper: Hyperparameters, data: Points) -> VariationalHead:
        """Put inducing points among the labels and condition on them.

        Args:
            terms: the covariance.
            hyper: hyperparameters.
            data: labels.

        Returns:
            The head, not yet calibrated.
        """
        return cls(terms, hyper, data, centres(terms, data.x))

    def conditioned(self, data: Points) -> VariationalHead:
        """Return the same process on other labels: the best posterior for the same inducing points."""
        return VariationalHead(self.terms, self.hyper, data, self.inducing, self.sd_scale)

    def predict(self, x: Array) -> tuple[Array, Array]:
        """Return the mean and the epistemic variance at k points, in standardised units."""
        outer = self._whiten(x)
        inner = _solve(self._inner, outer)
        prior = self._variances(_tensor(x))
        variance = prior - (outer * outer).sum(0).numpy() + (inner * inner).sum(0).numpy()
        mean: Array = self.hyper.mean + (inner.T @ self._centre).numpy()
        return mean, self.sd_scale**2 * np.maximum(variance, 1e-9 * np.maximum(prior, 1e-9))

    def draw(self, x: Array, s: int, seed: Sequence[int]) -> Array:
        """Return values of `s` functions at k points, s × k, in standardised units; see `GaussianHead.draw`."""
        features, weights, rest = prior_draws(self.terms, self.hyper, s, seed)
        mean, variance = self.predict(x)
        outer = self._whiten(x)
        inner = _solve(self._inner, outer).numpy()
        there = _solve(self._outer, torch.from_numpy(features(self.inducing))).numpy()
        left = features(x) - outer.numpy().T @ there
        deviation = weights @ left.T + rest.standard_normal((s, len(self.inducing))) @ inner
        size = np.sqrt((left * left).sum(1) + (inner * inner).sum(0))
        values: Array = mean + deviation * (np.sqrt(variance) / np.maximum(size, 1e-12))
        return values

    def leave_one_out(self) -> tuple[Array, Array]:
        """Return residuals (label minus prediction without it) and their standard deviations, noise included.

        Given the inducing points the labels are those of a linear layer, for which leaving one out is exact.
        """
        noise = math.exp(self.hyper.log_noise) + self.data.known
        outer = self._whiten(self.data.x)
        inner = _solve(self._inner, outer)
        spread_ = (inner * inner).sum(0).numpy()
        leverage = np.minimum(spread_ / noise, 1.0 - 1e-6)
        mean = self.hyper.mean + (inner.T @ self._centre).numpy()
        beside = np.maximum(self._variances(_tensor(self.data.x)) - (outer * outer).sum(0).numpy(), 0.0)
        sd: Array = self.sd_scale * np.sqrt(noise / (1.0 - leverage) + beside)
        return (self.data.y - mean) / (1.0 - leverage), sd

    def arrays(self) -> dict[str, Array]:
        """Return the state as arrays."""
        return {**super().arrays(), "inducing": self.inducing}

    @classmethod
    def from_arrays(cls, terms: tuple[Term, ...], arrays: Mapping[str, Array], sd_scale: float) -> VariationalHead:
        """Build from `arrays`."""
        hyper = Hyperparameters.unpack(arrays["hyper"], terms)
        data = Points(arrays["x"], arrays["y"], arrays["known"])
        return cls(terms, hyper, data, arrays["inducing"], sd_scale)

    def to_botorch(self, scaling: Scaling, shift: float, scale: float) -> Any:
        """Refuse: botorch would need an exact process.

        Raises:
            IncompatibleError: always.
        """
        del scaling, shift, scale
        message = (
            f"a variational head ({len(self.data)} labels) has no exact process for botorch; raise 'exact_up_to', or"
            " choose a policy that uses draws"
        )
        raise IncompatibleError(message)

    def _whiten(self, x: Array) -> torch.Tensor:
        """Return L⁻¹ k(Z, x), M × k, with L the factor of the inducing points' covariance."""
        return _solve(self._outer, self._covariance(self._z, _tensor(x)))


def centres(terms: Sequence[Term], x: Array) -> Array:
    """Return inducing points: centres of k-means on columns whose groups count equally.

    Args:
        terms: the covariance.
        x: n × d normalised columns.

    Returns:
        At most `INDUCING` × d.
    """
    from sklearn.cluster import KMeans  # noqa: PLC0415  only thousands of labels pay the import

    rows = x[spread(len(x), MOST_FOR_CENTRES)]
    count = min(INDUCING, len(np.unique(rows, axis=0)))
    weights = column_weights(terms, x.shape[1])
    found = KMeans(count, n_init=1, max_iter=15, random_state=0).fit(rows * weights)
    return np.array([rows[found.labels_ == k].mean(0) for k in range(count)])


def _tensor(array: Array) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))


def _solve(factor: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    solved: torch.Tensor = torch.linalg.solve_triangular(factor, right, upper=False)
    return solved
