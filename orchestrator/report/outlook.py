"""What a campaign file will take before it is begun: makespan, use of the instruments, cost, and where it is tight.

Durations are those that the instruments declare (`typical_s`), conditions are taken to hold, and nothing fails: a plan,
not a promise.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchestrator.config.lab import LabConfig
from orchestrator.config.schema import CampaignConfig
from orchestrator.config.steps import expanded
from orchestrator.domain import Description, frozen
from orchestrator.schedule.forecast import Bar, Forecast, forecast
from orchestrator.schedule.shop import Operation

COLUMNS = 72
"""Characters of the time axis in a text."""
LETTERS = "123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
MOST_TRIALS = 24
"""Trials of a forecast where the user does not say how many: enough to see the rhythm."""
COLORS = ("#2f6fed", "#d9622b", "#17936b", "#8a5cd1", "#c0392b", "#0f8b8d", "#b7791f", "#6b7488")


@dataclass(frozen=True)
class Outlook:
    """What some trials will take.

    Args:
        name: of the campaign.
        trials: how many were forecast.
        forecast: of them.
        relief: what one more of the busiest instrument would save, in seconds.
        cost: of them, in the budget's units.
        budget_trials: that the budget allows; None without a cap.
        budget_hours: the same of hours.
        budget_cost: the same of cost.
        skippable: steps that have conditions, which the forecast takes to hold.
    """

    name: str
    trials: int
    forecast: Forecast
    relief: float
    cost: float
    budget_trials: int | None
    budget_hours: float | None
    budget_cost: float | None
    skippable: tuple[str, ...]

    @property
    def hours(self) -> float:
        """What the trials take together."""
        return self.forecast.makespan_s / 3600


def outlook(
    config: CampaignConfig, lab: LabConfig, descriptions: Mapping[str, Description], *, trials: int | None = None
) -> Outlook:
    """Forecast a campaign's trials at the target.

    Args:
        config: the campaign, with a procedure.
        lab: the site's instruments, kinds and resources.
        descriptions: what each instrument can do, also by the name of a kind.
        trials: how many; as many as the budget allows where None, at most `MOST_TRIALS`.
    """
    count = trials or min(config.budget.trials or MOST_TRIALS, MOST_TRIALS)
    places = {name: one.places for name, one in lab.resources.items() if one.places is not None}
    steps, cost = [], 0.0
    for name, step in expanded(config.procedure).items():
        capability = descriptions[step.instrument].capability(step.capability)
        wait = step.wait.total_s if step.wait is not None else 0.0
        held = {one: round(need.amount) for one, need in step.needs.items() if one in places}
        steps.append(Operation(name, step.instrument, capability.typical_s, wait, frozen(held)))
        cost += capability.cost if step.cost is None else step.cost
    machines = {step.machine: descriptions[step.machine].slots for step in steps}
    how = {"trials": count, "parallel": config.parallel, "rounds_of": config.plan_when_free, "places": places}
    found = forecast(steps, machines, **how)  # type: ignore[arg-type]  # four keywords of four types
    more = {**machines, found.bottleneck: machines[found.bottleneck] + 1}
    relieved = forecast(steps, more, **how)  # type: ignore[arg-type]  # the same
    return Outlook(
        name=config.name,
        trials=count,
        forecast=found,
        relief=max(0.0, found.makespan_s - relieved.makespan_s),
        cost=count * (config.expenses.cost if config.expenses.cost is not None else cost),
        budget_trials=config.budget.trials,
        budget_hours=config.budget.hours,
        budget_cost=config.budget.cost,
        skippable=tuple(step.step for step in config.procedure if step.when),
    )


def lines(found: Outlook) -> list[str]:
    """Say it in words, with a Gantt chart in text."""
    alone = duration(found.forecast.alone_s)
    head = f"{found.name}: {found.trials} trials take {duration(found.forecast.makespan_s)} (one alone {alone})"
    told = [f"{head} and cost {found.cost:g}", *_against_budget(found)]
    told.append("")
    width = max(len(use.machine) for use in found.forecast.uses)
    for use in found.forecast.uses:
        slots = f"{use.slots} slot{'s' if use.slots > 1 else ''}"
        told.append(
            f"  {use.machine:<{width}}  {use.share:4.0%} in use, {slots}; trials wait for it {duration(use.waiting_s)}"
        )
    told += ["", _advice(found), ""]
    told += chart(found.forecast)
    if found.skippable:
        told += ["", f"conditions are taken to hold: {', '.join(found.skippable)} may be skipped"]
    return told


def _against_budget(found: Outlook) -> list[str]:
    told = []
    if found.budget_hours is not None:
        fit = _fitting(found.trials, found.budget_hours, found.hours)
        told.append(f"  budget: {found.budget_hours:g} hours, enough for about {fit} trials")
    if found.budget_cost is not None:
        fit = _fitting(found.trials, found.budget_cost, found.cost)
        told.append(f"  budget: cost {found.budget_cost:g}, enough for about {fit} trials")
    if found.budget_trials is not None and found.budget_trials != found.trials:
        whole = found.forecast.makespan_s * found.budget_trials / found.trials
        told.append(f"  budget: {found.budget_trials} trials, about {duration(whole)} at this pace")
    return told


def _fitting(trials: int, budget: float, used: float) -> str:
    return "any number of" if used <= 0 else str(int(trials * budget / used))


def _advice(found: Outlook) -> str:
    worst = found.forecast.bottleneck
    share = found.relief / found.forecast.makespan_s if found.forecast.makespan_s else 0.0
    if share < 0.01:  # noqa: PLR2004  one percent is nothing
        return (
            f"bottleneck: {worst}; one more of it would save nothing: 'parallel', a resource or the trial sets the pace"
        )
    return f"bottleneck: {worst}; one more of it would save {duration(found.relief)} ({share:.0%})"


def duration(seconds: float) -> str:
    """Write a duration as people say it."""
    if seconds < 120:  # noqa: PLR2004  two minutes
        return f"{seconds:.3g} s"
    if seconds < 7200:  # noqa: PLR2004  two hours
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def chart(found: Forecast, columns: int = COLUMNS) -> list[str]:
    """Draw a Gantt chart in text: a row a slot, trials as digits and letters, dots where nothing is done."""
    if not found.bars or not found.makespan_s:
        return []
    rows = _rows(found)
    width = max(len(f"{machine} {slot + 1}") for machine, slot in rows)
    told = []
    for machine, slot in rows:
        line = ["·"] * columns
        for bar in rows[machine, slot]:
            first = int(bar.start_s / found.makespan_s * columns)
            last = max(first + 1, int(bar.end_s / found.makespan_s * columns))
            for i in range(first, min(last, columns)):
                line[i] = LETTERS[(bar.trial - 1) % len(LETTERS)]
        told.append(f"  {f'{machine} {slot + 1}':<{width}} {''.join(line)}")
    told.append(f"  {'':<{width}} 0{duration(found.makespan_s):>{columns - 1}}")
    return told


def page(found: Outlook) -> str:
    """Draw the same as a page with a chart in SVG."""
    return (
        "<!doctype html><html lang='en'><meta charset='utf-8'>"
        f"<title>{html.escape(found.name)}: forecast</title>"
        "<style>body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
        "svg{width:100%;height:auto}pre{overflow-x:auto}</style>"
        f"<h1>{html.escape(found.name)}: {found.trials} trials in {duration(found.forecast.makespan_s)}</h1>"
        f"{svg(found.forecast)}<pre>{html.escape(chr(10).join(_words(found)))}</pre></html>\n"
    )


def _words(found: Outlook) -> Sequence[str]:
    drawn = chart(found.forecast)
    return [line for line in lines(found) if line not in drawn]


def svg(found: Forecast) -> str:
    """Draw a Gantt chart: a row a slot, a colour a trial, its number where it fits."""
    rows = _rows(found)
    left, row, across = 170, 26, 960
    scale = across / found.makespan_s if found.makespan_s else 0.0
    parts = []
    for i, (machine, slot) in enumerate(rows):
        y = i * row
        parts.append(f"<text x='0' y='{y + 17}' font-size='13'>{html.escape(machine)} {slot + 1}</text>")
        for bar in rows[machine, slot]:
            x, width = left + bar.start_s * scale, max(1.0, (bar.end_s - bar.start_s) * scale)
            color = COLORS[(bar.trial - 1) % len(COLORS)]
            title = f"trial {bar.trial}, {bar.step}: {duration(bar.start_s)} to {duration(bar.end_s)}"
            parts.append(
                f"<g><title>{html.escape(title)}</title><rect x='{x:.1f}' y='{y + 3}' width='{width:.1f}' height='20'"
                f" rx='2' fill='{color}'/>"
            )
            if width > 14:  # noqa: PLR2004  room for a number
                parts.append(f"<text x='{x + 3:.1f}' y='{y + 17}' font-size='11' fill='#fff'>{bar.trial}</text>")
            parts.append("</g>")
    end = duration(found.makespan_s)
    height = len(rows) * row + 22
    parts.append(f"<text x='{left}' y='{height - 5}' font-size='12'>0</text>")
    parts.append(f"<text x='{left + across}' y='{height - 5}' font-size='12' text-anchor='end'>{end}</text>")
    return f"<svg viewBox='0 0 {left + across} {height}' role='img' fill='currentColor'>{''.join(parts)}</svg>"


def _rows(found: Forecast) -> dict[tuple[str, int], list[Bar]]:
    rows: dict[tuple[str, int], list[Bar]] = {
        (use.machine, slot): [] for use in found.uses for slot in range(use.slots)
    }
    for bar in found.bars:
        rows[bar.machine, bar.slot].append(bar)
    return rows
