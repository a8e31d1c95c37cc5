"""Checks of what a step says besides its inputs: conditions, repeats, waits, needs and samples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from orchestrator.config.messages import nearest
from orchestrator.config.source import Path_
from orchestrator.config.steps import Condition, SampleConfig, StepConfig
from orchestrator.domain import Capability
from orchestrator.units import convert, same_dimension

if TYPE_CHECKING:
    from orchestrator.config.procedure import Offered, ProcedureCheck

CANDIDATE = "candidate"
FIRST = "the trial's own"
"""How people call the sample that a trial begins with."""


class StepChecks:
    """Checks the steps of one procedure, in order.

    Args:
        procedure: the check that goes through the steps; it knows what came before.
    """

    def __init__(self, procedure: ProcedureCheck) -> None:
        self.of = procedure
        self._samples: dict[str, str] = {}
        """Samples made so far, and the step after which each is gone; empty while it is there."""
        self._at_hand: tuple[str, ...] = ("",)

    def check(self, step: StepConfig, capability: Capability, at: Path_) -> None:
        """Check one step; the ones before it have been checked.

        Raises:
            ConfigError: the first thing that is wrong.
        """
        single = not isinstance(_written(self.of.source.data, (*at, "when")), list)
        for j, condition in enumerate(step.when):
            where = (*at, "when") if single else (*at, "when", j)
            self._condition(step, condition, where)
        self._repeat(step, capability, at)
        self._wait(step, at)
        for name in step.needs:
            self._need(step, name, (*at, "needs", name))
        self._sample(step, at)

    def _condition(self, step: StepConfig, condition: Condition, where: Path_) -> None:
        origin, _, name = condition.source.partition(".")
        if origin == CANDIDATE:
            self._of_candidate(condition, name, where)
            return
        given = self.of.output_of(origin, name, (*where, "from"), what=f"the condition of step {step.step!r}")
        if isinstance(condition.equals, str):
            message = f"{condition.source} is a number; 'equals' gives the name {condition.equals!r}"
            raise self.of.source.error(message, (*where, "equals"))
        self._unit(condition, given.unit, where)

    def _of_candidate(self, condition: Condition, name: str, where: Path_) -> None:
        if name == "composition" and "composition" in self.of.space.offers():
            return
        parameters: Mapping[str, Offered] = self.of.parameters
        if name not in parameters:
            message = (
                f"candidates of {self.of.config.space.use!r} have no parameter {name!r}; {nearest(name, parameters)}"
            )
            raise self.of.source.error(message, (*where, "from"))
        self.of.use(name)
        seen = parameters[name]
        if isinstance(condition.equals, str) and condition.equals not in seen.choices:
            message = f"{name!r} is never {condition.equals!r}; {nearest(condition.equals, sorted(seen.choices))}"
            raise self.of.source.error(message, (*where, "equals"))
        if condition.bounds and seen.choices:
            message = f"{name!r} is a name ({', '.join(sorted(seen.choices))}); compare it with 'equals'"
            raise self.of.source.error(message, where)
        if seen.unit is not None and not seen.choices:
            self._unit(condition, seen.unit, where)

    def _unit(self, condition: Condition, unit: str, where: Path_) -> None:
        if condition.unit is not None and not same_dimension(condition.unit, unit):
            message = f"{condition.source} is given in {unit}, and is compared in {condition.unit}: correct the unit"
            raise self.of.source.error(message, (*where, "unit"))

    def _repeat(self, step: StepConfig, capability: Capability, at: Path_) -> None:
        if step.repeat == 1:
            return
        structures = [output.name for output in capability.outputs if output.kind == "structure"]
        if structures:
            message = (
                f"step {step.step!r} gives the structure {structures[0]!r}, and structures have no mean; repeat only"
                " steps that give numbers"
            )
            raise self.of.source.error(message, (*at, "repeat"))
        if step.sample is not None and (step.sample.makes or step.sample.splits or step.sample.uses_up):
            message = f"step {step.step!r} makes or uses up a sample, which cannot be done {step.repeat} times"
            raise self.of.source.error(message, (*at, "repeat"))

    def _wait(self, step: StepConfig, at: Path_) -> None:
        last = self.of.procedure and self.of.procedure[-1].step == step.step
        if step.wait is not None and step.wait.total_s == 0:
            message = "a wait needs 'hours', 'minutes' or 'seconds' above 0"
            raise self.of.source.error(message, (*at, "wait"))
        if step.wait is not None and last and step.repeat == 1:
            message = f"step {step.step!r} is the last one: there is nothing to wait for; remove the wait"
            raise self.of.source.error(message, (*at, "wait"))

    def _need(self, step: StepConfig, name: str, where: Path_) -> None:
        resources = self.of.lab.resources
        if name not in resources:
            hint = nearest(name, resources) if resources else "declare it in lab.yaml under 'resources'"
            message = f"there is no resource {name!r} in the lab; {hint}"
            raise self.of.source.error(message, where, of_key=True)
        need, there = step.needs[name], resources[name]
        if not same_dimension(need.unit, there.unit):
            message = (
                f"{name!r} is counted in {there.unit}, and {need.amount:g} {need.unit} are needed: correct the unit"
            )
            raise self.of.source.error(message, where)
        amount = convert(need.amount, need.unit, there.unit)
        if there.places is not None and (amount > there.places or amount != round(amount)):
            message = f"{amount:g} places of {name!r} are needed; give a whole number up to {there.places}"
            raise self.of.source.error(message, where)
        if there.capacity is not None and amount > there.capacity:
            message = f"{amount:g} {there.unit} of {name!r} are needed, and at most {there.capacity:g} fit in"
            raise self.of.source.error(message, where)

    def _sample(self, step: StepConfig, at: Path_) -> None:
        sample, where = step.sample, (*at, "sample")
        if sample is None:
            return
        if sample.at is not None:
            self._place(sample.at, (*where, "at"))
        first = not self._samples and self._at_hand == ("",)
        taken = sample.takes or (() if first and sample.makes else self._at_hand)
        for name in taken:
            self._there(step, name, where)
        for name in (*([sample.makes] if sample.makes else []), *sample.splits):
            if name in self._samples:
                message = f"the sample {name!r} was made by an earlier step already; give this one another name"
                raise self.of.source.error(message, where)
            self._samples[name] = ""
        if sample.uses_up or sample.discards:
            self._samples.update(dict.fromkeys(taken, step.step))
        self._at_hand = self._left(sample)

    def _left(self, sample: SampleConfig) -> tuple[str, ...]:
        return (sample.makes,) if sample.makes else sample.splits or sample.takes or self._at_hand

    def _there(self, step: StepConfig, name: str, where: Path_) -> None:
        if name and name not in self._samples:
            message = f"step {step.step!r} takes the sample {name!r}, which no step before it makes; "
            raise self.of.source.error(message + nearest(name, self._samples), (*where, "takes"))
        if self._samples.get(name):
            message = (
                f"step {step.step!r} takes the sample {name or FIRST!r}, which step {self._samples[name]!r} has used up"
                " or thrown away; take another one, or write 'spends: false' there"
            )
            raise self.of.source.error(message, (*where, "takes"))

    def _place(self, name: str, where: Path_) -> None:
        places = [one for one, config in self.of.lab.resources.items() if config.places is not None]
        if name not in places:
            hint = nearest(name, places) if places else "declare it in lab.yaml: resources: {" + name + ": {places: …}}"
            message = f"there is no resource with places {name!r} in the lab; {hint}"
            raise self.of.source.error(message, where)


def _written(content: object, path: Path_) -> object:
    """Return what the file says at a path; None where it says nothing."""
    for part in path:
        if isinstance(content, dict):
            content = content.get(part)
        elif isinstance(content, list) and isinstance(part, int) and part < len(content):
            content = content[part]
        else:
            return None
    return content
