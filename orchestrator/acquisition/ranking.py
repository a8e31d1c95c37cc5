"""Ranking candidates by one score each, for policies that do not choose on joint draws."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from orchestrator.acquisition.draws import known_feasible, reference
from orchestrator.acquisition.gains import Front, utilities
from orchestrator.acquisition.open import blend
from orchestrator.acquisition.situation import Situation, check_finite, predict
from orchestrator.acquisition.slots import Slots
from orchestrator.domain import Array, Candidate
from orchestrator.protocols import BoxSpace, FiniteSpace

ROUNDS = 2
"""Times that the points of a box are refined around the best; a third round changed no test's outcome."""
PARENTS = 16
"""Best points to refine around: enough for several optima."""

Score = Callable[[list[Candidate]], tuple[Array, Array]]
"""Utilities (n × k) and penalties (n, zero where feasible, else below) of candidates."""


EVEN_ODDS = float(np.log(0.5))
"""A candidate counts as feasible when it is at least half as likely to be so as the likeliest one."""


def unlikely(log_odds: Array) -> Array:
    """Return penalties from logarithms of probabilities, n: zero where even odds are reached, else below.

    Even odds are meant against the likeliest candidate, so that in a space in which most trials fail there is still a
    choice.
    """
    return np.where(log_odds >= EVEN_ODDS + min(float(log_odds.max(initial=-np.inf)), 0.0), 0.0, log_odds)


def ranked(
    situation: Situation, values: Array, penalty: Array, candidates: Sequence[Candidate]
) -> list[tuple[int, float]]:
    """Choose up to q of n points.

    With one objective, the largest utilities; feasible points come first. With several, each pick is the one that
    adds most hypervolume to the measured front and to the picks before it.

    Args:
        situation: gives q, and the measured points for the hypervolume.
        values: utilities, n × k.
        penalty: n, zero where feasible and below zero elsewhere.
        candidates: the n candidates.

    Returns:
        Position and score of each pick, best first.

    Raises:
        NonFiniteValues: a utility is NaN or infinite.
    """
    check_finite(np.isfinite(values).all(axis=1), "utilities")
    q, slots = min(situation.q, len(values)), Slots(situation, candidates)
    if values.shape[1] == 1:
        order, chosen = np.lexsort((-values[:, 0], -penalty)), []
        for _ in range(q):
            i = int(order[np.argmax(slots.open()[order])])
            slots.take(i)
            chosen.append((i, float(values[i, 0])))
        return chosen
    front = measured_front(situation, values)
    spread = np.where(values.std(axis=0) > 0, values.std(axis=0), 1.0)
    near = ((values - values.max(axis=0)) / spread).sum(axis=1)  # ranks what adds no hypervolume
    picks = []
    for _ in range(q):
        gains = front.gains(values[None], np.ones((1, len(values)), dtype=bool))[0]
        i = int(np.lexsort((-near, -gains, -penalty, ~slots.open()))[0])
        slots.take(i)
        picks.append((i, float(gains[i])))
        front.include(values[None, i], np.ones(1, dtype=bool))
    return picks


def measured_front(situation: Situation, values: Array) -> Front:
    """Return the front of the posterior means of measured and pending points, one draw.

    Args:
        situation: with a trained surrogate.
        values: utilities of open points, n × k, from which the reference is inferred where nothing is measured.
    """
    labels = situation.labels()
    known = [*labels.candidates, *situation.pending]
    good = np.concatenate([known_feasible(labels.values, situation.problem), np.ones(len(situation.pending), bool)])
    k = values.shape[1]
    reached = utilities(predict(situation.trained, known).mean, situation.problem) if known else np.zeros((0, k))
    return Front(reached[None], good[None], reference(situation, values), np.full(1, values[:, 0].min()))


def searched(pool: list[Candidate], situation: Situation, score: Score) -> list[Candidate]:
    """Refine the sampled points of a box around its best points; a listed pool is returned as it is.

    Args:
        pool: open candidates.
        situation: gives the space and the closed ids.
        score: utilities and penalties.

    Returns:
        Different open candidates, sorted by id.
    """
    space = situation.space
    if isinstance(space, FiniteSpace) or not isinstance(space, BoxSpace):
        return pool
    for number in range(ROUNDS):
        values, penalty = score(pool)
        check_finite(np.isfinite(values).all(axis=1), "utilities")
        spread = np.where(values.std(axis=0) > 0, values.std(axis=0), 1.0)
        order = np.lexsort((-(values / spread).sum(axis=1), -penalty))
        best = [pool[i] for i in order[:PARENTS]]
        pool = refined(space, pool, best, situation, number)
    return pool


def refined(
    space: BoxSpace, pool: Sequence[Candidate], best: Sequence[Candidate], situation: Situation, number: int
) -> list[Candidate]:
    """Add blends of good points with all points to a sampled pool; sorted by id."""
    seed = situation.seed_for(f"refine {number}")
    more = blend(space, best, pool, situation.closed, size=max(len(pool) // 2, PARENTS), seed=seed)
    found = {candidate.id: candidate for candidate in [*pool, *more]}
    return [found[key] for key in sorted(found)]
