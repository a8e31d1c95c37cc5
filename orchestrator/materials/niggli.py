"""The Niggli cell: the one reduced cell of a lattice.

Algorithm: I. Krivy and B. Gruber, Acta Cryst. A 32, 297 (1976), doi:10.1107/S0567739476000636, with the tolerances of
R. W. Grosse-Kunstleve, N. K. Sauter and P. D. Adams, Acta Cryst. A 60, 1 (2004), doi:10.1107/S010876730302186X.
pymatgen has it too, but does not return the change of basis, and takes twenty times as long.
"""

from __future__ import annotations

import numpy as np

from orchestrator.domain import Array
from orchestrator.errors import MaterialError

EPSILON = 1e-5
"""Relative to volume^(1/3), as Grosse-Kunstleve recommends; squared lengths below it are taken as equal."""
LONGEST = 1000
"""Passes before giving up; cells of files need a few tens."""


def niggli_change(lattice: Array) -> Array:
    """Find the basis of the Niggli cell.

    Args:
        lattice: 3 right-handed row vectors in angstrom.

    Returns:
        Integer matrix with determinant 1; times `lattice` it is the Niggli cell.

    Raises:
        MaterialError: no end was reached, which happens for almost flat cells only.
    """
    metric = lattice @ lattice.T
    epsilon = EPSILON * float(abs(np.linalg.det(lattice))) ** (1 / 3)
    change = np.eye(3)
    for _ in range(LONGEST):
        step = _step(metric, epsilon)
        if step is None:
            return change
        change = step @ change
        metric = step @ metric @ step.T
    message = (
        f"the cell {lattice.tolist()} cannot be reduced; it is almost flat: give an equivalent cell with shorter axes"
    )
    raise MaterialError(message)


def _step(metric: Array, e: float) -> Array | None:
    """Return the next change of basis (rows), or None where the cell is reduced; names as in the papers."""
    a, b, c = float(metric[0, 0]), float(metric[1, 1]), float(metric[2, 2])
    xi, eta, zeta = 2 * float(metric[1, 2]), 2 * float(metric[0, 2]), 2 * float(metric[0, 1])
    signs = _signs(xi, eta, zeta, e)
    around = xi + eta + zeta + a + b
    step: list[list[float]] | None = None
    if a > b + e or (abs(a - b) <= e and abs(xi) > abs(eta) + e):
        step = [[0, -1, 0], [-1, 0, 0], [0, 0, -1]]
    elif b > c + e or (abs(b - c) <= e and abs(eta) > abs(zeta) + e):
        step = [[-1, 0, 0], [0, 0, -1], [0, -1, 0]]
    elif signs != (1, 1, 1):
        step = [[signs[0], 0, 0], [0, signs[1], 0], [0, 0, signs[2]]]
    elif abs(xi) > b + e or (abs(b - xi) <= e and 2 * eta < zeta - e) or (abs(b + xi) <= e and zeta < -e):
        step = [[1, 0, 0], [0, 1, 0], [0, -np.sign(xi), 1]]
    elif abs(eta) > a + e or (abs(a - eta) <= e and 2 * xi < zeta - e) or (abs(a + eta) <= e and zeta < -e):
        step = [[1, 0, 0], [0, 1, 0], [-np.sign(eta), 0, 1]]
    elif abs(zeta) > a + e or (abs(a - zeta) <= e and 2 * xi < eta - e) or (abs(a + zeta) <= e and eta < -e):
        step = [[1, 0, 0], [-np.sign(zeta), 1, 0], [0, 0, 1]]
    elif around < -e or (abs(around) <= e and 2 * (a + eta) + zeta > e):
        step = [[1, 0, 0], [0, 1, 0], [1, 1, 1]]
    return None if step is None else np.array(step, dtype=float)


def _signs(xi: float, eta: float, zeta: float, e: float) -> tuple[int, int, int]:
    """Signs of the axes that make all three products positive, or all three not positive; their product is 1."""
    angles = [_sign(value, e) for value in (xi, eta, zeta)]
    if angles[0] * angles[1] * angles[2] > 0:
        return (angles[0], angles[1], angles[2])
    flips = [-1 if sign > 0 else 1 for sign in angles]
    if flips[0] * flips[1] * flips[2] < 0:
        flips[max(i for i in range(3) if angles[i] == 0)] *= -1  # a right angle stays right
    return (flips[0], flips[1], flips[2])


def _sign(value: float, e: float) -> int:
    return 0 if abs(value) <= e else (1 if value > 0 else -1)
