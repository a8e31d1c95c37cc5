"""Small real implementations of the contracts, for tests of what stands on them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from orchestrator.domain import (
    Array,
    Candidate,
    Dataset,
    FitReport,
    JsonObject,
    Prediction,
    Problem,
    Proposal,
)
from orchestrator.errors import NotEnoughData, SpaceExhausted
from orchestrator.protocols import Options


def point(x: float, **attributes: Any) -> Candidate:
    """Return a candidate at one coordinate."""
    return Candidate.make(label=f"x={x:g}", parameters={"x": x}, attributes=attributes)


class ListSpace:
    """A finite space of given candidates."""

    Options = Options

    def __init__(self, candidates: Sequence[Candidate]) -> None:
        self.listed = list(candidates)

    def offers(self) -> frozenset[str]:
        return frozenset({"parameters"})

    def sample(self, n: int, seed: int) -> list[Candidate]:
        order = np.random.default_rng(seed).permutation(len(self.listed))
        return [self.listed[i] for i in order[:n]]

    def summary(self) -> JsonObject:
        return {"size": len(self.listed)}

    def candidates(self) -> Sequence[Candidate]:
        return self.listed

    def get(self, candidate_id: str) -> Candidate:
        return {c.id: c for c in self.listed}[candidate_id]


class Nearest:
    """A surrogate that answers with the value of the nearest labelled x; counts what is asked of it."""

    Options = Options
    coordinate = "x"

    def __init__(self) -> None:
        self.fits = 0
        self.x = np.zeros(0)
        self.y = np.zeros((0, 1))

    def supports(self) -> frozenset[str]:
        return frozenset({"parameters", "uncertainty", "draws"})

    def knows(self) -> frozenset[str]:
        return frozenset()

    def fit(self, dataset: Dataset, problem: Problem, seed: int) -> FitReport:
        self.problem = problem
        self.fits += 1
        self.update(dataset)
        if len(self.x) == 0:
            message = "no labels"
            raise NotEnoughData(message)
        return FitReport(labels=len(self.x), data_sha256=dataset.sha256)

    def update(self, dataset: Dataset) -> None:
        labels = dataset.labels(self.problem.properties)
        self.x = np.array([float(c.parameters[self.coordinate]) for c in labels.candidates])
        self.y = labels.values

    def predict(self, candidates: Sequence[Candidate]) -> Prediction:
        x = np.array([float(c.parameters[self.coordinate]) for c in candidates])
        distance = np.abs(x[:, None] - self.x[None, :])
        mean = self.y[distance.argmin(axis=1)]
        sd = np.repeat(distance.min(axis=1)[:, None] + 1e-3, mean.shape[1], axis=1)
        return Prediction(mean, sd, np.full_like(sd, 1e-3))

    def draw(self, candidates: Sequence[Candidate], s: int, seed: int) -> Array:
        told = self.predict(candidates)
        shift = np.random.default_rng(seed).normal(size=(s, 1, told.mean.shape[1]))
        return told.mean[None] + shift * told.epistemic[None]

    def save(self, folder: Path) -> None:
        np.save(folder / "x.npy", self.x)
        np.save(folder / "y.npy", self.y)

    def load(self, folder: Path, problem: Problem) -> None:
        self.problem = problem
        self.x, self.y = np.load(folder / "x.npy"), np.load(folder / "y.npy")


class BestMean:
    """A policy that takes the best predicted means of the open candidates."""

    Options = Options

    def needs(self) -> frozenset[str]:
        return frozenset({"uncertainty"})

    def select(self, surrogate: Any, space: Any, *, q: int, problem: Problem, **known: Any) -> tuple[Proposal, ...]:
        shut = known["closed"] | {c.id for c in known["pending"]}
        left = [c for c in space.candidates() if c.id not in shut]
        if not left:
            message = "nothing is left"
            raise SpaceExhausted(message)
        utility = problem.objectives[0].utility(surrogate.predict(left).mean[:, 0])
        best = np.argsort(-utility, kind="stable")[:q]
        return tuple(Proposal(left[i], "best_mean", "highest mean", score=float(utility[i])) for i in best)


class InOrder:
    """A policy that takes the open candidates in the order of the space."""

    Options = Options

    def needs(self) -> frozenset[str]:
        return frozenset()

    def select(self, surrogate: Any, space: Any, *, q: int, **known: Any) -> tuple[Proposal, ...]:
        shut = known["closed"] | {c.id for c in known["pending"]}
        left = [c for c in space.candidates() if c.id not in shut]
        if not left:
            message = "nothing is left"
            raise SpaceExhausted(message)
        return tuple(Proposal(c, "in_order", "next in the list") for c in left[:q])
