"""Relax a structure with a potential: BFGS on positions and, where wanted, the cell.

The cell is moved through the logarithm of its deformation (ASE's `FrechetCellFilter`). Of the optimisers tried on
rattled five-atom perovskites, BFGS needed the fewest evaluations (FIRE about twice as many).
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from instruments.potentials.catalogue import Potential
from orchestrator.domain import Array, Crystal

RUNAWAY = 3.0
"""A relaxed cell three times larger or smaller than the start is no longer the material that was asked about."""


@dataclass(frozen=True)
class Settings:
    """When a relaxation ends.

    Args:
        fmax: largest force, and largest component of the cell's gradient, in eV/angstrom.
        steps: at most; 0 evaluates the structure as it is.
        cell: relax the cell too.
    """

    fmax: float
    steps: int
    cell: bool


@dataclass(frozen=True)
class Relaxed:
    """Where a relaxation ended.

    Args:
        energy: eV per atom.
        max_force: eV/angstrom.
        pressure: GPa; positive where the cell wants to grow.
        volume: angstrom**3 per atom.
        converged: whether it ended by itself.
        crystal: the structure.
        cif: the same as CIF.
        path: energy (eV), largest force and volume after each step.
    """

    energy: float
    max_force: float
    pressure: float
    volume: float
    converged: bool
    crystal: Crystal
    cif: str
    path: tuple[Mapping[str, float], ...]

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON content."""
        return {**asdict(self), "crystal": self.crystal.to_json(), "path": [dict(point) for point in self.path]}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Relaxed:
        """Build it from `to_json` content."""
        return cls(**{**content, "crystal": Crystal.from_json(content["crystal"]), "path": tuple(content["path"])})


def relax(potential: Potential, crystal: Crystal, settings: Settings, on_step: Callable[[int], None]) -> Relaxed:
    """Relax a structure, or evaluate it.

    Args:
        potential: gives energy, forces and stress.
        crystal: where to start.
        settings: when to end.
        on_step: called with the number of each finished step; what it raises ends the relaxation.

    Returns:
        Where it ended.

    Raises:
        ValueError: the potential cannot describe the structure, a number is not finite, or the cell runs away.
    """
    from ase import Atoms  # noqa: PLC0415  ASE loads with the first order
    from ase.filters import FrechetCellFilter  # noqa: PLC0415  the same
    from ase.optimize import BFGS  # noqa: PLC0415  the same

    atoms = Atoms(symbols=list(crystal.species), scaled_positions=crystal.frac_coords, cell=crystal.lattice, pbc=True)
    calculator = AseFace(potential)
    atoms.calc = calculator
    start = float(atoms.get_volume())
    # Atoms on top of each other divide by zero; `_point` says so in words.
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"), warnings.catch_warnings():
        # scipy's matrix logarithm warns where it checks its own accuracy; the relaxation goes on either way.
        warnings.simplefilter("ignore", RuntimeWarning)
        path = [_point(atoms, calculator, start)]
        converged = True
        if settings.steps:
            optimiser = BFGS(FrechetCellFilter(atoms) if settings.cell else atoms, logfile=None)
            for done in optimiser.irun(fmax=settings.fmax, steps=settings.steps):
                converged = bool(done)
                if optimiser.nsteps:  # the first turn is the start itself
                    path.append(_point(atoms, calculator, start))
                on_step(optimiser.nsteps)
    return _relaxed(atoms, calculator, path, converged=converged)


class AseFace:
    """The methods that ASE's optimisers and integrators ask of a calculator, around a potential.

    It remembers the last answer.

    Args:
        potential: gives energy, forces and stress.
    """

    def __init__(self, potential: Potential) -> None:
        self._potential = potential
        self._last: tuple[bytes, tuple[float, Array, Array]] | None = None

    def answer(self, atoms: Any) -> tuple[float, Array, Array]:
        """Return energy (eV), forces (eV/angstrom) and stress (eV/angstrom**3)."""
        where = atoms.positions.tobytes() + atoms.cell.array.tobytes()
        if self._last is None or self._last[0] != where:
            self._last = (where, self._potential.evaluate(atoms))
        return self._last[1]

    def get_potential_energy(self, atoms: Any, force_consistent: bool = False) -> float:
        """Return the energy in eV."""
        del force_consistent  # there is only one energy
        return self.answer(atoms)[0]

    def get_forces(self, atoms: Any) -> Array:
        """Return the forces in eV/angstrom."""
        return self.answer(atoms)[1]

    def get_stress(self, atoms: Any) -> Array:
        """Return the stress as six numbers in eV/angstrom**3."""
        from ase.stress import full_3x3_to_voigt_6_stress  # noqa: PLC0415  ASE loads with the first order

        stress: Array = full_3x3_to_voigt_6_stress(self.answer(atoms)[2])
        return stress


def _point(atoms: Any, calculator: AseFace, start: float) -> dict[str, float]:
    energy, forces, _ = calculator.answer(atoms)
    volume = float(atoms.get_volume())
    force = float((forces**2).sum(axis=1).max() ** 0.5)
    if not (math.isfinite(energy) and math.isfinite(force)):
        message = f"its energy is {energy} eV and its largest force {force} eV/angstrom"
        raise ValueError(message)
    if not 1 / RUNAWAY < volume / start < RUNAWAY:
        message = f"its volume went from {start:.1f} to {volume:.1f} angstrom**3: it falls apart"
        raise ValueError(message)
    return {"energy_eV": energy, "max_force_eV_per_angstrom": force, "volume_angstrom3": volume}


def _relaxed(atoms: Any, calculator: AseFace, path: list[dict[str, float]], *, converged: bool) -> Relaxed:
    from ase.io import write  # noqa: PLC0415  ASE loads with the first order
    from ase.units import GPa  # noqa: PLC0415  the same

    energy, _, stress = calculator.answer(atoms)
    cif = io.BytesIO()
    write(cif, atoms, format="cif")
    return Relaxed(
        energy=energy / len(atoms),
        max_force=path[-1]["max_force_eV_per_angstrom"],
        pressure=float(-stress.trace() / 3 / GPa),
        volume=path[-1]["volume_angstrom3"] / len(atoms),
        converged=converged,
        crystal=Crystal.from_json(
            {
                "lattice": atoms.cell.array.tolist(),
                "species": atoms.get_chemical_symbols(),
                "frac_coords": atoms.get_scaled_positions(wrap=True).tolist(),
            }
        ),
        cif=cif.getvalue().decode(),
        path=tuple(path),
    )
