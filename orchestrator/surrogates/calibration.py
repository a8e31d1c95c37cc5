"""Honest uncertainty: one factor a property, learned from held-out residuals, and the numbers that show how honest.

A standard deviation is calibrated when the residuals divided by it look like a standard normal distribution
(Kuleshov et al., ICML 2018, doi:10.48550/arXiv.1807.00263; for materials: Tran et al., Mach. Learn.: Sci. Technol. 1,
025006, 2020, doi:10.1088/2632-2153/ab7e1a).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from orchestrator.domain import Array, HeldOut
from orchestrator.scoring import LEVELS, Predicted, coverage, score

PRIOR_WEIGHT = 10.0
"""Held-out residuals that the belief "the factor is 1" is worth; a handful of residuals must not rescale much."""
SMALLEST, LARGEST = 0.5, 4.0
"""The factor stays within these: beyond them the surrogate is wrong in a way that no factor mends."""
FAR_RESIDUAL = 4.0
"""Standardised residuals are cut at so many of their typical size: one outlier is no reason to widen every interval."""
SHOWN_FIRST = ("mae", "rmse", "r2", "nll")
"""Metrics that a line for people begins with."""


def sd_factor(held_out: HeldOut) -> float:
    """Return the factor of the standard deviations: the root mean square of the standardised residuals.

    Args:
        held_out: k residuals and their standard deviations.

    Returns:
        The factor, drawn towards 1 where k is small.
    """
    return _factor(_squares(held_out))


def calibrated(held_out: HeldOut) -> HeldOut:
    """Return the same with each standard deviation multiplied by the factor learned from the *other* labels."""
    squares = _squares(held_out)
    k = len(squares)
    factors = np.array([_factor(np.delete(squares, i)) for i in range(k)]) if k > 1 else np.ones(k)
    return HeldOut(held_out.residuals, held_out.sd * factors, held_out.labels, held_out.trials)


def assess(held_out: HeldOut) -> tuple[dict[str, float], dict[str, float]]:
    """Measure the error and the calibration on held-out labels.

    Each label is judged with the factor learned from the other labels.

    Args:
        held_out: k residuals and their standard deviations, before calibration.

    Returns:
        Metrics (those of `orchestrator.scoring.score`, and ``held_out`` = k), and calibration: nominal coverage →
        observed coverage, with the ``sd_factor`` applied.
    """
    k = len(held_out.residuals)
    if k == 0:
        return {}, {}
    judged = calibrated(held_out)
    scores = score(Predicted(judged.labels, judged.labels - judged.residuals, judged.sd))
    metrics = {name: scores[name] for name in SHOWN_FIRST}
    metrics |= {name: value for name, value in scores.items() if not name.startswith("coverage_")}
    calibration = {f"{level:g}": coverage(judged.residuals, judged.sd, level) for level in LEVELS}
    return {**metrics, "held_out": float(k)}, calibration | {"sd_factor": sd_factor(held_out)}


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
