"""Greedy: the best posterior means, no exploration.

The baseline that every cleverer policy has to beat, and often the right choice when few measurements are left.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field

from orchestrator.acquisition.gains import feasible, utilities
from orchestrator.acquisition.policy import Pick, Policy, PolicyOptions, Situation, predict
from orchestrator.acquisition.ranking import ranked, searched, unlikely
from orchestrator.acquisition.words import expected
from orchestrator.domain import Array, Candidate
from orchestrator.protocols import Support


class GreedyOptions(PolicyOptions):
    """Options of `Greedy`.

    Args:
        samples: points sampled where the space cannot be listed.
    """

    samples: int = Field(default=2048, ge=16, le=1_000_000)


class Greedy(Policy):
    """Choose the best posterior means; with several objectives, the largest hypervolume of the means.

    Candidates whose mean violates a constraint, or that are likely to fail, come after all others. Price and duration
    do not count. With one objective nothing keeps a batch from being alike: use log expected improvement where that is
    a worry.
    """

    Options: ClassVar[type[PolicyOptions]] = GreedyOptions
    options: GreedyOptions
    name = "greedy"

    def needs(self) -> frozenset[Support]:
        """Need a surrogate; its standard deviations are written beside the means."""
        return frozenset({"uncertainty"})

    def pick(self, situation: Situation) -> list[Pick]:
        """Choose up to q open candidates, best first."""
        problem = situation.problem

        def score(candidates: list[Candidate]) -> tuple[Array, Array]:
            mean = predict(situation.trained, candidates).mean
            violated = np.where(feasible(mean, problem), 0.0, -1.0)
            return utilities(mean, problem), violated + unlikely(situation.log_success(candidates))

        pool = searched(self.pool(situation, self.options.samples), situation, score)
        prediction = predict(situation.trained, pool)
        picks = []
        for i, value in ranked(situation, *score(pool), pool):
            reason = f"best predicted mean: {expected(situation, prediction, i)}"
            picks.append(Pick(pool[i], value, reason, {"among": len(pool)}))
        return picks
