"""Upper confidence bound: mean plus beta standard deviations.

Batches after Desautels, Krause, Burdick, J. Mach. Learn. Res. 15, 4053 (2014) (GP-BUCB), which believes in means
whether ``pending`` says so or not; see `knowledge`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from orchestrator.acquisition.box import is_box
from orchestrator.acquisition.knowledge import Knowledge
from orchestrator.acquisition.marginal import log_feasible, optimistic
from orchestrator.acquisition.policy import Pick, Policy, PolicyOptions, Situation, check_finite, predict
from orchestrator.acquisition.ranking import ranked, searched, unlikely
from orchestrator.acquisition.slots import Slots, promising
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
        if is_box(situation):
            from orchestrator.acquisition.continuous import Effort, confident_picks  # noqa: PLC0415  imports torch

            options = self.options
            picks = confident_picks(situation, Effort(min(options.samples, 1024)), options.beta, options.batch)
            if picks is not None:
                return picks

        def score(candidates: list[Candidate]) -> tuple[Array, Array]:
            prediction = predict(situation.trained, candidates)
            return optimistic(situation, prediction, self.options.beta), _penalty(situation, prediction, candidates)

        pool = searched(self.pool(situation, self.options.samples), situation, score)
        prediction = predict(situation.trained, pool)
        values, penalty = optimistic(situation, prediction, self.options.beta), _penalty(situation, prediction, pool)
        if self.options.batch == "top" or (situation.q == 1 and not situation.pending):
            chosen = ranked(situation, values, penalty, pool)
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
        order = promising(situation, pool, np.lexsort((-(values / spread).sum(axis=1), -penalty)), size)
        listed = [pool[i] for i in order]
        now = Prediction(prediction.mean[order], prediction.epistemic[order], prediction.noise[order])
        knowledge = Knowledge(situation, listed, now, self.options.draws)
        slots, one = Slots(situation, listed), replace(situation, q=1)
        picks: list[tuple[int, float]] = []
        for _ in range(min(situation.q, len(listed))):
            places = np.flatnonzero(slots.open())
            bounds = optimistic(situation, knowledge.now(), self.options.beta)[places]
            place, bound = ranked(one, bounds, penalty[order][places], [listed[i] for i in places])[0]
            best = int(places[place])
            slots.take(best)
            picks.append((int(order[best]), bound))
            knowledge.include(best)
        return picks


def _penalty(situation: Situation, prediction: Prediction, candidates: Sequence[Candidate]) -> Array:
    return unlikely(log_feasible(situation, prediction, candidates))
