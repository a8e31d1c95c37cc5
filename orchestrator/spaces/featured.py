"""Plain numbers of the rows of a columnar pool, for surrogates that score it from arrays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from pymatgen.core import Composition

from orchestrator import kept
from orchestrator.spaces import cache
from orchestrator.spaces.columnar_table import Rows, Texts, one_hot

Narrow = npt.NDArray[np.float32]


def featured(rows: Rows, entry: str | None) -> tuple[Narrow, tuple[str, ...]]:
    """Describe rows by numbers.

    Args:
        rows: n rows.
        entry: of the cache, where the result is to be memory-mapped; None keeps it in memory.

    Returns:
        n × d in single precision, and the names of the columns: parameters, ``parameter=name``, ``fraction of X``.
    """
    words = {name: [bytes(word) for word in np.unique(array)] for name, array in rows.names.items()}
    elements = _elements(rows.composition)
    names = [*sorted(rows.numbers)]
    names += [f"{name}={word.decode()}" for name in sorted(words) for word in words[name]]
    names += [f"fraction of {symbol}" for symbol in elements]
    n = len(rows.ids)
    stored = None if entry is None else kept.read("columns", entry)
    if stored is not None and stored.shape == (n, len(names)):
        return stored, tuple(names)
    with kept.scratch("columns", entry, (n, len(names))) as made:
        for start in range(0, n, cache.CHUNK):
            piece = slice(start, start + cache.CHUNK)
            blocks: list[npt.NDArray[Any]] = [rows.numbers[name][piece, None] for name in sorted(rows.numbers)]
            blocks += [one_hot(rows.names[name][piece], words[name]) for name in sorted(words)]
            if rows.composition is not None:
                blocks.append(_fractions(rows.composition[piece], elements))
            made[piece] = np.hstack(blocks)
    return made, tuple(names)


def _elements(formulas: Texts | None) -> Mapping[str, int]:
    """Return the elements of all formulas with their columns."""
    if formulas is None:
        return {}
    found: set[str] = set()
    for start in range(0, len(formulas), cache.CHUNK):
        for formula in np.unique(formulas[start : start + cache.CHUNK]).tolist():
            found |= set(Composition(formula.decode()).as_dict())
    return {symbol: j for j, symbol in enumerate(sorted(found))}


def _fractions(formulas: Texts, column: Mapping[str, int]) -> Narrow:
    unique, place = np.unique(formulas, return_inverse=True)
    table = np.zeros((len(unique), len(column)), dtype=np.float32)
    for i, formula in enumerate(unique.tolist()):
        for symbol, fraction in Composition(formula.decode()).fractional_composition.as_dict().items():
            table[i, column[symbol]] = fraction
    return np.asarray(table[place], dtype=np.float32)
