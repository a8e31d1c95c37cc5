"""CHGNet 0.3.0 as a trunk: pretrained on energies, forces and moments, and trained further on a campaign's labels.

CHGNet: Deng et al., Nature Machine Intelligence 5, 1031 (2023), doi:10.1038/s42256-023-00716-3. Potentials as
property predictors, and which layer to read: doi:10.48550/arXiv.2506.18497.

The readout is mean and spread of the atoms' features after each of the four layers: early layers know geometry, late
ones energies, and the head chooses. How much is trained: `frozen` the head only, on readouts computed once; `last` the
last convolution besides; `full` everything, with a far smaller learning rate than the head's. On a CPU a five-atom
crystal takes 14 ms forward and some 40 ms with gradients, ten times as long as MEGNet: for hundreds of labels, not for
thousands. (Frozen features kept on disk, with a process and no network on top, are `potential_gp`.)
"""

from __future__ import annotations

import contextlib
import hashlib
import io
from collections.abc import Iterator, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch_geometric.data import Data

from orchestrator.errors import MaterialError, SurrogateError
from orchestrator.networks.graphs import Graph, join, triplets
from orchestrator.networks.pretrained import LAYERS, WIDTH
from orchestrator.networks.trunk import Depth, Item, Trunk

CUTOFF, BLOCKS = 6.0, 4
"""What the weights were trained with: Å, and convolutions."""
BOND_CUTOFF = 3.0
"""Å: shorter bonds form angles."""
ELEMENTS = 94
"""CHGNet knows hydrogen to plutonium."""
MOMENTS = 2
"""Mean and spread over the atoms."""
READOUT = len(LAYERS) * MOMENTS * WIDTH
BODY_RATE = 0.04
"""Learning rate of pretrained weights in units of the head's: 2e-4 where a network from nothing has 5e-3."""
TINY = 1e-12
"""Keeps the gradient of a spread of zero finite."""

Integers = npt.NDArray[np.int64]
Bonds = tuple[Integers, Integers, Integers]
"""See `bonds`."""

_bonds: WeakKeyDictionary[Graph, Bonds] = WeakKeyDictionary()
_frozen: dict[tuple[str, torch.dtype], WeakKeyDictionary[Graph, torch.Tensor]] = {}
"""Readouts by graph, one table for each set of weights: frozen trunks of a fit share one."""
MOST_TABLES = 4
"""Tables kept: one in single and one in double precision, of two sets of weights."""


class ChgnetTrunk(Trunk):
    """CHGNet with an m-fold head.

    Args:
        outputs: m properties.
        cutoff: of the graphs, in Å; 6.
        blocks: convolutions; 4.

    Raises:
        SurrogateError: another cutoff or number of blocks than CHGNet's.
    """

    body_rate = BODY_RATE

    def __init__(self, outputs: int, cutoff: float = CUTOFF, blocks: int = BLOCKS) -> None:
        super().__init__(outputs, READOUT)
        if cutoff != CUTOFF or blocks != BLOCKS:
            message = (
                f"network chgnet has a cutoff of {CUTOFF:g} Å and {BLOCKS} blocks, with which it was pretrained; asked"
                f" for were {cutoff:g} Å and {blocks}: leave both options out"
            )
            raise SurrogateError(message)
        from chgnet.model import CHGNet  # noqa: PLC0415  seconds to import

        with contextlib.redirect_stdout(io.StringIO()):  # CHGNet prints its size
            self.body = CHGNet.load(use_device="cpu", verbose=False)
        self.head = nn.Sequential(nn.LayerNorm(READOUT), nn.Linear(READOUT, 64), nn.SiLU(), nn.Linear(64, outputs))
        self.learn("frozen")

    def learn(self, depth: Depth) -> None:
        """Choose how much is trained: the head alone, the last convolution besides, or everything."""
        self.body.requires_grad_(depth == "full")
        self.body.composition_model.requires_grad_(requires_grad=False)  # energies of free elements: not used here
        if depth == "last":
            for part in self._last():
                part.requires_grad_(requires_grad=True)

    def is_kept(self, name: str) -> bool:
        """Say that a warm start takes all pretrained weights over as they are."""
        return name.startswith("body.")

    def collate(self, items: Sequence[Item], device: torch.device, dtype: torch.dtype) -> Data:
        """Put graphs into one batch, with the pairing of edges into bonds and of bonds into angles.

        Raises:
            MaterialError: an element beyond plutonium.
        """
        graphs = [item for item in items if isinstance(item, Graph)]
        batch = join(graphs, device, dtype)
        if int(batch.node_type.max()) >= ELEMENTS:
            message = (
                f"CHGNet knows the elements up to plutonium (94); a crystal has element"
                f" {int(batch.node_type.max()) + 1}: leave it out, or choose another network"
            )
            raise MaterialError(message)
        parts = [_bonds_of(graph) for graph in graphs]
        edges = _starts([graph.edges.shape[1] for graph in graphs])
        bonds_ = _starts([len(first) for _, first, _ in parts])
        bond = [own + start for (own, _, _), start in zip(parts, bonds_, strict=True)]
        first = [own + start for (_, own, _), start in zip(parts, edges, strict=True)]
        pairs = [own + start for (_, _, own), start in zip(parts, edges, strict=True)]
        batch.bond = torch.from_numpy(np.concatenate(bond)).to(device)  # E, bond of each edge
        batch.first = torch.from_numpy(np.concatenate(first)).to(device)  # B, one edge of each bond
        batch.pairs = torch.from_numpy(np.concatenate(pairs, axis=1)).to(device)  # 2 × T edges that form angles
        batch.graphs = graphs
        return batch

    def atom_inputs(self, batch: Data) -> torch.Tensor:
        """Return the pretrained vector of each atom's element, N × 64."""
        vectors: torch.Tensor = self.body.atom_embedding(batch.node_type)
        return vectors

    def readout(self, batch: Data, atoms: torch.Tensor | None = None) -> torch.Tensor:
        """Return mean and spread of the atoms after each layer, k × 512."""
        frozen = not any(weight.requires_grad for weight in self.body.parameters())
        if frozen and atoms is None and not batch.pos.requires_grad:
            return self._remembered(batch)
        return self._pooled(batch, self.atom_inputs(batch) if atoms is None else atoms)

    def _pooled(self, batch: Data, atoms: torch.Tensor) -> torch.Tensor:
        owner, k = batch.batch, batch.num_graphs
        count = torch.bincount(owner, minlength=k)[:, None].to(batch.pos.dtype)
        parts = []
        for x in self._layers(batch, atoms):
            mean = x.new_zeros(k, WIDTH).index_add(0, owner, x) / count
            away = (x - mean[owner]) ** 2
            spread = torch.sqrt(x.new_zeros(k, WIDTH).index_add(0, owner, away) / count + TINY)
            parts += [mean, spread]
        return torch.cat(parts, dim=1)

    def _layers(self, batch: Data, x: torch.Tensor) -> Iterator[torch.Tensor]:
        """Yield the atoms' features after each layer, N × 64: CHGNet's own forward pass, from given atoms."""
        body, (source, target) = self.body, batch.edge_index
        vector = batch.pos[target] + batch.pbc_offshift - batch.pos[source]  # E × 3
        length = torch.linalg.vector_norm(vector, dim=1)
        direction = vector / length[:, None]
        basis = body.bond_basis_expansion
        near, nearer = basis.rbf_expansion_ag(length[batch.first]), basis.rbf_expansion_bg(length[batch.first])
        bond, weight, weight_angle = body.bond_embedding(near), body.bond_weights_ag(near), body.bond_weights_bg(nearer)
        one, two = batch.pairs
        some = len(one) > 0
        angle = body.angle_embedding(body.angle_basis_expansion(direction[one], direction[two])) if some else None
        angles = torch.stack([source[one], batch.bond[one], batch.bond[two]], dim=1)  # T × 3
        pairs = batch.edge_index.T  # E × 2
        for i in range(BLOCKS):
            x = body.atom_conv_layers[i](
                atom_feas=x,
                bond_feas=bond,
                bond_weights=weight,
                atom_graph=pairs,
                directed2undirected=batch.bond,
            )
            if i == BLOCKS - 1:
                yield body.readout_norm(x)
                return
            yield x
            if some:
                bond = body.bond_conv_layers[i](
                    atom_feas=x, bond_feas=bond, bond_weights=weight_angle, angle_feas=angle, bond_graph=angles
                )
                if i < BLOCKS - 2:  # nothing reads the angles after the last bonds
                    angle = body.angle_layers[i](atom_feas=x, bond_feas=bond, angle_feas=angle, bond_graph=angles)

    def _remembered(self, batch: Data) -> torch.Tensor:
        """Return readouts that no training changes, each graph through the network once."""
        table = _frozen.setdefault((self._weights(), batch.pos.dtype), WeakKeyDictionary())
        while len(_frozen) > MOST_TABLES:
            del _frozen[next(iter(_frozen))]
        missing = [graph for graph in batch.graphs if graph not in table]
        if missing:
            with torch.no_grad():
                fresh = self.collate(missing, batch.pos.device, batch.pos.dtype)
                rows = self._pooled(fresh, self.atom_inputs(fresh)).cpu()
            table.update((graph, row.clone()) for graph, row in zip(missing, rows, strict=True))
        return torch.stack([table[graph] for graph in batch.graphs]).to(batch.pos.device)

    def _weights(self) -> str:
        digest = hashlib.sha256()
        for value in self.body.state_dict().values():
            digest.update(value.detach().cpu().to(torch.float32).numpy().tobytes())
        return digest.hexdigest()

    def _last(self) -> tuple[Any, ...]:
        return self.body.atom_conv_layers[-1], self.body.readout_norm


def bonds(graph: Graph) -> Bonds:
    """Pair edges that are one bond, and bonds that form an angle.

    Args:
        graph: every edge has its reverse.

    Returns:
        The bond of each edge (E), one edge of each bond (B), and pairs of edges shorter than 3 Å that leave one atom
        (2 × T).

    Raises:
        MaterialError: an edge has no reverse.
    """
    source, target = graph.edges
    turned = source > target
    # Of a bond's two edges the one with the smaller source is kept as it is; between images of one atom, the one whose
    # shift is the larger in its first coordinate that is not zero.
    whole = np.round(graph.shifts * 1e4).astype(np.int64)
    lead = whole[np.arange(len(whole)), np.argmax(whole != 0, axis=1)]
    turned |= (source == target) & (lead < 0)
    shift = np.where(turned[:, None], -whole, whole)
    keys = np.column_stack([np.minimum(source, target), np.maximum(source, target), shift])
    _, first, bond, count = np.unique(keys, axis=0, return_index=True, return_inverse=True, return_counts=True)
    alone = int((count != 2).sum())  # noqa: PLR2004  there and back
    if alone:
        message = (
            f"a graph of {len(graph.species)} atoms has {alone} edges without their reverse; build it without a limit"
            " on the number of neighbours"
        )
        raise MaterialError(message)
    vectors = graph.positions[target] + graph.shifts - graph.positions[source]
    short = np.flatnonzero(np.linalg.norm(vectors, axis=1) < BOND_CUTOFF)
    near = Graph(graph.species, graph.positions, graph.edges[:, short], graph.shifts[short])
    pairs = short[triplets(near)] if len(short) else np.zeros((2, 0), dtype=np.int64)
    return bond.reshape(-1).astype(np.int64), first.astype(np.int64), pairs


def _bonds_of(graph: Graph) -> Bonds:
    found = _bonds.get(graph)
    if found is None:
        found = _bonds[graph] = bonds(graph)
    return found


def _starts(counts: Sequence[int]) -> Integers:
    ends = np.cumsum(np.array(counts, dtype=np.int64))
    return ends - np.array(counts, dtype=np.int64)
