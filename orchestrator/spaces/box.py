"""A box of process parameters with linear constraints, mixtures (a simplex) among them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Annotated, Literal, Self

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from scipy.stats import qmc

from orchestrator.domain import Array, Candidate, JsonObject, Value, canonical_json, sha256
from orchestrator.errors import SpaceError
from orchestrator.protocols import Axis, LinearConstraint
from orchestrator.protocols import Options as BaseOptions
from orchestrator.spaces.polytope import Polytope
from orchestrator.units import check_unit

DIGITS = 12
"""Decimals that are kept of a rounded value: 0.1 + 2 × 0.1 is 0.3, not 0.30000000000000004."""
TOLERANCE = 1e-6
"""Relative to the size of a constraint's terms: what an optimiser leaves behind."""
ROUNDS = 8
"""Batches of points that `sample` draws before it is content with fewer."""
FEW_NEW = 0.01
"""Share of the points asked for that a batch must add for another one to be drawn."""
LISTED = 100_000
"""Grid points up to which a box is listed."""
CROWDED = 2
"""A listed box is drawn from directly where it has at most so many times the points that are asked for."""


class Parameter(BaseModel):
    """One dimension."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    unit: Annotated[str, AfterValidator(check_unit)] = "dimensionless"
    kind: Literal["continuous", "integer", "categorical"] | None = Field(
        default=None, description="continuous; categorical where choices are given"
    )
    min: float | None = None
    max: float | None = None
    log: bool = Field(default=False, description="spread evenly in the logarithm")
    resolution: Annotated[float, Field(gt=0)] | None = Field(default=None, description="smallest step that matters")
    choices: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        if self.choices or self.kind == "categorical":
            self._check_choices()
            return self
        if self.min is None or self.max is None or self.min >= self.max:
            message = f"needs 'min' below 'max' (seen: {self.min}, {self.max}), or 'choices'"
            raise ValueError(message)
        if self.log and self.min <= 0:
            message = f"'log: true' needs 'min' above zero, not {self.min}"
            raise ValueError(message)
        if self.kind == "integer" and not (self.min.is_integer() and self.max.is_integer()):
            message = f"an integer needs whole 'min' and 'max', not {self.min} and {self.max}"
            raise ValueError(message)
        if self.resolution is not None and self.resolution > self.max - self.min:
            message = f"'resolution' ({self.resolution}) is larger than the range ({self.max - self.min})"
            raise ValueError(message)
        return self

    def _check_choices(self) -> None:
        if len(self.choices) < 2 or len(set(self.choices)) < len(self.choices):  # noqa: PLR2004  one is no choice
            message = f"needs at least two different 'choices' (seen: {list(self.choices)})"
            raise ValueError(message)
        numeric = (self.min, self.max, self.resolution)
        if self.kind not in {None, "categorical"} or self.log or any(v is not None for v in numeric):
            message = "with 'choices' there is no kind, min, max, log or resolution"
            raise ValueError(message)


class Constraint(BaseModel):
    """A bound on a weighted sum of parameters: exactly one of at_most, at_least, equals."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    sum: Annotated[dict[str, float], Field(min_length=1, description="parameter → coefficient")]
    at_most: float | None = None
    at_least: float | None = None
    equals: float | None = Field(default=None, description="a mixture: coefficients 1, equals 1 (or 100)")

    @model_validator(mode="after")
    def _one_bound(self) -> Self:
        if sum(value is not None for value in (self.at_most, self.at_least, self.equals)) != 1:
            message = "give exactly one of 'at_most', 'at_least', 'equals'"
            raise ValueError(message)
        return self

    def linear(self) -> LinearConstraint:
        """Return the constraint as ``<=`` or ``==``."""
        if self.at_least is not None:
            return LinearConstraint({name: -value for name, value in self.sum.items()}, "<=", -self.at_least)
        if self.at_most is not None:
            return LinearConstraint(dict(self.sum), "<=", self.at_most)
        return LinearConstraint(dict(self.sum), "==", float(self.equals if self.equals is not None else 0.0))

    def __str__(self) -> str:
        terms = " + ".join(name if value == 1 else f"{value:g} {name}" for name, value in self.sum.items())
        if self.at_least is not None:
            return f"{terms} >= {self.at_least:g}"
        return f"{terms} <= {self.at_most:g}" if self.at_most is not None else f"{terms} = {self.equals:g}"


class Box:
    """Process parameters as a search space, to be optimised over with gradients."""

    class Options(BaseOptions):
        """The dimensions, and what must hold between them."""

        parameters: dict[Annotated[str, Field(pattern=r"^[A-Za-z]\w{0,63}$")], Parameter] = Field(min_length=1)
        constraints: tuple[Constraint, ...] = ()

        @model_validator(mode="after")
        def _known_names(self) -> Self:
            for constraint in self.constraints:
                for name in constraint.sum:
                    if name not in self.parameters:
                        known = ", ".join(self.parameters)
                        message = f"constraint '{constraint}' names {name!r}; parameters are: {known}"
                        raise ValueError(message)
                    if self.parameters[name].choices:
                        message = f"constraint '{constraint}' adds up {name!r}, which is a choice and no number"
                        raise ValueError(message)
            return self

    def __init__(self, options: Options) -> None:
        self._options = options
        self._axes = tuple(_axis(name, parameter) for name, parameter in options.parameters.items())
        self._linear = tuple(constraint.linear() for constraint in options.constraints)
        self._numeric = [axis for axis in self._axes if axis.kind != "categorical"]
        self._polytope = Polytope(
            low=np.array([axis.low for axis in self._numeric]),
            high=np.array([axis.high for axis in self._numeric]),
            steps=np.array([axis.resolution or 0.0 for axis in self._numeric]),
            matrix=np.array([[c.coefficients.get(axis.name, 0.0) for axis in self._numeric] for c in self._linear]),
            equal=np.array([c.sense == "==" for c in self._linear], dtype=bool),
            bounds=np.array([c.bound for c in self._linear]),
            logs=np.array([axis.log for axis in self._numeric], dtype=bool),
        )
        if conflict := self._polytope.conflict():
            raise SpaceError(self._contradiction(conflict))

    def offers(self) -> frozenset[Literal["structure", "composition", "parameters"]]:
        """Name what its candidates carry."""
        return frozenset({"parameters"})

    def axes(self) -> tuple[Axis, ...]:
        """Return the dimensions."""
        return self._axes

    def linear(self) -> tuple[LinearConstraint, ...]:
        """Return the linear constraints, a simplex among them."""
        return self._linear

    def make(self, values: Mapping[str, Value]) -> Candidate:
        """Round values to the resolution and return the candidate.

        Where rounding alone would break a constraint (a mixture must still add up), the values that suffer least go to
        the neighbouring step.

        Args:
            values: every parameter, in its declared unit.

        Returns:
            The candidate.

        Raises:
            SpaceError: a parameter is missing or unknown, or the rounded point lies outside the bounds or constraints.
        """
        names = [axis.name for axis in self._axes]
        if set(values) != set(names):
            message = f"the box has the parameters {', '.join(names)}; given were {', '.join(values) or 'none'}"
            raise SpaceError(message)
        for axis in self._axes:
            _check_value(axis, values[axis.name])
        wanted = np.array([float(values[axis.name]) for axis in self._numeric])
        rounded = self._polytope.rounded(wanted)
        self._check_constraints(rounded, values)
        settings: dict[str, Value] = {}
        numbers = iter(rounded)
        for axis in self._axes:
            if axis.kind == "categorical":
                settings[axis.name] = str(values[axis.name])
            else:
                number = round(float(next(numbers)), DIGITS)
                settings[axis.name] = round(number) if axis.kind == "integer" else number
        label = ", ".join(f"{k}={v}" if isinstance(v, str) else f"{k}={v:.6g}" for k, v in settings.items())
        return Candidate.make(label=label, parameters=settings)

    def sample(self, n: int, seed: int) -> list[Candidate]:
        """Draw up to n different candidates: scrambled Sobol points, or a walk inside narrow constraints.

        Fewer come back where rounding leaves fewer different points. A box whose every point can be listed is listed
        where it has not many more points than are asked for: drawing would meet the same ones again and again.
        """
        listed = self._listed
        if listed is not None and len(listed) <= CROWDED * n:
            order = np.random.default_rng(seed).permutation(len(listed))[:n]
            return [self.make(self._values_of(listed[int(i)])) for i in order]
        found: dict[str, Candidate] = {}
        for attempt in range(ROUNDS):
            generator = np.random.default_rng([seed, attempt])
            before = len(found)
            for values in self._points(max(n, 8), generator):
                try:
                    candidate = self.make(values)
                except SpaceError:
                    continue  # the point lies outside a constraint: rejection is the method
                found.setdefault(candidate.id, candidate)
                if len(found) == n:
                    return list(found.values())
            if len(found) - before < FEW_NEW * n and attempt > 0:
                break  # nearly everything that rounding leaves is found
        return list(found.values())

    def summary(self) -> JsonObject:
        """Describe the space: dimensions, constraints, hash."""
        content = self._options.model_dump(mode="json")
        return {
            "kind": "box",
            "sha256": sha256(canonical_json(content)),
            "parameters": content["parameters"],
            "constraints": [str(constraint) for constraint in self._options.constraints],
        }

    def _points(self, n: int, generator: np.random.Generator) -> list[dict[str, Value]]:
        """Draw points that mostly satisfy the constraints."""
        unit = qmc.Sobol(len(self._axes), rng=generator).random_base2(math.ceil(math.log2(n)))
        bound = self._polytope.constrained if self._polytope.narrow() else []
        walked = self._polytope.only(bound).walk(len(unit), generator) if bound else np.empty((len(unit), 0))
        points = []
        for row, inside in zip(unit, walked, strict=True):
            values: dict[str, Value] = {
                axis.name: _spread(axis, float(u)) for axis, u in zip(self._axes, row, strict=True)
            }
            values |= {self._numeric[i].name: float(number) for i, number in zip(bound, inside, strict=True)}
            points.append(values)
        return points

    @cached_property
    def _listed(self) -> Array | None:
        """Every point, a row of numbers and positions of choices each; None where there are too many."""
        numbers = self._polytope.grid(LISTED)
        if numbers is None:
            return None
        sizes = [len(axis.choices) for axis in self._axes if axis.kind == "categorical"]
        if len(numbers) * math.prod(sizes) > LISTED:
            return None
        choices = np.stack(np.meshgrid(*(np.arange(size) for size in sizes), indexing="ij"), -1) if sizes else None
        if choices is None:
            return numbers
        flat = choices.reshape(-1, len(sizes))
        return np.hstack([np.repeat(numbers, len(flat), axis=0), np.tile(flat, (len(numbers), 1))])

    def _values_of(self, row: Array) -> dict[str, Value]:
        """Turn a row of `_listed` into parameters."""
        numbers, choices = iter(row[: len(self._numeric)]), iter(row[len(self._numeric) :])
        return {
            axis.name: axis.choices[int(next(choices))] if axis.kind == "categorical" else float(next(numbers))
            for axis in self._axes
        }

    def _check_constraints(self, numbers: Array, values: Mapping[str, Value]) -> None:
        for i in self._polytope.broken(numbers, TOLERANCE):
            shown = ", ".join(f"{name}={values[name]}" for name in self._linear[i].coefficients)
            message = f"the point {shown} breaks the constraint '{self._options.constraints[i]}'"
            raise SpaceError(message)

    def _contradiction(self, conflict: Sequence[int]) -> str:
        broken = " and ".join(f"'{self._options.constraints[i]}'" for i in conflict)
        named = dict.fromkeys(name for i in conflict for name in self._options.constraints[i].sum)
        bounds = "; ".join(
            f"{axis.name} from {axis.low:g} to {axis.high:g}"
            + (f" in steps of {axis.resolution:g}" if axis.resolution else "")
            for axis in self._axes
            if axis.name in named
        )
        return (
            f"the box has no candidates: {broken} cannot hold {'together ' if len(conflict) > 1 else ''}with {bounds};"
            " loosen a constraint, a bound or a resolution"
        )


def _axis(name: str, parameter: Parameter) -> Axis:
    if parameter.choices:
        return Axis(name, "categorical", parameter.unit, choices=parameter.choices)
    whole = parameter.kind == "integer"
    return Axis(
        name=name,
        kind="integer" if whole else "continuous",
        unit=parameter.unit,
        low=float(parameter.min if parameter.min is not None else 0.0),
        high=float(parameter.max if parameter.max is not None else 1.0),
        log=parameter.log,
        resolution=max(1.0, round(parameter.resolution or 1.0)) if whole else parameter.resolution,
    )


def _check_value(axis: Axis, value: Value) -> None:
    if axis.kind == "categorical":
        if value not in axis.choices:
            message = f"{axis.name} is {value!r}; allowed: {', '.join(axis.choices)}"
            raise SpaceError(message)
    elif isinstance(value, str) or not math.isfinite(value):
        message = f"{axis.name} is {value!r}; a number in {axis.unit} was expected"
        raise SpaceError(message)
    elif not axis.low - _slack(axis) <= value <= axis.high + _slack(axis):
        message = f"{axis.name} is {value:g} {axis.unit}; the box goes from {axis.low:g} to {axis.high:g}"
        raise SpaceError(message)


def _slack(axis: Axis) -> float:
    """Half a step, or what an optimiser leaves behind."""
    return max((axis.resolution or 0.0) / 2, TOLERANCE * (axis.high - axis.low))


def _spread(axis: Axis, unit: float) -> Value:
    if axis.kind == "categorical":
        return axis.choices[min(int(unit * len(axis.choices)), len(axis.choices) - 1)]
    if axis.log:
        return math.exp(math.log(axis.low) + unit * (math.log(axis.high) - math.log(axis.low)))
    if axis.kind == "integer":  # every whole number is equally likely
        return float(min(math.floor(axis.low + unit * (axis.high - axis.low + 1)), axis.high))
    return axis.low + unit * (axis.high - axis.low)
