"""The instrument contract as code: what every driver must keep, checked in four levels.

::

    findings = await conformance.check(MyDriver(MyDriver.Options()), level=2)
    assert not conformance.failures(findings)

Level 0 reads declarations. Level 1 opens the link and sends orders that must be refused. Level 2 sends orders that must
work. Level 3 makes accidents. Orders are sent to instruments that declare themselves simulated; to others only with
`send=True`, since a driver that fails to refuse an order carries it out. `conformance_rules` lists every rule with the
mistake that it catches.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable

from instruments.conformance_active import active
from instruments.conformance_drills import Accidents, drilled
from instruments.conformance_passive import passive
from instruments.conformance_rules import RULES, Finding, Findings, Level, Rule
from instruments.conformance_static import static
from instruments.drills import Window
from orchestrator.domain import Order
from orchestrator.protocols import Instrument

__all__ = ["RULES", "Accidents", "Finding", "Level", "Rule", "Window", "check", "failures"]


async def check(
    instrument: Instrument,
    *,
    level: int = Level.PASSIVE,
    order: Order | None = None,
    send: bool = False,
    window: Window | None = None,
    dead: Instrument | None = None,
    accidents: Accidents | None = None,
) -> list[Finding]:
    """Check one driver.

    Args:
        instrument: built, not opened.
        level: 0 declarations, 1 link and refusals, 2 orders that work, 3 accidents.
        order: one that works, for level 2; made from the middle of the declared bounds where none is given.
        send: allow sending orders to an instrument that is not simulated.
        window: what a good order may set, by parameter; the declared bounds where it names none.
        dead: the same driver with an address at which nobody answers.
        accidents: what level 3 may do beyond a row of orders.

    Returns:
        Every finding, passed or not.
    """
    findings = Findings()
    description = await static(instrument, findings)
    if description is None:
        return findings.all
    may = send or description.simulated
    stages: dict[Level, Callable[[], Awaitable[None]]] = {
        Level.PASSIVE: lambda: passive(
            instrument, description, findings, order=order, send=may, window=window, dead=dead
        ),
        Level.ACTIVE: lambda: active(instrument, description, findings, order=order, send=may, window=window),
        Level.DRILLS: lambda: drilled(
            instrument, description, findings, order=order, send=may, window=window, accidents=accidents or Accidents()
        ),
    }
    for stage, drill in stages.items():
        if level < stage:
            break
        try:
            await drill()
        except Exception as error:  # noqa: BLE001  a driver may raise anything; that is what is reported
            findings.that(f"level {stage:d} comes to its end", False, f"{type(error).__name__}: {error}")
        else:
            findings.that(f"level {stage:d} comes to its end", True)
    return findings.all


def failures(findings: Iterable[Finding]) -> list[Finding]:
    """Return the findings that did not pass; checks that were not tried are no failures.

    Args:
        findings: from `check`.
    """
    return [finding for finding in findings if finding.passed is False]
