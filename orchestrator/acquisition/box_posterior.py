"""Gaussian processes over the coordinates of a box, conditioned on drawn values at some points, in closed form.

A noisy expected improvement averages over what the measured points are really worth. Given one draw of those values
the property at any other point is still Gaussian, with a mean that follows the draw and a standard deviation that
does not, so that only the measured points are drawn and everything else is exact (Letham, Karrer, Ottoni, Bakshy,
Bayesian Anal. 14, 495 (2019), doi:10.1214/18-BA1110). Points in flight are drawn with them.

Shapes: N points asked, d coordinates, b known points, S draws, n labels, m properties.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from linear_operator.utils.warnings import NumericalWarning

from orchestrator.abilities import BotorchView
from orchestrator.acquisition.encoding import Encoding
from orchestrator.domain import Array

LEAST = 1e-12
"""Smallest variance as a share of the prior's: what rounding errors leave of a variance that is zero."""
JITTERS = (1e-10, 1e-8, 1e-6, 1e-4)
"""Added to the diagonal in turn, as a share of its mean, until the Cholesky factor exists."""
CLOSE = 1e-5
"""Relative error up to which a process counts as understood."""


class Process:
    """The posterior of one property: an exact Gaussian process of botorch, asked in plain matrices.

    Args:
        inner: a `SingleTaskGP` with one output, in evaluation mode.
        encoding: from coordinates to its inputs.
    """

    def __init__(self, inner: Any, encoding: Encoding) -> None:
        self.inner = inner
        self.encoding = encoding
        self._x = inner.train_inputs[0].detach()
        self._summands = _summands(inner.covar_module)
        noise = inner.likelihood.noise.detach().expand(len(self._x))
        matrix = self.prior_between(self._x, self._x).detach() + torch.diag(noise)
        self._chol = cholesky(matrix)
        rest = inner.train_targets.detach() - inner.mean_module(self._x).detach()
        self._alpha = torch.cholesky_solve(rest.unsqueeze(-1), self._chol).squeeze(-1)
        self.noise = float(noise.median())

    def ask(self, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return means (N), variances (N), whitened covariances with the labels (n × N), and inputs (N × columns)."""
        inputs = self.inner.transform_inputs(self.encoding(points))
        cross = self.prior_between(inputs, self._x)
        half = torch.linalg.solve_triangular(self._chol, cross.T, upper=False)
        prior = self._prior(inputs)
        least = LEAST * float(prior.detach().max()) if len(points) else 0.0
        variance = (prior - (half * half).sum(0)).clamp_min(least)
        return self.inner.mean_module(inputs) + cross @ self._alpha, variance, half, inputs

    def between(
        self, half: torch.Tensor, inputs: torch.Tensor, other_half: torch.Tensor, other: torch.Tensor
    ) -> torch.Tensor:
        """Return posterior covariances of N points with b others, N × b, from what `ask` said of both."""
        return self.prior_between(inputs, other) - half.T @ other_half

    def prior_between(self, one: torch.Tensor, two: torch.Tensor) -> torch.Tensor:
        """Return prior covariances of inputs."""
        if self._summands is None:
            return self.inner.covar_module(one, two).to_dense()  # type: ignore[no-any-return]
        return sum((part(one, two) for part in self._summands), torch.zeros((), dtype=torch.double))

    def _prior(self, inputs: torch.Tensor) -> torch.Tensor:
        if self._summands is None:
            return self.inner.covar_module(inputs, diag=True)  # type: ignore[no-any-return]
        return torch.full((len(inputs),), sum(part.variance for part in self._summands), dtype=torch.double)


class Sum:
    """A weighted sum of independent processes, asked like one: levels of fidelity that stand on each other.

    Args:
        parts: weight and process of each; the noise is the first one's.
    """

    def __init__(self, parts: tuple[tuple[float, Process], ...]) -> None:
        self.parts = parts
        self.noise = parts[0][1].noise

    def ask(self, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return means (N), variances (N), whitened covariances with all labels, and all inputs side by side."""
        told = [process.ask(points) for _, process in self.parts]
        weights = [weight for weight, _ in self.parts]
        mean = sum((w * one[0] for w, one in zip(weights, told, strict=True)), torch.zeros((), dtype=torch.double))
        variance = sum((w**2 * one[1] for w, one in zip(weights, told, strict=True)), torch.zeros(()))
        half = torch.cat([abs(w) * one[2] for w, one in zip(weights, told, strict=True)])
        return mean, variance, half, torch.cat([one[3] for one in told], dim=1)

    def between(
        self, half: torch.Tensor, inputs: torch.Tensor, other_half: torch.Tensor, other: torch.Tensor
    ) -> torch.Tensor:
        """Return posterior covariances of N points with b others, N × b, from what `ask` said of both."""
        width = inputs.shape[1] // len(self.parts)
        total = -half.T @ other_half
        for k, (weight, process) in enumerate(self.parts):
            own = slice(k * width, (k + 1) * width)
            total = total + weight**2 * process.prior_between(inputs[:, own], other[:, own])
        return total


@dataclass(frozen=True, eq=False)
class _Summand:
    """One scaled radial kernel in plain operations: gpytorch's lazy ones cost more than their numbers on few points."""

    variance: float
    smooth: bool  # squared exponential instead of Matérn 5/2
    columns: list[int]
    lengthscales: torch.Tensor

    def __call__(self, one: torch.Tensor, two: torch.Tensor) -> torch.Tensor:
        a, b = one[:, self.columns] / self.lengthscales, two[:, self.columns] / self.lengthscales
        centre = b.detach().mean(0) if len(b) else 0.0  # keeps the expanded square accurate
        a, b = a - centre, b - centre
        squared = ((a * a).sum(1)[:, None] + (b * b).sum(1)[None, :] - 2.0 * (a @ b.T)).clamp_min(0.0)
        if self.smooth:
            return self.variance * torch.exp(-0.5 * squared)
        apart = torch.sqrt(5.0 * squared + 1e-20)
        return self.variance * (1.0 + apart + apart * apart / 3.0) * torch.exp(-apart)


def _summands(kernel: Any) -> list[_Summand] | None:
    """Take a sum of scaled radial kernels apart; None where it is something else."""
    from gpytorch.kernels import AdditiveKernel, MaternKernel, RBFKernel, ScaleKernel  # noqa: PLC0415  with botorch

    parts = list(kernel.kernels) if type(kernel) is AdditiveKernel else [kernel]
    found = []
    for part in parts:
        base: Any = part.base_kernel if type(part) is ScaleKernel else None
        radial = type(base) is RBFKernel or (type(base) is MaternKernel and base.nu == 2.5)  # noqa: PLR2004  Matérn 5/2
        if base is None or not radial or base.active_dims is None or part.outputscale.numel() != 1:
            return None
        scales = base.lengthscale.detach().flatten().double()
        found.append(_Summand(float(part.outputscale), type(base) is RBFKernel, base.active_dims.tolist(), scales))
    return found


class Conditioned:
    """One property given drawn (or fixed) values at known points.

    Args:
        process: the property.
        known: b × d coordinates.
        normal: S × b standard normal numbers, which fix the values; zeros stand for conditional means.
        noise: variance of what is known of the points: 0 for the function's own values.
    """

    def __init__(self, process: Process | Sum, known: torch.Tensor, normal: torch.Tensor, noise: float = 0.0) -> None:
        self.process = process
        self.normal = normal
        with torch.no_grad():
            self.mean, _, self._half, self._inputs = process.ask(known)
            covariance = process.between(self._half, self._inputs, self._half, self._inputs)
            self._chol = cholesky(covariance + noise * torch.eye(len(known), dtype=torch.double))
            self.values = self.mean + normal @ self._chol.T

    def __call__(self, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return means in each draw, S × N, and standard deviations, N."""
        mean, variance, half, inputs = self.process.ask(points)
        if not len(self._inputs):
            return mean.expand(len(self.normal), -1), variance.sqrt()
        across = self.process.between(half, inputs, self._half, self._inputs)
        white = torch.linalg.solve_triangular(self._chol, across.T, upper=False)  # b × N
        left = (variance - (white * white).sum(0)).clamp_min(LEAST * float(variance.detach().max()))
        return mean + self.normal @ white, left.sqrt()


@dataclass(frozen=True, eq=False)
class BoxPosterior:
    """The m properties of a surrogate as independent processes over one box."""

    processes: tuple[Process | Sum, ...]

    @classmethod
    def find(cls, view: BotorchView, encoding: Encoding, check: Array) -> BoxPosterior | None:
        """Take a botorch view apart.

        Args:
            view: of a surrogate.
            encoding: of its inputs.
            check: coordinates of points on which the result is compared with what the view says.

        Returns:
            The posterior; None where the view is something else than independent exact processes.
        """
        from botorch.models import ModelListGP, SingleTaskGP  # noqa: PLC0415  only boxes pay the import

        parts = list(view.model.models) if type(view.model) is ModelListGP else [view.model]
        sums = view.summands or tuple(((1.0, part),) for part in parts)
        inner = [part for summands in sums for _, part in summands]
        if not all(type(part) is SingleTaskGP and part.num_outputs == 1 for part in inner):
            return None
        if any(getattr(part, "outcome_transform", None) is not None for part in inner):
            return None
        points = torch.from_numpy(check)
        processes: list[Process | Sum] = []
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore", NumericalWarning)
            said = view.model.eval().posterior(encoding(points).unsqueeze(-2))
            for j, summands in enumerate(sums):
                made = [(weight, Process(part.eval(), encoding)) for weight, part in summands]
                process = made[0][1] if len(made) == 1 and made[0][0] == 1.0 else Sum(tuple(made))
                mean, variance, _, _ = process.ask(points)
                told = max(abs(weight) * float(part.train_targets.std()) for weight, part in summands)
                scale = told + float(said.variance[..., j].max().sqrt())
                apart = (
                    (mean - said.mean[:, 0, j]).abs().max(),
                    (variance - said.variance[:, 0, j]).abs().max() / scale,
                )
                if not max(map(float, apart)) <= CLOSE * scale:
                    return None
                processes.append(process)
        return cls(tuple(processes))


def cholesky(matrix: torch.Tensor) -> torch.Tensor:
    """Factor a covariance, a little added to its diagonal; what has no factor gives NaN, which is refused later."""
    if not len(matrix):
        return matrix
    size = matrix.diagonal().mean()
    for jitter in JITTERS:
        chol, info = torch.linalg.cholesky_ex(matrix + jitter * size * torch.eye(len(matrix), dtype=matrix.dtype))
        if int(info) == 0:
            return chol  # type: ignore[no-any-return]
    return torch.full_like(matrix, float("nan"))


def normal_draws(s: int, width: int, seed: int) -> torch.Tensor:
    """Return S × width standard normal numbers from a scrambled Sobol sequence."""
    if not width:
        return torch.zeros(s, 0, dtype=torch.double)
    engine: Any = torch.quasirandom.SobolEngine  # untyped
    uniform = engine(width, scramble=True, seed=seed % 2**31).draw(s, dtype=torch.double)
    edge = float(np.finfo(np.float64).eps)
    normal: torch.Tensor = torch.special.ndtri(uniform.clamp(edge, 1 - 1e-9))
    return normal
