"""How far predictions could be trusted: what was predicted at the time of choosing, and what came.

A proposal's mean and standard deviation are stored before its trial runs, so nothing here has seen its own answer. They
are about chosen candidates only, which is where trust matters, and where it is hardest to earn: the best of many
predictions is also the luckiest one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

from orchestrator.report.facts import Point

LEVELS = (0.5, 0.8, 0.9, 0.95)
"""Nominal coverages that are shown."""

ENOUGH = 2
"""Predictions below which nothing is said: a rank correlation needs two."""


@dataclass(frozen=True)
class Judged:
    """Predictions of one property against what came.

    Args:
        name: of the property.
        trials: numbers of the trials.
        labels: what people call their candidates.
        predicted: means.
        sd: standard deviations of one more measurement.
        measured: values.
    """

    name: str
    trials: tuple[int, ...]
    labels: tuple[str, ...]
    predicted: tuple[float, ...]
    sd: tuple[float, ...]
    measured: tuple[float, ...]

    def __len__(self) -> int:
        """Count the predictions."""
        return len(self.measured)

    @property
    def z(self) -> tuple[float, ...]:
        """Errors in standard deviations."""
        return tuple((y - m) / s for y, m, s in zip(self.measured, self.predicted, self.sd, strict=True))

    @property
    def mae(self) -> float:
        """Mean absolute error, in the property's unit."""
        return sum(abs(y - m) for y, m in zip(self.measured, self.predicted, strict=True)) / len(self)

    @property
    def nll(self) -> float:
        """Mean negative log likelihood, in nats and for the property in its unit; smaller is better."""
        terms = (0.5 * math.log(2 * math.pi * s * s) + 0.5 * z * z for z, s in zip(self.z, self.sd, strict=True))
        return sum(terms) / len(self)

    @property
    def bias(self) -> float:
        """Mean of measured minus predicted, in the property's unit."""
        return sum(y - m for y, m in zip(self.measured, self.predicted, strict=True)) / len(self)

    @property
    def rank_correlation(self) -> float | None:
        """Spearman's rank correlation; None where either side does not vary."""
        one, other = _ranks(self.predicted), _ranks(self.measured)
        mean = (len(self) + 1) / 2
        spread = math.sqrt(sum((a - mean) ** 2 for a in one) * sum((b - mean) ** 2 for b in other))
        return sum((a - mean) * (b - mean) for a, b in zip(one, other, strict=True)) / spread if spread else None

    def coverage(self, level: float) -> float:
        """Return the share of results inside the central interval of a nominal coverage."""
        width = NormalDist().inv_cdf((1 + level) / 2)
        return sum(abs(z) <= width for z in self.z) / len(self)

    def uncertainty(self, level: float) -> tuple[float, float]:
        """Return Wilson's 95 % interval of the coverage: how much of a deviation may be chance."""
        n, p, z = len(self), self.coverage(level), NormalDist().inv_cdf(0.975)
        middle = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
        return max(0.0, middle - half), min(1.0, middle + half)


def judge(points: Sequence[Point], name: str) -> Judged | None:
    """Put predictions of one property beside what came.

    Args:
        points: measured trials.
        name: of the property.

    Returns:
        The comparison; None with fewer than two predictions.
    """
    known = [p for p in points if name in p.values and name in p.predicted and p.predicted[name][1] > 0]
    if len(known) < ENOUGH:
        return None
    return Judged(
        name=name,
        trials=tuple(p.trial for p in known),
        labels=tuple(p.label for p in known),
        predicted=tuple(p.predicted[name][0] for p in known),
        sd=tuple(p.predicted[name][1] for p in known),
        measured=tuple(p.values[name] for p in known),
    )


def _ranks(values: Sequence[float]) -> list[float]:
    """Return ranks from 1; equal values share the mean of theirs."""
    order = sorted(range(len(values)), key=values.__getitem__)
    ranks = [0.0] * len(values)
    start = 0
    while start < len(order):
        end = start
        while end + 1 < len(order) and values[order[end + 1]] == values[order[start]]:
            end += 1
        for i in order[start : end + 1]:
            ranks[i] = (start + end) / 2 + 1
        start = end + 1
    return ranks
