"""Formulas as the composition network reads them: which elements, in which fractions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from orchestrator.domain import Array, Candidate
from orchestrator.networks.composition import element_table, fractions


@dataclass(frozen=True, eq=False)
class Formula:
    """The elements of one formula.

    Args:
        species: atomic number minus one, e.
        fractions: of the atoms, e, summing to 1: Fe2O4 and FeO2 are one formula.
    """

    species: npt.NDArray[np.int64]
    fractions: Array

    @property
    def key(self) -> str:
        """Return what tells two formulas apart, for caches."""
        return " ".join(f"{z}:{part:.12g}" for z, part in zip(self.species, self.fractions, strict=True))


def formulas_of(candidates: Sequence[Candidate]) -> list[Formula]:
    """Return the formula of each candidate, from its crystal or its composition.

    Args:
        candidates: n candidates.

    Returns:
        n formulas.

    Raises:
        MaterialError: a candidate has neither a crystal nor a composition, or the formula cannot be read.
    """
    found = []
    for candidate in candidates:
        parts = fractions(candidate)
        species = np.array([_places()[symbol] for symbol in parts], dtype=np.int64)
        found.append(Formula(species, np.array(list(parts.values()))))
    return found


@cache
def _places() -> dict[str, int]:
    return {symbol: i for i, symbol in enumerate(element_table())}
