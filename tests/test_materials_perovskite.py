"""Which relaxed cells count as perovskites; structures from the literature stand for their kinds."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.core import Lattice, Structure

from orchestrator.domain import Candidate, Crystal, TrialRecord
from orchestrator.materials.perovskite import PerovskiteCheck, why_not
from orchestrator.materials.prototypes import perovskite, rattled
from orchestrator.materials.structures import from_pymatgen
from orchestrator.plugins import build

IDEAL = perovskite({"A": "Cs", "B": "Pb", "X": "I"}, {"A": 1.88, "B": 1.19, "X": 2.20})


def five(a: float, c: float, symbols: list[str], heights: tuple[float, float, float]) -> Structure:
    """Build a polar tetragonal cell from the heights of B, of the X above it and of the other two."""
    b, top, side = heights
    coords = [[0, 0, 0], [0.5, 0.5, b], [0.5, 0.5, top], [0.5, 0, side], [0, 0.5, side]]
    return Structure(Lattice.tetragonal(a, c), [*symbols, "O", "O", "O"], coords)


def from_group(group: int, lattice: Lattice, sites: dict[str, list[list[float]]]) -> Structure:
    """Build a structure from its independent sites."""
    species = [element for element, coords in sites.items() for _ in coords]
    return Structure.from_spacegroup(group, lattice, species, [xyz for coords in sites.values() for xyz in coords])


PEROVSKITES = {
    "tetragonal PbTiO3": five(3.904, 4.152, ["Pb", "Ti"], (0.539, 0.1138, 0.6169)),
    "GdFeO3, tilted": from_group(
        62,
        Lattice.orthorhombic(5.611, 7.669, 5.349),
        {
            "Gd": [[0.0626, 0.25, -0.0163]],
            "Fe": [[0.5, 0, 0]],
            "O": [[0.467, 0.25, 0.1009], [0.3016, 0.0505, 0.6957]],
        },
    ),
}
OTHERS = {
    "supertetragonal PbVO3": (five(3.804, 4.677, ["Pb", "V"], (0.5677, 0.2102, 0.6889)), "bonds differ too much"),
    "hexagonal BaNiO3, shared faces": (
        from_group(
            194,
            Lattice.hexagonal(5.63, 4.81),
            {"Ba": [[1 / 3, 2 / 3, 0.75]], "Ni": [[0, 0, 0]], "O": [[0.1462, 0.2924, 0.25]]},
        ),
        "do not share corners only",
    ),
    "ilmenite FeTiO3, shared edges": (
        from_group(
            148,
            Lattice.hexagonal(5.088, 14.08),
            {"Fe": [[0, 0, 0.3553]], "Ti": [[0, 0, 0.1464]], "O": [[0.3174, 0.0233, 0.2451]]},
        ),
        "do not share corners only",
    ),
    "calcite CaCO3, no octahedra": (
        from_group(
            167,
            Lattice.hexagonal(4.99, 17.06),
            {"Ca": [[0, 0, 0]], "C": [[0, 0, 0.25]], "O": [[0.2568, 0, 0.25]]},
        ),
        "",
    ),
    "rock salt": (from_group(225, Lattice.cubic(5.6), {"Na": [[0, 0, 0]], "Cl": [[0.5, 0.5, 0.5]]}), "is not ABX3"),
}


@pytest.mark.parametrize("name", PEROVSKITES)
def test_known_perovskites_count(name: str) -> None:
    """Polar and tilted perovskites are perovskites."""
    assert why_not(from_pymatgen(PEROVSKITES[name])) == ""


@pytest.mark.parametrize("name", OTHERS)
def test_other_structures_do_not_count(name: str) -> None:
    """Structures of the same formula that share edges or faces, or have no octahedra, are none."""
    structure, words = OTHERS[name]
    reason = why_not(from_pymatgen(structure))
    assert reason
    assert words in reason


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.permutations(range(5)))
def test_small_rattles_keep_a_perovskite(seed: int, order: list[int]) -> None:
    """The rattled start must count as a perovskite, in any order of its sites."""
    crystal = rattled(IDEAL, 0.05, seed)
    shuffled = Crystal(
        crystal.lattice, tuple(crystal.species[i] for i in order), tuple(crystal.frac_coords[i] for i in order)
    )
    assert why_not(shuffled) == ""


def test_lost_frameworks_are_told_apart() -> None:
    """A sheared or stretched cell and an A ion outside its cage must each be refused with the reason."""
    lattice = np.array(IDEAL.lattice)
    stretched = lattice * np.array([[1.0], [1.0], [1.24]])
    assert "strained" in why_not(Crystal(tuple(map(tuple, stretched)), IDEAL.species, IDEAL.frac_coords))
    sheared = lattice + np.array([[0, 0, 0], [0.55, 0, 0], [0, 0, 0]]) * lattice[0, 0]
    assert why_not(Crystal(tuple(map(tuple, sheared)), IDEAL.species, IDEAL.frac_coords))
    outside = ((0.27, 0.27, 0.27), *IDEAL.frac_coords[1:])
    assert "left its cage" in why_not(Crystal(IDEAL.lattice, IDEAL.species, outside))


def test_derived_property_gives_one_zero_or_a_reason() -> None:
    """The plug-in must give 1 for a perovskite, 0 with the reason for another, and no value without a structure."""
    checker = build("derived", "perovskite_check", {})
    candidate = Candidate.make(label="x", composition="CsPbI3")
    salt = from_pymatgen(OTHERS["rock salt"][0])
    found = checker.compute(
        [
            TrialRecord(1, candidate, {}, {"relax": {"relaxed": IDEAL}}),
            TrialRecord(2, candidate, {}, {"relax": {"relaxed": salt}}),
            TrialRecord(3, candidate, {}, {}),
        ],
        "relax",
    )
    assert [found[trial].value for trial in (1, 2, 3)] == [1.0, 0.0, None]
    assert "is not ABX3" in found[2].reason
    assert "gave no structure 'relaxed'" in found[3].reason
    assert (checker.version(), checker.unit()) == ("perovskite_check/1", "dimensionless")
    assert isinstance(checker, PerovskiteCheck)
