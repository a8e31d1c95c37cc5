"""What the policies share that want to know, not to find the best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from orchestrator.acquisition.open import open_count
from orchestrator.acquisition.policy import Policy
from orchestrator.domain import Candidate, Dataset, DecisionSummary, Problem
from orchestrator.protocols import SearchSpace, Surrogate


class LearningPolicy(Policy):
    """Base of policies with a learning goal: there is no best, so nothing is said of it."""

    def learns(self) -> bool:
        """Say so; see `Learns`."""
        return True

    def summary(
        self,
        surrogate: Surrogate | None,
        space: SearchSpace,
        *,
        q: int = 1,
        problem: Problem,
        dataset: Dataset,
        pending: Sequence[Candidate],
        closed: frozenset[str],
        costs: Mapping[str, float],
        seed: int,
    ) -> DecisionSummary:
        """Say how many candidates are open; see `Policy.summary`."""
        del surrogate, q, problem, costs, seed
        shut = frozenset(closed) | {row.candidate.id for row in dataset.rows} | {c.id for c in pending}
        return DecisionSummary(open_candidates=open_count(space, shut))


def learned_columns(problem: Problem) -> tuple[int, ...]:
    """Return the columns of the properties with the goal ``learn``; of all objectives where there is none."""
    wanted = [o.property for o in problem.objectives if o.goal == "learn"]
    wanted = wanted or [o.property for o in problem.objectives]
    return tuple(problem.properties.index(name) for name in wanted)


def thinned(count: int, most: int, seed: int) -> list[int]:
    """Return at most `most` of `count` positions, a seeded choice, ascending."""
    if count <= most:
        return list(range(count))
    return sorted(int(i) for i in np.random.default_rng(seed).permutation(count)[:most])
