"""Level set: find where a property lies above a level, and where below.

The score is the straddle of Bryan, Nichol, Genovese, Schneider, Miller, Wasserman (NIPS 2005): 1.96 standard
deviations minus the distance of the mean from the level; positive where it is still unclear on which side a candidate
lies. In a batch the mean stays, and the standard deviation shrinks by what earlier picks and pending candidates will
tell, as in `upper_confidence_bound`.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field
from scipy.special import ndtr

from orchestrator.acquisition.covariances import Covariances
from orchestrator.acquisition.learning import LearningPolicy
from orchestrator.acquisition.policy import Pick, PolicyOptions, Situation, check_finite, predict
from orchestrator.acquisition.ranking import searched
from orchestrator.acquisition.slots import Slots, promising
from orchestrator.acquisition.words import expected
from orchestrator.domain import Array, Candidate, Prediction
from orchestrator.errors import IncompatibleError
from orchestrator.protocols import Support


class LevelSetOptions(PolicyOptions):
    """Options of `LevelSet`.

    Args:
        level: value whose two sides are told apart, in the property's unit.
        property: which one; the first objective where empty.
        width: standard deviations on each side of the mean within which a candidate counts as unclear.
        draws: functions drawn for batches and pending candidates.
        shortlist: how many of the largest straddles are drawn jointly.
        samples: points sampled where the space cannot be listed.
    """

    level: float
    property: str = ""
    width: float = Field(default=1.96, gt=0, le=10)
    draws: int = Field(default=256, ge=32, le=8192)
    shortlist: int = Field(default=512, ge=8, le=8192)
    samples: int = Field(default=2048, ge=16, le=1_000_000)


class LevelSet(LearningPolicy):
    """Choose the candidates that are hardest to place above or below a level."""

    Options: ClassVar[type[PolicyOptions]] = LevelSetOptions
    options: LevelSetOptions
    name = "level_set"

    def __init__(self, options: LevelSetOptions) -> None:
        super().__init__(options)

    def needs(self) -> frozenset[Support]:
        """Need standard deviations, and joint draws for batches."""
        return frozenset({"uncertainty", "draws"})

    def pick(self, situation: Situation) -> list[Pick]:
        """Choose up to q open candidates, best first."""
        j = self._column(situation)

        def score(candidates: list[Candidate]) -> tuple[Array, Array]:
            values = self._straddle(predict(situation.trained, candidates), j)
            return _likely(situation, candidates, values)[:, None], np.zeros(len(values))

        pool = searched(self.pool(situation, self.options.samples), situation, score)
        prediction = predict(situation.trained, pool)
        values = _likely(situation, pool, self._straddle(prediction, j))
        check_finite(np.isfinite(values), "straddles")
        mean, sd = prediction.mean[:, j], prediction.epistemic[:, j]
        reach = self.options.width * sd
        facts = {
            "among": len(pool),
            "level": self.options.level,
            "surely_above": int((mean - reach > self.options.level).sum()),
            "surely_below": int((mean + reach < self.options.level).sum()),
            "unclear": int((np.abs(mean - self.options.level) <= reach).sum()),
        }
        above = ndtr((mean - self.options.level) / np.maximum(sd, np.finfo(float).tiny))
        picks = []
        for i, value in self._batch(situation, pool, prediction, values, j):
            side = "nothing is unclear any more; this one is the nearest to the level" if value < 0 else "unclear"
            picks.append(
                Pick(
                    pool[i],
                    value,
                    f"{side}: P(above {self.options.level:g}) = {above[i]:.0%}; {facts['unclear']} of {len(pool)} open"
                    f" candidates are unclear; predicted {expected(situation, prediction, i)}",
                    {**facts, "probability_above": float(above[i])},
                )
            )
        return picks

    def _column(self, situation: Situation) -> int:
        wanted = self.options.property or situation.problem.objectives[0].property
        if wanted not in situation.problem.properties:
            known = ", ".join(situation.problem.properties)
            message = f"level_set: 'property' is {wanted!r}; the modelled properties are {known}: name one of them"
            raise IncompatibleError(message)
        return situation.problem.properties.index(wanted)

    def _straddle(self, prediction: Prediction, j: int, left: Array | None = None) -> Array:
        sd = prediction.epistemic[:, j] * (1.0 if left is None else left)
        return np.asarray(self.options.width * sd - np.abs(prediction.mean[:, j] - self.options.level))

    def _batch(
        self, situation: Situation, pool: list[Candidate], prediction: Prediction, values: Array, j: int
    ) -> list[tuple[int, float]]:
        """Choose one after the other, with standard deviations shrunk by picks and pending candidates."""
        order = np.argsort(-values, kind="stable")
        if situation.q == 1 and not situation.pending:
            return [(int(order[0]), float(values[order[0]]))]
        listed = promising(situation, pool, order, max(self.options.shortlist, 2 * situation.q))
        known = [*situation.pending, *(pool[i] for i in listed)]
        seed = situation.seed_for("draws")
        drawn = np.asarray(situation.trained.draw(known, self.options.draws, seed), dtype=np.float64)[..., [j]]
        check_finite(np.isfinite(drawn).all(axis=(0, 2)), "drawn candidates")
        covariances = Covariances(drawn, np.mean(prediction.noise[listed][:, [j]], axis=0) ** 2)
        first = len(situation.pending)
        for k in range(first):
            covariances.include(k)
        some = Prediction(prediction.mean[listed], prediction.epistemic[listed], prediction.noise[listed])
        slots = Slots(situation, [pool[i] for i in listed])
        picks = []
        for _ in range(min(situation.q, len(listed))):
            values = self._straddle(some, j, covariances.left()[first:, 0])
            values = _likely(situation, known[first:], values)
            best = int(np.lexsort((-values, ~slots.open()))[0])
            slots.take(best)
            picks.append((int(listed[best]), float(values[best])))
            covariances.include(first + best)
        return picks


def _likely(situation: Situation, candidates: list[Candidate], values: Array) -> Array:
    """Multiply what is positive by the probability of success, so that a trial that will fail tells little."""
    return np.where(values > 0, values * np.exp(situation.log_success(candidates)), values)
