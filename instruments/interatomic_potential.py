"""An interatomic potential as instrument: relax a structure, or evaluate it as it is.

A relaxation is BFGS on positions and, with `cell: true`, the cell, through the logarithm of its deformation (ASE's
`FrechetCellFilter`); of the optimisers tried on rattled five-atom perovskites it needed the fewest evaluations. It ends
when no force and no component of the cell's gradient exceeds `fmax` (as the filter scales them, so that a single force
may stand a few percent above). A relaxation that does not end within `max_steps` gives its numbers with quality
*uncertain*: they are kept and looked at, and train nothing. A structure that falls apart (its volume changes by more
than a factor of `RUNAWAY`, an atom is left alone, a number is not finite) is bad data.

Recovery class *idempotent*: a pure computation may always be sent again.
"""

from __future__ import annotations

import io
import json
import math
import threading
import warnings
from typing import Any, ClassVar

from pydantic import BaseModel, Field

from instruments import potentials
from instruments.potentials import Potential, PotentialName
from instruments.sync import BlockingInstrument, Job
from orchestrator.domain import (
    Array,
    Attachment,
    Capability,
    Crystal,
    Description,
    Identity,
    Output,
    Quality,
    Reading,
    Recovery,
    Result,
)
from orchestrator.errors import BadData
from orchestrator.protocols import Options

RUNAWAY = 3.0
"""A relaxed cell three times larger or smaller than the start is no longer the material that was asked about."""

NUMBERS = (
    Output("energy", "eV/atom", -50.0, 50.0),
    Output("max_force", "eV/angstrom", 0.0, 1000.0),
    Output("pressure", "GPa", -10000.0, 10000.0),
    Output("volume", "angstrom**3/atom", 1.0, 1000.0),
)


class PotentialOptions(Options):
    """Which potential, and how to relax with it."""

    name: PotentialName = Field(default="chgnet", description="chgnet, or emt: a light stand-in for tests, metals only")
    fmax: float = Field(default=0.1, gt=0, description="end of a relaxation, in eV/angstrom")
    max_steps: int = Field(default=200, ge=1, description="after so many steps the numbers are uncertain")
    cell: bool = Field(default=True, description="relax the cell too")
    threads: int = Field(default=1, ge=1, description="that torch may use in each slot")
    slots: int = Field(default=1, ge=1, description="relaxations at once, each on a thread of its own")
    longest_s: float = Field(default=600.0, gt=0, description="a relaxation that takes longer hangs")


class InteratomicPotential(BlockingInstrument):
    """Compute energies, forces and relaxed structures with a potential.

    Args:
        options: potential and settings of the relaxation.
    """

    Options: ClassVar[type[BaseModel]] = PotentialOptions

    def __init__(self, options: PotentialOptions) -> None:
        super().__init__(options)
        self.options: PotentialOptions = options
        self._mine = threading.local()  # one network a thread: slots share nothing

    def description(self) -> Description:
        """Declare `relax` and `single_point`."""
        version = potentials.VERSIONS[self.options.name]
        relaxed = Output("relaxed", kind="structure")
        return Description(
            capabilities=tuple(
                Capability(
                    name=name,
                    outputs=outputs,
                    takes_structure=True,
                    typical_s=typical_s,
                    longest_s=self.options.longest_s,
                    fidelity=f"potential:{version}",
                )
                for name, outputs, typical_s in (("relax", (*NUMBERS, relaxed), 2.0), ("single_point", NUMBERS, 0.2))
            ),
            recovery=Recovery.IDEMPOTENT,
            slots=self.options.slots,
            knows=potentials.KNOWS[self.options.name],
            simulated=True,
        )

    def connect(self) -> Identity:
        """Load the potential; its serial number is the hash of its weights."""
        serial, programs = self._potential().identity()
        return Identity(name=potentials.VERSIONS[self.options.name], serial=serial, firmware=programs)

    def work(self, job: Job) -> Result:
        """Relax or evaluate the order's structure."""
        crystal = job.order.crystal
        if crystal is None:  # refused before; this is for the type checker
            message = "the order has no structure"
            raise BadData(message)
        potentials.refuse_unknown_elements(self.options.name, crystal)
        steps = self.options.max_steps if job.order.capability == "relax" else 0
        try:
            run = _Relaxation(self._potential(), crystal, cell=self.options.cell)
            converged = run.relax(job, self.options.fmax, steps) if steps else True
        except (ValueError, FloatingPointError) as error:
            message = f"{self.options.name} cannot describe the structure {job.order.label or crystal.species}: {error}"
            raise BadData(message) from error
        return run.result(job, converged=converged, relaxed=bool(steps))

    def _potential(self) -> Potential:
        if not hasattr(self._mine, "potential"):
            self._mine.potential = potentials.load(self.options.name, self.options.threads)
        potential: Potential = self._mine.potential
        return potential


class _Calculator:
    """The methods that ASE's optimisers ask of a calculator, around a potential; remembers the last answer."""

    def __init__(self, potential: Potential) -> None:
        self._potential = potential
        self._last: tuple[bytes, tuple[float, Array, Array]] | None = None

    def answer(self, atoms: Any) -> tuple[float, Array, Array]:
        where = atoms.positions.tobytes() + atoms.cell.array.tobytes()
        if self._last is None or self._last[0] != where:
            self._last = (where, self._potential.evaluate(atoms))
        return self._last[1]

    def get_potential_energy(self, atoms: Any, force_consistent: bool = False) -> float:
        del force_consistent  # there is only one energy
        return self.answer(atoms)[0]

    def get_forces(self, atoms: Any) -> Array:
        return self.answer(atoms)[1]

    def get_stress(self, atoms: Any) -> Array:
        from ase.stress import full_3x3_to_voigt_6_stress  # noqa: PLC0415  ASE loads with the first order

        stress: Array = full_3x3_to_voigt_6_stress(self.answer(atoms)[2])
        return stress


class _Relaxation:
    """One structure on its way to lower energy."""

    def __init__(self, potential: Potential, crystal: Crystal, *, cell: bool) -> None:
        from ase import Atoms  # noqa: PLC0415  ASE loads with the first order

        self.atoms = Atoms(
            symbols=list(crystal.species), scaled_positions=crystal.frac_coords, cell=crystal.lattice, pbc=True
        )
        self.calculator = _Calculator(potential)
        self.atoms.calc = self.calculator
        self.cell = cell
        self.start = self.atoms.get_volume()
        self.path: list[dict[str, float]] = []

    def relax(self, job: Job, fmax: float, steps: int) -> bool:
        from ase.filters import FrechetCellFilter  # noqa: PLC0415  ASE loads with the first order
        from ase.optimize import BFGS  # noqa: PLC0415  the same

        with warnings.catch_warnings():
            # The matrix logarithm of scipy warns where it checks its own accuracy; the relaxation goes on either way.
            warnings.simplefilter("ignore", RuntimeWarning)
            optimiser = BFGS(FrechetCellFilter(self.atoms) if self.cell else self.atoms, logfile=None)
            converged = False
            for done in optimiser.irun(fmax=fmax, steps=steps):
                converged = bool(done)
                self._note()
                job.raise_if_aborted()
                job.progress(min(0.99, optimiser.nsteps / steps), f"step {optimiser.nsteps}")
        return converged

    def _note(self) -> None:
        energy, forces, _ = self.calculator.answer(self.atoms)
        volume = float(self.atoms.get_volume())
        force = float((forces**2).sum(axis=1).max() ** 0.5)
        if not (math.isfinite(energy) and math.isfinite(force)):
            message = f"energy {energy} eV, largest force {force} eV/angstrom after {len(self.path)} steps"
            raise ValueError(message)
        if not 1 / RUNAWAY < volume / self.start < RUNAWAY:
            message = f"its volume went from {self.start:.1f} to {volume:.1f} angstrom**3: it falls apart"
            raise ValueError(message)
        self.path.append({"energy_eV": energy, "max_force_eV_per_angstrom": force, "volume_angstrom3": volume})

    def result(self, job: Job, *, converged: bool, relaxed: bool) -> Result:
        from ase.units import GPa  # noqa: PLC0415  ASE loads with the first order

        if not self.path:
            self._note()
        energy, _, stress = self.calculator.answer(self.atoms)
        n = len(self.atoms)
        values = {
            "energy": energy / n,
            "max_force": self.path[-1]["max_force_eV_per_angstrom"],
            "pressure": float(-stress.trace() / 3 / GPa),
            "volume": self.path[-1]["volume_angstrom3"] / n,
        }
        quality = Quality.GOOD if converged else Quality.UNCERTAIN
        summary = {"converged": converged, "steps": len(self.path) - 1, "path": self.path}
        attachments = [Attachment("trajectory.json", "application/json", json.dumps(summary).encode())]
        if relaxed:
            attachments.append(Attachment("relaxed.cif", "chemical/x-cif", self._cif()))
        note = "" if converged else f"not converged within {len(self.path) - 1} steps"
        return Result(
            key=job.order.key,
            readings=tuple(Reading(o.name, values[o.name], o.unit, quality=quality) for o in NUMBERS),
            structures={"relaxed": self._crystal()} if relaxed else {},
            attachments=tuple(attachments),
            notes=note,
        )

    def _crystal(self) -> Crystal:
        return Crystal.from_json(
            {
                "lattice": self.atoms.cell.array.tolist(),
                "species": self.atoms.get_chemical_symbols(),
                "frac_coords": self.atoms.get_scaled_positions(wrap=True).tolist(),
            }
        )

    def _cif(self) -> bytes:
        from ase.io import write  # noqa: PLC0415  ASE loads with the first order

        text = io.BytesIO()
        write(text, self.atoms, format="cif")
        return text.getvalue()
