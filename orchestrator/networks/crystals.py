"""A crystal's identity for caches, and its conversion for networks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from orchestrator.domain import Candidate, Crystal, sha256
from orchestrator.errors import MaterialError


def crystals_of(candidates: Sequence[Candidate]) -> list[Crystal]:
    """Return the crystal of each candidate.

    Args:
        candidates: n candidates.

    Returns:
        n crystals.

    Raises:
        MaterialError: a candidate has none.
    """
    crystals = []
    for candidate in candidates:
        if candidate.crystal is None or not candidate.crystal.species:
            message = (
                f"candidate {candidate.label!r} has no crystal, which graph features need; use a space of structures,"
                " or a surrogate for compositions or parameters (composition_forest, gaussian_process)"
            )
            raise MaterialError(message)
        crystals.append(candidate.crystal)
    return crystals


def content_key(crystal: Crystal) -> str:
    """Return a hash of the exact numbers of a crystal, the key of every feature cache.

    Candidates' ids are not used: they round coordinates, and features of two roundings of one candidate differ in the
    last digits, so that a cache would decide which of them a campaign sees.
    """
    numbers = np.array([*crystal.lattice, *crystal.frac_coords], dtype=np.float64).tobytes()
    return sha256(" ".join(crystal.species).encode() + b"|" + numbers)


def to_structure(crystal: Crystal) -> Any:
    """Return the crystal as a pymatgen `Structure`."""
    from pymatgen.core import Lattice, Structure  # noqa: PLC0415  2 s to import

    return Structure(Lattice(np.array(crystal.lattice)), list(crystal.species), np.array(crystal.frac_coords))
