"""How far a candidate lies from everything that was learned: its distance to the nearest label.

The distance is that of the normalised columns of an encoding, each group of columns counted once, whatever its width.
The unit is the distance within which 99 % of the labelled candidates have another labelled one, so that 1 is the edge
of what the labels themselves span (a nearest-neighbour applicability domain; for materials: Sheridan et al.,
J. Chem. Inf. Comput. Sci. 44, 1912, 2004, doi:10.1021/ci049782w). No hyperparameter takes part: a column that has not
mattered so far may matter out there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from orchestrator.domain import Array
from orchestrator.surrogates.kernels import Term

QUANTILE = 0.99
"""Share of the labelled candidates whose nearest neighbour lies within one unit."""
PAIRS = 10_000_000
"""Distances held at once: 80 MB."""
ALONE = 1.0
"""Unit where fewer than two different candidates are labelled: one standard deviation of the columns."""


@dataclass(frozen=True, eq=False)
class Familiarity:
    """Labelled candidates as points, and the unit of the distance to them.

    Args:
        weights: d factors of the normalised columns.
        points: k × d different labelled candidates, weighted.
        unit: distance that counts as 1.
    """

    weights: Array
    points: Array
    unit: float

    @classmethod
    def learn(cls, terms: Sequence[Term], x: Array) -> Familiarity:
        """Measure how close the labelled candidates lie to each other.

        Args:
            terms: the covariance over the columns; its groups of columns count equally.
            x: n × d normalised columns of the labelled candidates, replicates allowed.

        Returns:
            The distance.
        """
        weights = column_weights(terms, x.shape[1])
        points = np.unique(x * weights, axis=0)
        if len(points) < 2:  # noqa: PLR2004  one point has no neighbour
            return cls(weights, points, ALONE)
        unit = float(np.quantile(_nearest(points, points, apart=True), QUANTILE))
        return cls(weights, points, max(unit, 1e-9))

    def outside(self, x: Array) -> Array:
        """Return the distance to the nearest label in units, n; above 1 a prediction is an extrapolation.

        Args:
            x: n × d normalised columns.
        """
        if not len(self.points):
            return np.full(len(x), np.inf)
        distances: Array = _nearest(x * self.weights, self.points, apart=False) / self.unit
        return distances


def column_weights(terms: Sequence[Term], columns: int) -> Array:
    """Return d factors with which every group of columns has the same share in a squared distance.

    Args:
        terms: the covariance; the groups of its linear terms count where it has no others.
        columns: d.
    """
    radial = [term for term in terms if term.kind != "linear"] or list(terms)
    groups = list(dict.fromkeys(group for term in radial for group in term.groups))
    squares = np.zeros(columns)
    for group in groups:
        squares[list(group)] = np.maximum(squares[list(group)], 1.0 / (len(group) * len(groups)))
    weights: Array = np.sqrt(squares)
    return weights


def _nearest(one: Array, two: Array, *, apart: bool) -> Array:
    """Return the distance from each row of `one` to the nearest of `two`; `apart`: `two` is `one`, skip itself."""
    centre = two.mean(0)  # keeps the expanded square accurate far from the origin
    one, two = one - centre, two - centre
    squares = (two * two).sum(1)
    found = np.zeros(len(one))
    step = max(1, PAIRS // max(1, len(two)))
    for start in range(0, len(one), step):
        part = one[start : start + step]
        distances = (part * part).sum(1)[:, None] + squares[None, :] - 2.0 * (part @ two.T)
        if apart:
            distances[np.arange(len(part)), np.arange(start, start + len(part))] = np.inf
        found[start : start + step] = distances.min(1)
    nearest: Array = np.sqrt(np.maximum(found, 0.0))
    return nearest
