"""What every network is here: a trunk that turns crystals or formulas into a readout, and a head that answers from it.

A trunk goes from items (graphs or formulas) to a batch (`collate`), from a batch to one vector an atom, differentiable
and not yet mixed with its neighbours (`atom_inputs`), from there to one vector an item (`readout`), and to m
standardised properties (`head`). Attributions need the middle step, uncertainty the readout, training the whole.

The embedding of an element starts from its tabulated properties instead of random numbers, in every network that is
trained from nothing: so an element never seen in training is not noise.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from orchestrator.domain import Array
from orchestrator.errors import SurrogateError
from orchestrator.networks.composition import PROPERTIES, scaled_element_table
from orchestrator.networks.formulas import Formula
from orchestrator.networks.graphs import Graph, join

Item = Graph | Formula
Reads = Literal["structure", "composition"]
Depth = Literal["frozen", "last", "full"]
"""How much of a pretrained network is trained: its head alone, the last layer besides, or everything."""
Batch = Any
"""What `Trunk.collate` returns; its own trunk alone looks inside."""

CAPPED = 3.0
"""Scaled element properties are cut here: a few elements lie far out (the melting point of carbon)."""
EDGES_AT_ONCE = {"cpu": 2_000, "cuda": 100_000}
"""Edges evaluated together: on a CPU what fits its cache (measured), on a GPU what fills it; both bound the memory."""


class ElementTable(nn.Embedding):
    """One learned vector an element, which starts from the element's tabulated properties.

    A warm start keeps it whole (`training.shrink_and_perturb`): shrinking would make unseen elements alike.
    """

    def __init__(self) -> None:
        described = np.clip(np.array(list(scaled_element_table().values())), -CAPPED, CAPPED)
        super().__init__(len(described), ELEMENT_WIDTH, _weight=torch.from_numpy(described).to(torch.float32))


ELEMENT_WIDTH = len(PROPERTIES)
"""Width of `ElementTable`."""


class Trunk(nn.Module, ABC):
    """A network without its uncertainty; see the module's docstring.

    Args:
        outputs: m properties.
        width: of the readout.
    """

    reads: Reads = "structure"
    body_rate: float = 1.0
    """Learning rate of all but the head, in units of the highest: less where the weights come from elsewhere."""

    def __init__(self, outputs: int, width: int) -> None:
        super().__init__()
        self.outputs = outputs
        self.width = width

    head: nn.Module

    def collate(self, items: Sequence[Item], device: torch.device, dtype: torch.dtype) -> Batch:
        """Put items into one batch.

        Args:
            items: k graphs, at least one; k formulas for a network that reads compositions.
            device: where to.
            dtype: of positions or fractions.

        Returns:
            What the other methods take. For graphs: PyG data with `pos`, which may be made to require a gradient.
        """
        return join([item for item in items if isinstance(item, Graph)], device, dtype)

    def compress(self, items: Sequence[Item], device: torch.device, dtype: torch.dtype) -> Batch:
        """Put items into one batch for answers alone: no gradients by positions, no contributions of single atoms.

        A network that reads nothing but distances puts atoms that look alike into one; see `quotient`.
        """
        return self.collate(items, device, dtype)

    def segments(self, batch: Batch) -> torch.Tensor:
        """Return which item each row of `atom_inputs` belongs to, N."""
        owner: torch.Tensor = batch.batch
        return owner

    @abstractmethod
    def atom_inputs(self, batch: Batch) -> torch.Tensor:
        """Return one vector an atom (or an element of a formula) that depends on its element alone, N × e."""

    @abstractmethod
    def readout(self, batch: Batch, atoms: torch.Tensor | None = None) -> torch.Tensor:
        """Return one vector an item.

        Args:
            batch: k items.
            atoms: N × e, in place of `atom_inputs(batch)`.

        Returns:
            k × width.
        """

    def attention(self, batch: Batch) -> torch.Tensor | None:
        """Return the weight of each atom in its item's readout, N, summing to 1 an item; None without attention."""
        del batch
        return None

    def learn(self, depth: Depth) -> None:
        """Choose how much of a pretrained network is trained.

        Args:
            depth: see `Depth`; a network that starts from nothing is trained in full.

        Raises:
            SurrogateError: the network is not pretrained.
        """
        if depth != "full":
            message = (
                f"finetune: {depth} asks for less than the whole network to be trained, but {type(self).__name__}"
                " starts from nothing; leave 'finetune' out, or write 'network: chgnet'"
            )
            raise SurrogateError(message)

    def rate_of(self, name: str) -> float:
        """Return the learning rate of a parameter in units of the highest."""
        return 1.0 if name.startswith("head.") else self.body_rate

    def is_kept(self, name: str) -> bool:
        """Say whether a warm start takes a weight over as it is: tables of elements, and what is pretrained."""
        owner, _, _ = name.rpartition(".")
        return isinstance(self.get_submodule(owner), ElementTable)

    def forward(self, batch: Batch, atoms: torch.Tensor | None = None) -> torch.Tensor:
        """Return standardised properties, k × m."""
        answer: torch.Tensor = self.head(self.readout(batch, atoms))
        return answer


@dataclass(frozen=True)
class Kind:
    """A network that can be named in a campaign file.

    Args:
        name: how.
        reads: what its items are.
        cutoff: default reach of the graphs, in Å.
        blocks: default number of interaction blocks.
        build: (outputs, cutoff, blocks) → trunk with weights from the global generator; imports what it needs.
        paper: where the architecture is from.
        knows: pretrained knowledge inside.
    """

    name: str
    reads: Reads
    cutoff: float
    blocks: int
    build: Callable[[int, float, int], Trunk]
    paper: str
    knows: frozenset[str] = frozenset()


def _megnet(outputs: int, cutoff: float, blocks: int) -> Trunk:
    from orchestrator.networks.megnet import MegNet  # noqa: PLC0415  each network imports its own libraries

    return MegNet(outputs, cutoff, blocks)


def _cgcnn(outputs: int, cutoff: float, blocks: int) -> Trunk:
    from orchestrator.networks.cgcnn import CrystalGraphConvolution  # noqa: PLC0415  as above

    return CrystalGraphConvolution(outputs, cutoff, blocks)


def _tensornet(outputs: int, cutoff: float, blocks: int) -> Trunk:
    from orchestrator.networks.tensornet import TensorNetwork  # noqa: PLC0415  as above

    return TensorNetwork(outputs, cutoff, blocks)


def _composition(outputs: int, cutoff: float, blocks: int) -> Trunk:
    from orchestrator.networks.composition_network import CompositionNetwork  # noqa: PLC0415  as above

    return CompositionNetwork(outputs, cutoff, blocks)


def _chgnet(outputs: int, cutoff: float, blocks: int) -> Trunk:
    from orchestrator.networks.chgnet_trunk import ChgnetTrunk  # noqa: PLC0415  as above

    return ChgnetTrunk(outputs, cutoff, blocks)


NETWORKS: Mapping[str, Kind] = MappingProxyType(
    {
        kind.name: kind
        for kind in (
            Kind("megnet", "structure", 4.0, 3, _megnet, "doi:10.1021/acs.chemmater.9b01294"),
            Kind("cgcnn", "structure", 4.0, 3, _cgcnn, "doi:10.1103/PhysRevLett.120.145301"),
            Kind("tensornet", "structure", 4.0, 2, _tensornet, "doi:10.48550/arXiv.2306.06482"),
            Kind("composition", "composition", 0.0, 2, _composition, "doi:10.1038/s41524-021-00545-1"),
            Kind("chgnet", "structure", 6.0, 4, _chgnet, "doi:10.1038/s42256-023-00716-3", frozenset({"chgnet-0.3.0"})),
        )
    }
)
"""By name; megnet is the default."""


def kind_of(name: str) -> Kind:
    """Return a network's kind.

    Raises:
        SurrogateError: there is none of that name.
    """
    if name not in NETWORKS:
        message = f"there is no network {name!r}; write one of {', '.join(NETWORKS)}"
        raise SurrogateError(message)
    return NETWORKS[name]


def new_trunk(name: str, outputs: int, seed: int, *, cutoff: float | None = None, blocks: int | None = None) -> Trunk:
    """Build a trunk with weights that depend on the seed alone; the global generator is left as it was.

    Args:
        name: one of `NETWORKS`.
        outputs: m properties.
        seed: fixes the weights.
        cutoff: of the graphs, in Å; the network's own where None.
        blocks: interaction blocks; the network's own number where None.

    Returns:
        The trunk, in single precision on the CPU.

    Raises:
        SurrogateError: there is no such network.
    """
    kind = kind_of(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return kind.build(outputs, cutoff or kind.cutoff, blocks or kind.blocks)


def represent(trunk: Trunk, items: Sequence[Item], device: torch.device) -> Array:
    """Return what a trunk makes of items: its readout, then its answer.

    Both are computed in double precision and rounded to single: so they are the same numbers whatever else is in the
    batch, which single precision alone does not give.

    Args:
        trunk: the network; left in evaluation mode and single precision on the CPU.
        items: n graphs or formulas.
        device: where to compute.

    Returns:
        n × (width + m).
    """
    trunk.eval().to(device, torch.float64)
    rows = np.zeros((len(items), trunk.width + trunk.outputs))
    with torch.no_grad():
        for start, stop in _chunks(items, EDGES_AT_ONCE[device.type]):
            readout = trunk.readout(trunk.compress(items[start:stop], device, torch.float64))
            both = torch.cat([readout, trunk.head(readout)], dim=1)
            rows[start:stop] = both.cpu().numpy().astype(np.float32)
    trunk.to("cpu", torch.float32)
    return rows


def _chunks(items: Sequence[Item], most: int) -> Iterator[tuple[int, int]]:
    start, edges = 0, 0
    for i, item in enumerate(items):
        own = item.edges.shape[1] if isinstance(item, Graph) else len(item.species) ** 2
        if i > start and edges + own > most:
            yield start, i
            start, edges = i, 0
        edges += own
    if len(items) > start:
        yield start, len(items)
