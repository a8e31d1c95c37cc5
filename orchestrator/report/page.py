"""The report of a campaign: one HTML file that needs nothing else.

Everything that comes from files and instruments is escaped; the page loads nothing, runs no script, and says so in its
content security policy.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from orchestrator.domain import Problem
from orchestrator.record.states import CampaignState
from orchestrator.report import plots, sections, spending, tradeoff, why
from orchestrator.report.calibration import judge, judged_section
from orchestrator.report.explanations import Why
from orchestrator.report.facts import Facts, ReadsStore, gather
from orchestrator.report.words import asked, unit_of

if TYPE_CHECKING:
    from orchestrator.campaign import Campaign

HERE = Path(__file__).parent

LARGEST = 2_000_000
"""Bytes: what still goes by mail. Pictures of structures are left out of a page that would be larger."""

FEWEST_JUDGED = 5
"""Predictions below which a verdict on them would be chance."""

STATES = {
    CampaignState.ACTIVE: "Running",
    CampaignState.PAUSED: "Paused",
    CampaignState.STOPPED: "Stopped",
    CampaignState.DONE: "Finished",
}


def build(store: ReadsStore, name: str) -> str:
    """Make the report of a campaign.

    Args:
        store: the campaign database.
        name: of the campaign.

    Returns:
        The HTML text.

    Raises:
        StoreError: there is no such campaign.
    """
    facts = gather(store, name)
    page = _contents(facts) | {"why": _why(store, facts) if facts.fits else None}
    html = _template(page)
    if len(html.encode()) > LARGEST and page["cards"]:
        html = _template({**page, "cards": []})
    return html


def write(store: ReadsStore, name: str, path: Path) -> Path:
    """Write the report of a campaign to a file.

    Args:
        store: the campaign database.
        name: of the campaign.
        path: the file; replaced as a whole, so that a reader never sees half a page.

    Returns:
        The path.

    Raises:
        StoreError: there is no such campaign.
        OSError: the file cannot be written.
    """
    html = build(store, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        unfinished.write_text(html, encoding="utf-8")
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    return path


def write_report(campaign: Campaign, path: Path) -> Path:
    """Write the report of an opened campaign; see `write`."""
    return write(campaign.store, campaign.name, path)


def _contents(facts: Facts) -> dict[str, Any]:
    info = facts.info
    headings, best = sections.best_table(facts)
    judged = []
    for name in facts.problem.properties:
        found = judge(facts.points, name)
        if found is not None and len(found) >= FEWEST_JUDGED and len(set(found.measured)) > 1:
            pictures = [
                _svg(plots.parity(found, unit_of(facts.problem.units[name])), f"parity-{name}", square=True),
                _svg(plots.calibration(found), f"calibration-{name}", square=True),
            ]
            judged.append(judged_section(found, facts.problem.units[name], *pictures))
    reason = f": {info.state_reason}" if info.state_reason else ""
    by_hand = info.state is CampaignState.ACTIVE and not facts.config.procedure
    state = "Open, measured by hand" if by_hand else STATES[info.state]
    return {
        "name": info.name,
        "version": sections.provenance_version(),
        "css": Markup((HERE / "style.css").read_text(encoding="utf-8")),  # noqa: S704  our own file
        "first_notices": first_notices(facts),
        "asked": asked(facts.problem, facts.config.space.use),
        "state": info.state.value.lower(),
        "state_words": f"{state}{reason}",
        "tiles": sections.tiles(facts),
        "best": best,
        "best_title": "What was measured" if facts.problem.learns_only else "Best candidates",
        "best_headings": headings,
        "best_note": sections.best_note(facts),
        "cards": [{**card, "svg": Markup(card["svg"])} for card in sections.cards(facts)],  # noqa: S704  escaped inside
        "cards_note": "Structures as they came back from the last step that gives one; the box is the cell.",
        "progress": _svg(plots.best_so_far(facts), "progress") if facts.points else "",
        "progress_note": sections.progress_note(facts),
        "tradeoff": _tradeoff(facts) if tradeoff.has_front(facts) else None,
        "budgets": spending.budgets(facts),
        "levels": spending.levels(facts),
        "spending_note": spending.note(facts),
        "judged": judged,
        "failures": sections.failures(facts),
        "no_failures": "Nothing failed so far." if facts.points else "Nothing was tried so far.",
        "parts": sections.parts(facts),
        "time_note": sections.time_note(facts),
        "commands": sections.commands(facts),
        "decision_count": _counted(len(facts.decisions)),
        "fit_count": _counted(len(facts.fits)),
        "decisions": sections.decisions(facts),
        "fits": sections.fits(facts),
        "notices": sections.notices(facts),
        "revision": info.revision,
        "config": sections.config_text(facts),
        "provenance": sections.provenance(facts),
        "made": f"made {datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
    }


def _tradeoff(facts: Facts) -> dict[str, Any]:
    """Return the section of several objectives: fronts pair by pair, the table of the front, the hypervolume."""
    headings, rows = tradeoff.table(facts)
    drawn = tradeoff.fronts(facts)
    pictures = [_svg(draw, f"front-{i}", square=len(drawn) > 1) for i, draw in enumerate(drawn)]
    return {
        "note": tradeoff.note(facts),
        "pictures": pictures,
        "headings": headings,
        "rows": rows,
        "volume": _svg(tradeoff.volume(facts), "hypervolume"),
        "volume_note": tradeoff.volume_note(facts),
    }


def _why(store: ReadsStore, facts: Facts) -> dict[str, Any]:
    """Return the reasons for the best candidates; pictures are drawn and escaped there."""
    dataset = store.dataset(facts.info.name, units=facts.problem.units)
    return _marked(why.section(why.find_reasons(store, facts, dataset), facts.problem))


def reasons_page(title: str, reasons: Why, problem: Problem) -> str:
    """Make a page of its own from reasons; it needs nothing else, as the report.

    Args:
        title: heading.
        reasons: what to show.
        problem: goals and units.

    Returns:
        The HTML text.
    """
    contents = {
        "name": title,
        "version": sections.provenance_version(),
        "css": Markup((HERE / "style.css").read_text(encoding="utf-8")),  # noqa: S704  our own file
        "why": _marked(why.section(reasons, problem)),
        "made": f"made {datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
    }
    return _template(contents, "reasons.html.j2")


def _marked(contents: dict[str, Any]) -> dict[str, Any]:
    contents["effects"] = Markup(contents["effects"])  # noqa: S704  drawn here
    for card in contents["cards"]:
        card["picture"], card["bars"] = Markup(card["picture"]), Markup(card["bars"])  # noqa: S704  escaped inside
    return contents


def _counted(total: int) -> str:
    """Say how many there are, and how many of them are shown."""
    return str(total) if total <= sections.MOST_ROWS else f"the last {sections.MOST_ROWS} of {total}"


def first_notices(facts: Facts) -> list[str]:
    """Return what the reader must know before anything else."""
    if not facts.config.allow_shared_knowledge:
        return []
    said = [e.note for e in facts.events if e.kind == "notice" and "shared knowledge" in e.note]
    warning = (
        "This campaign allows shared knowledge: its surrogate may know what its instrument measures with. How fast it"
        " found good candidates says nothing about a campaign on unknown truth."
    )
    return said or [warning]


def _svg(draw: plots.Plot, salt: str, *, square: bool = False) -> Markup:
    svg = plots.render(draw, "svg", square=square, salt=salt).decode()
    return Markup(svg.replace('class="plot"', 'class="plot square"') if square else svg)  # noqa: S704  drawn here


def _template(page: dict[str, Any], name: str = "page.html.j2") -> str:
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=False
    )
    return environment.get_template(name).render(page=page)
