"""What every finite space shares: a fixed list of candidates with ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from orchestrator.domain import Candidate, Json, JsonObject, canonical_json, sha256
from orchestrator.errors import SpaceError

LEFT_OUT = "left_out_by_"
"""Facts whose names begin so say how many entries a filter removed."""
Carried = Literal["structure", "composition", "parameters"]


class Listed:
    """A space over a list of candidates; the classes of this room build the list.

    Args:
        kind: what people call the space.
        candidates: in a fixed order; ids differ.
        facts: what was left out and why, for `summary`.

    Raises:
        SpaceError: the list is empty.
    """

    def __init__(self, kind: str, candidates: Sequence[Candidate], facts: Mapping[str, Json]) -> None:
        if not candidates:
            counts = {name.replace("_", " "): count for name, count in facts.items() if name.startswith(LEFT_OUT)}
            removed = "; ".join(f"{name}: {count}" for name, count in counts.items() if count)
            message = f"the {kind} space has no candidates ({removed or 'there was nothing to begin with'}); widen what"
            message += " removed most"
            raise SpaceError(message)
        self._kind = kind
        self._hold(candidates, facts)

    def _hold(self, candidates: Sequence[Candidate], facts: Mapping[str, Json]) -> None:
        """Hold these candidates from now on."""
        self._candidates = tuple(candidates)
        self._facts = dict(facts)
        self._by_id = {candidate.id: candidate for candidate in self._candidates}

    def offers(self) -> frozenset[Carried]:
        """Name what its candidates carry: what every one of them has."""
        carried: list[Carried] = []
        if all(candidate.crystal is not None for candidate in self._candidates):
            carried.append("structure")
        if all(candidate.composition is not None for candidate in self._candidates):
            carried.append("composition")
        if all(candidate.parameters for candidate in self._candidates):
            carried.append("parameters")
        return frozenset(carried)

    def candidates(self) -> Sequence[Candidate]:
        """Return every candidate in a fixed order."""
        return self._candidates

    def get(self, candidate_id: str) -> Candidate:
        """Return a candidate by id.

        Raises:
            KeyError: there is none.
        """
        return self._by_id[candidate_id]

    def sample(self, n: int, seed: int) -> list[Candidate]:
        """Draw up to n different candidates at random."""
        order = np.random.default_rng(seed).permutation(len(self._candidates))
        return [self._candidates[i] for i in order[:n]]

    def summary(self) -> JsonObject:
        """Describe the space: kind, size, hash of the ids, what was left out and why."""
        ids = [candidate.id for candidate in self._candidates]
        return {
            "kind": self._kind,
            "candidates": len(ids),
            "sha256": sha256(canonical_json(sorted(ids))),
            **self._facts,
        }
