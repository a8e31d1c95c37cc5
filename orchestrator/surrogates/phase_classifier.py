"""Which phase is it? A Gaussian-process classifier for properties whose values are whole numbers that name classes.

Dirichlet-based Gaussian-process classification (Milios, Camoriano, Michiardi, Rosasco, Filippone, NeurIPS 2018,
arXiv:1805.10915): one exact Gaussian process a class on the logarithms of pseudo-counts, whose softmax gives the
probabilities. On random designs over two phase diagrams it was as right as one-against-rest classification with
Laplace's approximation (see `feasibility`) and told better how sure it was: negative log probability 0.21 against 0.36
after 48 labels of 441. As a surrogate it tells the mean and the standard deviation of the label; what the classes are,
and how probable each is, says the ability `Classifies`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field
from scipy.special import softmax
from scipy.stats import norm, qmc

from orchestrator.domain import Array, Candidate, Dataset, FitReport, JsonObject, Prediction, Problem
from orchestrator.errors import NotEnoughData, SurrogateError
from orchestrator.networks import composition
from orchestrator.protocols import BoxSpace, Options, SearchSpace, Support
from orchestrator.surrogates import state
from orchestrator.surrogates.encoding import Columns, Scaling
from orchestrator.surrogates.heads import GaussianHead
from orchestrator.surrogates.hyper import Hyperparameters, Points, learn_shared
from orchestrator.surrogates.kernels import Term

CHUNK = 2048
"""Candidates asked at once: bounds the memory of latent values."""
NODES = 256
"""Quasi-random latent values behind every mean and standard deviation: their error is below 1 %."""
COUNT = 0.01
"""Pseudo-count of each class before a measurement, as in the paper: smaller ones trust single labels more."""
FEWEST = 3
FOLDS = 5
SMALLEST = 1e-12


class PhaseClassifierOptions(Options):
    """Options of `phase_classifier`."""

    features: Literal["auto", "parameters", "composition"] = Field(
        default="auto", description="auto: parameters where candidates have them, compositions where they have those"
    )
    log: tuple[str, ...] = Field(default=(), description="numeric parameters whose logarithm matters")
    bounds: dict[str, tuple[float, float]] = Field(
        default_factory=dict, description="range of numeric parameters; the labelled range where absent"
    )


@dataclass(frozen=True, eq=False)
class _Phases:
    """The classes of one property: k classes, a process of each with shared hyperparameters, and the labels."""

    classes: tuple[int, ...]
    heads: tuple[GaussianHead, ...]
    hyper: Hyperparameters
    x: Array
    y: Array

    @classmethod
    def learn(cls, terms: tuple[Term, ...], x: Array, y: Array, start: Hyperparameters | None) -> _Phases:
        """Learn hyperparameters and condition on labels.

        All classes share them: each alone would take its few labels at their word and stretch one axis over all.
        """
        return cls.given(terms, x, y, learn_shared(terms, [_counts(x, y == one) for one in _classes(y)], start))

    @classmethod
    def given(cls, terms: tuple[Term, ...], x: Array, y: Array, hyper: Hyperparameters) -> _Phases:
        """Condition on labels with known hyperparameters."""
        classes = _classes(y)
        return cls(classes, tuple(GaussianHead(terms, hyper, _counts(x, y == one)) for one in classes), hyper, x, y)

    def probabilities(self, x: Array) -> tuple[Array, Array]:
        """Return mean probabilities, n × k, and those at each node, nodes × n × k."""
        nodes = norm.ppf(qmc.Sobol(len(self.classes), scramble=True, rng=0).random(NODES))
        values = np.empty((NODES, len(x), len(self.classes)))
        for k, head in enumerate(self.heads):
            mean, variance = head.predict(x)
            values[..., k] = mean + np.sqrt(variance) * nodes[:, k, None]
        each = softmax(values * SCALE, axis=-1)
        return each.mean(axis=0), each


def _classes(y: Array) -> tuple[int, ...]:
    return tuple(int(one) for one in np.unique(y))


MIDDLE = float(np.log(COUNT) - np.log1p(1 / COUNT) / 2)
"""Logarithm of the pseudo-count where a class was not measured: with `SCALE` it brings labels to −1 and 1."""
TOP = float(np.log1p(COUNT) - np.log1p(1 / (1 + COUNT)) / 2)
SCALE = (TOP - MIDDLE) / 2


def _counts(x: Array, measured: npt.NDArray[np.bool_]) -> Points:
    """Turn labels of one class into logarithms of gamma variables, matched by a normal one, from −1 to 1."""
    counts = np.where(measured, 1.0 + COUNT, COUNT)
    known = np.log1p(1.0 / counts)
    return Points(x, (np.log(counts) - known / 2 - (TOP + MIDDLE) / 2) / SCALE, known / SCALE**2)


class PhaseClassifier:
    """Gaussian-process classification, one class against the rest.

    Args:
        options: see `PhaseClassifierOptions`.
    """

    Options = PhaseClassifierOptions
    kind = "phase_classifier"

    def __init__(self, options: PhaseClassifierOptions | None = None) -> None:
        self.options = options or PhaseClassifierOptions()
        self._properties: tuple[str, ...] = ()
        self._columns, self._composition = Columns(), False
        self._scaling = Scaling((), np.zeros(0), np.ones(0))
        self._terms: tuple[Term, ...] = ()
        self._fitted: tuple[_Phases, ...] = ()
        self._current: tuple[_Phases, ...] = ()
        self._loaded = False

    def supports(self) -> frozenset[Support]:
        """Name what it can learn from and answer."""
        return frozenset({"structure", "composition", "parameters", "uncertainty", "draws", "classes"})

    def knows(self) -> frozenset[str]:
        """Name the pretrained knowledge inside: none."""
        return frozenset()

    def look_at(self, space: SearchSpace) -> None:
        """Take ranges and logarithms from a box, where the options say nothing of them."""
        if isinstance(space, BoxSpace) and self.options.features != "composition":
            numeric = [axis for axis in space.axes() if axis.kind != "categorical"]
            update = {
                "log": self.options.log or tuple(axis.name for axis in numeric if axis.log),
                "bounds": {a.name: (a.low, a.high) for a in numeric if a.high > a.low} | self.options.bounds,
            }
            self.options = self.options.model_copy(update=update)

    def fit(self, dataset: Dataset, problem: Problem, seed: int) -> FitReport:
        """Train on a dataset; see `Surrogate.fit`."""
        started = time.perf_counter()
        warm, self._loaded = self._loaded, False
        candidates, rows = _labels(dataset, problem.properties)
        for name, (places, _) in zip(problem.properties, rows, strict=True):
            if len(places) < FEWEST:
                message = (
                    f"{name!r} has {len(places)} labels; at least {FEWEST} are needed to train a classifier: measure"
                    " more before fitting (in a campaign file: 'initial: {trials: …}')"
                )
                raise NotEnoughData(message)
        self._properties = problem.properties
        terms = self._terms
        self._learn_columns(candidates)
        x = self._encode(candidates)
        before = [phases.hyper for phases in self._fitted] if warm and self._terms == terms else [None] * len(rows)
        self._fitted = self._current = tuple(
            _Phases.learn(self._terms, x[places], y, start) for (places, y), start in zip(rows, before, strict=True)
        )
        notes, metrics = [], {}
        for name, phases in zip(problem.properties, self._fitted, strict=True):
            metrics[name] = _held_out(self._terms, phases, seed)
            if len(phases.classes) == 1:
                notes.append(f"{name}: only class {phases.classes[0]} was measured so far, so no boundary is known")
        return FitReport(
            labels=len(candidates),
            data_sha256=dataset.sha256,
            metrics=metrics,
            seconds=time.perf_counter() - started,
            warm=warm,
            notes=tuple(notes),
        )

    def update(self, dataset: Dataset) -> None:
        """Condition on another dataset; columns, lengths and amplitudes stay those of the fit."""
        self._need()
        candidates, rows = _labels(dataset, self._properties)
        x = self._encode(candidates)
        self._current = tuple(
            _Phases.given(self._terms, x[places], y, fitted.hyper)
            for (places, y), fitted in zip(rows, self._fitted, strict=True)
        )

    def predict(self, candidates: Sequence[Candidate]) -> Prediction:
        """Return mean and standard deviations of the label, n × m; noise is what stays open were the function known."""
        shape = (len(candidates), len(self._need()))
        mean, epistemic, noise = np.zeros(shape), np.zeros(shape), np.zeros(shape)
        for rows, x in self._chunks(candidates):
            for j, phases in enumerate(self._current):
                labels = np.array(phases.classes, dtype=np.float64)
                p, each = phases.probabilities(x)
                mean[rows, j] = p @ labels
                epistemic[rows, j] = (each @ labels).std(axis=0)
                variance = p @ labels**2 - mean[rows, j] ** 2
                noise[rows, j] = np.sqrt(np.maximum(variance - epistemic[rows, j] ** 2, SMALLEST))
        return Prediction(mean, epistemic, noise)

    def draw(self, candidates: Sequence[Candidate], s: int, seed: int) -> Array:
        """Return the expected label under `s` functions from the posterior, s × n × m."""
        self._need()
        parts = [
            self.chances(candidates, name, s, seed) @ np.array(phases.classes, dtype=np.float64)
            for name, phases in zip(self._properties, self._current, strict=True)
        ]
        return np.stack(parts, axis=-1)

    def classes(self, name: str) -> tuple[int, ...]:
        """Return the classes of a property that were measured so far; see `Classifies`."""
        return self._of(name)[1].classes

    def chances(self, candidates: Sequence[Candidate], name: str, s: int, seed: int) -> Array:
        """Return the probability of each class under `s` functions, s × n × k; see `Classifies`."""
        j, phases = self._of(name)
        found = np.zeros((s, len(candidates), len(phases.classes)))
        for rows, x in self._chunks(candidates):
            latents = [head.draw(x, s, (seed, j, k)) for k, head in enumerate(phases.heads)]
            found[:, rows] = softmax(np.stack(latents, axis=-1) * SCALE, axis=-1)
        return found

    def save(self, folder: Path) -> None:
        """Write the state of the last fit as safetensors and JSON."""
        fitted = self._need()
        arrays: dict[str, npt.NDArray[np.float64]] = {"shift": self._scaling.shift, "scale": self._scaling.scale}
        for j, phases in enumerate(fitted):
            arrays |= {f"x.{j}": phases.x, f"y.{j}": phases.y, f"hyper.{j}": phases.hyper.pack()}
        rest: JsonObject = {
            "columns": self._columns.to_json(),
            "composition": self._composition,
            "log": list(self._scaling.log),
            "terms": [term.to_json() for term in self._terms],
        }
        state.write(folder, self.kind, self._properties, arrays, rest)

    def load(self, folder: Path, problem: Problem) -> None:
        """Read what `save` wrote."""
        arrays, rest = state.read(folder, self.kind, problem.properties)
        self._properties = problem.properties
        self._columns, self._composition = Columns.from_json(rest["columns"]), bool(rest["composition"])
        self._scaling = Scaling(tuple(rest["log"]), arrays["shift"], arrays["scale"])
        self._terms = tuple(Term.from_json(term) for term in rest["terms"])
        self._fitted = self._current = tuple(
            _Phases.given(
                self._terms,
                arrays[f"x.{j}"],
                arrays[f"y.{j}"],
                Hyperparameters.unpack(arrays[f"hyper.{j}"], self._terms),
            )
            for j in range(len(self._properties))
        )
        self._loaded = True

    def _need(self) -> tuple[_Phases, ...]:
        if not self._fitted:
            message = f"this {self.kind} was asked before it was trained; call fit or load first"
            raise SurrogateError(message)
        return self._fitted

    def _of(self, name: str) -> tuple[int, _Phases]:
        self._need()
        if name not in self._properties:
            message = f"{name!r} is no modelled property; those are {', '.join(self._properties)}: name one of them"
            raise SurrogateError(message)
        j = self._properties.index(name)
        return j, self._current[j]

    def _learn_columns(self, candidates: Sequence[Candidate]) -> None:
        wanted = self.options.features
        self._columns = Columns() if wanted == "composition" else Columns.learn(candidates, {})
        formulas = all(c.crystal is not None or c.composition is not None for c in candidates)
        self._composition = wanted == "composition" or (wanted == "auto" and formulas)
        groups, at = list(self._columns.blocks), {name: i for i, name in enumerate(self._columns.numeric)}
        if not groups and not self._composition:
            message = f"the candidates have no parameters and no composition to learn from (features: {wanted})"
            raise SurrogateError(message)
        unknown = (set(self.options.log) | set(self.options.bounds)) - set(at)
        if unknown:
            message = (
                f"'log' or 'bounds' name {', '.join(sorted(unknown))}, which are no numeric parameters of the"
                f" candidates; those are {', '.join(at) or 'none'}"
            )
            raise SurrogateError(message)
        raw, width = self._raw(candidates), sum(len(group) for group in groups)
        bounds = {at[name]: pair for name, pair in self.options.bounds.items()}
        bounds |= {column: (0.0, 1.0) for group in groups[len(at) :] for column in group}
        part = Scaling.unit_range(raw[:, :width], bounds, tuple(at[name] for name in sorted(self.options.log)))
        shift, scale = part.shift, part.scale
        if self._composition:
            more = Scaling.standardise(raw[:, width:], composition.FLOOR * composition.spread())
            groups.append(tuple(range(width, raw.shape[1])))
            shift, scale = np.concatenate([shift, more.shift]), np.concatenate([scale, more.scale])
        self._scaling = Scaling(part.log, shift, scale)
        self._terms = (Term("matern52", tuple(groups)),)

    def _raw(self, candidates: Sequence[Candidate]) -> Array:
        parts = [self._columns.encode(candidates)]
        if self._composition:
            parts.append(composition.statistics(candidates))
        return np.hstack(parts)

    def _encode(self, candidates: Sequence[Candidate]) -> Array:
        if not candidates:
            return np.zeros((0, len(self._scaling.shift)))
        return self._scaling.apply(self._raw(candidates))

    def _chunks(self, candidates: Sequence[Candidate]) -> list[tuple[slice, Array]]:
        return [
            (slice(i, min(i + CHUNK, len(candidates))), self._encode(candidates[i : i + CHUNK]))
            for i in range(0, len(candidates), CHUNK)
        ]


def _labels(
    dataset: Dataset, properties: Sequence[str]
) -> tuple[tuple[Candidate, ...], list[tuple[npt.NDArray[np.int64], Array]]]:
    """Return the labelled candidates, and for each property the places of its labels and the labels.

    Raises:
        SurrogateError: a label is no whole number.
    """
    labels = dataset.labels(properties)
    rows = []
    for j, name in enumerate(properties):
        places = np.flatnonzero(np.isfinite(labels.values[:, j]))
        values = labels.values[places, j]
        odd = np.flatnonzero(np.abs(values - values.round()) > 0)
        if len(odd):
            message = (
                f"trial {labels.trials[places[odd[0]]]}: {name} is {values[odd[0]]:g}; a classifier learns classes"
                " numbered by whole numbers (0, 1, 2 …): number the classes, or use another surrogate"
            )
            raise SurrogateError(message)
        rows.append((places, values))
    return labels.candidates, rows


def _held_out(terms: tuple[Term, ...], phases: _Phases, seed: int) -> dict[str, float]:
    """Return how often held-out labels were the most probable class, and their mean log probability."""
    n = len(phases.y)
    fold = np.random.default_rng(seed).permutation(n) % min(FOLDS, n)
    right, logs = 0, []
    for one in range(int(fold.max()) + 1):
        out = fold == one
        part = _Phases.given(terms, phases.x[~out], phases.y[~out], phases.hyper)
        p, _ = part.probabilities(phases.x[out])
        known = np.array(part.classes)
        for row, truth in zip(p, phases.y[out], strict=True):
            right += int(known[int(np.argmax(row))] == truth)
            logs.append(float(np.log(max(row[known == truth].sum(), COUNT))))
    return {"accuracy": right / n, "nll": -float(np.mean(logs)), "held_out": float(n)}
