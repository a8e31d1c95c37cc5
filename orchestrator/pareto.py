"""Trade-offs between several objectives: which points nothing dominates, and how much they dominate together.

Everything is in utilities: larger is better. The dominated hypervolume after Zitzler & Thiele, IEEE Trans. Evol.
Comput. 3, 257 (1999), doi:10.1109/4235.797969.

Shapes: n points, k objectives.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Booleans = npt.NDArray[np.bool_]


def reference_point(reached: Array) -> Array:
    """Infer the corner from which hypervolume is counted from utilities of measured points, n × k.

    The worst value on the Pareto front minus a tenth of the front's range, as botorch's `infer_reference_point` does;
    with a front of one point, the worst value measured.
    """
    front = reached[efficient(reached)]
    worst, best = front.min(axis=0), front.max(axis=0)
    spread = np.where(best > worst, best - worst, best - reached.min(axis=0))
    lowest = np.where(best > worst, worst, reached.min(axis=0))
    return np.asarray(lowest - 0.1 * np.where(spread > 0, spread, np.maximum(np.abs(best), 1.0)), dtype=np.float64)


def hypervolume(front: Array, reference: Array) -> float:
    """Return the volume between a reference point and a Pareto front, n × k."""
    if not len(front):
        return 0.0
    if front.shape[1] == 1:
        return float(max(front.max() - reference[0], 0.0))
    # slice along the last objective: each slab has the hypervolume of what reaches it, one dimension lower
    order = np.argsort(-front[:, -1], kind="stable")
    levels = np.append(front[order, -1], reference[-1])
    total = 0.0
    for i in range(len(order)):
        height = levels[i] - max(levels[i + 1], reference[-1])
        if height > 0:
            flat = front[order[: i + 1], :-1]
            total += float(height) * hypervolume(flat, reference[:-1])
    return total


def nondominated(points: Array, reference: Array) -> Array:
    """Return the points beyond a reference that no other one dominates; of equal ones, the first."""
    points = points[(points > reference).all(axis=1)]
    return points[efficient(points)] if len(points) else points


def efficient(points: Array) -> Booleans:
    """Say which points no other one dominates; of equal ones, the first."""
    keep = np.zeros(len(points), dtype=bool)
    left = np.lexsort(-points.T[::-1])  # by the first objective, then the second …: whoever dominates stands before
    while len(left):
        keep[left[0]] = True
        left = left[(points[left] > points[left[0]]).any(axis=1)]
    return keep


def growth(reached: Array, good: Sequence[bool] | Booleans, reference: Array | None = None) -> Array:
    """Return the hypervolume that is dominated after each of n measured points, n.

    Args:
        reached: utilities in the order of measuring, n × k; NaN where a value is missing.
        good: whether each point satisfies the constraints, n.
        reference: k utilities; inferred from all good points where not given, so that the curve never falls.
    """
    counts = np.isfinite(reached).all(axis=1) & np.asarray(good, dtype=bool)
    volumes = np.zeros(len(reached))
    if not counts.any():
        return volumes
    corner = reference_point(reached[counts]) if reference is None else reference
    front, volume = np.zeros((0, reached.shape[1])), 0.0
    for i, point in enumerate(reached):
        if counts[i]:
            grown = nondominated(np.concatenate([front, point[None]]), corner)
            if len(grown) != len(front) or not np.array_equal(grown, front):
                front, volume = grown, hypervolume(grown, corner)
        volumes[i] = volume
    return volumes
