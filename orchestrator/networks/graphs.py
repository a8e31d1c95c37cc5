"""Crystals → graphs: atoms are nodes, neighbours within a cutoff are edges.

The neighbour list of a five-atom cell takes 0.1 ms (measured), so that a campaign keeps its graphs in memory only;
where there are many atoms, they are built by several processes and kept on disk as well (`graph_store`). This module
starts without torch: the processes that build graphs need none.
"""

from __future__ import annotations

import os
from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from orchestrator.domain import Array, Crystal
from orchestrator.errors import MaterialError
from orchestrator.networks.composition import element_table
from orchestrator.networks.crystals import content_key

if TYPE_CHECKING:
    import torch
    from torch_geometric.data import Data

Integers = npt.NDArray[np.int64]

TOUCHING = 0.05
"""Two atoms nearer than this, in Å, are one atom written twice."""
WIDER, WIDEST = 1.5, 30.0
"""A cutoff within which an atom has no neighbour is widened by this factor, up to so many Å."""
SAME_SHELL = 1e-4
"""Neighbours this near in distance, in Å, belong to one shell: a limit on their number keeps or drops it whole."""
FLAT = 1e-3
"""Å³; no cell is that small."""
CHUNK = 512
"""Crystals that a process is given at once."""
ATOMS_FOR_PROCESSES = 400_000
"""Atoms above which more processes pay: each takes two seconds to start, in which one builds 100,000 atoms."""
ATOMS_FOR_DISK = 50_000
"""Atoms above which graphs are looked for, and kept, on disk: fewer are built in half a second."""


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
        nearest: at most so many neighbours an atom; see `build`.
    """

    def __init__(self, cutoff: float, most: int = 50_000, *, nearest: int | None = None) -> None:
        self.cutoff, self.nearest = cutoff, nearest
        self._most = most
        self._graphs: OrderedDict[str, Graph] = OrderedDict()

    def get(self, crystals: Sequence[Crystal]) -> list[Graph]:
        """Return the graphs of n crystals."""
        keys = [content_key(crystal) for crystal in crystals]
        found: dict[str, Graph] = {}
        missing: dict[str, Crystal] = {}
        for key, crystal in zip(keys, crystals, strict=True):
            graph = self._graphs.get(key)
            if graph is None:
                missing[key] = crystal
            else:
                self._graphs.move_to_end(key)
                found[key] = graph
        if missing:
            fresh = dict(zip(missing, self._build(list(missing.values())), strict=True))
            found |= fresh
            self._graphs |= fresh
            while len(self._graphs) > self._most:
                self._graphs.popitem(last=False)
        return [found[key] for key in keys]

    def _build(self, crystals: Sequence[Crystal]) -> list[Graph]:
        if sum(len(crystal.species) for crystal in crystals) < ATOMS_FOR_DISK:
            return build_many(crystals, self.cutoff, workers=1, nearest=self.nearest)
        from orchestrator.networks.graph_store import GraphStore  # noqa: PLC0415  the store builds with this module

        return GraphStore(self.cutoff, nearest=self.nearest).get(crystals)


def build(crystal: Crystal, cutoff: float, *, nearest: int | None = None) -> Graph:
    """Find the neighbours of each atom.

    Args:
        crystal: the structure.
        cutoff: in Å.
        nearest: keep so many neighbours an atom, or a few more: atoms at one distance are kept together, so that the
            graph does not depend on the order in which they are found. Edges then need not have a reverse.

    Returns:
        The graph. Where an atom has no neighbour, the cutoff is widened for this crystal.

    Raises:
        MaterialError: no atoms, an unknown element, a number that is not finite, a flat cell, atoms on top of each
            other, or nothing within 30 Å.
    """
    lattice, species, positions = frame(crystal)
    edges, images = neighbours(crystal, lattice, positions, cutoff, nearest)
    return Graph(species, positions, edges, images @ lattice)


def build_many(
    crystals: Sequence[Crystal], cutoff: float, *, workers: int | None = None, nearest: int | None = None
) -> list[Graph]:
    """Build the graphs of many crystals, in their order.

    Args:
        crystals: n structures.
        cutoff: in Å.
        workers: processes; None takes one each core where there are so many atoms that it pays.
        nearest: see `build`.

    Returns:
        n graphs, the same whatever the number of processes.

    Raises:
        MaterialError: see `build`; the first crystal that cannot be built is named.
    """
    if workers is None:
        atoms = sum(len(crystal.species) for crystal in crystals)
        workers = _cores() if atoms >= ATOMS_FOR_PROCESSES else 1
    if workers <= 1 or len(crystals) <= 1:
        return [build(crystal, cutoff, nearest=nearest) for crystal in crystals]
    import multiprocessing  # noqa: PLC0415  only where processes are started
    from concurrent.futures import ProcessPoolExecutor  # noqa: PLC0415  the same

    size = max(1, min(CHUNK, -(-len(crystals) // workers)))
    parts = [(list(crystals[i : i + size]), cutoff, nearest) for i in range(0, len(crystals), size)]
    # Fresh interpreters instead of forks: a fork of a process with threads (torch, a server) can lock up.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(parts)), mp_context=context) as pool:
        return [graph for packed in pool.map(_build_packed, parts) for graph in unpack(packed)]


def frame(crystal: Crystal) -> tuple[Array, Integers, Array]:
    """Return lattice (3 × 3, Å), species (n) and Cartesian positions inside the cell (n × 3, Å) of a crystal.

    Raises:
        MaterialError: no atoms, an unknown element, a number that is not finite, or a flat cell.
    """
    formula = "".join(crystal.species[:8])
    if not crystal.species:
        message = "a crystal has no atoms; give at least one site"
        raise MaterialError(message)
    lattice = np.array(crystal.lattice, dtype=np.float64)
    fractional = np.array(crystal.frac_coords, dtype=np.float64)
    if lattice.shape != (3, 3) or fractional.shape != (len(crystal.species), 3):
        message = (
            f"crystal {formula}: a lattice of {lattice.shape} and positions of {fractional.shape} numbers for"
            f" {len(crystal.species)} atoms; three lattice vectors and three coordinates an atom are expected"
        )
        raise MaterialError(message)
    if not (np.isfinite(lattice).all() and np.isfinite(fractional).all()):
        message = f"crystal {formula}: its lattice or a position is not a finite number; correct the structure"
        raise MaterialError(message)
    if abs(float(np.dot(np.cross(lattice[0], lattice[1]), lattice[2]))) < FLAT:
        message = f"crystal {formula}: its lattice vectors lie in a plane; correct the structure"
        raise MaterialError(message)
    return lattice, _numbers(crystal.species, formula) - 1, (fractional % 1.0) @ lattice


def neighbours(
    crystal: Crystal, lattice: Array, positions: Array, cutoff: float, nearest: int | None
) -> tuple[Integers, Integers]:
    """Return edges (2 × e) and the cells in which their destinations lie (e × 3); see `build`."""
    from pymatgen.optimization.neighbors import find_points_in_spheres  # noqa: PLC0415  2 s to import

    formula = "".join(crystal.species[:8])
    n = len(positions)
    periodic = np.ones(3, dtype=np.int64)
    radius = cutoff
    while True:
        source, target, images, distance = find_points_in_spheres(
            positions, positions, r=radius, pbc=periodic, lattice=lattice, tol=1e-8
        )
        other = (source != target) | (distance > 1e-8)  # noqa: PLR2004  an atom is no neighbour of itself
        if np.bincount(source[other], minlength=n).min() > 0:
            break
        radius *= WIDER
        if radius > WIDEST:
            message = f"crystal {formula}: an atom has no neighbour within {WIDEST:g} Å; correct the structure"
            raise MaterialError(message)
    shortest = float(distance[other].min())
    if shortest < TOUCHING:
        message = f"crystal {formula}: two atoms are {shortest:.3f} Å apart; correct the structure"
        raise MaterialError(message)
    edges = np.array([source[other], target[other]], dtype=np.int64)
    images = images[other]
    if nearest is not None:
        kept = _nearest(edges[0], distance[other], nearest)
        edges, images = np.ascontiguousarray(edges[:, kept]), images[kept]
    return edges, images


def triplets(graph: Graph) -> Integers:
    """Return the pairs of edges that leave the same atom, for networks that read angles.

    Args:
        graph: e edges.

    Returns:
        2 × t positions of edges; every ordered pair of two different edges with one source stands once.
    """
    source = graph.edges[0]
    order = np.argsort(source, kind="stable")
    counts = np.bincount(source, minlength=len(graph.species))
    starts = np.cumsum(counts) - counts
    partners = counts[source]  # of each edge, itself included
    first = np.repeat(np.arange(len(source)), partners)
    within = np.arange(len(first)) - np.repeat(np.cumsum(partners) - partners, partners)
    second = order[starts[source[first]] + within]
    return np.array([first, second])[:, first != second]


def angles(graph: Graph, pairs: Integers) -> Array:
    """Return the angle between the edges of each pair at their common source.

    Args:
        graph: e edges.
        pairs: 2 × t, from `triplets`.

    Returns:
        t angles in radians, 0 to π.
    """
    source, target = graph.edges
    vectors = graph.positions[target] + graph.shifts - graph.positions[source]
    one, two = vectors[pairs[0]], vectors[pairs[1]]
    across = np.linalg.norm(np.cross(one, two), axis=1)  # with the sine, angles near 0 and π keep their digits
    return np.asarray(np.arctan2(across, (one * two).sum(1)), dtype=np.float64)


def join(graphs: Sequence[Graph], device: torch.device, dtype: torch.dtype) -> Data:
    """Put graphs into one batch as matgl's networks read it.

    Args:
        graphs: k graphs, at least one.
        device: where to.
        dtype: of positions.

    Returns:
        PyG data with `node_type`, `pos`, `edge_index`, `pbc_offshift`, `batch` and `num_graphs`.
    """
    import torch  # noqa: PLC0415  see the module's docstring
    from torch_geometric.data import Data  # noqa: PLC0415  the same

    sizes = np.array([len(graph.species) for graph in graphs])
    starts = np.repeat(np.cumsum(sizes) - sizes, [graph.edges.shape[1] for graph in graphs])
    # matgl's own converter gives int32 indices, with which scatter operations fail; these are int64.
    return Data(
        node_type=torch.from_numpy(np.concatenate([graph.species for graph in graphs])).to(device),
        pos=torch.from_numpy(np.concatenate([graph.positions for graph in graphs])).to(device, dtype),
        edge_index=torch.from_numpy(np.concatenate([graph.edges for graph in graphs], axis=1) + starts).to(device),
        pbc_offshift=torch.from_numpy(np.concatenate([graph.shifts for graph in graphs])).to(device, dtype),
        batch=torch.from_numpy(np.repeat(np.arange(len(graphs)), sizes)).to(device),
        num_graphs=len(graphs),
    )


def unseen(crystals: Iterable[Crystal], seen: frozenset[str]) -> dict[str, int]:
    """Return the elements that training never saw, each with the number of crystals that hold it.

    Args:
        crystals: what is asked about.
        seen: symbols of the elements among the labelled crystals.
    """
    found = Counter(symbol for crystal in crystals for symbol in set(crystal.species) - seen)
    return dict(sorted(found.items()))


Packed = tuple[Integers, Integers, Integers, Array, Integers, Array]
"""Atoms and edges of each graph; then species, positions, edges and shifts of all, one after the other."""


def pack(graphs: Sequence[Graph]) -> Packed:
    """Put graphs into six arrays, which travel to another process faster than many small ones."""
    return (
        np.array([len(graph.species) for graph in graphs]),
        np.array([graph.edges.shape[1] for graph in graphs]),
        np.concatenate([graph.species for graph in graphs]),
        np.concatenate([graph.positions for graph in graphs]),
        np.concatenate([graph.edges for graph in graphs], axis=1),
        np.concatenate([graph.shifts for graph in graphs]),
    )


def unpack(packed: Packed) -> list[Graph]:
    """Return what `pack` was given."""
    sizes, counts, species, positions, edges, shifts = packed
    graphs, a, b = [], 0, 0
    for n, e in zip(sizes, counts, strict=True):
        atoms, bonds = slice(a, a + n), slice(b, b + e)  # copied: a view would keep the whole chunk alive
        graphs.append(
            Graph(species[atoms].copy(), positions[atoms].copy(), edges[:, bonds].copy(), shifts[bonds].copy())
        )
        a, b = a + n, b + e
    return graphs


def _build_packed(part: tuple[list[Crystal], float, int | None]) -> Packed:
    crystals, cutoff, nearest = part
    return pack([build(crystal, cutoff, nearest=nearest) for crystal in crystals])


def _nearest(source: Integers, distance: Array, most: int) -> npt.NDArray[np.bool_]:
    """Say which edges are among the nearest of their source, whole shells only; e."""
    order = np.lexsort((distance, source))
    counts = np.bincount(source)
    starts = np.cumsum(counts) - counts
    last = distance[order[starts[source] + np.minimum(most, counts[source]) - 1]]
    return np.asarray(distance <= last + SAME_SHELL)


@cache
def _atomic_numbers() -> dict[str, int]:
    return {symbol: i + 1 for i, symbol in enumerate(element_table())}


def _numbers(species: Sequence[str], formula: str) -> Integers:
    numbers = _atomic_numbers()
    try:
        return np.array([numbers[symbol] for symbol in species], dtype=np.int64)
    except KeyError:
        unknown = sorted(set(species) - set(numbers))
        message = f"crystal {formula} contains {', '.join(unknown)}, which is no element from H to Lr"
        raise MaterialError(message) from None


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
