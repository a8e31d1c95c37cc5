"""Covariances of candidates read from joint draws, conditioned on measurements in turn.

Any surrogate with draws can be used. A covariance from s draws is off by about 1/√s, and its square is too large by
that much in the mean, which `explained` takes off: summed over a thousand candidates it would drown what is there.
"""

from __future__ import annotations

import numpy as np

from orchestrator.domain import Array


class Covariances:
    """What is left unknown of n points after measuring others, for m properties.

    Args:
        drawn: joint draws, s × n × m.
        noise: m variances of one more measurement.
    """

    def __init__(self, drawn: Array, noise: Array) -> None:
        self.draws = len(drawn)
        self.noise = np.asarray(noise, dtype=np.float64)
        centred = drawn - drawn.mean(axis=0)
        self.matrices = np.einsum("snm,skm->mnk", centred, centred, optimize=True) / len(drawn)
        self.before = np.maximum(self.variances(), np.finfo(float).tiny)

    def variances(self) -> Array:
        """Return what is left of the variances, n × m."""
        return np.asarray(np.maximum(np.einsum("mnn->nm", self.matrices), 0.0))

    def left(self) -> Array:
        """Return the share of the standard deviations that is left, n × m."""
        return np.asarray(np.sqrt(np.clip(self.variances() / self.before, 0.0, 1.0)))

    def include(self, j: int) -> None:
        """Count point j as measured once."""
        for m, matrix in enumerate(self.matrices):
            power = matrix[j, j] + self.noise[m]
            if power > 0:
                column = matrix[:, j].copy()
                self.matrices[m] -= np.outer(column, column) / power

    def explained(self, candidates: Array, points: Array) -> Array:
        """Return how much variance, summed over points, measuring each candidate would take away.

        Args:
            candidates: k positions.
            points: p positions.

        Returns:
            k × m.
        """
        found = np.zeros((len(candidates), len(self.matrices)))
        for m, matrix in enumerate(self.matrices):
            own = np.maximum(np.diag(matrix), 0.0)
            power = own[candidates] + self.noise[m]
            squares = (matrix[np.ix_(candidates, points)] ** 2).sum(axis=1)
            chance = own[candidates] * own[points].sum() / self.draws
            real = np.maximum(squares - chance, 0.0) / (1.0 + 1.0 / self.draws)
            found[:, m] = np.where(power > 0, real / np.maximum(power, np.finfo(float).tiny), 0.0)
        return found
