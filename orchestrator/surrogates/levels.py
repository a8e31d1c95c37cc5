"""The levels of `MultiFidelity`: what stands on what, and what follows from it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from orchestrator.domain import (
    EARLIER,
    TARGET,
    Array,
    Candidate,
    Dataset,
    HeldOut,
    Prediction,
    Problem,
    derive_seed,
)
from orchestrator.protocols import Surrogate
from orchestrator.surrogates.offset import Offset
from orchestrator.surrogates.targets import FEWEST


@dataclass(frozen=True, eq=False)
class Level:
    """One fidelity.

    Args:
        fidelity: its name.
        rho: factor of the level below, m; zeros for the lowest, and where it is of no use.
        surrogate: of the correction; of the labels themselves where `rho` is zero.
        below: place of the level it stands on; None where it stands on nothing.
    """

    fidelity: str
    rho: Array
    surrogate: Surrogate
    below: int | None = None


def labels_of(dataset: Dataset, properties: Sequence[str], fidelity: str = TARGET) -> dict[str, dict[int, float]]:
    """Return the labels of each property at one fidelity, by trial number."""
    labels = dataset.labels(properties, fidelity)
    return {
        name: {t: float(v) for t, v in zip(labels.trials, labels.values[:, j], strict=True) if math.isfinite(v)}
        for j, name in enumerate(properties)
    }


def predicted(candidates: Sequence[Candidate], levels: Sequence[Level], place: int = -1) -> Prediction:
    """Return what a level says: its own, and what it stands on times ρ; the noise is its own."""
    level = levels[place]
    own = level.surrogate.predict(candidates)
    if level.below is None:
        return own
    below = predicted(candidates, levels, level.below)
    variance = level.rho**2 * below.epistemic**2 + own.epistemic**2
    return Prediction(level.rho * below.mean + own.mean, np.sqrt(variance), own.noise)


def drawn(candidates: Sequence[Candidate], levels: Sequence[Level], s: int, seed: int, place: int = -1) -> Array:
    """Return the values of `s` functions of a level, s × n × m: a draw of its own, and one below times ρ."""
    k = place % len(levels)
    level = levels[k]
    own = level.surrogate.draw(candidates, s, derive_seed(seed, k, "draw") % 2**31)
    return own if level.below is None else level.rho * drawn(candidates, levels, s, seed, level.below) + own


def offered(name: str, levels: Sequence[Level]) -> list[int]:
    """Return the places of the levels that one may stand on: the next cheaper fidelity, and earlier campaigns."""
    if name.startswith(EARLIER):
        return []
    earlier = [k for k, level in enumerate(levels) if level.fidelity.startswith(EARLIER)]
    own = [k for k in range(len(levels)) if k not in earlier]
    return [*own[-1:], *earlier]


def about_earlier(levels: Sequence[Level]) -> list[str]:
    """Say of each earlier campaign whether it helps: whether the target stands on it."""
    used: set[str] = set()
    place: int | None = len(levels) - 1
    while place is not None:
        used.add(levels[place].fidelity)
        place = levels[place].below
    judged = not isinstance(levels[-1].surrogate, Offset)
    names = [level.fidelity for level in levels if level.fidelity.startswith(EARLIER)]
    return [
        f"earlier campaign {name.removeprefix(EARLIER)} {'helps' if name in used else 'does not help'}"
        + ("" if judged else f" ({FEWEST} labels of the target are needed to judge it)")
        for name in names
    ]


def fewest_labels(dataset: Dataset, problem: Problem, fidelity: str) -> int:
    """Return the number of labels of the property that has the fewest."""
    counts = np.isfinite(dataset.labels(problem.properties, fidelity).values).sum(axis=0)
    return int(min(counts.tolist(), default=0))


def label_count(dataset: Dataset, problem: Problem, level: Level) -> int:
    """Count the labelled trials of a level."""
    return len(dataset.labels(problem.properties, level.fidelity))


def slopes_over(values: Array, below: Prediction) -> Array:
    """Return the slope of each property's labels over what lies below, m.

    It is the least-squares one, shrunk as far as what lies below is uncertain where the labels are: without that, an
    almost constant prediction would get an enormous factor.
    """
    slopes = np.zeros(values.shape[1])
    for j in range(values.shape[1]):
        there = np.isfinite(values[:, j])
        y, x = values[there, j], below.mean[there, j]
        y, x = y - y.mean(), x - x.mean()
        size = float(x @ x) + float((below.epistemic[there, j] ** 2).sum())
        slopes[j] = float(x @ y) / size if size > 0 else 0.0
    return slopes


def about(labels: Mapping[str, Mapping[int, float]], held_out: Mapping[str, HeldOut]) -> dict[str, HeldOut]:
    """Return held-out predictions of corrections as those of the labels: the residuals are the same."""
    return {
        name: replace(one, labels=np.array([labels[name][trial] for trial in one.trials]))
        for name, one in held_out.items()
    }


def stands_on(level: Level, levels: Sequence[Level]) -> str:
    """Return the fidelity that a level stands on; empty where it stands on nothing."""
    return "" if level.below is None else levels[level.below].fidelity
