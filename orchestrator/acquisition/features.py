"""Plain coordinates of candidates for diversity and for naming neighbours: no network, no training.

A structure or composition is described by the fractions of its elements, process parameters by their place between
the smallest and the largest value. Distances are Euclidean.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from orchestrator.domain import Array, Candidate
from orchestrator.protocols import BoxSpace, SearchSpace

_TOKEN = re.compile(r"([A-Z][a-z]?)(\d*\.?\d*)|(\()|\)(\d*\.?\d*)")


def describe(candidates: Sequence[Candidate], space: SearchSpace | None = None) -> Array:
    """Place candidates in a plain feature space.

    Args:
        candidates: n.
        space: gives the bounds of parameters where it is a box; else the candidates' own range is used.

    Returns:
        n × d features; d depends on the candidates.
    """
    blocks = [_elements(candidates), _parameters(candidates, space)]
    return np.concatenate(blocks, axis=1)


def distances(one: Array, two: Array) -> Array:
    """Return Euclidean distances, n × k, between n × d and k × d features."""
    squared = (one**2).sum(1)[:, None] + (two**2).sum(1)[None, :] - 2 * one @ two.T
    return np.asarray(
        np.sqrt(np.maximum(squared, 0.0)).round(9)
    )  # rounded: equal points are equal, whatever the summation order


def fractions(candidate: Candidate) -> dict[str, float]:
    """Return the atomic fraction of each element; empty where the candidate has neither structure nor composition."""
    if candidate.crystal is not None:
        counts: dict[str, float] = dict(Counter(candidate.crystal.species))
    else:
        counts = _parsed(candidate.composition or "")
    total = sum(counts.values())
    return {symbol: n / total for symbol, n in counts.items()} if total else {}


def _parsed(formula: str) -> dict[str, float]:
    stack: list[dict[str, float]] = [{}]
    for symbol, count, opened, times in _TOKEN.findall(formula):
        if opened:
            stack.append({})
        elif symbol:
            stack[-1][symbol] = stack[-1].get(symbol, 0.0) + float(count or 1)
        elif len(stack) > 1:
            for inner, n in stack.pop().items():
                stack[-1][inner] = stack[-1].get(inner, 0.0) + n * float(times or 1)
    return stack[0]


def _elements(candidates: Sequence[Candidate]) -> Array:
    found = [fractions(candidate) for candidate in candidates]
    symbols = sorted({symbol for one in found for symbol in one})
    column = {symbol: j for j, symbol in enumerate(symbols)}
    features = np.zeros((len(found), len(symbols)))
    for i, one in enumerate(found):
        for symbol, fraction in one.items():
            features[i, column[symbol]] = fraction
    return features


def _parameters(candidates: Sequence[Candidate], space: SearchSpace | None) -> Array:
    axes = {axis.name: axis for axis in space.axes()} if isinstance(space, BoxSpace) else {}
    names = sorted({name for candidate in candidates for name in candidate.parameters})
    columns: list[Array] = []
    for name in names:
        values = [candidate.parameters.get(name) for candidate in candidates]
        texts = sorted({value for value in values if isinstance(value, str)})
        columns += [np.array([float(value == text) for value in values]) for text in texts]
        numbers = np.array([np.nan if value is None or isinstance(value, str) else float(value) for value in values])
        if not np.isfinite(numbers).any():
            continue
        axis = axes.get(name)
        low, high = (axis.low, axis.high) if axis else (float(np.nanmin(numbers)), float(np.nanmax(numbers)))
        if axis and axis.log:
            numbers, low, high = np.log(np.maximum(numbers, low)), float(np.log(low)), float(np.log(high))
        middle = (low + high) / 2
        columns.append((np.where(np.isfinite(numbers), numbers, middle) - low) / ((high - low) or 1.0))
    return np.stack(columns, axis=1) if columns else np.zeros((len(candidates), 0))
