"""Upper confidence bound: mean plus beta standard deviations.

Batches after Desautels, Krause, Burdick, J. Mach. Learn. Res. 15, 4053 (2014) (GP-BUCB): the mean stays, and the
standard deviation of each candidate shrinks by what the picks before it and the pending candidates will tell. How much
they tell is read from joint draws, so that any surrogate with draws can be used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from orchestrator.acquisition.marginal import log_probability_feasible, optimistic
from orchestrator.acquisition.policy import Pick, Policy, PolicyOptions, Situation, check_finite, predict
from orchestrator.acquisition.ranking import ranked, searched, unlikely
from orchestrator.acquisition.words import expected
from orchestrator.domain import Array, Candidate, Prediction
from orchestrator.protocols import Support


class ConfidenceOptions(PolicyOptions):
    """Options of `UpperConfidenceBound`.

    Args:
        beta: standard deviations added to the mean.
        batch: ``shrink`` conditions standard deviations on picks and pending candidates; ``top`` takes the q largest
            bounds and needs no draws.
        draws: functions drawn for ``shrink``.
        shortlist: how many of the best bounds are drawn jointly.
        samples: points sampled where the space cannot be listed.
    """

    beta: float = Field(default=1.0, ge=0.0, le=100.0)
    batch: Literal["shrink", "top"] = "shrink"
    draws: int = Field(default=256, ge=32, le=8192)
    shortlist: int = Field(default=512, ge=8, le=20000)
    samples: int = Field(default=2048, ge=16, le=1_000_000)


class UpperConfidenceBound(Policy):
    """Choose the largest upper confidence bounds (lower ones where the goal is to minimize).

    Candidates whose constraints hold, or whose trial succeeds, with less than even odds come after all others.
    Price and duration do not count.
    """

    Options: ClassVar[type[PolicyOptions]] = ConfidenceOptions
    options: ConfidenceOptions
    name = "upper_confidence_bound"

    def needs(self) -> frozenset[Support]:
        """Need standard deviations, and joint draws for ``batch: shrink``."""
        return frozenset({"uncertainty", "draws"} if self.options.batch == "shrink" else {"uncertainty"})

    def pick(self, situation: Situation) -> list[Pick]:
        """Choose up to q open candidates, best first."""

        def score(candidates: list[Candidate]) -> tuple[Array, Array]:
            prediction = predict(situation.trained, candidates)
            return optimistic(situation, prediction, self.options.beta), _penalty(situation, prediction, candidates)

        pool = searched(self.pool(situation, self.options.samples), situation, score)
        prediction = predict(situation.trained, pool)
        values, penalty = optimistic(situation, prediction, self.options.beta), _penalty(situation, prediction, pool)
        if self.options.batch == "top" or (situation.q == 1 and not situation.pending):
            chosen = ranked(situation, values, penalty)
        else:
            chosen = self._shrinking(situation, pool, prediction, values, penalty)
        return [
            Pick(
                pool[i],
                bound,
                f"bound at {self.options.beta:g} standard deviations is best; predicted"
                f" {expected(situation, prediction, i)}",
                {"among": len(pool), "beta": self.options.beta, "batch": self.options.batch},
            )
            for i, bound in chosen
        ]

    def _shrinking(
        self, situation: Situation, pool: list[Candidate], prediction: Prediction, values: Array, penalty: Array
    ) -> list[tuple[int, float]]:
        check_finite(np.isfinite(values).all(axis=1), "bounds")
        spread = np.where(values.std(axis=0) > 0, values.std(axis=0), 1.0)
        size = max(self.options.shortlist, 2 * situation.q)
        order = np.lexsort((-(values / spread).sum(axis=1), -penalty))[:size]
        listed = [pool[i] for i in order]
        known = [*situation.pending, *listed]
        drawn = np.asarray(
            situation.trained.draw(known, self.options.draws, situation.seed_for("draws")), dtype=np.float64
        )
        check_finite(np.isfinite(drawn).all(axis=(0, 2)), "drawn candidates")
        noise = np.mean(prediction.noise[order], axis=0) ** 2
        knowledge = _Knowledge(drawn, noise)
        first = len(situation.pending)
        for j in range(first):
            knowledge.include(j)
        picks: list[tuple[int, float]] = []
        free = np.ones(len(listed), dtype=bool)
        one = replace(situation, q=1)
        for _ in range(min(situation.q, len(listed))):
            left = knowledge.left()[first:]
            now = Prediction(prediction.mean[order], prediction.epistemic[order] * left, prediction.noise[order])
            places = np.flatnonzero(free)
            bounds = optimistic(situation, now, self.options.beta)[places]
            place, bound = ranked(one, bounds, penalty[order][places])[0]
            best = int(places[place])
            free[best] = False
            picks.append((int(order[best]), bound))
            knowledge.include(first + best)
        return picks


class _Knowledge:
    """How much of each point's variance is left after measuring others: covariances of draws, conditioned in turn."""

    def __init__(self, drawn: Array, noise: Array) -> None:
        centred = drawn - drawn.mean(axis=0)
        self.covariance = np.einsum("snm,skm->mnk", centred, centred) / len(drawn)
        self.before = np.maximum(np.einsum("mnn->nm", self.covariance), np.finfo(float).tiny).copy()
        self.noise = noise

    def include(self, j: int) -> None:
        for m, covariance in enumerate(self.covariance):
            power = covariance[j, j] + self.noise[m]
            if power > 0:
                column = covariance[:, j].copy()
                self.covariance[m] -= np.outer(column, column) / power

    def left(self) -> Array:
        """Return the share of the standard deviation that is left, n × m."""
        return np.asarray(np.sqrt(np.clip(np.einsum("mnn->nm", self.covariance) / self.before, 0.0, 1.0)))


def _penalty(situation: Situation, prediction: Prediction, candidates: Sequence[Candidate]) -> Array:
    column = {name: j for j, name in enumerate(situation.problem.properties)}
    total = situation.log_success(candidates)
    for constraint in situation.problem.constraints:
        j = column[constraint.property]
        total = total + log_probability_feasible(constraint, prediction.mean[:, j], prediction.epistemic[:, j])
    return unlikely(total)
