"""TensorNet as a trunk: crystal graph → 32 numbers → m properties; slow and smooth, so that forces follow from it.

Simeon and de Fabritiis, NeurIPS 2023, doi:10.48550/arXiv.2306.06482; the layers are matgl's (PyTorch Geometric). Atoms
carry 3 × 3 tensors that turn with the crystal; the readout sees their norms alone, so it does not turn. The embedding
of an element starts from its tabulated properties, and the head has m outputs.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import nn
from torch_geometric.data import Data

from orchestrator.networks.composition import scaled_element_table
from orchestrator.networks.trunk import ELEMENT_WIDTH, ElementTable, Trunk

UNITS = 32
"""Tensors an atom carries, half of matgl's: fast enough for a campaign; also the width of the readout."""


class _Given(nn.Module):
    """Stands in for matgl's table of elements: what it is given are the atoms' vectors already."""

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        return vectors


class TensorNetwork(Trunk):
    """TensorNet with an m-fold head.

    Args:
        outputs: m properties.
        cutoff: of the graphs, in Å; edges fade to nothing there.
        blocks: interaction blocks.
    """

    def __init__(self, outputs: int, cutoff: float, blocks: int = 2) -> None:
        super().__init__(outputs, UNITS)
        from matgl.models import TensorNet  # noqa: PLC0415  ten seconds to import from a cold disk

        self.elements = ElementTable()
        self.embed = nn.Linear(ELEMENT_WIDTH, UNITS)
        # use_warp: a GPU extension with another call of the layers
        self.body = TensorNet(
            element_types=tuple(scaled_element_table()), units=UNITS, nblocks=blocks, cutoff=cutoff, use_warp=False
        )
        self.body.tensor_embedding.emb = _Given()
        self.body.final_layer = nn.Identity()  # the head below takes its place
        self.head = nn.Sequential(nn.Linear(UNITS, UNITS), nn.SiLU(), nn.Linear(UNITS, outputs))

    def atom_inputs(self, batch: Data) -> torch.Tensor:
        """Return the element's vector of each atom, N × 19."""
        return cast("torch.Tensor", self.elements(batch.node_type))

    def readout(self, batch: Data, atoms: torch.Tensor | None = None) -> torch.Tensor:
        """Return the weighted mean of the atoms' scalars, k × 32."""
        given = Data(
            node_type=self.embed(self.atom_inputs(batch) if atoms is None else atoms),  # N × 32, taken by `_Given`
            pos=batch.pos,
            edge_index=batch.edge_index,
            pbc_offshift=batch.pbc_offshift,
        )
        scalars = self.body.forward_features(given)["readout"]  # N × 32
        return cast("torch.Tensor", self.body.readout(scalars, batch.batch))
