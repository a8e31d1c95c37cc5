"""A network on formulas: attention between the elements, weighted by their fractions; 128 numbers → m properties.

In the spirit of Roost (Goodall and Lee, Nature Communications 11, 6280 (2020), doi:10.1038/s41467-020-19964-7), which
weighs messages between elements by their fractions, and of CrabNet (Wang et al., npj Computational Materials 7, 77
(2021), doi:10.1038/s41524-021-00545-1), which lets elements attend to each other in a transformer that is told the
fractions. Small, for the few labels of a campaign.

A fraction enters in two ways: as an input beside the element's vector, and as a prior on attention: an element is
attended to in proportion to its fraction times exp(score), so that writing one element as two halves changes little.
Nothing else counts atoms, so Fe2O4 and FeO2 are the same input. The order of the elements enters nowhere.

Shape letters: k formulas, e the most elements in one of them, N elements in all, h heads, c channels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import nn

from orchestrator.networks.formulas import Formula
from orchestrator.networks.trunk import ELEMENT_WIDTH, ElementTable, Item, Reads, Trunk

CHANNELS, HEADS = 64, 4
ABSENT = -1e9
"""Logarithm of the fraction of an element that is not there: no attention, and still a number to differentiate."""


@dataclass(frozen=True, eq=False)
class FormulaBatch:
    """Formulas side by side: the elements of all in one row, and where each belongs in a padded k × e table.

    Args:
        species: atomic number minus one, N.
        fractions: N.
        batch: which formula each element belongs to, N.
        place: which column of the padded table, N.
        count: k.
        widest: e.
    """

    species: torch.Tensor
    fractions: torch.Tensor
    batch: torch.Tensor
    place: torch.Tensor
    count: int
    widest: int

    def padded(self, values: torch.Tensor, empty: float) -> torch.Tensor:
        """Spread N × … over k × e × …, with `empty` where a formula has fewer elements."""
        table = values.new_full((self.count, self.widest, *values.shape[1:]), empty)
        return table.index_put((self.batch, self.place), values)

    def gathered(self, table: torch.Tensor) -> torch.Tensor:
        """Undo `padded`: k × e × … → N × …."""
        return table[self.batch, self.place]


class Block(nn.Module):
    """Each element looks at the others, then thinks for itself (a transformer layer, normalised first)."""

    def __init__(self) -> None:
        super().__init__()
        self.ask = nn.Linear(CHANNELS, 3 * CHANNELS)
        self.answer = nn.Linear(CHANNELS, CHANNELS)
        self.think = nn.Sequential(nn.Linear(CHANNELS, 2 * CHANNELS), nn.SiLU(), nn.Linear(2 * CHANNELS, CHANNELS))
        self.before, self.between = nn.LayerNorm(CHANNELS), nn.LayerNorm(CHANNELS)

    def forward(self, x: torch.Tensor, prior: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the elements after the block, k × e × c, and who looked at whom, k × h × e × e.

        Args:
            x: elements, k × e × c.
            prior: logarithm of their fractions, k × e.
        """
        k, e, _ = x.shape
        heads = self.ask(self.before(x)).view(k, e, 3, HEADS, CHANNELS // HEADS)  # k × e × 3c → k × e × 3 × h × c/h
        query, key, value = heads.permute(2, 0, 3, 1, 4)  # each k × h × e × c/h
        score = query @ key.transpose(2, 3) / math.sqrt(CHANNELS / HEADS)  # k × h × e × e
        weight = torch.softmax(score + prior[:, None, None, :], dim=3)  # sums to 1 over the elements looked at
        seen = (weight @ value).transpose(1, 2).reshape(k, e, CHANNELS)  # k × h × e × c/h → k × e × h × c/h → k × e × c
        x = x + self.answer(seen)
        return x + self.think(self.between(x)), weight


class CompositionNetwork(Trunk):
    """Attention over the elements of a formula, with an m-fold head.

    Args:
        outputs: m properties.
        cutoff: a formula has none.
        blocks: attention blocks.
    """

    reads: Reads = "composition"

    def __init__(self, outputs: int, cutoff: float = 0.0, blocks: int = 2) -> None:
        super().__init__(outputs, 2 * CHANNELS)
        del cutoff
        self.elements = ElementTable()
        self.embed = nn.Linear(ELEMENT_WIDTH + 2, CHANNELS)
        self.blocks = nn.ModuleList(Block() for _ in range(blocks))
        self.norm = nn.LayerNorm(CHANNELS)
        self.score = nn.Linear(CHANNELS, 1)
        self.head = nn.Sequential(nn.Linear(2 * CHANNELS, CHANNELS), nn.SiLU(), nn.Linear(CHANNELS, outputs))

    def collate(self, items: Sequence[Item], device: torch.device, dtype: torch.dtype) -> FormulaBatch:
        """Put k formulas into one batch."""
        formulas = [item for item in items if isinstance(item, Formula)]
        sizes = [len(formula.species) for formula in formulas]
        return FormulaBatch(
            species=torch.from_numpy(np.concatenate([formula.species for formula in formulas])).to(device),
            fractions=torch.from_numpy(np.concatenate([formula.fractions for formula in formulas])).to(device, dtype),
            batch=torch.from_numpy(np.repeat(np.arange(len(formulas)), sizes)).to(device),
            place=torch.from_numpy(np.concatenate([np.arange(size) for size in sizes])).to(device),
            count=len(formulas),
            widest=max(sizes),
        )

    def atom_inputs(self, batch: FormulaBatch) -> torch.Tensor:
        """Return the vector of each element, N × 19."""
        return cast("torch.Tensor", self.elements(batch.species))

    def readout(self, batch: FormulaBatch, atoms: torch.Tensor | None = None) -> torch.Tensor:
        """Return two weighted means over the elements, by fraction and by attention, k × 128."""
        x, weight, _ = self._look(batch, atoms)
        fraction = batch.padded(batch.fractions, 0.0)  # k × e
        return torch.cat([torch.einsum("ke,kec->kc", part, x) for part in (fraction, weight)], dim=1)

    def attention(self, batch: FormulaBatch) -> torch.Tensor:
        """Return the weight of each element in its formula's readout: the mean of fraction and attention, N."""
        _, weight, _ = self._look(batch, None)
        return 0.5 * (batch.gathered(weight) + batch.fractions)

    def pairs(self, batch: FormulaBatch) -> torch.Tensor:
        """Return how much each element looked at each other one, blocks × k × heads × e × e."""
        _, _, looks = self._look(batch, None)
        return torch.stack(looks)

    def _look(
        self, batch: FormulaBatch, atoms: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
        """Return elements k × e × c, their weights in the pool k × e, and each block's attention."""
        vectors = self.atom_inputs(batch) if atoms is None else atoms
        amount = torch.stack([batch.fractions, torch.log(batch.fractions)], dim=1)  # N × 2: traces show in the second
        x = batch.padded(self.embed(torch.cat([vectors, amount], dim=1)), 0.0)  # N × 21 → N × c → k × e × c
        prior = batch.padded(torch.log(batch.fractions), ABSENT)  # k × e
        looks = []
        for block in self.blocks:
            x, weight = block(x, prior)
            looks.append(weight)
        x = self.norm(x)
        score = self.score(x).squeeze(2)  # k × e × 1 → k × e
        return x, torch.softmax(score + prior, dim=1), looks
