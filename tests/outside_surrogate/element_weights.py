"""Every element has a weight; a property is their mean over the formula. Written outside Matloop's repository.

Bayesian linear regression (Bishop, Pattern Recognition and Machine Learning, 2006, section 3.3), so that everything a
campaign asks is a closed formula: an uncertainty that grows with elements that were not seen, draws that are functions,
and an update in a millisecond.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
from pydantic import Field
from pymatgen.core import Composition, Element

from orchestrator.domain import Array, Candidate, Dataset, FitReport, HeldOut, Prediction, Problem
from orchestrator.errors import MaterialError, SurrogateError
from orchestrator.protocols import Options, Support
from orchestrator.surrogates import state
from orchestrator.surrogates.calibration import assess, sd_factor
from orchestrator.surrogates.targets import Standardised, Target, learn_targets, standardise

NOISES = (0.01, 0.03, 0.1, 0.3, 1.0)


class ElementWeightsOptions(Options):
    """What a campaign file may say about it."""

    spread: float = Field(default=3.0, gt=0, description="sd of a weight before any label, in sds of the labels")


class ElementWeights:
    """A weight an element, a Gaussian posterior over all of them.

    Args:
        options: see `ElementWeightsOptions`.
    """

    Options: ClassVar[type[Options]] = ElementWeightsOptions
    kind = "element_weights"

    def __init__(self, options: ElementWeightsOptions | None = None) -> None:
        self.options = options or ElementWeightsOptions()
        self._properties: tuple[str, ...] = ()

    def supports(self) -> frozenset[Support]:
        """It reads formulas, and the formula of a crystal; it says how sure it is, and draws."""
        return frozenset({"structure", "composition", "uncertainty", "draws"})

    def knows(self) -> frozenset[str]:
        """Nothing in it is pretrained."""
        return frozenset()

    def fit(self, dataset: Dataset, problem: Problem, seed: int) -> FitReport:
        """Choose the noise by held-out labels, and learn the weights."""
        del seed  # nothing here is random
        self._properties = problem.properties
        self._targets, notes = learn_targets(dataset, self._properties)
        data = standardise(dataset, self._properties, self._targets)
        x = _encode(data.labels.candidates)
        self._noise, self._factor, metrics, calibration = [], [], {}, {}
        for j, name in enumerate(self._properties):
            rows = np.isfinite(data.y[:, j])
            trials = [[self._leave_one_out(x[rows], data.y[rows, j], noise), noise] for noise in NOISES]
            (residuals, sd), noise = min(trials, key=lambda trial: _loss(*trial[0]))
            scale = self._targets[j].scale
            held_out = HeldOut(residuals * scale, sd * scale, self._targets[j].back(data.y[rows, j]))
            metrics[name], calibration[name] = assess(held_out)
            self._noise.append(noise)
            self._factor.append(sd_factor(held_out))
        self._fitted = self._current = self._learn(data)
        return FitReport(len(data), dataset.sha256, metrics, calibration, notes=tuple(notes))

    def update(self, dataset: Dataset) -> None:
        """Learn the weights from another dataset; scale, noise and calibration stay those of the fit."""
        self._current = self._learn(standardise(dataset, self._need(), self._targets))

    def predict(self, candidates: Sequence[Candidate]) -> Prediction:
        """Return means and standard deviations, n × m, epistemic and noise apart."""
        parts = []
        x = _encode(candidates)
        for j, _ in enumerate(self._need()):
            weights, root = self._current[j]
            scale, factor = self._targets[j].scale, self._factor[j]
            sd = factor * scale * np.sqrt((x @ root) ** 2 @ np.ones(x.shape[1]))
            noise = np.full(len(x), factor * scale * self._noise[j])
            parts.append((self._targets[j].back(_rowwise(x, weights)), sd, noise))
        mean, epistemic, noise = (np.array(part).T.reshape(len(x), len(parts)) for part in zip(*parts, strict=True))
        return Prediction(mean, epistemic, noise)

    def draw(self, candidates: Sequence[Candidate], s: int, seed: int) -> Array:
        """Draw the weights of s functions; the candidates come after that, so a value depends on its own row alone."""
        x = _encode(candidates)
        values = np.zeros((s, len(x), len(self._need())))
        for j, (weights, root) in enumerate(self._current):
            for i in range(s):
                standard = np.random.default_rng((seed, j, i)).normal(size=len(weights))
                drawn = weights + self._factor[j] * root @ standard
                values[i, :, j] = self._targets[j].back(_rowwise(x, drawn))
        return values

    def save(self, folder: Path) -> None:
        """Write the state of the last fit: arrays as safetensors, the rest as JSON, never a pickle."""
        properties = self._need()
        arrays = {f"{name}.{j}": part[i] for j, part in enumerate(self._fitted) for i, name in enumerate(PARTS)}
        rest = {"targets": [one.to_json() for one in self._targets], "noise": self._noise, "factor": self._factor}
        state.write(folder, self.kind, properties, arrays, rest)

    def load(self, folder: Path, problem: Problem) -> None:
        """Read what `save` wrote; another surrogate's files or other properties are refused."""
        arrays, rest = state.read(folder, self.kind, problem.properties)
        self._properties = problem.properties
        self._targets = tuple(Target(**one) for one in rest["targets"])
        self._noise, self._factor = list(rest["noise"]), list(rest["factor"])
        self._fitted = [tuple(arrays[f"{name}.{j}"] for name in PARTS) for j in range(len(self._properties))]
        self._current = self._fitted

    def _learn(self, data: Standardised) -> list[tuple[Array, ...]]:
        x = _encode(data.labels.candidates)
        rows = [np.isfinite(data.y[:, j]) for j in range(data.y.shape[1])]
        return [self._posterior(x[own], data.y[own, j], self._noise[j]) for j, own in enumerate(rows)]

    def _posterior(self, x: Array, y: Array, noise: float) -> tuple[Array, Array]:
        """Return the mean of the weights, and a root of their covariance."""
        precision = x.T @ x / noise**2 + np.eye(x.shape[1]) / self.options.spread**2
        root = np.linalg.inv(np.linalg.cholesky(precision)).T
        return root @ (root.T @ (x.T @ y)) / noise**2, root

    def _leave_one_out(self, x: Array, y: Array, noise: float) -> tuple[Array, Array]:
        """Return the residual and the sd of each label under all others, in closed form."""
        weights, root = self._posterior(x, y, noise)
        own = ((x @ root) ** 2).sum(1) / noise**2
        return (y - x @ weights) / (1 - own), noise / np.sqrt(1 - own)

    def _need(self) -> tuple[str, ...]:
        if not self._properties:
            message = "element_weights was asked before it was trained; call fit or load first"
            raise SurrogateError(message)
        return self._properties


PARTS = ("weights", "root")


def _encode(candidates: Sequence[Candidate]) -> Array:
    """Return the share of each element, n × 118."""
    x = np.zeros((len(candidates), 118))
    for i, candidate in enumerate(candidates):
        formula = "".join(candidate.crystal.species) if candidate.crystal else candidate.composition
        if formula is None:
            message = f"candidate {candidate.label!r} has neither a crystal nor a formula, which element_weights reads"
            raise MaterialError(message)
        for symbol, share in Composition(formula).fractional_composition.get_el_amt_dict().items():
            x[i, Element(symbol).Z - 1] = share
    return x


def _rowwise(x: Array, weights: Array) -> Array:
    return (x * weights).sum(1)  # a matrix product may round a row differently in other company


def _loss(residuals: Array, sd: Array) -> float:
    return float(np.sum(np.log(sd) + 0.5 * (residuals / sd) ** 2))
