"""Physics that holds for every network: what an answer may not depend on, and forces that are an energy's gradient.

Everything is computed in double precision, so that tolerances can be tight. An answer goes through a few hundred sums
and products of numbers around 1: rounding leaves some 1e-14, and the neighbour list, which is built anew for each
crystal, some 1e-13 Å. 1e-9 is far above both and far below any effect of a missing symmetry (checked below).
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.md.verlet import VelocityVerlet
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.domain import Candidate, Crystal
from orchestrator.networks import graphs
from orchestrator.networks.energy import EnergyCalculator, LearnedEnergy
from orchestrator.networks.formulas import Formula, formulas_of
from orchestrator.networks.trunk import NETWORKS, Item, Trunk, new_trunk

CPU = torch.device("cpu")
EXACT = {"rtol": 1e-9, "atol": 1e-9}
STRUCTURAL = tuple(name for name, kind in NETWORKS.items() if kind.reads == "structure")
FROM_NOTHING = tuple(name for name in STRUCTURAL if not NETWORKS[name].knows)
SPECIES = ("Sr", "Ti", "O", "O", "F")
SITES = np.array([(0.0, 0.0, 0.0), (0.5, 0.5, 0.5), (0.5, 0.5, 0.0), (0.5, 0.0, 0.5), (0.0, 0.5, 0.5)])


@cache
def trunk(name: str) -> Trunk:
    """Return a network with random weights (CHGNet: its own) in double precision."""
    return new_trunk(name, 2, seed=5).double().eval()


def crystal(lattice: np.ndarray, species: tuple[str, ...], sites: np.ndarray) -> Crystal:
    """Return a crystal."""
    return Crystal.from_json({"lattice": lattice.tolist(), "species": list(species), "frac_coords": sites.tolist()})


def lopsided(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return lattice and sites of a perovskite without any symmetry left."""
    rng = np.random.default_rng(seed)
    lattice = np.diag(rng.uniform(3.8, 4.8, 3)) + rng.normal(scale=0.15, size=(3, 3))
    return lattice, SITES + rng.normal(scale=0.02, size=SITES.shape)


def rows(name: str, crystals: list[Crystal]) -> np.ndarray:
    """Return readout and answer of each crystal, from one batch."""
    items: list[Item]
    if NETWORKS[name].reads == "composition":
        items = list(formulas_of([Candidate.make(label="x", crystal=one, crystal_key="k") for one in crystals]))
    else:
        items = [graphs.build(one, NETWORKS[name].cutoff) for one in crystals]
    network = trunk(name)
    with torch.no_grad():
        readout = network.readout(network.collate(items, CPU, torch.float64))
        return torch.cat([readout, network.head(readout)], dim=1).numpy()


def turned(lattice: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Turn a lattice at random, half of the time with a reflection."""
    return lattice @ np.linalg.qr(rng.normal(size=(3, 3)))[0]


@pytest.mark.parametrize("name", NETWORKS)
@given(st.integers(0, 2**31))
@settings(max_examples=4, deadline=None)
def test_rotation_translation_and_order(name: str, seed: int) -> None:
    """Turning, mirroring and shifting a crystal, and listing its atoms in another order, changes nothing."""
    rng = np.random.default_rng(seed)
    lattice, sites = lopsided(seed)
    order = rng.permutation(5)
    moved = (sites + rng.uniform(-1, 1, size=3))[order]
    one, two, three = rows(
        name,
        [
            crystal(lattice, SPECIES, sites),
            crystal(turned(lattice, rng), SPECIES, sites),
            crystal(lattice, tuple(SPECIES[i] for i in order), moved),
        ],
    )
    np.testing.assert_allclose(two, one, **EXACT)
    np.testing.assert_allclose(three, one, **EXACT)


@pytest.mark.parametrize("name", NETWORKS)
@given(st.integers(0, 2**31), st.integers(0, 2))
@settings(max_examples=3, deadline=None)
def test_supercells_answer_alike(name: str, seed: int, axis: int) -> None:
    """A cell written twice, along any axis, is the same material: answers are per atom (intensive)."""
    lattice, sites = lopsided(seed)
    twice = np.ones(3)
    twice[axis] = 2.0
    images = np.vstack([sites / twice, sites / twice + (twice - 1) / 2])
    one, two = rows(name, [crystal(lattice, SPECIES, sites), crystal(lattice * twice[:, None], SPECIES * 2, images)])
    np.testing.assert_allclose(two, one, **EXACT)


@pytest.mark.parametrize("name", NETWORKS)
def test_primitive_and_conventional_cells_answer_alike(name: str) -> None:
    """Rock salt in 2 atoms and in 8: no neighbour stands near a cutoff (5.5 Å: 2.75, 3.89, 4.76, 5.50, 6.15)."""
    a = 5.5
    primitive = crystal(a / 2 * (1.0 - np.eye(3)), ("Na", "Cl"), np.array([(0, 0, 0), (0.5, 0.5, 0.5)]))
    corners = np.array([(0, 0, 0), (0, 0.5, 0.5), (0.5, 0, 0.5), (0.5, 0.5, 0)])
    conventional = crystal(a * np.eye(3), ("Na",) * 4 + ("Cl",) * 4, np.vstack([corners, np.add(corners, 0.5)]))
    one, two = rows(name, [primitive, conventional])
    np.testing.assert_allclose(two, one, **EXACT)


@pytest.mark.parametrize("name", NETWORKS)
@given(st.integers(0, 2**31))
@settings(max_examples=3, deadline=None)
def test_niggli_and_skewed_cells_answer_alike(name: str, seed: int) -> None:
    """Other lattice vectors of the same lattice describe the same crystal."""
    lattice, sites = lopsided(seed)
    mix = np.array([[1, 2, 0], [0, 1, -1], [0, 0, 1]])  # determinant 1
    one, two = rows(
        name,
        [crystal(lattice, SPECIES, sites), crystal(mix @ lattice, SPECIES, sites @ np.linalg.inv(mix))],
    )
    np.testing.assert_allclose(two, one, **EXACT)


@pytest.mark.parametrize("name", NETWORKS)
def test_what_matters_is_seen(name: str) -> None:
    """The tests above could fail: another element, and for networks of structures another site, changes the answer."""
    lattice, sites = lopsided(1)
    other = tuple("Ba" if symbol == "Sr" else symbol for symbol in SPECIES)
    swapped = ("Ti", "Sr", *SPECIES[2:])
    here, there, elsewhere = rows(name, [crystal(lattice, who, sites) for who in (SPECIES, other, swapped)])
    assert np.abs(there - here)[:-2].max() > 1e-5  # far above the tolerance; untrained networks see little yet
    moved = np.abs(elsewhere - here)[:-2].max()
    assert moved > 1e-5 if name in STRUCTURAL else moved < 1e-9


def test_formulas_have_no_order_and_no_multiple() -> None:
    """The network on formulas does not see in which order elements come, nor how many atoms were counted."""
    network = trunk("composition")
    one = Formula(np.array([37, 21, 7]), np.array([0.2, 0.2, 0.6]))
    other = Formula(one.species[::-1].copy(), np.array([6.0, 2.0, 2.0]) / 10.0)
    with torch.no_grad():
        here, there = network(network.collate([one, other], CPU, torch.float64)).numpy()
    np.testing.assert_allclose(here, there, **EXACT)


@pytest.mark.parametrize("name", NETWORKS)
def test_atoms_can_be_given(name: str) -> None:
    """The readout of the atoms' own vectors is the readout, and it has a gradient by them (for attributions)."""
    lattice, sites = lopsided(2)
    network = trunk(name)
    one = crystal(lattice, SPECIES, sites)
    item: Item
    if NETWORKS[name].reads == "composition":
        (item,) = formulas_of([Candidate.make(label="x", crystal=one, crystal_key="k")])
    else:
        item = graphs.build(one, NETWORKS[name].cutoff)
    batch = network.collate([item], CPU, torch.float64)
    atoms = network.atom_inputs(batch).detach().requires_grad_(requires_grad=True)
    assert len(atoms) == len(network.segments(batch))
    answer = network(batch, atoms)
    torch.testing.assert_close(answer, network(batch))
    (gradient,) = torch.autograd.grad(answer.sum(), atoms)
    assert bool((gradient.abs().sum(dim=1) > 0).all())


@pytest.mark.parametrize("name", STRUCTURAL)
def test_energies_are_extensive(name: str) -> None:
    """Two cells have twice the energy of one, and each atom the force that it has there."""
    lattice, sites = lopsided(3)
    cells = np.vstack([sites / (2, 1, 1), sites / (2, 1, 1) + (0.5, 0, 0)])
    pair = [crystal(lattice, SPECIES, sites), crystal(lattice * np.array([[2.0], [1], [1]]), SPECIES * 2, cells)]
    (one, two), (force, forces) = energy(name).of([graphs.build(c, NETWORKS[name].cutoff) for c in pair])
    assert two == pytest.approx(2 * one, rel=1e-9)
    np.testing.assert_allclose(forces, np.vstack([force, force]), **EXACT)


@pytest.mark.parametrize("name", STRUCTURAL)
def test_forces_are_the_gradient_of_the_energy(name: str) -> None:
    """Minus the energy's derivative, by automatic differentiation, equals finite differences; forces add to zero.

    Central differences with a step h err by h²/6 times the third derivative, and by rounding of 1e-14 eV / h. With
    h = 1e-4 Å both are near 1e-8 eV/Å for energies that change over some tenths of an Å.
    """
    lattice, sites = lopsided(4)
    step = 1e-4
    start = graphs.build(crystal(lattice, SPECIES, sites), NETWORKS[name].cutoff)
    _, (forces,) = energy(name).of([start])
    assert np.abs(forces).max() > 1e-3
    np.testing.assert_allclose(forces.sum(axis=0), 0.0, atol=1e-9)
    for atom, axis in ((0, 0), (1, 1), (4, 2)):
        nudge = np.zeros_like(start.positions)
        nudge[atom, axis] = step
        moved = [graphs.Graph(start.species, start.positions + s * nudge, start.edges, start.shifts) for s in (1, -1)]
        up, down = (energy(name).of([graph])[0][0] for graph in moved)
        assert forces[atom, axis] == pytest.approx(-(up - down) / (2 * step), rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("name", FROM_NOTHING)
def test_energy_is_conserved(name: str) -> None:
    """Moving on a learned energy at constant total energy, kinetic and potential energy trade places and nothing leaks.

    Velocity Verlet keeps the total to second order in the time step: it wobbles by some per cent of what is traded at
    1 fs, and a force that were not the gradient, or a jump at the cutoff, would let it drift beyond that.
    """
    lattice, sites = lopsided(5)
    atoms = Atoms(SPECIES, scaled_positions=sites, cell=lattice, pbc=True).repeat((2, 1, 1))
    # MEGNet's neighbours jump at the cutoff: there the list of the first step is kept.
    atoms.calc = EnergyCalculator(energy(name), NETWORKS[name].cutoff, keep_neighbours=name == "megnet")
    spread = np.sqrt(atoms.get_masses() * units.kB * 600)  # of each momentum at 600 K
    atoms.set_momenta(np.random.default_rng(0).normal(size=(len(atoms), 3)) * spread[:, None])
    kinetic, total = [], []
    for _ in range(40):
        VelocityVerlet(atoms, timestep=1.0 * units.fs).run(1)
        kinetic.append(atoms.get_kinetic_energy())
        total.append(atoms.get_total_energy())
    assert np.ptp(kinetic) > 0.05  # eV: the atoms do feel the energy
    assert np.ptp(total) < 0.03 * np.ptp(kinetic)


def energy(name: str) -> LearnedEnergy:
    """Return a random network as an energy, steep enough to move atoms."""
    return LearnedEnergy(trunk(name), scale=STEEP.get(name, 1.0), shift=-5.0)


STEEP = {"megnet": 400.0, "cgcnn": 20.0, "tensornet": 20.0}
"""eV/atom of one unit of an untrained network's answer, with which forces reach some eV/Å as in a crystal."""
