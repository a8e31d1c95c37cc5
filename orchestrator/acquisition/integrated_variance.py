"""Integrated variance: measure what takes away most of what is unknown over the whole space.

The criterion is that of active learning after Cohn (Cohn, Ghahramani, Jordan, J. Artif. Intell. Res. 4, 129 (1996),
doi:10.1613/jair.295) and of integrated mean squared error designs (Sacks, Welch, Mitchell, Wynn, Stat. Sci. 4, 409
(1989), doi:10.1214/ss/1177012413): the posterior variance, summed over points that stand for the space, after one more
measurement. For a Gaussian posterior it depends on covariances only, which are read from joint draws, so that any
surrogate with draws can be used. Batches are chosen in turn, each pick given the ones before and what is pending.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field

from orchestrator.acquisition.covariances import Covariances
from orchestrator.acquisition.learning import LearningPolicy, learned_columns, thinned
from orchestrator.acquisition.policy import Pick, PolicyOptions, Situation, check_finite, predict
from orchestrator.acquisition.ranking import refined
from orchestrator.acquisition.slots import Slots
from orchestrator.acquisition.words import expected
from orchestrator.domain import Array, Candidate
from orchestrator.protocols import BoxSpace, FiniteSpace, Support

PARENTS = 16
"""Best points of a box that are refined around."""


class IntegratedVarianceOptions(PolicyOptions):
    """Options of `IntegratedVariance`.

    Args:
        points: candidates that stand for the space; all of a smaller pool.
        shortlist: candidates compared: the least known ones and a seeded choice of the others.
        draws: functions drawn; the covariances are read from them.
        samples: points sampled where the space cannot be listed.
    """

    points: int = Field(default=512, ge=16, le=8192)
    shortlist: int = Field(default=512, ge=8, le=8192)
    draws: int = Field(default=512, ge=64, le=8192)
    samples: int = Field(default=512, ge=16, le=100_000)


class IntegratedVariance(LearningPolicy):
    """Choose what makes the surrogate surest over the whole space."""

    Options: ClassVar[type[PolicyOptions]] = IntegratedVarianceOptions
    options: IntegratedVarianceOptions
    name = "integrated_variance"

    def needs(self) -> frozenset[Support]:
        """Need standard deviations and joint draws."""
        return frozenset({"uncertainty", "draws"})

    def pick(self, situation: Situation) -> list[Pick]:
        """Choose up to q open candidates, best first."""
        pool = self.pool(situation, self.options.samples)
        everywhere = self._everywhere(situation, pool)
        listed = self._shortlist(situation, pool)
        space = situation.space
        if isinstance(space, BoxSpace) and not isinstance(space, FiniteSpace):
            first, known, at, stand = self._known(situation, listed, everywhere)
            gains = _shares(first, at, stand).mean(axis=1)
            best = [known[at[i]] for i in np.argsort(-gains, kind="stable")[:PARENTS]]
            listed = self._shortlist(situation, refined(space, listed, best, situation, 0))
        covariances, known, at, stand = self._known(situation, listed, everywhere)
        return self._chosen(situation, covariances, known, at, stand)

    def _everywhere(self, situation: Situation, pool: list[Candidate]) -> list[Candidate]:
        """Return the points that stand for the space."""
        space = situation.space
        if isinstance(space, FiniteSpace):
            everything = [*pool, *situation.pending]
            chosen = thinned(len(everything), self.options.points, situation.seed_for("points"))
            return [everything[i] for i in chosen]
        return space.sample(self.options.points, situation.seed_for("points"))

    def _shortlist(self, situation: Situation, pool: list[Candidate]) -> list[Candidate]:
        """Return the candidates compared: half the least known, half a seeded choice of the rest, sorted by id."""
        if len(pool) <= self.options.shortlist:
            return pool
        columns = list(learned_columns(situation.problem))
        spread = predict(situation.trained, pool).epistemic[:, columns]
        unknown = (spread / np.maximum(spread.mean(axis=0), np.finfo(float).tiny)).mean(axis=1)
        order = [int(i) for i in np.argsort(-unknown, kind="stable")]
        half = self.options.shortlist // 2
        rest = sorted(order[half:])
        others = thinned(len(rest), self.options.shortlist - half, situation.seed_for("shortlist"))
        return [pool[i] for i in sorted([*order[:half], *(rest[k] for k in others)])]

    def _known(
        self, situation: Situation, listed: list[Candidate], everywhere: list[Candidate]
    ) -> tuple[Covariances, list[Candidate], Array, Array]:
        """Draw everything jointly, and condition on what is pending.

        Returns:
            Covariances; the candidates they are of; positions of the listed ones, and of those that stand for the
            space.
        """
        known = list({c.id: c for c in [*situation.pending, *listed, *everywhere]}.values())
        place = {c.id: i for i, c in enumerate(known)}
        columns = list(learned_columns(situation.problem))
        seed = situation.seed_for("draws")
        drawn = np.asarray(situation.trained.draw(known, self.options.draws, seed), dtype=np.float64)[..., columns]
        check_finite(np.isfinite(drawn).all(axis=(0, 2)), "drawn candidates")
        noise = predict(situation.trained, listed).noise[:, columns].mean(axis=0) ** 2
        covariances = Covariances(drawn, noise)
        for candidate in situation.pending:
            covariances.include(place[candidate.id])
        return (
            covariances,
            known,
            np.array([place[c.id] for c in listed]),
            np.array([place[c.id] for c in everywhere]),
        )

    def _chosen(
        self, situation: Situation, covariances: Covariances, known: list[Candidate], at: Array, stand: Array
    ) -> list[Pick]:
        prediction = predict(situation.trained, [known[i] for i in at])
        columns = learned_columns(situation.problem)
        names = [situation.problem.properties[j] for j in columns]
        listed = [known[i] for i in at]
        success, slots, last = situation.log_success(listed), Slots(situation, listed), situation.before
        picks = []
        for _ in range(min(situation.q, len(at))):
            typical = np.sqrt(covariances.variances()[stand].mean(axis=0))
            shares = _shares(covariances, at, stand)
            gains = shares.mean(axis=1) * np.exp(success - situation.price(listed, last))
            best = int(np.lexsort((-gains, ~slots.open()))[0])
            slots.take(best)
            last = listed[best]
            told = ", ".join(
                f"{share:.1%} of the variance of {name}" for name, share in zip(names, shares[best], strict=True)
            )
            picks.append(
                Pick(
                    known[at[best]],
                    float(gains[best]),
                    f"takes away {told} over the whole space, the most that is left; predicted"
                    f" {expected(situation, prediction, best)}",
                    {
                        "among": len(at),
                        "space_stands_on": len(stand),
                        "variance_taken_away": {n: float(v) for n, v in zip(names, shares[best], strict=True)},
                        "typical_sd_before": {n: float(v) for n, v in zip(names, typical, strict=True)},
                    },
                )
            )
            covariances.include(int(at[best]))
        return picks


def _shares(covariances: Covariances, at: Array, stand: Array) -> Array:
    """Return which share of the summed variance each listed candidate would take away, k × properties."""
    total = covariances.variances()[stand].sum(axis=0)
    return np.asarray(covariances.explained(at, stand) / np.maximum(total, np.finfo(float).tiny))
