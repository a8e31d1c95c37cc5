"""Level 0 of the conformance checks: what a driver declares, and how findings are collected."""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from orchestrator.domain import Capability, Description, Limit, Output, Parameter, Recovery
from orchestrator.errors import UnitError
from orchestrator.protocols import Instrument, Recoverable
from orchestrator.units import check_unit

OFFLINE_S = 5.0
"""`describe` is asked while a campaign file is checked, before any device is switched on; it may read a table."""
METHODS = tuple(name for name, member in vars(Instrument).items() if callable(member) and not name.startswith("_"))


@dataclass(frozen=True)
class Finding:
    """The outcome of one check.

    Args:
        check: what must hold.
        passed: whether it does; None where it was not tried.
        detail: what was seen.
    """

    check: str
    passed: bool | None
    detail: str = ""


class Findings:
    """Collects findings."""

    def __init__(self) -> None:
        self.all: list[Finding] = []

    def that(self, check: str, passed: bool | None, detail: str = "") -> bool:
        """Note one finding.

        Args:
            check: what must hold.
            passed: whether it does.
            detail: what was seen; kept where it does not hold or was not tried.

        Returns:
            Whether it holds.
        """
        self.all.append(Finding(check, passed, "" if passed else detail))
        return bool(passed)

    def none_of(self, check: str, wrong: Iterable[str]) -> bool:
        """Note that a list of faults must be empty.

        Args:
            check: what must hold.
            wrong: one sentence for each fault.

        Returns:
            Whether it holds.
        """
        found = list(wrong)
        return self.that(check, not found, "; ".join(found))


async def static(instrument: Instrument, findings: Findings) -> Description | None:
    """Check declarations; nothing is opened.

    Args:
        instrument: built.
        findings: to add to.

    Returns:
        What it declares; None where it could not say.
    """
    # Catches: a plain function where a coroutine is awaited; `run` written without events.
    findings.none_of(
        "the six methods are async",
        (
            f"{name} is {'missing' if not hasattr(instrument, name) else 'no async method'}"
            for name in METHODS
            if not inspect.iscoroutinefunction(getattr(instrument, name, None))
        ),
    )
    # Catches: a misspelt option that is silently ignored.
    options = getattr(type(instrument), "Options", None)
    strict = (
        isinstance(options, type) and issubclass(options, BaseModel) and options.model_config.get("extra") == "forbid"
    )
    findings.that(
        "options refuse unknown keys", strict, "give the class an inner Options (orchestrator.protocols.Options)"
    )
    began = time.monotonic()
    try:
        first, second = await instrument.describe(), await instrument.describe()
    except Exception as error:  # noqa: BLE001  a driver may raise anything; that is what is reported
        findings.that("describe works offline", False, f"{type(error).__name__}: {error}")
        return None
    took = time.monotonic() - began
    # Catches: a driver that asks the device in `describe`, so that a campaign cannot be checked without the lab.
    findings.that(
        "describe works offline", isinstance(first, Description) and took < OFFLINE_S, f"{took:.1f} s: {first!r}"
    )
    findings.that("describe gives the same twice", first == second, "two calls differ")
    _capabilities(first, findings)
    recoverable = first.recovery is not Recovery.QUERYABLE or isinstance(instrument, Recoverable)
    # Catches: a promise of recovery after a crash that nobody can keep.
    findings.that(
        "a queryable instrument can look up", recoverable, "recovery is queryable; write 'lookup' and 'attach'"
    )
    findings.that("there is at least one slot", first.slots >= 1, f"slots is {first.slots}")
    return first


def _capabilities(description: Description, findings: Findings) -> None:
    capabilities = description.capabilities
    names = [capability.name for capability in capabilities]
    findings.that("capabilities have different names", bool(names) and len(set(names)) == len(names), f"{names}")
    each: tuple[tuple[str, Callable[[Capability], Iterable[str]]], ...] = (
        ("every capability declares outputs", _outputs),  # Catches: results that nobody expects are dropped.
        ("units are known and unambiguous", _units),  # Catches: 'C' is coulomb, 'deg C' degree times coulomb.
        ("parameters have finite bounds or choices", _bounds),  # Catches: no limit at all, or 0..0 for "none".
        ("joint limits name parameters", _limits),  # Catches: a limit that never applies.
        ("durations and cost are finite", _durations),  # Catches: an instrument that is waited for for ever.
    )
    for check_name, faults in each:
        findings.none_of(check_name, (f"{c.name}: {fault}" for c in capabilities for fault in faults(c)))


def _outputs(capability: Capability) -> Iterable[str]:
    names = [output.name for output in capability.outputs]
    if not names:
        yield "there are none"
    if len(set(names)) != len(names):
        yield f"a name stands twice: {names}"
    for output in capability.outputs:
        if output.low is not None and output.high is not None and not output.low < output.high:
            yield f"{output.name} is valid from {output.low} to {output.high}"


def _units(capability: Capability) -> Iterable[str]:
    parts: tuple[Output | Parameter, ...] = (*capability.outputs, *capability.parameters)
    for part in parts:
        try:
            check_unit(part.unit)
        except UnitError as error:
            yield f"{part.name}: {error}"


def _bounds(capability: Capability) -> Iterable[str]:
    names = [parameter.name for parameter in capability.parameters]
    if len(set(names)) != len(names):
        yield f"a name stands twice: {names}"
    for p in capability.parameters:
        if p.choices:
            if p.default is not None and p.default not in p.choices:
                yield f"{p.name}: the default {p.default!r} is none of the choices"
            continue
        if p.low is None or p.high is None or not -math.inf < p.low < p.high < math.inf:
            yield f"{p.name} goes from {p.low} to {p.high}"
        elif p.default is not None and not (isinstance(p.default, float | int) and p.low <= p.default <= p.high):
            yield f"{p.name}: the default {p.default!r} is out of bounds"
        elif p.resolution is not None and not 0 < p.resolution <= p.high - p.low:
            yield f"{p.name}: the resolution {p.resolution} does not fit into the bounds"


def _limits(capability: Capability) -> Iterable[str]:
    numbers = {p.name for p in capability.parameters if not p.choices}
    for limit in capability.limits:
        if not _sound(limit, numbers):
            yield f"{limit.message!r} bounds {dict(limit.coefficients)} at {limit.at_most}"


def _sound(limit: Limit, numbers: set[str]) -> bool:
    return bool(limit.coefficients) and set(limit.coefficients) <= numbers and math.isfinite(limit.at_most)


def _durations(capability: Capability) -> Iterable[str]:
    c = capability
    if not 0 < c.typical_s <= c.longest_s < math.inf:
        yield f"usually {c.typical_s} s, at most {c.longest_s} s"
    if not 0 <= c.cost < math.inf:
        yield f"cost {c.cost}"
    if not c.fidelity:
        yield "no fidelity; write 'real', 'simulated', …"


def describe_order(order: Any) -> str:
    """Write an order in one line, for findings.

    Args:
        order: what was sent.
    """
    settings = ", ".join(f"{name} {quantity}" for name, quantity in order.settings.items())
    choices = ", ".join(f"{name} {choice}" for name, choice in order.choices.items())
    return f"{order.capability}({', '.join(part for part in (settings, choices) if part)})"
