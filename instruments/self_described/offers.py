"""From a scanned device and a site's options to capabilities: what `describe` of a self-describing device declares.

The device gives names, units and bounds; the options choose among them and give what the device leaves open. A
parameter that nobody bounds is refused here, when the campaign is checked, and not when the furnace is hot.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Literal, NoReturn

from pydantic import BaseModel, Field

from instruments.self_described.scans import STOPPING, Command, Described, Scan
from instruments.settings import Unit
from orchestrator.domain import Capability, Description, Output, Parameter, Recovery
from orchestrator.errors import ConfigError
from orchestrator.protocols import InputPath, Options

READ = "read"
"""Name of the capability of devices that have nothing to start: it reads their values."""
TRUTH = ("false", "true")
Meaning = Literal["rejected", "busy", "interlocked", "aborted", "bad_data", "fault", "timed_out"]


class ParameterOptions(BaseModel, frozen=True, extra="forbid"):
    """What the device leaves open about one parameter, or what the site wants tighter."""

    unit: Unit | None = Field(default=None, description="where the device gives none")
    min: float | None = Field(default=None, allow_inf_nan=False, description="in the parameter's unit")
    max: float | None = Field(default=None, allow_inf_nan=False)
    resolution: float | None = Field(default=None, gt=0, description="smallest step that makes a difference")
    default: float | str | None = None
    read_back: str = Field(default="", description="value of the device that says what was applied")


class OutputOptions(BaseModel, frozen=True, extra="forbid"):
    """What the device leaves open about one output."""

    unit: Unit | None = None
    min: float | None = Field(default=None, allow_inf_nan=False, description="smallest value that is possible")
    max: float | None = Field(default=None, allow_inf_nan=False)


class OfferOptions(Options):
    """Options that every self-describing device has."""

    scan: InputPath = Field(description="file that 'matloop lab scan ADDRESS --write FILE' wrote")
    commands: tuple[str, ...] = Field(default=(), description="which of the device's commands are used; default: all")
    parameters: dict[str, ParameterOptions] = Field(default_factory=dict)
    outputs: dict[str, OutputOptions] | None = Field(
        default=None, description="what is measured; default: the numbers that a command answers with, or its values"
    )
    fixed: dict[str, float | str | bool] = Field(
        default_factory=dict, description="parameters that always get the same value, and are no set-points"
    )
    state: str = Field(default="", description="value that says what the device does")
    busy: tuple[str, ...] = Field(default=(), description="what 'state' holds while it works")
    interlocked: tuple[str, ...] = Field(default=(), description="what 'state' holds where a person is needed")
    failed: tuple[str, ...] = Field(default=(), description="what 'state' holds when it is out of order")
    errors: dict[str, Meaning] = Field(
        default_factory=dict, description="what the device's own errors mean; others are faults of unknown effect"
    )
    abort_command: str = Field(default="", description="command that stops; default: the standard's own, if there is")
    key_parameter: str = Field(default="", description="text parameter of the commands that takes our order's key")
    key_value: str = Field(default="", description="value that holds the key of the last order that was begun")
    key_answer: str = Field(
        default="", description="text answer or value that holds the key of the order that the readings belong to"
    )
    call_s: float = Field(
        default=1.0,
        gt=0,
        allow_inf_nan=False,
        description="time-out of one call; long where the call does the work",
    )
    typical_s: float = Field(default=60.0, gt=0)
    longest_s: float = Field(default=3600.0, gt=0, allow_inf_nan=False)
    cost: float = Field(default=0.0, ge=0)
    fidelity: str = Field(default="real", min_length=1)
    simulated: bool = Field(default=False, description="true for a virtual device: no physical act happens")


@dataclass(frozen=True)
class Offer:
    """One capability, and how it is carried out.

    Args:
        capability: as declared.
        command: of the device; None for reading values only.
        parameters: by name, what goes to the device.
        outputs: by name, where it comes from.
        read_back: by parameter, the value that says what was applied.
        fixed: what else is sent, as the device takes it, by the device's name.
        key: parameter that takes our dispatch key; None where there is none.
    """

    capability: Capability
    command: Command | None
    parameters: Mapping[str, Described]
    outputs: Mapping[str, Described]
    read_back: Mapping[str, Described]
    fixed: Mapping[str, Described]
    key: Described | None = None

    @property
    def name(self) -> str:
        """Name of the capability."""
        return self.capability.name


def offers(scan: Scan, options: OfferOptions) -> tuple[Offer, ...]:
    """Return what an instrument offers.

    Args:
        scan: of the device.
        options: of the site.

    Returns:
        At least one offer.

    Raises:
        ConfigError: the options name what the device does not have, or a bound or unit is missing.
    """
    _check_names(scan, options)
    made = [_offer(scan, options, command) for command in _chosen(scan, options)]
    if READ in options.commands or not made:
        made.append(_reading(scan, options))
    return tuple(made)


def description(made: Iterable[Offer], options: OfferOptions, recovery: Recovery) -> Description:
    """Return what `describe` declares.

    Args:
        made: the offers.
        options: of the site.
        recovery: what can be found out after a crash.
    """
    return Description(
        capabilities=tuple(offer.capability for offer in made), recovery=recovery, simulated=options.simulated
    )


def _chosen(scan: Scan, options: OfferOptions) -> list[Command]:
    if options.commands:
        return [command for name in options.commands if name != READ and (command := scan.command(name))]
    working = [c for c in scan.commands if c.name != options.abort_command and c.name not in STOPPING]
    return [command for command in working if command.parameters or any(a.numeric for a in command.answers)]


def _check_names(scan: Scan, options: OfferOptions) -> None:
    commands = [command.name for command in scan.commands]
    for name in options.commands:
        if name != READ:
            _known("commands", name, commands, "command")
    used = [c for c in scan.commands if not options.commands or c.name in options.commands]
    parameters = [value.name for command in used for value in command.parameters]
    values = [value.name for value in scan.values]
    for name in (*options.parameters, *options.fixed):
        _known("parameters" if name in options.parameters else "fixed", name, parameters, "parameter")
    told = values + [value.name for command in used for value in command.answers]
    for name, one in options.parameters.items():
        if one.read_back:
            _known(f"parameters.{name}.read_back", one.read_back, told, "value")
    if options.abort_command:
        _known("abort_command", options.abort_command, commands, "command")
    for key, named in (("state", options.state), ("key_value", options.key_value), ("key_answer", options.key_answer)):
        if named:
            _known(key, named, told if key == "key_answer" else values, "value")
    if options.key_parameter:
        _known("key_parameter", options.key_parameter, parameters, "parameter")


def _known(key: str, name: str, there: Iterable[str], what: str) -> None:
    names = list(dict.fromkeys(there))
    if name not in names:
        near = get_close_matches(name, names, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(names) or 'none'}"
        _wrong(key, f"the device has no {what} {name!r}; {hint}")


def _offer(scan: Scan, options: OfferOptions, command: Command) -> Offer:
    parameters: dict[str, Described] = {}
    declared: list[Parameter] = []
    fixed: dict[str, Described] = {}
    key_parameter = None
    for value in command.parameters:
        if value.name == options.key_parameter:
            key_parameter = value
        elif value.name in options.fixed:
            fixed[value.name] = value
        else:
            usable = _with_unit(value, options, command)
            parameters[value.name] = usable
            declared.append(_parameter(usable, options.parameters.get(value.name), command))
    outputs = _outputs(scan, options, command, frozenset(parameters))
    return Offer(
        capability=_capability(command.name, declared, outputs, options),
        command=command,
        parameters=parameters,
        outputs=outputs,
        read_back=_read_back(scan, options, command, parameters),
        fixed=fixed,
        key=key_parameter,
    )


def _reading(scan: Scan, options: OfferOptions) -> Offer:
    outputs = _outputs(scan, options, None, frozenset())
    if not outputs:
        message = "the device has no command with parameters or numbers, and no value that is a number: nothing to use"
        _wrong("scan", message)
    return Offer(_capability(READ, [], outputs, options), None, {}, outputs, {}, {})


def _capability(
    name: str, parameters: list[Parameter], outputs: Mapping[str, Described], options: OfferOptions
) -> Capability:
    return Capability(
        name=name,
        outputs=tuple(_output(value, (options.outputs or {}).get(value.name)) for value in outputs.values()),
        parameters=tuple(parameters),
        typical_s=min(options.typical_s, options.longest_s),
        longest_s=options.longest_s,
        cost=options.cost,
        fidelity=options.fidelity,
    )


def _with_unit(value: Described, options: OfferOptions, command: Command) -> Described:
    given = options.parameters.get(value.name)
    if given is not None and given.unit is not None:
        if value.unit not in ("dimensionless", given.unit) and not value.problem:
            seen = f"{value.name} comes in {value.unit} by the device's own word, and the option says {given.unit}"
            _wrong(f"parameters.{value.name}.unit", f"{seen}; leave the unit out")
        return replace(value, unit=given.unit, factor=1.0, problem="")
    if value.problem or value.kind == "other" or (value.kind == "text" and not value.choices):
        why = value.problem or f"it takes {'free text' if value.kind == 'text' else 'no number and no choice'}"
        message = (
            f"{command.name} takes {value.name}, which cannot be varied: {why}; give it one value under 'fixed', or"
            " name other commands under 'commands'"
        )
        _wrong(f"parameters.{value.name}", message)
    return value


def _parameter(value: Described, given: ParameterOptions | None, command: Command) -> Parameter:
    given = given or ParameterOptions()
    if value.choices or value.kind == "boolean":
        choices = value.choices or TRUTH
        return Parameter(value.name, choices=choices, default=given.default)
    # A site can narrow what the device allows, never widen it.
    low = max(_finite(value.low, given.min), default=None)
    high = min(_finite(value.high, given.max), default=None)
    missing = [word for word, bound in (("min", low), ("max", high)) if bound is None]
    if low is None or high is None:
        message = (
            f"{command.name} takes {value.name} in {value.unit}, and neither the device nor the lab file says its"
            f" {' and '.join(missing)}; write parameters: {{{value.name}: {{min: …, max: …}}}} into its options"
        )
        _wrong(f"parameters.{value.name}", message)
    if not low < high:
        _wrong(f"parameters.{value.name}", f"{value.name} would go from {low:g} to {high:g} {value.unit}")
    resolution = given.resolution or (abs(value.factor) if value.kind == "integer" else None)
    return Parameter(value.name, value.unit, low, high, resolution=resolution, default=given.default)


def _finite(*bounds: float | None) -> list[float]:
    return [bound for bound in bounds if bound is not None and math.isfinite(bound)]


def _outputs(
    scan: Scan, options: OfferOptions, command: Command | None, parameters: frozenset[str]
) -> dict[str, Described]:
    answers = {value.name: value for value in (command.answers if command else ())}
    values = {value.name: value for value in scan.values}
    if options.outputs is not None:
        chosen: dict[str, Described] = {}
        for name, given in options.outputs.items():
            _known("outputs", name, [*answers, *values], "answer or value")
            value = answers.get(name) or values[name]
            if not value.numeric:
                _wrong(f"outputs.{name}", f"{name} holds {value.kind}; an output is a number")
            if value.problem and given.unit is None:
                _wrong(f"outputs.{name}", f"{value.problem}; give its unit: {{{name}: {{unit: …}}}}")
            chosen[name] = value if given.unit is None else replace(value, unit=given.unit, factor=1.0, problem="")
        return chosen
    usable = {n: v for n, v in answers.items() if v.numeric and not v.problem and v.via == "response"}
    shown = {n: v for n, v in values.items() if v.numeric and not v.problem and not v.writable and n not in parameters}
    found = usable or shown
    if command is not None and not found:
        message = f"{command.name} gives no number with a unit; name what it measures under 'outputs'"
        _wrong("outputs", message)
    return found


def _output(value: Described, given: OutputOptions | None) -> Output:
    low = value.low if given is None or given.min is None else given.min
    high = value.high if given is None or given.max is None else given.max
    return Output(value.name, value.unit, low, high)


def _read_back(
    scan: Scan, options: OfferOptions, command: Command, parameters: Mapping[str, Described]
) -> dict[str, Described]:
    answers = {value.name: value for value in command.answers}
    values = {value.name: value for value in scan.values}
    found = {}
    for name, parameter in parameters.items():
        given = options.parameters.get(name)
        for source in [given.read_back] if given and given.read_back else [f"applied_{name}", name]:
            value = answers.get(source) or values.get(source)
            if value is not None:
                if given is not None and given.unit is not None and value.unit == "dimensionless":
                    value = replace(value, unit=given.unit, factor=1.0)
                if parameter.codes and not value.codes and value.kind in ("number", "integer"):
                    value = replace(value, codes=parameter.codes, choices=parameter.choices)
                found[name] = value
                break
    return found


def _wrong(key: str, message: str) -> NoReturn:
    raise ConfigError(message, key=f"options.{key}")
