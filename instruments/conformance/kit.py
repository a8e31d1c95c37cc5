"""The instrument contract as code: what every driver must keep, checked in four levels.

::

    findings = await conformance.check(MyDriver(MyDriver.Options()), level=2)
    assert not conformance.failures(findings)

Level 0 reads declarations. Level 1 opens the link and sends orders that must be refused. Level 2 sends orders that must
work. Level 3 makes accidents. Orders are sent to instruments that declare themselves simulated; to others only with
`send=True`, since a driver that fails to refuse an order carries it out. `rules` lists every rule with the
mistake that it catches.
"""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata

from instruments.conformance.accidents import Accidents, drilled
from instruments.conformance.active import active
from instruments.conformance.orders import Window
from instruments.conformance.passive import passive
from instruments.conformance.rules import RULES, Finding, Findings, Level, Rule
from instruments.conformance.static import static
from orchestrator.domain import Identity, JsonObject, Order
from orchestrator.protocols import Instrument

__all__ = ["RULES", "Accidents", "Finding", "Level", "Report", "Rule", "Window", "check", "examine", "failures"]


@dataclass(frozen=True)
class Report:
    """What a check of one driver found.

    Args:
        driver: its class, as ``package.module:Class``.
        level: how far the checks went.
        findings: every one, passed or not.
        identity: who answered, where the link was opened.
        started_at: UTC, as ISO 8601.
        seconds: that the checks took.
    """

    driver: str
    level: int
    findings: tuple[Finding, ...]
    identity: Identity | None
    started_at: str
    seconds: float

    @property
    def passed(self) -> bool:
        """Whether no check failed."""
        return not failures(self.findings)

    def to_json(self) -> JsonObject:
        """Return the report as JSON content, with the versions it was made with."""
        package = self.driver.partition(":")[0].partition(".")[0]
        owners = metadata.packages_distributions().get(package, [])
        versions = {name: metadata.version(name) for name in sorted({"matloop", *owners})}
        return {
            "driver": self.driver,
            "identity": vars(self.identity) if self.identity else None,
            "level": int(self.level),
            "passed": self.passed,
            "started_at": self.started_at,
            "seconds": round(self.seconds, 2),
            "versions": {**versions, "python": platform.python_version(), "platform": sys.platform},
            "findings": [
                {
                    "check": one.check,
                    "rule": one.rule,
                    "about": one.about,
                    "level": int(one.level),
                    "passed": one.passed,
                    "detail": one.detail,
                    "seconds": one.seconds,
                }
                for one in self.findings
            ],
        }


async def examine(
    instrument: Instrument,
    *,
    level: int = Level.PASSIVE,
    order: Order | None = None,
    send: bool = False,
    window: Window | None = None,
    dead: Instrument | None = None,
    accidents: Accidents | None = None,
) -> Report:
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
        The report.
    """
    began, started_at = time.monotonic(), datetime.now(UTC).isoformat(timespec="seconds")
    findings = Findings()
    await _stages(instrument, findings, level, order, window, dead, accidents or Accidents(), send=send)
    kind = type(instrument)
    name = f"{kind.__module__}:{kind.__qualname__}"
    return Report(name, level, tuple(findings.all), findings.identity, started_at, time.monotonic() - began)


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
    """Check one driver, and return the findings only; see `examine`."""
    report = await examine(
        instrument, level=level, order=order, send=send, window=window, dead=dead, accidents=accidents
    )
    return list(report.findings)


async def _stages(  # noqa: PLR0917  one caller
    instrument: Instrument,
    findings: Findings,
    level: int,
    order: Order | None,
    window: Window | None,
    dead: Instrument | None,
    accidents: Accidents,
    *,
    send: bool,
) -> None:
    description = await static(instrument, findings)
    if description is None:
        return
    may = send or description.simulated
    stages: dict[Level, Callable[[], Awaitable[None]]] = {
        Level.PASSIVE: lambda: passive(
            instrument, description, findings, order=order, send=may, window=window, dead=dead
        ),
        Level.ACTIVE: lambda: active(instrument, description, findings, order=order, send=may, window=window),
        Level.DRILLS: lambda: drilled(
            instrument, description, findings, order=order, send=may, window=window, accidents=accidents
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


def failures(findings: Iterable[Finding]) -> list[Finding]:
    """Return the findings that did not pass; checks that were not tried are no failures.

    Args:
        findings: from `check`.
    """
    return [finding for finding in findings if finding.passed is False]
