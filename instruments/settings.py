"""What every driver checks before it touches anything: the order against the declared capability.

The campaign checks orders too. A driver checks again, because it may be used without a campaign, and because refusing
is only certain to have no effect here. Out of range is refused, never clamped.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated

from pydantic import AfterValidator, ValidationInfo

from orchestrator.domain import Capability, Description, Order, Parameter, Quantity
from orchestrator.errors import Rejected, UnitError
from orchestrator.units import check_unit, convert


def _known(text: str) -> str:
    try:
        return check_unit(text)
    except UnitError as error:
        raise ValueError(str(error)) from error  # what pydantic turns into an error with the option's place


Unit = Annotated[str, AfterValidator(_known)]
"""A unit in a driver's options."""

TOLERANCE = 1e-9
"""Relative: converting 800 degC to kelvin and back must not fall out of a bound of 800 degC."""


def only_of_lab(info: ValidationInfo, what: str) -> None:
    """Refuse options in a campaign file that start programs: such a file is data, and may name code, never bring any.

    Args:
        info: of the validation; its context says whose file it is.
        what: the driver.

    Raises:
        ValueError: the options stand in a campaign file.
    """
    if not (info.context or {}).get("of_lab", True):
        message = f"{what} starts programs, so it may stand in the lab file only; move it there and name it in the step"
        raise ValueError(message)


def capability_of(description: Description, order: Order) -> Capability:
    """Return the capability that an order names.

    Args:
        description: what the instrument declares.
        order: what is asked.

    Returns:
        The capability.

    Raises:
        Rejected: the instrument has none of that name.
    """
    for capability in description.capabilities:
        if capability.name == order.capability:
            return capability
    names = ", ".join(capability.name for capability in description.capabilities)
    message = f"this instrument cannot {order.capability!r}; it can: {names}"
    raise Rejected(message)


def checked(capability: Capability, order: Order) -> tuple[Mapping[str, float], Mapping[str, str]]:
    """Check an order and give its set-points in the declared units.

    Args:
        capability: what the order asks for.
        order: what is asked.

    Returns:
        Numbers by parameter name, in the unit that the parameter declares; and choices by parameter name. Defaults are
        filled in.

    Raises:
        Rejected: a set-point is unknown, missing, not finite, of another dimension, out of bounds, or a joint bound is
            passed; or the structure that the capability needs is missing.
    """
    declared = {parameter.name: parameter for parameter in capability.parameters}
    unknown = sorted((set(order.settings) | set(order.choices)) - set(declared))
    if unknown:
        there = ", ".join(declared) or "none"
        message = f"{capability.name} has no parameter {', '.join(map(repr, unknown))}; its parameters are: {there}"
        raise Rejected(message)
    if capability.takes_structure and order.crystal is None:
        message = f"{capability.name} needs a structure, and the order has none; give the step a structure"
        raise Rejected(message)
    numbers: dict[str, float] = {}
    choices: dict[str, str] = {}
    for parameter in capability.parameters:
        if parameter.choices:
            choices[parameter.name] = _choice(parameter, order)
        else:
            numbers[parameter.name] = _number(parameter, order)
    for limit in capability.limits:
        total = sum(factor * numbers[name] for name, factor in limit.coefficients.items())
        if total > limit.at_most + TOLERANCE * max(1.0, abs(limit.at_most)):
            message = f"{limit.message} (the joint bound allows {limit.at_most:g}, the order gives {total:g})"
            raise Rejected(message)
    return numbers, choices


def applied(capability: Capability, numbers: Mapping[str, float]) -> dict[str, Quantity]:
    """Give numbers their declared units, for drivers that apply exactly what is asked.

    Args:
        capability: declares the units.
        numbers: by parameter name.

    Returns:
        Quantities by parameter name.
    """
    units = {parameter.name: parameter.unit for parameter in capability.parameters}
    return {name: Quantity(value, units[name]) for name, value in numbers.items()}


def _choice(parameter: Parameter, order: Order) -> str:
    chosen = order.choices.get(parameter.name, parameter.default)
    if chosen not in parameter.choices:
        seen = "missing" if chosen is None else repr(chosen)
        message = f"{parameter.name} is {seen}; choose one of: {', '.join(parameter.choices)}"
        raise Rejected(message)
    return str(chosen)


def _number(parameter: Parameter, order: Order) -> float:
    asked = order.settings.get(parameter.name)
    if asked is None:
        if parameter.default is None:
            message = f"{parameter.name} is missing; give it in {parameter.unit}"
            raise Rejected(message)
        return float(parameter.default)
    try:
        value = convert(asked.value, asked.unit, parameter.unit)
    except UnitError as error:
        message = f"{parameter.name}: {error}"
        raise Rejected(message) from error
    if not math.isfinite(value):
        message = f"{parameter.name} is {asked}; a finite number in {parameter.unit} was expected"
        raise Rejected(message)
    low, high = parameter.low, parameter.high
    slack = TOLERANCE * max(1.0, *(abs(bound) for bound in (low, high) if bound is not None))
    if (low is not None and value < low - slack) or (high is not None and value > high + slack):
        message = f"{parameter.name} is {asked}; {low} to {high} {parameter.unit} is allowed"
        raise Rejected(message)
    return value
