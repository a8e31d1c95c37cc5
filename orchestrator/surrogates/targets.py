"""Labels on their way to a surrogate: transformed, standardised, gaps marked, absurd ones pulled in and named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from orchestrator.domain import Array, Dataset, JsonObject, Labels
from orchestrator.errors import NotEnoughData, SurrogateError
from orchestrator.surrogates.transforms import BEYOND, NODE_WEIGHTS, NODES, Transform, TransformName, choose

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
    """How the labels of one property are transformed and standardised.

    Args:
        shift: subtracted, in the property's unit; of the transformed labels where there is a transform.
        scale: divided by, likewise.
        low: labels below are raised to it, in the property's unit.
        high: labels above are lowered to it.
        transform: taken before the standardisation.
        ends: standardised values between which a transform is undone; values beyond count as the nearer end.
    """

    shift: float
    scale: float
    low: float
    high: float
    transform: Transform | None = None
    ends: tuple[float, float] = (-float("inf"), float("inf"))

    def forward(self, values: Array) -> Array:
        """Standardise labels of any shape; NaN stays NaN."""
        inside = np.clip(values, self.low, self.high)
        if self.transform is not None:
            inside = self.transform.forward(inside)
        return (inside - self.shift) / self.scale

    def back(self, values: Array) -> Array:
        """Return standardised values to the property's unit."""
        if self.transform is None:
            return self.shift + self.scale * values
        return self.transform.back(self.shift + self.scale * np.clip(values, *self.ends))

    def moments(self, mean: Array, variance: Array) -> tuple[Array, Array]:
        """Return mean and variance, in the property's unit, of what is Gaussian when standardised.

        Args:
            mean: k standardised means.
            variance: k variances.

        Returns:
            k means and k variances, by Gauss-Hermite quadrature where there is a transform.
        """
        if self.transform is None:
            return self.back(mean), self.scale**2 * variance
        values = self.back(mean[:, None] + np.sqrt(variance)[:, None] * NODES)
        weights = NODE_WEIGHTS / NODE_WEIGHTS.sum()
        centre = values @ weights
        spread = ((values - centre[:, None]) ** 2) @ weights
        return centre, np.maximum(spread, 1e-24 * np.maximum(centre**2, 1e-24))

    def errors(self, values: Array, errors: Array) -> Array:
        """Return standard errors of labels in standardised units."""
        if self.transform is None:
            return errors / self.scale
        return errors * self.transform.slope(np.clip(values, self.low, self.high)) / self.scale

    def to_json(self) -> JsonObject:
        """Return the numbers as JSON content."""
        content: JsonObject = {"shift": self.shift, "scale": self.scale, "low": self.low, "high": self.high}
        if self.transform is not None:
            content |= {"transform": asdict(self.transform), "ends": list(self.ends)}
        return content

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Target:
        """Build from `to_json` content; fits of before there were transforms have none."""
        shift, scale, low, high = (float(content[name]) for name in ("shift", "scale", "low", "high"))
        if "transform" not in content:
            return cls(shift, scale, low, high)
        least, most = content["ends"]
        return cls(shift, scale, low, high, Transform(**content["transform"]), (float(least), float(most)))


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


def learn_targets(
    dataset: Dataset, properties: Sequence[str], transforms: Mapping[str, TransformName] | None = None
) -> tuple[tuple[Target, ...], list[str]]:
    """Learn how to standardise each property.

    Args:
        dataset: what is known.
        properties: m names.
        transforms: by property, of those that are not learned as they are.

    Returns:
        One target a property, and notes for people.

    Raises:
        NotEnoughData: a property has fewer than three labels.
        SurrogateError: a transform names no modelled property, or its labels are not positive.
    """
    wanted = transforms or {}
    unknown = sorted(set(wanted) - set(properties))
    if unknown:
        message = (
            f"'transforms' names {', '.join(unknown)}; the modelled properties are {', '.join(properties)}: correct the"
            " name"
        )
        raise SurrogateError(message)
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
        transform, note = choose(wanted.get(name, "none"), values, name)
        notes += [note] if note else []
        low, high = _limits(values, transform)
        for i in np.flatnonzero(present):
            value = labels.values[i, j]
            if not low <= value <= high:
                notes.append(
                    f"trial {labels.trials[i]}: {name} = {value:g} lies far outside the other labels; trained as"
                    f" {min(max(value, low), high):g}; check that measurement"
                )
        inside = np.clip(values, low, high)
        inside = inside if transform is None else transform.forward(inside)
        scale = float(inside.std())
        if scale < 1e-9 * max(abs(float(inside.mean())), 1e-9):
            scale = 1e-3 * max(abs(float(inside.mean())), 1.0)
            notes.append(f"all {len(values)} labels of {name} are equal; its uncertainty is a guess ({scale:g})")
        target = Target(float(inside.mean()), scale, low, high, transform)
        if transform is not None:
            y = target.forward(values)
            target = replace(target, ends=(float(y.min()) - BEYOND, float(y.max()) + BEYOND))
        targets.append(target)
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
        error = target.errors(labels.values[:, j], labels.std_errors[:, j])
        given = np.isfinite(error) & np.isfinite(y[:, j])
        if given.any():
            known[:, j] = np.where(given, error, np.median(error[given])) ** 2
    return Standardised(labels, y, known)


def robustly(target: Target, values: Array) -> Target:
    """Standardise by median and quartiles instead of mean and standard deviation, which a few odd labels move.

    Args:
        target: as learned.
        values: labels, NaN where absent.

    Returns:
        The same with another shift and scale, where the quartiles differ.
    """
    inside = np.clip(values[np.isfinite(values)], target.low, target.high)
    inside = inside if target.transform is None else target.transform.forward(inside)
    quarter, three = np.percentile(inside, [25, 75])
    scale = float(three - quarter) / 1.349
    if scale <= 0 or scale >= target.scale:
        return target
    return replace(target, shift=float(np.median(inside)), scale=scale)


def _limits(values: Array, transform: Transform | None) -> tuple[float, float]:
    """Return the values beyond which labels are pulled in, now and in later updates."""
    if transform is None:
        return _far(values)
    low, high = (float(transform.back(np.array(end))) for end in _far(transform.forward(values)))
    return max(low, 1e-3 * float(values.min())), high  # a later label of zero still has a logarithm


def _far(values: Array) -> tuple[float, float]:
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
