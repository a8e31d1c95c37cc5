"""Means and standard deviations of a whole pool, computed once for what the surrogate knows, in chunks.

The next question in the same state (the summary after the choice, another process that resumes) finds them again: in
memory, or above a threshold memory-mapped in the user's cache folder. Nothing ever holds n × d numbers. A pool of
hundreds of thousands is scored after every eighth result only: its scores choose a shortlist, which is then asked anew.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from orchestrator import kept
from orchestrator.abilities import PoolScores, ScoresPool
from orchestrator.acquisition.listing import Listing, key_of, listing, pool_hash
from orchestrator.acquisition.situation import Situation
from orchestrator.domain import Dataset, sha256
from orchestrator.protocols import FiniteSpace, Surrogate

CHUNK = 4096
"""Candidates predicted at once: bounds the memory of a graph network."""
FROM_ARRAYS = 65_536
"""Candidates scored at once by a surrogate that does so itself."""
PROBES = 16
"""Candidates whose predictions tell one state of a surrogate from another."""
MAPPED = 1_000_000
"""Bytes of scores above which they are kept on disk."""
RARELY = 200_000
"""Candidates above which a pool is not scored after every result."""
EVERY = 8
"""Results after which such a pool is scored anew. The shortlist is looked at with all that is known in any case."""
KEPT = 4
"""Scores of so many states are kept on disk; a new result makes a new state."""

_RECENT: dict[str, PoolScores] = {}


def score(situation: Situation, space: FiniteSpace) -> PoolScores:
    """Score every candidate of a pool with what the surrogate knows now; of a very large one, with what it knew lately.

    Args:
        situation: with a trained surrogate.
        space: n candidates.

    Returns:
        Scores in the order of ids; NaN where the surrogate gave none.
    """
    pool = listing(space)
    now = key_of(pool_hash(space), _state(situation.trained, situation.dataset, pool))
    known = _RECENT.get(now)
    if known is not None:
        return known
    before = _before(situation) if pool.count() > RARELY else None
    if before is None:
        found = _of_state(situation.trained, pool, now)
    else:
        situation.trained.update(before)  # absolute, so that nothing is left of it after the next update
        try:
            found = _of_state(
                situation.trained, pool, key_of(pool_hash(space), _state(situation.trained, before, pool))
            )
        finally:
            situation.trained.update(situation.dataset)
    _RECENT.clear()  # one is enough: the choice and its summary ask in the same state
    _RECENT[now] = found
    return found


def _before(situation: Situation) -> Dataset | None:
    """Return what was known at the last multiple of `EVERY` trials; None where that is everything, or teaches nothing.

    It follows from the dataset alone, so that a decision is recomputed with the same scores.
    """
    dataset = situation.dataset
    trials = dataset.trials
    kept_trials = frozenset(trials[: len(trials) // EVERY * EVERY])
    if len(kept_trials) == len(trials):
        return None
    earlier = Dataset(tuple(row for row in dataset.rows if row.trial in kept_trials))
    return earlier if len(earlier.labels(situation.problem.properties)) else None


def _of_state(surrogate: Surrogate, pool: Listing, key: str) -> PoolScores:
    stored = kept.read("scores", key)
    made = _scored(surrogate, pool, key) if stored is None else stored
    return PoolScores(made[0], made[1], made[2:] if len(made) > 2 else None)  # noqa: PLR2004  mean, sd, members


def forget() -> None:
    """Drop what is in memory; what is on disk is found again."""
    _RECENT.clear()


def _scored(surrogate: Surrogate, pool: Listing, key: str) -> npt.NDArray[np.float32]:
    """Return mean, epistemic standard deviation and members, (2 + s) × n × m."""
    n, size = pool.count(), FROM_ARRAYS if isinstance(surrogate, ScoresPool) else CHUNK
    first = _piece(surrogate, pool, 0, min(size, n))
    shape = (len(first), n, first.shape[2])
    large = 4 * int(np.prod(shape)) > MAPPED
    with kept.scratch("scores", key if large else None, shape) as made:
        made[:, : first.shape[1]] = first
        for start in range(size, n, size):
            stop = min(start + size, n)
            made[:, start:stop] = _piece(surrogate, pool, start, stop)
    if large:
        kept.prune("scores", KEPT)
    return made


def _piece(surrogate: Surrogate, pool: Listing, start: int, stop: int) -> npt.NDArray[np.float32]:
    if isinstance(surrogate, ScoresPool):
        found = surrogate.score_pool(pool, start, stop)
        members = () if found.members is None else found.members
        return np.stack([found.mean, found.epistemic, *members]).astype(np.float32)
    prediction = surrogate.predict(pool.take(np.arange(start, stop)))
    return np.stack([prediction.mean, prediction.epistemic]).astype(np.float32)


def _state(surrogate: Surrogate, dataset: Dataset, pool: Listing) -> str:
    """Name the state of a surrogate: what it was brought up to, and what it says of a few candidates."""
    probes = pool.take(np.unique(np.linspace(0, pool.count() - 1, PROBES).astype(np.intp)))
    said = surrogate.predict(probes)
    content = b"".join(np.ascontiguousarray(part).tobytes() for part in (said.mean, said.epistemic, said.noise))
    if "draws" in surrogate.supports():
        content += np.ascontiguousarray(surrogate.draw(probes, 2, 0)).tobytes()
    return key_of(type(surrogate).__qualname__, dataset.sha256, sha256(content))
