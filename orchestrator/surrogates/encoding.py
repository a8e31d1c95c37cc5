"""Candidates → rows of numbers: process parameters and compositions.

The order of the columns is fixed, because acquisition with gradients depends on it:

1. numeric parameters, sorted by name, one column each with the *raw* value in the parameter's unit;
2. categorical parameters, sorted by name, each a one-hot block over its choices, sorted;
3. composition features, where asked for.

Normalisation happens inside the surrogate (and inside the botorch model), never in this encoding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from orchestrator.domain import Array, Candidate, JsonObject
from orchestrator.errors import SurrogateError


@dataclass(frozen=True)
class Columns:
    """Which parameters become which columns.

    Args:
        numeric: names of the numeric parameters, sorted: columns 0 … len − 1.
        categorical: name → sorted choices, sorted by name: one block of columns each, after the numeric ones.
    """

    numeric: tuple[str, ...] = ()
    categorical: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @classmethod
    def learn(cls, candidates: Sequence[Candidate], choices: Mapping[str, Sequence[str]]) -> Columns:
        """Read the columns off labelled candidates.

        Args:
            candidates: labelled ones; all name the same parameters.
            choices: further choices of categorical parameters.

        Returns:
            The columns.

        Raises:
            SurrogateError: a parameter is a number here and a name there, or is missing somewhere.
        """
        names = sorted({name for candidate in candidates for name in candidate.parameters})
        numeric, categorical = [], {}
        for name in names:
            values = [_value(candidate, name) for candidate in candidates]
            words = {value for value in values if isinstance(value, str)}
            if not words and name not in choices:
                numeric.append(name)
            elif all(isinstance(value, str) for value in values):
                categorical[name] = tuple(sorted(words | set(choices.get(name, ()))))
            else:
                message = (
                    f"parameter {name!r} is a number in some candidates and a name in others ({sorted(words)[:3]});"
                    " give all of them one kind"
                )
                raise SurrogateError(message)
        return cls(tuple(numeric), categorical)

    @property
    def blocks(self) -> tuple[tuple[int, ...], ...]:
        """Column numbers: one group a numeric parameter, one a categorical one."""
        groups: list[tuple[int, ...]] = [(i,) for i in range(len(self.numeric))]
        start = len(self.numeric)
        for options in self.categorical.values():
            groups.append(tuple(range(start, start + len(options))))
            start += len(options)
        return tuple(groups)

    def encode(self, candidates: Sequence[Candidate]) -> Array:
        """Return the columns.

        Args:
            candidates: n candidates.

        Returns:
            n × d. A choice never seen in training is a row of zeros in its block.
        """
        numbers = [[_number(candidate, name) for name in self.numeric] for candidate in candidates]
        parts = [np.array(numbers, dtype=np.float64).reshape(len(candidates), len(self.numeric))]
        for name, options in self.categorical.items():
            column = {option: k for k, option in enumerate(options)}
            block = np.zeros((len(candidates), len(options)))
            for i, candidate in enumerate(candidates):
                k = column.get(str(_value(candidate, name)))
                if k is not None:
                    block[i, k] = 1.0
            parts.append(block)
        return np.hstack(parts)

    def to_json(self) -> JsonObject:
        """Return the columns as JSON content."""
        return {"numeric": list(self.numeric), "categorical": {k: list(v) for k, v in self.categorical.items()}}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Columns:
        """Build the columns from `to_json` content."""
        return cls(tuple(content["numeric"]), {k: tuple(v) for k, v in sorted(content["categorical"].items())})


@dataclass(frozen=True, eq=False)
class Scaling:
    """Raw columns → normalised columns: logarithm of some, then shift and scale.

    Args:
        log: columns whose logarithm (base 10) is taken first.
        shift: d numbers, subtracted.
        scale: d numbers, divided by.
    """

    log: tuple[int, ...]
    shift: Array
    scale: Array

    @classmethod
    def standardise(cls, raw: Array, floors: Array) -> Scaling:
        """Bring each column to mean 0 and variance 1 over the labelled rows.

        Args:
            raw: n × d.
            floors: d smallest scales, for columns that hardly vary among the labelled rows but may elsewhere.

        Returns:
            The scaling.
        """
        return cls((), raw.mean(0), np.maximum(raw.std(0), floors))

    @classmethod
    def unit_range(cls, raw: Array, bounds: Mapping[int, tuple[float, float]], log: tuple[int, ...]) -> Scaling:
        """Bring each column to 0 … 1.

        Args:
            raw: n × d labelled rows.
            bounds: column → raw bounds; the range of the labelled rows where absent.
            log: columns on a logarithmic scale.

        Returns:
            The scaling.

        Raises:
            SurrogateError: a value on a logarithmic scale is not positive.
        """
        limits = np.array([raw.min(0), raw.max(0)])
        for column, pair in bounds.items():
            limits[:, column] = pair
        if log and limits[0, list(log)].min() <= 0:
            message = "a parameter on a logarithmic scale has values that are not positive; leave it out of 'log'"
            raise SurrogateError(message)
        limits[:, list(log)] = np.log10(limits[:, list(log)])
        width = limits[1] - limits[0]
        flat = width <= 1e-12 * np.maximum(np.abs(limits[0]), 1.0)
        width[flat] = np.maximum(np.abs(limits[0, flat]), 1.0)  # a set-point not varied yet: its own size is the guess
        return cls(log, limits[0], width)

    def apply(self, raw: Array) -> Array:
        """Return the normalised columns."""
        values = raw
        if self.log:
            values = raw.copy()
            values[:, list(self.log)] = np.log10(np.maximum(raw[:, list(self.log)], np.finfo(float).tiny))
        scaled: Array = (values - self.shift) / self.scale
        return scaled

    def undo(self, normalised: Array) -> Array:
        """Return the raw columns that `apply` maps to the given ones."""
        raw: Array = self.shift + self.scale * normalised
        if self.log:
            raw[:, list(self.log)] = 10.0 ** raw[:, list(self.log)]
        return raw

    def to_botorch(self) -> Any:
        """Return the same map as a botorch input transform."""
        import torch  # noqa: PLC0415  this module serves surrogates without torch too
        from botorch.models.transforms.input import ChainedInputTransform, Log10, Normalize  # noqa: PLC0415

        bounds = torch.from_numpy(np.array([self.shift, self.shift + self.scale]))
        parts: dict[str, Any] = {"log": Log10(indices=list(self.log))} if self.log else {}
        parts["range"] = Normalize(d=len(self.shift), bounds=bounds)
        return ChainedInputTransform(**parts)


def _value(candidate: Candidate, name: str) -> float | int | str:
    if name not in candidate.parameters:
        message = (
            f"candidate {candidate.label!r} has no parameter {name!r}; it has {sorted(candidate.parameters) or 'none'}:"
            " all candidates of a campaign name the same parameters"
        )
        raise SurrogateError(message)
    return candidate.parameters[name]


def _number(candidate: Candidate, name: str) -> float:
    value = _value(candidate, name)
    if isinstance(value, str):
        message = f"parameter {name!r} of candidate {candidate.label!r} is {value!r}; the labelled ones had numbers"
        raise SurrogateError(message)
    return float(value)
