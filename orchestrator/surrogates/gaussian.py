"""What the Gaussian-process surrogates share: fit, calibrate, refresh, ask, save. They differ in their features only.

A subclass learns an encoding of candidates and says how its columns enter the covariance. Everything after that (one
exact Gaussian process a property, calibration on held-out labels, pathwise draws, the botorch view) stands here.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import numpy.typing as npt
from pydantic import Field, field_validator

from orchestrator.abilities import BotorchView
from orchestrator.domain import Array, Candidate, Dataset, FitReport, HeldOut, JsonObject, Prediction, Problem
from orchestrator.errors import IncompatibleError, MatloopError, SurrogateError
from orchestrator.protocols import Options, Support
from orchestrator.surrogates import crossfit, state
from orchestrator.surrogates.calibration import assess, calibrated, sd_factor
from orchestrator.surrogates.conformal import Conformal
from orchestrator.surrogates.encoding import Scaling
from orchestrator.surrogates.explanation import Explaining
from orchestrator.surrogates.familiarity import Familiarity
from orchestrator.surrogates.feasibility import Feasibility
from orchestrator.surrogates.heads import GaussianHead, Head
from orchestrator.surrogates.hyper import Hyperparameters, Points, learn
from orchestrator.surrogates.kernels import Term
from orchestrator.surrogates.targets import Standardised, Target, learn_targets, standardise
from orchestrator.surrogates.transforms import TransformName
from orchestrator.surrogates.variational import INDUCING, VariationalHead

CHUNK = 4096
"""Candidates asked at once: bounds the memory of cross-covariances."""


class GaussianOptions(Options):
    """Options that all Gaussian-process surrogates share."""

    transforms: dict[str, TransformName] = Field(
        default_factory=dict,
        description="by property: log, box-cox, auto (the likeliest) or none; learned so, told in the property's unit",
    )
    exact_up_to: int = Field(default=3000, description="labels above which a process is variational instead of exact")

    @field_validator("exact_up_to")
    @classmethod
    def _worth_approximating(cls, labels: int) -> int:
        if labels < 2 * INDUCING:
            message = (
                f"a variational head has {INDUCING} inducing points: below {2 * INDUCING} labels the exact one is both"
                f" faster and better; write {2 * INDUCING} or more"
            )
            raise ValueError(message)
        return labels


@dataclass(frozen=True, eq=False)
class Design:
    """How the columns of an encoding enter the covariance.

    Args:
        scaling: raw columns → normalised ones.
        terms: the covariance over normalised columns.
    """

    scaling: Scaling
    terms: tuple[Term, ...]


@dataclass(frozen=True, eq=False)
class _Fitted:
    properties: tuple[str, ...]
    targets: tuple[Target, ...]
    design: Design
    heads: tuple[Head, ...]
    conformal: tuple[Conformal, ...]
    failed: Array  # normalised columns of failed trials


class GaussianSurrogate(Explaining, ABC):
    """Exact Gaussian processes on learned or fixed features; see `orchestrator.protocols.Surrogate`."""

    kind: ClassVar[str]
    options: GaussianOptions

    def __init__(self) -> None:
        self._fitted: _Fitted | None = None
        self._current: tuple[Head, ...] = ()
        self._failed: Array = np.zeros((0, 0))
        self._familiarity: Familiarity | None = None
        self._feasibility: Feasibility | None = None
        self._loaded = False
        self._held_out: dict[str, HeldOut] = {}
        self._own_noise: dict[str, dict[int, float]] = {}  # property → trial → variance of one odd label
        self.notes: list[str] = []

    # --- what a subclass gives --------------------------------------------------------------------------------------

    @abstractmethod
    def supports(self) -> frozenset[Support]:
        """Name what it can learn from and answer."""

    @abstractmethod
    def _learn(self, data: Standardised, seed: int, *, warm: bool) -> Design:
        """Learn the encoding from labelled candidates, so that `_encode` works, and lay out the covariance."""

    @abstractmethod
    def _encode(self, candidates: Sequence[Candidate]) -> Array:
        """Return raw columns, n × d, of the encoding last learned or loaded."""

    @abstractmethod
    def _encoding_state(self) -> tuple[dict[str, npt.NDArray[Any]], JsonObject]:
        """Return what `_load_encoding` needs."""

    @abstractmethod
    def _load_encoding(self, arrays: Mapping[str, npt.NDArray[Any]], rest: Mapping[str, Any]) -> None:
        """Restore the encoding."""

    def knows(self) -> frozenset[str]:
        """Name the pretrained knowledge inside: none, unless a subclass says otherwise."""
        return frozenset()

    def _fit_head(
        self, design: Design, points: Points, start: Hyperparameters | None, rows: npt.NDArray[np.bool_]
    ) -> tuple[Head, tuple[Array, Array]]:
        """Learn the process of one property.

        Args:
            design: covariance.
            points: normalised features and labels.
            start: hyperparameters of an earlier fit.
            rows: which labelled trials `points` are.

        Returns:
            The head, and held-out residuals with their standard deviations, in standardised units.
        """
        del rows
        head = self._process(design.terms, learn(design.terms, points, start), points)
        alone = crossfit.View(points, np.ones(len(points), dtype=bool))  # features that no label has taken part in
        return head, crossfit.held_out_residuals(design.terms, head.hyper, [alone], self._process, folds=5)

    def _targets(self, dataset: Dataset, properties: tuple[str, ...]) -> tuple[tuple[Target, ...], list[str]]:
        """Learn how to standardise each property; and notes for people."""
        return learn_targets(dataset, properties, self.options.transforms)

    def _odd(
        self, name: str, target: Target, design: Design, points: Points, trials: tuple[int, ...]
    ) -> dict[int, float]:
        """Return the own noise variance of labels that nothing around them supports, by trial; none by default."""
        del name, target, design, points, trials
        return {}

    def _trusted(self, name: str, odd: Mapping[int, float], trials: tuple[int, ...], points: Points) -> Points:
        """Add the own noise of odd labels to what is known of the others' noise."""
        self._own_noise[name] = dict(odd)
        if not odd:
            return points
        return replace(points, known=points.known + np.array([odd.get(trial, 0.0) for trial in trials]))

    def _process(self, terms: tuple[Term, ...], hyper: Hyperparameters, points: Points) -> GaussianHead:
        """Build the Gaussian process on given hyperparameters: exact, or variational for many labels."""
        many = len(points) > self.options.exact_up_to
        return VariationalHead.place(terms, hyper, points) if many else GaussianHead(terms, hyper, points)

    def _head_from(self, terms: tuple[Term, ...], arrays: Mapping[str, Array], sd_scale: float) -> Head:
        """Build a head from its `arrays`."""
        kind = VariationalHead if "inducing" in arrays else GaussianHead
        return kind.from_arrays(terms, arrays, sd_scale)

    def _device(self) -> str:
        return "cpu"

    def _metric(self) -> tuple[Term, ...]:
        """Return terms whose groups of columns say how far apart candidates are."""
        return self._need().design.terms

    def _answers(self) -> frozenset[Support]:
        """Name what every Gaussian surrogate answers, whatever it learns from."""
        return frozenset({"uncertainty", "draws", "feasibility"})

    # --- the contract -----------------------------------------------------------------------------------------------

    def fit(self, dataset: Dataset, problem: Problem, seed: int) -> FitReport:
        """Train on a dataset; see `Surrogate.fit`."""
        started = time.perf_counter()
        warm = self._loaded
        previous = self._fitted if warm else None
        properties = problem.properties
        targets, self.notes = self._targets(dataset, properties)
        data = standardise(dataset, properties, targets)
        design = self._learn(data, seed, warm=warm)
        x = design.scaling.apply(self._encode(data.labels.candidates))
        heads: list[Head] = []
        conformal: list[Conformal] = []
        metrics, calibration = {}, {}
        self._held_out = {}
        for j, name in enumerate(properties):
            rows = np.isfinite(data.y[:, j])
            old = previous.heads[j] if previous is not None else None
            start = old.hyper if old is not None and old.terms == design.terms else None
            trials = tuple(data.labels.trials[i] for i in np.flatnonzero(rows))
            points = Points(x[rows], data.y[rows, j], data.known[rows, j])
            points = self._trusted(name, self._odd(name, targets[j], design, points, trials), trials, points)
            head, (residuals, sd) = self._fit_head(design, points, start, rows)
            factor, held_out = _judge(targets[j], points.y, residuals, sd, trials)
            self._held_out[name] = calibrated(held_out)
            conformal.append(Conformal.learn(residuals, sd * factor))
            head = head.scaled(factor)
            if head.jitter:
                self.notes.append(f"{name}: {head.jitter:g} was added to the covariance's diagonal to invert it")
            metrics[name], calibration[name] = assess(held_out)
            calibration[name]["sd_factor"] = factor
            heads.append(head)
        self._fitted = _Fitted(
            properties, targets, design, tuple(heads), tuple(conformal), self._encode_failed(dataset, design)
        )
        self._take(self._fitted.heads, self._fitted.failed)
        self._remember(problem, data.labels)
        self._loaded = False
        return FitReport(
            labels=len(data),
            data_sha256=dataset.sha256,
            metrics=metrics,
            calibration=calibration,
            device=self._device(),
            seconds=time.perf_counter() - started,
            warm=warm,
            notes=tuple(self.notes),
        )

    def update(self, dataset: Dataset) -> None:
        """Condition on another dataset; encoding, hyperparameters and calibration stay those of the fit."""
        fitted = self._need()
        data = standardise(dataset, fitted.properties, fitted.targets)
        x = fitted.design.scaling.apply(self._encode(data.labels.candidates)) if len(data) else None
        current: list[Head] = []
        for j, head in enumerate(fitted.heads):
            rows = np.isfinite(data.y[:, j])
            points = x[rows] if x is not None else np.zeros((0, head.data.x.shape[1]))
            trials = tuple(data.labels.trials[i] for i in np.flatnonzero(rows))
            name = fitted.properties[j]
            told = Points(points, data.y[rows, j], data.known[rows, j])
            current.append(head.conditioned(self._trusted(name, self._own_noise.get(name, {}), trials, told)))
        self._take(tuple(current), self._encode_failed(dataset, fitted.design))
        self._remember(None, data.labels)

    def predict(self, candidates: Sequence[Candidate]) -> Prediction:
        """Return means and standard deviations, n × m, epistemic and noise apart."""
        fitted = self._need()
        shape = (len(candidates), len(fitted.properties))
        mean, epistemic, noise = np.zeros(shape), np.zeros(shape), np.zeros(shape)
        for start, x in self._chunks(candidates):
            rows = slice(start, start + len(x))
            for j, (head, target) in enumerate(zip(self._current, fitted.targets, strict=True)):
                centre, variance = head.predict(x)
                mean[rows, j], own = target.moments(centre, variance)
                epistemic[rows, j] = np.sqrt(own)
                if target.transform is None:
                    noise[rows, j] = target.scale * np.sqrt(head.noise_variance)
                else:  # the sd of one more measurement is the transformed-back one
                    more = target.moments(centre, variance + head.noise_variance)[1] - own
                    noise[rows, j] = np.sqrt(np.maximum(more, 1e-12 * own))
        return Prediction(mean, epistemic, noise)

    def draw(self, candidates: Sequence[Candidate], s: int, seed: int) -> Array:
        """Return the values of `s` functions from the posterior, s × n × m."""
        fitted = self._need()
        values = np.zeros((s, len(candidates), len(fitted.properties)))
        for start, x in self._chunks(candidates):
            for j, (head, target) in enumerate(zip(self._current, fitted.targets, strict=True)):
                values[:, start : start + len(x), j] = target.back(head.draw(x, s, (seed, j)))
        return values

    def outside(self, candidates: Sequence[Candidate]) -> Array:
        """Return how far outside each candidate lies, n; see `KnowsItsDomain`."""
        self._need()
        if self._familiarity is None:
            labelled = np.vstack([head.data.x for head in self._current])
            self._familiarity = Familiarity.learn(self._metric(), labelled)
        parts = [self._familiarity.outside(x) for _, x in self._chunks(candidates)]
        return np.concatenate(parts) if parts else np.zeros(0)

    def success(self, candidates: Sequence[Candidate]) -> Array:
        """Return the probability that a trial of each candidate yields a value, n; see `PredictsSuccess`."""
        self._need()
        if self._feasibility is None:
            good = max((head.data.x for head in self._current), key=len)
            self._feasibility = Feasibility.learn(self._metric(), good, self._failed)
        parts = [self._feasibility.probability(x) for _, x in self._chunks(candidates)]
        return np.concatenate(parts) if parts else np.zeros(0)

    def interval(self, candidates: Sequence[Candidate], level: float) -> tuple[Array, Array]:
        """Return lower and upper ends, n × m each, that held-out labels fell between; see `GivesIntervals`."""
        fitted = self._need()
        shape = (len(candidates), len(fitted.properties))
        low, high = np.zeros(shape), np.zeros(shape)
        for start, x in self._chunks(candidates):
            rows = slice(start, start + len(x))
            for j, (head, target) in enumerate(zip(self._current, fitted.targets, strict=True)):
                centre, variance = head.predict(x)
                sd = np.sqrt(variance + head.noise_variance)
                ends = fitted.conformal[j].interval(centre, sd, level)
                low[rows, j], high[rows, j] = target.back(ends[0]), target.back(ends[1])
        return low, high

    def held_out(self) -> Mapping[str, HeldOut]:
        """Return the held-out predictions of the last fit; see `HoldsOut`."""
        return dict(self._held_out)

    def widen(self, factors: Mapping[str, float]) -> None:
        """Multiply the standard deviations of the last fit; see `Widens`."""
        fitted = self._need()
        own = [factors.get(name, 1.0) for name in fitted.properties]
        heads = tuple(head.scaled(f * head.sd_scale) for head, f in zip(fitted.heads, own, strict=True))
        self._fitted = replace(fitted, heads=heads)
        self._current = tuple(head.scaled(f * head.sd_scale) for head, f in zip(self._current, own, strict=True))

    def save(self, folder: Path) -> None:
        """Write the state of the last fit as safetensors and JSON."""
        fitted = self._need()
        arrays, encoding = self._encoding_state()
        arrays |= {"scaling.shift": fitted.design.scaling.shift, "scaling.scale": fitted.design.scaling.scale}
        arrays["failed"] = fitted.failed
        for j, head in enumerate(fitted.heads):
            arrays |= {f"head.{j}.{name}": array for name, array in head.arrays().items()}
            arrays[f"conformal.{j}"] = fitted.conformal[j].scores
        rest: JsonObject = {
            "encoding": encoding,
            "terms": [term.to_json() for term in fitted.design.terms],
            "log": list(fitted.design.scaling.log),
            "targets": [target.to_json() for target in fitted.targets],
            "sd_scales": [head.sd_scale for head in fitted.heads],
            "own_noise": {name: {str(trial): v for trial, v in odd.items()} for name, odd in self._own_noise.items()},
        }
        state.write(folder, self.kind, fitted.properties, arrays, rest)

    def load(self, folder: Path, problem: Problem) -> None:
        """Read what `save` wrote."""
        arrays, rest = state.read(folder, self.kind, problem.properties)
        self._load_encoding(arrays, rest["encoding"])
        terms = tuple(Term.from_json(term) for term in rest["terms"])
        scaling = Scaling(tuple(rest["log"]), arrays["scaling.shift"], arrays["scaling.scale"])
        heads: list[Head] = []
        for j, sd_scale in enumerate(rest["sd_scales"]):
            start = f"head.{j}."
            parts = {name[len(start) :]: array for name, array in arrays.items() if name.startswith(start)}
            heads.append(self._head_from(terms, parts, sd_scale))
        targets = tuple(Target.from_json(target) for target in rest["targets"])
        # Fits from before there were these have neither scores nor failed trials.
        conformal = tuple(Conformal(arrays.get(f"conformal.{j}", np.zeros(0))) for j in range(len(heads)))
        failed = arrays.get("failed", np.zeros((0, len(scaling.shift))))
        self._fitted = _Fitted(problem.properties, targets, Design(scaling, terms), tuple(heads), conformal, failed)
        self._take(tuple(heads), failed)
        self._held_out = {}
        own = rest.get("own_noise", {})
        self._own_noise = {name: {int(trial): float(v) for trial, v in odd.items()} for name, odd in own.items()}
        self._remember(problem, None)
        self._loaded = True

    # --- inside -----------------------------------------------------------------------------------------------------

    def _need(self) -> _Fitted:
        if self._fitted is None:
            message = f"this {self.kind} was asked before it was trained; call fit or load first"
            raise SurrogateError(message)
        return self._fitted

    def _take(self, heads: tuple[Head, ...], failed: Array) -> None:
        """Answer from these heads and failed trials from now on."""
        self._current, self._failed = heads, failed
        self._familiarity = self._feasibility = None

    def _encode_failed(self, dataset: Dataset, design: Design) -> Array:
        """Return normalised columns of the failed trials; one that cannot be read teaches nothing."""
        rows = []
        for failure in dataset.failures:
            try:
                rows.append(design.scaling.apply(self._encode([failure.applied_candidate])))
            except MatloopError as error:
                self.notes.append(f"failed trial {failure.trial} is left out of what predicts success: {error}")
        return np.vstack(rows) if rows else np.zeros((0, len(design.scaling.shift)))

    def _columns_of(self, candidates: Sequence[Candidate]) -> Array:
        return self._need().design.scaling.apply(self._encode(candidates))

    def _chunks(self, candidates: Sequence[Candidate]) -> list[tuple[int, Array]]:
        scaling = self._need().design.scaling
        return [
            (start, scaling.apply(self._encode(candidates[start : start + CHUNK])))
            for start in range(0, len(candidates), CHUNK)
        ]


def _judge(target: Target, y: Array, residuals: Array, sd: Array, trials: tuple[int, ...]) -> tuple[float, HeldOut]:
    """Return the calibration factor, and held-out predictions in the property's unit, not yet calibrated."""
    factor = sd_factor(HeldOut(residuals, sd, y, trials))
    labels = target.back(y)
    mean, variance = target.moments(y - residuals, sd**2)
    return factor, HeldOut(labels - mean, np.sqrt(variance), labels, trials)


class WithBotorch(GaussianSurrogate):
    """Gaussian surrogates with one exact process a property, which botorch can use as it is."""

    def _answers(self) -> frozenset[Support]:
        return super()._answers() | (frozenset() if self._transformed() else frozenset({"botorch"}))

    def _transformed(self) -> list[str]:
        return sorted(name for name, transform in self.options.transforms.items() if transform != "none")

    def to_botorch(self) -> BotorchView:
        """Return the posterior of the last update as a botorch model over raw columns.

        Raises:
            IncompatibleError: a property is learned through a transform.
        """
        from botorch.models import ModelListGP  # noqa: PLC0415  only acquisition with gradients pays the import

        fitted = self._need()
        if self._transformed():
            message = (
                f"{', '.join(self._transformed())} is learned through a transform: its posterior is not Gaussian"
                ", and botorch cannot use it; leave 'transforms' out, or choose a policy that uses draws"
            )
            raise IncompatibleError(message)
        scaling = fitted.design.scaling
        models = [
            cast("GaussianHead", head).to_botorch(scaling, target.shift, target.scale)
            for head, target in zip(self._current, fitted.targets, strict=True)
        ]
        return BotorchView(
            model=models[0] if len(models) == 1 else ModelListGP(*models),
            encode=self._encode,
            differentiable=self._differentiable(),
        )

    def _differentiable(self) -> tuple[int, ...]:
        return ()
