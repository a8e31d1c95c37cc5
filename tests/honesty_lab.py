"""A surrogate whose faults can be chosen, for tests of champion and challenger and of prospective calibration."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from orchestrator.domain import Candidate, Dataset, FitReport, HeldOut, Prediction, Problem, Proposal
from orchestrator.errors import Diverged
from orchestrator.protocols import Options
from tests.fakes import BestMean, Nearest


class FaultOptions(Options):
    """Faults.

    Args:
        broken_at: numbers of labels at which a training goes wrong: every mean is off by 30.
        diverges_at: numbers of labels at which a training reaches no finite state.
        stated: stated standard deviation for each unit of distance to the nearest label.
    """

    broken_at: tuple[int, ...] = ()
    diverges_at: tuple[int, ...] = ()
    stated: float = 1.0


class Faulty(Nearest):
    """The nearest measured value, with faults; says what it held out, and can be widened."""

    Options = FaultOptions

    def __init__(self, options: FaultOptions) -> None:
        super().__init__()
        self.options = options
        self.offset, self.wide, self._loaded = 0.0, 1.0, False
        self._trials: tuple[int, ...] = ()

    def fit(self, dataset: Dataset, problem: Problem, seed: int) -> FitReport:
        warm, self._loaded = self._loaded, False
        super().fit(dataset, problem, seed)
        self.wide, self._trials = 1.0, dataset.labels(problem.properties).trials
        if len(self.x) in self.options.diverges_at:
            message = "no finite optimum"
            raise Diverged(message)
        self.offset = 30.0 if len(self.x) in self.options.broken_at else 0.0
        return FitReport(labels=len(self.x), data_sha256=dataset.sha256, warm=warm)

    def predict(self, candidates: Sequence[Candidate]) -> Prediction:
        told = super().predict(candidates)
        sd = self.wide * (self.options.stated * told.epistemic + 0.01)
        return Prediction(told.mean + self.offset, sd, np.zeros_like(sd))

    def held_out(self) -> Mapping[str, HeldOut]:
        if not self._trials:
            return {}
        far = np.abs(self.x[:, None] - self.x[None, :]) + 1e9 * np.eye(len(self.x))
        residuals = self.y[:, 0] - self.y[far.argmin(1), 0] - self.offset
        return {"y": HeldOut(residuals, self.options.stated * far.min(1) + 0.01, self.y[:, 0], self._trials)}

    def widen(self, factors: Mapping[str, float]) -> None:
        self.wide *= factors["y"]

    def save(self, folder: Path) -> None:
        super().save(folder)
        (folder / "faults.json").write_text(json.dumps([self.offset, self.wide]))

    def load(self, folder: Path, problem: Problem) -> None:
        super().load(folder, problem)
        self.offset, self.wide = json.loads((folder / "faults.json").read_text())
        self._trials, self._loaded = (), True


class Telling(BestMean):
    """The best predicted mean; every proposal keeps what was predicted."""

    def __init__(self, options: Options) -> None:
        super().__init__()

    def select(self, surrogate: Any, space: Any, *, q: int, problem: Problem, **known: Any) -> tuple[Proposal, ...]:
        chosen = super().select(surrogate, space, q=q, problem=problem, **known)
        told = surrogate.predict([proposal.candidate for proposal in chosen])
        return tuple(
            replace(proposal, mean={"y": float(mean)}, sd={"y": float(sd)})
            for proposal, mean, sd in zip(chosen, told.mean[:, 0], told.sd[:, 0], strict=True)
        )
