"""Checks of what a trial does: steps, their inputs with units and bounds, and what they measure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.config.lab import LabConfig
from orchestrator.config.messages import nearest
from orchestrator.config.schema import CampaignConfig
from orchestrator.config.source import Path_, Source
from orchestrator.config.step_checks import StepChecks
from orchestrator.config.steps import FixedInput, FromInput, StepConfig
from orchestrator.domain import TARGET, Capability, Description, Output, Parameter
from orchestrator.errors import ConfigError
from orchestrator.protocols import (
    Axis,
    BoxSpace,
    ColumnarSpace,
    FiniteSpace,
    HasParameterUnits,
    ProductSpace,
    SearchSpace,
)
from orchestrator.units import convert, same_dimension

STRUCTURE = "structure"
"""Name of a step's structure input, and of a candidate's structure."""

SPACE = "the space's"

CLOSE = 1e-9
"""Relative slack of bounds, for what a conversion of units adds."""


@dataclass(frozen=True)
class Offered:
    """What the space gives for one parameter.

    Args:
        unit: of `low` and `high`; None where the space does not say, which means the instrument's own.
        low: smallest value; NaN where it has names only.
        high: largest value.
        choices: names.
    """

    unit: str | None
    low: float
    high: float
    choices: frozenset[str] = frozenset()


def offered(space: SearchSpace) -> dict[str, Offered]:
    """List the parameters that candidates of a space carry, with their ranges."""
    if isinstance(space, BoxSpace):
        return {axis.name: _of_axis(axis) for axis in space.axes()}
    if isinstance(space, ProductSpace):
        return offered(space.materials()) | offered(space.settings())
    if isinstance(space, ColumnarSpace):
        return _of_ranges(space)
    found: dict[str, Offered] = {}
    if isinstance(space, FiniteSpace) and "parameters" in space.offers():
        units = space.parameter_units() if isinstance(space, HasParameterUnits) else {}
        values: dict[str, list[float | str]] = {}
        for candidate in space.candidates():
            for name, value in candidate.parameters.items():
                values.setdefault(name, []).append(value if isinstance(value, str) else float(value))
        for name, seen in values.items():
            numbers = [v for v in seen if not isinstance(v, str)]
            found[name] = Offered(
                unit=units.get(name),
                low=min(numbers, default=math.nan),
                high=max(numbers, default=math.nan),
                choices=frozenset(v for v in seen if isinstance(v, str)),
            )
    return found


def _of_ranges(space: ColumnarSpace) -> dict[str, Offered]:
    units = space.parameter_units() if isinstance(space, HasParameterUnits) else {}
    found = {}
    for name, seen in space.ranges().items():
        if isinstance(seen, frozenset):
            found[name] = Offered(None, math.nan, math.nan, seen)
        else:
            found[name] = Offered(units.get(name), *seen)
    return found


def _of_axis(axis: Axis) -> Offered:
    if axis.kind == "categorical":
        return Offered(None, math.nan, math.nan, frozenset(axis.choices))
    return Offered(axis.unit, axis.low, axis.high)


class ProcedureCheck:
    """Checks the procedure of one fidelity against its instruments and its space.

    Args:
        config: the campaign.
        lab: the site's instruments, for envelopes.
        descriptions: what each instrument can do.
        space: where candidates come from.
        source: the campaign file, for lines.
        fidelity: whose procedure is checked.
    """

    def __init__(
        self,
        config: CampaignConfig,
        lab: LabConfig,
        descriptions: Mapping[str, Description],
        space: SearchSpace,
        source: Source,
        *,
        fidelity: str = TARGET,
    ) -> None:
        self.config = config
        self.procedure = config.procedures[fidelity]
        self.at: Path_ = ("procedure",) if fidelity == TARGET else ("fidelities", fidelity, "procedure")
        self.lab = lab
        self.descriptions = descriptions
        self.space = space
        self.source = source
        self.parameters = offered(space)
        self.capabilities: dict[str, Capability] = {}
        self._used: set[str] = set()
        self._checks = StepChecks(self)

    def run(self) -> None:
        """Check every step, in order.

        Raises:
            ConfigError: the first thing that is wrong.
        """
        for i, step in enumerate(self.procedure):
            at: Path_ = (*self.at, i)
            capability = self._capability(step, at)
            self._structure_input(step, capability, at)
            self._inputs(step, capability, at)
            self._checks.check(step, capability, at)
            self.capabilities[step.step] = capability
        unused = sorted(set(self.parameters) - self._used)
        if self.procedure and unused and self.at == ("procedure",) and isinstance(self.space, BoxSpace):
            taken = [p.name for c in self.capabilities.values() for p in c.parameters]
            message = (
                f"no step uses the parameter {unused[0]!r} of the space; {nearest(unused[0], taken)}"
                " (or hand it to an input of a step: inputs: {NAME: {from: candidate." + unused[0] + "}})"
            )
            raise self.source.error(message, self._place(unused[0]), of_key=True)

    def measured(self) -> dict[str, Output]:
        """Return the numbers that the steps give, by property; a later step's wins."""
        return {o.name: o for c in self.capabilities.values() for o in c.outputs if o.kind == "number"}

    def _capability(self, step: StepConfig, at: Path_) -> Capability:
        description = self.descriptions[step.instrument]
        names = [c.name for c in description.capabilities]
        if step.capability is None and len(names) > 1:
            message = (
                f"instrument {step.instrument!r} can do {', '.join(names)}; add 'capability: {names[0]}' or another"
            )
            raise self.source.error(message, at)
        try:
            return description.capability(step.capability)
        except KeyError as error:
            message = f"instrument {step.instrument!r} has no capability {step.capability!r}; "
            raise self.source.error(message + nearest(step.capability, names), (*at, "capability")) from error

    def _structure_input(self, step: StepConfig, capability: Capability, at: Path_) -> None:
        given = step.inputs.get(STRUCTURE)
        if not capability.takes_structure:
            return
        if given is None and "structure" not in self.space.offers():
            message = (
                f"step {step.step!r} needs a structure, and the space {self.config.space.use!r} gives none; use a"
                " space of structures, or take one from an earlier step: inputs: {structure: {from: STEP.OUTPUT}}"
            )
            raise self.source.error(message, at)
        if isinstance(given, FixedInput):
            message = (
                "a structure cannot be written as a value; write {from: candidate.structure} or {from: STEP.OUTPUT}"
            )
            raise self.source.error(message, (*at, "inputs", STRUCTURE))
        if given is not None:
            self._taken(given, (*at, "inputs", STRUCTURE), structure=True)

    def _inputs(self, step: StepConfig, capability: Capability, at: Path_) -> None:
        by_name = {p.name: p for p in capability.parameters}
        for name, given in step.inputs.items():
            where = (*at, "inputs", name)
            if name == STRUCTURE and capability.takes_structure:
                continue
            if name not in by_name:
                message = f"{step.instrument}.{capability.name} takes no input {name!r}; {nearest(name, by_name)}"
                raise self.source.error(message, where, of_key=True)
            self._one_input(step, by_name[name], given, where)
        for parameter in capability.parameters:
            if parameter.name in step.inputs:
                continue
            if parameter.name in self.parameters:
                self._used.add(parameter.name)
                self._fits(step, parameter, self.parameters[parameter.name], self._place(parameter.name), SPACE)
            elif parameter.default is None:
                have = ", ".join(self.parameters) or "no parameters"
                message = (
                    f"step {step.step!r} lacks its input {parameter.name!r} ({parameter.unit}); the space gives {have}:"
                    f" name the parameter {parameter.name!r} there, or add inputs: {{{parameter.name}: {{value: …}}}}"
                )
                raise self.source.error(message, at)

    def _one_input(self, step: StepConfig, parameter: Parameter, given: FromInput | FixedInput, where: Path_) -> None:
        if isinstance(given, FixedInput):
            if isinstance(given.value, str):
                self._fits(
                    step, parameter, Offered(None, math.nan, math.nan, frozenset({given.value})), where, "the value of"
                )
            else:
                unit = None if given.unit == "dimensionless" and parameter.choices else given.unit
                self._fits(step, parameter, Offered(unit, given.value, given.value), where, "the value of")
            return
        if given.source == "candidate.composition" and "composition" in self.space.offers():
            return
        name, output = self._taken(given, where, structure=False)
        if output is not None:
            if parameter.choices:
                message = f"input {parameter.name!r} is one of {', '.join(parameter.choices)}; {name} is a number"
                raise self.source.error(message, where)
            if not same_dimension(output.unit, parameter.unit):
                message = (
                    f"{name} is given in {output.unit}, and {parameter.name!r} is taken in {parameter.unit}:"
                    " they measure different things"
                )
                raise self.source.error(message, where)
            return
        self._used.add(name)
        self._fits(step, parameter, self.parameters[name], self._place(name), SPACE)

    def _taken(self, given: FromInput, where: Path_, *, structure: bool) -> tuple[str, Output | None]:
        """Find what ``from`` names: a candidate's parameter, or the output of an earlier step."""
        at = (*where, "from")
        origin, _, name = given.source.partition(".")
        if origin == "candidate":
            self._from_candidate(name, at, structure=structure)
            return name, None
        return given.source, self.output_of(origin, name, at, kind="structure" if structure else "number")

    def output_of(self, step: str, name: str, at: Path_, *, kind: str = "number", what: str = "a step") -> Output:
        """Return an output of an earlier step.

        Args:
            step: name of the earlier step.
            name: of the output.
            at: where the file names it.
            kind: ``number`` or ``structure``.
            what: uses it, for the message.

        Raises:
            ConfigError: no earlier step gives it.
        """
        if step not in self.capabilities:
            if step in [s.step for s in self.procedure]:
                message = f"step {step!r} comes later (or is this one); {what} can use earlier ones only: reorder them"
            else:
                message = (
                    f"there is no step {step!r} before this one; {nearest(step, ['candidate', *self.capabilities])}"
                )
            raise self.source.error(message, at)
        outputs = {o.name: o for o in self.capabilities[step].outputs if o.kind == kind}
        if name not in outputs:
            message = f"step {step!r} gives no {kind} {name!r}; {nearest(name, outputs)}"
            raise self.source.error(message, at)
        return outputs[name]

    def use(self, parameter: str) -> None:
        """Note that a step looks at a parameter of the space."""
        self._used.add(parameter)

    def _from_candidate(self, name: str, at: Path_, *, structure: bool) -> None:
        if structure:
            if name != STRUCTURE or "structure" not in self.space.offers():
                message = (
                    f"candidates of {self.config.space.use!r} carry no structure named {name!r};"
                    " write candidate.structure, with a space of structures"
                )
                raise self.source.error(message, at)
        elif name not in self.parameters:
            message = (
                f"candidates of {self.config.space.use!r} have no parameter {name!r}; {nearest(name, self.parameters)}"
            )
            raise self.source.error(message, at)

    def _fits(self, step: StepConfig, parameter: Parameter, what: Offered, where: Path_, name: str) -> None:
        """Check that values fit a parameter: kind, dimension, the instrument's bounds and the lab's envelope."""
        if parameter.choices or what.choices:
            wrong = sorted(what.choices - set(parameter.choices))
            if wrong or not what.choices:
                got = repr(wrong[0]) if wrong else "numbers"
                message = f"{step.instrument} does not take {got} for {parameter.name!r}; "
                message += (
                    nearest(wrong[0] if wrong else "", parameter.choices)
                    if parameter.choices
                    else (f"a number in {parameter.unit} was expected")
                )
                raise self.source.error(message, where)
            return
        unit = what.unit if what.unit is not None else parameter.unit
        if not same_dimension(unit, parameter.unit):
            message = (
                f"{name} {parameter.name!r} is given in {unit}, and {step.instrument}.{parameter.name} is taken in"
                f" {parameter.unit}: they measure different things; correct the unit"
            )
            raise self.source.error(message, where)
        low, high = (convert(value, unit, parameter.unit) for value in (what.low, what.high))
        least, most, whose = self._bounds(step, parameter)
        slack = CLOSE * max(abs(x) for x in (low, high, 1e-300))
        if low < least - slack or high > most + slack:
            reach = f"is {low:g}" if low == high else f"reaches from {low:g} to {high:g}"
            message = (
                f"{name} {parameter.name!r} {reach} {parameter.unit}, and {step.instrument}.{parameter.name} takes"
                f" {least:g} to {most:g} {parameter.unit}{whose}; stay inside"
            )
            raise self.source.error(message, where)

    def _place(self, parameter: str) -> Path_:
        """Return where a parameter of the space stands in the file."""
        return self.source.find(("space",), parameter)

    def _bounds(self, step: StepConfig, parameter: Parameter) -> tuple[float, float, str]:
        least = -math.inf if parameter.low is None else parameter.low
        most = math.inf if parameter.high is None else parameter.high
        envelope = self.lab.bounds(step.instrument, parameter.name)
        if envelope is None:
            return least, most, ""
        tight = (
            max(least, -math.inf if envelope.min is None else envelope.min),
            min(most, math.inf if envelope.max is None else envelope.max),
        )
        return *tight, " (safety envelope of the lab file)" if tight != (least, most) else ""


def check_measured(
    config: CampaignConfig, measured: Mapping[str, tuple[str, str]], source: Source, fidelity: str = TARGET
) -> None:
    """Check that every objective and constraint is measured, in a unit of its dimension; below the target, one is.

    Args:
        config: the campaign.
        measured: property → its unit and who gives it.
        source: the campaign file.
        fidelity: whose procedure measures.

    Raises:
        ConfigError: a property is not measured, or the dimension is another.
    """
    wanted: list[tuple[str, str, Path_]] = [
        *((o.property, o.unit, ("objectives", i)) for i, o in enumerate(config.objectives)),
        *((c.property, c.unit, ("constraints", i)) for i, c in enumerate(config.constraints)),
    ]
    if fidelity != TARGET:
        below: Path_ = ("fidelities", fidelity, "procedure")
        if not any(name in measured for name, _, _ in wanted):
            names = ", ".join(dict.fromkeys(name for name, _, _ in wanted))
            message = f"fidelity {fidelity!r} measures none of {names}: nothing of the target could be learned from it"
            raise source.error(message, below)
        wanted = [(name, unit, below) for name, unit, _ in wanted if name in measured]
    for name, unit, at in wanted:
        if name not in measured:
            message = f"no step measures {name!r}, and nothing derives it; {nearest(name, measured)}"
            raise source.error(message, (*at, "property"))
        given, who = measured[name]
        if not same_dimension(given, unit):
            message = f"{name!r} is wanted in {unit}, and {who} gives it in {given}: they measure different things"
            raise source.error(message, (*at, "unit") if fidelity == TARGET else at)


def check_units_agree(config: CampaignConfig, source: Source) -> None:
    """Check that a property has one unit: that of its objective is the one that values are kept in."""
    units = {o.property: o.unit for o in config.objectives}
    for i, constraint in enumerate(config.constraints):
        unit = units.setdefault(constraint.property, constraint.unit)
        if unit != constraint.unit:
            message = (
                f"{constraint.property!r} has the unit {unit} elsewhere in the file; write the bound in {unit} too"
            )
            raise source.error(message, ("constraints", i, "unit"))


def instrument_use(
    config: CampaignConfig, lab: LabConfig, step: StepConfig, at: Path_, source: Source
) -> tuple[str, bool]:
    """Say which instrument a step, which stands at `at`, names, and whether it is the lab's.

    Raises:
        ConfigError: there is none of that name, or two.
    """
    name = step.instrument
    of_lab = name in lab.instruments or name in lab.kinds
    if name in config.instruments and of_lab:
        message = f"the lab file has an instrument {name!r} too; give the campaign's own another name"
        raise source.error(message, ("instruments", name), of_key=True)
    if name in config.instruments:
        return name, False
    if of_lab:
        return name, True
    known = [*config.instruments, *lab.instruments, *lab.kinds]
    hint = nearest(name, known) if known else "declare it under 'instruments', or in lab.yaml"
    message = f"there is no instrument {name!r}; {hint}"
    error: ConfigError = source.error(message, (*at, "instrument"))
    raise error
