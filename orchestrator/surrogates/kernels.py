"""Covariance functions as plain tensors: sums of terms, each a radial or linear function of some feature columns.

Every term can give its matrix, a finite set of random features of its prior (Rahimi and Recht, NeurIPS 2007), and its
twin in gpytorch; the three are one function, which a test asserts. Lengthscale priors grow with the square root of the
number of columns (Hvarfner et al., ICML 2024, doi:10.48550/arXiv.2402.02229).

Hyperparameters are the most probable ones, and what is most probable depends on what the prior is a density of: that of
a lengthscale peaks at e^-3 of its median, that of its logarithm at the median. Numbers on a declared range take the
former, as in botorch: under the latter, whatever bends within the range is taken for noise until some thirty labels say
otherwise, and a search stays in the corners. Choices and descriptors take the latter: few labels tell what they share.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from orchestrator.domain import Array, JsonObject

Kind = Literal["matern52", "rbf", "linear"]

LENGTHSCALE_SIGMA = math.sqrt(3.0)
"""Spread of the log-normal lengthscale prior (Hvarfner et al.)."""
MATERN_DEGREES = 5
"""Degrees of freedom of the Student-t spectral density of Matérn 5/2."""


@dataclass(frozen=True)
class Term:
    """One summand of a covariance.

    Args:
        kind: radial function, or ``linear``.
        groups: columns that share a lengthscale; a linear term has one group and no lengthscale.
        ranged: which of the groups are numbers on a declared range.
    """

    kind: Kind
    groups: tuple[tuple[int, ...], ...]
    ranged: tuple[int, ...] = ()

    @property
    def columns(self) -> tuple[int, ...]:
        """Columns used, in the order of the groups."""
        return tuple(column for group in self.groups for column in group)

    @property
    def lengthscales(self) -> int:
        """Number of lengthscales."""
        return 0 if self.kind == "linear" else len(self.groups)

    def to_json(self) -> JsonObject:
        """Return the term as JSON content."""
        return {"kind": self.kind, "groups": [list(group) for group in self.groups], "ranged": list(self.ranged)}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Term:
        """Build the term from `to_json` content."""
        groups = tuple(tuple(int(c) for c in group) for group in content["groups"])
        return cls(content["kind"], groups, tuple(int(k) for k in content.get("ranged", ())))

    def expand(self, log_lengthscales: torch.Tensor) -> torch.Tensor:
        """Repeat the lengthscale of each group for each of its columns."""
        counts = torch.tensor([len(group) for group in self.groups])
        return torch.repeat_interleave(log_lengthscales, counts)

    def matrix(self, one: torch.Tensor, two: torch.Tensor, log_lengthscales: torch.Tensor) -> torch.Tensor:
        """Return the covariance at unit variance.

        Args:
            one: n × d features.
            two: k × d features.
            log_lengthscales: one a group.

        Returns:
            n × k.
        """
        columns = list(self.columns)
        a, b = one[:, columns], two[:, columns]
        if self.kind == "linear":
            return a @ b.T / len(columns)
        inverse = torch.exp(-self.expand(log_lengthscales))
        a, b = a * inverse, b * inverse
        center = b.mean(0) if len(b) else 0.0  # keeps the expanded square accurate far from the origin
        a, b = a - center, b - center
        squared = ((a * a).sum(1)[:, None] + (b * b).sum(1)[None, :] - 2.0 * (a @ b.T)).clamp_min(0.0)
        if self.kind == "rbf":
            return torch.exp(-0.5 * squared)
        scaled = torch.sqrt(5.0 * squared + 1e-20)  # the small number keeps the gradient at zero distance finite
        return (1.0 + scaled + scaled * scaled / 3.0) * torch.exp(-scaled)

    def diagonal(self, one: torch.Tensor) -> torch.Tensor:
        """Return the prior variance at unit variance, n."""
        if self.kind == "linear":
            return (one[:, list(self.columns)] ** 2).mean(1)
        return torch.ones(len(one), dtype=one.dtype)

    def frequencies(self, log_lengthscales: Array, count: int, rng: np.random.Generator) -> Array:
        """Draw spectral frequencies.

        Args:
            log_lengthscales: one a group.
            count: number of frequencies; each gives a cosine and a sine.
            rng: source of randomness.

        Returns:
            count × columns; empty for a linear term, whose features are its columns.
        """
        if self.kind == "linear":
            return np.zeros((0, len(self.columns)))
        normal = rng.standard_normal((count, len(self.columns)))
        if self.kind == "matern52":
            normal *= np.sqrt(MATERN_DEGREES / rng.chisquare(MATERN_DEGREES, size=(count, 1)))
        return normal * np.exp(-np.repeat(log_lengthscales, [len(group) for group in self.groups]))

    def features(self, one: Array, frequencies: Array) -> Array:
        """Return random features whose inner products approximate `matrix`.

        Args:
            one: n × d features.
            frequencies: from `frequencies`.

        Returns:
            n × twice the number of frequencies, or n × columns for a linear term.
        """
        columns = one[:, list(self.columns)]
        if self.kind == "linear":
            scaled: Array = columns / math.sqrt(len(self.columns))
            return scaled
        phase = columns @ frequencies.T
        return np.hstack([np.cos(phase), np.sin(phase)]) / math.sqrt(len(frequencies))

    def log_prior(self, log_lengthscales: Array) -> float:
        """Return the log density of the lengthscales' prior, up to a constant."""
        about_logarithms = -0.5 * float((((log_lengthscales - self.prior_center()) / LENGTHSCALE_SIGMA) ** 2).sum())
        return about_logarithms - float(log_lengthscales[list(self.ranged)].sum())

    def prior_center(self) -> float:
        """Return the median of the log lengthscale."""
        return math.sqrt(2.0) + 0.5 * math.log(len(self.columns))

    def to_gpytorch(self, log_lengthscales: Sequence[float], variance: float) -> Any:
        """Return the same covariance as a gpytorch kernel.

        Args:
            log_lengthscales: one a group.
            variance: of the term.

        Returns:
            A `ScaleKernel` in double precision.
        """
        import gpytorch  # noqa: PLC0415  one more second that only acquisition with gradients pays

        columns = tuple(self.columns)
        if self.kind == "linear":
            kernel = gpytorch.kernels.LinearKernel(active_dims=columns).double()
            kernel.variance = 1.0 / len(columns)
        else:
            base = gpytorch.kernels.RBFKernel if self.kind == "rbf" else gpytorch.kernels.MaternKernel
            more = {} if self.kind == "rbf" else {"nu": 2.5}
            kernel = base(ard_num_dims=len(columns), active_dims=columns, **more).double()
            log_all = self.expand(torch.tensor(list(log_lengthscales), dtype=torch.float64))
            kernel.lengthscale = torch.exp(log_all)
        scaled = gpytorch.kernels.ScaleKernel(kernel).double()
        scaled.outputscale = variance
        return scaled
