"""Numbers, times and goals as people read them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from datetime import UTC, datetime

from orchestrator.domain import Candidate, Constraint, Objective, Problem
from orchestrator.report.facts import MICROSECONDS

HIGH = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
LOW = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")
MINUTE, HOUR = 60, 3600
MOST_DECIMALS = 6
LARGE, SMALL = 1e5, 1e-3
"""Magnitudes from which numbers are written with a power of ten."""


def number(value: float | None, digits: int = 4) -> str:
    """Write a number with some significant digits and a real minus."""
    if value is None or not math.isfinite(value):
        return "–"
    if value != 0 and not SMALL <= abs(value) < LARGE:
        mantissa, exponent = f"{value:.{digits - 2}e}".split("e")
        text = f"{mantissa} × 10{str(int(exponent)).translate(HIGH)}"
    else:
        decimals = max(0, digits - 1 - math.floor(math.log10(abs(value)))) if value else 0
        text = f"{value:.{min(decimals, digits + 1)}f}"
    return text.replace("-", "\N{MINUS SIGN}")


def with_error(value: float | None, error: float | None) -> str:
    """Write a value with its standard error or standard deviation."""
    if value is None:
        return "–"
    if error is None or not math.isfinite(error) or error <= 0:
        return number(value)
    largest = max(abs(value), error)
    exponent = 0 if SMALL <= largest < LARGE else math.floor(math.log10(largest))
    value, error = value / 10.0**exponent, error / 10.0**exponent
    decimals = min(max(1 - math.floor(math.log10(error)), 0), MOST_DECIMALS)  # two digits of the error
    text = f"{value:.{decimals}f} ± {error:.{decimals}f}".replace("-", "\N{MINUS SIGN}")
    return f"({text}) × 10{str(exponent).translate(HIGH)}" if exponent else text


def unit_of(unit: str) -> str:
    """Write a unit; nothing where there is none."""
    return "" if unit in {"", "1", "dimensionless"} else unit.replace("**", "^")


def seconds(value: float) -> str:
    """Write a duration."""
    if value < 1:
        return f"{value * 1000:.0f} ms"
    if value < MINUTE:
        return f"{value:.1f} s"
    if value < HOUR:
        return f"{value / MINUTE:.1f} min"
    return f"{value / HOUR:.1f} h"


def when(at: int) -> str:
    """Write a time stamp (microseconds UTC)."""
    return datetime.fromtimestamp(at / MICROSECONDS, UTC).strftime("%Y-%m-%d %H:%M:%S")


def plain(name: str) -> str:
    """Write a property's name in words."""
    return name.replace("_", " ")


def some(labels: Iterable[str], most: int = 12) -> str:
    """List labels, but not too many."""
    names = list(labels)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def given(value: float | None) -> str:
    """Write a number of the campaign file as it was given."""
    return "–" if value is None else f"{value:g}".replace("-", "\N{MINUS SIGN}")


def formula(candidate: Candidate) -> str:
    """Write a candidate's label; the numbers of a formula stand low."""
    if candidate.crystal is None and candidate.composition is None:
        return candidate.label
    return re.sub(r"(?<=[A-Za-z)])\d+", lambda digits: digits[0].translate(LOW), candidate.label)


def goal(objective: Objective) -> str:
    """Say what an objective wants."""
    unit = unit_of(objective.unit)
    name = plain(objective.property) + (f" ({unit})" if unit else "")
    if objective.goal == "target":
        return f"bring {name} to {given(objective.target)}"
    if objective.goal == "window" and objective.window is not None:
        return f"bring {name} into {given(objective.window[0])} to {given(objective.window[1])}"
    if objective.goal == "learn":
        return f"learn {name} everywhere"
    return f"{objective.goal} {name}"


def bound(constraint: Constraint) -> str:
    """Say what a constraint wants."""
    unit = unit_of(constraint.unit)
    name, tail = plain(constraint.property), f" {unit}" if unit else ""
    if constraint.low is not None and constraint.high is not None:
        return f"{given(constraint.low)} ≤ {name} ≤ {given(constraint.high)}{tail}"
    if constraint.low is not None:
        return f"{name} ≥ {given(constraint.low)}{tail}"
    return f"{name} ≤ {given(constraint.high)}{tail}"


def asked(problem: Problem, space: str) -> str:
    """Say in one sentence what a campaign pursues."""
    goals = " and ".join(goal(o) for o in problem.objectives)
    bounds = ", ".join(bound(c) for c in problem.constraints)
    sentence = f"{goals[0].upper()}{goals[1:]}"
    return (
        f"{sentence}, subject to {bounds}; candidates from {space}."
        if bounds
        else f"{sentence}; candidates from {space}."
    )
