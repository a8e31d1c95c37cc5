"""Weights of several predictive distributions, by what each said of labels it had not seen.

Stacking: the weights maximise the mean log density of a mixture on held-out labels, a concave problem (Yao et al.,
Bayesian Analysis 13, 917, 2018, doi:10.1214/17-BA1091), solved here by expectation and maximisation. Unlike choosing
the best member, it takes two that err on different labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from orchestrator.domain import Array, HeldOut
from orchestrator.scoring import log_losses

PRIOR_LABELS = 1.0
"""Labels that the belief "every member has its share" is worth: a handful of labels must not silence a member."""
STEPS = 2000
STILL = 1e-9
"""The search ends when no weight moves by more."""

Several = Sequence[Mapping[str, HeldOut]]
"""Held-out predictions by property, one mapping a member."""


def best_weights(densities: Array) -> Array:
    """Return the weights that maximise the mean log density of the mixture.

    Args:
        densities: k × n log densities of n held-out labels by k members.

    Returns:
        k weights, summing to 1.
    """
    k, n = densities.shape
    relative = np.exp(densities - densities.max(0))
    weights = np.full(k, 1.0 / k)
    for _ in range(STEPS):
        shares = weights[:, None] * relative
        responsible = (shares / shares.sum(0)).sum(1)
        new = (responsible + PRIOR_LABELS / k) / (n + PRIOR_LABELS)
        done = float(np.abs(new - weights).max()) < STILL
        weights = new
        if done:
            break
    return weights


def weigh(members: Several) -> tuple[Array, Array]:
    """Weigh members by the labels that all of them held out, all properties together.

    Args:
        members: their held-out predictions.

    Returns:
        One weight a member, and each member's own mean log loss, in nats a label.
    """
    losses = []
    for name, first in members[0].items():
        shared = sorted(set(first.trials).intersection(*(member[name].trials for member in members[1:])))
        losses.append([log_losses(*_rows(member[name], shared)[:2]) for member in members])
    densities = -np.hstack([np.array(one) for one in losses])
    return best_weights(densities), -densities.mean(1)


def mixed(members: Several, weights: Array) -> dict[str, HeldOut]:
    """Return what the mixture said of the labels that all members held out.

    Args:
        members: their held-out predictions, which tell the labels too.
        weights: one a member.
    """
    found = {}
    for name, first in members[0].items():
        shared = sorted(set(first.trials).intersection(*(member[name].trials for member in members[1:])))
        parts = [_rows(member[name], shared) for member in members]
        labels = parts[0][2]
        means, sds = np.array([labels - part[0] for part in parts]), np.array([part[1] for part in parts])
        mean, variance = moments(means, sds**2, weights)
        found[name] = HeldOut(labels - mean, np.sqrt(variance), labels, tuple(shared))
    return found


def moments(means: Array, variances: Array, weights: Array) -> tuple[Array, Array]:
    """Return mean and variance of a mixture.

    Args:
        means: k × … means of the members.
        variances: k × … variances.
        weights: k, summing to 1.
    """
    mean = np.tensordot(weights, means, 1)
    return mean, np.tensordot(weights, variances + (means - mean) ** 2, 1)


def _rows(held_out: HeldOut, trials: Sequence[int]) -> tuple[Array, Array, Array]:
    place = {trial: i for i, trial in enumerate(held_out.trials)}
    rows = [place[trial] for trial in trials]
    return held_out.residuals[rows], held_out.sd[rows], held_out.labels[rows]
