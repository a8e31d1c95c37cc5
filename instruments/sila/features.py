"""SiLA 2 features → what a device can do: commands, parameters with units and constraints, properties."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Literal

from instruments.self_described.scans import Command, Described, Scan, snake, unique
from instruments.sila.units import from_sila
from orchestrator.errors import UnitError

STANDARD = ("org.silastandard",)
"""Originators whose features manage a server and do no work."""
Via = Literal["argument", "response", "intermediate", "property"]


def scan_of(features: Iterable[Any], *, address: str, device: Mapping[str, str]) -> Scan:
    """Put together what the features of a server say.

    Args:
        features: as the client loaded them.
        address: of the server.
        device: name, serial number, version.

    Returns:
        The scan; commands and properties of equal names carry the feature's name in front.
    """
    taken = [feature for feature in features if feature.originator not in STANDARD]
    taken.sort(key=lambda feature: str(feature.fully_qualified_identifier))
    commands = [_command(feature, command) for feature in taken for command in feature.commands.values()]
    values = [
        _described(p.identifier, p.data_type, "property", source=f"{feature.fully_qualified_identifier}/{p.identifier}")
        for feature in taken
        for p in feature.properties.values()
    ]
    return Scan(
        protocol="sila",
        address=address,
        device=dict(device),
        commands=_named_apart(commands),
        values=unique(values),
        scanned_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _command(feature: Any, command: Any) -> Command:
    answers = [_described(e.identifier, e.data_type, via) for via, elements in _answers(command) for e in elements]
    return Command(
        name=snake(command.identifier),
        source=f"{feature.fully_qualified_identifier}/{command.identifier}",
        style="observable" if command.observable else "unobservable",
        parameters=unique([_described(e.identifier, e.data_type, "argument") for e in command.parameters.values()]),
        answers=unique(answers),
        errors=tuple(sorted(command.errors)),
    )


def _answers(command: Any) -> list[tuple[Via, Iterable[Any]]]:
    between = getattr(command, "intermediate_responses", None) or {}
    return [("response", command.responses.values()), ("intermediate", between.values())]


def _named_apart(commands: list[Command]) -> tuple[Command, ...]:
    names = [command.name for command in commands]
    return tuple(
        command
        if names.count(command.name) == 1
        else Command(
            snake("_".join(command.source.split("/")[-3:][::2])),
            *(getattr(command, field) for field in ("source", "style", "parameters", "answers", "errors")),
        )
        for command in commands
    )


def _described(identifier: str, data_type: Any, via: Via, source: str = "") -> Described:
    kind, constraints = _resolved(data_type)
    found: dict[str, Any] = {}
    low, high = -math.inf, math.inf
    for constraint in constraints:
        name = type(constraint).__name__
        if name == "Unit":
            found |= _unit(constraint)
        elif name == "Set":
            found["choices"] = tuple(_text(item.value) for item in constraint.values)
        elif name.startswith("Minimal") and name.endswith("clusive") and kind in ("number", "integer"):
            low = max(low, _bound(constraint.value.value, kind, math.inf if name.endswith("Exclusive") else None))
        elif name.startswith("Maximal") and name.endswith("clusive") and kind in ("number", "integer"):
            high = min(high, _bound(constraint.value.value, kind, -math.inf if name.endswith("Exclusive") else None))
    factor = found.get("factor", 1.0)
    return Described(
        name=snake(identifier),
        source=source or identifier,
        kind=kind,
        via=via,
        low=low * factor if math.isfinite(low) else None,
        high=high * factor if math.isfinite(high) else None,
        **found,
    )


def _resolved(data_type: Any) -> tuple[Literal["number", "integer", "text", "boolean", "other"], list[Any]]:
    """Look through custom types and constraints at the basic type below."""
    constraints: list[Any] = []
    while True:
        inner = getattr(data_type, "data_type", None)
        if inner is None or not isinstance(inner, type):
            break
        constraints += list(getattr(data_type, "constraints", ()))
        if _is_a(data_type, "List"):
            return "other", constraints
        data_type = inner
    for name, kind in (("Real", "number"), ("Integer", "integer"), ("String", "text"), ("Boolean", "boolean")):
        if _is_a(data_type, name):
            return kind, constraints  # type: ignore[return-value]  # the literal's words
    return "other", constraints


def _is_a(data_type: Any, name: str) -> bool:
    return any(base.__name__ == name for base in getattr(data_type, "__mro__", ()))


def _unit(constraint: Any) -> dict[str, Any]:
    components = [(str(part.unit), int(part.exponent)) for part in constraint.components]
    try:
        unit, factor = from_sila(constraint.label, components, float(constraint.factor), float(constraint.offset))
    except UnitError as error:
        return {"problem": str(error)}
    return {"unit": unit, "factor": factor}


def _bound(value: Any, kind: str, beyond: float | None) -> float:
    """Return a bound as one that may be reached."""
    if beyond is None:
        return float(value)
    return float(value) + math.copysign(1, beyond) if kind == "integer" else math.nextafter(float(value), beyond)


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
