"""The instrument contract as code: what every driver must keep, checked in three levels.

::

    findings = await conformance.check(MyDriver(MyDriver.Options()))
    assert not conformance.failures(findings)

Level 0 reads declarations. Level 1 opens the link and sends orders that must be refused. Level 2 sends orders that must
work. Orders are sent to instruments that declare themselves simulated; to others only with `send=True`, since a driver
that fails to refuse an order carries it out. Each check names the mistake that it catches.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum

from instruments import declarations, drills
from instruments.declarations import Finding, Findings
from orchestrator.domain import Order
from orchestrator.protocols import Instrument

__all__ = ["Finding", "Level", "check", "failures"]


class Level(IntEnum):
    """How far the checks go."""

    DECLARATIONS = 0
    LINK = 1
    WORK = 2


async def check(
    instrument: Instrument, *, level: int = Level.LINK, order: Order | None = None, send: bool = False
) -> list[Finding]:
    """Check one driver.

    Args:
        instrument: built, not opened.
        level: 0 declarations, 1 link and refusals, 2 orders that work.
        order: one that works, for level 2; made from the middle of the declared bounds where none is given.
        send: allow sending orders to an instrument that is not simulated.

    Returns:
        Every finding, passed or not.
    """
    findings = Findings()
    description = await declarations.static(instrument, findings)
    stages = {Level.LINK: drills.passive, Level.WORK: drills.active}
    for stage, drill in stages.items():
        if description is None or level < stage:
            continue
        try:
            await drill(instrument, description, findings, order=order, send=send or description.simulated)
        except Exception as error:  # noqa: BLE001  a driver may raise anything; that is what is reported
            findings.that(f"level {stage} comes to its end", False, f"{type(error).__name__}: {error}")
    return findings.all


def failures(findings: Iterable[Finding]) -> list[Finding]:
    """Return the findings that did not pass; checks that were not tried are no failures.

    Args:
        findings: from `check`.
    """
    return [finding for finding in findings if finding.passed is False]
