"""Competing phases: what a new material could fall apart into, with energies of one potential.

The file that ships, `data/competing_phases_chgnet.json`, is made by `orchestrator.materials.competing_recipe`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from orchestrator.domain import Crystal, JsonObject, canonical_json, sha256
from orchestrator.errors import MaterialError

FORMAT = 1
SHIPPED = "data/competing_phases_chgnet.json"


@dataclass(frozen=True)
class Phase:
    """The best structure found for one composition.

    Args:
        formula: reduced formula.
        prototype: structure type that it started from.
        energy: eV per atom, by the potential of the file.
        crystal: relaxed structure.
        converged: whether the relaxation reached its force bound; where not, the energy is an upper bound.
    """

    formula: str
    prototype: str
    energy: float
    crystal: Crystal
    converged: bool = True

    def to_json(self) -> JsonObject:
        """Return the phase as JSON content."""
        return {
            "formula": self.formula,
            "prototype": self.prototype,
            "energy": self.energy,
            "converged": self.converged,
            "crystal": self.crystal.to_json(),
        }


@dataclass(frozen=True)
class CompetingPhases:
    """The phases of one file.

    Args:
        potential: name and version of the potential, such as ``chgnet-0.3.0``.
        phases: one a composition.
        about: everything else that the file says: weights' hash, sources, settings, the command that makes it again.
    """

    potential: str
    phases: tuple[Phase, ...]
    about: Mapping[str, Any]

    @property
    def sha256(self) -> str:
        """Hash of the potential and of every phase's formula and energy: the hull id."""
        return sha256(canonical_json([self.potential, sorted((p.formula, p.energy) for p in self.phases)]))


def read_phases(path: Path | None = None) -> CompetingPhases:
    """Read a file of competing phases, and check its hash.

    Args:
        path: the file; None for the one that ships.

    Returns:
        The phases.

    Raises:
        MaterialError: it cannot be read, is of another format, or its hash does not match.
    """
    name = str(path) if path else SHIPPED
    try:
        text = path.read_text("utf-8") if path else files("orchestrator.materials").joinpath(SHIPPED).read_text("utf-8")
        content = json.loads(text)
        if content["format"] != FORMAT:
            message = f"{name} has format {content['format']!r}; this version of Matloop reads format {FORMAT}"
            raise MaterialError(message)
        phases = tuple(
            Phase(p["formula"], p["prototype"], float(p["energy"]), Crystal.from_json(p["crystal"]), p["converged"])
            for p in content["phases"]
        )
        potential, stated = str(content["potential"]), str(content["sha256"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        message = (
            f"the competing phases in {name} cannot be read ({type(error).__name__}: {error}); make the file with"
            " 'python -m orchestrator.materials.competing_recipe --out FILE', or leave out 'phases' for the one that"
            " ships"
        )
        raise MaterialError(message) from error
    about = {key: value for key, value in content.items() if key != "phases"}
    found = CompetingPhases(potential, phases, about)
    if found.sha256 != stated:
        message = (
            f"the competing phases in {name} do not match their hash (stated {stated[:12]}…, computed"
            f" {found.sha256[:12]}…): the file was changed by hand or damaged; make it again"
        )
        raise MaterialError(message)
    return found


def write_phases(path: Path, potential: str, phases: Sequence[Phase], about: Mapping[str, Any]) -> CompetingPhases:
    """Write a file of competing phases.

    Args:
        path: where.
        potential: name and version.
        phases: one a composition.
        about: facts about how they were made.

    Returns:
        What was written.
    """
    ordered = tuple(sorted(phases, key=lambda phase: phase.formula))
    made = CompetingPhases(potential, ordered, about)
    head = {"format": FORMAT, "potential": potential, "sha256": made.sha256, **about}
    lines = ",\n".join("  " + json.dumps(phase.to_json()) for phase in ordered)  # a line a phase: readable differences
    text = json.dumps(head, indent=1)[:-2] + ',\n "phases": [\n' + lines + "\n ]\n}\n"
    path.write_text(text, "utf-8")
    return made
