"""Units as OPC UA writes them → units as pint writes them.

`EUInformation` carries the number of a UNECE common code (Recommendation 20: ``CEL`` is degree Celsius) and a name for
people. OPC 10000-8 packs the code's letters into the number, the first letter in the highest byte.
"""

from __future__ import annotations

from orchestrator.errors import UnitError
from orchestrator.units import check_unit, same_dimension

UNECE_URI = "http://www.opcfoundation.org/UA/units/un/cefact"
UNECE = {
    "CEL": "degC", "KEL": "kelvin", "FAH": "degF",
    "SEC": "second", "MIN": "minute", "HUR": "hour", "DAY": "day", "C26": "ms", "HTZ": "hertz", "RPM": "rpm",
    "GRM": "g", "KGM": "kg", "MGM": "mg", "MC": "microgram",
    "MTR": "meter", "CMT": "cm", "MMT": "mm", "4H": "micrometer", "C45": "nm",
    "LTR": "liter", "MLT": "mL", "4G": "microliter", "L2": "liter/minute",
    "PAL": "Pa", "KPA": "kPa", "MPA": "MPa", "BAR": "bar", "MBR": "mbar",
    "VLT": "volt", "2Z": "mV", "AMP": "ampere", "4K": "mA", "WTT": "watt", "KWT": "kW", "JOU": "joule", "NEW": "newton",
    "C34": "mol", "C36": "mol/m**3", "P1": "percent", "59": "ppm", "C62": "dimensionless", "DD": "degree",
}  # fmt: skip
SPELLED = {"°C": "degC", "℃": "degC", "°F": "degF", "K": "kelvin", "%": "percent", "h": "hour", "min": "minute"}


def code_of(number: int) -> str:
    """Return the UNECE code of a unit id, such as ``CEL`` for 4408652."""
    return number.to_bytes(4, "big").lstrip(b"\0").decode("ascii", "replace") if 0 < number < 2**32 else ""


def from_opcua(uri: str, number: int, shown: str) -> str:
    """Find the unit that means the same.

    Args:
        uri: who gave out the number.
        number: unit id.
        shown: name for people.

    Returns:
        The unit as pint writes it.

    Raises:
        UnitError: neither the number nor the name is known, or they contradict each other.
    """
    named = _spelled(shown)
    coded = UNECE.get(code_of(number)) if uri == UNECE_URI or not uri else None
    if coded is None and named is None:
        message = f"the unit {shown!r} (code {code_of(number) or number}) is not known"
        raise UnitError(message)
    if coded is None or named is None or coded == named:
        return coded or named or ""
    if not same_dimension(coded, named):
        message = f"the unit's code {code_of(number)} means {coded}, its name says {shown!r}"
        raise UnitError(message)
    return coded


def _spelled(shown: str) -> str | None:
    text = shown.strip()
    text = SPELLED.get(text, text.replace("°C", "degC").replace("µ", "u").replace("·", "*"))
    try:
        return check_unit(text) if text else None
    except UnitError:
        return None
