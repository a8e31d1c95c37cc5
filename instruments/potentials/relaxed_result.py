"""What relaxations and single points give, whoever computes them: outputs with units and valid ranges, attachments."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from instruments.potentials.dynamics import Path
from instruments.potentials.relaxation import Relaxed
from orchestrator.domain import Attachment, Order, Output, Quality, Quantity, Reading, Result

NUMBERS = (
    Output("energy", "eV/atom", -50.0, 50.0),
    Output("max_force", "eV/angstrom", 0.0, 1000.0),
    Output("pressure", "GPa", -10000.0, 10000.0),
    Output("volume", "angstrom**3/atom", 1.0, 1000.0),
)
RELAXED = Output("relaxed", kind="structure")
MEANS = (
    Output("energy", "eV/atom", -50.0, 50.0),
    Output("mean_temperature", "kelvin", 0.0, 1e6),
    Output("pressure", "GPa", -10000.0, 10000.0),
    Output("mean_square_displacement", "angstrom**2", 0.0, 1e8),
)
"""Of a path of molecular dynamics; the energy is the potential one."""
LAST = Output("last", kind="structure")


def result(
    order: Order,
    found: Relaxed,
    outputs: Sequence[Output] = NUMBERS,
    applied: Mapping[str, Quantity] | None = None,
    notes: str = "",
) -> Result:
    """Turn a relaxation into a result; one that did not converge has uncertain numbers.

    Args:
        order: what was asked.
        found: where it ended.
        outputs: the numbers that are declared.
        applied: set-points.
        notes: for people.

    Returns:
        Numbers, the relaxed structure where one was asked for, and the path as attachments.
    """
    values: dict[str, Any] = vars(found)
    steps = len(found.path) - 1
    quality = Quality.GOOD if found.converged else Quality.UNCERTAIN
    summary = {"converged": found.converged, "steps": steps, "path": found.path}
    attachments = [Attachment("trajectory.json", "application/json", json.dumps(summary).encode())]
    relaxed = order.capability == "relax"
    if relaxed:
        attachments.append(Attachment("relaxed.cif", "chemical/x-cif", found.cif.encode()))
    return Result(
        key=order.key,
        readings=tuple(Reading(o.name, values[o.name], o.unit, quality=quality) for o in outputs),
        structures={"relaxed": found.crystal} if relaxed else {},
        applied=applied or {},
        attachments=tuple(attachments),
        notes=notes if found.converged else f"not converged within {steps} steps",
    )


def path_result(order: Order, found: Path, applied: Mapping[str, Quantity]) -> Result:
    """Turn a path of molecular dynamics into a result; where it is too short for an error, its means are uncertain.

    Args:
        order: what was asked.
        found: what came out.
        applied: set-points.

    Returns:
        Means with their errors, the last structure, and every sample as attachment.
    """
    means = {**found.means, "mean_temperature": found.means["temperature"]}
    quality = Quality.UNCERTAIN if means["energy"][1] is None else Quality.GOOD
    summary = {"atoms": found.atoms, "blocks": found.blocks, "means": found.means, "samples": found.samples}
    return Result(
        key=order.key,
        readings=tuple(Reading(o.name, means[o.name][0], o.unit, means[o.name][1], quality=quality) for o in MEANS),
        structures={"last": found.crystal},
        applied=applied,
        attachments=(Attachment("path.json", "application/json", json.dumps(summary).encode()),),
        notes=f"{found.atoms} atoms, {len(found.samples)} samples",
    )
