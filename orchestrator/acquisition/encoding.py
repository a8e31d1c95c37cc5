"""From the axes of a box to the encoding of a surrogate, as a map with gradients.

A surrogate with a botorch view says how it encodes candidates, but not how the encoding follows from the axes. The
map is found by asking, one axis at a time, from one corner of the box. It must be affine in each numeric parameter or
in its logarithm, and a table for each categorical one; whether that is so is checked on other points.

Box coordinates: one column an axis; numeric axes run from 0 at `low` to 1 at `high`, evenly in the parameter itself
where a linear constraint must stay linear, evenly in its logarithm on other logarithmic axes, where steps of a search
are then of one size; a categorical axis holds the position of its choice.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from orchestrator.abilities import BotorchView
from orchestrator.domain import Array, Candidate, Value
from orchestrator.protocols import Axis

TOLERANCE = 1e-6
"""Relative error up to which the map counts as found."""


@dataclass(frozen=True, eq=False)
class Encoding:
    """The map of one surrogate over one box. Build it with `find`.

    Args:
        axes: of the box.
        base: encoding of the reference point, d.
        slopes: change of the encoding along each numeric axis, by axis number, d.
        logs: numeric axes whose logarithm is encoded.
        tables: change of the encoding for each choice, by axis number, choices × d.
        even: numeric axes whose coordinate runs evenly in the logarithm.
    """

    axes: tuple[Axis, ...]
    base: Array
    slopes: Mapping[int, Array]
    logs: frozenset[int]
    tables: Mapping[int, Array]
    even: frozenset[int] = frozenset()

    @classmethod
    def find(
        cls,
        axes: tuple[Axis, ...],
        view: BotorchView,
        check: Sequence[Candidate],
        straight: Collection[str] = (),
    ) -> Encoding | None:
        """Find the map by asking the view.

        Args:
            axes: of the box.
            view: of the surrogate.
            check: points on which the map is tested.
            straight: names of axes whose coordinate must run evenly in the parameter itself.

        Returns:
            The map; None where the encoding has another form.
        """
        origin: dict[str, Value] = {a.name: a.choices[0] if a.kind == "categorical" else _number(a, 0.0) for a in axes}

        def ask(*changes: tuple[str, Value]) -> Array:
            return np.asarray(view.encode([_probe({**origin, **dict(changes)})])[0], dtype=np.float64)

        base = ask()
        slopes: dict[int, Array] = {}
        tables: dict[int, Array] = {}
        logs: set[int] = set()
        for j, axis in enumerate(axes):
            if axis.kind == "categorical":
                tables[j] = np.stack([ask((axis.name, choice)) - base for choice in axis.choices])
                continue
            slopes[j] = ask((axis.name, _number(axis, 1.0))) - base
            middle = _number(axis, 0.5)
            share = (float(middle) - axis.low) / ((axis.high - axis.low) or 1.0)
            seen = ask((axis.name, middle)) - base
            if axis.low > 0 and not _close(seen, share * slopes[j]):
                logs.add(j)
        even = frozenset(j for j, a in enumerate(axes) if a.log and a.low > 0 and a.name not in straight)
        found = cls(axes, base, slopes, frozenset(logs), tables, even)
        if check:
            with torch.no_grad():
                mapped = found(torch.from_numpy(found.coordinates(check))).numpy()
            if not _close(np.asarray(view.encode(check), dtype=np.float64), mapped):
                return None
        return found

    def __call__(self, points: torch.Tensor) -> torch.Tensor:
        """Map box coordinates, … × axes, to the encoding, … × d."""
        encoded = torch.from_numpy(self.base).expand(*points.shape[:-1], len(self.base))
        for j, slope in self.slopes.items():
            encoded = encoded + self._along(j, points[..., j]).unsqueeze(-1) * torch.from_numpy(slope)
        for j, table in self.tables.items():
            encoded = encoded + torch.from_numpy(table)[points[..., j].detach().round().long()]
        return encoded

    def coordinates(self, candidates: Sequence[Candidate]) -> Array:
        """Return box coordinates of candidates, n × axes."""
        return np.array(
            [[self.coordinate(j, c.parameters[a.name]) for j, a in enumerate(self.axes)] for c in candidates],
            dtype=float,
        ).reshape(len(candidates), len(self.axes))

    def coordinate(self, j: int, value: Value) -> float:
        """Return the coordinate of a value on axis j."""
        axis = self.axes[j]
        if axis.kind == "categorical":
            return float(axis.choices.index(str(value)))
        if j in self.even:
            return math.log(max(float(value), 0.5 * axis.low) / axis.low) / math.log(axis.high / axis.low)
        return (float(value) - axis.low) / ((axis.high - axis.low) or 1.0)

    def values(self, point: Array) -> dict[str, Value]:
        """Return the parameters at box coordinates, one number an axis."""
        made: dict[str, Value] = {}
        for j, (axis, u) in enumerate(zip(self.axes, point, strict=True)):
            if axis.kind == "categorical":
                made[axis.name] = axis.choices[round(float(u))]
            elif j in self.even:
                raw = axis.low * (axis.high / axis.low) ** float(u)
                made[axis.name] = round(raw) if axis.kind == "integer" else raw
            else:
                made[axis.name] = _number(axis, float(u))
        return made

    def _along(self, j: int, u: torch.Tensor) -> torch.Tensor:
        """Return how far along its slope axis j is, 0 to 1."""
        axis = self.axes[j]
        if (j in self.logs) == (j in self.even):
            return u
        ratio = math.log(axis.high / axis.low)
        if j in self.even:  # encoded as it is, searched in the logarithm
            return torch.expm1(u * ratio) / math.expm1(ratio)
        raw = (axis.low + u * (axis.high - axis.low)).clamp_min(0.5 * axis.low)
        return torch.log(raw / axis.low) / ratio


def knows_choices(axes: Sequence[Axis], candidate: Candidate) -> bool:
    """Say whether a measured candidate has every axis, and only choices that the box still has."""
    return all(
        a.name in candidate.parameters and (a.kind != "categorical" or candidate.parameters[a.name] in a.choices)
        for a in axes
    )


def _probe(parameters: Mapping[str, Value]) -> Candidate:
    return Candidate.make(label="probe", parameters=parameters)


def _number(axis: Axis, u: float) -> float | int:
    raw = axis.low + u * (axis.high - axis.low)
    return round(raw) if axis.kind == "integer" else raw


def _close(one: Array, two: Array) -> bool:
    scale = float(np.abs(one).max(initial=0.0)) + float(np.abs(two).max(initial=0.0)) + 1e-12
    return bool(np.abs(one - two).max(initial=0.0) <= TOLERANCE * scale)
