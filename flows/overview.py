"""How a campaign stands: one reading of the store, for the terminal and for the Prefect page."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from orchestrator import prospective
from orchestrator.config.schema import CampaignConfig
from orchestrator.execution.answers import Question, questions
from orchestrator.pareto import growth
from orchestrator.ranking import Best, rank
from orchestrator.record.queue import is_withdrawn
from orchestrator.record.states import TrialState

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from orchestrator.domain import Objective, Problem
    from orchestrator.prospective import Judged
    from orchestrator.record.store import CampaignStore
    from orchestrator.record.views import CampaignInfo, DecisionInfo, FitInfo, TrialInfo


@dataclass(frozen=True)
class Overview:
    """One campaign at one moment.

    Args:
        info: the campaign's row.
        problem: what is pursued.
        trials: all of them, by number.
        ranked: measured ones, best first.
        decision: the last one.
        decisions: how many there are.
        fits: all of them, the last one last.
        questions: what people are asked.
        judged: the campaign's own predictions beside what came of them, by property.
        hypervolume: dominated by what is measured, with several objectives.
    """

    info: CampaignInfo
    problem: Problem
    trials: tuple[TrialInfo, ...]
    ranked: tuple[Best, ...]
    decision: DecisionInfo | None
    decisions: int
    fits: tuple[FitInfo, ...]
    questions: tuple[Question, ...]
    judged: Mapping[str, Judged]
    hypervolume: float | None = None

    @classmethod
    def of(cls, store: CampaignStore, name: str) -> Overview:
        """Read a campaign from the store; its plug-ins are not needed."""
        info = store.campaign(name)
        problem = CampaignConfig.model_validate(dict(info.config)).problem()
        trials = tuple(store.trials(name))
        decisions, fits = store.decisions(name), tuple(store.fits(name))
        dataset = store.dataset(name, units=problem.units)
        ranked = tuple(rank(problem, dataset, trials))
        return cls(
            info=info,
            problem=problem,
            trials=trials,
            ranked=ranked,
            hypervolume=dominated(problem, ranked),
            decision=decisions[-1] if decisions else None,
            decisions=len(decisions),
            fits=fits,
            questions=tuple(questions(store, name)),
            judged=prospective.gather(trials, dataset, decisions, fits, problem.properties),
        )

    @cached_property
    def trust(self) -> list[str]:
        """How the predictions fared on what came, one line a property."""
        return [prospective.line(name, prospective.summary(one)) for name, one in self.judged.items()]

    @cached_property
    def alarms(self) -> list[str]:
        """What is wrong with the newest predictions."""
        units = self.problem.units
        return [alarm.text for name, one in self.judged.items() for alarm in prospective.alarms(one, units[name])]

    @property
    def counts(self) -> Counter[TrialState]:
        """Number of trials in each state; those that were withdrawn from the queue are no trials any more."""
        return Counter(trial.state for trial in self.trials if not is_withdrawn(trial.reason))

    @property
    def withdrawn(self) -> int:
        """Number of planned trials that gave way to better ones before they began."""
        return sum(is_withdrawn(trial.reason) for trial in self.trials)

    @property
    def front(self) -> tuple[Best, ...]:
        """The candidates that nothing dominates, with several objectives; empty with one."""
        return tuple(best for best in self.ranked if best.on_front) if self.hypervolume is not None else ()

    @property
    def in_flight(self) -> tuple[TrialInfo, ...]:
        """Trials that run now."""
        return tuple(trial for trial in self.trials if trial.state is TrialState.RUNNING)

    @property
    def waiting(self) -> tuple[TrialInfo, ...]:
        """Trials that are planned and not begun."""
        return tuple(trial for trial in self.trials if trial.state is TrialState.PLANNED)

    @property
    def fraction(self) -> float | None:
        """The share of the budget that is used, by the cap that is nearest; None where nothing caps."""
        budget, spent = self.problem.budget, self.info.spent
        shares = [
            used / cap
            for used, cap in ((spent.trials, budget.trials), (spent.hours, budget.hours), (spent.cost, budget.cost))
            if cap
        ]
        return min(1.0, max(shares)) if shares else None

    def budget(self) -> str:
        """Write what is used of the budget."""
        budget, spent = self.problem.budget, self.info.spent
        parts = [f"{spent.trials} of {budget.trials} trials" if budget.trials else f"{spent.trials} trials"]
        if budget.hours:
            parts.append(f"{spent.hours:.2f} of {budget.hours:g} h")
        if budget.cost:
            parts.append(f"{spent.cost:g} of {budget.cost:g} cost units")
        return ", ".join(parts)

    def goals(self) -> str:
        """Write what is pursued."""
        objectives = [_goal(o) for o in self.problem.objectives]
        constraints = [
            f"{c.property} " + " and ".join(bound for bound in (_bound("≥", c.low), _bound("≤", c.high)) if bound)
            for c in self.problem.constraints
        ]
        return "; ".join(objectives) + (f"; with {', '.join(constraints)}" if constraints else "")

    def best_value(self) -> str:
        """Write the best value of each objective's property at the leading candidate, or a dash."""
        if not self.ranked or not self.ranked[0].feasible or self.problem.learns_only:
            return "–"
        best = self.ranked[0]
        return ", ".join(
            f"{number(best.values[o.property])} {o.unit}".replace(" dimensionless", "") for o in self.problem.objectives
        )


def dominated(problem: Problem, ranked: Sequence[Best]) -> float | None:
    """Return the hypervolume that measured candidates dominate; None with less than two objectives to pursue.

    Args:
        problem: objectives and constraints.
        ranked: measured candidates.
    """
    import numpy as np  # noqa: PLC0415  not needed by --help

    pursued = [o for o in problem.objectives if o.goal != "learn"]
    reached = [b.values for b in ranked if b.feasible]
    if len(pursued) < 2 or not reached:  # noqa: PLR2004  one objective has no front
        return None
    columns = [o.utility(np.array([values[o.property] for values in reached], dtype=np.float64)) for o in pursued]
    return float(growth(np.stack(columns, axis=1), [True] * len(reached))[-1])


def _goal(objective: Objective) -> str:
    name = f"{objective.property} ({objective.unit})"
    if objective.window is not None:
        return f"bring {name} into {objective.window[0]:g} to {objective.window[1]:g}"
    return f"{objective.goal} {name}" + (f" → {objective.target:g}" if objective.target is not None else "")


def number(value: float | None, digits: int = 4) -> str:
    """Write a number for people; a dash where there is none."""
    return "–" if value is None else f"{value:.{digits}g}"


def ago(micros: int, now: float | None = None) -> str:
    """Write how long ago a moment was.

    Args:
        micros: UTC in microseconds.
        now: UTC in seconds; default now.
    """
    seconds = max(0.0, (time.time() if now is None else now) - micros / 1e6)
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"


def _bound(sign: str, value: float | None) -> str:
    return "" if value is None else f"{sign} {value:g}"
