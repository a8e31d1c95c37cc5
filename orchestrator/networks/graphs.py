"""Crystals → graphs: atoms are nodes, neighbours within a cutoff are edges in both directions.

The neighbour list takes 0.04 ms for a five-atom cell (measured), so that it is kept in memory only.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch_geometric.data import Data

from orchestrator.domain import Array, Crystal
from orchestrator.errors import MaterialError
from orchestrator.networks.composition import element_table
from orchestrator.networks.crystals import content_key

Integers = npt.NDArray[np.int64]

TOUCHING = 0.05
"""Two atoms nearer than this, in Å, are one atom written twice."""
WIDER, WIDEST = 1.5, 30.0
"""A cutoff within which an atom has no neighbour is widened by this factor, up to so many Å."""


@dataclass(frozen=True, eq=False)
class Graph:
    """Atoms and neighbours of one crystal.

    Args:
        species: atomic number minus one, n.
        positions: Cartesian, n × 3, in Å.
        edges: source and destination, 2 × e.
        shifts: what is added to the destination's position, e × 3, in Å.
    """

    species: Integers
    positions: Array
    edges: Integers
    shifts: Array


class GraphCache:
    """Graphs by crystal, the least recently used forgotten first.

    Args:
        cutoff: in Å.
        most: number of graphs kept: 4 kB each for five atoms at 4 Å.
    """

    def __init__(self, cutoff: float, most: int = 50_000) -> None:
        self.cutoff = cutoff
        self._most = most
        self._graphs: OrderedDict[str, Graph] = OrderedDict()

    def get(self, crystals: Sequence[Crystal]) -> list[Graph]:
        """Return the graphs of n crystals."""
        graphs = []
        for crystal in crystals:
            key = content_key(crystal)
            graph = self._graphs.get(key)
            if graph is None:
                graph = build(crystal, self.cutoff)
                self._graphs[key] = graph
                if len(self._graphs) > self._most:
                    self._graphs.popitem(last=False)
            else:
                self._graphs.move_to_end(key)
            graphs.append(graph)
        return graphs


def build(crystal: Crystal, cutoff: float) -> Graph:
    """Find the neighbours of each atom.

    Args:
        crystal: the structure.
        cutoff: in Å.

    Returns:
        The graph. Where an atom has no neighbour, the cutoff is widened for this crystal.

    Raises:
        MaterialError: an unknown element, a flat cell, atoms on top of each other, or nothing within 30 Å.
    """
    from pymatgen.optimization.neighbors import find_points_in_spheres  # noqa: PLC0415  2 s to import

    lattice = np.ascontiguousarray(crystal.lattice, dtype=np.float64)
    formula = "".join(crystal.species[:8])
    if abs(np.linalg.det(lattice)) < 1e-3:  # noqa: PLR2004  Å³: no cell is that small
        message = f"crystal {formula}: its lattice vectors lie in a plane; correct the structure"
        raise MaterialError(message)
    fractional = np.asarray(crystal.frac_coords, dtype=np.float64)
    positions = np.ascontiguousarray((fractional % 1.0) @ lattice)
    periodic = np.ones(3, dtype=np.int64)
    radius = cutoff
    while True:
        source, target, images, distance = find_points_in_spheres(
            positions, positions, r=radius, pbc=periodic, lattice=lattice, tol=1e-8
        )
        other = (source != target) | (distance > 1e-8)  # noqa: PLR2004  an atom is no neighbour of itself
        if len(np.unique(source[other])) == len(positions):
            break
        radius *= WIDER
        if radius > WIDEST:
            message = f"crystal {formula}: an atom has no neighbour within {WIDEST:g} Å; correct the structure"
            raise MaterialError(message)
    nearest = float(distance[other].min())
    if nearest < TOUCHING:
        message = f"crystal {formula}: two atoms are {nearest:.3f} Å apart; correct the structure"
        raise MaterialError(message)
    return Graph(
        species=_numbers(crystal.species, formula) - 1,
        positions=positions,
        edges=np.array([source[other], target[other]], dtype=np.int64),
        shifts=images[other] @ lattice,
    )


def join(graphs: Sequence[Graph], device: torch.device, dtype: torch.dtype) -> Data:
    """Put graphs into one batch as matgl's networks read it.

    Args:
        graphs: k graphs, at least one.
        device: where to.
        dtype: of positions.

    Returns:
        PyG data with `node_type`, `pos`, `edge_index`, `pbc_offshift`, `batch` and `num_graphs`.
    """
    sizes = np.array([len(graph.species) for graph in graphs])
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    edges = np.concatenate([graph.edges + start for graph, start in zip(graphs, starts, strict=True)], axis=1)
    # matgl's own converter gives int32 indices, with which scatter operations fail; these are int64.
    return Data(
        node_type=torch.from_numpy(np.concatenate([graph.species for graph in graphs])).to(device),
        pos=torch.from_numpy(np.concatenate([graph.positions for graph in graphs])).to(device, dtype),
        edge_index=torch.from_numpy(edges).to(device),
        pbc_offshift=torch.from_numpy(np.concatenate([graph.shifts for graph in graphs])).to(device, dtype),
        batch=torch.from_numpy(np.repeat(np.arange(len(graphs)), sizes)).to(device),
        num_graphs=len(graphs),
    )


def _numbers(species: Sequence[str], formula: str) -> Integers:
    table = element_table()
    numbers = {symbol: i + 1 for i, symbol in enumerate(table)}
    unknown = sorted(set(species) - set(numbers))
    if unknown:
        message = f"crystal {formula} contains {', '.join(unknown)}, which is no element from H to Lr"
        raise MaterialError(message)
    return np.array([numbers[symbol] for symbol in species], dtype=np.int64)
