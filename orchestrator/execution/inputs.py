"""From a candidate and a step of the procedure to the order for an instrument.

A set-point comes, in this order, from the step's `inputs`, from the candidate's parameter of the same name, or from the
capability's default. What an instrument applied goes the way back: under the candidate's name and in its unit, so that
a step at a fixed temperature never overwrites the temperature that the campaign explores.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import NoReturn

from orchestrator.config.steps import FixedInput, FromInput, StepConfig
from orchestrator.domain import Candidate, Capability, Crystal, Order, Parameter, Quantity, Value, frozen
from orchestrator.errors import Rejected
from orchestrator.record.views import StepOutput
from orchestrator.units import convert

STRUCTURE = "structure"
"""Name of the input that gives a step its structure."""
CANDIDATE = "candidate"
"""Source of inputs that the candidate itself gives."""


@dataclass(frozen=True)
class Context:
    """What the inputs of one step may come from.

    Args:
        candidate: of the trial.
        outputs: of the trial's earlier steps, by step name.
        sample: id of the physical sample.
        units: units of the candidate's parameters; where one is missing, the instrument's own unit is meant.
    """

    candidate: Candidate
    outputs: Mapping[str, StepOutput] = field(default_factory=frozen)
    sample: str | None = None
    units: Mapping[str, str] = field(default_factory=frozen)


def build_order(step: StepConfig, capability: Capability, context: Context) -> Order:
    """Build the order of one step; its key is still empty.

    Args:
        step: from the procedure.
        capability: that the step uses.
        context: where inputs come from.

    Returns:
        The order, unchecked.

    Raises:
        Rejected: an input is unknown or cannot be found; the message says which and what there is.
    """
    known = [parameter.name for parameter in capability.parameters] + [STRUCTURE] * capability.takes_structure
    for name in step.inputs:
        if name not in known:
            close = get_close_matches(name, known, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else f"; it takes: {', '.join(known) or 'nothing'}"
            _refuse(f"step {step.step!r} gives {name!r}, which {capability.name} does not take{hint}")
    settings: dict[str, Quantity] = {}
    choices: dict[str, str] = {}
    for parameter in capability.parameters:
        value = _value(step, parameter, context)
        if isinstance(value, str):
            choices[parameter.name] = value
        elif value is not None:
            settings[parameter.name] = value
    return Order(
        key="",
        capability=capability.name,
        settings=frozen(settings),
        choices=frozen(choices),
        crystal=_crystal(step, context) if capability.takes_structure else None,
        sample=context.sample,
        label=context.candidate.label,
        deadline_s=capability.longest_s,
    )


def applied_values(
    step: StepConfig, capability: Capability, applied: Mapping[str, Value], context: Context
) -> Mapping[str, Value]:
    """Name what was applied as the candidate names it.

    Args:
        step: from the procedure.
        capability: that the step used.
        applied: set-points as read back, in the declared units, by parameter name.
        context: as for `build_order`.

    Returns:
        Values in the candidate's units under the candidate's names; set-points that do not come from the candidate
        under ``STEP.PARAMETER``.
    """
    declared = {parameter.name: parameter for parameter in capability.parameters}
    named: dict[str, Value] = {}
    for name, value in applied.items():
        source = _candidate_parameter(step, name, context.candidate)
        if source is None:
            named[f"{step.step}.{name}"] = value
        elif isinstance(value, str):
            named[source] = value
        else:
            unit = declared[name].unit
            named[source] = convert(float(value), unit, context.units.get(source, unit))
    return frozen(named)


def _candidate_parameter(step: StepConfig, name: str, candidate: Candidate) -> str | None:
    given = step.inputs.get(name)
    if given is None:
        return name if name in candidate.parameters else None
    if isinstance(given, FromInput):
        where, _, what = given.source.partition(".")
        return what if where == CANDIDATE else None
    return None


def _value(step: StepConfig, parameter: Parameter, context: Context) -> Quantity | str | None:
    given = step.inputs.get(parameter.name)
    if isinstance(given, FixedInput):
        return given.value if isinstance(given.value, str) else Quantity(float(given.value), given.unit)
    if isinstance(given, FromInput):
        return _found(step, given.source, parameter, context)
    if parameter.name in context.candidate.parameters:
        return _found(step, f"{CANDIDATE}.{parameter.name}", parameter, context)
    if isinstance(parameter.default, str) or parameter.default is None:
        return parameter.default
    return Quantity(float(parameter.default), parameter.unit)


def _found(step: StepConfig, source: str, parameter: Parameter, context: Context) -> Quantity | str:
    where, _, what = source.partition(".")
    if where == CANDIDATE:
        if what == "composition" and context.candidate.composition is not None:
            return context.candidate.composition
        if what not in context.candidate.parameters:
            there = ", ".join(context.candidate.parameters) or "none"
            _refuse(f"step {step.step!r} takes {source}; the candidate's parameters are: {there}")
        value = context.candidate.parameters[what]
        if isinstance(value, str) or parameter.choices:
            return str(value)
        return Quantity(float(value), context.units.get(what, parameter.unit))
    numbers = _outputs(step, source, context).numbers
    if what not in numbers:
        there = ", ".join(numbers) or "none that can be trusted"
        _refuse(f"step {step.step!r} takes {source}; the numbers of step {where!r} are: {there}")
    number, unit = numbers[what]
    return Quantity(number, unit)


def _crystal(step: StepConfig, context: Context) -> Crystal | None:
    given = step.inputs.get(STRUCTURE)
    if given is None:
        return context.candidate.crystal
    if isinstance(given, FixedInput):
        _refuse(f"step {step.step!r}: a structure comes from candidate.structure or from an earlier step, not a value")
    where, _, what = given.source.partition(".")
    if where == CANDIDATE:
        return context.candidate.crystal
    structures = _outputs(step, given.source, context).structures
    if what not in structures:
        there = ", ".join(structures) or "none"
        _refuse(f"step {step.step!r} takes {given.source}; the structures of step {where!r} are: {there}")
    return structures[what]


def _outputs(step: StepConfig, source: str, context: Context) -> StepOutput:
    where = source.partition(".")[0]
    if where not in context.outputs:
        there = ", ".join(context.outputs) or "none"
        _refuse(f"step {step.step!r} takes {source}; the steps done before it are: {there}")
    return context.outputs[where]


def _refuse(message: str) -> NoReturn:
    raise Rejected(message)
