"""Several Gaussian processes on different features of the same labels, asked as one: their mixture.

Moments are those of Lakshminarayanan et al., NeurIPS 2017, doi:10.48550/arXiv.1612.01474: the variance of the mixture
is the mean of the members' variances plus the variance of their means. A draw belongs to one member.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from orchestrator.domain import Array
from orchestrator.surrogates.heads import GaussianHead
from orchestrator.surrogates.hyper import Hyperparameters, Points
from orchestrator.surrogates.kernels import Term


class MixtureHead:
    """Members that share hyperparameters and labels; see `GaussianHead` for the methods.

    Args:
        terms: covariance of a member over its own columns.
        hyper: shared hyperparameters.
        data: all columns and labels.
        columns: those of each member.
        sd_scale: calibration: factor of all standard deviations, disagreement included.
    """

    def __init__(
        self,
        terms: tuple[Term, ...],
        hyper: Hyperparameters,
        data: Points,
        columns: Sequence[Sequence[int]],
        *,
        sd_scale: float = 1.0,
    ) -> None:
        self.terms, self.hyper, self.data, self.columns, self.sd_scale = terms, hyper, data, columns, sd_scale
        self.members = tuple(
            GaussianHead(terms, hyper, Points(data.x[:, list(own)], data.y, data.known), sd_scale) for own in columns
        )

    @property
    def jitter(self) -> float:
        """Largest number that was added to a member's diagonal."""
        return max(member.jitter for member in self.members)

    @property
    def noise_variance(self) -> float:
        """Variance of one more measurement."""
        return self.members[0].noise_variance

    def conditioned(self, data: Points) -> MixtureHead:
        """Return the same mixture on other data."""
        return MixtureHead(self.terms, self.hyper, data, self.columns, sd_scale=self.sd_scale)

    def scaled(self, sd_scale: float) -> MixtureHead:
        """Return the same mixture with its standard deviations multiplied by `sd_scale`."""
        return MixtureHead(self.terms, self.hyper, self.data, self.columns, sd_scale=sd_scale)

    def predict(self, x: Array) -> tuple[Array, Array]:
        """Return the mean and the epistemic variance at k points, in standardised units."""
        answers = [member.predict(x[:, list(own)]) for member, own in zip(self.members, self.columns, strict=True)]
        means = np.array([mean for mean, _ in answers])
        variances = np.array([variance for _, variance in answers])
        return means.mean(0), variances.mean(0) + self.sd_scale**2 * means.var(0)

    def draw(self, x: Array, s: int, seed: Sequence[int]) -> Array:
        """Return values of `s` functions at k points, s × k; function i belongs to member i modulo their number."""
        values = np.zeros((s, len(x)))
        centre = np.mean([m.predict(x[:, list(own)])[0] for m, own in zip(self.members, self.columns, strict=True)], 0)
        for k, (member, own) in enumerate(zip(self.members, self.columns, strict=True)):
            rows = values[k :: len(self.members)]
            mean, _ = member.predict(x[:, list(own)])
            # A member's distance from the mean of all is uncertainty too, and is calibrated like the rest of it.
            moved = centre + self.sd_scale * (mean - centre) - mean
            rows[:] = member.draw(x[:, list(own)], len(rows), (*seed, k)) + moved
        return values

    def arrays(self) -> dict[str, Array]:
        """Return the state as arrays."""
        return {"hyper": self.hyper.pack(), "x": self.data.x, "y": self.data.y, "known": self.data.known}
