"""Checks of what a lab file says of safety: every name leads somewhere, and members of a kind can do the same."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from typing import TypeVar

from orchestrator.config.lab import LabConfig
from orchestrator.config.messages import nearest
from orchestrator.config.source import Path_, Source
from orchestrator.config.steps import FixedInput
from orchestrator.domain import Capability, Description, Parameter
from orchestrator.units import same_dimension

T = TypeVar("T")
Describe = Callable[[str], Description]
"""Builds an instrument of the lab file and asks it what it can do."""


def readers(lab: LabConfig, used: Iterable[str]) -> list[str]:
    """List the instruments that the interlocks of used ones read.

    Args:
        lab: with kinds and interlocks.
        used: instruments and kinds that steps name.
    """
    names = {one for name in used for one in (name, *lab.members(name))}
    found = [one for one in lab.interlocks if names & {target.partition(".")[0] for target in one.before}]
    return list(dict.fromkeys(one.read.instrument for one in found))


class LabCheck:
    """Checks a lab file against its instruments.

    Args:
        lab: the lab file.
        source: for lines.
        describe: asks an instrument of the lab file what it can do.
        own: instruments of the campaign file, which interlocks cannot concern.
    """

    def __init__(self, lab: LabConfig, source: Source, describe: Describe, own: Collection[str] = ()) -> None:
        self.lab = lab
        self.source = source
        self._describe = describe
        self._known: dict[str, Description] = {}
        self._own = own

    def describe(self, name: str) -> Description:
        """Return what an instrument or a kind can do; of a kind what every member can, within the tightest bounds.

        Raises:
            ConfigError: members of a kind cannot do the same.
        """
        members = self.lab.members(name)
        found = [self._one(member) for member in members]
        if name not in self.lab.kinds:
            return found[0]
        merged = found[0]
        for i, (member, other) in enumerate(zip(members[1:], found[1:], strict=True), 1):
            reason = _differs(found[0], other)
            if reason:
                message = f"{member} cannot stand in for {members[0]}: {reason}; members of a kind can do the same"
                raise self.source.error(message, ("kinds", name, i))
            merged = _tightest(merged, other)
        return merged

    def names(self) -> None:
        """Check that every name in the file leads to an instrument or a kind.

        Raises:
            ConfigError: the first that does not.
        """
        there = [*self.lab.instruments]
        for kind, members in self.lab.kinds.items():
            if kind in self.lab.instruments:
                message = f"{kind!r} is an instrument already; give the kind another name"
                raise self.source.error(message, ("kinds", kind), of_key=True)
            for i, member in enumerate(members):
                self._named(member, there, ("kinds", kind, i))
        wide = [*there, *self.lab.kinds]
        for i, interlock in enumerate(self.lab.interlocks):
            for j, target in enumerate(interlock.before):
                self._named(target.partition(".")[0], wide, ("interlocks", i, "before", j))
            self._named(interlock.read.instrument, there, ("interlocks", i, "read", "instrument"))
        for i, approval in enumerate(self.lab.approvals):
            self._named(approval.instrument, wide, ("approvals", i, "instrument"))
        for i, line in enumerate(self.lab.failures):
            if line.instrument is not None:
                self._named(line.instrument, [*wide, *self._own], ("failures", i, "instrument"))

    def used(self, names: Collection[str]) -> dict[str, Description]:
        """Check what the file says of instruments that a campaign uses, and of those that their interlocks read.

        Args:
            names: instruments and kinds that steps name.

        Returns:
            What the instruments can do that interlocks read.

        Raises:
            ConfigError: the first thing that is wrong.
        """
        members = [one for name in names for one in self.lab.members(name) if one in self.lab.instruments]
        for name in dict.fromkeys(members):
            self._entry(name, self._one(name))
        about = {*names, *members}
        for i, interlock in enumerate(self.lab.interlocks):
            if about & {target.partition(".")[0] for target in interlock.before}:
                self._interlock(i)
        for i, approval in enumerate(self.lab.approvals):
            if approval.instrument in about:
                at: Path_ = ("approvals", i)
                description = self.describe(approval.instrument)
                parameters = {
                    p.name: p
                    for c in description.capabilities
                    if approval.capability in {None, c.name}
                    for p in c.parameters
                }
                parameter = self._have(approval.parameter, parameters, (*at, "parameter"))
                self._unit(approval.unit, parameter.unit, (*at, "unit"))
        return {name: self._one(name) for name in readers(self.lab, names)}

    # --- parts ----------------------------------------------------------------------------------------------------

    def _one(self, name: str) -> Description:
        if name not in self._known:
            self._known[name] = self._describe(name)
        return self._known[name]

    def _entry(self, name: str, description: Description) -> None:
        entry, at = self.lab.instruments[name], ("instruments", name)
        outputs = {o.name: o for c in description.capabilities for o in c.outputs if o.kind == "number"}
        for i, output in enumerate(entry.alarms.saturation):
            self._have(output, outputs, (*at, "alarms", "saturation", i))
        reference = entry.reference
        if reference is None:
            return
        where: Path_ = (*at, "reference")
        capability = self._capability(name, description, reference.capability, where)
        given = {o.name: o for o in capability.outputs if o.kind == "number"}
        output_there = self._have(reference.output, given, (*where, "output"))
        self._unit(reference.unit, output_there.unit, (*where, "unit"))
        self._settings(name, capability, reference.settings, where)

    def _interlock(self, i: int) -> None:
        interlock, at = self.lab.interlocks[i], ("interlocks", i)
        read = interlock.read
        description = self._one(read.instrument)
        capability = self._capability(read.instrument, description, read.capability, (*at, "read"))
        self._have(interlock.output, {o.name: o for o in capability.outputs if o.kind == "number"}, (*at, "output"))
        self._settings(read.instrument, capability, read.settings, (*at, "read"))
        for j, target in enumerate(interlock.before):
            name, _, wanted = target.partition(".")
            if wanted:
                names = [c.name for c in self.describe(name).capabilities]
                if wanted not in names:
                    message = f"{name} cannot do {wanted!r}; {nearest(wanted, names)}"
                    raise self.source.error(message, (*at, "before", j))

    def _capability(self, name: str, description: Description, wanted: str | None, at: Path_) -> Capability:
        try:
            return description.capability(wanted)
        except KeyError as error:
            message = f"{name} has {error.args[0]}"
            raise self.source.error(message, (*at, "capability") if wanted else at) from error

    def _settings(self, name: str, capability: Capability, given: Mapping[str, FixedInput], at: Path_) -> None:
        parameters = {p.name: p for p in capability.parameters}
        for one, value in given.items():
            parameter = self._have(one, parameters, (*at, "settings", one), of_key=True)
            if not isinstance(value.value, str):
                self._unit(value.unit, parameter.unit, (*at, "settings", one))
        for parameter in capability.parameters:
            if parameter.name not in given and parameter.default is None:
                message = f"{name}.{capability.name} needs {parameter.name!r}, in {parameter.unit}; give it in settings"
                raise self.source.error(message, at)

    def _named(self, name: str, known: Collection[str], at: Path_) -> None:
        if name not in known:
            message = f"there is no instrument {name!r} in the lab; {nearest(name, known)}"
            raise self.source.error(message, at)

    def _have(self, name: str, there: Mapping[str, T], at: Path_, *, of_key: bool = False) -> T:
        if name not in there:
            message = f"there is no {name!r}; {nearest(name, there)}"
            raise self.source.error(message, at, of_key=of_key)
        return there[name]

    def _unit(self, unit: str, declared: str, at: Path_) -> None:
        if not same_dimension(unit, declared):
            message = f"the unit {unit} does not go with {declared}, which the instrument declares: write one that does"
            raise self.source.error(message, at)


def _differs(first: Description, other: Description) -> str:
    """Say what one instrument can that another cannot; empty where both can do the same."""
    for capability in first.capabilities:
        try:
            same = other.capability(capability.name)
        except KeyError:
            return f"it has no capability {capability.name!r}"
        mine, theirs = ({(o.name, o.kind, o.unit) for o in c.outputs} for c in (capability, same))
        if mine != theirs:
            return f"{capability.name} gives other outputs: {sorted(name for name, *_ in mine ^ theirs)}"
        ours, their = ({(p.name, p.unit, p.choices) for p in c.parameters} for c in (capability, same))
        if ours != their:
            return f"{capability.name} takes other parameters: {sorted({name for name, *_ in ours ^ their})}"
    return ""


def _tightest(first: Description, other: Description) -> Description:
    capabilities = []
    for capability in first.capabilities:
        theirs = {p.name: p for p in other.capability(capability.name).parameters}
        parameters = tuple(_between(p, theirs[p.name]) for p in capability.parameters)
        capabilities.append(replace(capability, parameters=parameters))
    return replace(first, capabilities=tuple(capabilities), slots=first.slots + other.slots)


def _between(one: Parameter, other: Parameter) -> Parameter:
    lows = [p.low for p in (one, other) if p.low is not None]
    highs = [p.high for p in (one, other) if p.high is not None]
    return replace(one, low=max(lows, default=None), high=min(highs, default=None))
