"""What a campaign with a learning goal has learned of the pool, by number of measurements.

Every arm is judged by the campaign's own surrogate, trained on what the arm measured: what differs is what was
measured, not what learns from it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from orchestrator.abilities import Classifies
from orchestrator.config.schema import CampaignConfig
from orchestrator.domain import Array, Dataset, Problem
from orchestrator.errors import NotEnoughData
from orchestrator.planner import Parts
from orchestrator.protocols import Surrogate
from orchestrator.replay.truth import Truth

MARKS = 8
"""Numbers of measurements at which is judged: each costs a training."""
CHUNK = 4096
FUNCTIONS = 128


@dataclass(frozen=True)
class Lesson:
    """What is to be learned.

    Args:
        problem: whose objectives are to be learned.
        parts: of the campaign itself, whose surrogate judges every arm.
        level: on which side of it a candidate lies is what counts; None where values count.
        level_property: the property of the level.
    """

    problem: Problem
    parts: Parts
    level: float | None = None
    level_property: str = ""

    @property
    def wanted(self) -> tuple[str, ...]:
        """Names of the properties to be learned."""
        return tuple(o.property for o in self.problem.objectives if o.goal == "learn")

    @staticmethod
    def marks(first: int, last: int) -> frozenset[int]:
        """Return the numbers of measurements at which is judged, from the initial design to the budget."""
        return frozenset(int(m) for m in np.linspace(max(first, 1), last, MARKS).round())

    def score(self, truth: Truth, dataset: Dataset, seed: int) -> dict[str, float]:
        """Train the campaign's surrogate on what is known, and judge it over the pool.

        Args:
            truth: the answers.
            dataset: what was measured.
            seed: of the training.

        Returns:
            Metric → value; empty where there is too little to train on.
        """
        surrogate = self.parts.new_surrogate()
        try:
            surrogate.fit(dataset, self.problem, seed)
        except NotEnoughData:
            return {}
        return self.judge(surrogate, truth, seed)

    def judge(self, surrogate: Surrogate, truth: Truth, seed: int) -> dict[str, float]:
        """Compare what a trained surrogate says of the pool with the truth; values that are unknown do not count."""
        if self.level is not None:
            j = self.problem.properties.index(self.level_property)
            true = truth.values[:, j]
            said = _means(surrogate, truth)[:, j]
            there = np.isfinite(true)
            return {"level_set_f1": f1(said[there] > self.level, true[there] > self.level)}
        found: dict[str, float] = {}
        for name in self.wanted:
            true = truth.values[:, self.problem.properties.index(name)]
            there = np.isfinite(true)
            if isinstance(surrogate, Classifies):
                said = _likeliest(surrogate, truth, name, seed)
                one = {"accuracy": float((said == true)[there].mean()), "macro_f1": macro_f1(said[there], true[there])}
            else:
                errors = (_means(surrogate, truth)[:, self.problem.properties.index(name)] - true)[there]
                one = {"mae": float(np.abs(errors).mean()), "rmse": float(np.sqrt((errors**2).mean()))}
            found |= one if len(self.wanted) == 1 else {f"{metric}_{name}": value for metric, value in one.items()}
        return found


def lesson_of(config: CampaignConfig, parts: Parts) -> Lesson | None:
    """Return what a campaign is to learn; None where it looks for the best.

    Args:
        config: of the campaign itself: every arm is judged by its goal.
        parts: its plug-ins.
    """
    problem = config.problem()
    if not problem.learns_only:
        return None
    level = config.acquisition.options.get("level") if config.acquisition.use == "level_set" else None
    if level is None:
        return Lesson(problem, parts)
    return Lesson(problem, parts, float(level), config.acquisition.options.get("property") or problem.properties[0])


def f1(said: npt.NDArray[np.bool_], true: npt.NDArray[np.bool_]) -> float:
    """Return the harmonic mean of precision and recall: 1 where both sets are empty."""
    both = float((said & true).sum())
    total = float(said.sum() + true.sum())
    return 2.0 * both / total if total else 1.0


def macro_f1(said: Array, true: Array) -> float:
    """Return the mean of `f1` over the classes that there are: a rare phase counts like a common one."""
    return float(np.mean([f1(said == one, true == one) for one in np.unique(true)]))


def _means(surrogate: Surrogate, truth: Truth) -> Array:
    parts = [surrogate.predict(truth.candidates[i : i + CHUNK]).mean for i in range(0, len(truth.candidates), CHUNK)]
    return np.concatenate(parts)


def _likeliest(surrogate: Classifies, truth: Truth, name: str, seed: int) -> Array:
    classes = np.array(surrogate.classes(name), dtype=float)
    found = []
    for i in range(0, len(truth.candidates), CHUNK):
        each = surrogate.chances(truth.candidates[i : i + CHUNK], name, FUNCTIONS, seed)
        found.append(classes[each.mean(axis=0).argmax(axis=1)])
    return np.concatenate(found)
