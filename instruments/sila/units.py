"""Units as SiLA 2 writes them → units as pint writes them.

SiLA gives a label for people and, for machines, SI base units with exponents, a factor and an offset:
``value in SI = value × factor + offset``. The numbers decide; a label that contradicts them is a fault of the device
that somebody must look at, since one of the two is wrong (SiLA 2 Part B, constraint *Unit*).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from orchestrator.errors import UnitError
from orchestrator.units import check_unit, convert, same_dimension

BASE = {
    "Meter": "meter",
    "Kilogram": "kilogram",
    "Second": "second",
    "Ampere": "ampere",
    "Kelvin": "kelvin",
    "Mole": "mole",
    "Candela": "candela",
}
SPELLED = {"°C": "degC", "℃": "degC", "°F": "degF", "K": "kelvin", "%": "percent", "h": "hour", "min": "minute"}
COMMON = (
    *("kelvin", "degC", "degF", "kelvin/minute", "kelvin/hour"),
    *("second", "minute", "hour", "day", "ms", "hertz", "rpm"),
    *("g", "kg", "mg", "microgram", "meter", "cm", "mm", "micrometer", "nm"),
    *("liter", "mL", "microliter", "mL/minute", "microliter/minute", "liter/minute"),
    *("mol/L", "mmol/L", "g/L", "g/mL", "Pa", "kPa", "MPa", "bar", "mbar"),
    *("volt", "mV", "ampere", "mA", "watt", "kW", "joule", "newton", "siemens/meter", "percent", "ppm"),
)


def from_sila(label: str, components: Sequence[tuple[str, int]], factor: float, offset: float) -> tuple[str, float]:
    """Find the unit that means the same.

    Args:
        label: as the device shows it.
        components: SI base units with their exponents.
        factor: SI value of one step.
        offset: SI value of zero.

    Returns:
        A unit, and the factor from the device's numbers to that unit.

    Raises:
        UnitError: no unit has that offset, or the label contradicts the numbers.
    """
    parts = [f"{BASE[unit]} ** {exponent}" for unit, exponent in components if unit in BASE and exponent]
    si = " * ".join(parts) or "dimensionless"
    spelled = _spelled(label)
    if spelled is not None and _fits(spelled, si, factor, offset):
        return spelled, 1.0
    if spelled is not None and _related(spelled, si):
        message = f"the unit's label says {label!r}, its numbers say {factor:g} × {si} + {offset:g}"
        raise UnitError(message)
    for unit in COMMON:
        if _fits(unit, si, factor, offset):
            return unit, 1.0
    if offset:
        message = f"no unit is known that is {factor:g} × {si} + {offset:g} (label {label!r})"
        raise UnitError(message)
    return si.replace(" ** 1", ""), factor


def _spelled(label: str) -> str | None:
    text = label.strip()
    text = SPELLED.get(text, text.replace("°C", "degC").replace("µ", "u").replace("·", "*"))
    try:
        return check_unit(text) if text else None
    except UnitError:
        return None


def _related(unit: str, si: str) -> bool:
    return unit != "dimensionless" and same_dimension(unit, si)


def _fits(unit: str, si: str, factor: float, offset: float) -> bool:
    if not same_dimension(unit, si):
        return False
    zero, one = convert(0.0, unit, si), convert(1.0, unit, si)
    return math.isclose(zero, offset, rel_tol=1e-9, abs_tol=1e-12) and math.isclose(one - zero, factor, rel_tol=1e-6)
