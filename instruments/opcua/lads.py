"""Functional units in the shape of OPC UA LADS (OPC 30500-1): programs with our key, found again in the ResultSet.

``StartProgram(ProgramTemplateId, Properties, SupervisoryJobId, SupervisoryTaskId, Samples[])`` takes our dispatch key
as the supervisory task id, and each result carries it: the best case of recovery, since the device's own list of
results says what became of an order, even where the reply to the start was lost. Set-points are the target values of
the unit's functions, outputs their current and sensor values, or what a result keeps of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from instruments.opcua.nodes import Unit
from instruments.self_described.driver import Job
from instruments.self_described.scans import Command, Described, Scan, snake, unique
from orchestrator.errors import Fault

PROGRAM = "program"
START = "StartProgram"
STOPS = ("Abort", "Stop")
TARGETS = ("TargetValue",)
SHOWN = ("CurrentValue", "SensorValue")
NEVER = datetime(1900, 1, 1, tzinfo=UTC)
"""OPC UA writes 'not yet' as 1601-01-01."""


@dataclass(frozen=True)
class Entry:
    """One result of the ResultSet.

    Args:
        run: the device's own id of it.
        stopped: whether it has ended.
        started_us: when it began, by the device's clock, UTC in microseconds; None where it does not say.
        values: function → node of its value.
        properties: what else it says, for the raw file.
    """

    run: str
    stopped: bool
    started_us: int | None
    values: Mapping[str, Any] = field(default_factory=dict)
    properties: Mapping[str, Any] = field(default_factory=dict)


def is_lads(unit: Unit) -> bool:
    """Say whether a unit has the shape of a LADS functional unit."""
    managed = any(path.endswith("ProgramManager/ResultSet") for path in unit.objects)
    return managed and _method(unit, START) is not None


async def read_templates(unit: Unit) -> None:
    """Read the ids of the program templates; they are what a start names."""
    templates = next((path for path in unit.objects if path.endswith("ProgramTemplateSet")), None)
    found = {}
    if templates is not None:
        for child in await unit.objects[templates].get_children():
            name = (await child.read_browse_name()).Name
            held = {(await p.read_browse_name()).Name: await p.read_value() for p in await child.get_properties()}
            found[name] = str(held.get("DeviceTemplateId") or name)
    unit.templates = found


def scan_of(unit: Unit, *, address: str, device: Mapping[str, str], unit_path: str) -> Scan:
    """Put together what a functional unit says.

    Args:
        unit: explored, with its templates read.
        address: of the server.
        device: name and the like.
        unit_path: as it was named.
    """
    targets, shown, others = [], [], []
    for path in sorted(unit.described):
        value = unit.described[path]
        parts = path.split("/")
        if "FunctionSet" in parts and parts[-1] in TARGETS:
            targets.append(replace(value, name=snake(parts[-2]), via="argument", writable=False))
        elif "FunctionSet" in parts and parts[-1] in SHOWN:
            suffix = " current" if parts[-1] == "CurrentValue" else ""
            shown.append(replace(value, name=snake(parts[-2] + suffix), writable=False))
        elif "ProgramTemplateSet" not in parts:
            others.append(value)
    # Targets can be read back under the parameter's name; what is shown has a name of its own.
    readable = [replace(value, via="value", writable=True) for value in targets]
    answers = unique([replace(value, via="response") for value in shown if value.numeric])
    commands = [
        Command(snake(name), template, PROGRAM, unique(targets), answers)
        for name, template in sorted(unit.templates.items())
    ]
    stops = [
        Command(snake(path.rsplit("/", maxsplit=1)[-1]), path, "method")
        for path in sorted(unit.methods)
        if path.rsplit("/", maxsplit=1)[-1] in STOPS
    ]
    return Scan(
        protocol="opcua",
        address=address,
        device={**device, "unit": unit_path},
        commands=(*commands, *stops),
        values=unique([*readable, *shown, *others]),
        scanned_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def function_of(value: Described) -> str:
    """Return the name of the function that a value belongs to."""
    return value.source.split("/")[-2] if "/" in value.source else value.source


def stop_method(unit: Unit) -> str:
    """Return the path of the method that stops; empty where there is none."""
    return next((path for name in STOPS if (path := _method(unit, name)) is not None), "")


async def start(unit: Unit, job: Job) -> Any:
    """Start a program with our key as its task id.

    Args:
        unit: the functional unit.
        job: the order.

    Returns:
        The device's own id of the program.
    """
    from asyncua import ua  # noqa: PLC0415  optional, and loaded by now

    path = _method(unit, START)
    if path is None or job.offer.command is None:
        message = "the unit has no StartProgram any more; scan it again"
        raise Fault(message)
    parent, method = unit.methods[path]
    takes, _ = unit.arguments[path]
    pairs = {function_of(p): p.to_device(job.settings[name]) for name, p in job.offer.parameters.items()}
    given = {
        "ProgramTemplateId": job.offer.command.source,
        "SupervisoryJobId": job.offer.name,
        "SupervisoryTaskId": job.key,
    }
    inputs = []
    for argument in takes:
        if argument.Name in given:
            inputs.append(ua.Variant(given[argument.Name], ua.VariantType.String))
            continue
        kind = ua.extension_objects_by_datatype.get(argument.DataType)
        if argument.Name == "Properties" and kind is not None:
            inputs.append(ua.Variant([kind(Key=key, Value=f"{value!r}") for key, value in pairs.items()]))
        elif argument.Name == "Properties":
            inputs.append(ua.Variant([f"{key}={value!r}" for key, value in pairs.items()], ua.VariantType.String))
        elif argument.Name == "Samples" and kind is not None and job.sample:
            inputs.append(ua.Variant([_filled(kind, job.sample)]))
        else:
            inputs.append(ua.Variant([], ua.VariantType.ExtensionObject, is_array=True))
    return await parent.call_method(method, *inputs)


async def find(unit: Unit, key: str) -> Entry | None:
    """Find the result that carries our key; None where there is none."""
    results = next((path for path in unit.objects if path.endswith("ProgramManager/ResultSet")), None)
    if results is None:
        return None
    for child in reversed(await unit.objects[results].get_children()):
        held = {}
        for node in await child.get_children():
            held[(await node.read_browse_name()).Name] = node
        if "SupervisoryTaskId" in held and str(await held["SupervisoryTaskId"].read_value()) == key:
            return await _entry(held)
    return None


async def progress(unit: Unit) -> float:
    """Return the fraction of the running program, between 0 and 1."""
    times = {path.rsplit("/", maxsplit=1)[-1]: node for path, node in unit.variables.items() if "ActiveProgram" in path}
    if "CurrentRuntime" not in times or "EstimatedRuntime" not in times:
        return 0.0
    gone, all_of_it = await times["CurrentRuntime"].read_value(), await times["EstimatedRuntime"].read_value()
    return min(1.0, max(0.0, float(gone) / float(all_of_it))) if all_of_it else 0.0


async def _entry(held: Mapping[str, Any]) -> Entry:
    properties = {}
    for name in ("DeviceProgramRunId", "SupervisoryJobId", "SupervisoryTaskId", "Started", "Stopped"):
        if name in held:
            properties[name] = await held[name].read_value()
    stopped, started = properties.get("Stopped"), properties.get("Started")
    values = {}
    if "VariableSet" in held:
        for node in await held["VariableSet"].get_children():
            values[(await node.read_browse_name()).Name] = node
    return Entry(
        run=str(properties.get("DeviceProgramRunId", "")),
        stopped=isinstance(stopped, datetime) and _aware(stopped) > NEVER,
        started_us=round(_aware(started).timestamp() * 1e6) if isinstance(started, datetime) else None,
        values=values,
        properties=properties,
    )


def _aware(moment: datetime) -> datetime:
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def _filled(kind: Any, sample: str) -> Any:
    made = kind()
    for name in ("ContainerId", "SampleId", "Position", "CustomData"):
        if hasattr(made, name):
            setattr(made, name, sample if name in ("ContainerId", "SampleId") else "")
    return made


def _method(unit: Unit, name: str) -> str | None:
    return next((path for path in sorted(unit.methods) if path.rsplit("/", maxsplit=1)[-1] == name), None)
