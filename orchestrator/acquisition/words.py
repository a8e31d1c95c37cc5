"""The sentences that people read beside a proposal."""

from __future__ import annotations

from orchestrator.acquisition.gains import pursued
from orchestrator.acquisition.situation import Situation
from orchestrator.domain import Prediction


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
