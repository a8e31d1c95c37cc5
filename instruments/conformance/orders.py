"""What the conformance checks send: good orders, orders that must be refused, and events of nobody."""

from __future__ import annotations

import asyncio
import math
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import replace

from orchestrator.domain import Capability, Crystal, JsonObject, Order, Parameter, Quantity
from orchestrator.units import convert, same_dimension

Window = Mapping[str, tuple[Quantity, Quantity]]
"""Parameter → lowest and highest value that a check may set; every parameter that is not named is free."""
OTHER_UNITS = ("kelvin", "degC", "second", "hour", "g", "kg", "meter", "mm", "Pa", "percent", "eV", "mol/L", "mA")
COPPER = Crystal(((0.0, 1.8, 1.8), (1.8, 0.0, 1.8), (1.8, 1.8, 0.0)), ("Cu",), ((0.0, 0.0, 0.0),))
"""A structure that every potential knows."""
LONGER, SHARE_OF_TIME = 3.0, 0.01
"""Longest time without a window: so many times the shortest, or such a share of the longest where that is nothing."""
NARROWER = (1.0, 0.5, 0.25)
"""Shares of the way from the middle to the edge that are tried where a joint limit is in the way."""


class QuietEvents:
    """Events of nobody: remembers what it was told.

    Args:
        speed: how much faster than the wall clock `sleep` runs.
    """

    def __init__(self, speed: float = 1000.0) -> None:
        self.handles: list[JsonObject] = []
        self.fractions: list[float] = []
        self.abort = False
        self._speed = speed

    async def accepted(self, handle: JsonObject) -> None:
        """Remember the handle."""
        self.handles.append(handle)

    def progress(self, fraction: float, text: str = "") -> None:
        """Remember the fraction."""
        del text
        self.fractions.append(fraction)

    def abort_requested(self) -> bool:
        """Say what `abort` says."""
        return self.abort

    async def sleep(self, seconds: float) -> None:
        """Sleep, faster."""
        await asyncio.sleep(seconds / self._speed)


def new_key() -> str:
    """Return a dispatch key that no order had before."""
    return f"conformance-{uuid.uuid4().hex}"


def good_order(capability: Capability, key: str = "", window: Window | None = None, *, share: float = 0.0) -> Order:
    """Make an order from the middle of the declared bounds, or of the window.

    The kit waits for what it asks for, and the longest time may be days: without a window, it asks for short ones.

    Args:
        capability: what to ask for.
        key: dispatch key; a new one where none is given.
        window: what may be set.
        share: how far from the middle, from -1 (near the lowest value) to 1 (near the highest).
    """
    numbers = {
        p.name: Quantity(_between(p, window or {}, share), p.unit) for p in capability.parameters if not p.choices
    }
    return Order(
        key=key or new_key(),
        capability=capability.name,
        settings=numbers,
        choices={p.name: p.choices[0] for p in capability.parameters if p.choices},
        crystal=COPPER if capability.takes_structure else None,
        label="conformance",
        deadline_s=capability.longest_s,
    )


def edge_order(capability: Capability, good: Order, window: Window | None, share: float) -> Order | None:
    """Make an order near an edge of what is declared and of the window, as far as the joint limits let it.

    Args:
        capability: what to ask for.
        good: an order that works; keeps its structure and choices.
        window: what may be set.
        share: -0.9 for nine tenths of the way to the lowest values, 0.9 to the highest.

    Returns:
        The order; None where there is no number to set, or the joint limits leave no place.
    """
    for narrower in NARROWER:
        settings = good_order(capability, window=window, share=share * narrower).settings
        numbers = {name: quantity.value for name, quantity in settings.items()}
        if settings and all(passes(limit.coefficients, numbers) <= limit.at_most for limit in capability.limits):
            return replace(good, key=new_key(), settings=settings)
    return None


def passes(coefficients: Mapping[str, float], numbers: Mapping[str, float]) -> float:
    """Return the left side of a joint limit.

    Args:
        coefficients: of the limit.
        numbers: set-points in declared units.
    """
    return sum(factor * numbers.get(name, 0.0) for name, factor in coefficients.items())


def bad_orders(capability: Capability, good: Order) -> Iterator[tuple[str, str, Order]]:
    """Make orders that must be refused.

    Args:
        capability: what they ask for.
        good: an order that works.

    Yields:
        The rule, what it is about, and the order.
    """
    name = capability.name
    yield "refuses an unknown capability", name, replace(good, capability="no_such_capability")
    settings = {**good.settings, "no_such_parameter": Quantity(1.0, "degC")}
    yield "refuses an unknown parameter", name, replace(good, settings=settings)
    if capability.takes_structure:
        yield "refuses a missing structure", name, replace(good, crystal=None)
    for p in capability.parameters:
        about = f"{name}.{p.name}"
        if p.choices:
            choices = {**good.choices, p.name: "no such choice"}
            yield "refuses a choice that is none", about, replace(good, choices=choices)
            continue
        for rule, quantity in _wrong_numbers(p):
            yield rule, about, replace(good, settings={**good.settings, p.name: quantity})
        if p.default is None:
            settings = {k: v for k, v in good.settings.items() if k != p.name}
            yield "refuses a missing value", about, replace(good, settings=settings)
    yield from _beyond_limits(capability, good)


def in_other_units(capability: Capability, good: Order) -> Order | None:
    """Say the same order in other units.

    Args:
        capability: declares the units.
        good: an order.

    Returns:
        The order with a new key; None where no parameter has another unit.
    """
    settings = dict(good.settings)
    for p in capability.parameters:
        other = next((u for u in OTHER_UNITS if u != p.unit and same_dimension(u, p.unit)), None)
        if other is not None and p.name in settings:
            quantity = settings[p.name]
            settings[p.name] = Quantity(convert(quantity.value, quantity.unit, other), other)
    if settings == dict(good.settings):
        return None
    return replace(good, key=new_key(), settings=settings)


def describe_order(order: Order) -> str:
    """Write an order in one line, for findings.

    Args:
        order: what was sent.
    """
    settings = ", ".join(f"{name} {quantity}" for name, quantity in order.settings.items())
    choices = ", ".join(f"{name} {choice}" for name, choice in order.choices.items())
    return f"{order.capability}({', '.join(part for part in (settings, choices) if part)})"


def _wrong_numbers(p: Parameter) -> Iterator[tuple[str, Quantity]]:
    low, high = p.low or 0.0, p.high or 0.0
    span = high - low
    other = "meter" if not same_dimension(p.unit, "meter") else "second"
    yield "refuses a value above its bound", Quantity(high + 0.01 * span, p.unit)
    yield "refuses a value below its bound", Quantity(low - 0.01 * span, p.unit)
    yield "refuses NaN", Quantity(math.nan, p.unit)
    yield "refuses infinity", Quantity(math.inf, p.unit)
    yield "refuses another dimension", Quantity((low + high) / 2, other)


def _beyond_limits(capability: Capability, good: Order) -> Iterator[tuple[str, str, Order]]:
    bounds = {p.name: p for p in capability.parameters if not p.choices}
    for limit in capability.limits:
        worst = {
            name: (bounds[name].high if factor > 0 else bounds[name].low) or 0.0
            for name, factor in limit.coefficients.items()
            if name in bounds
        }
        if passes(limit.coefficients, worst) > limit.at_most * (1 + 1e-6) + 1e-9:
            settings = {name: Quantity(value, bounds[name].unit) for name, value in worst.items()}
            order = replace(good, settings={**good.settings, **settings})
            yield "refuses a passed joint limit", capability.name, order


def _between(parameter: Parameter, window: Window, share: float) -> float:
    low, high = parameter.low or 0.0, parameter.high or 0.0
    if parameter.name in window:
        low, high = (convert(edge.value, edge.unit, parameter.unit) for edge in window[parameter.name])
    elif same_dimension(parameter.unit, "second"):
        high = min(high, LONGER * low if low > 0 else SHARE_OF_TIME * high)
    elif not share and isinstance(parameter.default, float | int):
        return float(parameter.default)
    return (low + high) / 2 + share * (high - low) / 2
