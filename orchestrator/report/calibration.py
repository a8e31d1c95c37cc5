"""How far predictions could be trusted, for the report: see `orchestrator.prospective`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from orchestrator import scoring
from orchestrator.prospective import LEVEL, WINDOW, Judged, alarms
from orchestrator.report.facts import Point
from orchestrator.report.words import number, plain, unit_of

ENOUGH = 2
"""Predictions below which nothing is said: a rank correlation needs two."""


def judge(points: Sequence[Point], name: str) -> Judged | None:
    """Put predictions of one property beside what came.

    Args:
        points: measured trials, in the order of completion.
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


def judged_section(judged: Judged, unit: str, parity: str, calibration: str) -> dict[str, Any]:
    """Return the section about the predictions of one property.

    Args:
        judged: predictions and results.
        unit: of the property.
        parity: plot of predicted and measured.
        calibration: plot of promised and kept.
    """
    tail, scores = f" {unit_of(unit)}".rstrip(), judged.scores
    metrics: list[tuple[str, str]] = [("predictions", str(len(judged)))]
    metrics += [
        (f"{100 * level:.0f} % intervals hold", f"{100 * judged.coverage(level):.0f} %") for level in scoring.LEVELS
    ]
    if len(judged) > WINDOW:
        recent = judged.last(WINDOW)
        low, high = scoring.binomial_band(WINDOW, LEVEL)
        metrics.append((f"of the last {WINDOW} in 90 % intervals", f"{recent.inside()} ({low} to {high} expected)"))
    correlation = judged.rank_correlation
    metrics += [
        ("mean absolute error", number(scores["mae"], 3) + tail),
        ("bias", number(scores["bias"], 2) + tail),
        ("rank correlation", _signed(correlation)),
        ("rank correlation of error and sd", _signed(scores["spearman"])),
        ("sharpness (root mean square sd)", number(scores["sharpness"], 3) + tail),
        ("negative log likelihood", number(scores["nll"], 3)),
        ("continuous ranked probability score", number(scores["crps"], 3) + tail),
        ("miscalibration area", number(scores["miscalibration_area"], 2)),
    ]
    return {
        "words": plain(judged.name),
        "verdict": verdict(judged),
        "parity": parity,
        "calibration": calibration,
        "metrics": metrics,
    }


def verdict(judged: Judged) -> str:
    """Say in words whether the intervals could be trusted, how sure that is, and what is wrong now."""
    low, high = judged.uncertainty(LEVEL)
    inside = f"{100 * judged.coverage(LEVEL):.0f} % of the results lie inside the 90 % intervals"
    if low <= LEVEL <= high:
        word = "which chance explains: nothing speaks against the stated uncertainties"
    elif high < LEVEL:
        word = "fewer than chance explains: the surrogate was too sure of itself"
    else:
        word = "more than chance explains: the surrogate was more careful than it had to be"
    now = "".join(f" Now: {alarm.text}." for alarm in alarms(judged))
    return (
        f"Judged on the {len(judged)} trials that it chose, by what it said before they ran. {inside}, {word}.{now} Far"
        " outliers are drawn at the edge of the plot; the figures below count them in full."
    )


def _signed(value: float | None) -> str:
    if value is None or value != value:  # noqa: PLR0124  NaN: where nothing varies there is no rank
        return "–"
    return f"{value:.2f}".replace("-", "\N{MINUS SIGN}")
