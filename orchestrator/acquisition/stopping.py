"""Rules that end a campaign. The budget and an exhausted space are no rules: the loop itself ends at them."""

from __future__ import annotations

from typing import ClassVar, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from orchestrator.acquisition.gains import feasible, utilities
from orchestrator.domain import Labels, Problem
from orchestrator.errors import ConfigError
from orchestrator.protocols import CampaignView, Options

Booleans = npt.NDArray[np.bool_]


class NoImprovementOptions(Options):
    """Options of `NoImprovement`: `probability`, `trials`, or both.

    Args:
        probability: stop when the probability that some open candidate is better than the best (by more than the
            acquisition's `epsilon`) stays below this.
        decisions: for so many decisions in a row. Standard deviations that are too small by a factor of two stop a
            campaign early; asking more than once guards against it.
        trials: stop when so many trials in a row brought no improvement.
        epsilon: improvements up to this, in the objective's unit, do not count for `trials`.
    """

    probability: float | None = Field(default=None, gt=0.0, lt=1.0)
    decisions: int = Field(default=3, ge=1)
    trials: int | None = Field(default=None, ge=1)
    epsilon: float = Field(default=0.0, ge=0.0)

    @model_validator(mode="after")
    def _some_rule(self) -> Self:
        if self.probability is None and self.trials is None:
            message = "give 'probability', 'trials' or both"
            raise ValueError(message)
        return self


class NoImprovement:
    """Stop when nothing better is to be expected, or when nothing better came for long.

    Args:
        options: see `NoImprovementOptions`.
    """

    Options: ClassVar[type[Options]] = NoImprovementOptions

    def __init__(self, options: NoImprovementOptions) -> None:
        self.options = options

    def reason(self, view: CampaignView) -> str | None:
        """Return one sentence for people, or None to go on."""
        return self._by_probability(view) or self._by_trials(view)

    def _by_probability(self, view: CampaignView) -> str | None:
        wanted, times = self.options.probability, self.options.decisions
        if wanted is None:
            return None
        known = [summary.probability_best for summary in view.summaries[-times:]]
        chances = [1.0 - value for value in known if value is not None]
        if len(chances) < times or max(chances) >= wanted:
            return None
        return (
            f"the probability that an open candidate is better than the best was below {wanted:g} in the last {times}"
            f" decisions (largest: {max(chances):.2g})"
        )

    def _by_trials(self, view: CampaignView) -> str | None:
        wanted = self.options.trials
        numbers = view.dataset.trials
        if wanted is None or len(numbers) <= wanted or view.problem.learns_only:
            return None
        last = set(numbers[-wanted:])
        labels = view.dataset.labels(view.problem.properties)
        late = np.array([trial in last for trial in labels.trials], dtype=bool)
        if _improved(labels, late, view.problem, self.options.epsilon):
            return None
        return f"the last {wanted} trials brought no improvement"


class TargetReachedOptions(Options):
    """Options of `TargetReached`.

    Args:
        value: stop when a feasible measured value is at least as good as this; for ``goal: target``, when it is at
            most this far from the target, and for ``goal: window`` at most this far outside it: 0 is inside.
        property: the objective meant; the first where not given.
        count: so many different candidates must reach it.
    """

    value: float
    property: str | None = None
    count: int = Field(default=1, ge=1)


class TargetReached:
    """Stop when the wanted value was measured.

    Args:
        options: see `TargetReachedOptions`.
    """

    Options: ClassVar[type[Options]] = TargetReachedOptions

    def __init__(self, options: TargetReachedOptions) -> None:
        self.options = options

    def reason(self, view: CampaignView) -> str | None:
        """Return one sentence for people, or None to go on.

        Raises:
            ConfigError: the property is no objective of the campaign.
        """
        objectives = {o.property: o for o in view.problem.objectives}
        name = self.options.property or view.problem.objectives[0].property
        if name not in objectives:
            message = (
                f"the stopping rule target_reached names the property {name!r}, which is no objective; the objectives"
                f" are: {', '.join(objectives)}"
            )
            raise ConfigError(message, key="stop")
        objective = objectives[name]
        labels = view.dataset.labels(view.problem.properties)
        values = labels.values[:, view.problem.properties.index(name)]
        if objective.goal == "learn":
            message = (
                f"the stopping rule target_reached names {name!r}, which has the goal 'learn': no value is a target"
            )
            raise ConfigError(message, key="stop")
        distance = objective.goal in {"target", "window"}
        wanted = -self.options.value if distance else _utility(self.options.value, objective.goal)
        with np.errstate(invalid="ignore"):
            good = (objective.utility(values) >= wanted) & feasible(labels.values, view.problem)
        reached = {
            labels.candidates[i].id: (labels.candidates[i].label, float(values[i])) for i in np.flatnonzero(good)
        }
        if len(reached) < self.options.count:
            return None
        label, value = next(iter(reached.values()))
        more = f" (and {len(reached) - 1} more)" if len(reached) > 1 else ""
        return f"the target was reached: {label} has {name} {value:g} {objective.unit}{more}"


def _utility(value: float, goal: str) -> float:
    return value if goal == "maximize" else -value


def _improved(labels: Labels, late: Booleans, problem: Problem, epsilon: float) -> bool:
    """Say whether a late trial is better than all early ones; with several objectives, whether none dominates it."""
    reached = utilities(labels.values, problem)
    good = np.isfinite(reached).all(axis=1) & feasible(labels.values, problem)
    early, new = reached[good & ~late], reached[good & late]
    if not len(new):
        return False
    if not len(early):
        return True
    behind: Booleans = np.all(early[None, :, :] + epsilon >= new[:, None, :], axis=-1)
    return not bool(behind.any(axis=1).all())
