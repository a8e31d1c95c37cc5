"""MEGNet as a trunk: crystal graph → 160 numbers → m properties.

Chen et al., Chemistry of Materials 31, 3564 (2019), doi:10.1021/acs.chemmater.9b01294; the layers are matgl's
(PyTorch Geometric). Two things differ from the published network, both for the few labels of a campaign: the embedding
of an element starts from its tabulated properties, and the head has m outputs.
"""

from __future__ import annotations

import torch
from torch import nn
from torch_geometric.data import Data

from orchestrator.networks.composition import scaled_element_table
from orchestrator.networks.trunk import ELEMENT_WIDTH, ElementTable, Trunk

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
        self.head = nn.Sequential(nn.Linear(READOUT, 32), nn.SiLU(), nn.Linear(32, outputs))

    def atom_inputs(self, batch: Data) -> torch.Tensor:
        """Return the element's vector of each atom, N × 19."""
        vectors: torch.Tensor = self.body.embedding.layer_node_embedding(batch.node_type)
        return vectors

    def readout(self, batch: Data, atoms: torch.Tensor | None = None) -> torch.Tensor:
        """Return the readout, k × 160: the published forward pass up to its last layers, from given atoms."""
        body, owner, (source, target) = self.body, batch.batch, batch.edge_index
        vector = batch.pos[target] + batch.pbc_offshift - batch.pos[source]  # E × 3
        edge = body.edge_encoder(body.bond_expansion(torch.linalg.vector_norm(vector, dim=1)))  # E × 32
        atom = body.node_encoder(self.atom_inputs(batch) if atoms is None else atoms)  # N × 32
        state = body.state_encoder(batch.pos.new_zeros(batch.num_graphs, 2))  # k × 32; crystals have no state here
        edge_owner = owner[source]
        for block in body.blocks:
            edge, atom, state = block(
                batch.edge_index, edge, atom, state, owner, edge_owner, len(owner), batch.num_graphs
            )
        atoms_seen, edges_seen = body.node_s2s(atom, owner), body.edge_s2s(edge, edge_owner, batch.num_graphs)
        return torch.cat([atoms_seen, edges_seen, state], dim=1)  # k × (64 + 64 + 32)
