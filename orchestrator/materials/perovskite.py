"""Is a relaxed ABX3 cell still a perovskite?

What counts as one, after A. M. Glazer, Acta Cryst. B 28, 3384 (1972), doi:10.1107/S0567740872007976: a framework of BX6
octahedra that share corners in three dimensions, with A in its cages; octahedra may tilt and deform, and the ions may
leave their centres. The bounds of `Limits` are ours: wide enough for tetragonal PbTiO3 (Ti-O 1.77 to 2.39 angstrom,
c/a 1.06) and for the tilts of GdFeO3 (Fe-O-Fe 145°), tight enough to refuse the square pyramids of PbVO3 (c/a 1.23)
and shared edges or faces (B-X-B near 90° or below).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pydantic import Field

from orchestrator.domain import Array, Crystal, DerivedValue, TrialRecord
from orchestrator.materials.structures import to_pymatgen
from orchestrator.protocols import Options as BaseOptions

VERSION = 1
CORNERS = 6
ATOMS = 5


@dataclass(frozen=True)
class Limits:
    """Bounds of what still counts as a perovskite.

    Args:
        bonds: longest over shortest of the six B-X bonds of an octahedron.
        gap: the seventh X over the longest bond: six neighbours are meant, not five or eight.
        opposite: smallest X-B-X angle in degrees through the octahedron.
        adjacent: largest departure from 90° of the other X-B-X angles.
        bridge: smallest B-X-B angle in degrees.
        edges: longest over shortest B-B distance across a shared corner: the strain of the cell.
        cage: smallest A-B distance over that of the ideal cube.
    """

    bonds: float = 1.45
    gap: float = 1.15
    opposite: float = 150.0
    adjacent: float = 25.0
    bridge: float = 130.0
    edges: float = 1.2
    cage: float = 0.75


def why_not(crystal: Crystal, limits: Limits | None = None) -> str:
    """Say why a crystal is no perovskite ABX3; empty where it is one.

    Args:
        crystal: any number of formula units.
        limits: bounds; the default ones where not given.

    Returns:
        The first criterion that fails for the better assignment of A and B, or an empty text.
    """
    counts = Counter(crystal.species)
    units = len(crystal.species) / ATOMS
    rest = [element for element, count in counts.items() if count == units]
    anions = [element for element, count in counts.items() if count == 3 * units]
    if not (len(counts) == len(rest) + len(anions) == 3 and len(anions) == 1):  # noqa: PLR2004  A, B and X
        return f"{dict(counts)} is not ABX3"
    tried = [_first_failure(crystal, a, b, anions[0], limits or Limits()) for a, b in (rest, rest[::-1])]
    return max(tried, key=lambda failure: failure.stage).text


@dataclass(frozen=True)
class _Failure:
    """How far an assignment of A and B came, and what it failed at."""

    stage: int
    text: str = ""


def _first_failure(crystal: Crystal, a: str, b: str, x: str, limits: Limits) -> _Failure:
    symbols = np.array(crystal.species)
    neighbours = _Neighbours(crystal, symbols)
    links: dict[int, list[Array]] = {}
    for i in np.flatnonzero(symbols == b):
        ends, vectors, distances = neighbours.of(int(i), x)
        if len(ends) <= CORNERS or distances[CORNERS] < limits.gap * distances[CORNERS - 1]:
            return _Failure(1, f"{b} does not have six {x} neighbours")
        if distances[CORNERS - 1] > limits.bonds * distances[0]:
            span = f"{distances[0]:.2f} to {distances[CORNERS - 1]:.2f} Å"
            return _Failure(2, f"the {b}-{x} bonds differ too much: {span}")
        if not _octahedral(vectors[:CORNERS], limits):
            return _Failure(3, f"the six {x} around {b} form no octahedron")
        for end, vector in zip(ends[:CORNERS], vectors[:CORNERS], strict=True):
            links.setdefault(int(end), []).append(-vector)
    bridges = [links.get(int(end), []) for end in np.flatnonzero(symbols == x)]
    if any(len(bonds) != 2 or _angle(bonds[0], bonds[1]) < limits.bridge for bonds in bridges):  # noqa: PLR2004  a corner joins two
        return _Failure(4, f"the octahedra around {b} do not share corners only")
    edges = [float(np.linalg.norm(one - other)) for one, other in bridges]
    nearest = min(float(neighbours.of(int(i), b)[2][0]) for i in np.flatnonzero(symbols == a))
    failure = _Failure(7)
    if max(edges) > limits.edges * min(edges):
        failure = _Failure(5, f"the framework is strained: {b}-{b} from {min(edges):.2f} to {max(edges):.2f} Å")
    elif nearest < limits.cage * np.sqrt(3) / 2 * np.mean(edges):
        failure = _Failure(6, f"{a} has left its cage ({a}-{b} {nearest:.2f} Å)")
    return failure


class _Neighbours:
    """Neighbours of a site by element, nearest first."""

    def __init__(self, crystal: Crystal, symbols: npt.NDArray[np.str_]) -> None:
        structure = to_pymatgen(crystal)
        reach = 2.0 * (structure.volume / len(symbols) * ATOMS) ** (1 / 3)  # two edges of the ideal cube
        self._symbols = symbols
        self._from, self._to, images, self._distances = structure.get_neighbor_list(reach)
        coords = np.asarray(structure.frac_coords)
        lattice = np.asarray(structure.lattice.matrix)
        self._vectors = (coords[self._to] + images - coords[self._from]) @ lattice

    def of(self, site: int, element: str) -> tuple[npt.NDArray[np.int64], Array, Array]:
        """Return sites, vectors and distances of the neighbours of one element."""
        chosen = np.flatnonzero((self._from == site) & (self._symbols[self._to] == element))
        chosen = chosen[np.argsort(self._distances[chosen], kind="stable")]
        return self._to[chosen], self._vectors[chosen], self._distances[chosen]


def _octahedral(vectors: Array, limits: Limits) -> bool:
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    angles = np.degrees(np.arccos(np.clip(unit @ unit.T, -1.0, 1.0)))
    opposite = angles >= limits.opposite
    adjacent = np.abs(angles - 90.0) <= limits.adjacent
    expected = (opposite.sum(axis=1) == 1) & (adjacent.sum(axis=1) == CORNERS - 2)
    return bool(expected.all())


def _angle(one: Array, other: Array) -> float:
    cosine = float(one @ other / (np.linalg.norm(one) * np.linalg.norm(other)))
    return float(np.degrees(np.arccos(np.clip(cosine, -1.0, 1.0))))


class PerovskiteCheck:
    """The derived property ``perovskite_check``: 1 where the relaxed cell is still a perovskite, else 0."""

    class Options(BaseOptions):
        """What to look at."""

        structure: str = Field(default="relaxed", description="structure output of the step")

    def __init__(self, options: Options) -> None:
        self._structure = options.structure

    def version(self) -> str:
        """Identify the function; the number grows when a bound changes."""
        return f"perovskite_check/{VERSION}"

    def unit(self) -> str:
        """Name the unit of the values."""
        return "dimensionless"

    def compute(self, trials: Sequence[TrialRecord], step: str) -> Mapping[int, DerivedValue]:
        """Return 1 or 0 with the reason, or no value where no structure came back, for each trial."""
        return {record.trial: self._one(record, step) for record in trials}

    def _one(self, record: TrialRecord, step: str) -> DerivedValue:
        crystal = record.structures.get(step, {}).get(self._structure)
        if crystal is None:
            return DerivedValue(None, reason=f"step {step!r} gave no structure {self._structure!r}")
        reason = why_not(crystal)
        return DerivedValue(0.0 if reason else 1.0, reason=reason)
