"""Ideal crystal structures, to be decorated with elements and given a start volume.

The table `data/prototypes.json` holds space group, lattice and independent sites with the source of each; most are the
AFLOW library's, M. J. Mehl et al., Comput. Mater. Sci. 136, S1 (2017), doi:10.1016/j.commatsci.2017.01.017.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import numpy as np
from pymatgen.core import Lattice, Structure

from orchestrator.domain import Array, Crystal
from orchestrator.errors import MaterialError

TOLERANCE = 5e-3
"""Fraction of a cell edge within which generated sites are one; the table rounds coordinates to 1e-5."""


@dataclass(frozen=True)
class Prototype:
    """An ideal structure with roles instead of elements.

    Args:
        name: such as ``rocksalt``.
        space_group: number in the International Tables, their first setting.
        lattice: a, b, c in angstrom and alpha, beta, gamma in degrees of the conventional cell.
        sites: role (atom; cation, anion; A, B, X) and fractional coordinates of the independent sites.
        source: where it is from.
    """

    name: str
    space_group: int
    lattice: tuple[float, ...]
    sites: tuple[tuple[str, tuple[float, float, float]], ...]
    source: str

    @property
    def roles(self) -> tuple[str, ...]:
        """Names of the roles, each once."""
        return tuple(dict.fromkeys(role for role, _ in self.sites))

    def decorate(self, elements: Mapping[str, str]) -> Structure:
        """Put elements on the sites.

        Args:
            elements: role → element symbol.

        Returns:
            The primitive cell, with the lattice as the table has it.

        Raises:
            MaterialError: a role has no element.
        """
        if missing := [role for role in self.roles if role not in elements]:
            message = f"prototype {self.name!r} needs an element for {', '.join(missing)}; given: {dict(elements)}"
            raise MaterialError(message)
        lattice, roles, coords = _primitive(self)
        return Structure(lattice, [elements[role] for role in roles], coords)


@cache
def prototypes() -> Mapping[str, Prototype]:
    """Return the prototypes by name."""
    content = json.loads(files("orchestrator.materials").joinpath("data/prototypes.json").read_text("utf-8"))
    return {
        name: Prototype(
            name=name,
            space_group=entry["space_group"],
            lattice=tuple(entry["lattice"]),
            sites=tuple((role, (xyz[0], xyz[1], xyz[2])) for role, xyz in entry["sites"]),
            source=entry["source"],
        )
        for name, entry in content.items()
    }


def touching(structure: Structure, radii: Mapping[str, float], *, unlike: bool = True) -> Structure:
    """Scale a structure until its closest pair of spheres just touches.

    Args:
        structure: any size.
        radii: element → radius in angstrom.
        unlike: compare only pairs of different elements (ions), or all pairs (metals, molecules).

    Returns:
        A scaled copy.
    """
    symbols = np.array([site.specie.symbol for site in structure])
    sizes = np.array([radii[symbol] for symbol in symbols])
    reach = 2 * structure.volume ** (1 / 3)  # some neighbour is always closer
    one, other, _, distances = structure.get_neighbor_list(reach)
    if unlike:
        pairs = symbols[one] != symbols[other]
        one, other, distances = one[pairs], other[pairs], distances[pairs]
    ratio = float(((sizes[one] + sizes[other]) / distances).max())
    scaled = structure.copy()
    scaled.scale_lattice(structure.volume * ratio**3)
    return scaled


def perovskite(elements: Mapping[str, str], radii: Mapping[str, float]) -> Crystal:
    """Build the ideal cubic perovskite ABX3.

    Args:
        elements: ``A``, ``B``, ``X`` → element symbol.
        radii: ``A``, ``B``, ``X`` → ionic radius in angstrom.

    Returns:
        Five atoms in the order A, B, X, X, X. The cell edge is the longer one of 2 (rB + rX), where the octahedra
        touch, and √2 (rA + rX), where the A ion does.
    """
    octahedra = 2 * (radii["B"] + radii["X"])
    cage = math.sqrt(2) * (radii["A"] + radii["X"])
    edge = max(octahedra, cage)
    return Crystal(
        lattice=((edge, 0.0, 0.0), (0.0, edge, 0.0), (0.0, 0.0, edge)),
        species=(elements["A"], elements["B"], elements["X"], elements["X"], elements["X"]),
        frac_coords=((0.5, 0.5, 0.5), (0.0, 0.0, 0.0), (0.5, 0.0, 0.0), (0.0, 0.5, 0.0), (0.0, 0.0, 0.5)),
    )


def rattled(crystal: Crystal, distance: float, seed: int) -> Crystal:
    """Move every atom by the same distance in a random direction.

    Args:
        crystal: the ideal structure.
        distance: angstrom.
        seed: of the directions.

    Returns:
        The structure with the same cell.
    """
    steps = np.random.default_rng(seed).normal(size=(len(crystal.species), 3))
    steps *= distance / np.linalg.norm(steps, axis=1, keepdims=True)
    moved = np.array(crystal.frac_coords) + steps @ np.linalg.inv(np.array(crystal.lattice))
    return Crystal(crystal.lattice, crystal.species, tuple((float(a), float(b), float(c)) for a, b, c in moved))


@cache
def _primitive(prototype: Prototype) -> tuple[Lattice, tuple[str, ...], Array]:
    """Return lattice, roles and fractional coordinates of the primitive cell; elements stand in for roles meanwhile."""
    stand_in = dict(zip(prototype.roles, ("H", "He", "Li"), strict=False))
    lattice = Lattice.from_parameters(*prototype.lattice)
    species = [stand_in[role] for role, _ in prototype.sites]
    coords = [list(xyz) for _, xyz in prototype.sites]
    full = Structure.from_spacegroup(prototype.space_group, lattice, species, coords, tol=TOLERANCE)
    cell = full.get_primitive_structure()
    role_of = {element: role for role, element in stand_in.items()}
    return cell.lattice, tuple(role_of[site.specie.symbol] for site in cell), np.asarray(cell.frac_coords)
