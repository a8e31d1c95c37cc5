"""Scores of predictions: closed forms, and what an honest, a too sure and a random surrogate must get."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import integrate, stats

from orchestrator import scoring
from orchestrator.domain import HeldOut
from orchestrator.scoring import Predicted, score
from orchestrator.surrogates.calibration import assess, calibrated, sd_factor


def honest(n: int, seed: int = 0, stated: float = 1.0) -> Predicted:
    """Return predictions whose errors are normal with standard deviations between 0.2 and 2, stated × `stated`."""
    rng = np.random.default_rng(seed)
    sd = np.exp(rng.uniform(math.log(0.2), math.log(2.0), n))
    mean = rng.normal(scale=3.0, size=n)
    return Predicted(mean + sd * rng.normal(size=n), mean, stated * sd)


def test_likelihood_and_crps_are_those_of_the_normal_distribution() -> None:
    """NLL is minus SciPy's log density; CRPS is the integral of (CDF − step)² that defines it."""
    errors, sd = np.array([0.3, -2.0, 0.0]), np.array([0.5, 1.0, 2.0])
    np.testing.assert_allclose(scoring.log_losses(errors, sd), -stats.norm(0, sd).logpdf(errors))
    for e, s, found in zip(errors, sd, scoring.crps(errors, sd), strict=True):
        below, _ = integrate.quad(lambda x, s=s: stats.norm.cdf(x, 0, s) ** 2, -30, e)
        above, _ = integrate.quad(lambda x, s=s: stats.norm.sf(x, 0, s) ** 2, e, 30)
        assert found == pytest.approx(below + above, rel=1e-6)


def test_rank_correlation_is_spearmans_with_ties() -> None:
    """The same number as SciPy's, ties included; NaN where a side does not vary or there are two pairs."""
    rng = np.random.default_rng(1)
    one, other = rng.integers(0, 6, 50).astype(float), rng.integers(0, 4, 50).astype(float)
    assert scoring.rank_correlation(one, other) == pytest.approx(stats.spearmanr(one, other).statistic)
    assert math.isnan(scoring.rank_correlation(one, np.ones(50)))
    assert math.isnan(scoring.rank_correlation(one[:2], np.array([1.0, 2.0])))


def test_honest_predictions_get_honest_scores() -> None:
    """Coverage is nominal, ENCE and area are near 0, the rank correlation is clear; half the sd is seen in all."""
    good, sure = score(honest(4000)), score(honest(4000, stated=0.5))
    for level in (50, 80, 90, 95):
        assert good[f"coverage_{level}"] == pytest.approx(level / 100, abs=0.015)
    assert good["ence"] < 0.06
    assert good["miscalibration_area"] < 0.01
    assert good["spearman"] > 0.4
    assert sure["coverage_90"] < 0.65
    assert sure["ence"] == pytest.approx(1.0, abs=0.1)  # the errors are twice what was stated
    # ∫ |P(|z| ≤ 2⁻¹ q-quantile) − q| dq of a normal z, by quadrature
    area, _ = integrate.quad(lambda q: abs(2 * stats.norm.cdf(0.5 * stats.norm.ppf((1 + q) / 2)) - 1 - q), 0, 1)
    assert sure["miscalibration_area"] == pytest.approx(area, abs=0.01)
    assert sure["nll"] > good["nll"]
    assert sure["crps"] > good["crps"]
    assert sure["sharpness"] == pytest.approx(good["sharpness"] / 2)


def test_errors_are_in_the_unit_of_the_values() -> None:
    """MAE, RMSE, bias, R² and the largest error by hand; R² of equal values is no number."""
    found = score(Predicted(np.array([1.0, 3.0]), np.array([0.0, 5.0]), np.ones(2)))
    assert (found["mae"], found["rmse"], found["bias"], found["max_error"]) == (1.5, math.sqrt(2.5), -0.5, 2.0)
    assert found["r2"] == pytest.approx(-1.5)
    assert math.isnan(score(Predicted(np.ones(3), np.zeros(3), np.ones(3)))["r2"])


@pytest.mark.parametrize("sd", [np.zeros(2), np.array([1.0, np.nan]), np.ones(3)])
def test_impossible_standard_deviations_are_refused(sd: np.ndarray) -> None:
    """Zero, NaN and another number of them: an error, not a score."""
    with pytest.raises(ValueError, match="standard deviation"):
        score(Predicted(np.ones(2), np.zeros(2), sd))


@pytest.mark.parametrize("n", [1, 5, 24, 100, 1000])
def test_the_band_holds_what_chance_explains(n: int) -> None:
    """Both ends are passed with at most 2.5 %, and one step further in would be passed with more."""
    low, high = scoring.binomial_band(n, 0.9)
    count = stats.binom(n, 0.9)
    assert count.cdf(low - 1) <= 0.025 < count.cdf(low)
    assert count.sf(high) <= 0.025 < count.sf(high - 1)


def test_held_out_labels_are_calibrated_by_the_others() -> None:
    """The factor of a label does not know its own residual; the report has every score, and its trials are kept."""
    residuals = np.array([0.1, -0.1, 0.1, -0.1, 3.0])
    held = HeldOut(residuals, np.full(5, 0.1), np.arange(5.0), (1, 2, 4, 5, 9))
    judged = calibrated(held)
    assert judged.trials == held.trials
    assert judged.sd[4] == pytest.approx(0.1, abs=1e-3)  # by the others it is perfect
    assert judged.sd[0] > 0.1 * 1.4
    assert sd_factor(held) > 1.4
    metrics, calibration = assess(held)
    expected = {"mae", "rmse", "max_error", "bias", "r2", "nll", "crps", "ence", "miscalibration_area", "sharpness"}
    assert set(metrics) == expected | {"spearman", "held_out"}
    assert set(calibration) == {"0.5", "0.8", "0.9", "0.95", "sd_factor"}
    assert calibration["0.9"] == pytest.approx(0.8)
