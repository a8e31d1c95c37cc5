"""How much a candidate would add to what is known, draw by draw.

With one objective the gain in a draw is the improvement over the best measured feasible value *of that draw*, which is
the noisy expected improvement of Letham et al., Bayesian Anal. 14, 495 (2019), doi 10.1214/18-BA1110. With several it
is the growth of the dominated hypervolume (Daulton, Balandat, Bakshy, NeurIPS 2021, arXiv:2105.08195). Picks of the
same batch and pending candidates enter with their drawn values, so that a batch is worth what it is worth together.

Shapes: s draws, n candidates, k objectives, all in utilities (larger is better).
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import numpy.typing as npt

from orchestrator.domain import Array, Objective, Problem
from orchestrator.errors import IncompatibleError
from orchestrator.pareto import hypervolume, nondominated

Booleans = npt.NDArray[np.bool_]

FAT = 0.1
"""Weight of the Cauchy-like tail of `smooth_gain`, as in botorch's log expected improvement (arXiv:2310.20708)."""
SMOOTH = 1e-4
"""Width of the smoothing as a share of the spread of utilities: far below any difference that matters."""


def pursued(problem: Problem) -> tuple[Objective, ...]:
    """Return the k objectives that have a better end; those that are only to be learned add nothing to a utility.

    Raises:
        IncompatibleError: there are none, so that nothing can be ranked by how good it is.
    """
    found = tuple(o for o in problem.objectives if o.goal != "learn")
    if not found:
        names = ", ".join(o.property for o in problem.objectives)
        message = (
            f"every objective ({names}) has the goal 'learn', so no candidate is better than another for a policy that"
            " looks for the best; use 'acquisition: {use: integrated_variance}', or give an objective another goal"
        )
        raise IncompatibleError(message)
    return found


def utilities(values: Array, problem: Problem) -> Array:
    """Turn property values, … × m, into utilities of the pursued objectives, … × k."""
    column = {name: j for j, name in enumerate(problem.properties)}
    return np.stack([o.utility(values[..., column[o.property]]) for o in pursued(problem)], axis=-1)


def feasible(values: Array, problem: Problem) -> Booleans:
    """Say for property values, … × m, whether every constraint is satisfied, …."""
    column = {name: j for j, name in enumerate(problem.properties)}
    good = np.ones(values.shape[:-1], dtype=bool)
    for constraint in problem.constraints:
        good &= constraint.satisfied(values[..., column[constraint.property]])
    return good


def log_smooth_gain(improvement: Array, width: float) -> Array:
    """Return the logarithm of a softened `max(improvement, 0)`.

    Below zero it falls like a Cauchy tail, so that candidates which no draw shows to be better are still ranked by how
    near they come.

    Args:
        improvement: any shape.
        width: softening, in the unit of the improvement.

    Returns:
        The logarithm, same shape.
    """
    x = improvement / width
    return np.asarray(np.log(width) + np.log(np.logaddexp(0.0, x) + FAT / (1.0 + x**2)), dtype=np.float64)


class Front:
    """What has been reached in each draw; grows as picks are included.

    Args:
        reached: utilities of the measured points, s × n0 × k.
        allowed: whether they satisfy the constraints, s × n0.
        reference: k utilities, the corner from which hypervolume is counted; unused with one objective.
        floor: utility that counts as reached where nothing feasible is, one a draw (s); used with one objective.
        good: with one objective, the share of the reached points over whose poorest a gain is counted; 0: the best.
    """

    def __init__(self, reached: Array, allowed: Booleans, reference: Array, floor: Array, good: float = 0.0) -> None:
        self.k = reached.shape[-1]
        self.reference = reference
        self.good, self.floor = good, floor
        masked = np.where(allowed[..., None], reached, -np.inf)
        if self.k == 1:
            self.reached = masked[..., 0]
            self.best = self._bar()
        else:
            self.fronts = [nondominated(draw[np.isfinite(draw).all(axis=1)], reference) for draw in masked]

    def gains(self, values: Array, allowed: Booleans) -> Array:
        """Return what each candidate would add in each draw; below zero where it stays behind (one objective).

        Args:
            values: utilities, s × n × k.
            allowed: s × n.

        Returns:
            s × n; minus infinity where the draw is infeasible (one objective) or zero (several).
        """
        if self.k == 1:
            return np.where(allowed, values[..., 0] - self.best[:, None], -np.inf)
        grown = np.stack(
            [hypervolume_gains(front, draw, self.reference) for front, draw in zip(self.fronts, values, strict=True)]
        )
        return np.where(allowed, grown, 0.0)

    def include(self, values: Array, allowed: Booleans) -> None:
        """Count one candidate as reached: its utilities, s × k, and whether each draw is feasible, s."""
        if self.k == 1:
            self.reached = np.column_stack([self.reached, np.where(allowed, values[:, 0], -np.inf)])
            self.best = self._bar()
            return
        for i in np.flatnonzero(allowed):
            self.fronts[i] = nondominated(np.concatenate([self.fronts[i], values[i : i + 1]]), self.reference)

    def _bar(self) -> Array:
        """Return the utility over which a gain is counted in each draw, s."""
        best = nth_best(self.reached, self.good)
        return np.where(np.isfinite(best), best, self.floor)

    def volume(self) -> Array:
        """Return the dominated hypervolume of each draw, s; several objectives only."""
        return np.array([hypervolume(front, self.reference) for front in self.fronts])


def nth_best(reached: Array, good: float) -> Array:
    """Return the poorest of the good ones among n reached utilities, s.

    Args:
        reached: s × n; what does not count is minus infinity.
        good: share of those that count; at least the best one is good.
    """
    s, n = reached.shape
    if n == 0:
        return np.full(s, -np.inf)
    counted = np.isfinite(reached).sum(axis=1)
    place = np.clip(np.ceil(good * counted).astype(int), 1, n) - 1
    return np.asarray(-np.sort(-reached, axis=1)[np.arange(s), place], dtype=np.float64)


def hypervolume_gains(front: Array, values: Array, reference: Array) -> Array:
    """Return how much each of n points, n × k, would add to the hypervolume of a front."""
    inside = (values > reference).all(axis=1)
    gains = np.zeros(len(values))
    if inside.any():
        gains[inside] = np.maximum(_gains(front, values[inside], reference), 0.0)
    return gains


def _gains(front: Array, points: Array, reference: Array) -> Array:
    """Sum over slabs along the last objective: in each, what of the front reaches it counts one dimension lower.

    All points at once: a front of n points costs n^(k-2) passes, whatever the number of points.
    """
    if front.shape[1] == 2:  # noqa: PLR2004  two objectives have a closed form
        return _gains_in_the_plane(front, points, reference)
    levels = np.unique(front[:, -1])
    edges = np.concatenate([reference[-1:], levels[levels > reference[-1]], [np.inf]])
    total = np.zeros(len(points))
    for low, high in pairwise(edges):
        height = np.minimum(points[:, -1], high) - low
        tall = height > 0
        if not tall.any():
            break
        flat = _gains(front[front[:, -1] >= high, :-1], points[tall, :-1], reference[:-1])
        total[tall] += height[tall] * flat
    return total


def _gains_in_the_plane(front: Array, points: Array, reference: Array) -> Array:
    """Sum, over the vertical strips between front points, the free height below each point."""
    ordered = front[np.argsort(front[:, 0], kind="stable")] if len(front) else np.zeros((0, 2))
    left = np.concatenate([[reference[0]], ordered[:, 0]])
    right = np.concatenate([ordered[:, 0], [np.inf]])
    height = np.concatenate([ordered[:, 1], [reference[1]]])
    height = np.maximum.accumulate(height[::-1])[::-1]  # the front's height between left and right
    width = np.clip(np.minimum(points[:, :1], right[None, :]) - left[None, :], 0.0, None)
    free = np.clip(points[:, 1:] - height[None, :], 0.0, None)
    return np.asarray((width * free).sum(axis=1), dtype=np.float64)
