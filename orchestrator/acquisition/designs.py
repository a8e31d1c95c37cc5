"""Random and Diverse: designs that need no surrogate, for the first trials and as baselines.

Diverse is the farthest-point rule (Gonzalez, Theor. Comput. Sci. 38, 293 (1985), doi 10.1016/0304-3975(85)90224-5):
each pick is the candidate farthest from all that is measured, in flight or picked. On a box the candidates are
scrambled Sobol points.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field
from scipy.stats import qmc

from orchestrator.acquisition.features import describe, distances
from orchestrator.acquisition.policy import Pick, Policy, PolicyOptions, Situation
from orchestrator.acquisition.slots import Slots
from orchestrator.domain import Candidate, Value
from orchestrator.errors import SpaceError
from orchestrator.protocols import Axis, BoxSpace, FiniteSpace

LARGEST_POOL = 20_000
"""Candidates compared at most (a seeded choice of a larger pool): bounds memory to some 20 MB."""


class Random(Policy):
    """Choose at random, every open candidate alike."""

    name = "random"

    def pick(self, situation: Situation) -> list[Pick]:
        """Choose up to q open candidates."""
        pool = self.pool(situation, 4 * situation.q)
        rng = np.random.default_rng(situation.seed_for("random"))
        order = rng.permutation(len(pool))
        slots, picks = Slots(situation, pool), []
        for _ in range(min(situation.q, len(pool))):
            i = int(order[np.flatnonzero(slots.open()[order])[0]])
            slots.take(i)
            picks.append(Pick(pool[i], None, f"chosen at random among {len(pool)} candidates"))
        return picks


class DiverseOptions(PolicyOptions):
    """Options of `Diverse`.

    Args:
        samples: points compared for each one wanted, where the space cannot be listed.
    """

    samples: int = Field(default=32, ge=4, le=4096)


class Diverse(Policy):
    """Choose candidates that are far from everything measured, in flight and picked."""

    Options: ClassVar[type[PolicyOptions]] = DiverseOptions
    options: DiverseOptions
    name = "diverse"

    def pick(self, situation: Situation) -> list[Pick]:
        """Choose up to q open candidates, each the farthest from all before."""
        rng = np.random.default_rng(situation.seed_for("diverse"))
        pool = self._compared(situation, rng)
        known = {c.id: c for c in situation.pending} | {
            row.candidate.id: row.candidate for row in situation.dataset.rows
        }
        around = [known[key] for key in sorted(known)]
        features = describe([*pool, *around], situation.space)
        points, apart = features[: len(pool)], np.full(len(pool), np.inf)
        if around:
            apart = distances(points, features[len(pool) :]).min(axis=1)
        slots = Slots(situation, pool)
        tie = rng.permutation(len(pool))  # equally far candidates: a seeded choice; the first pick is one, too
        picks = []
        for _ in range(min(situation.q, len(pool))):
            i = int(np.lexsort((tie, -apart, ~slots.open()))[0])
            slots.take(i)
            far = float(apart[i])
            reason = (
                f"farthest from everything measured or chosen (distance {far:.2g} in elements and parameters)"
                if np.isfinite(far)
                else "a seeded first point; the next ones go far from it"
            )
            picks.append(Pick(pool[i], far if np.isfinite(far) else None, reason, {"among": len(pool)}))
            apart = np.minimum(apart, distances(points, points[i : i + 1])[:, 0])
        return picks

    def _compared(self, situation: Situation, rng: np.random.Generator) -> list[Candidate]:
        space = situation.space
        if isinstance(space, BoxSpace) and not isinstance(space, FiniteSpace) and not space.linear():
            found = sobol(space, situation)
            if found:
                return found
        pool = self.pool(situation, self.options.samples * situation.q)
        if len(pool) > LARGEST_POOL:
            pool = [pool[i] for i in sorted(rng.permutation(len(pool))[:LARGEST_POOL])]
        return pool


def sobol(space: BoxSpace, situation: Situation) -> list[Candidate]:
    """Return open candidates at scrambled Sobol points of a box without linear constraints.

    The first q of them when nothing is measured yet, since they are spread already; else four times as many, from
    which the farthest are taken.
    """
    axes = space.axes()
    wanted = situation.q if not (situation.dataset.rows or situation.pending) else 4 * situation.q
    engine = qmc.Sobol(len(axes), scramble=True, rng=np.random.default_rng(situation.seed_for("sobol")))
    found: dict[str, Candidate] = {}
    power = max(int(np.ceil(np.log2(max(wanted, 2)))), 3)
    for _ in range(3):  # rounding can make points equal: look further along the sequence, twice at most
        for point in engine.random_base2(power):
            try:
                candidate = space.make({axis.name: _at(axis, float(u)) for axis, u in zip(axes, point, strict=True)})
            except SpaceError:
                continue
            if candidate.id not in situation.closed and len(found) < wanted:
                found[candidate.id] = candidate
        if len(found) >= wanted:
            break
    return [found[key] for key in sorted(found)]


def _at(axis: Axis, u: float) -> Value:
    """Turn a number between 0 and 1 into a value of an axis."""
    if axis.kind == "categorical":
        return axis.choices[min(int(u * len(axis.choices)), len(axis.choices) - 1)]
    if axis.kind == "integer":
        return int(axis.low) + min(int(u * (int(axis.high) - int(axis.low) + 1)), int(axis.high) - int(axis.low))
    if axis.log:
        return float(np.exp(np.log(axis.low) + u * (np.log(axis.high) - np.log(axis.low))))
    return axis.low + u * (axis.high - axis.low)
