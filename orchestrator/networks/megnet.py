"""MEGNet as a trunk: crystal graph → 160 numbers → m properties.

Chen et al., Chemistry of Materials 31, 3564 (2019), doi:10.1021/acs.chemmater.9b01294; the layers are matgl's
(PyTorch Geometric). Two things differ from the published network, both for the few labels of a campaign: the embedding
of an element starts from its tabulated properties, and the head has m outputs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch_geometric.data import Data
from torch_geometric.utils import softmax

from orchestrator.networks import quotient
from orchestrator.networks.composition import scaled_element_table
from orchestrator.networks.graphs import Graph
from orchestrator.networks.trunk import ELEMENT_WIDTH, ElementTable, Item, Trunk

READOUT = 160
"""Width of the readout: two set-to-set vectors of 64 and a state of 32."""


class MegNet(Trunk):
    """MEGNet with an m-fold head.

    Args:
        outputs: m properties.
        cutoff: of the graphs, in Å.
        blocks: interaction blocks.
    """

    def __init__(self, outputs: int, cutoff: float, blocks: int = 3) -> None:
        super().__init__(outputs, READOUT)
        from matgl.models import MEGNet  # noqa: PLC0415  ten seconds to import from a cold disk

        self.body = MEGNet(
            dim_node_embedding=ELEMENT_WIDTH,
            nblocks=blocks,
            cutoff=cutoff,
            element_types=tuple(scaled_element_table()),
        )
        self.body.embedding.layer_node_embedding = ElementTable()
        self.body.output_proj = nn.Identity()  # the head below takes its place
        _swap(self.body, type(self.body.blocks[0].activation), ShiftedSoftplus)
        self.head = nn.Sequential(nn.Linear(READOUT, 32), nn.SiLU(), nn.Linear(32, outputs))

    def atom_inputs(self, batch: Data) -> torch.Tensor:
        """Return the element's vector of each atom, N × 19."""
        vectors: torch.Tensor = self.body.embedding.layer_node_embedding(batch.node_type)
        return vectors

    def compress(self, items: Sequence[Item], device: torch.device, dtype: torch.dtype) -> Data:
        """Put graphs into one batch, atoms that look alike as one; see `quotient`."""
        return quotient.join([item for item in items if isinstance(item, Graph)], device, dtype)

    def readout(self, batch: Data, atoms: torch.Tensor | None = None) -> torch.Tensor:
        """Return the readout, k × 160: the published forward pass up to its last layers, from given atoms."""
        body, k = self.body, batch.num_graphs
        length = quotient.lengths_of(batch)  # E
        places = _Places(batch, length)
        edge = body.edge_encoder(body.bond_expansion(length))  # E × 32
        atom = body.node_encoder(self.atom_inputs(batch) if atoms is None else atoms)  # N × 32
        state = body.state_encoder(length.new_zeros(k, 2))  # k × 32; crystals have no state here
        for block in body.blocks:
            updates = zip(places.update(block, edge, atom, state), (edge, atom, state), strict=True)
            edge, atom, state = (new + old if block.skip else new for new, old in updates)
        seen = [
            _set2set(body.node_s2s, atom, batch.batch, places.atoms, k),
            _set2set(body.edge_s2s, edge, places.edge_owner, places.edges, k),
        ]
        return torch.cat([*seen, state], dim=1)  # k × (64 + 64 + 32)


class ShiftedSoftplus(nn.Module):
    """The activation of the published network, log(1 + eˣ) - log 2; matgl's makes a tensor of log 2 at each call."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply it to each number."""
        return nn.functional.softplus(x) - math.log(2.0)


def _swap(module: nn.Module, old: type[nn.Module], new: type[nn.Module]) -> None:
    """Replace every part of one kind, at any depth."""
    for name, part in list(module.named_children()):
        if isinstance(part, old):
            setattr(module, name, new())
        else:
            _swap(part, old, new)


class _Places:
    """Where the atoms and edges of a batch belong, and how many each stands for.

    Args:
        batch: k graphs or quotients.
        like: gives device and precision.
    """

    def __init__(self, batch: Data, like: torch.Tensor) -> None:
        self.owner = batch.batch
        self.source, self.target = batch.edge_index
        self.edge_owner = self.owner[self.source]
        self.atoms, self.edges = quotient.counts_of(batch, like)
        n, k = len(self.owner), batch.num_graphs
        # Means are sums with these weights: over an atom's edges, a graph's edges, a graph's atoms.
        self._by_atom = _share(self.edges, self.source, n)
        self._by_edge = _share(self.edges, self.edge_owner, k)
        self._by_graph = _share(self.atoms, self.owner, k)

    def update(
        self, block: Any, edge: torch.Tensor, atom: torch.Tensor, state: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """Return what a block makes of edges (E × 32), atoms (N × 32) and states (k × 32), in that order.

        As matgl's `MEGNetBlock`, but a first layer on several vectors side by side is a sum of layers on each, so that
        what depends on an atom or a graph is computed once for each of them instead of once an edge.
        """
        e, a, u = block.edge_func(edge), block.node_func(atom), block.state_func(state)
        first, *rest = block.conv.edge_func.layers
        own, other, beside, above = first.weight.split([a.shape[1], a.shape[1], e.shape[1], u.shape[1]], dim=1)
        e = (
            (a @ own.T).index_select(0, self.source)
            + (a @ other.T).index_select(0, self.target)
            + e @ beside.T
            + torch.addmm(first.bias, u, above.T).index_select(0, self.edge_owner)
        )  # E × 64
        for layer in rest:
            e = layer(e)
        around = torch.zeros(len(a), e.shape[1], dtype=e.dtype, device=e.device)
        around = around.index_add(0, self.source, (e * self._by_atom).to(e.dtype))  # N × 32
        a = block.conv.node_func(torch.cat([a, around, u.index_select(0, self.owner)], dim=1))
        none = torch.zeros(len(u), e.shape[1], dtype=e.dtype, device=e.device)
        edges = none.index_add(0, self.edge_owner, (e * self._by_edge).to(e.dtype))
        atoms = none.index_add(0, self.owner, (a * self._by_graph).to(e.dtype))
        return e, a, block.conv.state_func(torch.cat([u, edges, atoms], dim=1))


def _share(count: torch.Tensor, place: torch.Tensor, n: int) -> torch.Tensor:
    """Return counts as shares of all that belong to the same of n places, as a column."""
    total = count.new_zeros(n).index_add(0, place, count)
    return (count / total.index_select(0, place))[:, None]


def _set2set(layer: Any, x: torch.Tensor, owner: torch.Tensor, count: torch.Tensor, k: int) -> torch.Tensor:
    """Return the set-to-set vectors, k × 64, of rows (32 wide) that stand for several equal ones each.

    Vinyals et al., doi:10.48550/arXiv.1511.06391: the softmax over equal rows is one row's with its count.
    """
    seen = x.new_zeros(k, 2 * x.shape[1])
    memory = (x.new_zeros(1, k, x.shape[1]), x.new_zeros(1, k, x.shape[1]))
    for _ in range(layer.n_iters):
        asked, memory = layer.lstm(seen[None], memory)  # 1 × k × 32
        weight = softmax((x * asked[0].index_select(0, owner)).sum(1) + count.log(), owner, num_nodes=k)
        found = x.new_zeros(k, x.shape[1]).index_add(0, owner, (weight[:, None] * x).to(x.dtype))
        seen = torch.cat([asked[0], found], dim=1)
    return seen
