"""Units at the boundary: one pint registry, and the ambiguous spellings refused.

pint reads ``C`` as coulomb, ``deg C`` as degree times coulomb and ``a.u.`` as dalton times year, all without a word
(measured). A unit that a chemist may have meant otherwise is therefore refused with the spelling to use instead.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, cast

from orchestrator.errors import UnitError

if TYPE_CHECKING:
    from pint import UnitRegistry

AMBIGUOUS = {
    "C": "degC for degrees Celsius, coulomb for charge",
    "F": "degF for degrees Fahrenheit, farad for capacitance",
    "deg C": "degC",
    "deg F": "degF",
    "°C": "degC",
    "°F": "degF",
    "a.u.": "hartree, bohr or dimensionless, whichever is meant",
    "au": "hartree, bohr or astronomical_unit, whichever is meant",
    "counts": "dimensionless",
    "deg": "degC for temperatures, degree for angles",
    "A": "angstrom for lengths, ampere for currents",
    "M": "mol/L",
    "w%": "percent",
    "wt%": "percent",
    "at%": "percent",
}
DIMENSIONLESS = ("", "1", "dimensionless")


@cache
def registry() -> UnitRegistry[Any]:
    """Return the one unit registry, with the units that materials science adds.

    Returns:
        A pint registry. It is built at first use, since pint takes 0.7 s to import.
    """
    import pint  # noqa: PLC0415  slow to import; the command line's help must not wait for it

    units: UnitRegistry[Any] = pint.UnitRegistry(autoconvert_offset_to_baseunit=True)
    units.define("atom = [atoms]")
    units.define("formula_unit = [formula_units]")
    units.define("standard_cubic_centimetre_per_minute = 7.436e-7 mol/s = sccm")
    return units


def check_unit(text: str) -> str:
    """Check that a unit is known and means one thing.

    Args:
        text: unit as written in a file, such as ``eV/atom``.

    Returns:
        The same text, so that a validator can return the call.

    Raises:
        UnitError: the unit is unknown or ambiguous.
    """
    if text in AMBIGUOUS:
        message = f"unit {text!r} is ambiguous; write {AMBIGUOUS[text]}"
        raise UnitError(message)
    _parse(text)
    return text


def same_dimension(one: str, other: str) -> bool:
    """Say whether two units measure the same kind of thing."""
    return cast("bool", _parse(one).dimensionality == _parse(other).dimensionality)


def convert(value: float, unit: str, to: str) -> float:
    """Convert a value between units.

    Args:
        value: number in `unit`.
        unit: unit of `value`.
        to: unit wanted.

    Returns:
        The number in `to`.

    Raises:
        UnitError: a unit is unknown, or the two measure different things.
    """
    if unit == to:
        return value
    check_unit(unit)
    check_unit(to)
    if not same_dimension(unit, to):
        message = f"a value in {unit!r} cannot be given in {to!r}: they measure different things"
        raise UnitError(message)
    return float(registry().Quantity(value, _parse(unit)).to(_parse(to)).magnitude)


def shown(unit: str) -> str:
    """Return a unit as people want to read it: nothing for a number without one."""
    return "" if unit in DIMENSIONLESS else unit


def scale(unit: str, to: str) -> float:
    """Return the factor for differences (standard errors) between two units of one dimension.

    Args:
        unit: unit of the difference.
        to: unit wanted.

    Returns:
        The factor; an offset between scales (degC to kelvin) does not enter.
    """
    return convert(1.0, unit, to) - convert(0.0, unit, to)


@cache
def _parse(text: str) -> Any:
    if text in DIMENSIONLESS:
        return registry().dimensionless
    try:
        return registry().Unit(text)
    except Exception as error:  # pint raises its own tree, and tokenizer errors for odd text
        message = f"unit {text!r} is not known; write it as pint does, for example eV/atom, degC, GPa, mol/L, percent"
        raise UnitError(message) from error
