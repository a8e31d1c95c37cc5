"""Energy above the potential hull: how far a material is from falling apart, as one potential sees it.

All energies come from one interatomic potential; the hull is that potential's, not that of density functional theory,
and only as complete as the list of competing phases. Construction: S. P. Ong et al., Chem. Mater. 20, 1798 (2008),
doi:10.1021/cm702327g, by pymatgen's PhaseDiagram.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property

from pydantic import Field
from pymatgen.analysis.phase_diagram import PDEntry, PhaseDiagram
from pymatgen.core import Composition

from orchestrator.domain import Crystal, DerivedValue, TrialRecord
from orchestrator.errors import IncompatibleError
from orchestrator.materials.competing import CompetingPhases, read_phases
from orchestrator.protocols import InputPath
from orchestrator.protocols import Options as BaseOptions
from orchestrator.units import convert, scale

UNIT = "eV/atom"
VERSION = 1


class Hull:
    """The lower convex hull of formation energies over competing phases.

    Args:
        phases: energies by one potential.
    """

    def __init__(self, phases: CompetingPhases) -> None:
        self._phases = phases
        self._diagrams: dict[frozenset[str], PhaseDiagram] = {}
        self._entries = [
            (frozenset(composition.as_dict()), PDEntry(composition, phase.energy * composition.num_atoms))
            for phase in phases.phases
            for composition in [Composition(phase.formula)]
        ]

    @cached_property
    def elements(self) -> frozenset[str]:
        """Elements that have a reference energy of their own."""
        return frozenset(next(iter(system)) for system, _ in self._entries if len(system) == 1)

    def missing(self, composition: Composition) -> frozenset[str]:
        """Name the elements of a composition that have no reference."""
        return frozenset(composition.as_dict()) - self.elements

    def energy_above(self, composition: Composition, energy: float) -> float:
        """Return the energy against the best mixture of competing phases, in eV per atom.

        Args:
            composition: of the material; its elements must not be missing.
            energy: of the material, eV per atom.

        Returns:
            The difference. The material itself is not part of the hull: negative means that it is more stable than
            every mixture of the competing phases, by that much.
        """
        system = frozenset(composition.as_dict())
        if system not in self._diagrams:
            inside = [entry for elements, entry in self._entries if elements <= system]
            self._diagrams[system] = PhaseDiagram(inside)
        hull = self._diagrams[system].get_hull_energy_per_atom(composition)
        return energy - float(hull)

    def decomposition(self, composition: Composition) -> Mapping[str, float]:
        """Return the competing mixture of lowest energy: reduced formula → fraction of the atoms."""
        self.energy_above(composition, 0.0)
        parts = self._diagrams[frozenset(composition.as_dict())].get_decomposition(composition)
        return {str(entry.composition.reduced_formula): float(amount) for entry, amount in parts.items()}


class PotentialHull:
    """The derived property ``potential_hull``: energy above the potential hull, in eV per atom.

    The energies that it reads must come from the potential that made the file of competing phases: a difference of
    two potentials' energies means nothing. Whoever wires a campaign checks it with `check_reference`.
    """

    class Options(BaseOptions):
        """Which competing phases, and what to read."""

        phases: InputPath | None = Field(
            default=None,
            description="JSON file of competing phases, made by 'python -m orchestrator.materials.competing_recipe';"
            " the one that ships where not given",
        )
        property: str = Field(default="energy", description="measured energy per atom of the step")

    def __init__(self, options: Options) -> None:
        self._property = options.property
        self._phases = read_phases(options.phases)
        self._hull = Hull(self._phases)

    def version(self) -> str:
        """Identify function and competing phases."""
        return f"potential_hull/{VERSION}/{self._phases.sha256[:16]}"

    def unit(self) -> str:
        """Name the unit of the values."""
        return UNIT

    def potential(self) -> str:
        """Name the potential of the competing phases, such as ``chgnet-0.3.0``."""
        return self._phases.potential

    def check_reference(self, names: frozenset[str]) -> None:
        """Refuse an instrument of another potential.

        Args:
            names: what the instrument says of itself: its `knows`, and the fidelity of the step's capability without
                ``potential:``.

        Raises:
            IncompatibleError: the instrument's energies cannot be compared with the competing phases'.
        """
        if self.potential() not in names:
            message = (
                f"potential_hull has competing phases of {self.potential()}, but the energies come from"
                f" {', '.join(sorted(names)) or 'an instrument that names no potential'}; measure with"
                f" {self.potential()}, or give 'phases' a file made with the other potential"
            )
            raise IncompatibleError(message)

    def compute(self, trials: Sequence[TrialRecord], step: str) -> Mapping[int, DerivedValue]:
        """Return the energy above the hull, or the reason why there is none, for each trial."""
        return {record.trial: self._one(record, step) for record in trials}

    def _one(self, record: TrialRecord, step: str) -> DerivedValue:
        measured = record.measurements.get(step, {}).get(self._property)
        if measured is None:
            return DerivedValue(None, reason=f"step {step!r} gave no good measurement of {self._property!r}")
        composition = _composition(record, step)
        if composition is None:
            return DerivedValue(None, reason="the candidate has neither a structure nor a composition")
        if missing := self._hull.missing(composition):
            names = ", ".join(sorted(missing))
            return DerivedValue(None, reason=f"the competing phases have no element {names} ({self.version()})")
        energy = convert(measured.value, measured.unit, UNIT)
        error = measured.std_error if measured.std_error is None else measured.std_error * scale(measured.unit, UNIT)
        return DerivedValue(self._hull.energy_above(composition, energy), error)


def _composition(record: TrialRecord, step: str) -> Composition | None:
    """Composition of what was measured: of the structure that came back, else of the candidate."""
    crystals: list[Crystal | None] = [*record.structures.get(step, {}).values(), record.candidate.crystal]
    for crystal in crystals:
        if crystal is not None:
            return Composition(Counter(crystal.species))
    return Composition(record.candidate.composition) if record.candidate.composition else None
