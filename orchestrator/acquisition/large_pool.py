"""A few thousand candidates of a large pool, among which every policy then chooses as it does from a small one.

The whole pool is scored as arrays; the best by each of several questions come into the shortlist, so that no policy
misses what it looks for: expected improvement (Ament et al., NeurIPS 2023, arXiv:2310.20708), an optimistic bound, the
mean, what is least known, the favourites of each ensemble member; and a random share, which no surrogate can keep
out. With several objectives the first three become random scalarisations (ParEGO; Knowles, IEEE Trans. Evol. Comput.
10, 50 (2006), doi:10.1109/TEVC.2005.851274). One chemical system cannot fill a list. Ties go by id, and positions are
those of the sorted ids, so neither depends on the order of the file.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from orchestrator.abilities import PoolScores
from orchestrator.acquisition.features import fractions
from orchestrator.acquisition.gains import utilities
from orchestrator.acquisition.listing import Booleans, Listing, Places, is_open, listing, size_of
from orchestrator.acquisition.marginal import log_probability_feasible, marginal_scores, optimistic
from orchestrator.acquisition.pool_scores import score
from orchestrator.acquisition.situation import Situation
from orchestrator.domain import Array, Candidate, Prediction
from orchestrator.protocols import FiniteSpace, SearchSpace

LARGE = 20_000
"""Candidates above which a pool is scored as arrays; below, objects are quick enough."""
SHORTLIST = 4096
"""Candidates that policies choose among: ten times what any of them draws jointly by default."""
BLOCK = 1 << 20
"""Candidates ranked at once: a dozen double-precision numbers each."""
SHARES = {"improvement": 0.4, "bound": 0.2, "mean": 0.15, "doubt": 0.1, "members": 0.05}
"""Parts of the shortlist by question; what is left of it, and what the lists have in common, is random."""
BETA = 2.0
"""Standard deviations of the optimistic bound: the default of `upper_confidence_bound`."""
SCALARISATIONS = 16
"""Weights among several objectives: corners, the middle, and random ones."""
SYSTEM_SHARE = 0.25
"""One chemical system fills at most this part of a list, unless there is nothing else."""
BAD = 16
"""Candidates without a finite score that are passed on, so that the policy finds out and falls back."""


def is_large(space: SearchSpace) -> bool:
    """Say whether candidates of a space are to be shortlisted from arrays."""
    return isinstance(space, FiniteSpace) and size_of(space) > LARGE


def shortlist(situation: Situation, size: int | None = None) -> list[Candidate]:
    """Choose the candidates that are worth a closer look.

    Args:
        situation: over a listed space; without a surrogate the choice is random.
        size: how many; by default `SHORTLIST`, or `LARGE` where they cost no prediction.

    Returns:
        Different open candidates, sorted by id.
    """
    space = situation.space
    if not isinstance(space, FiniteSpace):
        message = f"a shortlist is made of a listed space, not of {type(space).__name__}"
        raise TypeError(message)
    pool = listing(space)
    free = is_open(pool, situation.closed)
    size = size or (LARGE if situation.surrogate is None else SHORTLIST)
    size = min(size, int(free.sum()))
    rng = np.random.default_rng(situation.seed_for("shortlist"))
    chosen: list[Places] = []
    if situation.surrogate is not None:
        scores = score(situation, space)
        finite = np.isfinite(scores.mean).all(axis=1) & np.isfinite(scores.epistemic).all(axis=1)
        bad = np.flatnonzero(free & ~finite)[:BAD]
        chosen = [bad] if len(bad) else _best(situation, pool, scores, free, size)
    listed = np.unique(np.concatenate(chosen)) if chosen else np.zeros(0, dtype=np.intp)
    others = np.flatnonzero(free)
    others = others[~np.isin(others, listed, assume_unique=True)]
    more = rng.choice(others, size=min(size - len(listed), len(others)), replace=False) if len(others) else others
    return pool.take(np.sort(np.concatenate([listed, more])))


def greedy_on_members(members: npt.NDArray[np.float32], free: Booleans, best: float, q: int) -> Places:
    """Choose a batch on the members of an ensemble alone: each pick adds most to the best that each member sees.

    Args:
        members: utilities, s × n.
        free: which candidates may be chosen, n.
        best: utility already reached.
        q: how many.

    Returns:
        Positions, best first.
    """
    reached = np.full(len(members), best, dtype=np.float32)
    left = free.copy()
    picks: list[int] = []
    for _ in range(min(q, int(free.sum()))):
        gain = np.zeros(members.shape[1], dtype=np.float32)
        for values, level in zip(members, reached, strict=True):
            gain += np.maximum(values - level, 0.0)
        gain[~left] = -1.0
        if gain.max() <= 0.0:  # no member sees a gain: the best on average
            gain = np.where(left, members.mean(axis=0), -np.inf)
        pick = int(np.argmax(gain))
        picks.append(pick)
        left[pick] = False
        reached = np.maximum(reached, members[:, pick])
    return np.array(picks, dtype=np.intp)


def _best(situation: Situation, pool: Listing, scores: PoolScores, free: Booleans, size: int) -> list[Places]:
    """Return the best open positions by each question."""
    ranks = _ranks(situation, scores)
    found = []
    for question, share in SHARES.items():
        asked = ranks.get(question, [])
        for values in asked:
            values[~free] = -np.inf
            found.append(_capped(pool, values, max(int(share * size / len(asked)), 1)))
    if scores.members is not None and len(situation.problem.objectives) == 1:
        members = np.stack([_utility(situation, member) for member in scores.members])
        known = situation.labels()
        seen = utilities(known.values, situation.problem)[:, 0] if len(known) else np.zeros(0)
        seen = seen[np.isfinite(seen)]
        best = float(seen.max()) if len(seen) else float(members.min())
        found.append(greedy_on_members(members, free, best, 2 * situation.q))
    return found


def _ranks(situation: Situation, scores: PoolScores) -> dict[str, list[Array]]:
    """Return scores of every candidate by question, n each, larger first."""
    spread = np.maximum(scores.epistemic.std(axis=0), 1e-30)
    ranks = {"doubt": [np.asarray((scores.epistemic / spread).sum(axis=1), dtype=np.float64)]}
    goals = [o for o in situation.problem.objectives if o.goal != "learn"]
    if not goals:
        return ranks
    if len(goals) == 1:
        parts = [_three(situation, _as_prediction(scores, i)) for i in range(0, len(scores.mean), BLOCK)]
        for j, question in enumerate(("improvement", "bound", "mean")):
            ranks[question] = [np.concatenate([part[j] for part in parts])]
        if scores.members is not None:
            ranks["members"] = [_utility(situation, member).astype(np.float64) for member in scores.members]
        return ranks
    ranks["improvement"] = _scalarised(situation, scores, 1.0)
    ranks["bound"] = _scalarised(situation, scores, BETA)
    ranks["mean"] = _scalarised(situation, scores, 0.0)
    return ranks


def _three(situation: Situation, prediction: Prediction) -> tuple[Array, Array, Array]:
    allowed = _allowed(situation, prediction)
    return (
        marginal_scores(situation, prediction),
        optimistic(situation, prediction, BETA)[:, 0] + allowed,
        utilities(prediction.mean, situation.problem)[:, 0] + allowed,
    )


def _allowed(situation: Situation, prediction: Prediction) -> Array:
    """Return zero where constraints probably hold, else what puts a candidate behind all others, n."""
    column = {name: j for j, name in enumerate(situation.problem.properties)}
    total = np.zeros(len(prediction.mean))
    for constraint in situation.problem.constraints:
        j = column[constraint.property]
        total += log_probability_feasible(constraint, prediction.mean[:, j], prediction.epistemic[:, j])
    return np.where(total < np.log(0.5), -1e12, 0.0)


def _scalarised(situation: Situation, scores: PoolScores, beta: float) -> list[Array]:
    """Return the worst weighted objective of every candidate, one array of n a weight vector."""
    starts = range(0, len(scores.mean), BLOCK)
    pieces = [_as_prediction(scores, start) for start in starts]
    hopeful = np.concatenate([optimistic(situation, piece, beta) for piece in pieces])
    allowed = np.concatenate([_allowed(situation, piece) for piece in pieces])
    low, high = hopeful.min(axis=0), hopeful.max(axis=0)
    unit = (hopeful - low) / np.where(high > low, high - low, 1.0)
    k = unit.shape[1]
    rng = np.random.default_rng(situation.seed_for("scalarisations"))
    weights = np.vstack([np.eye(k), np.full((1, k), 1 / k), rng.dirichlet(np.ones(k), SCALARISATIONS - k - 1)])
    # weighted distance to the best corner, and a little of the sum so that nothing dominated ties
    return [-((1.0 - unit) * w).max(axis=1) + 0.05 * (unit * w).sum(axis=1) + allowed for w in weights]


def _utility(situation: Situation, values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return the utility of the one objective, n, of property values, n × m."""
    wide = np.asarray(values, dtype=np.float64)
    return np.asarray(utilities(wide, situation.problem)[:, 0], dtype=np.float32)


def _as_prediction(scores: PoolScores, start: int) -> Prediction:
    mean = np.asarray(scores.mean[start : start + BLOCK], dtype=np.float64)
    epistemic = np.asarray(scores.epistemic[start : start + BLOCK], dtype=np.float64)
    return Prediction(mean, epistemic, np.zeros_like(mean))


def _capped(pool: Listing, values: Array, size: int) -> Places:
    """Return the best positions, no chemical system more often than its share where others can fill the list."""
    ahead = _top(values, 4 * size)
    if len(ahead) <= size or not fractions(pool.take(ahead[:1])[0]):
        return ahead[:size]
    kinds = [frozenset(fractions(candidate)) for candidate in pool.take(ahead)]
    most, seen = max(int(SYSTEM_SHARE * size), 1), dict.fromkeys(kinds, 0)
    first: list[np.intp] = []
    rest: list[np.intp] = []
    for place, kind in zip(ahead, kinds, strict=True):
        seen[kind] += 1
        (first if seen[kind] <= most else rest).append(place)
    return np.array([*first, *rest][:size], dtype=np.intp)


def _top(values: Array, size: int) -> Places:
    """Return the positions of the largest finite values, best first; of equal ones the first."""
    size = min(size, int(np.isfinite(values).sum()))
    if not size:
        return np.zeros(0, dtype=np.intp)
    least = np.partition(values, len(values) - size)[len(values) - size]
    above = np.flatnonzero(values > least)
    level = np.flatnonzero(values == least)[: size - len(above)]
    found = np.concatenate([above, level])
    return found[np.lexsort((found, -values[found]))]
