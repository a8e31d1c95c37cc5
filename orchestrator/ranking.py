"""Which measured candidates are the best so far."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchestrator.domain import Dataset, Problem
from orchestrator.record.views import TrialInfo


@dataclass(frozen=True)
class Best:
    """One of the best candidates so far.

    Args:
        trial: its trial.
        values: modelled properties as measured, in the problem's units.
        feasible: whether every constraint holds.
        on_front: whether no other feasible candidate is better in every objective.
    """

    trial: TrialInfo
    values: Mapping[str, float]
    feasible: bool
    on_front: bool


def rank(problem: Problem, dataset: Dataset, trials: Sequence[TrialInfo]) -> list[Best]:
    """Rank measured trials: feasible first, non-dominated first, then by the first objective.

    Args:
        problem: objectives and constraints.
        dataset: what is known, in the problem's units.
        trials: to be matched by number.

    Returns:
        Every trial that has a value of every objective.
    """
    labels = dataset.labels(problem.properties)
    column = {name: j for j, name in enumerate(problem.properties)}
    by_number = {trial.number: trial for trial in trials}
    rows: list[tuple[TrialInfo, Mapping[str, float], bool, tuple[float, ...]]] = []
    for i, number in enumerate(labels.trials):
        values = {name: float(labels.values[i, j]) for name, j in column.items()}
        utility = tuple(float(o.utility(labels.values[i, column[o.property]])) for o in problem.objectives)
        if number not in by_number or any(math.isnan(u) for u in utility):
            continue
        feasible = all(bool(c.satisfied(labels.values[i : i + 1, column[c.property]])[0]) for c in problem.constraints)
        rows.append((by_number[number], values, feasible, utility))
    feasible_utilities = [utility for _, _, feasible, utility in rows if feasible]
    ranked = [
        (Best(trial, values, feasible, feasible and not _dominated(utility, feasible_utilities)), utility)
        for trial, values, feasible, utility in rows
    ]
    ranked.sort(key=lambda item: (not item[0].feasible, not item[0].on_front, [-u for u in item[1]]))
    return [best for best, _ in ranked]


def _dominated(utility: tuple[float, ...], others: Sequence[tuple[float, ...]]) -> bool:
    return any(other != utility and all(o >= u for o, u in zip(other, utility, strict=True)) for other in others)
