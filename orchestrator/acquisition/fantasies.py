"""What pending trials and earlier picks of a batch are taken to yield before they have yielded anything.

``draws``: in each draw its own value. ``believer``: the posterior mean, the Kriging believer of Ginsbourger, Le Riche,
Carraro (2010, doi:10.1007/978-3-642-10701-6_6). ``pessimistic``: one standard deviation worse, which in asynchronous
campaigns kept points further apart (Volk et al., Digital Discovery 2026, doi:10.1039/D5DD00477B). The draws of all
other candidates are conditioned on such a value by Matheron's rule (Wilson et al., JMLR 22, 105 (2021),
arXiv:2011.04026), with covariances read from the draws themselves, so that any surrogate with draws can be used.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from orchestrator.domain import Array, Objective, Problem

Fantasy = Literal["draws", "believer", "pessimistic"]


def believed(problem: Problem, mean: Array, sd: Array, fantasy: Fantasy) -> Array:
    """Return what a trial is taken to yield, m.

    Args:
        problem: says in which direction a property gets worse; what no objective pursues is taken at its mean.
        mean: m posterior means.
        sd: m epistemic standard deviations.
        fantasy: how; ``draws`` gives the mean too.
    """
    value = np.array(mean, dtype=np.float64)
    if fantasy != "pessimistic":
        return value
    column = {name: j for j, name in enumerate(problem.properties)}
    for objective in problem.objectives:
        j = column[objective.property]
        value[j] += _worse(objective, float(mean[j])) * sd[j]
    return value


def conditioned(drawn: Array, j: int, value: Array) -> Array:
    """Return draws as they would be had candidate j yielded a value.

    Args:
        drawn: s × n × m.
        j: position among the n.
        value: m, what it is taken to yield.

    Returns:
        s × n × m, in which every draw of candidate j is that value.
    """
    centred = drawn - drawn.mean(axis=0)
    s = len(drawn)
    covariance = np.einsum("snm,sm->nm", centred, centred[:, j]) / s
    variances = (centred**2).mean(axis=0)
    own = np.maximum(variances[j], np.finfo(np.float64).tiny)
    # a correlation from s draws is off by about 1/√s: shrink what could be chance
    squared = covariance**2 / np.maximum(variances * own, np.finfo(np.float64).tiny)
    slope = covariance / own * np.maximum(1.0 - 1.0 / np.maximum(s * squared, 1.0), 0.0)
    slope[j] = 1.0
    return np.asarray(drawn + slope[None] * (value - drawn[:, j])[:, None, :], dtype=np.float64)


def _worse(objective: Objective, mean: float) -> float:
    """Return the direction in which a property gets worse."""
    if objective.goal == "maximize":
        return -1.0
    if objective.goal == "minimize":
        return 1.0
    if objective.goal == "target" and objective.target is not None:
        return 1.0 if mean >= objective.target else -1.0
    if objective.goal == "window" and objective.window is not None:
        return 1.0 if mean >= sum(objective.window) / 2 else -1.0
    return 0.0
