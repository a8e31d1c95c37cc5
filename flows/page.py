"""What the Prefect page shows of a campaign: progress, a report in markdown, the table of the best candidates."""

from __future__ import annotations

import asyncio
import base64
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from prefect.logging import get_logger

from flows.overview import Overview, number
from flows.screen import fit_line
from orchestrator.record.states import CampaignState, TrialState

if TYPE_CHECKING:
    from flows.artifacts import Page
    from orchestrator.campaign import Campaign
    from orchestrator.ranking import Best
    from orchestrator.record.views import TrialInfo

ROWS = 50
"""Of the table; `matloop export` has all of them."""

LEADING = 8
FAILURES = 5
LARGEST_IMAGE = 50_000
"""Bytes of a plot: the page carries it inside its text, and the server keeps every text it was given."""

FEWEST = 2
"""Points that a plot needs to say anything."""

BEST, PARITY, CALIBRATION = "Best so far", "Expected and measured", "Calibration"
FRONT, VOLUME = "Front", "Hypervolume"
PAIRS = 3
"""Pairs of objectives that are drawn; the report has all of them."""
Images = dict[str, bytes]


async def show(page: Page, campaign: Campaign) -> None:
    """Bring the three artifacts of a campaign up to date.

    Args:
        page: where they are shown.
        campaign: whose state is read from the store.
    """
    view = Overview.of(campaign.store, campaign.name)
    images = await asyncio.to_thread(plots, campaign)
    await page.progress("progress", view.fraction or 0.0, f"{view.info.name}: {view.budget()}")
    await page.markdown("report", report(view, images), f"How {view.info.name} stands: reload to see the newest")
    await page.table("results", rows(view), f"The best candidates of {view.info.name}, best first")


def plots(campaign: Campaign) -> Images:
    """Draw what can be drawn so far.

    Args:
        campaign: whose facts are read from the store.

    Returns:
        PNG by title. A plot that fails is left out and named in the log; one that is too large is left out.
    """
    from orchestrator.report import plots as drawing  # noqa: PLC0415  matplotlib is slow to import
    from orchestrator.report import tradeoff  # noqa: PLC0415  the same
    from orchestrator.report.calibration import judge  # noqa: PLC0415  the same
    from orchestrator.report.facts import gather  # noqa: PLC0415  the same

    facts = gather(campaign.store, campaign.name, shown=0)
    if len(facts.points) < FEWEST:
        return {}
    objective = facts.problem.objectives[0]
    wanted: dict[str, tuple[drawing.Plot, bool]] = {BEST: (drawing.best_so_far(facts), False)}
    if tradeoff.has_front(facts):
        pairs = tradeoff.fronts(facts)[:PAIRS]
        wanted = {f"{FRONT} {i}": (draw, len(pairs) > 1) for i, draw in enumerate(pairs, start=1)}
        wanted[VOLUME] = (tradeoff.volume(facts), False)
    judged = judge(facts.points, objective.property)
    if judged is not None and len(judged) >= FEWEST:
        wanted[PARITY] = (drawing.parity(judged, objective.unit), True)
        wanted[CALIBRATION] = (drawing.calibration(judged), True)
    made: Images = {}
    for title, (draw, square) in wanted.items():
        try:
            image = drawing.render(draw, "png", square=square)
        except Exception as error:  # noqa: BLE001  a view must not stop what it shows
            get_logger("matloop").warning("no plot %r: %r", title, error)
            continue
        if len(image) <= LARGEST_IMAGE:
            made[title] = image
    return made


def report(view: Overview, images: Images, now: datetime | None = None) -> str:
    """Write the report artifact.

    Args:
        view: how the campaign stands.
        images: PNG by title.
        now: default now.

    Returns:
        Markdown with its images inside.
    """
    info = view.info
    when = (now or datetime.now(tz=UTC)).strftime("%H:%M:%S UTC")
    state = "running" if info.state is CampaignState.ACTIVE else info.state.value.lower()
    reason = f": {info.state_reason}" if info.state_reason else ""
    name = info.name
    commands = (
        f"status {name} --watch",
        f"report {name} --open",
        f"pause {name}",
        f"resume {name}",
        f"why {name} TRIAL",
    )
    parts = [
        f"# {info.name}",
        f"**{state}**{reason} · {view.budget()} · as of {when}; reload the page for the newest",
        f"**Goal:** {view.goals()}",
        *_questions(view),
        *_best(view),
        *_image(images, BEST),
        *_front(view, images),
        *_next(view),
        *_trust(view),
        *_side_by_side(images, PARITY, CALIBRATION),
        *_failures(view),
        "## In the terminal",
        " · ".join(f"`matloop {command}`" for command in commands),
    ]
    return "\n\n".join(parts) + "\n"


def rows(view: Overview) -> list[dict[str, Any]]:
    """Write the lines of the table artifact, best first."""
    made = []
    for place, best in enumerate(view.ranked[:ROWS], 1):
        row: dict[str, Any] = {"place": place, "candidate": best.trial.candidate.label, "trial": best.trial.number}
        for name in view.problem.properties:
            row[f"{name} ({view.problem.units[name]})"] = number(best.values.get(name), 5)
        row["expected"] = _expected(view, best.trial)
        row["constraints"] = "hold" if best.feasible else "violated"
        if view.front:
            row["on the front"] = "yes" if best.on_front else ""
        row["chosen by"] = best.trial.proposal.policy
        made.append(row)
    return made


def _questions(view: Overview) -> list[str]:
    if not view.questions:
        return []
    lines = [f"- {question}" for question in view.questions]
    return ["## A person is asked", "\n".join(lines)]


def _best(view: Overview) -> list[str]:
    if not view.ranked:
        return ["## Best so far", "Nothing is measured yet."]
    names = view.problem.properties
    head = [
        "",
        "candidate",
        *(f"{name} ({view.problem.units[name]})" for name in names),
        "expected when chosen",
        "trial",
    ]
    lines = [_line(head), _line(["---"] * len(head))]
    lines += [_line(_cells(view, place, best)) for place, best in enumerate(view.ranked[:LEADING], 1)]
    return ["## Best so far", "\n".join(lines)]


def _front(view: Overview, images: Images) -> list[str]:
    """Write the candidates that nothing dominates, and draw how the hypervolume grew; nothing with one objective."""
    if not view.front:
        return []
    goals = [o for o in view.problem.objectives if o.goal != "learn"]
    head = ["candidate", *(f"{o.property} ({o.unit})" for o in goals), "trial"]
    lines = [_line(head), _line(["---"] * len(head))]
    lines += [
        _line([b.trial.candidate.label, *(number(b.values[o.property]) for o in goals), str(b.trial.number)])
        for b in view.front[:ROWS]
    ]
    title = f"## The front: {len(view.front)} candidates, hypervolume {number(view.hypervolume)}"
    pairs = [name for name in images if name.startswith(FRONT)]
    drawn = _image(images, pairs[0]) if len(pairs) == 1 else _side_by_side(images, *pairs)
    return [title, *drawn, "\n".join(lines), *_image(images, VOLUME)]


def _cells(view: Overview, place: int, best: Best) -> list[str]:
    label = best.trial.candidate.label if best.feasible else f"~~{best.trial.candidate.label}~~"
    values = [number(best.values.get(name)) for name in view.problem.properties]
    return [
        str(place),
        f"**{label}**" if place == 1 else label,
        *values,
        _expected(view, best.trial),
        str(best.trial.number),
    ]


def _next(view: Overview) -> list[str]:
    lines = [f"- **{t.candidate.label}** (trial {t.number}) is being measured" for t in view.in_flight]
    lines += [f"- {t.candidate.label} (trial {t.number}) is next: {t.proposal.reason}" for t in view.waiting[:LEADING]]
    if len(view.waiting) > LEADING:
        lines.append(f"- and {len(view.waiting) - LEADING} more are planned")
    if not lines:
        ended = view.info.state is not CampaignState.ACTIVE
        lines = ["- nothing: the campaign has ended" if ended else "- the next candidates are being chosen"]
    if view.decision is not None:
        gain = view.decision.summary.expected_gain
        unit = view.problem.objectives[0].unit
        more = f", expected gain {number(gain, 3)} {unit}" if gain is not None else ""
        lines.append(f"- decision {view.decision.number} was made by {view.decision.policy}{more}")
    return ["## What happens next", "\n".join(lines)]


def _trust(view: Overview) -> list[str]:
    if not view.fits:
        return []
    fit = view.fits[-1]
    lines = [f"Fit {fit.number}: {fit_line(fit)}."]
    for name, coverage in fit.report.calibration.items():
        levels = {float(key): value for key, value in coverage.items() if _is_number(key)}
        if levels:
            said = " / ".join(f"{level:.0%}" for level in sorted(levels))
            held = " / ".join(f"{levels[level]:.0%}" for level in sorted(levels))
            lines.append(f"Intervals of {name} that were said to hold {said} held {held} on labels left out.")
    lines += [f"On what it chose since, {line}." for line in view.trust]
    lines += [f"**Now: {alarm}.**" for alarm in view.alarms]
    lines += list(fit.report.notes)
    return ["## How far to trust it", "\n\n".join(lines)]


def _is_number(text: str) -> bool:
    return text.replace(".", "", 1).isdigit()


def _failures(view: Overview) -> list[str]:
    failed = [t for t in view.trials if t.state is TrialState.FAILED]
    if not failed:
        return []
    lines = [f"- trial {t.number} {t.candidate.label}: {t.reason}" for t in reversed(failed[-FAILURES:])]
    return [f"## {len(failed)} trials failed", "\n".join(lines)]


def _expected(view: Overview, trial: TrialInfo) -> str:
    first = view.problem.objectives[0].property
    mean = trial.proposal.mean.get(first)
    return "–" if mean is None else f"{number(mean, 3)} ± {number(trial.proposal.sd.get(first), 2)}"


def _image(images: Images, title: str) -> list[str]:
    image = images.get(title)
    return [f"![{title}](data:image/png;base64,{base64.b64encode(image).decode()})"] if image else []


def _side_by_side(images: Images, *titles: str) -> list[str]:
    """Put images into a table of one line: as wide as the page, each half of it."""
    shown = [title for title in titles if title in images]
    if not shown:
        return []
    cells = [_image(images, title)[0] for title in shown]
    return ["\n".join([_line(shown), _line(["---"] * len(shown)), _line(cells)])]


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
