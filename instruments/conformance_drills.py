"""Level 3 of the conformance checks: accidents. For simulators, or for a device that nobody minds being unplugged."""

from __future__ import annotations

from dataclasses import dataclass

from instruments.conformance_rules import Findings
from instruments.drills import Window
from orchestrator.domain import Description, Order
from orchestrator.protocols import Instrument


@dataclass(frozen=True)
class Accidents:
    """What level 3 may do.

    Args:
        orders: how many to send in a row.
    """

    orders: int = 200


async def drilled(
    instrument: Instrument,
    description: Description,
    findings: Findings,
    *,
    order: Order | None,
    send: bool,
    window: Window | None,
    accidents: Accidents,
) -> None:
    """Make accidents, and see what the driver does."""
