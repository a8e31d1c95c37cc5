"""Probability of optimality: the candidates that are most often the best of all in the draws.

After Fromer, Wang, Manjrekar, Tripp, Hernández-Lobato, Coley (qPO), 2024, arXiv:2410.06333: the probability that a
batch holds the best candidate is the sum of the probabilities of its members, so that the q most probable ones are the
best batch, and nothing has to be searched.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field

from orchestrator.acquisition.draws import Draws, draw
from orchestrator.acquisition.marginal import marginal_scores
from orchestrator.acquisition.policy import Pick, Policy, PolicyOptions
from orchestrator.acquisition.situation import Situation, check_finite, predict
from orchestrator.acquisition.slots import Slots, promising
from orchestrator.acquisition.words import expected
from orchestrator.domain import Array
from orchestrator.protocols import Support


class OptimalityOptions(PolicyOptions):
    """Options of `ProbabilityOfOptimality`.

    Args:
        draws: functions drawn; a probability of 0.01 is known to 0.003 from a thousand.
        shortlist: how many of the open candidates, the best by their own expected improvement, compete.
        samples: points sampled where the space cannot be listed.
    """

    draws: int = Field(default=1024, ge=64, le=16384)
    shortlist: int = Field(default=1024, ge=8, le=20000)
    samples: int = Field(default=2048, ge=16, le=1_000_000)


class ProbabilityOfOptimality(Policy):
    """Choose the candidates that are most often the best open one in functions drawn from the posterior.

    With several objectives the best is the one that adds most hypervolume to what is measured in the same draw. A draw
    in which a pending trial is better than every open candidate counts for none. The share of draws is multiplied by
    the probability of success and divided by the expense; equal shares are decided by the expected improvement.
    """

    Options: ClassVar[type[PolicyOptions]] = OptimalityOptions
    options: OptimalityOptions
    name = "probability_of_optimality"

    def needs(self) -> frozenset[Support]:
        """Need standard deviations and joint draws."""
        return frozenset({"uncertainty", "draws"})

    def pick(self, situation: Situation) -> list[Pick]:
        """Choose up to q open candidates, best first."""
        pool = self.pool(situation, self.options.samples)
        prediction = predict(situation.trained, pool)
        alone = marginal_scores(situation, prediction, pool)
        check_finite(np.isfinite(alone), "expected improvements")
        order = np.argsort(situation.price(pool) - alone, kind="stable")
        order = promising(situation, pool, order, max(self.options.shortlist, 2 * situation.q))
        listed = [pool[i] for i in order]
        pending = list({c.id: c for c in situation.pending}.values())
        drawn = draw(situation, [*listed, *pending], self.options.draws)
        shares = most_often_best(drawn)[: len(listed)]
        success, slots, last = situation.log_success(listed), Slots(situation, listed), situation.before
        with np.errstate(divide="ignore"):
            logs = np.log(shares) + success
        picks = []
        for _ in range(min(situation.q, len(listed))):
            price = situation.price(listed, last)
            place = int(np.lexsort((price - alone[order], price - logs, ~slots.open()))[0])
            slots.take(place)
            i, last = int(order[place]), listed[place]
            share = float(shares[place] * np.exp(success[place]))
            reason = f"the best one with probability {share:.2g}; predicted {expected(situation, prediction, i)}"
            facts = {"shortlist": len(listed), "draws": self.options.draws, "probability_of_optimality": share}
            picks.append(Pick(pool[i], share, reason, facts))
        return picks


def most_often_best(drawn: Draws) -> Array:
    """Return in which share of the draws each of n candidates is the best, n; equally good ones share a draw.

    A draw in which no candidate satisfies the constraints counts for none.
    """
    if drawn.values.shape[-1] == 1:
        worth = np.where(drawn.allowed, drawn.values[..., 0], -np.inf)
        counts = np.isfinite(worth.max(axis=1))
    else:
        worth = drawn.front.gains(drawn.values, drawn.allowed)
        counts = worth.max(axis=1) > 0
    best = (worth == worth.max(axis=1, keepdims=True)) & counts[:, None]
    return np.asarray((best / np.maximum(best.sum(axis=1, keepdims=True), 1)).mean(axis=0), dtype=np.float64)
