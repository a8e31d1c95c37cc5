"""What a campaign file says, in a few lines for people."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orchestrator.config.check import Checked
    from orchestrator.config.read import Loaded
    from orchestrator.protocols import SearchSpace


WORTH_SAYING_S = 0.1
"""A choice that takes less is not spoken of."""


def summary(loaded: Loaded, checked: Checked) -> list[str]:
    """Say in a few lines what a campaign would do.

    Args:
        loaded: the file.
        checked: what the checks built.

    Returns:
        Lines for people.
    """
    config = loaded.config
    objectives = ", ".join(f"{o.goal} {o.property} ({o.unit})" for o in config.objectives)
    steps = (
        " → ".join(f"{_times(s.step, s.repeat)} ({s.instrument})" for s in config.procedure)
        or "measured by hand, with ask and tell"
    )
    surrogate = config.surrogate.use if config.surrogate else "the default for this space"
    caps = [
        f"{config.budget.trials} trials" if config.budget.trials else "",
        f"{config.budget.hours:g} h" if config.budget.hours else "",
        f"cost {config.budget.cost:g}" if config.budget.cost else "",
    ]
    lines = [
        f"objective:  {objectives}",
        f"space:      {config.space.use}, {_extent(checked.space)}",
        f"procedure:  {steps}",
        f"learning:   {surrogate}, {config.acquisition.use}, {config.parallel} in flight"
        + (f", {config.queue} planned ahead" if config.queue else ""),
        f"budget:     {', '.join(cap for cap in caps if cap)}",
    ]
    if config.stop:
        lines.append(f"stop:       {', '.join(rule.use for rule in config.stop)}")
    return lines


def _extent(space: SearchSpace) -> str:
    from orchestrator.protocols import (  # noqa: PLC0415  not needed by --help
        BoxSpace,
        ColumnarSpace,
        FiniteSpace,
        ProductSpace,
    )

    if isinstance(space, ColumnarSpace):
        estimate: Any = space.summary().get("estimate", {})
        noticed = estimate.get("choosing_s", 0.0) >= WORTH_SAYING_S
        costs = f" ({estimate['memory_mb']:g} MB; a choice about {estimate['choosing_s']:g} s)" if noticed else ""
        return f"{space.count():,} candidates{costs}"
    if isinstance(space, ProductSpace):
        axes = ", ".join(axis.name for axis in space.settings().axes())
        return f"{len(space.materials().candidates())} materials under {axes}"
    if isinstance(space, FiniteSpace):
        return f"{len(space.candidates())} candidates"
    if isinstance(space, BoxSpace):
        return ", ".join(axis.name for axis in space.axes())
    return "candidates without end"


def _times(step: str, repeat: int) -> str:
    return step if repeat == 1 else f"{step} ×{repeat}"
