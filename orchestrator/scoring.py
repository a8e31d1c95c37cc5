"""How good predictions with standard deviations were: the one place where error and honesty are measured.

Everything is a function of errors (value minus prediction) and the standard deviations of the normal distributions that
were predicted. Used on held-out labels, on what came of a campaign's own proposals, and by the benchmarks.

Sources: negative log likelihood and CRPS: Gneiting & Raftery, J. Am. Stat. Assoc. 102, 359 (2007),
doi:10.1198/016214506000001437; ENCE: Levi et al., Sensors 22, 5540 (2022), doi:10.3390/s22155540; miscalibration area
and sharpness: Tran et al., Mach. Learn.: Sci. Technol. 1, 025006 (2020), doi:10.1088/2632-2153/ab7e1a.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import bdtr, erf, erfinv, ndtr

Array = npt.NDArray[np.float64]

LEVELS = (0.5, 0.8, 0.9, 0.95)
"""Nominal coverages that are reported."""
BINS = 10
"""Most bins of equal count for the ENCE."""
FEWEST_IN_BIN = 20
"""Predictions below which a bin's root mean square says nothing; where there are fewer than twice so many, one bin."""
FEWEST_TO_RANK = 3
"""Pairs below which a rank correlation is no number."""
GRID = np.linspace(0.0, 1.0, 101)
"""Nominal coverages over which the miscalibration area is integrated."""


@dataclass(frozen=True, eq=False)
class Predicted:
    """Predictions beside what came, n each, all in one unit.

    Args:
        values: what came.
        mean: what was predicted.
        sd: standard deviations of one more measurement, as predicted.
    """

    values: Array
    mean: Array
    sd: Array

    @property
    def errors(self) -> Array:
        """Values minus predictions."""
        return self.values - self.mean


def score(predicted: Predicted) -> dict[str, float]:
    """Measure predictions.

    Args:
        predicted: n predictions and what came.

    Returns:
        By name, in the unit of the values where there is one: ``mae``, ``rmse``, ``max_error``, ``bias`` (value minus
        prediction), ``r2`` (NaN where the values do not vary), ``coverage_50`` … ``coverage_95`` (observed share
        inside central intervals), ``nll`` (nats), ``crps`` (the absolute error of a certain prediction), ``ence`` (0
        where stated and observed spread agree in every bin), ``miscalibration_area`` (0 to 0.5), ``sharpness`` (root
        mean square sd), ``spearman`` (rank correlation of absolute error and sd, NaN where either does not vary).

    Raises:
        ValueError: there are no predictions, or a standard deviation is not positive.
    """
    e, sd = predicted.errors, predicted.sd
    if len(e) == 0 or len(e) != len(sd) or not (sd > 0).all():
        message = f"{len(e)} errors, {len(sd)} standard deviations, the smallest {sd.min(initial=math.inf)}: there must"
        message += " be as many of the one as of the other, at least one, and each standard deviation above 0"
        raise ValueError(message)
    spread = float(np.var(predicted.values))
    return {
        "mae": float(np.abs(e).mean()),
        "rmse": float(np.sqrt(np.mean(e**2))),
        "max_error": float(np.abs(e).max()),
        "bias": float(e.mean()),
        "r2": 1.0 - float(np.mean(e**2)) / spread if spread > 0 else math.nan,
        **{f"coverage_{100 * level:g}": coverage(e, sd, level) for level in LEVELS},
        "nll": float(log_losses(e, sd).mean()),
        "crps": float(crps(e, sd).mean()),
        "ence": ence(e, sd),
        "miscalibration_area": miscalibration_area(e, sd),
        "sharpness": float(np.sqrt(np.mean(sd**2))),
        "spearman": rank_correlation(np.abs(e), sd),
    }


def coverage(errors: Array, sd: Array, level: float) -> float:
    """Return the share of values inside the central interval of a nominal coverage."""
    return float((np.abs(errors) <= math.sqrt(2.0) * erfinv(level) * sd).mean())


def log_losses(errors: Array, sd: Array) -> Array:
    """Return each prediction's negative log likelihood, in nats."""
    losses: Array = 0.5 * (errors / sd) ** 2 + np.log(sd) + 0.5 * math.log(2 * math.pi)
    return losses


def crps(errors: Array, sd: Array) -> Array:
    """Return each prediction's continuous ranked probability score, in the unit of the errors."""
    z = errors / sd
    density = np.exp(-0.5 * z**2) / math.sqrt(2 * math.pi)
    scores: Array = sd * (z * (2 * ndtr(z) - 1) + 2 * density - 1 / math.sqrt(math.pi))
    return scores


def ence(errors: Array, sd: Array) -> float:
    """Return the expected normalised calibration error over bins of equal count, sorted by standard deviation."""
    bins = np.array_split(np.argsort(sd, kind="stable"), max(1, min(BINS, len(sd) // FEWEST_IN_BIN)))
    stated = np.array([math.sqrt(float(np.mean(sd[own] ** 2))) for own in bins])
    observed = np.array([math.sqrt(float(np.mean(errors[own] ** 2))) for own in bins])
    return float(np.mean(np.abs(stated - observed) / stated))


def miscalibration_area(errors: Array, sd: Array) -> float:
    """Return the area between the observed coverage of central intervals and the nominal one."""
    inside = np.sort(erf(np.abs(errors / sd) / math.sqrt(2.0)))  # the nominal coverage at which each value enters
    observed = np.searchsorted(inside, GRID, side="right") / len(inside)
    gap = np.abs(observed - GRID)
    return float(np.sum((gap[1:] + gap[:-1]) / 2 * np.diff(GRID)))


def rank_correlation(one: Array, other: Array) -> float:
    """Return Spearman's rank correlation; NaN with fewer than three pairs, or where either side does not vary."""
    if len(one) < FEWEST_TO_RANK or np.ptp(one) == 0 or np.ptp(other) == 0:
        return math.nan
    return float(np.corrcoef(_ranks(one), _ranks(other))[0, 1])


def binomial_band(n: int, level: float, confidence: float = 0.95) -> tuple[int, int]:
    """Return between which counts of values inside honest intervals stay.

    Args:
        n: how many predictions.
        level: nominal coverage of the intervals.
        confidence: probability of a count within the band, at least; each end is passed with at most half the rest.

    Returns:
        Smallest and largest count inside that chance explains.
    """
    below = bdtr(np.arange(-1, n + 1), n, level)  # P(count < k) at index k, for k from 0 to n + 1
    tail = (1.0 - confidence) / 2
    low = int(np.searchsorted(below[1:], tail, side="right"))
    high = int(np.searchsorted(below[1:], 1.0 - tail, side="left"))
    return low, high


def _ranks(values: Array) -> Array:
    """Return ranks from 1; equal values share the mean of theirs."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks: Array = (last - (counts - 1) / 2)[place]
    return ranks
