"""Several Gaussian processes on different features of the same labels, asked as one: their mixture.

Moments are those of Lakshminarayanan et al., NeurIPS 2017, doi:10.48550/arXiv.1612.01474: the variance of the mixture
is the mean of the members' variances plus the variance of their means. A draw belongs to one member.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from orchestrator.domain import Array
from orchestrator.surrogates.heads import GaussianHead
from orchestrator.surrogates.hyper import Points


class MixtureHead:
    """Members that share hyperparameters and labels; see `GaussianHead` for the methods.

    Args:
        members: processes, each on its own columns.
        data: all columns and labels.
        columns: those of each member.
    """

    def __init__(self, members: Sequence[GaussianHead], data: Points, columns: Sequence[Sequence[int]]) -> None:
        self.members, self.data, self.columns = tuple(members), data, columns
        self.terms, self.hyper, self.sd_scale = members[0].terms, members[0].hyper, members[0].sd_scale

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
        pairs = zip(self.members, self.columns, strict=True)
        return MixtureHead([member.conditioned(seen(data, own)) for member, own in pairs], data, self.columns)

    def scaled(self, sd_scale: float) -> MixtureHead:
        """Return the same mixture with its standard deviations multiplied by `sd_scale`, disagreement included."""
        return MixtureHead([member.scaled(sd_scale) for member in self.members], self.data, self.columns)

    def leave_one_out(self) -> tuple[Array, Array]:
        """Return the mean of the members' residuals, and the standard deviations of their mixture."""
        answers = [member.leave_one_out() for member in self.members]
        residuals = np.array([residual for residual, _ in answers])
        variances = np.array([sd**2 for _, sd in answers])
        sd: Array = np.sqrt(variances.mean(0) + self.sd_scale**2 * residuals.var(0))
        return residuals.mean(0), sd

    def predict(self, x: Array) -> tuple[Array, Array]:
        """Return the mean and the epistemic variance at k points, in standardised units."""
        answers = [member.predict(x[:, list(own)]) for member, own in zip(self.members, self.columns, strict=True)]
        means = np.array([mean for mean, _ in answers])
        variances = np.array([variance for _, variance in answers])
        return means.mean(0), variances.mean(0) + self.sd_scale**2 * means.var(0)

    def centres(self, x: Array) -> Array:
        """Return what each member expects at k points, members × k, their differences calibrated as in `predict`."""
        means = np.array([m.predict(x[:, list(own)])[0] for m, own in zip(self.members, self.columns, strict=True)])
        centre = means.mean(0)
        calibrated: Array = centre + self.sd_scale * (means - centre)
        return calibrated

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
        own = {
            f"{name}.{k}": array
            for k, member in enumerate(self.members)
            for name, array in member.arrays().items()
            if name == "inducing"
        }
        return {"hyper": self.hyper.pack(), "x": self.data.x, "y": self.data.y, "known": self.data.known, **own}


def seen(data: Points, columns: Sequence[int]) -> Points:
    """Return labels as one member sees them."""
    return Points(data.x[:, list(columns)], data.y, data.known)
