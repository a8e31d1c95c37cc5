"""A trunk read as an energy: extensive, with forces as its gradient.

A trunk answers per atom: twice the crystal has the same answer. An energy is that answer times the number of atoms, and
forces are minus its derivative by the positions, so that they can do no work around a loop. `EnergyCalculator` gives
both to ASE, to relax or to move atoms on a learned energy.

Where a neighbour crosses the cutoff, TensorNet and CGCNN let it fade; in MEGNet it jumps. Molecular dynamics on MEGNet
therefore keeps the neighbours of the first step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes

from orchestrator.domain import Array, Crystal
from orchestrator.networks.graphs import Graph, build
from orchestrator.networks.trunk import Trunk


class LearnedEnergy:
    """Energy and forces from one answer of a trunk, in double precision.

    Args:
        trunk: reads graphs.
        column: which of its answers is the energy.
        scale: eV/atom of one standardised unit.
        shift: eV/atom at a standardised energy of zero.
        device: where to compute.
    """

    def __init__(
        self,
        trunk: Trunk,
        *,
        column: int = 0,
        scale: float = 1.0,
        shift: float = 0.0,
        device: torch.device | None = None,
    ) -> None:
        self.device = device or torch.device("cpu")
        self._trunk = trunk.eval().to(self.device, torch.float64)
        self._column, self._scale, self._shift = column, scale, shift

    def of(self, graphs: Sequence[Graph]) -> tuple[Array, list[Array]]:
        """Return the energies of k crystals in eV, and the forces on their atoms, each N × 3, in eV/Å."""
        batch = self._trunk.collate(graphs, self.device, torch.float64)
        batch.pos.requires_grad_(requires_grad=True)
        sizes = torch.tensor([len(graph.species) for graph in graphs], device=self.device)
        answer = self._trunk(batch)[:, self._column]  # k
        energies = sizes * (self._shift + self._scale * answer)
        # A crystal's energy depends on its own atoms alone: the gradient of the sum is each one's own.
        (gradient,) = torch.autograd.grad(energies.sum(), batch.pos)  # N × 3
        forces = np.split(-gradient.cpu().numpy(), np.cumsum(sizes.cpu().numpy())[:-1])
        return energies.detach().cpu().numpy(), forces


class EnergyCalculator(Calculator):  # type: ignore[misc]  # ASE has no types
    """A learned energy for ASE.

    Args:
        energy: what to ask.
        cutoff: reach of the trunk's graphs, in Å.
        keep_neighbours: use the neighbours of the first crystal asked about, which must then not diffuse.
    """

    implemented_properties = ("energy", "forces")

    def __init__(self, energy: LearnedEnergy, cutoff: float, *, keep_neighbours: bool = False) -> None:
        super().__init__()
        self._energy, self._cutoff, self._keep = energy, cutoff, keep_neighbours
        self._first: tuple[Graph, Array] | None = None

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy", "forces"),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Compute energy (eV) and forces (eV/Å) of `atoms`; called by ASE."""
        super().calculate(atoms, properties, system_changes)
        (energy,), (forces,) = self._energy.of([self._graph(self.atoms)])
        self.results = {"energy": float(energy), "forces": forces}

    def _graph(self, atoms: Any) -> Graph:
        here = np.asarray(atoms.get_positions(), dtype=np.float64)
        if self._first is not None:
            graph, there = self._first
            return Graph(graph.species, graph.positions + (here - there), graph.edges, graph.shifts)
        crystal = Crystal.from_json(
            {
                "lattice": atoms.cell.tolist(),
                "species": list(atoms.symbols),
                "frac_coords": atoms.cell.scaled_positions(here).tolist(),
            }
        )
        graph = build(crystal, self._cutoff)
        if self._keep:
            self._first = (graph, here)
        return graph
