"""What counts beside a gain when a batch is chosen pick by pick: the odds of success, the expense, the places left."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from orchestrator.acquisition.gains import Booleans
from orchestrator.acquisition.situation import Situation
from orchestrator.acquisition.slots import Slots
from orchestrator.domain import Array, Candidate


class Worth:
    """What counts beside the gain of each of n candidates: how likely it is to succeed, and what it costs next.

    Args:
        situation: gives both.
        candidates: n.
    """

    def __init__(self, situation: Situation, candidates: Sequence[Candidate]) -> None:
        self.situation = situation
        self.candidates = candidates
        self.success = situation.log_success(candidates)
        self.slots = Slots(situation, candidates)
        self.last: Candidate | None = None

    def logs(self) -> Array:
        """Return what is added to the logarithm of each candidate's gain, n."""
        return self.success - self.situation.price(self.candidates, self.last)

    def succeeds(self, i: int, s: int) -> Booleans:
        """Say in which of s draws candidate i succeeds; without failures so far, in all."""
        chance = float(np.exp(self.success[i]))
        rng = np.random.default_rng(self.situation.seed_for(f"success {self.candidates[i].id}"))
        return np.asarray(rng.random(s) < chance)

    def take(self, i: int) -> None:
        """Count candidate i as picked: its place is filled, and changes are counted from it on."""
        self.last = self.candidates[i]
        self.slots.take(i)
