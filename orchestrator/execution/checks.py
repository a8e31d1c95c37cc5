"""What is checked of every order before it is sent, and of every result before it is recorded.

Out of range is refused, never clamped: labs have poured zero millilitres because a library turned a negative volume
into the nearest allowed one. What the checks cannot see, and say so: a plausible offset, a slow drift, an effect that
happened twice.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from typing import NoReturn

from orchestrator.config.lab import ParameterEnvelope
from orchestrator.domain import (
    Capability,
    Crystal,
    Order,
    Output,
    Parameter,
    Quality,
    Quantity,
    Reading,
    Result,
    Value,
    frozen,
)
from orchestrator.errors import BadData, Rejected, UnitError
from orchestrator.record.views import NewMeasurement
from orchestrator.units import convert, scale

ROUNDING = 1e-9  # relative: converting 800 degC to kelvin and back must not fall out of a bound of 800 degC
CLOCK_SKEW_US = 2_000_000  # computers of one lab agree to a second or so; an older time stamp is an older reading
UNREACHED = 0.05  # of the range: how far a set-point may be off where the driver declares no resolution


@dataclass(frozen=True)
class Checked:
    """A result that passed: what may be recorded.

    Args:
        measurements: in the declared units.
        structures: by output name.
        applied: set-points as read back, in the declared units, by parameter name.
        notes: for people.
    """

    measurements: tuple[NewMeasurement, ...]
    structures: Mapping[str, Crystal] = field(default_factory=frozen)
    applied: Mapping[str, Value] = field(default_factory=frozen)
    notes: str = ""


# --- orders ---------------------------------------------------------------------------------------------------------


def check_order(order: Order, capability: Capability, envelope: Mapping[str, ParameterEnvelope] | None = None) -> Order:
    """Check an order against the capability and the lab's envelope.

    Args:
        order: what is to be asked.
        capability: what the instrument declares.
        envelope: tighter bounds of the lab by parameter, in the declared units.

    Returns:
        The order with every set-point in the declared unit.

    Raises:
        Rejected: a set-point is unknown, missing, not finite, of another dimension or out of bounds, a joint limit is
            passed, or the structure is missing. Nothing was sent.
    """
    declared = {parameter.name: parameter for parameter in capability.parameters}
    for name in (*order.settings, *order.choices):
        if name not in declared:
            _refuse(f"{capability.name} has no parameter {name!r}{_nearest(name, declared)}")
    if capability.takes_structure and order.crystal is None:
        message = f"{capability.name} needs a structure and the order has none: give the step an input 'structure'"
        raise Rejected(message)
    settings: dict[str, Quantity] = {}
    for parameter in capability.parameters:
        if parameter.choices:
            _check_choice(parameter, order.choices.get(parameter.name))
        else:
            bounds = (envelope or {}).get(parameter.name)
            settings[parameter.name] = _check_number(parameter, order.settings.get(parameter.name), bounds)
    for limit in capability.limits:
        total = sum(factor * settings[name].value for name, factor in limit.coefficients.items())
        if not total <= limit.at_most + _slack(limit.at_most):
            _refuse(f"{limit.message} (the joint limit is {limit.at_most:g}, the order gives {total:g})")
    return replace(order, settings=frozen(settings))


def _check_choice(parameter: Parameter, chosen: str | None) -> None:
    if chosen not in parameter.choices:
        seen = "is missing" if chosen is None else f"is {chosen!r}"
        _refuse(f"{parameter.name} {seen}; choose one of: {', '.join(parameter.choices)}")


def _check_number(parameter: Parameter, asked: Quantity | None, bounds: ParameterEnvelope | None) -> Quantity:
    if asked is None:
        _refuse(f"{parameter.name} is missing; the step must give it, in {parameter.unit}")
    try:
        value = convert(asked.value, asked.unit, parameter.unit)
    except UnitError as error:
        _refuse(f"{parameter.name} is {asked}: {error}")
    if not math.isfinite(value):
        _refuse(f"{parameter.name} is {asked}; a finite number in {parameter.unit} was expected")
    for whose, low, high in (
        ("the instrument", parameter.low, parameter.high),
        ("the lab's envelope", bounds.min if bounds else None, bounds.max if bounds else None),
    ):
        if (low is not None and value < low - _slack(low)) or (high is not None and value > high + _slack(high)):
            allowed = f"{_bound(low)} to {_bound(high)} {parameter.unit}"
            _refuse(f"{parameter.name} is {asked}; {whose} allows {allowed}. Out of range is never clamped")
    return Quantity(value, parameter.unit)


# --- results --------------------------------------------------------------------------------------------------------


def check_result(
    result: object,
    order: Order,
    capability: Capability,
    *,
    ordered_at: int,
    now: int,
    saturating: Collection[str] = (),
) -> Checked:
    """Check what came back and turn it into what may be recorded.

    Args:
        result: what the driver returned.
        order: what was asked, as `check_order` returned it.
        capability: what the instrument declares.
        ordered_at: when the order was given, UTC in microseconds; an older reading belongs to an earlier order.
        now: stamped on readings without a time of their own, UTC in microseconds.
        saturating: outputs that are uncertain where they stand at the end of their range.

    Returns:
        Measurements, structures and applied set-points in the declared units.

    Raises:
        BadData: the result is not this order's, is incomplete, not finite, of another dimension, physically impossible
            or stale, or a set-point was not reached.
    """
    if not isinstance(result, Result):
        _bad(f"the driver returned {type(result).__name__}; a Result was expected")
    if result.key != order.key:
        _bad(f"the result belongs to order {result.key!r}, not to {order.key!r}: answers have got shifted")
    readings = _by_property(result)
    measurements = tuple(
        _uncertain(output, _check_reading(output, readings[output.name], ordered_at, now), saturating)
        for output in capability.outputs
        if output.kind == "number" and _present(output, readings)
    )
    structures = {o.name: _check_structure(o, result) for o in capability.outputs if o.kind == "structure"}
    declared = {output.name for output in capability.outputs}
    extra = sorted((set(readings) | set(result.structures)) - declared)
    notes = [result.notes] if result.notes else []
    if extra:
        notes.append(f"not declared, so only in the raw file: {', '.join(extra)}")
    return Checked(measurements, frozen(structures), _check_applied(result, order, capability), "; ".join(notes))


def _by_property(result: Result) -> dict[str, Reading]:
    readings: dict[str, Reading] = {}
    for reading in result.readings:
        if reading.property in readings:
            _bad(f"{reading.property} was given twice; one number an order was expected")
        readings[reading.property] = reading
    return readings


def _present(output: Output, readings: Mapping[str, Reading]) -> bool:
    if output.name not in readings:
        _bad(f"{output.name} is missing; there are: {', '.join(sorted(readings)) or 'no numbers'}")
    return True


def _check_reading(output: Output, reading: Reading, ordered_at: int, now: int) -> NewMeasurement:
    if reading.quality is Quality.BAD:
        _bad(f"the instrument itself calls {output.name} = {reading.value} bad")
    try:
        value = convert(float(reading.value), reading.unit, output.unit)
        std_error = None if reading.std_error is None else float(reading.std_error) * scale(reading.unit, output.unit)
    except (UnitError, TypeError, ValueError) as error:
        _bad(f"{output.name} = {reading.value!r} {reading.unit}: {error}")
    if not math.isfinite(value):
        _bad(f"{output.name} is {reading.value}; a finite number in {output.unit} was expected")
    if std_error is not None and not (math.isfinite(std_error) and std_error >= 0):
        _bad(f"the standard error of {output.name} is {reading.std_error}; a finite number >= 0 was expected")
    low, high = output.low, output.high
    if (low is not None and value < low - _slack(low)) or (high is not None and value > high + _slack(high)):
        _bad(f"{output.name} is {value:g} {output.unit}; only {_bound(low)} to {_bound(high)} is possible")
    if reading.measured_at is not None and reading.measured_at < ordered_at - CLOCK_SKEW_US:
        age = (ordered_at - reading.measured_at) / 1e6
        _bad(f"{output.name} was read {age:.1f} s before it was asked for: an old reading, not this order's")
    measured_at = now if reading.measured_at is None else reading.measured_at
    return NewMeasurement(output.name, value, output.unit, std_error, reading.quality, measured_at)


def _uncertain(output: Output, one: NewMeasurement, saturating: Collection[str]) -> NewMeasurement:
    """Call a reading uncertain that stands at an end of its range, where that means a saturated sensor."""
    ends = [end for end in (output.low, output.high) if end is not None]
    if output.name in saturating and any(abs(one.value - end) <= _slack(end) for end in ends):
        return replace(one, quality=Quality.UNCERTAIN)
    return one


def _check_structure(output: Output, result: Result) -> Crystal:
    crystal = result.structures.get(output.name)
    if crystal is None:
        _bad(f"structure {output.name!r} is missing")
    numbers = [x for row in (*crystal.lattice, *crystal.frac_coords) for x in row]
    if not crystal.species or len(crystal.species) != len(crystal.frac_coords):
        _bad(f"structure {output.name!r} has {len(crystal.species)} species for {len(crystal.frac_coords)} sites")
    if not all(math.isfinite(x) for x in numbers):
        _bad(f"structure {output.name!r} holds numbers that are not finite")
    return crystal


def _check_applied(result: Result, order: Order, capability: Capability) -> Mapping[str, Value]:
    applied: dict[str, Value] = {}
    parameters = {parameter.name: parameter for parameter in capability.parameters}
    for name, quantity in result.applied.items():
        parameter = parameters.get(name)
        if parameter is None:
            continue  # a read-back that nothing was asked for; the raw file has it
        try:
            value = convert(float(quantity.value), quantity.unit, parameter.unit)
        except (UnitError, TypeError, ValueError) as error:
            _bad(f"{name} was read back as {quantity}: {error}")
        asked = order.settings.get(name)
        if not math.isfinite(value):
            _bad(f"{name} was read back as {quantity}; a finite number in {parameter.unit} was expected")
        if asked is not None and abs(value - asked.value) > _tolerance(parameter, asked.value):
            _bad(f"{name} did not reach {asked}: it was read back as {value:g} {parameter.unit}")
        applied[name] = value
    for name, chosen in result.applied_choices.items():
        if name in order.choices and chosen != order.choices[name]:
            _bad(f"{name} was read back as {chosen!r}; {order.choices[name]!r} was asked for")
        if name in parameters:
            applied[name] = chosen
    return frozen(applied)


def _refuse(message: str) -> NoReturn:
    raise Rejected(message)


def _bad(message: str) -> NoReturn:
    raise BadData(message)


def _tolerance(parameter: Parameter, asked: float) -> float:
    if parameter.resolution is not None:
        return parameter.resolution + _slack(asked)
    if parameter.low is not None and parameter.high is not None:
        return UNREACHED * (parameter.high - parameter.low) + _slack(asked)
    return math.inf


def _slack(bound: float) -> float:
    return ROUNDING * max(1.0, abs(bound))


def _bound(value: float | None) -> str:
    return "any" if value is None else f"{value:g}"


def _nearest(name: str, known: Mapping[str, object]) -> str:
    close = get_close_matches(name, known, n=1)
    there = ", ".join(known) or "none"
    return f"; did you mean {close[0]!r}?" if close else f"; its parameters are: {there}"
