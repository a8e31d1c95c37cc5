"""Log expected improvement: noisy, batched, constrained, with one or several objectives.

On a finite space the pool is scored once; the batch is chosen greedily on joint draws of a shortlist, pending
candidates counted as reached with their drawn values. On a box the botorch acquisition functions are optimised with
gradients. After Ament et al., NeurIPS 2023, arXiv:2310.20708 (log improvement), Balandat et al., NeurIPS 2020,
arXiv:1910.06403 (sampled batches), Wilson, Hutter, Deisenroth, NeurIPS 2018, arXiv:1805.10196 (greedy batches).
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from pydantic import Field
from scipy.special import logsumexp

from orchestrator.abilities import HasBotorchView
from orchestrator.acquisition.box import is_box
from orchestrator.acquisition.draws import Draws, draw
from orchestrator.acquisition.gains import SMOOTH, log_smooth_gain
from orchestrator.acquisition.marginal import marginal_scores
from orchestrator.acquisition.policy import Pick, Policy, PolicyOptions, Situation, check_finite, predict
from orchestrator.acquisition.slots import promising
from orchestrator.acquisition.words import expected, hope_in_words
from orchestrator.acquisition.worth import Worth
from orchestrator.domain import Array, Candidate
from orchestrator.protocols import FiniteSpace, Support


class ImprovementOptions(PolicyOptions):
    """Options of `LogExpectedImprovement`.

    Args:
        draws: functions drawn; more make close calls steadier.
        shortlist: how many of the open candidates, the best by their own expected improvement, are drawn jointly.
        samples: points sampled where the space cannot be listed.
        restarts: starts of the gradient search on a box.
        good: on a space that can be listed, with one objective: the share of the measured candidates that count as
            good; improvement is expected over the poorest of them. A candidate of a pool is measured once, so that a
            search goes on to the next best ones; 0 counts improvement over the best alone.
        refine: on a finite space, score the best of the shortlist again with botorch, where the surrogate can be asked
            by it; its draws of single candidates are steadier, and it takes seconds.
    """

    draws: int = Field(default=256, ge=16, le=8192)
    shortlist: int = Field(default=512, ge=8, le=20000)
    samples: int = Field(default=1024, ge=16, le=100_000)
    restarts: int = Field(default=6, ge=1, le=64)
    good: float = Field(default=0.2, ge=0.0, lt=1.0)
    refine: bool = False


class LogExpectedImprovement(Policy):
    """Choose the batch with the largest expected improvement over what is known."""

    Options: ClassVar[type[PolicyOptions]] = ImprovementOptions
    options: ImprovementOptions
    name = "log_expected_improvement"

    def needs(self) -> frozenset[Support]:
        """Need standard deviations and joint draws."""
        return frozenset({"uncertainty", "draws"})

    def pick(self, situation: Situation) -> list[Pick]:
        """Choose up to q open candidates, best first."""
        if is_box(situation):
            from orchestrator.acquisition.continuous import Effort, improving_picks  # noqa: PLC0415  imports torch

            effort = Effort(self.options.samples, self.options.restarts, self.options.draws)
            picks = improving_picks(situation, effort)
            if picks is not None:
                return picks
        return self._pick_from_pool(situation)

    def _pick_from_pool(self, situation: Situation) -> list[Pick]:
        pool = self.pool(situation, self.options.samples)
        prediction = predict(situation.trained, pool)
        good = self._good(situation)
        marginal = marginal_scores(situation, prediction, pool, good=good) - situation.price(pool)
        check_finite(np.isfinite(marginal), "expected improvements")
        order = np.argsort(-marginal, kind="stable")
        order = promising(situation, pool, order, max(self.options.shortlist, 2 * situation.q))
        listed = [pool[i] for i in order]
        batch, facts = self._batch(situation, listed, marginal[order])
        picks = []
        for place, score, gain in batch:
            i = int(order[place])
            reason = f"{hope_in_words(situation, prediction, i, gain, good)}; predicted {{}}"
            picks.append(
                Pick(
                    pool[i],
                    score,
                    reason.format(expected(situation, prediction, i)),
                    {**facts, "expected_gain": gain, "log_expected_improvement_alone": float(marginal[i])},
                )
            )
        return picks

    def _good(self, situation: Situation) -> float:
        """Return the share of measured candidates that count as good; a point of a box can always be bettered."""
        return self.options.good if isinstance(situation.space, FiniteSpace) else 0.0

    def _batch(
        self, situation: Situation, listed: list[Candidate], alone: Array
    ) -> tuple[list[tuple[int, float, float]], dict[str, Any]]:
        """Choose from the shortlist: position, score and expected gain of each pick; and how they were found."""
        surrogate = situation.trained
        if self.options.refine and isinstance(surrogate, HasBotorchView) and "botorch" in surrogate.supports():
            from orchestrator.acquisition.refining import MOST, refined_batch  # noqa: PLC0415  imports torch

            refined = refined_batch(situation, surrogate.to_botorch(), listed, alone, self.options.draws)
            if refined is not None:
                return refined, {"shortlist": min(len(listed), MOST), "draws": self.options.draws, "refined": True}
        goals = situation.problem.objectives
        if situation.q == 1 and not situation.pending and len(goals) == 1 and goals[0].goal != "window":
            # nothing to be chosen or conditioned on together: the closed form has no noise of draws; a window that is
            # reached has a score that is no gain
            gain = float(np.exp(alone[0] + situation.price(listed[:1])[0]))
            return [(0, float(alone[0]), gain)], {"shortlist": len(listed), "draws": 0}
        drawn = draw(situation, listed, self.options.draws, good=self._good(situation))
        batch = greedy_batch(drawn, alone, situation.q, Worth(situation, listed))
        return batch, {"shortlist": len(listed), "draws": self.options.draws}


def greedy_batch(drawn: Draws, marginal: Array, q: int, worth: Worth) -> list[tuple[int, float, float]]:
    """Choose a batch on joint draws, each pick given the ones before.

    Args:
        drawn: of n candidates; its front grows by the picks.
        marginal: scores of the n candidates alone, which break ties.
        q: how many are wanted.
        worth: what counts beside the gain, and who may still be picked.

    Returns:
        Position, score (log of the mean gain over the draws, success and expense counted) and mean gain of each pick.
    """
    picks = []
    for _ in range(min(q, len(marginal))):
        gains = drawn.front.gains(drawn.values, drawn.allowed)
        scores, free = _log_mean(drawn, gains), worth.slots.open()
        # where no draw shows a gain, what each is worth alone decides
        scores = scores + worth.logs() if np.isfinite(scores[free]).any() else marginal
        best = int(np.lexsort((-marginal, np.where(free, -scores, np.inf)))[0])
        gain = float(np.maximum(gains[:, best], 0.0).mean() * np.exp(worth.success[best]))
        worth.take(best)
        picks.append((best, float(scores[best]), gain))
        drawn = drawn.given(best, worth.succeeds(best, len(gains)))
    return picks


def _log_mean(drawn: Draws, gains: Array) -> Array:
    s = len(gains)
    with np.errstate(divide="ignore"):
        if drawn.values.shape[-1] > 1:
            return np.asarray(np.log(gains.mean(axis=0)), dtype=np.float64)
        allowed = np.isfinite(gains)
        soft = log_smooth_gain(np.where(allowed, gains, 0.0), SMOOTH * drawn.scale)
        logs = np.where(allowed, soft, -np.inf)
        return np.asarray(logsumexp(logs, axis=0) - np.log(s), dtype=np.float64)
