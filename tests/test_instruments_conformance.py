"""The conformance checks themselves: a good driver passes, and each deliberate mistake is caught by the rule for it.

A rule that no mistake trips is dead weight, so every rule of levels 0 to 2 has a bad driver.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from instruments import conformance
from instruments.conformance import RULES, Level
from orchestrator.domain import Description, Order, Quantity, Result
from orchestrator.protocols import Events
from tests.bad_at_work import forget_connections
from tests.bad_drivers import BAD
from tests.good_oven import Ledger, Oven, OvenOptions

WORKING = {rule: drivers for rule, drivers in BAD.items() if RULES[rule].level <= Level.ACTIVE}
CASES = [(driver, rule) for rule, drivers in WORKING.items() for driver in drivers]


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A bad driver is given up sooner than a slow device would be."""
    monkeypatch.setattr("instruments.conformance.active.ABORT_S", 0.5)
    monkeypatch.setattr("instruments.conformance.passive.LEFT_S", 0.3)
    yield
    forget_connections()


@pytest.mark.parametrize("driver", [Oven, Ledger])
async def test_a_good_driver_passes_everything(driver: type[Oven]) -> None:
    """No check fails, none is skipped, there are many, and they take seconds."""
    findings = await conformance.check(driver(), level=2, dead=driver(OvenOptions(port="dead")))
    assert not [finding for finding in findings if not finding.passed]
    assert len(findings) > 60
    assert sum(finding.seconds for finding in findings) < 60  # a second or two; this may run on a busy computer


@pytest.mark.parametrize(("driver", "rule"), CASES, ids=[driver.__name__ for driver, _ in CASES])
async def test_mistakes_are_caught(driver: type[Oven], rule: str) -> None:
    """Each deliberately wrong driver fails the rule that is there for it, and the finding says what was seen."""
    dead = driver(OvenOptions(port="dead"))
    findings = await conformance.check(driver(), level=RULES[rule].level, dead=dead)
    failed = conformance.failures(findings)
    assert rule in {finding.rule for finding in failed}, failed
    assert all(finding.detail for finding in failed)


def test_every_rule_has_a_bad_driver() -> None:
    """No rule of levels 0 to 2 is dead weight, and no bad driver is for a rule that there is none of."""
    wanted = {rule.name for rule in RULES.values() if rule.level <= Level.ACTIVE}
    assert set(WORKING) == wanted
    assert len(wanted) >= 30
    assert len(CASES) >= 20


async def test_real_instruments_get_no_orders_unasked() -> None:
    """Without `send` a driver that is not simulated is never told to run, at any level."""

    class Real(Oven):
        asked: int = 0

        async def describe(self) -> Description:
            return replace(await super().describe(), simulated=False)

        async def run(self, order: Order, events: Events) -> Result:
            self.asked += 1
            return await super().run(order, events)

    driver = Real()
    findings = await conformance.check(driver, level=3)
    assert driver.asked == 0
    assert [finding for finding in findings if finding.passed is None]
    assert not conformance.failures(findings)
    await conformance.check(driver, level=2, send=True)
    assert driver.asked > 0


async def test_good_orders_stay_in_the_window() -> None:
    """What is carried out lies in the window; what lies outside is only sent to be refused."""
    seen = []

    class Watched(Oven):
        async def run(self, order: Order, events: Events) -> Result:
            result = await super().run(order, events)
            seen.append(result.applied["temperature"].value)
            return result

    window = {"temperature": (Quantity(25.0, "degC"), Quantity(313.15, "kelvin"))}
    findings = await conformance.check(Watched(), level=2, window=window)
    assert not conformance.failures(findings)
    assert min(seen) > 25.0
    assert max(seen) < 40.0
    assert max(seen) - min(seen) > 10.0
