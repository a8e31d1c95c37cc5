"""What a changed campaign file may change of a campaign that runs, and how the change is shown.

A recorded value keeps its meaning: what a property is, in which unit, and how it is measured stay as they were. The
rest (budget, stopping, space, instruments, surrogate, acquisition …) may be amended; each revision is kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator.config.schema import CampaignConfig, DerivedConfig
from orchestrator.config.source import Path_, Source, dotted, read_file
from orchestrator.config.steps import StepConfig

ABSENT = "absent"
OTHER_MEANING = "recorded values would mean something else"
ADVICE = "begin a new campaign under another name, and take these results in with 'initial: {use: table}'"


def differences(old: CampaignConfig, new: CampaignConfig) -> list[str]:
    """List what differs, defaults filled in.

    Args:
        old: what is stored.
        new: what the file says now.

    Returns:
        One line a difference, such as ``budget.trials: 40 → 80``; empty where there is none.
    """
    before, after = (dict(_leaves(config.snapshot(), ())) for config in (old, new))
    return [
        f"{dotted(path)}: {before.get(path, ABSENT)} → {after.get(path, ABSENT)}"
        for path in dict.fromkeys([*before, *after])
        if before.get(path, ABSENT) != after.get(path, ABSENT)
    ]


def refuse_amendment(old: CampaignConfig, new: CampaignConfig, *, file: str) -> None:
    """Refuse a change after which recorded values would mean something else.

    Args:
        old: what is stored.
        new: what the file says now.
        file: the changed file, for the line of the error.

    Raises:
        ConfigError: the name, the seed, an objective, a unit, a derivation or the procedure is another.
    """
    source = read_file(file) if file and Path(file).is_file() else Source(file=file)
    for path, before, after, why in _meaning_changes(old, new):
        message = f"was {before} and is now {after}: {why}; {ADVICE}"
        raise source.error(message, path)


def _meaning_changes(old: CampaignConfig, new: CampaignConfig) -> Iterator[tuple[Path_, object, object, str]]:
    """Find the changes that are refused: path, before, after, why."""
    for key in ("name", "seed"):
        if getattr(old, key) != getattr(new, key):
            yield (key,), getattr(old, key), getattr(new, key), "a campaign keeps it for life"
    objectives = {o.property: o for o in old.objectives}
    if set(objectives) != {o.property for o in new.objectives}:
        after = ", ".join(o.property for o in new.objectives)
        yield ("objectives",), ", ".join(objectives), after, "a campaign keeps its objectives"
        return
    for i, objective in enumerate(new.objectives):
        known = objectives[objective.property]
        for key in ("unit", "goal"):
            if getattr(known, key) != getattr(objective, key):
                yield ("objectives", i, key), getattr(known, key), getattr(objective, key), OTHER_MEANING
    yield from _other_units(old, new)
    derivations = {d.property: d for d in old.derived}
    for i, derived in enumerate(new.derived):
        was = derivations.get(derived.property, derived)
        if derived != was:
            yield ("derived", i), _shown(was), _shown(derived), OTHER_MEANING
    yield from _other_levels(old, new)
    if _steps(old.procedure) != _steps(new.procedure):
        before, after = (" → ".join(s.step for s in config.procedure) or "by hand" for config in (old, new))
        yield ("procedure",), before, after, "a trial would be another thing (steps, instruments or inputs changed)"


def _other_levels(old: CampaignConfig, new: CampaignConfig) -> Iterator[tuple[Path_, object, object, str]]:
    """Find what is refused of fidelities and earlier campaigns."""
    for name, before in old.fidelities.items():
        after = new.fidelities.get(name)
        if after is None:
            yield ("fidelities",), f"with {name!r}", "without it", "results of that fidelity may be recorded"
        elif _steps(before.procedure) != _steps(after.procedure):
            was, now = (" → ".join(s.step for s in one.procedure) or "by hand" for one in (before, after))
            yield ("fidelities", name, "procedure"), was, now, OTHER_MEANING
    if old.earlier != new.earlier:
        was, now = (
            ", ".join(f"{e.campaign} (weight {e.weight:g})" for e in one.earlier) or "none" for one in (old, new)
        )
        yield ("earlier",), was, now, "a campaign keeps what it started from"


def _steps(procedure: Sequence[StepConfig]) -> list[StepConfig]:
    """Return steps without what may change: their prices, and what they take of the lab's resources."""
    return [step.model_copy(update={"cost": None, "needs": {}}) for step in procedure]


def _other_units(old: CampaignConfig, new: CampaignConfig) -> Iterator[tuple[Path_, object, object, str]]:
    units = {c.property: c.unit for c in old.constraints} | {o.property: o.unit for o in old.objectives}
    for i, constraint in enumerate(new.constraints):
        unit = units.get(constraint.property, constraint.unit)
        if constraint.unit != unit:
            yield ("constraints", i, "unit"), unit, constraint.unit, OTHER_MEANING


def _shown(derived: DerivedConfig) -> str:
    return f"{derived.use} {derived.options} from {derived.source}"


def _leaves(content: Any, path: Path_) -> Iterator[tuple[Path_, Any]]:
    if isinstance(content, Mapping) and content:
        for key, value in content.items():
            yield from _leaves(value, (*path, key))
    elif isinstance(content, (list, tuple)) and content:
        for i, value in enumerate(content):
            yield from _leaves(value, (*path, i))
    else:
        yield path, content
