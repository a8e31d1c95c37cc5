"""Quotients of graphs: atoms that look alike are one, and networks answer from them as from the whole graph."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from orchestrator.domain import Crystal
from orchestrator.networks.graphs import Graph, build
from orchestrator.networks.quotient import Quotient, quotients
from orchestrator.networks.trunk import new_trunk

CPU = torch.device("cpu")
SITES = ((0.0, 0.0, 0.0), (0.5, 0.5, 0.5), (0.5, 0.5, 0.0), (0.5, 0.0, 0.5), (0.0, 0.5, 0.5))


def cell(edges: tuple[float, float, float], species: tuple[str, ...] = ("Sr", "Ti", "O", "O", "O")) -> Crystal:
    """Return a perovskite cell with right angles."""
    a, b, c = edges
    return Crystal(((a, 0.0, 0.0), (0.0, b, 0.0), (0.0, 0.0, c)), species, SITES)


def shaken(seed: int) -> Crystal:
    """Return a cell without any symmetry."""
    rng = np.random.default_rng(seed)
    lattice = np.diag([4.0, 4.1, 4.2]) + rng.normal(scale=0.2, size=(3, 3))
    sites = np.array(SITES) + rng.normal(scale=0.03, size=(5, 3))
    return Crystal(tuple(map(tuple, lattice.tolist())), ("Sr", "Ti", "O", "O", "F"), tuple(map(tuple, sites.tolist())))


def twice(crystal: Crystal) -> Crystal:
    """Return a supercell of two, with its atoms in another order."""
    lattice = (tuple(2 * x for x in crystal.lattice[0]), *crystal.lattice[1:])
    half = [(x / 2, y, z) for x, y, z in crystal.frac_coords]
    sites = [*half, *((x + 0.5, y, z) for x, y, z in half)][::-1]
    return Crystal(lattice, (crystal.species * 2)[::-1], tuple(sites))


def one(crystal: Crystal) -> tuple[Graph, Quotient]:
    """Return graph and quotient."""
    graph = build(crystal, 4.0)
    return graph, quotients([graph])[0]


def test_equivalent_atoms_are_one() -> None:
    """A cubic perovskite has three kinds of atoms, a tetragonal one four, a shaken one as many as atoms."""
    for crystal, kinds in ((cell((4.0, 4.0, 4.0)), 3), (cell((4.0, 4.0, 4.3)), 4), (shaken(0), 5)):
        graph, found = one(crystal)
        assert len(found.species) == kinds
        assert found.atoms.sum() == 5
        assert found.counts.sum() == graph.edges.shape[1]
    cubic = one(cell((4.0, 4.0, 4.0)))[1]
    oxygen = int(np.flatnonzero(found := cubic.species == 7)[0])
    assert found.sum() == 1
    assert cubic.atoms[oxygen] == 3
    octahedron = [
        count
        for source, target, length, count in zip(*cubic.edges, cubic.lengths, cubic.counts, strict=True)
        if cubic.species[source] == 21 and target == oxygen and length < 2.1
    ]
    assert octahedron == [6.0]


def test_neighbours_farther_away_tell_atoms_apart() -> None:
    """Atoms whose nearest neighbours are equal, but whose neighbours' neighbours are not, are two kinds."""
    rows = tuple((0.5, 0.5, (i + 0.5) / 6) for i in range(6))
    chain = Crystal(((20.0, 0.0, 0.0), (0.0, 20.0, 0.0), (0.0, 0.0, 18.0)), ("Na", "K", "K", "K", "K", "K"), rows)
    graph = build(chain, 3.5)  # each atom sees the two beside it only
    assert graph.edges.shape[1] == 12
    found = quotients([graph])[0]
    assert sorted(found.atoms) == [1.0, 1.0, 2.0, 2.0]


def test_a_quotient_does_not_depend_on_its_company_or_cell() -> None:
    """Alone, among others, reordered or as a supercell: the same classes in the same order; supercells count twice."""
    crystals = [cell((4.0, 4.0, 4.3)), shaken(1), cell((3.9, 4.0, 4.1)), cell((4.0, 4.0, 4.0))]
    together = quotients([build(crystal, 4.0) for crystal in crystals])
    for crystal, among in zip(crystals, together, strict=True):
        alone, double = one(crystal)[1], one(twice(crystal))[1]
        for name in ("species", "atoms", "edges", "lengths", "counts"):
            np.testing.assert_array_equal(getattr(alone, name), getattr(among, name))
        np.testing.assert_array_equal(double.species, alone.species)
        np.testing.assert_array_equal(double.edges, alone.edges)
        np.testing.assert_array_equal(double.atoms, 2 * alone.atoms)
        np.testing.assert_array_equal(double.counts, 2 * alone.counts)
        np.testing.assert_allclose(double.lengths, alone.lengths, rtol=1e-12)


@pytest.mark.parametrize("network", ["megnet", "cgcnn"])
def test_networks_answer_from_quotients_as_from_graphs(network: str) -> None:
    """Readout, answer and every gradient by the weights are those of the whole graphs, symmetric or not."""
    crystals = [cell((4.0, 4.0, 4.0)), shaken(2), cell((4.0, 4.0, 4.3)), twice(cell((3.9, 4.0, 4.1))), shaken(3)]
    graphs = [build(crystal, 4.0) for crystal in crystals]
    trunk = new_trunk(network, 2, 0).double()
    found = []
    for put in (trunk.collate, trunk.compress):
        batch = put(graphs, CPU, torch.float64)
        readout = trunk.readout(batch)
        answer = trunk.head(readout)
        trunk.zero_grad()
        torch.autograd.backward((answer * torch.arange(10.0, dtype=torch.float64).reshape(5, 2)).sum())
        slopes = torch.cat([p.grad.flatten() for p in trunk.parameters() if p.grad is not None])
        found.append((len(batch.edge_index[0]), readout.detach(), answer.detach(), slopes))
    whole, small = found
    assert small[0] < 0.75 * whole[0]
    for one_way, other in zip(whole[1:], small[1:], strict=True):
        # Double precision; lengths differ by the rounding of equal distances, 1e-15 Å.
        torch.testing.assert_close(other, one_way, rtol=1e-9, atol=1e-11)


def test_a_large_cell_without_symmetry_keeps_every_distance() -> None:
    """Where distances lie densely they are not merged in a chain: no length is off by more than a shell's width."""
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*[np.arange(6)] * 3), axis=-1).reshape(-1, 3) / 6
    sites = grid + rng.normal(scale=0.01, size=grid.shape)
    crystal = Crystal(
        ((18.0, 0.0, 0.0), (0.0, 18.0, 0.0), (0.0, 0.0, 18.0)),
        ("Ar",) * len(grid),
        tuple(map(tuple, sites.tolist())),
    )
    graph = build(crystal, 5.0)
    source, target = graph.edges
    real = np.sort(np.linalg.norm(graph.positions[target] + graph.shifts - graph.positions[source], axis=1))
    found = quotients([graph])[0]
    assert len(found.species) == len(grid)
    kept = np.sort(np.repeat(found.lengths, found.counts.astype(int)))
    assert np.abs(kept - real).max() <= 2e-4
