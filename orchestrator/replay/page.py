"""Replays drawn: one picture, and one page that needs nothing else."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from orchestrator.replay.scores import LEVELS, Curve, Interval, Score, paired
from orchestrator.report import plots
from orchestrator.report.sections import provenance_version

HERE = Path(__file__).parent
STYLE = Path(plots.__file__).parent / "style.css"
ARM_COLORS = ("#2f6fed", "#6b7488", "#d9622b", "#17936b", "#8a5cc7", "#b8860b", "#c23b4b", "#2a9fb0")
"""One an arm, in order; those that the page's style knows follow its theme."""
SMALLER_IS_BETTER = frozenset({"regret", "mae", "rmse"})
NAMES: Mapping[str, str] = {
    "recall": "share of the best found",
    "regret": "best of the pool minus best found",
    "enhancement": "finds against random choice",
    "hypervolume": "hypervolume, share of the pool's",
    "mae": "mean absolute error over the pool",
    "rmse": "root mean squared error over the pool",
    "level_set_f1": "F1 of the level set",
    "accuracy": "share of the pool's classes right",
    "macro_f1": "F1, mean of the classes",
}
IN_A_ROW = 2


def draw_plot(scores: Sequence[Score], form: str = "png") -> bytes:
    """Draw every curve of every arm: medians, with the middle half of the seeds shaded.

    Args:
        scores: one an arm.
        form: ``png`` or ``svg``.
    """
    from matplotlib import rc_context  # noqa: PLC0415  slow to import; not every replay draws
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415  the same
    from matplotlib.figure import Figure  # noqa: PLC0415  the same

    names = list(scores[0].curves)
    columns = min(len(names), IN_A_ROW)
    rows = -(-len(names) // columns)
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "replay", "font.size": 9.5}):
        figure = Figure(figsize=(4.4 * columns, 3.2 * rows), layout="constrained")
        FigureCanvasAgg(figure)
        for place, name in enumerate(names, start=1):
            axes = figure.add_subplot(rows, columns, place)
            _plot(scores, name)(axes)
            axes.grid(visible=True, color=plots.COLORS["grid"], linewidth=0.8)
            axes.set_axisbelow(True)
            axes.spines[["top", "right"]].set_visible(False)
        out = io.BytesIO()
        kept = {"Software": None} if form == "png" else {"Date": None, "Creator": None}
        figure.savefig(out, format=form, dpi=110, facecolor="white", metadata=kept)
    return out.getvalue()


def _drawn(scores: Sequence[Score], name: str) -> Markup:
    return Markup(plots.render(_plot(scores, name), "svg", square=True, salt=name).decode())  # noqa: S704  drawn here


def _plot(scores: Sequence[Score], name: str) -> plots.Plot:
    def draw(axes: Any) -> None:
        for place, one in enumerate(scores):
            curve: Curve | None = one.curves.get(name)
            if curve is None:
                continue
            color = ARM_COLORS[place % len(ARM_COLORS)]
            axes.fill_between(curve.at, curve.low, curve.high, color=color, alpha=0.14, linewidth=0)
            axes.plot(
                curve.at,
                curve.median,
                color=color,
                linewidth=1.5 if place else 2.2,
                label=one.arm,
                zorder=3 - bool(place),
            )
        axes.set_title(named(name), loc="left", fontsize=9.5)
        axes.set_xlabel("measurements")
        axes.set_xlim(left=0)
        if name not in {"regret", "mae", "rmse"}:
            axes.set_ylim(bottom=0)
        axes.legend(frameon=False)

    return draw


def named(metric: str) -> str:
    """Write a metric for people; of several learned properties the name stands behind it."""
    for key, words in NAMES.items():
        if metric == key or metric.startswith(f"{key}_"):
            return words + metric.removeprefix(key).replace("_", " ")
    return metric.replace("_", " ")


def table_of(scores: Sequence[Score]) -> list[list[str]]:
    """Return rows: a figure in words, then what each arm reached; what is asked first stands first."""
    rows: list[list[str]] = []
    for level in LEVELS:
        factors = [one.acceleration.get(f"{level:.0%}") for one in scores]
        if any(factors):
            rows.append([f"acceleration to {level:.0%}", *map(written, factors)])
    if any(one.enhancement_max for one in scores):
        rows.append(["largest enhancement", *(written(one.enhancement_max) for one in scores)])
    for head, tables in (
        ("recall", [one.recall for one in scores]),
        ("regret", [one.regret for one in scores]),
        ("hypervolume", [one.hypervolume for one in scores]),
        *((named(name), [one.learned.get(name, {}) for one in scores]) for name in scores[0].learned),
    ):
        marks = _shown([m for table in tables for m in table])
        rows += [[f"{head} after {mark}", *(written(_until(table, mark)) for table in tables)] for mark in marks]
    rows.append(["seconds a decision", *(f"{one.ask_seconds[0]:.2g}" for one in scores)])
    rows.append(["peak memory, MiB", *(f"{one.ask_peak_mib:.0f}" if one.ask_peak_mib else "–" for one in scores)])
    return rows


def _until(table: Mapping[int, Interval], mark: int) -> Interval | None:
    """Return what stood after so many measurements: of campaigns that ended before, what they ended with."""
    before = [m for m in table if m <= mark]
    return table[max(before)] if before else None


def _shown(marks: Sequence[int]) -> list[int]:
    """Return a middle mark and the last: what is shown of a curve in a table."""
    known = sorted(set(marks))
    return sorted({known[(len(known) - 1) // 2], known[-1]}) if known else []


def written(told: Interval | None) -> str:
    """Write a median and its interval; a dash where an arm did not get there."""
    if told is None:
        return "–"
    bounds = "" if told.low == told.high else f" ({told.low:.3g} to {told.high:.3g})"
    return f"{told.median:.3g}{bounds}"


def differences(scores: Sequence[Score]) -> list[list[str]]:
    """Return rows of arm, metric, difference to the first arm, and what that means."""
    rows = []
    for one in scores[1:]:
        for metric, told in paired(one, scores[0]).items():
            smaller = metric.partition("_")[0] in SMALLER_IS_BETTER
            sign = -1 if smaller else 1
            verdict = "no difference that these seeds show"
            if sign * told.low > 0 and sign * told.high > 0:
                verdict = "better"
            elif sign * told.low < 0 and sign * told.high < 0:
                verdict = "worse"
            rows.append([one.arm, metric.replace("_", " "), written(told), verdict])
    return rows


def write_page(scores: Sequence[Score], path: Path, *, title: str, asked: str, command: str) -> None:
    """Write the page.

    Args:
        scores: one an arm, the campaign's own first.
        path: the file; replaced as a whole.
        title: heading.
        asked: one sentence on what was compared.
        command: that makes the page again.
    """
    contents = {
        "title": title,
        "asked": asked,
        "command": command,
        "version": provenance_version(),
        "made": f"made {datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "css": Markup(STYLE.read_text(encoding="utf-8")),  # noqa: S704  our own file
        "plots": [_drawn(scores, name) for name in scores[0].curves],
        "arms": [one.arm for one in scores],
        "rows": table_of(scores),
        "differences": differences(scores),
        "own": scores[0].arm,
        "seeds": len(scores[0].measured),
    }
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=False
    )
    path.write_text(environment.get_template("page.html.j2").render(page=contents), encoding="utf-8")
