"""Where a space is too large to look at every candidate: the few thousand among which policies choose."""

from __future__ import annotations

from orchestrator.acquisition.large_pool import is_large, shortlist
from orchestrator.acquisition.open import open_candidates
from orchestrator.acquisition.product_search import promising
from orchestrator.acquisition.situation import Situation
from orchestrator.domain import Candidate
from orchestrator.protocols import FiniteSpace, ProductSpace


def to_choose_from(situation: Situation, size: int, purpose: str = "sample") -> list[Candidate]:
    """List the candidates among which a policy chooses.

    Args:
        situation: everything that a decision may depend on.
        size: how many to sample of a space that cannot be listed.
        purpose: names the seed of sampling.

    Returns:
        Different open candidates, sorted by id: all of a small pool, the promising ones of a large pool or of a
        product, sampled ones of a box.
    """
    if is_large(situation.space):
        return shortlist(situation)
    if isinstance(situation.space, ProductSpace) and not isinstance(situation.space, FiniteSpace):
        return promising(situation, situation.space, size)
    return open_candidates(situation.space, situation.closed, size, situation.seed_for(purpose))
