"""Symmetry made use of: atoms that a network cannot tell apart are computed once, with their number as a weight.

A network that reads distances, and nothing else of the geometry, gives the same vector to all atoms whose surroundings
look alike, layer after layer. Which atoms those are is found by colour refinement (Weisfeiler and Leman); the graph of
the classes, with multiplicities, then gives the answer of the whole graph (Bollen et al., GRADES-NDA 2023,
doi:10.48550/arXiv.2304.14793). Crystals are where this pays: those of MatBench's phonons have a sixth of their edges
left on average, cubic perovskites a third (measured). A supercell has the quotient of its small cell.

Colours are hashes of what an atom is and sees; two different neighbourhoods share one with a chance of 2⁻⁶⁴.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from orchestrator.domain import Array
from orchestrator.networks.graphs import Graph, Integers

if TYPE_CHECKING:
    import torch
    from torch_geometric.data import Data

SAME_LENGTH, WIDEST_SHELL = 5e-5, 2e-4
"""Å. Distances of one crystal that follow each other this closely are one, their mean: files round by about as much.

Where many follow each other, up to the second width: in a large cell without symmetry every distance is its own.
"""
ROUNDS = 64
"""Refinement ends by itself after as many rounds as the graph is wide; this bounds it for chains of atoms."""

Hashes = npt.NDArray[np.uint64]


@dataclass(frozen=True, eq=False)
class Quotient:
    """The classes of one graph's atoms and edges.

    Args:
        species: atomic number minus one of each class of atoms, n.
        atoms: how many atoms each class has, n.
        edges: classes of source and destination, 2 × e.
        lengths: of the edges, e, in Å.
        counts: how many edges each class of edges has, e.
    """

    species: Integers
    atoms: Array
    edges: Integers
    lengths: Array
    counts: Array


_known: WeakKeyDictionary[Graph, Quotient] = WeakKeyDictionary()


def quotients(graphs: Sequence[Graph]) -> list[Quotient]:
    """Return the quotient of each graph; each is found once and kept as long as its graph.

    Args:
        graphs: k graphs.

    Returns:
        k quotients, which do not depend on the other graphs.
    """
    missing = list({id(graph): graph for graph in graphs if graph not in _known}.values())
    if missing:
        _known.update(zip(missing, _find(missing), strict=True))
    return [_known[graph] for graph in graphs]


def join(graphs: Sequence[Graph], device: torch.device, dtype: torch.dtype) -> Data:
    """Put the quotients of graphs into one batch.

    Args:
        graphs: k graphs, at least one.
        device: where to.
        dtype: of lengths and numbers.

    Returns:
        PyG data with `node_type`, `edge_index`, `batch` and `num_graphs` as `graphs.join` has them, and with `length`
        and `edge_count` of each edge (E) and `atom_count` of each atom (N) in place of positions.
    """
    import torch  # noqa: PLC0415  as in `graphs`
    from torch_geometric.data import Data  # noqa: PLC0415  the same

    found = quotients(graphs)
    sizes = np.array([len(one.species) for one in found])
    starts = np.repeat(np.cumsum(sizes) - sizes, [len(one.lengths) for one in found])

    def numbers(parts: list[Array]) -> torch.Tensor:
        return torch.from_numpy(np.concatenate(parts)).to(device, dtype)

    return Data(
        node_type=torch.from_numpy(np.concatenate([one.species for one in found])).to(device),
        edge_index=torch.from_numpy(np.concatenate([one.edges for one in found], axis=1) + starts).to(device),
        length=numbers([one.lengths for one in found]),
        edge_count=numbers([one.counts for one in found]),
        atom_count=numbers([one.atoms for one in found]),
        batch=torch.from_numpy(np.repeat(np.arange(len(found)), sizes)).to(device),
        num_graphs=len(found),
    )


def lengths_of(batch: Data) -> torch.Tensor:
    """Return the length of each edge of a batch, E: as stored, or from positions, differentiable by them."""
    if "length" in batch:
        stored: torch.Tensor = batch.length
        return stored
    import torch  # noqa: PLC0415  as in `graphs`

    source, target = batch.edge_index
    found: torch.Tensor = torch.linalg.vector_norm(batch.pos[target] + batch.pbc_offshift - batch.pos[source], dim=1)
    return found


def counts_of(batch: Data, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return how many atoms and edges each atom (N) and edge (E) of a batch stands for: 1 where it is no quotient."""
    if "edge_count" in batch:
        return batch.atom_count, batch.edge_count
    return like.new_ones(len(batch.node_type)), like.new_ones(batch.edge_index.shape[1])


def _find(graphs: Sequence[Graph]) -> list[Quotient]:
    """Refine all graphs at once: many small ones cost hardly more than one."""
    sizes = np.array([len(graph.species) for graph in graphs])
    starts = np.cumsum(sizes) - sizes
    owner = np.repeat(np.arange(len(graphs)), sizes)
    species = np.concatenate([graph.species for graph in graphs])
    bonds = np.array([graph.edges.shape[1] for graph in graphs])
    source, target = np.concatenate([graph.edges for graph in graphs], axis=1) + np.repeat(starts, bonds)
    vectors = np.concatenate([g.positions[g.edges[1]] + g.shifts - g.positions[g.edges[0]] for g in graphs])
    shell, rank, lengths = _shells(np.linalg.norm(vectors, axis=1), np.repeat(np.arange(len(graphs)), bonds))

    colour = _mixed(species.astype(np.uint64) + np.uint64(1))
    step = _mixed(rank.astype(np.uint64))
    out, into = _Sums(source, len(species)), _Sums(target, len(species))
    classes = _classes(owner, colour)
    many = _count(classes, owner, len(graphs))
    for _ in range(ROUNDS):
        seen = out(_mixed(colour[target] ^ step)) ^ _mixed(into(_mixed(colour[source] + step)))
        finer = _classes(owner, _mixed(colour + _mixed(seen)))
        # Rounds only ever split classes: a graph with as many as before keeps its colours from then on.
        going = (more := _count(finer, owner, len(graphs))) > many
        if not going.any():
            break
        colour = np.where(going[owner], _mixed(colour + _mixed(seen)), colour)
        many = np.where(going, more, many)
    classes = _classes(owner, colour)
    return _gathered((owner, species, classes), (classes[source], classes[target], shell), lengths, len(graphs))


def _count(classes: Integers, owner: Integers, k: int) -> Integers:
    """Count the classes of each of k graphs."""
    return np.bincount(owner[np.unique(classes, return_index=True)[1]], minlength=k)


def _gathered(
    nodes: tuple[Integers, Integers, Integers], edges: tuple[Integers, Integers, Integers], lengths: Array, k: int
) -> list[Quotient]:
    """Count atoms and edges by class and share them out to their graphs; classes and shells ascend with the graph.

    Args:
        nodes: graph, species and class of each atom.
        edges: classes of both ends, and shell, of each edge.
        lengths: of each shell.
        k: number of graphs.
    """
    owner, species, classes = nodes
    one, two, shell = edges
    first = np.unique(classes, return_index=True)[1]
    atoms = np.bincount(classes).astype(np.float64)
    total = len(first)
    key, counts = np.unique((shell * total + one) * total + two, return_counts=True)
    which, pair = np.divmod(key, total * total)
    ends = np.array(np.divmod(pair, total))
    whose = owner[first]
    limits = np.searchsorted(whose, np.arange(k + 1))
    places = np.searchsorted(whose[ends[0]], np.arange(k + 1))
    return [
        Quotient(
            species[first[limits[i] : limits[i + 1]]],
            atoms[limits[i] : limits[i + 1]].copy(),
            ends[:, places[i] : places[i + 1]] - limits[i],
            lengths[which[places[i] : places[i + 1]]],
            counts[places[i] : places[i + 1]].astype(np.float64),
        )
        for i in range(k)
    ]


def _shells(distance: Array, owner: Integers) -> tuple[Integers, Integers, Array]:
    """Sort distances into shells of equal ones, graph by graph.

    Args:
        distance: E.
        owner: graph of each, E, ascending.

    Returns:
        Shell of each edge among all graphs' (ascending with the graph), its rank in its own graph, and the mean
        distance of each shell.
    """
    order = np.lexsort((distance, owner))
    sorted_distance, sorted_owner = distance[order], owner[order]
    other = np.diff(sorted_owner, prepend=-1) > 0
    number = np.cumsum(other | (np.diff(sorted_distance, prepend=-1.0) > SAME_LENGTH)) - 1
    starts = np.flatnonzero(np.diff(number, prepend=-1))
    width = sorted_distance[np.append(starts[1:], len(number)) - 1] - sorted_distance[starts]
    apart = (width > WIDEST_SHELL)[number]
    number = np.cumsum(apart | (np.diff(number, prepend=-1) > 0)) - 1
    first_of_graph = np.maximum.accumulate(np.where(other, number, 0))
    shell, rank = np.empty_like(owner), np.empty_like(owner)
    shell[order], rank[order] = number, number - first_of_graph
    return shell, rank, np.bincount(number, sorted_distance) / np.bincount(number)


class _Sums:
    """Sums of hashes over the edges of each atom; they wrap around, so the order does not matter."""

    def __init__(self, place: Integers, n: int) -> None:
        self._order = np.argsort(place, kind="stable")
        counts = np.bincount(place, minlength=n)
        self._starts = np.cumsum(counts) - counts
        self._empty = counts == 0

    def __call__(self, values: Hashes) -> Hashes:
        padded = np.append(values[self._order], np.uint64(0))  # an atom without edges may start behind the last
        sums = np.add.reduceat(padded, self._starts)
        sums[self._empty] = 0
        return sums


def _classes(owner: Integers, colour: Hashes) -> Integers:
    """Number the pairs of graph and colour, ascending with the graph."""
    order = np.lexsort((colour, owner))
    new = (np.diff(owner[order], prepend=-1) > 0) | (np.diff(colour[order], prepend=colour[order[:1]]) != 0)
    classes = np.empty_like(owner)
    classes[order] = np.cumsum(new) - 1
    return classes


def _mixed(value: Hashes) -> Hashes:
    """Scatter the bits of 64-bit numbers (the finaliser of SplitMix64, Steele et al., doi:10.1145/2714064.2660195)."""
    value = value + np.uint64(0x9E3779B97F4A7C15)
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(value ^ (value >> np.uint64(31)))
