"""Crystals: conversion from and to pymatgen, checks, identity, near duplicates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import product

import numpy as np
import numpy.typing as npt
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Composition, Element, Lattice, Structure

from orchestrator.domain import Array, Crystal, canonical_json, sha256
from orchestrator.errors import MaterialError
from orchestrator.materials.niggli import niggli_change

GRID = 10_000
"""Identity is decided at 1e-4: of an angstrom, of a degree, of a cell edge."""
SAME_METRIC = 1e-4
"""Relative difference below which two bases are the same cell; finer than `GRID` would split what it should join."""
HALF, LOVASZ = 0.5 + 1e-9, 0.75
"""What LLL reduction asks of a basis."""
CLOSEST = 0.5
"""Angstrom. Below this no two atoms are found together (H2 has 0.74): the file is wrong."""


def to_pymatgen(crystal: Crystal) -> Structure:
    """Return the crystal as a pymatgen structure."""
    return Structure(crystal.lattice, list(crystal.species), crystal.frac_coords)


def from_pymatgen(structure: Structure, name: str = "structure") -> Crystal:
    """Return a pymatgen structure as a crystal, checked.

    Args:
        structure: any periodic structure; oxidation states and site properties are dropped.
        name: what an error message calls it.

    Returns:
        The crystal.

    Raises:
        MaterialError: see `check`; or sites are shared by several elements.
    """
    if not structure.is_ordered:
        message = (
            f"{name} is disordered: some site is partly occupied or shared ({structure.formula}); make ordered"
            " cells of it first, for example with pymatgen's OrderDisorderedStructureTransformation"
        )
        raise MaterialError(message)
    crystal = Crystal(
        lattice=_rows(structure.lattice.matrix),
        species=tuple(str(getattr(site.specie, "symbol", site.specie)) for site in structure),
        frac_coords=_rows(structure.frac_coords),
    )
    return check(crystal, name)


def check(crystal: Crystal, name: str = "structure") -> Crystal:
    """Check that a crystal can be computed with.

    Args:
        crystal: what to check.
        name: what an error message calls it.

    Returns:
        The same crystal.

    Raises:
        MaterialError: there are no atoms, an unknown element, a number that is not finite, a flat cell, or atoms on
            top of each other.
    """
    if not crystal.species:
        message = f"{name} has no atoms; give at least one site"
        raise MaterialError(message)
    if len(crystal.species) != len(crystal.frac_coords):
        message = f"{name} has {len(crystal.species)} species but {len(crystal.frac_coords)} positions"
        raise MaterialError(message)
    if unknown := sorted({symbol for symbol in crystal.species if not Element.is_valid_symbol(symbol)}):
        message = f"{name} names the element {', '.join(unknown)}, which does not exist; write symbols such as Cs"
        raise MaterialError(message)
    lattice = np.array(crystal.lattice, dtype=float)
    coords = np.array(crystal.frac_coords, dtype=float)
    if not (np.isfinite(lattice).all() and np.isfinite(coords).all()):
        message = f"{name} holds a number that is not finite; look at its lattice and positions"
        raise MaterialError(message)
    volume = abs(np.linalg.det(lattice))
    if volume < CLOSEST**3:
        message = f"{name} has a cell of {volume:.3g} Å³; the three lattice vectors (in angstrom) must span a volume"
        raise MaterialError(message)
    near, pair = _closest(lattice, coords)
    if near < CLOSEST:
        one, other = (f"{crystal.species[i]} (site {i + 1})" for i in pair)
        message = (
            f"{name} has atoms on top of each other: {one} and {other} are {near:.3f} Å apart (at least {CLOSEST} Å is"
            " expected); remove the doubled site, or check the unit of the lattice"
        )
        raise MaterialError(message)
    return crystal


def formula(crystal: Crystal) -> str:
    """Return the reduced formula, such as ``CsPbI3``."""
    return str(Composition(Counter(crystal.species)).reduced_formula)


def crystal_key(crystal: Crystal) -> str:
    """Return the identity of a crystal: SHA-256 of its Niggli cell and sites rounded to 1e-4, with species.

    It does not change with the order of the sites, with lattice translations of single sites, with the origin, with a
    rotation of the whole, or with the choice among cells of the same volume: where the Niggli cell can be named in
    several ways (a cubic one in 24), the alphabetically first description is taken. Mirror images differ.

    Not covered: a supercell against its primitive cell, and near duplicates, meaning structures that differ by more
    than rounding but relax to the same thing; numbers that lie within 1e-9 of a rounding edge may fall on either side.
    `near_duplicates` finds those.

    Args:
        crystal: any size; the cost grows with sites × sites of the rarest element.

    Returns:
        64 hexadecimal digits.
    """
    lattice = np.array(crystal.lattice, dtype=float)
    coords = np.array(crystal.frac_coords, dtype=float)
    if np.linalg.det(lattice) < 0:  # the same crystal in right-handed axes
        lattice, coords = -lattice, -coords
    change = niggli_change(lattice)
    reduced = change @ lattice
    numbers = np.array([Element(symbol).Z for symbol in crystal.species], dtype=np.int64)
    cell = np.rint(np.array(Lattice(reduced).parameters) * GRID).astype(np.int64)
    sites = _first_description(reduced, coords @ np.linalg.inv(change), numbers)
    return sha256(canonical_json({"cell": cell.tolist(), "sites": sites}))


def near_duplicates(crystals: Sequence[Crystal], *, ltol: float = 0.2, stol: float = 0.3) -> list[list[int]]:
    """Find crystals that are the same structure but for small displacements, scale or the choice of cell.

    Args:
        crystals: n of them.
        ltol: relative tolerance of lengths.
        stol: tolerance of sites, in units of (volume per atom)^(1/3).

    Returns:
        Groups of two or more positions in `crystals`; compared by pymatgen's StructureMatcher within each formula.
    """
    by_formula: dict[str, list[int]] = {}
    for i, crystal in enumerate(crystals):
        by_formula.setdefault(formula(crystal), []).append(i)
    matcher = StructureMatcher(ltol=ltol, stol=stol)
    groups = []
    for members in by_formula.values():
        open_groups: list[tuple[Structure, list[int]]] = []
        for i in members if len(members) > 1 else ():
            structure = to_pymatgen(crystals[i])
            for first, group in open_groups:
                if matcher.fit(first, structure):
                    group.append(i)
                    break
            else:
                open_groups.append((structure, [i]))
        groups += [group for _, group in open_groups if len(group) > 1]
    return groups


def _rows(matrix: Array) -> tuple[tuple[float, float, float], ...]:
    return tuple((float(a), float(b), float(c)) for a, b, c in matrix)


def _is_reduced(lattice: Array) -> bool:
    """Say whether the rows are as short and as square as LLL reduction makes them; 20 times cheaper than reducing."""
    metric = (lattice @ lattice.T).tolist()
    first = metric[0][0]
    ratio = metric[1][0] / first
    second = metric[1][1] - ratio * metric[1][0]
    along = metric[2][0] / first
    across = (metric[2][1] - along * metric[1][0]) / second
    third = metric[2][2] - along * metric[2][0] - across**2 * second
    square = abs(ratio) <= HALF and abs(along) <= HALF and abs(across) <= HALF
    return bool(square and second >= (LOVASZ - ratio**2) * first and third >= (LOVASZ - across**2) * second)


def _closest(lattice: Array, coords: Array) -> tuple[float, tuple[int, int]]:
    """Shortest distance between two atoms or an atom and its image, and which."""
    reduced = lattice if _is_reduced(lattice) else np.asarray(Lattice(lattice).get_lll_reduced_lattice().matrix)
    cartesian = coords @ lattice
    images = np.array(list(product((-1, 0, 1), repeat=3))) @ reduced
    frac = cartesian @ np.linalg.inv(reduced)
    apart = frac[:, None, :] - frac[None, :, :]
    apart = (apart - np.rint(apart)) @ reduced
    squares = ((apart[:, :, None, :] + images) ** 2).sum(axis=-1)
    squares[np.arange(len(coords)), np.arange(len(coords)), len(images) // 2] = np.inf  # an atom and itself
    i, j, _ = np.unravel_index(int(np.argmin(squares)), squares.shape)
    return float(np.sqrt(squares.min())), (int(i), int(j))


VECTORS: npt.NDArray[np.int64] = np.array([v for v in product((-1, 0, 1), repeat=3) if any(v)])
"""A Niggli cell's other descriptions are built from these combinations of its axes."""


def _equal_bases(metric: Array) -> Array:
    """Find the right-handed bases, k × 3 × 3 integers, in which the cell looks the same as in the given one."""
    near = SAME_METRIC * metric.max()
    squares = np.einsum("vi,ij,vj->v", VECTORS, metric, VECTORS)
    first, second, third = (VECTORS[np.abs(squares - metric[i, i]) < near] for i in range(3))
    i, j, k = (grid.ravel() for grid in np.meshgrid(*(np.arange(len(v)) for v in (first, second, third))))
    bases = np.stack([first[i], second[j], third[k]], axis=1).astype(float)
    bases = bases[np.rint(np.linalg.det(bases)) == 1]
    same: Array = bases[np.abs(bases @ metric @ bases.transpose(0, 2, 1) - metric).max(axis=(1, 2)) < near]
    return same


def _first_description(lattice: Array, coords: Array, numbers: npt.NDArray[np.int64]) -> list[int]:
    """Choose basis and origin among the equivalent ones so that the sorted rounded sites come first."""
    turns = _equal_bases(lattice @ lattice.T)
    counts = Counter(numbers.tolist())
    rarest = min(counts, key=lambda number: (counts[number], number))
    based = coords @ np.linalg.inv(turns)  # turns × sites × 3
    origins = based[:, numbers == rarest]
    grid = np.rint((based[:, None] - origins[:, :, None]) * GRID).astype(np.int64) % GRID  # turns × origins × sites × 3
    codes = ((numbers * GRID + grid[..., 0]) * GRID + grid[..., 1]) * GRID + grid[..., 2]  # one integer a site
    listed = np.sort(codes.reshape(-1, len(numbers)), axis=1)
    first: list[int] = listed[np.lexsort(listed.T[::-1])[0]].tolist()
    return first
