"""Numbers within bounds and linear constraints: feasibility, rounding, and a random walk inside.

Walk: hit and run, R. L. Smith, Oper. Res. 32, 1296 (1984), doi:10.1287/opre.32.6.1296.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
from scipy.linalg import null_space
from scipy.optimize import Bounds, LinearConstraint, linprog, milp

from orchestrator.domain import Array

EQUAL = 1e-9
"""Relative; a sum of rounded numbers is equal to its bound within this."""
STEPS = 40
"""Steps of each walk a dimension: from the middle of a box to anywhere in it."""
NODES = 17
"""Places on a line where the density of a walk in logarithms is asked, once evenly and once for each logarithm."""
NARROW = 0.02
"""Share of points of the box that satisfy the constraints below which they are walked to instead of rejected."""
PROBES = 512


@dataclass(frozen=True)
class Polytope:
    """Points x with low <= x <= high, x on a grid where steps > 0, and matrix · x <= or == bounds.

    Args:
        low: d numbers.
        high: d numbers.
        steps: d numbers; x is low plus a multiple of it; 0 for any x.
        matrix: k × d.
        equal: k times whether the constraint is ``==``.
        bounds: k numbers.
        logs: d times whether points are spread evenly in the logarithm.
    """

    low: Array
    high: Array
    steps: Array
    matrix: Array
    equal: npt.NDArray[np.bool_]
    bounds: Array
    logs: npt.NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, dtype=bool))

    @cached_property
    def constrained(self) -> list[int]:
        """Positions of the dimensions that some constraint is about."""
        return [int(i) for i in np.flatnonzero((self.matrix != 0).any(axis=0))] if len(self.bounds) else []

    def only(self, positions: Sequence[int]) -> Polytope:
        """Return the polytope of some dimensions; no constraint may be about another one."""
        at = list(positions)
        logs = self.logs[at] if len(self.logs) else self.logs
        return replace(
            self, low=self.low[at], high=self.high[at], steps=self.steps[at], matrix=self.matrix[:, at], logs=logs
        )

    def broken(self, x: Array, tolerance: float) -> list[int]:
        """Return the positions of the constraints that a point breaks, by more than a share of their terms."""
        if not len(self.bounds):
            return []
        excess = self.matrix @ x - self.bounds
        allowed = tolerance * np.maximum(1.0, np.abs(self.matrix) @ np.abs(x))
        bad = np.where(self.equal, np.abs(excess) > allowed, excess > allowed)
        return [int(i) for i in np.flatnonzero(bad)]

    def conflict(self) -> list[int]:
        """Return a smallest set of constraints that cannot hold together within the bounds; empty if all can."""
        left = list(range(len(self.bounds)))
        if self._feasible(left):
            return []
        for i in list(left):  # what can be left out without making the rest possible is no part of the conflict
            without = [j for j in left if j != i]
            if not self._feasible(without):
                left = without
        return left

    def narrow(self) -> bool:
        """Say whether points of the box rarely satisfy the constraints."""
        if not len(self.bounds):
            return False
        if self.equal.any():
            return True
        points = self.low + np.random.default_rng(0).random((PROBES, len(self.low))) * (self.high - self.low)
        inside = (points @ self.matrix.T <= self.bounds).all(axis=1)
        return float(inside.mean()) < NARROW

    def rounded(self, x: Array) -> Array:
        """Round a point to the grid; where that breaks a constraint that the point meets, go to the nearest point.

        Args:
            x: d numbers.

        Returns:
            d numbers on the grid; they may still break a constraint, where no grid point close by meets all.
        """
        grid = self.steps > 0
        steps = np.where(grid, self.steps, 1.0)
        most = np.floor((self.high - self.low) / steps + EQUAL)
        counts = np.clip(np.rint((x - self.low) / steps), 0, most)
        nearest = np.where(grid, self.low + counts * steps, np.clip(x, self.low, self.high))
        if not grid.any() or not self.broken(nearest, EQUAL):
            return nearest
        moved = self._stepwise(x, nearest)
        if moved is None:  # single steps lead nowhere: ask a solver, which takes a hundred times as long
            moved = self._closest_on_grid(x, grid, steps, counts, most)
        return nearest if moved is None else moved

    def walk(self, n: int, generator: np.random.Generator) -> Array:
        """Draw n points spread evenly inside, evenly in the logarithm of dimensions marked so, n × d; not rounded.

        Every point is the end of a walk of its own by hit and run, and all walks go step by step together.
        """
        basis = self._directions
        points = np.tile(self._inside, (n, 1))
        if not basis.shape[1]:
            return points  # the constraints leave one point
        rows, limits = self._half_spaces
        for _ in range(STEPS * basis.shape[1]):
            directions: Array = generator.normal(size=(n, basis.shape[1])) @ basis.T
            slope, room = directions @ rows.T, limits - points @ rows.T
            with np.errstate(divide="ignore", invalid="ignore"):
                reach = room / slope
            ahead = np.where(slope > 0, reach, np.inf).min(axis=1)
            behind = np.where(slope < 0, reach, -np.inf).max(axis=1)
            share = generator.random(n)
            moving = np.isfinite(ahead) & np.isfinite(behind) & (ahead > behind)
            ends = np.where(moving, behind, 0.0), np.where(moving, ahead, 0.0)
            if self.logs.any():
                way = self._log_way(points, directions, *ends, share)
            else:
                way = ends[0] + share * (ends[1] - ends[0])
            points = points + way[:, None] * directions
        return np.clip(points, self.low, self.high)

    def grid(self, most: int) -> Array | None:
        """Return every grid point that meets the constraints, k × d; None where that is not for listing.

        Args:
            most: grid points, feasible or not, that are looked at.
        """
        if not (self.steps > 0).all():
            return None
        counts = np.floor((self.high - self.low) / self.steps + EQUAL) + 1
        if counts.prod() > most:
            return None
        places = np.stack(np.meshgrid(*(np.arange(c) for c in counts), indexing="ij"), axis=-1)
        points: Array = self.low + places.reshape(-1, len(counts)) * self.steps
        if not len(self.bounds):
            return points
        excess = points @ self.matrix.T - self.bounds
        allowed = EQUAL * np.maximum(1.0, np.abs(points) @ np.abs(self.matrix).T)
        good = np.where(self.equal, np.abs(excess) <= allowed, excess <= allowed).all(axis=1)
        listed: Array = points[good]
        return listed

    def _log_way(self, points: Array, directions: Array, behind: Array, ahead: Array, share: Array) -> Array:
        """Draw how far each walk goes along its line, n, where points are spread evenly in some logarithms.

        The density along a line, one over the product of the marked coordinates, is drawn from by its values on nodes
        that lie evenly both in the coordinates and in their logarithms.
        """
        even = np.linspace(0.0, 1.0, NODES)
        parts = [behind[:, None] + (ahead - behind)[:, None] * even]
        for i in np.flatnonzero(self.logs):
            floor = self.low[i]
            first = np.maximum(points[:, i] + behind * directions[:, i], floor)
            last = np.maximum(points[:, i] + ahead * directions[:, i], floor)
            values = np.exp(np.log(first)[:, None] + (np.log(last) - np.log(first))[:, None] * even)
            pace = np.where(np.abs(directions[:, i]) > 0, directions[:, i], 1.0)
            parts.append(np.clip((values - points[:, i : i + 1]) / pace[:, None], behind[:, None], ahead[:, None]))
        nodes = np.sort(np.hstack(parts), axis=1)
        marked = self.logs
        at = points[:, None, marked] + nodes[..., None] * directions[:, None, marked]
        density = 1.0 / np.maximum(at, self.low[marked]).prod(axis=-1)
        mass = np.diff(nodes, axis=1) * (density[:, 1:] + density[:, :-1]) / 2
        reached = np.cumsum(mass, axis=1)
        wanted = share * reached[:, -1]
        cell = np.minimum((reached < wanted[:, None]).sum(axis=1), mass.shape[1] - 1)
        line = np.arange(len(points))
        own = mass[line, cell]
        into = np.where(own > 0, (wanted - (reached[line, cell] - own)) / np.where(own > 0, own, 1.0), 0.0)
        found: Array = nodes[line, cell] + np.clip(into, 0.0, 1.0) * (nodes[line, cell + 1] - nodes[line, cell])
        return found

    def _stepwise(self, x: Array, start: Array) -> Array | None:
        """Take the single steps that repair most, and of equal ones the one that stays closest to the wanted point."""
        d = len(x)
        moves = np.vstack([np.diag(self.steps), -np.diag(self.steps)])[np.tile(self.steps > 0, 2)]
        scale = np.where(self.steps > 0, self.steps, 1.0)
        point = start
        for _ in range(2 * d):
            if not self.broken(point, EQUAL):
                return point
            tried = point + moves
            inside = ((tried >= self.low - EQUAL * scale) & (tried <= self.high + EQUAL * scale)).all(axis=1)
            harm = np.where(inside, self._harm(tried), np.inf)
            if not len(tried) or harm.min() >= self._harm(point[None])[0]:
                return None
            best = np.flatnonzero(harm <= harm.min() + EQUAL)
            away = np.abs((tried[best] - x) / scale).sum(axis=1)
            point = tried[best[int(np.argmin(away))]]
        return None

    def _harm(self, points: Array) -> Array:
        """Add up by how much each point breaks the constraints."""
        excess = points @ self.matrix.T - self.bounds
        return np.asarray(np.where(self.equal, np.abs(excess), np.maximum(excess, 0.0)).sum(axis=1))

    def _closest_on_grid(
        self, x: Array, grid: npt.NDArray[np.bool_], steps: Array, counts: Array, most: Array
    ) -> Array | None:
        """Find the grid point within two steps that meets the constraints and is closest by the sum of steps moved."""
        d = len(x)
        # unknowns: a step count (or value) and its distance from the wanted one, for each dimension
        wanted = np.where(grid, (x - self.low) / steps, x - self.low)
        offset = self.matrix @ self.low
        low = np.where(grid, np.maximum(counts - 2, 0), 0.0)
        high = np.where(grid, np.minimum(counts + 2, most), self.high - self.low)
        scaled = self.matrix * np.where(grid, steps, 1.0)
        slack = EQUAL * np.maximum(1.0, np.abs(self.bounds))
        eye = np.eye(d)
        found = milp(
            c=np.concatenate([np.zeros(d), np.ones(d)]),
            integrality=np.concatenate([grid.astype(int), np.zeros(d, dtype=int)]),
            bounds=Bounds(np.concatenate([low, np.zeros(d)]), np.concatenate([high, np.full(d, np.inf)])),
            constraints=[
                LinearConstraint(
                    np.hstack([scaled, np.zeros_like(scaled)]),
                    np.where(self.equal, self.bounds - offset - slack, -np.inf),
                    self.bounds - offset + slack,
                ),
                LinearConstraint(np.hstack([eye, -eye]), -np.inf, wanted),
                LinearConstraint(np.hstack([eye, eye]), wanted, np.inf),
            ],
        )
        if found.x is None:
            return None
        values = np.asarray(found.x[:d])
        moved: Array = self.low + np.where(grid, np.rint(values) * steps, values)
        return moved

    def _feasible(self, chosen: Sequence[int]) -> bool:
        """Ask a solver whether some point on the grid meets the chosen constraints."""
        if not len(chosen):
            return True
        grid = self.steps > 0
        steps = np.where(grid, self.steps, 1.0)
        rows = list(chosen)
        offset = self.matrix[rows] @ self.low
        slack = EQUAL * np.maximum(1.0, np.abs(self.bounds[rows]))
        high = np.where(grid, np.floor((self.high - self.low) / steps + EQUAL), self.high - self.low)
        found = milp(
            c=np.zeros(len(self.low)),
            integrality=grid.astype(int),
            bounds=Bounds(np.zeros(len(self.low)), high),
            constraints=LinearConstraint(
                self.matrix[rows] * steps,
                np.where(self.equal[rows], self.bounds[rows] - offset - slack, -np.inf),
                self.bounds[rows] - offset + slack,
            ),
        )
        return bool(found.success)

    @cached_property
    def _directions(self) -> Array:
        """Orthonormal directions along which the equalities stay true, d × free."""
        if not self.equal.any():
            return np.eye(len(self.low)) * (self.high - self.low)
        scale = self.high - self.low
        free: Array = null_space(self.matrix[self.equal] * scale)
        return free * scale[:, None]

    @cached_property
    def _half_spaces(self) -> tuple[Array, Array]:
        eye = np.eye(len(self.low))
        rows = [eye, -eye, self.matrix[~self.equal]] if len(self.bounds) else [eye, -eye]
        limits = [self.high, -self.low, self.bounds[~self.equal]]
        return np.vstack(rows), np.concatenate(limits)

    @cached_property
    def _inside(self) -> Array:
        """The point furthest from every face, in units of the box's edges."""
        rows, limits = self._half_spaces
        scale = self.high - self.low
        norms = np.linalg.norm(rows * scale, axis=1)
        equal = self.matrix[self.equal] if len(self.bounds) else np.zeros((0, len(self.low)))
        found = linprog(
            c=np.append(np.zeros(len(self.low)), -1.0),
            A_ub=np.column_stack([rows, norms]),
            b_ub=limits,
            A_eq=np.column_stack([equal, np.zeros(len(equal))]) if len(equal) else None,
            b_eq=self.bounds[self.equal] if len(equal) else None,
            bounds=[*zip(self.low, self.high, strict=True), (0, None)],
        )
        inside: Array = np.asarray(found.x[:-1])
        return inside
