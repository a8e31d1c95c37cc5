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

from orchestrator.domain import Array, Candidate, Dataset, FitReport, HeldOut, JsonObject, Prediction, Problem
from orchestrator.errors import SurrogateError
from orchestrator.protocols import BotorchView, Support
from orchestrator.surrogates import state
from orchestrator.surrogates.calibration import assess, calibrated, sd_factor
from orchestrator.surrogates.encoding import Scaling
from orchestrator.surrogates.explanation import Explaining
from orchestrator.surrogates.heads import GaussianHead
from orchestrator.surrogates.hyper import Hyperparameters, Points
from orchestrator.surrogates.kernels import Term
from orchestrator.surrogates.mixture import MixtureHead
from orchestrator.surrogates.targets import Standardised, Target, learn_targets, standardise

Head = GaussianHead | MixtureHead
CHUNK = 4096
"""Candidates asked at once: bounds the memory of cross-covariances."""


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


class GaussianSurrogate(Explaining, ABC):
    """Exact Gaussian processes on learned or fixed features; see `orchestrator.protocols.Surrogate`."""

    kind: ClassVar[str]

    def __init__(self) -> None:
        self._fitted: _Fitted | None = None
        self._current: tuple[Head, ...] = ()
        self._loaded = False
        self._held_out: dict[str, HeldOut] = {}
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
        head = GaussianHead.fit(design.terms, points, start)
        return head, head.leave_one_out()

    def _head_from(self, terms: tuple[Term, ...], arrays: Mapping[str, Array], sd_scale: float) -> Head:
        """Build a head from its `arrays`."""
        return GaussianHead.from_arrays(terms, arrays, sd_scale)

    def _device(self) -> str:
        return "cpu"

    # --- the contract -----------------------------------------------------------------------------------------------

    def fit(self, dataset: Dataset, problem: Problem, seed: int) -> FitReport:
        """Train on a dataset; see `Surrogate.fit`."""
        started = time.perf_counter()
        warm = self._loaded
        previous = self._fitted if warm else None
        properties = problem.properties
        targets, self.notes = learn_targets(dataset, properties)
        data = standardise(dataset, properties, targets)
        design = self._learn(data, seed, warm=warm)
        x = design.scaling.apply(self._encode(data.labels.candidates))
        heads: list[Head] = []
        metrics, calibration = {}, {}
        self._held_out = {}
        for j, name in enumerate(properties):
            rows = np.isfinite(data.y[:, j])
            old = previous.heads[j] if previous is not None else None
            start = old.hyper if old is not None and old.terms == design.terms else None
            points = Points(x[rows], data.y[rows, j], data.known[rows, j])
            head, (residuals, sd) = self._fit_head(design, points, start, rows)
            scale = targets[j].scale
            trials = tuple(data.labels.trials[i] for i in np.flatnonzero(rows))
            held_out = HeldOut(residuals * scale, sd * scale, targets[j].back(data.y[rows, j]), trials)
            self._held_out[name] = calibrated(held_out)
            head = head.scaled(sd_factor(held_out))
            if head.jitter:
                self.notes.append(f"{name}: {head.jitter:g} was added to the covariance's diagonal to invert it")
            metrics[name], calibration[name] = assess(held_out)
            heads.append(head)
        self._fitted = _Fitted(properties, targets, design, tuple(heads))
        self._current = tuple(heads)
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
            current.append(head.conditioned(Points(points, data.y[rows, j], data.known[rows, j])))
        self._current = tuple(current)
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
                mean[rows, j] = target.back(centre)
                epistemic[rows, j] = target.scale * np.sqrt(variance)
                noise[rows, j] = target.scale * np.sqrt(head.noise_variance)
        return Prediction(mean, epistemic, noise)

    def draw(self, candidates: Sequence[Candidate], s: int, seed: int) -> Array:
        """Return the values of `s` functions from the posterior, s × n × m."""
        fitted = self._need()
        values = np.zeros((s, len(candidates), len(fitted.properties)))
        for start, x in self._chunks(candidates):
            for j, (head, target) in enumerate(zip(self._current, fitted.targets, strict=True)):
                values[:, start : start + len(x), j] = target.back(head.draw(x, s, (seed, j)))
        return values

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
        for j, head in enumerate(fitted.heads):
            arrays |= {f"head.{j}.{name}": array for name, array in head.arrays().items()}
        rest: JsonObject = {
            "encoding": encoding,
            "terms": [term.to_json() for term in fitted.design.terms],
            "log": list(fitted.design.scaling.log),
            "targets": [target.to_json() for target in fitted.targets],
            "sd_scales": [head.sd_scale for head in fitted.heads],
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
            parts = {name: arrays[f"head.{j}.{name}"] for name in ("hyper", "x", "y", "known")}
            heads.append(self._head_from(terms, parts, sd_scale))
        targets = tuple(Target(**target) for target in rest["targets"])
        self._fitted = _Fitted(problem.properties, targets, Design(scaling, terms), tuple(heads))
        self._current = tuple(heads)
        self._held_out = {}
        self._remember(problem, None)
        self._loaded = True

    # --- inside -----------------------------------------------------------------------------------------------------

    def _need(self) -> _Fitted:
        if self._fitted is None:
            message = f"this {self.kind} was asked before it was trained; call fit or load first"
            raise SurrogateError(message)
        return self._fitted

    def _columns_of(self, candidates: Sequence[Candidate]) -> Array:
        return self._need().design.scaling.apply(self._encode(candidates))

    def _chunks(self, candidates: Sequence[Candidate]) -> list[tuple[int, Array]]:
        scaling = self._need().design.scaling
        return [
            (start, scaling.apply(self._encode(candidates[start : start + CHUNK])))
            for start in range(0, len(candidates), CHUNK)
        ]


class WithBotorch(GaussianSurrogate):
    """Gaussian surrogates with one exact process a property, which botorch can use as it is."""

    def to_botorch(self) -> BotorchView:
        """Return the posterior of the last update as a botorch model over raw columns."""
        from botorch.models import ModelListGP  # noqa: PLC0415  only acquisition with gradients pays the import

        fitted = self._need()
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
