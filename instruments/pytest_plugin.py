"""A pytest plug-in: the conformance checks of one driver, one test a rule; and a fixture for tests of your own.

::

    pytest --matloop-instrument my_lab.kiln:Kiln --matloop-level 2

    async def test_contract(instrument_contract):
        await instrument_contract(Kiln(KilnOptions()), level=2)

pytest loads it wherever Matloop is installed, so nothing but pytest is imported before it is asked for something.
"""

# ruff: noqa: PLC0415  other people's tests must not wait for Matloop

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from instruments.conformance import Finding

OPTION = "--matloop-instrument"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    group = parser.getgroup("matloop", "Matloop instrument drivers")
    group.addoption(OPTION, metavar="NAME", help="Check this driver: a name, or package.module:Class.")
    group.addoption("--matloop-options", default="{}", metavar="JSON", help="The driver's options, or @FILE.")
    group.addoption(
        "--matloop-level", type=int, default=1, choices=range(4), help="0 static, 1 link, 2 work, 3 drills."
    )
    group.addoption("--matloop-window", action="append", default=[], metavar="NAME=LOW..HIGH UNIT")
    group.addoption("--matloop-dead", default="", metavar="JSON", help="Options with an address where nobody answers.")
    group.addoption("--matloop-yes", default="", metavar="NAME", help="Allow orders to this real instrument.")


class ContractError(Exception):
    """A rule does not hold."""


class RuleItem(pytest.Item):
    """One rule of the contract as a test."""

    def runtest(self) -> None:
        """Look at the findings of this rule; the first test makes them."""
        found = [one for one in _findings(self.config) if one.rule == self.name]
        wrong = [f"{one.check}: {one.detail}" for one in found if one.passed is False]
        if wrong:
            raise ContractError("\n".join(wrong))
        if not any(one.passed for one in found):
            pytest.skip(found[0].detail if found else "does not apply to this driver, or was not asked for")

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """Show what was seen, not where it was found."""
        if isinstance(excinfo.value, ContractError):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[str, None, str]:
        """Name the driver and the rule."""
        return str(self.config.getoption(OPTION)), None, self.name


class DriverCollector(pytest.Collector):
    """The rules of one driver."""

    def collect(self) -> Iterator[pytest.Item]:
        """Give one test a rule, up to the level."""
        from instruments.conformance.rules import RULES

        for rule in RULES.values():
            if rule.level <= self.config.getoption("--matloop-level"):
                yield RuleItem.from_parent(self, name=rule.name)


@pytest.hookimpl(tryfirst=True)
def pytest_collection(session: pytest.Session) -> None:
    """Collect nothing but the driver where one is named and no file is."""
    if session.config.getoption(OPTION) and not session.config.getoption("file_or_dir"):
        session.config.args = []


def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    """Add the driver's tests."""
    name = config.getoption(OPTION)
    if name:
        items.extend(DriverCollector.from_parent(session, name=name, nodeid=name).collect())


@pytest.fixture
def instrument_contract() -> Callable[..., Awaitable[list[Finding]]]:
    """Check a driver and fail with what it breaks; takes what `conformance.check` takes."""

    async def checked(driver: Any, **options: Any) -> list[Finding]:
        from instruments import conformance

        findings = await conformance.check(driver, **options)
        wrong = [f"{one.check}: {one.detail}" for one in conformance.failures(findings)]
        if wrong:
            pytest.fail("\n".join(wrong), pytrace=False)
        return findings

    return checked


def _findings(config: pytest.Config) -> tuple[Finding, ...]:
    kept: tuple[Finding, ...] | None = getattr(config, "_matloop_findings", None)
    if kept is None:
        kept = _examined(config)
        config._matloop_findings = kept  # type: ignore[attr-defined]  # noqa: SLF001  checked once for all tests
    return kept


def _examined(config: pytest.Config) -> tuple[Finding, ...]:
    import asyncio

    from instruments import commands_kit, conformance

    name, level = config.getoption(OPTION), config.getoption("--matloop-level")
    driver = commands_kit.build(name, config.getoption("--matloop-options"))
    window = commands_kit.parse_windows(config.getoption("--matloop-window"))
    dead = config.getoption("--matloop-dead")
    send = commands_kit.allowed(name, driver, level, window, config.getoption("--matloop-yes"), ask=False)
    report = asyncio.run(
        conformance.examine(
            driver, level=level, send=send, window=window, dead=commands_kit.build(name, dead) if dead else None
        )
    )
    return report.findings
