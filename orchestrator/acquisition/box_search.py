"""The search over a box that every acquisition function shares: samples, gradients, single moves, rounding.

Sampled feasible points and blends of good ones are scored; from the best of them, steps with gradients along the
continuous axes alternate with single moves along the discrete ones until neither helps, as in botorch's
`optimize_acqf_mixed_alternating` but for all starts at once and with every constraint kept; everything is rounded by
the space itself, and the best rounded point that is not taken wins.
"""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize

from orchestrator.acquisition.encoding import Encoding
from orchestrator.acquisition.open import blend
from orchestrator.acquisition.situation import Situation, check_finite
from orchestrator.domain import Array, Candidate
from orchestrator.errors import SpaceError
from orchestrator.protocols import Axis, BoxSpace

CHUNK = 512
"""Points scored at once: bounds the memory of draws times points."""
STEPS = 30
"""Most L-BFGS or SLSQP steps of one start; rounding makes more of them useless."""
ROUNDS = 4
"""Most times that gradients and single moves alternate."""
MOVES = 16
"""Most single moves in a row."""
CHOICES = 64
"""Most values tried on one discrete axis."""
PARENTS = 16
"""Best samples that are blended with the others."""
SLACK = 1e-7
"""By how much, as a share of the terms, a move may break a linear constraint before rounding."""


Places = npt.NDArray[np.int64]
Booleans = npt.NDArray[np.bool_]


class Acquisition(ABC):
    """What is to be large: a function of box coordinates."""

    @abstractmethod
    def values(self, points: Array) -> Array:
        """Return the value at each point, N from N × d."""

    @abstractmethod
    def slopes(self, points: Array) -> tuple[Array, Array]:
        """Return values, N, and gradients, N × d."""

    def beside(self, candidates: Sequence[Candidate]) -> Array:
        """Return what is added for what only whole candidates have: odds of success, expense; n."""
        return np.zeros(len(candidates))


@dataclass(frozen=True)
class Effort:
    """How much work one slot may be.

    Args:
        samples: feasible points scored.
        restarts: of them improved.
        draws: of what the measured points are worth.
    """

    samples: int = 1024
    restarts: int = 6
    draws: int = 256


@dataclass(frozen=True, eq=False)
class Search:
    """One box, one encoding.

    Args:
        situation: gives seeds and what is closed.
        space: the box.
        encoding: its coordinates.
        effort: how much work.
        measured: measured candidates that the box still knows, to blend with.
    """

    situation: Situation
    space: BoxSpace
    encoding: Encoding
    effort: Effort
    measured: tuple[Candidate, ...]

    def best(
        self, acquisition: Acquisition, samples: Sequence[Candidate], closed: frozenset[str], slot: int
    ) -> tuple[Candidate, float, bool] | None:
        """Find the best point.

        Args:
            acquisition: to be large.
            samples: feasible points.
            closed: ids that may not be chosen.
            slot: of the batch; names the seed.

        Returns:
            The candidate, its value, and whether it is none of the sampled ones; None where nothing is open.
        """
        scores = self.score(acquisition, samples)
        top = [samples[int(i)] for i in np.argsort(-scores, kind="stable")[:PARENTS]]
        size = max(len(samples) // 4, 16)
        seed = self.situation.seed_for(f"blend {slot}")
        more = blend(self.space, [*top, *self._inside], samples, closed, size=size, seed=seed)
        known = {c.id: c for c in [*samples, *more] if c.id not in closed}
        ranked = self._ranked(acquisition, list(known.values()))
        if not ranked:
            return None
        starts = self._apart([c for c, _ in ranked])
        found = {c.id: c for c in starts}
        for candidate in self._improved(acquisition, starts):
            found.setdefault(candidate.id, candidate)
        best, value = self._ranked(acquisition, [c for c in found.values() if c.id not in closed])[0]
        return best, value, best.id not in known

    def score(self, acquisition: Acquisition, candidates: Sequence[Candidate]) -> Array:
        """Return the value of each candidate.

        Raises:
            NonFiniteValues: one is NaN.
        """
        if not candidates:
            return np.zeros(0)
        values = self._values(acquisition, self.encoding.coordinates(candidates)) + acquisition.beside(candidates)
        check_finite(~np.isnan(values), "acquisition values")
        return values

    def _values(self, acquisition: Acquisition, points: Array) -> Array:
        parts = [acquisition.values(points[i : i + CHUNK]) for i in range(0, len(points), CHUNK)]
        return np.concatenate(parts)

    def _ranked(self, acquisition: Acquisition, candidates: Sequence[Candidate]) -> list[tuple[Candidate, float]]:
        ordered = sorted(candidates, key=lambda c: c.id)
        scores = self.score(acquisition, ordered)
        return [(ordered[int(i)], float(scores[i])) for i in np.argsort(-scores, kind="stable")]

    def _apart(self, ranked: Sequence[Candidate]) -> list[Candidate]:
        """Choose the starts: half of them the best, the others each as good as can be with other discrete values."""
        wanted = min(self.effort.restarts, len(ranked))
        chosen = list(ranked[: wanted - wanted // 2])
        seen = {self._discrete_values(c) for c in chosen}
        for candidate in ranked[len(chosen) :]:
            if len(chosen) == wanted:
                break
            own = self._discrete_values(candidate)
            if own not in seen:
                chosen.append(candidate)
                seen.add(own)
        taken = {c.id for c in chosen}
        return [*chosen, *[c for c in ranked if c.id not in taken][: wanted - len(chosen)]]

    def _discrete_values(self, candidate: Candidate) -> tuple[object, ...]:
        return tuple(candidate.parameters[self.encoding.axes[j].name] for j in self._discrete)

    # --- alternating ------------------------------------------------------------------------------------------------

    def _improved(self, acquisition: Acquisition, starts: Sequence[Candidate]) -> list[Candidate]:
        """Improve all starts, and return every rounded point met on the way that was better than what it came from."""
        points = self.encoding.coordinates(starts)
        values = self._values(acquisition, points)
        met: list[Candidate] = []
        active = np.ones(len(points), dtype=bool)
        for _ in range(ROUNDS):
            if not active.any():
                break
            at = np.flatnonzero(active)
            before = values[at].copy()
            self._polish(acquisition, points, values, at, met)
            moved = self._move(acquisition, points, values, at, met)
            active[:] = False
            active[at[moved & (values[at] > before + 1e-9 * np.maximum(1.0, np.abs(before)))]] = True
        return met

    def _polish(self, acquisition: Acquisition, points: Array, values: Array, at: Places, met: list[Candidate]) -> None:
        """Follow gradients along the continuous axes, then round; a start that gets worse stays where it was."""
        free = self._free
        if not free:
            return
        found = (
            self._with_constraints(acquisition, points[at])
            if self._rows_matter
            else self._freely(acquisition, points[at])
        )
        rounded = [self._rounded(points[i], new) for i, new in zip(at, found, strict=True)]
        kept = [(i, c) for i, c in zip(at, rounded, strict=True) if c is not None]
        if not kept:
            return
        coordinates = self.encoding.coordinates([c for _, c in kept])
        scores = self._values(acquisition, coordinates)
        for (i, candidate), row, score in zip(kept, coordinates, scores, strict=True):
            met.append(candidate)
            if score > values[i]:
                points[i], values[i] = row, score

    def _move(
        self, acquisition: Acquisition, points: Array, values: Array, at: Places, met: list[Candidate]
    ) -> Booleans:
        """Take single moves along discrete axes while they help; return which starts moved."""
        moved = np.zeros(len(at), dtype=bool)
        climbing = np.ones(len(at), dtype=bool)
        for _ in range(MOVES):
            tried = [
                self._moves(points[i]) if go else np.zeros((0, points.shape[1]))
                for i, go in zip(at, climbing, strict=True)
            ]
            if not sum(map(len, tried)):
                break
            scores = np.split(self._values(acquisition, np.vstack(tried)), np.cumsum([len(t) for t in tried])[:-1])
            for k, (i, rows, own) in enumerate(zip(at, tried, scores, strict=True)):
                climbing[k] = False
                for j in np.argsort(-own, kind="stable")[:3]:
                    if not own[j] > values[i]:
                        break
                    candidate = self._made(rows[j])
                    if candidate is None:
                        continue
                    met.append(candidate)
                    points[i], values[i] = self.encoding.coordinates([candidate])[0], own[j]
                    moved[k] = climbing[k] = True
                    break
        self._last_neighbours(points, values, at, met)
        return moved

    def _last_neighbours(self, points: Array, values: Array, at: Places, met: list[Candidate]) -> None:
        """Keep the moves around the leader as well: it may be closed, and one of them the best that is open."""
        leader = points[at[int(np.argmax(values[at]))]]
        met.extend(c for c in map(self._made, self._moves(leader)) if c is not None)

    def _freely(self, acquisition: Acquisition, points: Array) -> Array:
        """L-BFGS on all starts at once: their values add up, so their gradients stay apart."""
        free = self._free

        def loss(flat: Array) -> tuple[float, Array]:
            moved = points.copy()
            moved[:, free] = flat.reshape(len(points), len(free))
            found, slope = acquisition.slopes(moved)
            good = np.isfinite(found)
            return -float(found[good].sum()), -np.where(good[:, None], slope, 0.0)[:, free].ravel()

        bounds = [(0.0, 1.0)] * (len(points) * len(free))
        # far fewer steps than rows would need one by one: all share the line search
        found = minimize(
            loss, points[:, free].ravel(), jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": STEPS}
        )
        better = points.copy()
        better[:, free] = np.nan_to_num(found.x, nan=0.5).reshape(len(points), len(free))
        return better

    def _with_constraints(self, acquisition: Acquisition, points: Array) -> Array:
        """SLSQP on each start, with the linear constraints."""
        free = self._free
        rows, limits, equal = self._linear
        better = points.copy()
        for i, point in enumerate(points):

            def loss(moving: Array, point: Array = point) -> tuple[float, Array]:
                moved = point.copy()
                moved[free] = moving
                value, slope = acquisition.slopes(moved[None])
                good = bool(np.isfinite(value[0]))
                return (-float(value[0]), -slope[0, free]) if good else (1e10, np.zeros(len(free)))

            left = limits - rows @ np.where(np.isin(np.arange(len(point)), free), 0.0, point)
            own = rows[:, free]
            parts = [
                {"type": kind, "fun": lambda z, a=own[mask], b=left[mask]: b - a @ z, "jac": lambda _z, a=own[mask]: -a}
                for kind, mask in (("eq", equal), ("ineq", ~equal))
                if mask.any()
            ]
            with warnings.catch_warnings():
                warnings.simplefilter(
                    "ignore", RuntimeWarning
                )  # of a step clipped to its bounds: that is what they are for
                found = minimize(
                    loss,
                    point[free],
                    jac=True,
                    method="SLSQP",
                    bounds=[(0.0, 1.0)] * len(free),
                    constraints=parts,
                    options={"maxiter": STEPS},
                )
            if np.isfinite(found.x).all():
                better[i, free] = np.clip(found.x, 0.0, 1.0)
        return better

    # --- points of the space ----------------------------------------------------------------------------------------

    def _made(self, point: Array) -> Candidate | None:
        try:
            return self.space.make(self.encoding.values(point))
        except SpaceError:
            return None

    def _rounded(self, start: Array, polished: Array) -> Candidate | None:
        """Round; where that leads outside, step back towards the start, which is inside."""
        for share in (1.0, 0.9, 0.5):
            candidate = self._made(start + share * (polished - start))
            if candidate is not None:
                return candidate
        return None

    def _moves(self, point: Array) -> Array:
        """Return the points that differ by one move along discrete axes and keep the linear constraints."""
        made = []
        values = self.encoding.values(point)
        for j in self._discrete:
            axis = self.encoding.axes[j]
            for coordinate in self._steps_of(j, axis, values[axis.name]):
                if abs(coordinate - point[j]) > 1e-9:  # noqa: PLR2004  the same value
                    row = point.copy()
                    row[j] = coordinate
                    made.append(row)
        for i, j, up, down in self._swaps:
            row = point.copy()
            row[i] += up
            row[j] -= down
            if row[i] <= 1.0 + SLACK and row[j] >= -SLACK:
                made.append(row)
        if not made:
            return np.zeros((0, len(point)))
        rows = np.array(made)
        return rows[self._keeps(rows)]

    def _steps_of(self, j: int, axis: Axis, here: object) -> list[float]:
        if axis.kind == "categorical":
            return [float(k) for k in range(min(len(axis.choices), CHOICES))]
        step = axis.resolution or 1.0
        offsets = sorted(
            {1, 2, 3, *(round(2**k) for k in np.arange(2, 40)), *(round(3 * 2**k) for k in np.arange(1, 40))}
        )
        values = [float(str(here)) + sign * step * k for k in offsets[:CHOICES] for sign in (-1, 1)]
        inside = [v for v in values if axis.low - 1e-9 <= v <= axis.high + 1e-9]
        return [self.encoding.coordinate(j, v) for v in inside]

    def _keeps(self, rows: Array) -> Booleans:
        """Say which points keep the linear constraints."""
        matrix, limits, equal = self._linear
        if not len(limits):
            return np.ones(len(rows), dtype=np.bool_)
        excess = rows @ matrix.T - limits
        allowed = SLACK * np.maximum(1.0, np.abs(rows) @ np.abs(matrix).T)
        held: Booleans = np.where(equal, np.abs(excess) <= allowed, excess <= allowed)
        return np.asarray(held.all(axis=1))

    @cached_property
    def _inside(self) -> list[Candidate]:
        """Measured points that can be blended: those inside the space as it is now."""
        inside = []
        for candidate in self.measured:
            try:
                inside.append(self.space.make({a.name: candidate.parameters[a.name] for a in self.encoding.axes}))
            except SpaceError:
                continue
        return inside

    @cached_property
    def _free(self) -> list[int]:
        """Axes along which gradients are followed."""
        return [j for j, axis in enumerate(self.encoding.axes) if axis.kind == "continuous" and axis.high > axis.low]

    @cached_property
    def _discrete(self) -> list[int]:
        """Axes along which single moves are tried: those without gradients, and coarse grids."""
        return [
            j
            for j, axis in enumerate(self.encoding.axes)
            if axis.kind != "continuous" or (axis.resolution and (axis.high - axis.low) / axis.resolution <= CHOICES)
        ]

    @cached_property
    def _rows_matter(self) -> bool:
        """Whether a linear constraint binds the axes along which gradients are followed."""
        return bool((self._linear[0][:, self._free] != 0).any()) if len(self._linear[1]) else False

    @cached_property
    def _linear(self) -> tuple[Array, Array, Booleans]:
        """The space's constraints in coordinates: rows · u <= or == limits, and which are equalities."""
        axes, given = self.encoding.axes, self.space.linear()
        matrix = np.zeros((len(given), len(axes)))
        limits = np.zeros(len(given))
        for i, constraint in enumerate(given):
            limits[i] = constraint.bound
            for j, axis in enumerate(axes):
                weight = constraint.coefficients.get(axis.name, 0.0)
                matrix[i, j] = weight * ((axis.high - axis.low) or 1.0)
                limits[i] -= weight * axis.low
        return matrix, limits, np.array([c.sense == "==" for c in given], dtype=bool)

    @cached_property
    def _swaps(self) -> list[tuple[int, int, float, float]]:
        """Moves of one step between two parts of a mixture: axes, and how far one goes up, the other down."""
        found = []
        matrix, _, equal = self._linear
        for row in matrix[equal]:
            on = [j for j in np.flatnonzero(row) if self.encoding.axes[j].resolution]
            for i in on:
                for j in on:
                    axis = self.encoding.axes[i]
                    up = float(axis.resolution or 0.0) / (axis.high - axis.low)
                    down = up * row[i] / row[j]
                    if i != j and math.isfinite(down) and down > 0:
                        found.append((int(i), int(j), up, float(down)))
        return found
