"""Thompson sampling: each slot of the batch gets the best candidate of one function drawn from the posterior.

Kandasamy, Krishnamurthy, Schneider, Póczos, AISTATS 2018, arXiv:1705.09236 (parallel Thompson sampling).
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field

from orchestrator.acquisition.box import is_box
from orchestrator.acquisition.draws import draw
from orchestrator.acquisition.gains import feasible, utilities
from orchestrator.acquisition.marginal import marginal_scores
from orchestrator.acquisition.policy import CHUNK, Pick, Policy, PolicyOptions, Situation, predict
from orchestrator.acquisition.ranking import searched, unlikely
from orchestrator.acquisition.slots import Slots
from orchestrator.acquisition.words import expected
from orchestrator.domain import Array, Candidate
from orchestrator.protocols import Support


class ThompsonOptions(PolicyOptions):
    """Options of `Thompson`.

    Args:
        samples: points sampled where the space cannot be listed.
    """

    samples: int = Field(default=2048, ge=16, le=1_000_000)


class Thompson(Policy):
    """Choose for each slot the best open candidate of its own drawn function.

    Pending candidates and the picks of other slots are excluded; other functions' optima make the batch diverse. With
    several objectives the best is the one that adds most hypervolume to the measured points of the same function.
    Candidates that are likely to fail come after all others; price and duration do not count.
    """

    Options: ClassVar[type[PolicyOptions]] = ThompsonOptions
    options: ThompsonOptions
    name = "thompson"

    def needs(self) -> frozenset[Support]:
        """Need joint draws."""
        return frozenset({"uncertainty", "draws"})

    def pick(self, situation: Situation) -> list[Pick]:
        """Choose up to q open candidates, one a drawn function."""
        if is_box(situation):
            from orchestrator.acquisition.continuous import Effort, thompson_picks  # noqa: PLC0415  imports torch

            picks = thompson_picks(situation, Effort(min(self.options.samples, 1024)))
            if picks is not None:
                return picks
        problem, seed = situation.problem, situation.seed_for("functions")

        def score(candidates: list[Candidate]) -> tuple[Array, Array]:
            drawn = situation.trained.draw(candidates, situation.q, seed)
            return utilities(drawn, problem).mean(axis=0), np.where(
                feasible(drawn, problem).any(axis=0), 0.0, -1.0
            ) + unlikely(situation.log_success(candidates))

        pool = searched(self.pool(situation, self.options.samples), situation, score)
        slots = min(situation.q, len(pool))
        gains, near = self._functions(situation, pool, slots)
        prediction = predict(situation.trained, pool)
        penalty = unlikely(situation.log_success(pool))
        alone = marginal_scores(situation, prediction)  # many candidates lie inside a window in the same function
        places = Slots(situation, pool)
        picks = []
        for slot in range(slots):
            i = int(np.lexsort((-alone, -near[slot], -gains[slot], -penalty, ~places.open()))[0])
            places.take(i)
            value = gains[slot, i] if np.isfinite(gains[slot, i]) else near[slot, i]
            reason = f"best of drawn function {slot + 1} of {slots}; predicted {expected(situation, prediction, i)}"
            picks.append(Pick(pool[i], float(value), reason, {"among": len(pool), "function": slot + 1}))
        return picks

    @staticmethod
    def _functions(situation: Situation, pool: list[Candidate], slots: int) -> tuple[Array, Array]:
        """Return gains over the measured points of each function, and utilities that break ties, slots × n."""
        gains, near = [], []
        for i in range(0, len(pool), CHUNK):
            drawn = draw(situation, pool[i : i + CHUNK], slots, "functions")
            gains.append(drawn.front.gains(drawn.values, drawn.allowed))
            near.append(drawn.values.sum(axis=-1))
        return np.concatenate(gains, axis=1), np.concatenate(near, axis=1)
