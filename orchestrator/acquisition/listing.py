"""A listed space in the order of its ids: which positions are still open, without looking at every candidate."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from orchestrator.domain import Candidate, canonical_json, sha256
from orchestrator.protocols import ColumnarSpace, FiniteSpace

Booleans = npt.NDArray[np.bool_]
Places = npt.NDArray[np.intp]


class Listing(Protocol):
    """What choosing from a large pool needs of it; `ColumnarSpace` has it."""

    def count(self) -> int:
        """Return the number of candidates, n."""

    def ids(self) -> npt.NDArray[np.bytes_]:
        """Return the ids as 32 bytes each, sorted: n."""

    def take(self, positions: Sequence[int] | Places) -> list[Candidate]:
        """Return the candidates at given positions."""


class _Sorted:
    """An ordinary list of candidates, sorted by id."""

    def __init__(self, candidates: Sequence[Candidate]) -> None:
        self.listed = candidates
        ordered = {candidate.id: candidate for candidate in candidates}
        self._candidates = [ordered[key] for key in sorted(ordered)]
        self._ids = packed(ordered)

    def count(self) -> int:
        return len(self._candidates)

    def ids(self) -> npt.NDArray[np.bytes_]:
        return self._ids

    def take(self, positions: Sequence[int] | Places) -> list[Candidate]:
        return [self._candidates[int(i)] for i in positions]


_KNOWN: WeakKeyDictionary[FiniteSpace, _Sorted] = WeakKeyDictionary()
"""Sorting a hundred thousand candidates takes a second, and a space is asked in every decision."""


def listing(space: FiniteSpace) -> Listing:
    """Return a space in the order of its ids."""
    if isinstance(space, ColumnarSpace):
        return space
    candidates = space.candidates()
    try:
        known = _KNOWN.get(space)
        if known is None or known.listed is not candidates:
            known = _KNOWN[space] = _Sorted(candidates)
    except TypeError:  # a space from outside that cannot be a key
        return _Sorted(candidates)
    return known


def size_of(space: FiniteSpace) -> int:
    """Count the candidates of a listed space."""
    return space.count() if isinstance(space, ColumnarSpace) else len(space.candidates())


def pool_hash(space: FiniteSpace) -> str:
    """Return what identifies the pool: the hash of its ids."""
    if isinstance(space, ColumnarSpace):
        return str(space.summary()["sha256"])
    return sha256(listing(space).ids().tobytes())


def is_open(pool: Listing, closed: Iterable[str]) -> Booleans:
    """Say which candidates are not closed, n: by bisection, so that it costs nothing beside the pool.

    Args:
        pool: n candidates.
        closed: ids; those of other spaces do no harm.
    """
    ids = pool.ids()
    wanted = packed(closed)
    found = np.searchsorted(ids, wanted)
    inside = found < len(ids)
    hit = found[inside][ids[found[inside]] == wanted[inside]]
    free = np.ones(len(ids), dtype=bool)
    free[hit] = False
    return free


def packed(ids: Iterable[str]) -> npt.NDArray[np.bytes_]:
    """Return ids as 32 bytes each, sorted; what is no id is left out."""
    found = []
    for one in ids:
        try:
            content = bytes.fromhex(one)
        except ValueError:
            continue
        if len(content) == 32:  # noqa: PLR2004  SHA-256
            found.append(content)
    return np.array(sorted(found), dtype="S32")


def key_of(*parts: object) -> str:
    """Return a name for what follows from the parts."""
    return sha256(canonical_json([str(part) for part in parts]))
