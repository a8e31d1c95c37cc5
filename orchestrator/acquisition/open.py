"""The candidates that may still be proposed, in an order that does not depend on how the space lists them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from orchestrator.acquisition.listing import is_open
from orchestrator.domain import Candidate, Value
from orchestrator.errors import SpaceError
from orchestrator.protocols import BoxSpace, ColumnarSpace, FiniteSpace, SearchSpace


def open_candidates(space: SearchSpace, closed: frozenset[str], size: int, seed: int) -> list[Candidate]:
    """List what may be proposed, sorted by id.

    Args:
        space: finite, or a box.
        closed: ids that may not be proposed.
        size: how many to sample where the space cannot be listed.
        seed: for sampling.

    Returns:
        Different candidates, sorted by id; everything that is open where the space can be listed.
    """
    listed = space.candidates() if isinstance(space, FiniteSpace) else space.sample(size, seed)
    found = {candidate.id: candidate for candidate in listed if candidate.id not in closed}
    return [found[key] for key in sorted(found)]


def open_count(space: SearchSpace, closed: frozenset[str]) -> int | None:
    """Count what may be proposed; None for a space that cannot be listed."""
    if not isinstance(space, FiniteSpace):
        return None
    if isinstance(space, ColumnarSpace):
        return int(is_open(space, closed).sum())
    return len({candidate.id for candidate in space.candidates()} - closed)


def blend(
    space: BoxSpace,
    best: Sequence[Candidate],
    others: Sequence[Candidate],
    closed: frozenset[str],
    *,
    size: int,
    seed: int,
) -> list[Candidate]:
    """Make new points of a box between good points and others.

    A point between two feasible points satisfies every linear constraint, a simplex among them, so that nothing needs
    to be repaired; only rounding to the resolution can lead outside, and such points are left out.

    Args:
        space: the box.
        best: good points, at least one.
        others: points to blend with.
        closed: ids that may not be proposed.
        size: how many blends to try.
        seed: for the weights.

    Returns:
        Different open candidates, sorted by id.
    """
    rng = np.random.default_rng(seed)
    found: dict[str, Candidate] = {}
    for _ in range(size):
        one, two = best[int(rng.integers(len(best)))], others[int(rng.integers(len(others)))]
        weight = float(rng.beta(1.0, 4.0))  # mostly near the good point, sometimes far
        try:
            candidate = space.make(_between(space, one, two, weight, rng))
        except SpaceError:
            continue
        if candidate.id not in closed:
            found[candidate.id] = candidate
    return [found[key] for key in sorted(found)]


def _between(
    space: BoxSpace, one: Candidate, two: Candidate, weight: float, rng: np.random.Generator
) -> dict[str, Value]:
    values: dict[str, Value] = {}
    for axis in space.axes():
        a, b = one.parameters[axis.name], two.parameters[axis.name]
        if axis.kind == "categorical":
            values[axis.name] = b if rng.random() < weight else a
        else:
            between = (1 - weight) * float(a) + weight * float(b)
            values[axis.name] = round(between) if axis.kind == "integer" else between
    return values
