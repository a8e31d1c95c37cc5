"""Gaussian process over process parameters, compositions, or both: the surrogate of ``box`` spaces.

Every numeric parameter and every categorical one has its own lengthscale (automatic relevance determination) with the
dimension-scaled prior of Hvarfner et al. 2024. The botorch view is differentiable in the numeric parameters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from orchestrator.domain import Array, Candidate, Dataset, JsonObject
from orchestrator.errors import SurrogateError
from orchestrator.networks import composition, environments
from orchestrator.networks.crystals import crystals_of
from orchestrator.protocols import BoxSpace, ProductSpace, SearchSpace, Support
from orchestrator.surrogates.encoding import Columns, Scaling
from orchestrator.surrogates.gaussian import Design, GaussianOptions, WithBotorch
from orchestrator.surrogates.hyper import Points
from orchestrator.surrogates.kernels import Term
from orchestrator.surrogates.robust import own_noise
from orchestrator.surrogates.targets import Standardised, Target, robustly


class GaussianProcessOptions(GaussianOptions):
    """Options of `gaussian_process`."""

    kernel: Literal["matern52", "rbf"] = Field(default="matern52", description="rbf believes in smoother functions")
    outliers: Literal["keep", "robust"] = Field(
        default="keep", description="robust: labels that nothing around them supports get a noise of their own"
    )
    features: Literal["auto", "parameters", "composition"] = Field(
        default="auto",
        description="auto: parameters where candidates have them, composition and neighbourhoods where they have those",
    )
    log: tuple[str, ...] = Field(default=(), description="numeric parameters whose logarithm matters")
    bounds: dict[str, tuple[float, float]] = Field(
        default_factory=dict, description="range of numeric parameters; the labelled range where absent"
    )
    choices: dict[str, tuple[str, ...]] = Field(
        default_factory=dict, description="choices of categorical parameters, besides those among the labelled ones"
    )


class GaussianProcess(WithBotorch):
    """Gaussian process over parameters or compositions.

    Encoding (`to_botorch().encode`): numeric parameters sorted by name with raw values, then a one-hot block for each
    categorical parameter sorted by name with sorted choices, then composition statistics and, of crystals,
    neighbourhood statistics where used.

    Args:
        options: see `GaussianProcessOptions`.
    """

    Options = GaussianProcessOptions
    kind = "gaussian_process"
    options: GaussianProcessOptions

    def __init__(self, options: GaussianProcessOptions | None = None) -> None:
        super().__init__()
        self.options = options or GaussianProcessOptions()
        self._columns = Columns()
        self._composition = self._environments = False

    def supports(self) -> frozenset[Support]:
        """Name what it can learn from and answer."""
        inputs: frozenset[Support] = frozenset({"structure", "composition", "parameters"})
        return inputs | self._answers()

    def look_at(self, space: SearchSpace) -> None:
        """Take ranges, logarithms and choices from a box or a product's, where the options say nothing of them."""
        box = space.settings() if isinstance(space, ProductSpace) else space
        if not isinstance(box, BoxSpace) or self.options.features == "composition":
            return
        numeric = [axis for axis in box.axes() if axis.kind != "categorical"]
        names = {axis.name: axis.choices for axis in box.axes() if axis.kind == "categorical"}
        self.options = self.options.model_copy(
            update={
                "log": self.options.log or tuple(axis.name for axis in numeric if axis.log),
                "bounds": {a.name: (a.low, a.high) for a in numeric if a.high > a.low} | self.options.bounds,
                "choices": names | self.options.choices,
            }
        )

    def _targets(self, dataset: Dataset, properties: tuple[str, ...]) -> tuple[tuple[Target, ...], list[str]]:
        targets, notes = super()._targets(dataset, properties)
        if self.options.outliers == "keep":
            return targets, notes
        values = dataset.labels(properties).values
        return tuple(robustly(target, values[:, j]) for j, target in enumerate(targets)), notes

    def _odd(
        self, name: str, target: Target, design: Design, points: Points, trials: tuple[int, ...]
    ) -> dict[int, float]:
        if self.options.outliers == "keep" or len(points) > self.options.exact_up_to:
            return {}
        # where short lengthscales are the most probable, every odd label is a narrow peak: smooth ones must judge
        found = own_noise(tuple(replace(term, ranged=()) for term in design.terms), points)
        odd = {trials[i]: float(found.variance[i]) for i in found.odd}
        for i in found.odd:
            self.notes.append(
                f"trial {trials[i]}: {name} = {float(target.back(points.y[i : i + 1])[0]):.6g} lies"
                f" {found.away[i]:.1f} standard deviations from what the other labels say of it, and hardly counts;"
                " check that measurement"
            )
        return odd

    def _learn(self, data: Standardised, seed: int, *, warm: bool) -> Design:
        del seed, warm
        candidates, wanted = data.labels.candidates, self.options.features
        if wanted == "composition":
            self._columns = Columns()
        else:
            self._columns = Columns.learn(candidates, self.options.choices)
        formulas = [candidate.crystal is not None or candidate.composition is not None for candidate in candidates]
        self._composition = wanted == "composition" or (wanted == "auto" and all(formulas))
        self._environments = wanted == "auto" and all(candidate.crystal is not None for candidate in candidates)
        groups = list(self._columns.blocks)
        if not groups and not self._composition:
            message = f"the candidates have no parameters and no composition to learn from (features: {wanted})"
            raise SurrogateError(message)
        unknown = (set(self.options.log) | set(self.options.bounds)) - set(self._columns.numeric)
        if unknown:
            message = (
                f"'log' or 'bounds' name {', '.join(sorted(unknown))}, which are no numeric parameters of the"
                f" candidates; those are {', '.join(self._columns.numeric) or 'none'}"
            )
            raise SurrogateError(message)
        raw = self._encode(candidates)
        at = {name: i for i, name in enumerate(self._columns.numeric)}
        parameters = sum(len(group) for group in groups)
        scaling = Scaling.unit_range(
            raw,
            {at[name]: pair for name, pair in self.options.bounds.items()}
            | {column: (0.0, 1.0) for group in groups[len(at) :] for column in group},
            tuple(at[name] for name in sorted(self.options.log)),
        )
        floors = []
        if self._composition:
            floors.append(composition.FLOOR * composition.spread())
        if self._environments:
            floors.append(np.full(environments.DIMENSION, composition.FLOOR))
        if floors:
            part = Scaling.standardise(raw[:, parameters:], np.concatenate(floors))
            scaling = Scaling(
                scaling.log,
                np.concatenate([scaling.shift[:parameters], part.shift]),
                np.concatenate([scaling.scale[:parameters], part.scale]),
            )
        start = parameters
        for floor in floors:
            groups.append(tuple(range(start, start + len(floor))))
            start += len(floor)
        ranged = tuple(sorted(at[name] for name in self.options.bounds))
        return Design(scaling, (Term(self.options.kernel, tuple(groups), ranged),))

    def _encode(self, candidates: Sequence[Candidate]) -> Array:
        parts = [self._columns.encode(candidates)]
        if self._composition:
            parts.append(composition.statistics(candidates))
        if self._environments:
            parts.append(environments.statistics(crystals_of(candidates)))
        return np.hstack(parts)

    def _encoding_state(self) -> tuple[dict[str, npt.NDArray[Any]], JsonObject]:
        return {}, {
            "columns": self._columns.to_json(),
            "composition": self._composition,
            "environments": self._environments,
        }

    def _load_encoding(self, arrays: Mapping[str, npt.NDArray[Any]], rest: Mapping[str, Any]) -> None:
        del arrays
        self._columns = Columns.from_json(rest["columns"])
        self._composition, self._environments = bool(rest["composition"]), bool(rest["environments"])

    def _differentiable(self) -> tuple[int, ...]:
        return tuple(range(len(self._columns.numeric)))
