"""Identity, checks and conversion of crystals."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pymatgen.core import Lattice, Structure

from orchestrator.domain import Crystal
from orchestrator.errors import MaterialError
from orchestrator.materials.niggli import niggli_change
from orchestrator.materials.prototypes import prototypes, rattled
from orchestrator.materials.structures import (
    check,
    crystal_key,
    formula,
    from_pymatgen,
    near_duplicates,
    to_pymatgen,
)

CUBE = ((4.0, 0.0, 0.0), (0.0, 4.0, 0.0), (0.0, 0.0, 4.0))
PEROVSKITE = Crystal(
    CUBE,
    ("Sr", "Ti", "O", "O", "O"),
    ((0.5, 0.5, 0.5), (0.0, 0.0, 0.0), (0.5, 0.0, 0.0), (0.0, 0.5, 0.0), (0.0, 0.0, 0.5)),
)
MATRICES = np.array(list(itertools.product((-1, 0, 1), repeat=9))).reshape(-1, 3, 3)
UNIMODULAR = list(MATRICES[np.rint(np.linalg.det(MATRICES)) == 1])


@st.composite
def crystals(draw: st.DrawFn) -> Crystal:
    """Draw cells from cubic to triclinic, sites on a grid of 1e-3 so that none lies on a rounding edge."""
    lengths = [draw(st.integers(300, 900)) / 100 for _ in range(3)]
    angles = [draw(st.sampled_from([60.0, 75.5, 90.0, 101.3, 120.0])) for _ in range(3)]
    if draw(st.booleans()):
        lengths, angles = [lengths[0]] * 3, [90.0] * 3
    lattice = Lattice.from_parameters(*lengths, *angles)
    assume(math.isfinite(lattice.volume) and lattice.volume > 20)
    n = draw(st.integers(1, 5))
    sites = draw(
        st.lists(st.tuples(*[st.integers(0, 999)] * 3), min_size=n, max_size=n, unique=True),
    )
    species = draw(st.lists(st.sampled_from(["Cs", "Pb", "I"]), min_size=n, max_size=n))
    rows = tuple(tuple(float(v) for v in row) for row in lattice.matrix)
    return Crystal(rows, tuple(species), tuple((a / 1000, b / 1000, c / 1000) for a, b, c in sites))  # type: ignore[arg-type]


def changed(crystal: Crystal, lattice: np.ndarray, coords: np.ndarray, order: list[int] | None = None) -> Crystal:
    """Build a crystal from arrays, with its sites in another order."""
    order = order or list(range(len(coords)))
    return Crystal(
        tuple(tuple(row) for row in lattice.tolist()),
        tuple(crystal.species[i] for i in order),
        tuple(tuple(coords[i].tolist()) for i in order),
    )


@settings(max_examples=60, deadline=None)
@given(crystals(), st.data())
def test_key_is_the_same_for_every_description_of_a_crystal(crystal: Crystal, data: st.DataObject) -> None:
    """Order of sites, lattice translations, origin, rotation and choice of cell must not change the identity."""
    lattice, coords = np.array(crystal.lattice), np.array(crystal.frac_coords)
    order = data.draw(st.permutations(range(len(coords))))
    hops = np.array(
        data.draw(st.lists(st.tuples(*[st.integers(-2, 2)] * 3), min_size=len(coords), max_size=len(coords)))
    )
    origin = np.array(data.draw(st.tuples(*[st.integers(0, 999)] * 3))) / 1000
    change = data.draw(st.sampled_from(UNIMODULAR))
    turn, _ = np.linalg.qr(np.random.default_rng(data.draw(st.integers(0, 99))).normal(size=(3, 3)))
    turn *= np.sign(np.linalg.det(turn))
    other = changed(
        crystal,
        change @ lattice @ turn,
        (coords + origin + hops) @ np.linalg.inv(change),
        list(order),
    )
    assert crystal_key(other) == crystal_key(crystal)


@settings(max_examples=40, deadline=None)
@given(crystals(), st.data())
def test_key_tells_different_crystals_apart(crystal: Crystal, data: st.DataObject) -> None:
    """Moving one of several atoms, stretching the cell or exchanging an element must change the identity."""
    lattice, coords = np.array(crystal.lattice), np.array(crystal.frac_coords)
    assert crystal_key(changed(crystal, lattice * 1.001, coords)) != crystal_key(crystal)
    swapped = Crystal(crystal.lattice, ("Na", *crystal.species[1:]), crystal.frac_coords)
    assert crystal_key(swapped) != crystal_key(crystal)


def test_key_sees_a_displacement_of_one_atom() -> None:
    """A displacement above the rounding must give another identity, one far below it the same."""
    moved = np.array(PEROVSKITE.frac_coords)
    moved[1, 2] += 0.003
    assert crystal_key(changed(PEROVSKITE, np.array(CUBE), moved)) != crystal_key(PEROVSKITE)
    moved[1, 2] = 1e-7
    assert crystal_key(changed(PEROVSKITE, np.array(CUBE), moved)) == crystal_key(PEROVSKITE)


def test_key_does_not_see_axes_that_are_left_handed() -> None:
    """The same crystal in left-handed axes is the same crystal; its mirror image is another one."""
    crystal = rattled(PEROVSKITE, 0.2, 3)
    lattice, coords = np.array(crystal.lattice), np.array(crystal.frac_coords)
    assert crystal_key(changed(crystal, -lattice, -coords)) == crystal_key(crystal)
    assert crystal_key(changed(crystal, lattice, -coords)) != crystal_key(crystal)


@settings(max_examples=60, deadline=None)
@given(crystals(), st.sampled_from(UNIMODULAR))
def test_niggli_cell_agrees_with_pymatgen(crystal: Crystal, change: np.ndarray) -> None:
    """The reduced cell must have the lengths of pymatgen's, and must be reached by a unimodular matrix."""
    lattice = np.array(crystal.lattice)
    found = niggli_change(change @ lattice)
    assert round(np.linalg.det(found)) == 1
    expected = Lattice(lattice).get_niggli_reduced_lattice()
    assert np.allclose(np.sort(Lattice(found @ change @ lattice).abc), np.sort(expected.abc), atol=1e-6)


def test_conversion_goes_both_ways() -> None:
    """Conversion to pymatgen and back must change nothing; oxidation states are dropped."""
    assert from_pymatgen(to_pymatgen(PEROVSKITE)) == PEROVSKITE
    decorated = to_pymatgen(PEROVSKITE)
    decorated.add_oxidation_state_by_element({"Sr": 2, "Ti": 4, "O": -2})
    assert from_pymatgen(decorated).species == PEROVSKITE.species
    assert formula(PEROVSKITE) == "SrTiO3"


@pytest.mark.parametrize(
    ("crystal", "words"),
    [
        (Crystal(CUBE, (), ()), "no atoms"),
        (Crystal(CUBE, ("Sr", "Sr"), ((0.0, 0.0, 0.0), (0.0, 0.0, 0.99))), "on top of each other: Sr"),
        (Crystal(CUBE, ("Qq",), ((0.0, 0.0, 0.0),)), "Qq, which does not exist"),
        (Crystal(CUBE, ("Sr",), ((math.nan, 0.0, 0.0),)), "not finite"),
        (Crystal((CUBE[0], CUBE[0], CUBE[2]), ("Sr",), ((0.0, 0.0, 0.0),)), "span a volume"),
        (Crystal(CUBE, ("Sr",), ()), "1 species but 0 positions"),
        (Crystal(((0.3, 0.0, 0.0), *CUBE[1:]), ("Sr",), ((0.0, 0.0, 0.0),)), "on top of each other"),
    ],
)
def test_bad_structures_are_refused_by_name(crystal: Crystal, words: str) -> None:
    """A structure that cannot be computed with must be refused, with its name and the reason."""
    with pytest.raises(MaterialError, match=words) as caught:
        check(crystal, "file.cif")
    assert "file.cif" in str(caught.value)


def test_disorder_is_refused_with_what_to_do() -> None:
    """Partly occupied sites must be refused with the way out."""
    structure = Structure(Lattice.cubic(4), [{"Ba": 0.5, "Sr": 0.5}], [[0, 0, 0]])
    with pytest.raises(MaterialError, match=r"disordered.*OrderDisordered"):
        from_pymatgen(structure, "mixed.cif")


def test_near_duplicates_are_found_where_the_key_differs() -> None:
    """A rattled copy and a supercell have keys of their own, and must be found as near duplicates."""
    rocksalt = from_pymatgen(prototypes()["rocksalt"].decorate({"cation": "Na", "anion": "Cl"}))
    double = from_pymatgen(to_pymatgen(PEROVSKITE).make_supercell((2, 1, 1), in_place=False))
    listed = [PEROVSKITE, rocksalt, rattled(PEROVSKITE, 0.05, 1), double]
    assert len({crystal_key(crystal) for crystal in listed}) == 4
    assert near_duplicates(listed) == [[0, 2, 3]]
