"""A scan for people: a table of what the device can do, and the lines to paste into a lab file and a campaign."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from instruments.self_described.scans import STOPPING, Command, Described, Scan

KEPT = ("progress", "state", "status")


def table(scan: Scan) -> Iterator[str]:
    """Write what a device can do.

    Args:
        scan: of the device.

    Yields:
        Lines.
    """
    who = " ".join(part for part in (scan.device.get("name", ""), scan.device.get("serial", "")) if part)
    yield f"{who or 'a device'} at {scan.address}, {scan.protocol}, {scan.digest[:12]}"
    rows = [("does", "takes / gives", "unit", "from", "to", "")]
    for command in scan.commands:
        rows.append((command.name, f"({command.style})", "", "", "", ", ".join(command.errors)))
        rows += [("", f"← {value.name}", *_about(value)) for value in command.parameters]
        rows += [("", f"→ {value.name}", *_about(value)) for value in command.answers]
    if scan.values:
        rows.append(("values", "", "", "", "", ""))
        rows += [("", value.name, *_about(value)) for value in scan.values]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        yield "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def lab_lines(scan: Scan, name: str, options: Mapping[str, Any], path: Path) -> Iterator[str]:
    """Write the lines of a lab file.

    Args:
        scan: of the device.
        name: of the instrument.
        options: that say where it is.
        path: of the scan file, as seen from the lab file.

    Yields:
        Lines.
    """
    yield "# into lab.yaml"
    yield "instruments:"
    yield f"  {name}:"
    yield f"    use: {scan.protocol}"
    yield "    options:"
    for key, value in options.items():
        yield f"      {key}: {_yaml(value)}"
    yield f"      scan: {path.as_posix()}"
    chosen = usable(scan)
    if len(chosen) < len(scan.commands):
        yield f"      commands: [{', '.join(command.name for command in chosen)}]"
    open_ends = _open_ends(chosen)
    if open_ends:
        yield "      parameters:                               # the device gives no bounds for these"
        for value in open_ends:
            yield f"        {value.name}: {{min: , max: }}             # {value.unit}"
    texts = [value for command in chosen for value in command.parameters if _free_text(value)]
    if texts:
        yield "      fixed:                                    # free text: one value for all, or 'key_parameter'"
        for value in texts:
            yield f'        {value.name}: ""'
    stops = [command.name for command in scan.commands if command.name in STOPPING and not command.parameters]
    if stops and all(command.style != "program" for command in chosen):
        yield f"      abort_command: {stops[0]}"
    states = [value for value in scan.values if value.name in KEPT and (value.choices or value.kind == "text")]
    if states and scan.protocol == "opcua":
        listed = ", ".join(states[0].choices) or "what it holds while the device works"
        yield f"      state: {states[0].name}"
        yield f"      busy: []                                  # of: {listed}"


def space_lines(scan: Scan, name: str) -> Iterator[str]:
    """Write the lines of a campaign's search space and procedure: bounds and units by the device's own word.

    Args:
        scan: of the device.
        name: of the instrument.

    Yields:
        Lines.
    """
    for command in usable(scan):
        axes = [value for value in command.parameters if not _free_text(value)]
        if not axes:
            continue
        yield f"# into the campaign file, to search over {command.name}"
        yield "space:"
        yield "  use: box"
        yield "  options:"
        yield "    parameters:"
        for value in axes:
            yield f"      {value.name}: {_axis(value)}"
        yield f"procedure: [{{step: {command.name}, instrument: {name}, capability: {command.name}}}]"


def usable(scan: Scan) -> list[Command]:
    """Return the commands that are work: they take or give something that can be varied or measured."""
    found = []
    for command in scan.commands:
        fine = all(_free_text(v) or v.numeric or v.choices or v.kind == "boolean" for v in command.parameters)
        if (
            fine
            and command.name not in STOPPING
            and (command.parameters or any(answer.numeric for answer in command.answers))
        ):
            found.append(command)
    return found


def _axis(value: Described) -> str:
    if value.choices or value.kind == "boolean":
        names = value.choices or ("false", "true")
        return f"{{kind: categorical, choices: [{', '.join(_yaml(name) for name in names)}]}}"
    low = "" if value.low is None else f"{value.low:g}"
    high = "" if value.high is None else f"{value.high:g}"
    unit = "" if value.unit == "dimensionless" else f", unit: {value.unit}"
    kind = "kind: integer, " if value.kind == "integer" else ""
    return f"{{{kind}min: {low}, max: {high}{unit}}}"


def _about(value: Described) -> tuple[str, str, str, str]:
    if value.choices:
        return "", "", "", " | ".join(value.choices)
    if not value.numeric:
        return "", "", "", value.kind
    low = "" if value.low is None else f"{value.low:g}"
    high = "" if value.high is None else f"{value.high:g}"
    return "" if value.unit == "dimensionless" else value.unit, low, high, value.problem


def _free_text(value: Described) -> bool:
    return value.kind == "text" and not value.choices


def _open_ends(commands: list[Command]) -> list[Described]:
    found = {
        value.name: value
        for command in commands
        for value in command.parameters
        if value.numeric and (value.low is None or value.high is None)
    }
    return list(found.values())


def _yaml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    text = str(value)
    plain = text.replace("_", "").replace(".", "").replace("/", "").replace("-", "").isalnum()
    quoted = text.lower() in ("true", "false", "yes", "no", "on", "off", "null")
    return text if isinstance(value, int) or (plain and not quoted) else f'"{text}"'
