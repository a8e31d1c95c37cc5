"""Numbers with units as people type them: ``strength=3.4 MPa``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from orchestrator.errors import ConfigError

if TYPE_CHECKING:
    from orchestrator.domain import Quantity

GIVEN = re.compile(
    r"(?P<name>[A-Za-z]\w*)\s*=\s*(?P<value>[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*(?P<unit>.*)", re.DOTALL
)
"""``strength=3.4 MPa``; an ``e`` belongs to the number only where digits follow, so that ``1.2eV`` is read as meant."""


def given(texts: tuple[str, ...], units: Mapping[str, str]) -> dict[str, Quantity]:
    """Read ``property=value[unit]`` texts.

    Args:
        texts: as typed.
        units: by property, where none is typed.

    Returns:
        Quantities by property.

    Raises:
        ConfigError: a text cannot be read, or names a property twice.
    """
    from orchestrator.domain import Quantity  # noqa: PLC0415  NumPy is not needed by --help

    values: dict[str, Quantity] = {}
    for text in texts:
        match = GIVEN.fullmatch(text.strip())
        if match is None:
            message = f"{text!r} cannot be read; PROPERTY=VALUE[UNIT] was expected, such as strength=3.4MPa"
            raise ConfigError(message)
        name, unit = match["name"], match["unit"].strip()
        if name in values:
            message = f"{name!r} is given twice; measure one trial once, or ask for a replicate"
            raise ConfigError(message)
        values[name] = Quantity(float(match["value"]), unit or units.get(name, "dimensionless"))
    return values
