"""Labels that nothing around them supports: found one after the other, and given a noise of their own.

Relevance pursuit after Ament, Santorella, Eriksson, Letham, Balandat, Bakshy, NeurIPS 2024, arXiv:2410.24222: every
label may have a noise variance of its own, nearly all of them zero. The labels whose own variance would raise the
marginal likelihood most join a growing set, hyperparameters and variances are learned anew each time, and the set is
kept whose likelihood is worth its size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from orchestrator.domain import Array
from orchestrator.surrogates.heads import GaussianHead
from orchestrator.surrogates.hyper import Hyperparameters, Points, learn
from orchestrator.surrogates.kernels import Term

MOST = 0.25
"""Largest share of the labels that may have a noise of their own: with more, none can be said to be the odd ones."""
STEP = 0.04
"""Share of the labels that join at a time."""
FEWEST = 8
"""Labels below which nothing is said to be odd."""
WORTH = 2.0
"""Log likelihood that one label's own noise must bring, beyond the logarithm of the number of labels to choose from."""
SETTLE = 3
"""Times that own variances are estimated anew for the same set."""
TURNS = 2
"""Times that hyperparameters and own variances take turns for the same set."""
ITERATIONS = 30
"""Of L-BFGS for each set; the next one starts there."""


@dataclass(frozen=True, eq=False)
class OwnNoise:
    """What was found.

    Args:
        variance: n variances in standardised units; zero for nearly all.
        away: by how many standard deviations each label misses what the others predict of it, n.
    """

    variance: Array
    away: Array

    @property
    def odd(self) -> npt.NDArray[np.int64]:
        """Positions of the labels with a noise of their own."""
        return np.asarray(np.flatnonzero(self.variance > 0), dtype=np.int64)


def own_noise(terms: tuple[Term, ...], points: Points) -> OwnNoise:
    """Find the labels that need a noise of their own.

    Args:
        terms: the covariance.
        points: features and labels, standardised so that the well-behaved ones have unit variance.

    Returns:
        Their variances.
    """
    n = len(points)
    nothing = OwnNoise(np.zeros(n), np.zeros(n))
    if n < FEWEST:
        return nothing
    chosen = np.zeros(n, dtype=bool)
    variance = np.zeros(n)
    hyper: Hyperparameters | None = None
    found: list[tuple[float, Array, GaussianHead]] = []
    step = max(1, round(STEP * n))
    while True:
        for _ in range(TURNS if chosen.any() else 1):
            hyper = learn(terms, _with(points, variance), hyper, ITERATIONS)
            head, variance = _settled(terms, hyper, points, chosen, variance)
        price = chosen.sum() * (math.log(n) + WORTH)
        found.append((head.evidence() - price, variance, head))
        room = int(MOST * n) - int(chosen.sum())
        if room < 1:
            break
        gains = np.where(chosen, -np.inf, _gains(head))
        joining = np.argsort(-gains, kind="stable")[: min(step, room)]
        joining = joining[gains[joining] > 0]
        if not len(joining):
            break
        chosen[joining] = True
        # before anything is learned anew, which the new ones would bend
        _, variance = _settled(terms, head.hyper, points, chosen, variance)
    _, variance, head = max(found, key=lambda one: one[0])
    if not variance.any():
        return nothing
    return _needed(points, variance, head)


def _needed(points: Points, variance: Array, head: GaussianHead) -> OwnNoise:
    """Drop from a set what joined it only because others did."""
    residuals, sd = head.leave_one_out()
    plain = np.maximum(sd**2 - variance, 1e-12)
    away = np.abs(residuals) / np.sqrt(plain)
    worth = 0.5 * (away**2 - 1.0) - np.log(np.maximum(away, 1e-12))
    keep = (variance > 0) & (away > 1) & (worth > math.log(len(points)) + WORTH)
    return OwnNoise(np.where(keep, variance, 0.0), away)


def _settled(
    terms: tuple[Term, ...], hyper: Hyperparameters, points: Points, chosen: Array, variance: Array
) -> tuple[GaussianHead, Array]:
    """Estimate the own variances of a set: what each residual shows beyond what the others let expect."""
    head = GaussianHead(terms, hyper, _with(points, variance))
    for _ in range(SETTLE if chosen.any() else 0):
        residuals, sd = head.leave_one_out()
        variance = np.where(chosen, np.maximum(residuals**2 - (sd**2 - variance), 0.0), 0.0)
        head = GaussianHead(terms, hyper, _with(points, variance))
    return head, variance


def _gains(head: GaussianHead) -> Array:
    """Return by how much the likelihood would rise, were each label's own variance set to its best value."""
    residuals, sd = head.leave_one_out()
    ratio = np.maximum((residuals / sd) ** 2, 1e-12)
    gains: Array = np.where(ratio > 1, 0.5 * (ratio - 1.0 - np.log(ratio)), 0.0)
    return gains


def _with(points: Points, variance: Array) -> Points:
    return replace(points, known=points.known + variance)
