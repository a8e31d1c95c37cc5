"""An exact Gaussian process on given features: one property, double precision, everything in closed form.

Hyperparameters are the maximum of the posterior (marginal likelihood times priors). Known standard errors enter as
known noise; further noise is always learned beside them. Draws are pathwise (Wilson et al., JMLR 22, 2021,
doi:10.48550/arXiv.2011.04026): a prior function from random features plus the exact update, so that a value never
depends on which other points are asked. Leave-one-out residuals are those of Sundararajan and Keerthi, Neural
Computation 13, 2001, doi:10.1162/08997660151134343.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, Self

import numpy as np
import torch

from orchestrator.domain import Array
from orchestrator.errors import Diverged
from orchestrator.surrogates.encoding import Scaling
from orchestrator.surrogates.evidence import log_prior
from orchestrator.surrogates.hyper import Hyperparameters, Points, covariance, learn
from orchestrator.surrogates.kernels import Term

JITTERS = (0.0, 1e-8, 1e-6, 1e-4)
"""Added to the diagonal in turn until the Cholesky factor exists; what was needed is noted."""
FREQUENCIES = 1024
"""Random frequencies, shared out among the radial terms: a prior correlation is off by about 1/sqrt(1024) = 3 %."""


class Head(Protocol):
    """What a surrogate asks of the uncertainty of one property, in standardised units; see `GaussianHead`."""

    terms: tuple[Term, ...]
    hyper: Hyperparameters
    data: Points
    sd_scale: float

    @property
    def jitter(self) -> float:
        """Number that was added to a diagonal to invert a matrix."""

    @property
    def noise_variance(self) -> float:
        """Variance of one more measurement."""

    def conditioned(self, data: Points) -> Head:
        """Return the same on other labels, hyperparameters and calibration kept."""

    def scaled(self, sd_scale: float) -> Head:
        """Return the same with other calibration."""

    def predict(self, x: Array) -> tuple[Array, Array]:
        """Return the mean and the epistemic variance at k points."""

    def draw(self, x: Array, s: int, seed: Sequence[int]) -> Array:
        """Return values of `s` functions at k points, s × k."""

    def leave_one_out(self) -> tuple[Array, Array]:
        """Return held-out residuals and their standard deviations."""

    def arrays(self) -> dict[str, Array]:
        """Return the state as arrays."""


class GaussianHead:
    """Gaussian process of one property.

    Args:
        terms: the covariance.
        hyper: hyperparameters.
        data: what it is conditioned on.
        sd_scale: calibration: factor of all standard deviations. It multiplies variances and noise alike, so means
            stay what they are.
    """

    def __init__(self, terms: tuple[Term, ...], hyper: Hyperparameters, data: Points, sd_scale: float = 1.0) -> None:
        self.terms = terms
        self.hyper = hyper
        self.data = data
        self.sd_scale = sd_scale
        self._x = torch.from_numpy(np.ascontiguousarray(data.x))
        matrix = self._covariance(self._x, self._x).numpy()
        matrix[np.diag_indices_from(matrix)] += math.exp(hyper.log_noise) + data.known
        self._chol, self.jitter = cholesky(matrix)
        self._alpha = _solve(self._chol, data.y - hyper.mean)

    # --- fitting ----------------------------------------------------------------------------------------------------

    @classmethod
    def fit(
        cls,
        terms: tuple[Term, ...],
        data: Points,
        start: Hyperparameters | None = None,
        steps: int = 60,
    ) -> GaussianHead:
        """Learn hyperparameters.

        Args:
            terms: the covariance.
            data: what it is conditioned on.
            start: an earlier fit's, tried besides the fixed starts.
            steps: most iterations of L-BFGS.

        Returns:
            The head, not yet calibrated.

        Raises:
            Diverged: no finite optimum was found.
        """
        hyper = learn(terms, data, start, steps)
        return cls(terms, hyper, data)

    def conditioned(self, data: Points) -> GaussianHead:
        """Return the same process on other data, hyperparameters and calibration kept."""
        return GaussianHead(self.terms, self.hyper, data, self.sd_scale)

    def scaled(self, sd_scale: float) -> Self:
        """Return the same process with its standard deviations multiplied by `sd_scale`."""
        other = type(self).__new__(type(self))
        other.__dict__.update(self.__dict__)
        other.sd_scale = sd_scale
        return other

    # --- asking -----------------------------------------------------------------------------------------------------

    @property
    def noise_variance(self) -> float:
        """Variance of one more measurement: learned noise plus the typical known one, calibrated."""
        typical = float(np.median(self.data.known)) if len(self.data.known) else 0.0
        return self.sd_scale**2 * (math.exp(self.hyper.log_noise) + typical)

    def predict(self, x: Array) -> tuple[Array, Array]:
        """Return the mean and the epistemic variance at k points, in standardised units."""
        points = torch.from_numpy(np.ascontiguousarray(x))
        prior = self._variances(points)
        if not len(self.data.y):
            return np.full(len(x), self.hyper.mean), self.sd_scale**2 * prior
        cross = self._covariance(points, self._x).numpy()
        half = torch.linalg.solve_triangular(self._chol, torch.from_numpy(cross.T), upper=False).numpy()
        variance = np.maximum(prior - (half * half).sum(0), 1e-12 * np.maximum(prior, 1e-12))
        return self.hyper.mean + cross @ self._alpha, self.sd_scale**2 * variance

    def draw(self, x: Array, s: int, seed: Sequence[int]) -> Array:
        """Return values of `s` functions at k points, s × k, in standardised units.

        Args:
            x: k × d features.
            s: number of functions; the first functions are the same for a larger `s`.
            seed: fixes the functions, together with the data.
        """
        features, weights, rest = prior_draws(self.terms, self.hyper, s, seed)
        prior = features(x)
        mean, variance = self.predict(x)
        if not len(self.data.y):
            return mean + self.sd_scale * (weights @ prior.T)
        noise = np.sqrt(math.exp(self.hyper.log_noise) + self.data.known)
        cross = self._covariance(torch.from_numpy(np.ascontiguousarray(x)), self._x).numpy()
        left = prior - cross @ _solve(self._chol, features(self.data.x))
        measured = cross @ _solve(self._chol, np.diag(noise))
        deviation = weights @ left.T
        deviation -= rest.standard_normal((s, len(self.data.y))) @ measured.T
        # Few random frequencies lie in the tail of the spectrum, which is all that is uncertain among many precise
        # labels; so the shape of the deviation is theirs and its size at each point is the exact one.
        size = np.sqrt((left * left).sum(1) + (measured * measured).sum(1))
        values: Array = mean + deviation * (np.sqrt(variance) / np.maximum(size, 1e-12))
        return values

    def leave_one_out(self) -> tuple[Array, Array]:
        """Return residuals (label minus prediction without it) and their standard deviations, noise included."""
        inverse = torch.cholesky_inverse(self._chol).numpy()
        diagonal = np.diag(inverse)
        residuals: Array = self._alpha / diagonal
        return residuals, self.sd_scale / np.sqrt(diagonal)

    def evidence(self) -> float:
        """Return the logarithm of the marginal likelihood times the hyperparameters' prior, up to a constant."""
        half = float((self.data.y - self.hyper.mean) @ self._alpha) / 2
        volume = float(torch.log(torch.diagonal(self._chol)).sum())
        return -half - volume + log_prior(self.hyper.pack(), self.terms)[0]

    # --- the same process elsewhere ---------------------------------------------------------------------------------

    def arrays(self) -> dict[str, Array]:
        """Return the state as arrays."""
        return {"hyper": self.hyper.pack(), "x": self.data.x, "y": self.data.y, "known": self.data.known}

    @classmethod
    def from_arrays(cls, terms: tuple[Term, ...], arrays: Mapping[str, Array], sd_scale: float) -> GaussianHead:
        """Build from `arrays`."""
        hyper = Hyperparameters.unpack(arrays["hyper"], terms)
        return cls(terms, hyper, Points(arrays["x"], arrays["y"], arrays["known"]), sd_scale)

    def to_botorch(self, scaling: Scaling, shift: float, scale: float) -> Any:
        """Return the process as a botorch `SingleTaskGP` over raw features and in the property's unit.

        Args:
            scaling: raw → normalised features.
            shift: subtracted when labels were standardised.
            scale: divided by when labels were standardised.

        Returns:
            The model in evaluation mode.
        """
        from botorch.models import SingleTaskGP  # noqa: PLC0415  see kernels.Term.to_gpytorch
        from gpytorch.kernels import AdditiveKernel  # noqa: PLC0415
        from gpytorch.likelihoods import GaussianLikelihood  # noqa: PLC0415
        from gpytorch.means import ConstantMean  # noqa: PLC0415
        from gpytorch.settings import min_fixed_noise  # noqa: PLC0415

        factor = (scale * self.sd_scale) ** 2
        kernels, offset = [], 0
        for term, log_variance in zip(self.terms, self.hyper.log_variances, strict=True):
            scales = self.hyper.log_lengthscales[offset : offset + term.lengthscales]
            offset += term.lengthscales
            kernels.append(term.to_gpytorch(scales.tolist(), factor * math.exp(log_variance)))
        y = torch.from_numpy((shift + scale * self.data.y)[:, None])
        mean = ConstantMean().double()
        mean.constant = shift + scale * self.hyper.mean
        noise = factor * (math.exp(self.hyper.log_noise) + self.data.known + self.jitter)
        known = bool(np.any(self.data.known))
        likelihood = None if known else GaussianLikelihood().double()
        if likelihood is not None:
            likelihood.noise_covar.register_constraint("raw_noise", _above_zero())
            likelihood.noise = float(noise[0])
        with min_fixed_noise(double_value=0.0):  # the same: 1e-6 would be much in S/cm
            model = SingleTaskGP(
                torch.from_numpy(np.ascontiguousarray(scaling.undo(self.data.x))),
                y,
                train_Yvar=torch.from_numpy(noise[:, None]) if known else None,
                likelihood=likelihood,
                covar_module=AdditiveKernel(*kernels),
                mean_module=mean,
                outcome_transform=None,
                input_transform=scaling.to_botorch(),
            )
        return model.eval()

    def _covariance(self, one: torch.Tensor, two: torch.Tensor) -> torch.Tensor:
        return covariance(self.terms, one, two, torch.from_numpy(self.hyper.pack()))

    def _variances(self, points: torch.Tensor) -> Array:
        total = np.zeros(len(points))
        for term, log_variance in zip(self.terms, self.hyper.log_variances, strict=True):
            total += math.exp(log_variance) * term.diagonal(points).numpy()
        return total


def _above_zero() -> Any:
    from gpytorch.constraints import GreaterThan  # noqa: PLC0415  see kernels.Term.to_gpytorch

    return GreaterThan(0.0)  # labels have units, so gpytorch's floor of 1e-4 would mean something else in each


def prior_draws(
    terms: tuple[Term, ...], hyper: Hyperparameters, s: int, seed: Sequence[int]
) -> tuple[Callable[[Array], Array], Array, np.random.Generator]:
    """Draw functions from the prior as weights of random features.

    Args:
        terms: the covariance.
        hyper: hyperparameters.
        s: number of functions; the first functions are the same for a larger `s`.
        seed: fixes them.

    Returns:
        k × d columns → k × F features; s × F weights; a generator for what else the draws need.
    """
    streams = np.random.SeedSequence(list(seed)).spawn(2 * len(terms) + 1)
    share = FREQUENCIES // max(1, sum(term.kind != "linear" for term in terms))
    parts, weights, offset = [], [], 0
    for j, term in enumerate(terms):
        scales = hyper.log_lengthscales[offset : offset + term.lengthscales]
        offset += term.lengthscales
        frequencies = term.frequencies(scales, share, np.random.default_rng(streams[2 * j]))
        parts.append((math.exp(0.5 * hyper.log_variances[j]), term, frequencies))
        width = len(term.columns) if term.kind == "linear" else 2 * share
        weights.append(np.random.default_rng(streams[2 * j + 1]).standard_normal((s, width)))

    def features(x: Array) -> Array:
        return np.hstack([amplitude * term.features(x, own) for amplitude, term, own in parts])

    return features, np.hstack(weights), np.random.default_rng(streams[-1])


def cholesky(matrix: Array) -> tuple[torch.Tensor, float]:
    """Factor a covariance, with a little added to its diagonal where it must be.

    Args:
        matrix: n × n.

    Returns:
        Lower factor, and what was added.

    Raises:
        Diverged: it has no factor.
    """
    for jitter in JITTERS:
        tried = torch.from_numpy(matrix + jitter * np.eye(len(matrix)))
        chol, info = torch.linalg.cholesky_ex(tried)
        if int(info) == 0 and bool(torch.all(torch.isfinite(chol))):
            return chol, jitter
    message = (
        f"the covariance of {len(matrix)} labelled points has no Cholesky factor, even with {JITTERS[-1]:g} added to"
        " its diagonal; look for features that are not finite"
    )
    raise Diverged(message)


def _solve(chol: torch.Tensor, right: Array) -> Array:
    if not len(right):
        return right
    columns = torch.from_numpy(np.ascontiguousarray(right.reshape(len(right), -1)))
    solved: Array = torch.cholesky_solve(columns, chol).numpy().reshape(right.shape)
    return solved
