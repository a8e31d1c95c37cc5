"""X-ray powder patterns of mixtures, and the weight fractions of phases refined from them.

A pattern is the sum of each phase's lines (kinematic intensities from pymatgen), broadened by the instrument, over a
smooth background. Conventions: angles are 2θ in degrees; intensities are counts; a line's integrated intensity is
proportional to weight fraction / (Z·M·V) × its |F|²·multiplicity·LP (Hill & Howard 1987,
doi:10.1107/S0021889887086199).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from orchestrator.errors import MaterialError

if TYPE_CHECKING:
    from pymatgen.core import Structure

Array = npt.NDArray[np.float64]
CUK_ALPHA = 1.54184
"""Wavelength in Å: the weighted mean of Cu Kα1 and Kα2."""
REACH = 12.0
"""Half widths of a line that are computed: a Lorentzian's tail falls to 0.7 % there."""
BACKGROUND = 5
"""Terms of the background, a Chebyshev polynomial."""
SHIFT_DEG = 0.15
"""Largest peak shift at 2θ = 0 that a refinement looks for."""


@dataclass(frozen=True)
class Lines:
    """The lines of one phase.

    Args:
        two_theta: positions in degrees.
        intensity: |F|²·multiplicity·LP of the unit cell.
        tilt: angle in degrees between each line's plane normal and the axis of preferred orientation; one row for each
            of the equivalent planes that are told apart.
        zmv: mass of the cell in u × its volume in Å³.
    """

    two_theta: Array
    intensity: Array
    tilt: Array
    zmv: float


@dataclass(frozen=True)
class Profile:
    """What the instrument does to a line: a pseudo-Voigt of Caglioti's width.

    FWHM² = u·tan²θ + v·tanθ + w (Caglioti, Paoletti & Ricci 1958, doi:10.1016/0369-643X(58)90029-X).

    Args:
        u: in degrees².
        v: in degrees².
        w: in degrees².
        lorentzian: share of the Lorentzian, 0 to 1.
        radius_mm: of the goniometer.
    """

    u: float = 0.006
    v: float = -0.003
    w: float = 0.012
    lorentzian: float = 0.5
    radius_mm: float = 200.0

    def width(self, two_theta: Array) -> Array:
        """Return the full width at half maximum at 2θ, in degrees."""
        tangent = np.tan(np.radians(two_theta) / 2)
        return np.asarray(np.sqrt(np.maximum(self.u * tangent**2 + self.v * tangent + self.w, 1e-4)))

    def displaced(self, two_theta: Array, displacement_mm: float) -> Array:
        """Return where lines appear if the sample lies too low: Δ2θ = -2·s·cosθ/R."""
        shift = -2.0 * displacement_mm * np.cos(np.radians(two_theta) / 2) / self.radius_mm
        return np.asarray(two_theta + np.degrees(shift))


@dataclass(frozen=True)
class Refined:
    """What a refinement gives.

    Args:
        fractions: weight fraction by phase, adding to 1.
        std_errors: their standard errors, of counting and of misfit; not of texture that the fit does not know.
        displacement_mm: of the sample.
        rwp: weighted profile R factor, 0 to 1.
        chi2: sum of squared weighted residuals over the degrees of freedom.
    """

    fractions: Mapping[str, float]
    std_errors: Mapping[str, float]
    displacement_mm: float
    rwp: float
    chi2: float


def lines(
    structure: Structure,
    *,
    low: float = 15.0,
    high: float = 75.0,
    wavelength: float = CUK_ALPHA,
    axis: tuple[int, int, int] = (0, 0, 1),
) -> Lines:
    """Compute the lines of a phase.

    Args:
        structure: of the phase.
        low: smallest 2θ in degrees.
        high: largest 2θ in degrees.
        wavelength: in Å.
        axis: normal of preferred orientation, as Miller indices.

    Returns:
        The lines, in the order of their angles.
    """
    from pymatgen.analysis.diffraction.xrd import XRDCalculator  # noqa: PLC0415  takes seconds to import

    found = XRDCalculator(wavelength=wavelength).get_pattern(structure, scaled=False, two_theta_range=(low, high))
    reciprocal = structure.lattice.reciprocal_lattice_crystallographic
    normal = reciprocal.get_cartesian_coords(axis)
    cubic = np.allclose(structure.lattice.abc, structure.lattice.a) and np.allclose(structure.lattice.angles, 90.0)
    tilts = []
    for families in found.hkls:
        hkl = families[0]["hkl"]
        hkl = (hkl[0], hkl[1], hkl[-1])
        turns = [(0, 1, 2), (1, 2, 0), (2, 0, 1)] if cubic else [(0, 1, 2)] * 3
        tilts.append([_angle(reciprocal.get_cartesian_coords([hkl[i] for i in turn]), normal) for turn in turns])
    mass = float(structure.composition.weight)
    return Lines(
        np.asarray(found.x, dtype=float),
        np.asarray(found.y, dtype=float),
        np.asarray(tilts, dtype=float).T.reshape(3, -1),
        mass * float(structure.volume),
    )


def march_dollase(tilt: Array, r: float) -> Array:
    """Return by how much preferred orientation raises lines (Dollase 1986, doi:10.1107/S0021889886089458).

    Args:
        tilt: angles in degrees, equivalents × lines.
        r: 1 for a random powder; below 1 for plates that lie flat.
    """
    angle = np.radians(tilt)
    return np.asarray(np.mean((r**2 * np.cos(angle) ** 2 + np.sin(angle) ** 2 / r) ** -1.5, axis=0))


def phase_pattern(
    grid: Array, phase: Lines, profile: Profile, *, displacement_mm: float = 0.0, texture: float = 1.0
) -> Array:
    """Return the counts of one phase for weight fraction 1 and scale 1, at each angle of a grid.

    Args:
        grid: 2θ in degrees, ascending.
        phase: its lines.
        profile: of the instrument.
        displacement_mm: of the sample.
        texture: March–Dollase parameter; 1 for none.
    """
    at = profile.displaced(phase.two_theta, displacement_mm)
    width = profile.width(at)
    area = phase.intensity * march_dollase(phase.tilt, texture) / phase.zmv
    total = np.zeros_like(grid)
    for centre, fwhm, size in zip(at, width, area, strict=True):
        first, last = np.searchsorted(grid, [centre - REACH * fwhm, centre + REACH * fwhm])
        x = (grid[first:last] - centre) / fwhm
        gauss = math.sqrt(4 * math.log(2) / math.pi) * np.exp(-4 * math.log(2) * x**2)
        lorentz = (2 / math.pi) / (1 + 4 * x**2)
        total[first:last] += size / fwhm * (profile.lorentzian * lorentz + (1 - profile.lorentzian) * gauss)
    return total


def refine(grid: Array, counts: Array, phases: Mapping[str, Lines], profile: Profile) -> Refined:
    """Refine weight fractions from a pattern: scales and background by bounded least squares, then the displacement.

    Args:
        grid: 2θ in degrees.
        counts: at each angle.
        phases: lines of every phase that may be there.
        profile: of the instrument.

    Returns:
        Fractions with standard errors.

    Raises:
        MaterialError: fewer points than unknowns, counts that are no numbers, or no phase found at all.
    """
    names = list(phases)
    if len(grid) != len(counts) or len(grid) <= len(names) + BACKGROUND + 1:
        message = (
            f"{len(counts)} counts at {len(grid)} angles; more points than unknowns were expected, as many of each"
        )
        raise MaterialError(message)
    if not np.all(np.isfinite(counts)) or float(np.min(counts)) < 0:
        message = "the pattern holds counts that are negative or no numbers; measure it again"
        raise MaterialError(message)
    from scipy.optimize import minimize_scalar  # noqa: PLC0415  not wanted where patterns are only read

    weight = 1.0 / np.sqrt(np.maximum(counts, 1.0))
    known = [phases[name] for name in names]

    def misfit(displacement: float) -> float:
        columns = _columns(grid, known, profile, displacement)
        return float(np.sum(((columns @ _solved(columns, counts, weight) - counts) * weight) ** 2))

    most = math.radians(SHIFT_DEG) * profile.radius_mm / 2
    start = min(np.linspace(-most, most, 9), key=misfit)
    step = most / 4
    found = minimize_scalar(misfit, bounds=(start - step, start + step), method="bounded", options={"xatol": 1e-4})
    displacement = float(found.x)
    columns = _columns(grid, known, profile, displacement)
    solution = _solved(columns, counts, weight)
    residual = (columns @ solution - counts) * weight
    chi2 = float(np.sum(residual**2)) / (len(counts) - columns.shape[1] - 1)
    weighted = columns * weight[:, None]
    covariance = np.linalg.pinv(weighted.T @ weighted) * max(1.0, chi2)
    fractions, errors = _fractions(names, solution[: len(names)], covariance[: len(names), : len(names)])
    rwp = float(np.sqrt(np.sum(residual**2) / np.sum((counts * weight) ** 2)))
    return Refined(fractions, errors, displacement, rwp, chi2)


def _angle(one: Array, other: Array) -> float:
    size = float(np.linalg.norm(one) * np.linalg.norm(other))
    return math.degrees(math.acos(min(1.0, abs(float(np.dot(one, other))) / size)))


def _columns(grid: Array, phases: Sequence[Lines], profile: Profile, displacement: float) -> Array:
    scaled = 2 * (grid - grid[0]) / (grid[-1] - grid[0]) - 1
    background = np.polynomial.chebyshev.chebvander(scaled, BACKGROUND - 1)
    patterns = [phase_pattern(grid, phase, profile, displacement_mm=displacement) for phase in phases]
    return np.column_stack([*patterns, background])


def _solved(columns: Array, counts: Array, weight: Array) -> Array:
    """Return scales that are not negative, and any background."""
    from scipy.optimize import nnls  # noqa: PLC0415  as above

    signed = np.hstack([columns, -columns[:, -BACKGROUND:]]) * weight[:, None]
    size = np.linalg.norm(signed, axis=0)
    size[size == 0] = 1.0
    found, _ = nnls(signed / size, counts * weight)
    found = found / size
    kept = columns.shape[1]
    found[kept - BACKGROUND : kept] -= found[kept:]
    return np.asarray(found[:kept])


def _fractions(names: Sequence[str], scales: Array, covariance: Array) -> tuple[dict[str, float], dict[str, float]]:
    """Return weight fractions and their standard errors from the phases' scales."""
    total = float(np.sum(scales))
    if total <= 0:
        message = f"none of the phases {', '.join(names)} is in the pattern; was there a sample?"
        raise MaterialError(message)
    fractions = scales / total
    # d(fraction i)/d(scale j) = (δij - fraction i) / total
    slope = (np.eye(len(names)) - fractions[:, None]) / total
    errors = np.sqrt(np.maximum(np.diag(slope @ covariance @ slope.T), 0.0))
    return (
        {name: float(value) for name, value in zip(names, fractions, strict=True)},
        {name: float(value) for name, value in zip(names, errors, strict=True)},
    )
