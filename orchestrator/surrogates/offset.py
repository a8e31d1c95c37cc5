"""What a level is as long as it has too few labels to learn from: a constant, and how little is known of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from orchestrator.domain import Array, Candidate, Dataset, FitReport, HeldOut, Prediction, Problem
from orchestrator.protocols import Options, Support
from orchestrator.surrogates import state


class OffsetOptions(Options):
    """Options of `Offset`: none."""


class Offset:
    """A constant for each property, the same for every candidate; a part of `MultiFidelity`.

    With k labels and a spread s of what is usual, the constant is their sum over k + 1 with the standard deviation
    s / √(k + 1): the posterior of a constant under a normal prior as wide as the noise.

    Args:
        spread: m usual standard deviations, in the properties' units.
    """

    Options = OffsetOptions
    kind = "offset"

    def __init__(self, spread: Array | None = None) -> None:
        self.spread = np.zeros(0) if spread is None else spread
        self._mean = np.zeros(0)
        self._sd = np.zeros(0)
        self._properties: tuple[str, ...] = ()

    def supports(self) -> frozenset[Support]:
        """Name what it can answer."""
        return frozenset({"uncertainty", "draws"})

    def knows(self) -> frozenset[str]:
        """Know nothing beforehand."""
        return frozenset()

    def fit(self, dataset: Dataset, problem: Problem, seed: int) -> FitReport:
        """Take the properties; what labels there are count in `update`."""
        del seed
        self._properties = problem.properties
        self.update(dataset)
        return FitReport(len(dataset.labels(problem.properties)), dataset.sha256)

    def update(self, dataset: Dataset) -> None:
        """Take in the labels."""
        values = dataset.labels(self._properties).values
        count = np.isfinite(values).sum(axis=0)
        self._mean = np.nansum(values, axis=0) / (count + 1)
        self._sd = self.spread / np.sqrt(count + 1)

    def predict(self, candidates: Sequence[Candidate]) -> Prediction:
        """Return the constant, n × m; the noise is the tenth part of the usual spread."""
        shape = (len(candidates), 1)
        return Prediction(
            np.tile(self._mean, shape), np.tile(self._sd, shape), np.tile(0.1 * self.spread, shape).astype(np.float64)
        )

    def draw(self, candidates: Sequence[Candidate], s: int, seed: int) -> Array:
        """Return s constant functions, s × n × m."""
        normal = np.random.default_rng(seed).normal(size=(s, 1, len(self._mean)))
        return np.tile(self._mean + self._sd * normal, (1, len(candidates), 1))

    def held_out(self) -> Mapping[str, HeldOut]:
        """Return nothing: so few labels judge nothing."""
        none = np.zeros(0)
        return {name: HeldOut(none, none, none) for name in self._properties}

    def save(self, folder: Path) -> None:
        """Write the spread."""
        state.write(folder, self.kind, self._properties, {"spread": self.spread}, {})

    def load(self, folder: Path, problem: Problem) -> None:
        """Read what `save` wrote; the labels come with the update that follows."""
        arrays, _ = state.read(folder, self.kind, problem.properties)
        self.spread, self._properties = arrays["spread"], problem.properties
        self._mean, self._sd = np.zeros_like(self.spread), self.spread.copy()
