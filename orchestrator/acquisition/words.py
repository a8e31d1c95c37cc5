"""The sentences that people read beside a proposal."""

from __future__ import annotations

import numpy as np

from orchestrator.acquisition.gains import pursued
from orchestrator.acquisition.marginal import log_probability_feasible
from orchestrator.acquisition.situation import Situation
from orchestrator.domain import Constraint, Prediction


def expected(situation: Situation, prediction: Prediction, i: int) -> str:
    """Write what is predicted of candidate i: ``energy 0.12 ± 0.03 eV/atom``."""
    units = situation.problem.units
    parts = []
    for j, name in enumerate(situation.problem.properties):
        unit = "" if units[name] == "dimensionless" else f" {units[name]}"
        parts.append(f"{name} {prediction.mean[i, j]:.3g} ± {prediction.sd[i, j]:.2g}{unit}")
    return ", ".join(parts)


def gain_in_words(situation: Situation, gain: float) -> str:
    """Write an expected gain with its unit; hypervolume has none that people use."""
    goals = pursued(situation.problem)
    if len(goals) > 1:
        return f"hypervolume gain {gain:.3g}"
    unit = goals[0].unit
    return f"improvement {gain:.3g}{'' if unit == 'dimensionless' else ' ' + unit}"


def hope_in_words(situation: Situation, prediction: Prediction, i: int, gain: float, good: float = 0.0) -> str:
    """Write what is hoped of candidate i; a window that is reached already cannot be bettered, only met again.

    Args:
        situation: for goals and units.
        prediction: of the candidates.
        i: position.
        gain: expected, in the objective's unit.
        good: share of the measured candidates over whose poorest the gain is counted; 0: over the best.
    """
    goals = pursued(situation.problem)
    if len(goals) == 1 and goals[0].window is not None and gain <= 0.0:
        low, high = goals[0].window
        inside = Constraint(goals[0].property, goals[0].unit, low, high)
        j = situation.problem.properties.index(goals[0].property)
        odds = log_probability_feasible(inside, prediction.mean[[i], j], prediction.epistemic[[i], j])
        return f"inside the window, which is reached already, with probability {np.exp(odds[0]):.2g}"
    over = f"the best {good:.0%} so far" if good and len(goals) == 1 else "the best so far"
    return f"expected {gain_in_words(situation, gain)} over {over}"
