"""What relaxations and single points give, whoever computes them: outputs with units and valid ranges, attachments."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from instruments.relaxation import Relaxed
from orchestrator.domain import Attachment, Order, Output, Quality, Quantity, Reading, Result

NUMBERS = (
    Output("energy", "eV/atom", -50.0, 50.0),
    Output("max_force", "eV/angstrom", 0.0, 1000.0),
    Output("pressure", "GPa", -10000.0, 10000.0),
    Output("volume", "angstrom**3/atom", 1.0, 1000.0),
)
RELAXED = Output("relaxed", kind="structure")


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
