"""Whether a step is to be done: its conditions on the candidate and on what earlier steps gave."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from operator import ge, gt, le, lt

from orchestrator.config.steps import Condition, StepConfig
from orchestrator.domain import Value
from orchestrator.execution.inputs import CANDIDATE, Context
from orchestrator.units import convert, shown

COMPARE: Mapping[str, tuple[Callable[[float, float], bool], str]] = {
    "above": (gt, "above"),
    "below": (lt, "below"),
    "at_least": (ge, "at least"),
    "at_most": (le, "at most"),
}
CLOSE = 1e-9
"""Relative difference up to which two numbers are equal: what a conversion of units adds."""


def unmet(step: StepConfig, context: Context) -> str:
    """Say why a step is to be skipped.

    A condition on an output that is not there, because its step was skipped or its value cannot be trusted, does not
    hold.

    Args:
        step: from the procedure.
        context: candidate and outputs of the trial's earlier steps.

    Returns:
        The condition that does not hold, and what was seen; empty where all hold.
    """
    for condition in step.when:
        why = _fails(condition, context)
        if why:
            return f"step {step.step!r} is skipped: {why}"
    return ""


def _fails(condition: Condition, context: Context) -> str:
    found = _seen(condition.source, context)
    if found is None:
        return f"{condition.source} is not there, and the condition is on it"
    value, unit = found
    if isinstance(value, str):
        if value == condition.equals:
            return ""
        wanted = f"{condition.equals!r} is" if condition.equals is not None else "a number is"
        return f"{condition.source} is {value!r}, and {wanted} wanted"
    seen = convert(float(value), unit, condition.unit) if unit and condition.unit else float(value)
    wanted = _wanted(condition, seen)
    told = f"{condition.source} is {seen:.6g} {shown(condition.unit or unit)}".rstrip()
    return f"{told}, and {wanted} is wanted" if wanted else ""


def _wanted(condition: Condition, seen: float) -> str:
    """Return in words the bound that a number misses; empty where it misses none."""
    for key, bound in condition.bounds.items():
        holds, words = COMPARE[key]
        if not holds(seen, bound):
            return f"{words} {bound:g}"
    if isinstance(condition.equals, str):
        return repr(condition.equals)
    if condition.equals is not None and abs(seen - condition.equals) > CLOSE * max(abs(seen), abs(condition.equals)):
        return f"{condition.equals:g}"
    return ""


def _seen(source: str, context: Context) -> tuple[Value, str] | None:
    """Return a value and its unit, which is empty where nobody says it."""
    where, _, what = source.partition(".")
    if where == CANDIDATE:
        value = context.candidate.parameters.get(what)
        if value is None and what == "composition":
            value = context.candidate.composition
        return None if value is None else (value, context.units.get(what, ""))
    output = context.outputs.get(where)
    return None if output is None or what not in output.numbers else output.numbers[what]
