"""Which candidates may fill the next place of a batch: each once, and not too many of one chemical system.

A surrogate that likes one element set likes all its neighbours too; a hard cap per system is cheap protection against
a batch of near-duplicates, and against one synthesis failing for all of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from orchestrator.acquisition.features import fractions
from orchestrator.acquisition.gains import Booleans
from orchestrator.acquisition.situation import Situation
from orchestrator.domain import Candidate

Places = npt.NDArray[np.intp]


class Slots:
    """The places of a batch, and who may fill the next one.

    Args:
        situation: gives the cap, and the pending candidates that count against it.
        candidates: n different ones.
    """

    def __init__(self, situation: Situation, candidates: Sequence[Candidate]) -> None:
        self.free = np.ones(len(candidates), dtype=bool)
        self.most = situation.most_per_system
        if self.most is None:
            return
        counts = Counter(system(candidate) for candidate in situation.pending)
        systems = [system(candidate) for candidate in candidates]
        number = {name: i for i, name in enumerate(dict.fromkeys(systems))}
        self.kind = np.array([number[name] for name in systems], dtype=np.intp)
        self.room = np.array([self.most - counts[name] if name else np.inf for name in number], dtype=np.float64)

    def open(self) -> Booleans:
        """Say who may fill the next place, n; where every system is full, whoever is left."""
        if self.most is None:
            return self.free
        allowed = self.free & (self.room[self.kind] > 0)
        return allowed if allowed.any() else self.free

    def has_room(self, i: int) -> bool:
        """Say whether candidate i may fill a place without lifting the cap."""
        return bool(self.free[i]) and (self.most is None or bool(self.room[self.kind[i]] > 0))

    def take(self, i: int) -> None:
        """Fill a place with candidate i."""
        self.free[i] = False
        if self.most is not None:
            self.room[self.kind[i]] -= 1


def system(candidate: Candidate) -> str:
    """Return the elements of a candidate, such as ``Ba-O-Ti``; empty where it has none."""
    return "-".join(sorted(fractions(candidate)))


def promising(situation: Situation, candidates: Sequence[Candidate], order: Places, size: int) -> Places:
    """Return the first of a ranking, and as many of other systems as a capped batch can need.

    Args:
        situation: gives the cap and the size of the batch.
        candidates: n.
        order: positions, best first.
        size: how many of the best.

    Returns:
        Positions, in the order of the ranking.
    """
    ahead = order[:size]
    if situation.most_per_system is None or len(order) <= size:
        return ahead
    slots = Slots(situation, candidates)
    wanted: list[int] = []
    for i in map(int, order):
        if len(wanted) >= situation.q:
            break
        if slots.has_room(i):
            slots.take(i)
            wanted.append(i)
    return order[np.isin(order, [*ahead, *wanted])]


def lifted(situation: Situation, chosen: Sequence[Candidate]) -> list[bool]:
    """Say which picks of a batch went beyond the cap because nothing else was left."""
    counts = Counter(system(candidate) for candidate in situation.pending)
    beyond = []
    for candidate in chosen:
        name = system(candidate) if situation.most_per_system is not None else ""
        counts[name] += 1
        beyond.append(bool(name) and counts[name] > (situation.most_per_system or 0))
    return beyond
