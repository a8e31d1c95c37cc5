"""Labels on their way to a surrogate: standardised, absent ones marked, absurd ones pulled in and named."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from orchestrator.domain import Array, Dataset, JsonObject, Labels
from orchestrator.errors import NotEnoughData

FEWEST = 3
"""Labels of a property below which no spread can be learned."""
FAR = 12.0
"""A label this many robust standard deviations from the median is pulled in to that distance before training.

It keeps its rank, so that a true record stays a record, but it can no longer swallow the scale of all others. Twelve
leaves every well-behaved distribution alone, and an exponential one up to some 8,000 labels.
"""
FEWEST_FOR_FAR = 5
"""Labels below which a robust spread means nothing."""


@dataclass(frozen=True)
class Target:
    """How the labels of one property are standardised.

    Args:
        shift: subtracted, in the property's unit.
        scale: divided by, in the property's unit.
        low: labels below are raised to it.
        high: labels above are lowered to it.
    """

    shift: float
    scale: float
    low: float
    high: float

    def forward(self, values: Array) -> Array:
        """Standardise labels of any shape; NaN stays NaN."""
        return (np.clip(values, self.low, self.high) - self.shift) / self.scale

    def back(self, values: Array) -> Array:
        """Return standardised values to the property's unit."""
        return self.shift + self.scale * values

    def to_json(self) -> JsonObject:
        """Return the numbers as JSON content."""
        return {"shift": self.shift, "scale": self.scale, "low": self.low, "high": self.high}


@dataclass(frozen=True, eq=False)
class Standardised:
    """Labels of n trials as surrogates train on them.

    Args:
        labels: as read from the dataset.
        y: n × m standardised values, NaN where absent.
        known: n × m known noise variances in units of the labels' variance; 0 where no standard error was given.
    """

    labels: Labels
    y: Array
    known: Array

    def __len__(self) -> int:
        """Count the trials."""
        return len(self.labels)


def learn_targets(dataset: Dataset, properties: Sequence[str]) -> tuple[tuple[Target, ...], list[str]]:
    """Learn how to standardise each property.

    Args:
        dataset: what is known.
        properties: m names.

    Returns:
        One target a property, and notes for people.

    Raises:
        NotEnoughData: a property has fewer than three labels.
    """
    labels = dataset.labels(properties)
    targets, notes = [], []
    for j, name in enumerate(properties):
        present = np.isfinite(labels.values[:, j])
        values = labels.values[present, j]
        if len(values) < FEWEST:
            message = (
                f"{name!r} has {len(values)} labels; at least {FEWEST} are needed to train a surrogate: measure more"
                " before fitting (in a campaign file: 'initial: {trials: …}')"
            )
            raise NotEnoughData(message)
        low, high = _limits(values)
        for i in np.flatnonzero(present):
            value = labels.values[i, j]
            if not low <= value <= high:
                notes.append(
                    f"trial {labels.trials[i]}: {name} = {value:g} lies far outside the other labels; trained as"
                    f" {min(max(value, low), high):g}; check that measurement"
                )
        inside = np.clip(values, low, high)
        scale = float(inside.std())
        if scale < 1e-9 * max(abs(float(inside.mean())), 1e-9):
            scale = 1e-3 * max(abs(float(inside.mean())), 1.0)
            notes.append(f"all {len(values)} labels of {name} are equal; its uncertainty is a guess ({scale:g})")
        targets.append(Target(float(inside.mean()), scale, low, high))
    return tuple(targets), notes


def standardise(dataset: Dataset, properties: Sequence[str], targets: Sequence[Target]) -> Standardised:
    """Apply targets to the labels of a dataset.

    Args:
        dataset: what is known.
        properties: m names.
        targets: one a property, from `learn_targets`.

    Returns:
        The labels in training units.
    """
    labels = dataset.labels(properties)
    y = np.array(labels.values, dtype=np.float64)
    known = np.zeros_like(y)
    for j, target in enumerate(targets):
        y[:, j] = target.forward(labels.values[:, j])
        error = labels.std_errors[:, j] / target.scale
        given = np.isfinite(error) & np.isfinite(y[:, j])
        if given.any():
            known[:, j] = np.where(given, error, np.median(error[given])) ** 2
    return Standardised(labels, y, known)


def _limits(values: Array) -> tuple[float, float]:
    """Return the values beyond which labels are pulled in."""
    if len(values) < FEWEST_FOR_FAR:
        return -float("inf"), float("inf")
    median = float(np.median(values))
    quarter, three = np.percentile(values, [25, 75])
    spread = float(three - quarter) / 1.349  # of a normal distribution
    if spread <= 0:
        away = np.sort(np.abs(values - median))
        spread = float(away[away > 0].min()) if (away > 0).any() else 0.0
    if spread <= 0:
        return -float("inf"), float("inf")
    return median - FAR * spread, median + FAR * spread
