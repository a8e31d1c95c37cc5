"""Plots of a campaign: as theme-aware SVG for the page, and as small PNG for places that show images.

Pure functions of what is gathered from the store. Matplotlib draws both; in SVG its few colours become variables of the
page's style sheet, so that a plot follows the reader's light or dark theme.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import Any, Literal

from orchestrator.domain import Objective
from orchestrator.prospective import Judged
from orchestrator.report.facts import Facts, Point
from orchestrator.scoring import LEVELS

Plot = Callable[[Any], None]
"""Draws into one matplotlib `Axes`."""

COLORS = {
    "ink": "#1d2433",
    "muted": "#6b7488",
    "grid": "#e3e7ef",
    "accent": "#2f6fed",
    "warm": "#d9622b",
    "good": "#17936b",
    "faint": "#a9b3c6",
}
"""Name of a style variable → its colour in the light theme. Plots use no other colour."""

SIZES = {"png": (6.4, 3.4), "svg": (8.4, 3.5)}
"""Inches; at 100 dots an inch a PNG stays well below 50 kB, and an SVG fills the page with text of the page's size."""

TAIL = 3.0
"""Interquartile ranges beyond which a value is drawn at the edge: one collapsed cell must not flatten the rest."""


def best_so_far(facts: Facts) -> Plot:
    """Draw each result in the order of completion, and the best feasible one so far."""
    objective = (facts.pursued or facts.problem.objectives)[0]
    name = objective.property
    points = [p for p in facts.points if name in p.values]

    def draw(axes: Any) -> None:
        low, high = _window([p.values[name] for p in points], objective)
        axes.set_ylim(low, high)

        def clipped(values: list[float]) -> list[float]:
            return [min(max(v, low), high) for v in values]

        initial = [p for p in points if p.initial]
        if initial and initial[-1].order < len(points):
            axes.axvspan(0.5, initial[-1].order + 0.5, color=COLORS["grid"], alpha=0.55, linewidth=0)
            axes.text(0.8, 0.98, "initial", transform=axes.get_xaxis_transform(), va="top", color=COLORS["muted"])
        for wanted, color, label in ((True, "accent", "result"), (False, "faint", "breaks a constraint")):
            some = [p for p in points if p.feasible is wanted]
            if some:
                axes.scatter(
                    [p.order for p in some],
                    clipped([p.values[name] for p in some]),
                    s=18,
                    color=COLORS[color],
                    alpha=0.75,
                    linewidths=0,
                    label=label,
                    clip_on=False,
                )
        orders, values = best_line(points, objective) if facts.pursued else ([], [])
        if values:
            axes.step(orders, clipped(values), where="post", color=COLORS["warm"], linewidth=2.0, label="best so far")
        wanted_zone(axes, objective)
        axes.set_xlim(0.5, len(points) + 0.5)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_xlabel("results, in the order of completion")
        axes.set_ylabel(named(name, objective.unit))
        axes.legend(loc="best", frameon=False)

    return draw


def best_line(points: list[Point], objective: Objective) -> tuple[list[int], list[float]]:
    """Return order of completion and best feasible value so far, from the first feasible result on."""
    import numpy as np  # noqa: PLC0415  kept beside its only use; importing the room must stay light

    orders: list[int] = []
    values: list[float] = []
    best = -np.inf
    for point in points:
        value = point.values.get(objective.property, np.nan)
        utility = float(objective.utility(np.array([value]))[0])
        if point.feasible and utility > best:
            best = utility
            orders.append(point.order)
            values.append(value)
    if values:
        orders.append(points[-1].order)
        values.append(values[-1])
    return orders, values


def wanted_zone(axes: Any, objective: Objective, *, upright: bool = False) -> None:
    """Draw the target or the window of an objective, across the plot or upright in it."""
    line, span = (axes.axvline, axes.axvspan) if upright else (axes.axhline, axes.axhspan)
    if objective.target is not None:
        line(objective.target, color=COLORS["good"], linewidth=1, linestyle="--", label="target")
    if objective.window is not None:
        span(*objective.window, color=COLORS["good"], alpha=0.12, linewidth=0, label="window", zorder=0)
        for edge in objective.window:
            line(edge, color=COLORS["good"], linewidth=0.8, linestyle="--", zorder=1)


def parity(judged: Judged, unit: str) -> Plot:
    """Draw what came against what was predicted at the time of choosing, with the predicted sd."""

    def draw(axes: Any) -> None:
        everything = [*judged.predicted, *judged.measured]
        low, high = _window(everything, None)
        axes.plot([low, high], [low, high], color=COLORS["muted"], linewidth=1, linestyle="--")
        shown = [[min(max(v, low), high) for v in values] for values in (judged.predicted, judged.measured)]
        axes.errorbar(
            shown[0],
            shown[1],
            xerr=judged.sd,
            fmt="o",
            markersize=4,
            color=COLORS["accent"],
            ecolor=COLORS["faint"],
            elinewidth=0.8,
            alpha=0.85,
        )
        axes.set_xlim(low, high)
        axes.set_ylim(low, high)
        axes.set_xlabel(f"predicted before the trial ({unit})")
        axes.set_ylabel(f"measured ({unit})")

    return draw


def calibration(judged: Judged) -> Plot:
    """Draw observed against nominal coverage, with the interval that chance allows."""

    def draw(axes: Any) -> None:
        axes.plot([0, 100], [0, 100], color=COLORS["muted"], linewidth=1, linestyle="--", label="calibrated")
        nominal = [i / 20 for i in range(1, 20)]
        observed = [100 * judged.coverage(level) for level in nominal]
        bands = [judged.uncertainty(level) for level in nominal]
        nominal = [100 * level for level in nominal]
        low, high = [100 * b[0] for b in bands], [100 * b[1] for b in bands]
        axes.fill_between(nominal, low, high, color=COLORS["accent"], alpha=0.14, linewidth=0, label="95 % by chance")
        axes.plot(nominal, observed, color=COLORS["accent"], linewidth=1.8, label=f"observed (n = {len(judged)})")
        at = [100 * level for level in LEVELS]
        axes.plot(at, [100 * judged.coverage(level) for level in LEVELS], "o", color=COLORS["accent"], markersize=4.5)
        axes.set_xlim(0, 100)
        axes.set_ylim(0, 100)
        axes.set_xlabel("intervals said to hold (%)")
        axes.set_ylabel("results inside (%)")
        axes.legend(loc="upper left", frameon=False)

    return draw


def render(draw: Plot, form: Literal["svg", "png"], *, square: bool = False, salt: str = "matloop") -> bytes:
    """Draw a plot.

    Args:
        draw: from one of the functions above.
        form: ``svg`` to stand inside the page, ``png`` for elsewhere.
        square: whether both axes mean the same.
        salt: makes ids unique among the plots of one page.

    Returns:
        The image. The same facts give the same bytes.
    """
    from matplotlib import rc_context  # noqa: PLC0415  slow to import; only reports draw
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415

    style: Any = {**_style(), "svg.hashsalt": salt}
    with rc_context(style):
        figure = Figure(figsize=(4.2, 3.8) if square else SIZES[form], layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        draw(axes)
        axes.grid(visible=True, color=COLORS["grid"], linewidth=0.8)
        axes.set_axisbelow(True)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        out = io.BytesIO()
        if form == "png":
            figure.savefig(out, format="png", dpi=100, facecolor="white", metadata={"Software": None})
            return out.getvalue()
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _themed(out.getvalue().decode()).encode()


def _themed(svg: str) -> str:
    """Turn matplotlib's SVG document into an element of the page that follows its theme."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<svg[^>]*?viewBox="([^"]+)"[^>]*>', r'<svg viewBox="\1" class="plot" role="img">', svg, count=1)
    svg = re.sub(r'<g id="(figure|axes|patch|text|line2d|xtick|ytick|matplotlib\.axis)[^"]*">', "<g>", svg)
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)  # it would style the whole page
    svg = svg.replace("xlink:href", "href")
    for name, color in COLORS.items():
        svg = re.sub(color, f"var(--{name})", svg, flags=re.IGNORECASE)
    return re.sub(r"font-family: [^;\"]*;\s*", "", svg)  # the page's own


def _style() -> dict[str, Any]:
    return {
        "svg.fonttype": "none",
        "font.size": 9.5,
        "text.color": COLORS["ink"],
        "axes.labelcolor": COLORS["ink"],
        "axes.edgecolor": COLORS["faint"],
        "xtick.color": COLORS["muted"],
        "ytick.color": COLORS["muted"],
        "legend.fontsize": 8.5,
        "legend.labelcolor": COLORS["ink"],
        "axes.unicode_minus": True,
        "axes.formatter.limits": (-3, 5),
    }


def _window(values: list[float], objective: Objective | None) -> tuple[float, float]:
    """Choose the limits of an axis; far outliers stand at the edge, but never on the side that is wanted."""
    ordered = sorted(values)
    low, high = ordered[0], ordered[-1]
    quarter, three_quarters = ordered[len(ordered) // 4], ordered[(3 * len(ordered)) // 4]
    reach = TAIL * (three_quarters - quarter)
    if reach > 0:
        if objective is None or objective.goal != "maximize":
            high = min(high, three_quarters + reach)
        if objective is None or objective.goal != "minimize":
            low = max(low, quarter - reach)
    margin = 0.06 * (high - low) or abs(high) * 0.1 or 1.0
    return low - margin, high + margin


def named(name: str, unit: str) -> str:
    """Name a property with its unit, as an axis is labelled."""
    words = name.replace("_", " ")
    return words if unit in {"", "dimensionless"} else f"{words} ({unit})"
