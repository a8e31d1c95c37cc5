"""Intervals that cover as often as they say, whatever the surrogate's own uncertainty is worth.

Conformal prediction needs no more than held-out predictions: an interval reaches as many standard deviations as the
residuals of labels that did not take part in making the prediction (Vovk, Gammerman and Shafer 2005; normalised
scores: Lei et al., J. Am. Stat. Assoc. 113, 1094, 2018, doi:10.1080/01621459.2017.1307116). The residuals here are
cross-validated ones, so that no label is lost to a calibration set; the stricter jackknife+ of Barber et al., Ann.
Stat. 49, 486 (2021), doi:10.1214/20-AOS1965, would need a prediction without each label at every point of a pool. It
holds on average over candidates like the labelled ones; for candidates that were *chosen* no method can promise it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from orchestrator.domain import Array
from orchestrator.errors import NotEnoughData


@dataclass(frozen=True, eq=False)
class Conformal:
    """Standardised sizes of held-out residuals.

    Args:
        scores: k numbers |label − prediction without it| / its standard deviation, ascending.
    """

    scores: Array

    @classmethod
    def learn(cls, residuals: Array, sd: Array) -> Conformal:
        """Keep the scores of held-out predictions.

        Args:
            residuals: k labels minus predictions that have not seen them.
            sd: their k standard deviations, calibrated alike as those that `interval` will be given.

        Returns:
            The scores.
        """
        return cls(np.sort(np.abs(residuals) / np.maximum(sd, 1e-300)))

    def reach(self, level: float) -> float:
        """Return how many standard deviations an interval reaches on either side.

        Args:
            level: share of labels to be covered, above 0 and below 1.

        Returns:
            The ⌈(k + 1) · level⌉-th smallest score.

        Raises:
            NotEnoughData: no finite interval is covered by so few residuals.
            ValueError: the level is not between 0 and 1.
        """
        if not 0.0 < level < 1.0:
            message = f"the level of an interval is {level:g}; write a number above 0 and below 1, such as 0.9"
            raise ValueError(message)
        k = len(self.scores)
        place = math.ceil((k + 1) * level - 1e-9)
        if place > k:
            fewest = math.ceil(level / (1.0 - level) - 1e-9)
            message = (
                f"a {level:.0%} interval that rests on held-out labels needs {fewest} of them, and there are {k};"
                " measure more, or ask for a lower level"
            )
            raise NotEnoughData(message)
        return float(self.scores[place - 1])

    def interval(self, mean: Array, sd: Array, level: float) -> tuple[Array, Array]:
        """Return lower and upper ends.

        Args:
            mean: predictions of any shape.
            sd: standard deviations of one more measurement, of the same shape.
            level: share of labels to be covered.

        Raises:
            NotEnoughData: see `reach`.
        """
        reach = self.reach(level)
        return mean - reach * sd, mean + reach * sd
