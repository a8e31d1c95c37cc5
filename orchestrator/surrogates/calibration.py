"""Honest uncertainty: one factor a property, learned from held-out residuals, and the numbers that show how honest.

A standard deviation is calibrated when the residuals divided by it look like a standard normal distribution
(Kuleshov et al., ICML 2018, doi:10.48550/arXiv.1807.00263; for materials: Tran et al., Mach. Learn.: Sci. Technol. 1,
025006, 2020, doi:10.1088/2632-2153/ab7e1a).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.special import erf
from scipy.stats import norm, spearmanr

from orchestrator.domain import Array

LEVELS = (0.5, 0.8, 0.9, 0.95)
"""Nominal coverages that a fit report shows."""
PRIOR_WEIGHT = 10.0
"""Held-out residuals that the belief "the factor is 1" is worth; a handful of residuals must not rescale much."""
SMALLEST, LARGEST = 0.5, 4.0
"""The factor stays within these: beyond them the surrogate is wrong in a way that no factor mends."""
FAR_RESIDUAL = 4.0
"""Standardised residuals are cut at so many of their typical size: one outlier is no reason to widen every interval."""
QUANTILES = np.linspace(0.01, 0.99, 99)


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Predictions of labels that did not take part in making them.

    Args:
        residuals: label minus prediction.
        sd: predicted standard deviation of the label before calibration.
        labels: the labels themselves; all in the property's unit.
    """

    residuals: Array
    sd: Array
    labels: Array


def sd_factor(held_out: HeldOut) -> float:
    """Return the factor of the standard deviations: the root mean square of the standardised residuals.

    Args:
        held_out: k residuals and their standard deviations.

    Returns:
        The factor, drawn towards 1 where k is small.
    """
    return _factor(_squares(held_out))


def assess(held_out: HeldOut) -> tuple[dict[str, float], dict[str, float]]:
    """Measure the error and the calibration on held-out labels.

    Each label is judged with the factor learned from the other labels.

    Args:
        held_out: k residuals and their standard deviations.

    Returns:
        Metrics (mae, rmse, r2, nll, spearman of |error| and sd, miscalibration_area, mean_sd), and calibration:
        nominal coverage → observed coverage, with the ``sd_factor`` applied.
    """
    k = len(held_out.residuals)
    if k == 0:
        return {}, {}
    squares = _squares(held_out)
    factors = np.array([_factor(np.delete(squares, i)) for i in range(k)]) if k > 1 else np.ones(1)
    sd = held_out.sd * factors
    z = held_out.residuals / sd
    probabilities = norm.cdf(z)
    observed = np.array([(probabilities <= q).mean() for q in QUANTILES])
    spread = float(np.var(held_out.labels))
    order = spearmanr(np.abs(held_out.residuals), sd).statistic if _varies(held_out.residuals, sd) else 0.0
    metrics = {
        "mae": float(np.mean(np.abs(held_out.residuals))),
        "rmse": float(np.sqrt(np.mean(held_out.residuals**2))),
        "r2": float(1.0 - np.mean(held_out.residuals**2) / spread) if spread > 0 else 0.0,
        "nll": float(np.mean(0.5 * z**2 + np.log(sd) + 0.5 * math.log(2 * math.pi))),
        "spearman": float(order),
        "miscalibration_area": float(np.mean(np.abs(observed - QUANTILES))),
        "mean_sd": float(sd.mean()),
        "held_out": float(k),
    }
    inside = erf(np.abs(z) / math.sqrt(2.0))
    calibration = {f"{level:g}": float((inside <= level).mean()) for level in LEVELS}
    return metrics, calibration | {"sd_factor": _factor(squares)}


def describe(metrics: Mapping[str, float]) -> str:
    """Write the metrics as one line for people."""
    return ", ".join(f"{name} {value:.3g}" for name, value in metrics.items())


def _squares(held_out: HeldOut) -> Array:
    z = np.abs(held_out.residuals / held_out.sd)
    typical = max(1.0, float(np.median(z)) / 0.6745) if len(z) else 1.0  # of a normal distribution
    return np.minimum(z, FAR_RESIDUAL * typical) ** 2


def _factor(squares: Array) -> float:
    raw = math.sqrt((float(squares.sum()) + PRIOR_WEIGHT) / (len(squares) + PRIOR_WEIGHT))
    return min(max(raw, SMALLEST), LARGEST)


def _varies(*arrays: Array) -> bool:
    return all(len(array) > 2 and float(np.ptp(array)) > 0 for array in arrays)  # noqa: PLR2004  a rank needs three
