"""What a device says of itself, kept as a hashed file beside the lab file.

SiLA 2 and OPC UA devices describe themselves: what they can do, with which parameters, in which units, within which
bounds. ``matloop lab scan`` writes that down once. From then on `describe` reads the file, offline, and `open` compares
it with what the device says now: a device that changed under a running campaign is refused, by name of what changed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

from orchestrator.domain import JsonObject
from orchestrator.domain.canonical import canonical_json, sha256
from orchestrator.errors import ConfigError, Effect, Fault

FORMAT = "matloop-scan/1"
STOPPING = ("stop", "abort", "cancel", "cancel_all", "halt", "emergency_stop", "reset", "clear")
"""Names of commands that are no work, in the devices' own words; 'abort_command' may name one."""
SHOWN = 6
"""How many changes an error names; a device with a new firmware may have changed in a hundred places."""


@dataclass(frozen=True)
class Described:
    """One value of a device: a parameter, a response, or something that can be read at any time.

    Args:
        name: as Matloop names it: lower case, words parted by underscores.
        source: as the device names it; for OPC UA variables the path below the unit.
        kind: what it holds; only numbers, choices and truth values can be set-points, only numbers outputs.
        via: how it goes over the wire.
        unit: as pint writes it.
        factor: the value in `unit` is the device's value times this.
        low: smallest value, in `unit`; None where the device gives no bound.
        high: largest value, in `unit`.
        choices: names of the values that it may have.
        codes: numbers that stand for the choices on the wire; empty where the names themselves do.
        writable: whether it can be written.
        problem: why it cannot be used as it is; empty where it can.
    """

    name: str
    source: str
    kind: Literal["number", "integer", "text", "boolean", "other"]
    via: Literal["argument", "write", "response", "intermediate", "value", "property"] = "argument"
    unit: str = "dimensionless"
    factor: float = 1.0
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    codes: tuple[int, ...] = ()
    writable: bool = False
    problem: str = ""

    @property
    def numeric(self) -> bool:
        """Whether it holds a number that means an amount."""
        return self.kind in ("number", "integer") and not self.choices

    def to_device(self, value: float | str) -> Any:
        """Write a set-point as the device takes it.

        Args:
            value: number in `unit`, or the name of a choice.
        """
        if isinstance(value, str):
            if self.kind == "boolean":
                return value == "true"
            if self.codes:
                return self.codes[self.choices.index(value)]
            return int(value) if self.kind == "integer" else float(value) if self.kind == "number" else value
        number = value / self.factor
        return round(number) if self.kind == "integer" else number

    def from_device(self, value: Any) -> float | str:
        """Read what the device gives.

        Args:
            value: as it came over the wire.

        Returns:
            A number in `unit`, or the name of a choice.

        Raises:
            ValueError: it is neither.
        """
        if self.kind == "boolean":
            return "true" if value else "false"
        if self.codes and int(value) in self.codes:
            return self.choices[self.codes.index(int(value))]
        if self.choices or self.kind == "text":
            return f"{value:g}" if isinstance(value, float) else str(value)
        return float(value) * self.factor


@dataclass(frozen=True)
class Command:
    """One thing that a device can do.

    Args:
        name: as Matloop names it.
        source: as the device names it.
        style: how it is carried out; depends on the protocol.
        parameters: that it takes.
        answers: that it gives at its end or on its way.
        errors: names of errors that it declares.
    """

    name: str
    source: str
    style: str
    parameters: tuple[Described, ...] = ()
    answers: tuple[Described, ...] = ()
    errors: tuple[str, ...] = ()


@dataclass(frozen=True)
class Scan:
    """All that a device says of itself.

    Args:
        protocol: such as ``sila``.
        address: where it was scanned; a device may move, so this is no part of the hash.
        device: name, serial number and the like; for people, and no part of the hash.
        commands: what it can do.
        values: what can be read at any time.
        scanned_at: UTC, as ISO 8601.
    """

    protocol: str
    address: str
    device: Mapping[str, str]
    commands: tuple[Command, ...]
    values: tuple[Described, ...] = ()
    scanned_at: str = ""

    @property
    def digest(self) -> str:
        """Hash of what the device can do."""
        return sha256(canonical_json(_content(self)))

    def command(self, name: str) -> Command | None:
        """Return a command by name; None where there is none."""
        return next((command for command in self.commands if command.name == name), None)

    def value(self, name: str) -> Described | None:
        """Return a readable value by name; None where there is none."""
        return next((value for value in self.values if value.name == name), None)

    def to_json(self) -> JsonObject:
        """Return the scan as JSON content, with its hash."""
        return {
            "format": FORMAT,
            "address": self.address,
            "device": dict(self.device),
            "scanned_at": self.scanned_at,
            "sha256": self.digest,
            **_content(self),
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """Build the scan from `to_json` content; the hash is not looked at."""
        return cls(
            protocol=content["protocol"],
            address=content["address"],
            device=dict(content["device"]),
            commands=tuple(
                Command(
                    name=c["name"],
                    source=c["source"],
                    style=c["style"],
                    parameters=_described(c["parameters"]),
                    answers=_described(c["answers"]),
                    errors=tuple(c["errors"]),
                )
                for c in content["commands"]
            ),
            values=_described(content["values"]),
            scanned_at=content["scanned_at"],
        )


def write(scan: Scan, path: Path) -> None:
    """Write a scan file.

    Args:
        scan: of a device.
        path: of the file; its folder is made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(scan.to_json(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def read(path: Path, protocol: str) -> Scan:
    """Read a scan file.

    Args:
        path: of the file.
        protocol: that the driver speaks.

    Returns:
        The scan.

    Raises:
        ConfigError: there is none, it is of another protocol, or it was changed since it was written.
    """
    again = "scan the device again: matloop lab scan ADDRESS --write"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        scan = _of_this_format(content)
    except OSError as error:
        message = f"the scan file cannot be read: {error.strerror or error}; {again} {path}"
        raise ConfigError(message, file=str(path)) from error
    except (ValueError, KeyError, TypeError) as error:
        message = f"this is no scan file: {type(error).__name__}: {error}; {again} {path}"
        raise ConfigError(message, file=str(path)) from error
    if scan.protocol != protocol:
        message = f"the scan is of a device that speaks {scan.protocol}; the driver speaks {protocol}"
        raise ConfigError(message, file=str(path))
    if scan.digest != content["sha256"]:
        message = (
            "the scan was changed by hand: its content does not match its hash. Bounds and units of a site stand in the"
            f" instrument's options ('parameters') in the lab file; {again} {path}"
        )
        raise ConfigError(message, file=str(path))
    return scan


def refuse_drift(scanned: Scan, present: Scan, path: Path) -> None:
    """Refuse a device that is no longer as it was scanned.

    Args:
        scanned: what the campaign relies on.
        present: what the device says now.
        path: of the scan file.

    Raises:
        Fault: something differs, and nothing was sent; the message names it.
    """
    if scanned.digest == present.digest:
        return
    changes = list(differences(scanned, present))
    named = "; ".join(changes[:SHOWN]) + (f"; and {len(changes) - SHOWN} more" if len(changes) > SHOWN else "")
    message = (
        f"the device is not as it was scanned into {path}: {named}. Nothing was sent. Look whether that was meant, then"
        f" scan it again: matloop lab scan {present.address} --write {path}"
    )
    raise Fault(message, effect=Effect.NONE)  # the device is in the way, not the candidate


def differences(one: Scan, other: Scan) -> Iterator[str]:
    """Name what differs between two scans, such as ``anneal.temperature.high: 1200 → 1100``.

    Args:
        one: before.
        other: after.
    """
    before, after = dict(_flat(one)), dict(_flat(other))
    for place in sorted(set(before) | set(after)):
        if place not in after:
            yield f"{place} is gone"
        elif place not in before:
            yield f"{place} is new"
        else:
            old, new = before[place], after[place]
            for key in old:
                if old[key] != new[key]:
                    yield f"{place}.{key}: {_shown(old[key])} → {_shown(new[key])}"


def snake(name: str) -> str:
    """Return a device's name as Matloop writes names: ``TargetTemperature`` becomes ``target_temperature``.

    Args:
        name: identifier of a feature, a browse name and the like.
    """
    words: list[str] = []
    previous = " "
    for place, letter in enumerate(name):
        follows = name[place + 1 : place + 2]
        starts = letter.isupper() and (not previous.isupper() or follows.islower())
        if not letter.isascii() or not letter.isalnum():
            words.append("")
        elif starts or not words:
            words.append(letter.lower())
        else:
            words[-1] += letter.lower()
        previous = letter
    text = "_".join(word for word in words if word)[:64]
    return text if text[:1].isalpha() else f"x_{text}"[:64]


def unique(values: list[Described]) -> tuple[Described, ...]:
    """Give values of equal names numbers, so that each can be named.

    Args:
        values: in the device's order.
    """
    seen: dict[str, int] = {}
    result = []
    for value in values:
        seen[value.name] = seen.get(value.name, 0) + 1
        times = seen[value.name]
        result.append(value if times == 1 else replace(value, name=f"{value.name[:60]}_{times}"))
    return tuple(result)


def _of_this_format(content: Mapping[str, Any]) -> Scan:
    if content["format"] != FORMAT:
        message = f"its format is {content['format']!r}; {FORMAT} was expected"
        raise ValueError(message)
    return Scan.from_json(content)


def _content(scan: Scan) -> JsonObject:
    """Return what the hash is made of."""
    return {
        "protocol": scan.protocol,
        "commands": [
            {
                **asdict(command),
                "parameters": [_json(value) for value in command.parameters],
                "answers": [_json(value) for value in command.answers],
                "errors": list(command.errors),
            }
            for command in scan.commands
        ],
        "values": [_json(value) for value in scan.values],
    }


def _json(value: Described) -> JsonObject:
    return {**asdict(value), "choices": list(value.choices), "codes": list(value.codes)}


def _described(content: list[Mapping[str, Any]]) -> tuple[Described, ...]:
    return tuple(
        Described(**{**value, "choices": tuple(value["choices"]), "codes": tuple(value["codes"])}) for value in content
    )


def _flat(scan: Scan) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for command in scan.commands:
        yield command.name, {"source": command.source, "style": command.style, "errors": command.errors}
        for value in command.parameters:
            yield f"{command.name}.{value.name}", asdict(value)
        for value in command.answers:
            yield f"{command.name} → {value.name}", asdict(value)
    for value in scan.values:
        yield value.name if scan.command(value.name) is None else f"value {value.name}", asdict(value)


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
