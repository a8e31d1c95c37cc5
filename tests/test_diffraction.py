"""Patterns of mixtures are those that theory gives, and refining them gives the fractions back."""

from __future__ import annotations

import numpy as np
import pytest

from instruments.virtual.crystals import CRYSTALS, TEXTURE, structure
from orchestrator.errors import MaterialError
from orchestrator.materials.diffraction import Lines, Profile, lines, march_dollase, phase_pattern, refine

GRID = np.arange(18.0, 72.0, 0.03)


@pytest.fixture(scope="module")
def phases() -> dict[str, Lines]:
    """The lines of the virtual lab's phases."""
    return {phase: lines(structure(phase)) for phase in CRYSTALS}


def mixture(phases: dict[str, Lines], fractions: dict[str, float], seed: int, **how: float) -> np.ndarray:
    """Return counts of a mixture with a background."""
    pattern = sum(f * phase_pattern(GRID, phases[p], Profile(), **how) for p, f in fractions.items())
    expected = pattern * 4000.0 / np.max(pattern) + 60.0 + 150.0 * np.exp(-(GRID - 18.0) / 15.0)
    return np.random.default_rng(seed).poisson(expected).astype(float)


def test_lines_stand_where_the_lattice_says(phases: dict[str, Lines]) -> None:
    """Bragg's law for the cubic perovskite's strongest line, 110."""
    found = phases["BaZrO3"]
    strongest = found.two_theta[np.argmax(found.intensity)]
    assert strongest == pytest.approx(2 * np.degrees(np.arcsin(1.54184 / (2 * 4.192 / np.sqrt(2)))), abs=1e-3)


def test_area_of_a_line_does_not_depend_on_its_width(phases: dict[str, Lines]) -> None:
    """A broader profile lowers the peak, and keeps its area within what the cut tails hold."""
    areas = [np.trapezoid(phase_pattern(GRID, phases["BaZrO3"], Profile(w=w)), GRID) for w in (0.01, 0.04)]
    assert areas[0] == pytest.approx(areas[1], rel=0.03)


def test_refinement_is_unbiased_and_its_errors_are_honest(phases: dict[str, Lines]) -> None:
    """Over twenty patterns the mean is right, and deviations are about as large as their standard errors."""
    true = {"BaCO3": 0.08, "ZrO2": 0.12, "BaZrO3": 0.70, "Ba2ZrO4": 0.10}
    found = [refine(GRID, mixture(phases, true, seed, displacement_mm=0.05), phases, Profile()) for seed in range(20)]
    for phase, fraction in true.items():
        values = np.array([one.fractions[phase] for one in found])
        errors = np.array([one.std_errors[phase] for one in found])
        assert values.mean() == pytest.approx(fraction, abs=4 * errors.mean() / np.sqrt(20))
        assert 0.6 < values.std(ddof=1) / errors.mean() < 1.6
    assert np.mean([one.displacement_mm for one in found]) == pytest.approx(0.05, abs=0.005)
    assert all(sum(one.fractions.values()) == pytest.approx(1.0) for one in found)


def test_a_phase_that_is_not_there_is_not_found(phases: dict[str, Lines]) -> None:
    """Its fraction is zero within four standard errors."""
    found = refine(GRID, mixture(phases, {"BaZrO3": 1.0}, 3), phases, Profile())
    assert found.fractions["BaCO3"] <= 4 * found.std_errors["BaCO3"]
    assert found.fractions["BaZrO3"] > 0.97


def test_preferred_orientation_keeps_the_mean_over_all_directions() -> None:
    """March–Dollase is normalised over the sphere, and 1 means none."""
    cosine = np.linspace(0.0, 1.0, 2001)
    tilt = np.degrees(np.arccos(cosine))[None, :]
    assert march_dollase(tilt, 1.0) == pytest.approx(np.ones(2001))
    assert np.trapezoid(march_dollase(tilt, 0.6), cosine) == pytest.approx(1.0, abs=1e-3)
    assert march_dollase(np.array([[0.0]]), TEXTURE["BaCO3"])[0] > 1.0


def test_useless_patterns_are_refused(phases: dict[str, Lines]) -> None:
    """Too few points, numbers that are none, and an empty holder each say what is wrong."""
    with pytest.raises(MaterialError, match="more points"):
        refine(GRID[:5], np.ones(5), phases, Profile())
    with pytest.raises(MaterialError, match="no numbers"):
        refine(GRID, np.full(len(GRID), np.nan), phases, Profile())
    with pytest.raises(MaterialError, match="none of the phases"):
        refine(GRID, np.zeros(len(GRID)), phases, Profile())
