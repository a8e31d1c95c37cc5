"""Several objectives at once: the front of measured candidates, pair by pair, and how its hypervolume grew."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np

from orchestrator.domain import Objective
from orchestrator.pareto import Array, growth, reference_point
from orchestrator.report.facts import Facts, Point
from orchestrator.report.plots import COLORS, Plot, named, wanted_zone
from orchestrator.report.words import formula, goal, number, plain, unit_of

SEVERAL = 2
NAMED = 12
"""Points of a front that are numbered; more would cover each other."""
ROWS = 40
"""Candidates in the table of the front."""


def has_front(facts: Facts) -> bool:
    """Say whether there is a trade-off to show: two objectives or more, and something measured."""
    return len(facts.pursued) >= SEVERAL and bool(complete(facts))


def complete(facts: Facts) -> list[Point]:
    """Return the measured trials that have a value of every pursued objective, in the order of completion."""
    return [p for p in facts.points if all(o.property in p.values for o in facts.pursued)]


def fronts(facts: Facts) -> list[Plot]:
    """Return one plot for each pair of objectives."""
    return [front(facts, one, other) for one, other in combinations(facts.pursued, 2)]


def front(facts: Facts, one: Objective, other: Objective) -> Plot:
    """Draw two objectives against each other, and the candidates that nothing dominates in all objectives.

    Args:
        facts: of the campaign.
        one: along the horizontal axis.
        other: along the vertical axis.
    """
    on_front = {best.trial.number for best in facts.best if best.on_front}
    points = complete(facts)
    pair_only = len(facts.pursued) == SEVERAL

    def draw(axes: Any) -> None:
        wanted_zone(axes, one, upright=True)
        wanted_zone(axes, other)
        shown = (
            ([p for p in points if not p.feasible], "faint", 14, "x", "breaks a constraint"),
            ([p for p in points if p.feasible and p.trial not in on_front], "faint", 20, "o", "dominated"),
            ([p for p in points if p.trial in on_front], "warm", 34, "o", "on the front"),
        )
        for some, color, size, marker, label in shown:
            if some:
                x, y = ([p.values[o.property] for p in some] for o in (one, other))
                style = {"linewidths": 0} if marker == "o" else {"linewidths": 1}
                axes.scatter(x, y, s=size, color=COLORS[color], marker=marker, label=label, zorder=3, **style)
        best = sorted((p for p in points if p.trial in on_front), key=lambda p: p.values[one.property])
        if pair_only and all(o.goal in {"maximize", "minimize"} for o in (one, other)):
            _stairs(axes, best, one, other)
        for point in best[:NAMED]:
            at = (point.values[one.property], point.values[other.property])
            axes.annotate(
                f"{point.trial}", at, xytext=(5, 4), textcoords="offset points", fontsize=8, color=COLORS["muted"]
            )
        axes.set_xlabel(f"{named(one.property, one.unit)}, {_way(one)}")
        axes.set_ylabel(f"{named(other.property, other.unit)}, {_way(other)}")
        axes.margins(0.08)
        _legend_once(axes)

    return draw


def hypervolumes(facts: Facts) -> tuple[list[int], Array]:
    """Return the order of completion and the dominated hypervolume after each complete result.

    The corner is inferred from everything measured so far, so that the curve never falls; earlier decisions, which knew
    less, may have counted from another one.
    """
    points = complete(facts)
    return [p.order for p in points], growth(_utilities(facts, points), [p.feasible for p in points])


def volume(facts: Facts) -> Plot:
    """Draw the dominated hypervolume by result."""
    orders, values = hypervolumes(facts)

    def draw(axes: Any) -> None:
        axes.step(orders, values, where="post", color=COLORS["warm"], linewidth=2.0)
        initial = [p.order for p in facts.points if p.initial]
        if initial and initial[-1] < len(facts.points):
            axes.axvspan(0.5, initial[-1] + 0.5, color=COLORS["grid"], alpha=0.55, linewidth=0)
            axes.text(0.8, 0.98, "initial", transform=axes.get_xaxis_transform(), va="top", color=COLORS["muted"])
        axes.set_xlim(0.5, len(facts.points) + 0.5)
        axes.set_ylim(bottom=0.0)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_xlabel("results, in the order of completion")
        axes.set_ylabel("hypervolume")

    return draw


def table(facts: Facts) -> tuple[list[dict[str, Any]], list[list[dict[str, Any]]]]:
    """Return headings and rows of the table of the candidates that nothing dominates."""
    headings: list[dict[str, Any]] = [{"name": "Candidate"}]
    for objective in facts.pursued:
        unit = unit_of(objective.unit)
        headings.append({"name": plain(objective.property) + (f", {unit}" if unit else ""), "number": True})
    headings += [{"name": "trial", "number": True}, {"name": "adds of the hypervolume", "number": True}]
    rows = []
    share = _shares(facts)
    for best in [b for b in facts.best if b.on_front][:ROWS]:
        row: list[dict[str, Any]] = [{"kind": "formula", "text": formula(best.trial.candidate)}]
        row += [{"kind": "n", "text": number(best.values[o.property])} for o in facts.pursued]
        row += [
            {"kind": "n", "text": str(best.trial.number)},
            {"kind": "n dim", "text": f"{100 * share.get(best.trial.number, 0.0):.1f} %"},
        ]
        rows.append(row)
    return headings, rows


def note(facts: Facts) -> str:
    """Say how to read the plots."""
    count = sum(best.on_front for best in facts.best)
    goals = "; ".join(goal(objective) for objective in facts.pursued)
    said = (
        f"{count} candidates are on the front: no other feasible one is better in everything ({goals})."
        " Numbers are trials."
    )
    if len(facts.pursued) > SEVERAL:
        said += " A candidate on the front may look beaten in a plot of two objectives: it is better in another one."
    if any(o.window is not None for o in facts.pursued):
        said += " The green band is the wanted window; inside it nothing is better than anything else."
    return said


def volume_note(facts: Facts) -> str:
    """Say what the hypervolume is counted from."""
    points = [p for p in complete(facts) if p.feasible]
    if not points:
        return "No feasible candidate has a value of every objective yet."
    corner = reference_point(_utilities(facts, points))
    parts = [f"{plain(o.property)} {_at(o, float(u))}" for o, u in zip(facts.pursued, corner, strict=True)]
    return f"What the front dominates, from the corner {', '.join(parts)}, which was found from the results."


def _at(objective: Objective, utility: float) -> str:
    """Write a utility of the corner as a value of the property, or a distance from what is wanted."""
    unit = f" {unit_of(objective.unit)}".rstrip()
    if objective.goal == "maximize":
        return f"{number(utility, 3)}{unit}"
    if objective.goal == "minimize":
        return f"{number(-utility, 3)}{unit}"
    return f"{number(-utility, 3)}{unit} away from what is wanted"


def _utilities(facts: Facts, points: Sequence[Point]) -> Array:
    columns = [o.utility(np.array([p.values[o.property] for p in points], dtype=np.float64)) for o in facts.pursued]
    return np.stack(columns, axis=1) if points else np.zeros((0, len(facts.pursued)))


def _shares(facts: Facts) -> dict[int, float]:
    """Return by trial which share of the hypervolume would be lost without it."""
    on_front = {best.trial.number for best in facts.best if best.on_front}
    points = [p for p in complete(facts) if p.trial in on_front]
    feasible = [p for p in complete(facts) if p.feasible]
    if not points:
        return {}
    corner = reference_point(_utilities(facts, feasible))
    reached = _utilities(facts, points)
    total = float(growth(reached, [True] * len(points), corner)[-1])
    if total <= 0:
        return {}
    without = [
        float(growth(np.delete(reached, i, axis=0), [True] * (len(points) - 1), corner)[-1:].sum())
        for i in range(len(points))
    ]
    return {p.trial: (total - rest) / total for p, rest in zip(points, without, strict=True)}


def _stairs(axes: Any, best: Sequence[Point], one: Objective, other: Objective) -> None:
    """Draw the border of what the front of two objectives dominates."""
    x, y = ([p.values[o.property] for p in best] for o in (one, other))
    # to the right of a point its height counts until the next one where larger values of `one` are worse
    where = "post" if one.goal == "minimize" else "pre"
    axes.step(x, y, where=where, color=COLORS["warm"], linewidth=1.2, alpha=0.6, zorder=2)


def _way(objective: Objective) -> str:
    if objective.goal in {"maximize", "minimize"}:
        return objective.goal
    return "window" if objective.goal == "window" else "target"


def _legend_once(axes: Any) -> None:
    handles, labels = axes.get_legend_handles_labels()
    once = dict(zip(labels, handles, strict=True))
    axes.legend(once.values(), once.keys(), loc="best", frameon=False)
