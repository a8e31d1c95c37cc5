"""MEGNet as a trunk: crystal graph → 160 numbers → m properties.

Chen et al., Chemistry of Materials 31, 3564 (2019), doi:10.1021/acs.chemmater.9b01294; the layers are matgl's
(PyTorch Geometric). Two things differ from the published network, both for the few labels of a campaign: the embedding
of an element starts from its tabulated properties instead of random numbers, so that an element never seen in training
is not noise; and the head has m outputs.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from torch_geometric.data import Data

from orchestrator.domain import Array
from orchestrator.networks.composition import scaled_element_table
from orchestrator.networks.graphs import Graph, join

READOUT = 160
"""Width of the readout: two set-to-set vectors of 64 and a state of 32."""
INFERENCE_BATCH = 64
"""Graphs evaluated at once."""
CAPPED = 3.0
"""Scaled element properties are cut here: a few elements lie far out (the melting point of carbon)."""


class Trunk(nn.Module):
    """MEGNet with an m-fold head.

    Args:
        outputs: m properties.
        cutoff: of the graphs, in Å.
        blocks: interaction blocks.
    """

    def __init__(self, outputs: int, cutoff: float, blocks: int = 3) -> None:
        super().__init__()
        self.outputs = outputs
        from matgl.models import MEGNet  # noqa: PLC0415  ten seconds to import from a cold disk

        table = scaled_element_table()
        described = np.clip(np.array(list(table.values())), -CAPPED, CAPPED)
        self.body = MEGNet(
            dim_node_embedding=described.shape[1],
            nblocks=blocks,
            cutoff=cutoff,
            element_types=tuple(table),
        )
        with torch.no_grad():
            self.body.embedding.layer_node_embedding.weight.copy_(torch.from_numpy(described))
        self.body.output_proj = nn.Identity()  # the head below takes its place
        self.head = nn.Sequential(nn.Linear(READOUT, 32), nn.SiLU(), nn.Linear(32, outputs))

    def readout(self, data: Data) -> torch.Tensor:
        """Return the readout, k × 160."""
        state = torch.zeros(data.num_graphs, 2, dtype=data.pos.dtype, device=data.pos.device)
        self.body(data, state)
        readout: torch.Tensor = self.body.feature_dict["readout"]
        return readout

    def forward(self, data: Data) -> torch.Tensor:
        """Return standardised properties, k × m."""
        answer: torch.Tensor = self.head(self.readout(data))
        return answer


def new_trunk(outputs: int, cutoff: float, blocks: int, seed: int) -> Trunk:
    """Build a trunk with weights that depend on the seed alone; the global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Trunk(outputs, cutoff, blocks)


def represent(trunk: Trunk, graphs: Sequence[Graph], device: torch.device) -> Array:
    """Return what a trunk makes of graphs: its readout, then its answer.

    Both are computed in double precision and rounded to single: so they are the same numbers whatever else is in the
    batch, which single precision alone does not give.

    Args:
        trunk: the network; left in evaluation mode and single precision on the CPU.
        graphs: n graphs.
        device: where to compute.

    Returns:
        n × (160 + m).
    """
    trunk.eval().to(device, torch.float64)
    rows = []
    with torch.no_grad():
        for start in range(0, len(graphs), INFERENCE_BATCH):
            readout = trunk.readout(join(graphs[start : start + INFERENCE_BATCH], device, torch.float64))
            both = torch.cat([readout, trunk.head(readout)], dim=1)
            rows.append(both.cpu().numpy().astype(np.float32))
    trunk.to("cpu", torch.float32)
    return np.concatenate(rows).astype(np.float64) if rows else np.zeros((0, READOUT + trunk.outputs))
