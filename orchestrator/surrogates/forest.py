"""Extremely randomised trees on composition features and parameters: the honest baseline that needs no tuning.

Geurts et al., Machine Learning 63, 3 (2006), doi:10.1007/s10994-006-6226-1; features after Ward et al. 2016
(`networks.composition`). Each tree is trained on a bootstrap sample, so that every label is held out by about a third
of the trees, which gives honest residuals without training twice. A draw is one tree.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field
from sklearn.ensemble import ExtraTreesRegressor, RandomForestRegressor

from orchestrator.domain import Array, Candidate, Dataset, FitReport, HeldOut, JsonObject, Prediction, Problem
from orchestrator.errors import MatloopError, SurrogateError
from orchestrator.networks import composition
from orchestrator.protocols import Options, Support
from orchestrator.surrogates import state
from orchestrator.surrogates.calibration import assess, calibrated, sd_factor
from orchestrator.surrogates.encoding import Columns
from orchestrator.surrogates.explanation import Explaining
from orchestrator.surrogates.feasibility import Feasibility
from orchestrator.surrogates.kernels import Term
from orchestrator.surrogates.targets import Target, learn_targets, standardise

SPREAD_FLOOR = 1e-3
"""Smallest spread of the trees, in units of the labels' spread: trees that all agree are not certain."""


class CompositionForestOptions(Options):
    """Options of `composition_forest`."""

    trees: int = Field(default=200, ge=10, le=5000)
    method: Literal["extra_trees", "random_forest"] = "extra_trees"
    features: Literal["auto", "parameters", "composition"] = Field(
        default="auto", description="auto: parameters where candidates have them, and composition where they have one"
    )
    choices: dict[str, tuple[str, ...]] = Field(
        default_factory=dict, description="choices of categorical parameters, besides those among the labelled ones"
    )


class CompositionForest(Explaining):
    """Forest on composition features and parameters.

    Its saved state is the training table and the seed: loading grows the same trees again, in a second, and runs no
    code from the file.

    Args:
        options: see `CompositionForestOptions`.
    """

    Options = CompositionForestOptions
    kind = "composition_forest"

    def __init__(self, options: CompositionForestOptions | None = None) -> None:
        self.options = options or CompositionForestOptions()
        self._properties: tuple[str, ...] = ()
        self._targets: tuple[Target, ...] = ()
        self._columns = Columns()
        self._composition = False
        self._seed = 0
        self._factors: tuple[float, ...] = ()
        self._noise: tuple[float, ...] = ()
        self._fitted: tuple[tuple[Array, Array], ...] = ()
        self._fitted_forests: tuple[_Forest, ...] = ()
        self._forests: tuple[_Forest, ...] = ()
        self._loaded = False
        self._held_out: dict[str, HeldOut] = {}
        self._fitted_trials: tuple[Array, Array] = (np.zeros((0, 0)), np.zeros((0, 0)))
        self._trials = self._fitted_trials
        self._feasibility: tuple[Feasibility, Array, Array] | None = None

    def supports(self) -> frozenset[Support]:
        """Name what it can learn from and answer."""
        return frozenset({"structure", "composition", "parameters", "uncertainty", "draws", "feasibility"})

    def knows(self) -> frozenset[str]:
        """Name the pretrained knowledge inside: none."""
        return frozenset()

    def fit(self, dataset: Dataset, problem: Problem, seed: int) -> FitReport:
        """Train on a dataset; see `Surrogate.fit`. A forest has no warm start: it is always grown anew."""
        started = time.perf_counter()
        self._properties = problem.properties
        self._targets, notes = learn_targets(dataset, self._properties)
        data = standardise(dataset, self._properties, self._targets)
        self._lay_out(data.labels.candidates)
        self._seed = seed
        x = self._encode(data.labels.candidates)
        tables, forests, factors, noise = [], [], [], []
        metrics, calibration = {}, {}
        self._held_out = {}
        for j, name in enumerate(self._properties):
            rows = np.isfinite(data.y[:, j])
            y = data.y[rows, j]
            forest = _Forest.grow(x[rows], y, self.options, seed + j)
            residuals, spread = forest.held_out(x[rows], y)
            # What is left of the residuals' size where the trees agree is noise to this surrogate.
            inherent = float(np.sqrt(max(float(np.mean(residuals**2) - np.mean(spread**2)), 0.0)))
            scale = self._targets[j].scale
            trials = tuple(data.labels.trials[i] for i in np.flatnonzero(rows))
            sd = np.hypot(spread, inherent) * scale
            held_out = HeldOut(residuals * scale, sd, self._targets[j].back(y), trials)
            self._held_out[name] = calibrated(held_out)
            factors.append(sd_factor(held_out))
            noise.append(inherent)
            metrics[name], calibration[name] = assess(held_out)
            tables.append((x[rows], y))
            forests.append(forest)
        self._factors, self._noise = tuple(factors), tuple(noise)
        self._fitted = tuple(tables)
        self._fitted_forests = self._forests = tuple(forests)
        self._fitted_trials = x, self._encode_failed(dataset, notes)
        self._take(self._fitted_trials)
        self._remember(problem, data.labels)
        warm, self._loaded = self._loaded, False
        if warm:
            notes.append("a forest does not start warm; it was grown anew")
        return FitReport(
            labels=len(data),
            data_sha256=dataset.sha256,
            metrics=metrics,
            calibration=calibration,
            device="cpu",
            seconds=time.perf_counter() - started,
            warm=False,
            notes=tuple(notes),
        )

    def update(self, dataset: Dataset) -> None:
        """Grow the trees again on another dataset; columns, noise and calibration stay those of the fit."""
        self._need()
        data = standardise(dataset, self._properties, self._targets)
        x = self._encode(data.labels.candidates)
        forests = []
        for j in range(len(self._properties)):
            rows = np.isfinite(data.y[:, j])
            forests.append(_Forest.grow(x[rows], data.y[rows, j], self.options, self._seed + j))
        self._forests = tuple(forests)
        self._take((x, self._encode_failed(dataset, [])))
        self._remember(None, data.labels)

    def predict(self, candidates: Sequence[Candidate]) -> Prediction:
        """Return means and standard deviations, n × m: epistemic from the trees' spread, noise from residuals."""
        self._need()
        x = self._encode(candidates)
        mean, epistemic, noise = (np.zeros((len(candidates), len(self._properties))) for _ in range(3))
        for j, (forest, target) in enumerate(zip(self._forests, self._targets, strict=True)):
            trees = forest.trees(x)
            mean[:, j] = target.back(trees.mean(0))
            epistemic[:, j] = self._factors[j] * target.scale * _spread(trees)
            noise[:, j] = self._factors[j] * target.scale * self._noise[j]
        return Prediction(mean, epistemic, noise)

    def draw(self, candidates: Sequence[Candidate], s: int, seed: int) -> Array:
        """Return the values of `s` trees, s × n × m, spread as the calibrated epistemic standard deviation.

        The order of the trees is shuffled by `seed`; where `s` is larger than the forest, trees come again.
        """
        self._need()
        x = self._encode(candidates)
        values = np.zeros((s, len(candidates), len(self._properties)))
        for j, (forest, target) in enumerate(zip(self._forests, self._targets, strict=True)):
            trees = forest.trees(x)
            order = np.random.default_rng([seed, j]).permutation(len(trees))
            mean, raw = trees.mean(0), trees.std(0)
            stretch = self._factors[j] * _spread(trees) / np.maximum(raw, 1e-12)
            chosen = trees[np.resize(order, s)]
            values[:, :, j] = target.back(mean + stretch * (chosen - mean))
        return values

    def success(self, candidates: Sequence[Candidate]) -> Array:
        """Return the probability that a trial of each candidate yields a value, n; see `PredictsSuccess`.

        Trees would give the share of failures in a leaf, which with a few failures is nothing or everything; the
        classifier of the Gaussian surrogates, over the forest's own features, says how little is known.
        """
        self._need()
        if self._feasibility is None:
            good, failed = self._trials
            both = np.vstack([good, failed])
            shift, scale = both.mean(0), both.std(0)
            scale[scale < SPREAD_FLOOR * np.maximum(1.0, np.abs(shift))] = 1.0
            groups = list(self._columns.blocks)
            start = sum(len(group) for group in groups)
            if start < both.shape[1]:
                groups.append(tuple(range(start, both.shape[1])))
            learned = Feasibility.learn(
                (Term("matern52", tuple(groups)),), (good - shift) / scale, (failed - shift) / scale
            )
            self._feasibility = learned, shift, scale
        learned, shift, scale = self._feasibility
        return learned.probability((self._encode(candidates) - shift) / scale) if candidates else np.zeros(0)

    def held_out(self) -> Mapping[str, HeldOut]:
        """Return the held-out predictions of the last fit; see `HoldsOut`."""
        return dict(self._held_out)

    def widen(self, factors: Mapping[str, float]) -> None:
        """Multiply the standard deviations of the last fit; see `Widens`."""
        self._need()
        self._factors = tuple(f * factors.get(p, 1.0) for p, f in zip(self._properties, self._factors, strict=True))

    def save(self, folder: Path) -> None:
        """Write the training table of the last fit, its seed and its calibration."""
        self._need()
        arrays: dict[str, Array] = {}
        for j, (x, y) in enumerate(self._fitted):
            arrays |= {f"table.{j}.x": x, f"table.{j}.y": y}
        arrays |= {"trials.good": self._fitted_trials[0], "trials.failed": self._fitted_trials[1]}
        rest: JsonObject = {
            "columns": self._columns.to_json(),
            "composition": self._composition,
            "seed": self._seed,
            "trees": self.options.trees,
            "method": self.options.method,
            "factors": list(self._factors),
            "noise": list(self._noise),
            "targets": [target.to_json() for target in self._targets],
        }
        state.write(folder, self.kind, self._properties, arrays, rest)

    def load(self, folder: Path, problem: Problem) -> None:
        """Read what `save` wrote and grow the same trees."""
        arrays, rest = state.read(folder, self.kind, problem.properties)
        self._properties = problem.properties
        self._columns = Columns.from_json(rest["columns"])
        self._composition = bool(rest["composition"])
        self._seed = int(rest["seed"])
        self.options = self.options.model_copy(update={"trees": rest["trees"], "method": rest["method"]})
        self._factors, self._noise = tuple(rest["factors"]), tuple(rest["noise"])
        self._targets = tuple(Target(**target) for target in rest["targets"])
        self._fitted = tuple((arrays[f"table.{j}.x"], arrays[f"table.{j}.y"]) for j in range(len(self._properties)))
        grown = (_Forest.grow(x, y, self.options, self._seed + j) for j, (x, y) in enumerate(self._fitted))
        self._fitted_forests = self._forests = tuple(grown)
        labelled = max((x for x, _ in self._fitted), key=len)  # fits from before failures counted have no trials
        none = np.zeros((0, labelled.shape[1]))
        self._fitted_trials = arrays.get("trials.good", labelled), arrays.get("trials.failed", none)
        self._take(self._fitted_trials)
        self._held_out = {}
        self._remember(problem, None)
        self._loaded = True

    # --- inside -----------------------------------------------------------------------------------------------------

    def _need(self) -> None:
        if not self._forests:
            message = "this composition_forest was asked before it was trained; call fit or load first"
            raise SurrogateError(message)

    def _take(self, trials: tuple[Array, Array]) -> None:
        """Learn success from these columns of good and of failed trials, when it is asked for."""
        self._trials, self._feasibility = trials, None

    def _encode_failed(self, dataset: Dataset, notes: list[str]) -> Array:
        """Return columns of the failed trials; one that cannot be read teaches nothing."""
        rows = [np.zeros((0, self._encode([]).shape[1]))]
        for failure in dataset.failures:
            try:
                rows.append(self._encode([failure.applied_candidate]))
            except MatloopError as error:
                notes.append(f"failed trial {failure.trial} is left out of what predicts success: {error}")
        return np.vstack(rows)

    def _lay_out(self, candidates: Sequence[Candidate]) -> None:
        wanted = self.options.features
        learned = Columns() if wanted == "composition" else Columns.learn(candidates, self.options.choices)
        formulas = [candidate.crystal is not None or candidate.composition is not None for candidate in candidates]
        self._columns = learned
        self._composition = wanted == "composition" or (wanted == "auto" and all(formulas))
        if not learned.blocks and not self._composition:
            message = f"the candidates have no parameters and no composition to learn from (features: {wanted})"
            raise SurrogateError(message)

    def _columns_of(self, candidates: Sequence[Candidate]) -> Array:
        """Return every tree's answer: candidates are alike that the trees put into the same leaves."""
        x = self._encode(candidates)
        return np.vstack([forest.trees(x) for forest in self._forests]).T

    def _encode(self, candidates: Sequence[Candidate]) -> Array:
        parts = [self._columns.encode(candidates)]
        if self._composition:
            parts.append(composition.statistics(candidates))
        return np.hstack(parts)


class _Forest:
    """Trees of one property, with the rows that each has seen."""

    def __init__(self, regressor: Any, n: int) -> None:
        self._regressor = regressor
        self._seen = np.zeros((len(regressor.estimators_), n), dtype=bool)
        for row, picked in zip(self._seen, regressor.estimators_samples_, strict=True):
            row[picked] = True

    @classmethod
    def grow(cls, x: Array, y: Array, options: CompositionForestOptions, seed: int) -> _Forest:
        kind = ExtraTreesRegressor if options.method == "extra_trees" else RandomForestRegressor
        if not len(y):
            x, y = np.zeros((1, x.shape[1])), np.zeros(1)  # nothing known: the mean of the fit everywhere
        regressor = kind(
            n_estimators=options.trees,
            bootstrap=True,
            max_features=1.0 if options.method == "extra_trees" else 0.5,
            random_state=seed % 2**32,
            n_jobs=1,
        )
        return cls(regressor.fit(x, y), len(y))

    def trees(self, x: Array) -> Array:
        """Return each tree's answer, trees × k."""
        narrow = np.ascontiguousarray(x, dtype=np.float32)
        if not len(narrow):
            return np.zeros((len(self._regressor.estimators_), 0))
        return np.array([tree.tree_.predict(narrow)[:, 0] for tree in self._regressor.estimators_])

    def held_out(self, x: Array, y: Array) -> tuple[Array, Array]:
        """Return residual and spread of each label over the trees that have not seen it."""
        answers = self.trees(x)
        residuals, spread = np.zeros(len(y)), np.zeros(len(y))
        for i in range(len(y)):
            unseen = answers[~self._seen[:, i], i]
            if not len(unseen):
                unseen = answers[:, i]  # one label in e^(trees/3): never with the number of trees allowed
            residuals[i] = y[i] - unseen.mean()
            spread[i] = max(float(unseen.std()), SPREAD_FLOOR)
        return residuals, spread


def _spread(trees: Array) -> Array:
    floored: Array = np.maximum(trees.std(0), SPREAD_FLOOR)
    return floored
