"""The mean of what a repeated step gave: what a dataset, a later step and a report see instead of the single numbers.

The single numbers stay in the database, each with its own raw bytes; the mean is a function of the rows of a trial that
has ended, so it never changes and needs no row of its own. Its standard error is that of the mean: the scatter of the n
values over the root of n. The instrument's own standard errors set a floor, since two equal readings of a coarse
display do not make an exact value.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from orchestrator.config.steps import MARK, base_name
from orchestrator.domain import Quality


@dataclass(frozen=True)
class Mean:
    """A measurement row made of several: identified by the last of them, as `Row.token` is."""

    id: int
    trial_id: int
    attempt_id: int
    kind: str
    step: str
    property: str
    value: float
    unit: str
    std_error: float | None
    quality: str
    version: str
    reason: str
    measured_at: int
    raw_sha256: str


def combined(rows: Iterable[Any]) -> list[Any]:
    """Put means in the place of the rows of repeated steps.

    Args:
        rows: of the table of measurements, in the order of their ids.

    Returns:
        The other rows as they are; of each trial, repeated step and property one `Mean`, where its last row stood.
    """
    single: list[Any] = []
    repeats: dict[tuple[int, str, str], list[Any]] = {}
    for row in rows:
        if MARK in row.step:
            repeats.setdefault((row.trial_id, base_name(row.step), row.property), []).append(row)
        else:
            single.append(row)
    if not repeats:
        return single
    return sorted([*single, *(_mean(group) for group in repeats.values())], key=lambda row: int(row.id))


def mean_of(values: list[float], std_errors: list[float | None]) -> tuple[float, float | None]:
    """Average repeated values.

    Args:
        values: at least one.
        std_errors: the instrument's own of each, where known.

    Returns:
        The mean and its standard error; None where there is one value without a standard error.
    """
    n = len(values)
    own = [error for error in std_errors if error is not None]
    floor = math.sqrt(sum(error**2 for error in own)) / n if len(own) == n else None
    if n == 1:
        return values[0], floor
    scatter = statistics.stdev(values) / math.sqrt(n)
    return statistics.fmean(values), scatter if floor is None else max(scatter, floor)


def _mean(rows: list[Any]) -> Mean:
    good = [row for row in rows if row.quality == Quality.GOOD.value] or rows[-1:]
    value, std_error = mean_of([row.value for row in good], [row.std_error for row in good])
    last = good[-1]
    return Mean(
        id=last.id,
        trial_id=last.trial_id,
        attempt_id=last.attempt_id,
        kind=last.kind,
        step=base_name(last.step),
        property=last.property,
        value=value,
        unit=last.unit,
        std_error=std_error,
        quality=last.quality,
        version=last.version,
        reason=last.reason,
        measured_at=last.measured_at,
        raw_sha256=last.raw_sha256,
    )
