"""The command that asks the surrogate for its reasons: explain."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from flows.session import campaign_of, opened, store_option
from orchestrator.errors import StoreError

if TYPE_CHECKING:
    from rich.console import Console

    from orchestrator.campaign import Campaign
    from orchestrator.domain import Candidate, Dataset, Explanation, Problem
    from orchestrator.report.explanations import Effects, Explained, Why

SWAPS, NEIGHBOURS = 5, 5
"""Rows in the terminal; the JSON file has all of them."""
BAR = 24
"""Characters of the longest contribution."""


@click.command()
@click.argument("campaign", required=False)
@click.option("--trial", "-t", type=int, help="Number of the trial whose candidate is explained.")
@click.option("--candidate", "-c", metavar="LABEL", help="Label or id of a candidate: measured, or of the space.")
@click.option("--best", "-b", type=click.IntRange(min=1), help="The best so many; default: 3.")
@click.option("--property", "name", metavar="P", help="What is explained; default: the first objective.")
@click.option("--network", is_flag=True, help="What the networks inside say alone, by integrated gradients.")
@click.option("--json", "out", type=click.Path(dir_okay=False, path_type=Path), help="Write everything as JSON.")
@click.option("--out", "-o", "page", type=click.Path(dir_okay=False, path_type=Path), help="Write a page, HTML.")
@store_option
def explain(
    *,
    campaign: str | None,
    trial: int | None,
    candidate: str | None,
    best: int | None,
    name: str | None,
    network: bool,
    out: Path | None,
    page: Path | None,
    store: str | None,
) -> None:
    """Say why the surrogate predicts what it predicts.

    Contributions of elements, sites and settings; the nearest measured candidates; what similar elements would give.

    \b
    matloop explain                       the three best
    matloop explain NAME --trial 12       one trial
    matloop explain NAME -c SrTiO3 -o why.html
    """  # noqa: D301  \b tells click to keep the lines
    if sum(given is not None for given in (trial, candidate, best)) > 1:
        message = "give one of --trial, --candidate and --best"
        raise click.UsageError(message)
    from rich.console import Console  # noqa: PLC0415  not needed by --help

    from orchestrator.report.explanations import Why, element_effects, restored  # noqa: PLC0415  the same
    from orchestrator.report.explanations import explain as ask  # noqa: PLC0415

    with opened(store) as records:
        found = campaign_of(records, campaign)
        problem, dataset = found.problem, found.dataset()
        name = name or problem.objectives[0].property
        if name not in problem.properties:
            message = f"no modelled property {name!r}; {found.name} models: {', '.join(problem.properties)}"
            raise StoreError(message)
        candidates = _chosen(found, trial=trial, label=candidate, best=best)
        surrogate = restored(records, found.name, dataset)
        reasons = ask(surrogate, [c for _, c in candidates], name, network=network)
        explained = _joined(candidates, reasons, dataset, problem, name)
        measured = list(dataset.labels(problem.properties).candidates)
        effects = element_effects(surrogate, measured, problem, name)
    known = {one.label: value for one, value in _measured(dataset, problem, name)}
    why = Why(f"{explained[0].explanation.method}.", explained, effects if effects.values else None, known)
    _show(Console(), why, problem)
    if out is not None:
        out.write_text(json.dumps(_content(found.name, why), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        click.echo(f"json: {out}")
    if page is not None:
        from orchestrator.report.page import reasons_page  # noqa: PLC0415  matplotlib is slow to import

        page.write_text(reasons_page(found.name, why, problem), encoding="utf-8")
        click.echo(f"page: {page}")


def _chosen(
    campaign: Campaign, *, trial: int | None, label: str | None, best: int | None
) -> list[tuple[int | None, Candidate]]:
    """Find the candidates that are meant, with the numbers of their trials."""
    if trial is not None:
        return [(trial, campaign.store.trial(campaign.name, trial).candidate)]
    if label is not None:
        tried = campaign.store.trials(campaign.name)
        for one in reversed(tried):
            if one.candidate.label == label or one.candidate.id.startswith(label):
                return [(one.number, one.candidate)]
        return [(None, _in_space(campaign, label))]
    ranked = campaign.best(best or 3)
    if not ranked:
        message = f"{campaign.name} has measured nothing yet; explain a candidate of its space with --candidate LABEL"
        raise StoreError(message)
    return [(one.trial.number, one.trial.candidate) for one in ranked]


def _in_space(campaign: Campaign, label: str) -> Candidate:
    from orchestrator.protocols import FiniteSpace  # noqa: PLC0415  not needed by --help

    space = campaign.planner.parts.space
    if isinstance(space, FiniteSpace):
        for candidate in space.candidates():
            if candidate.label == label or candidate.id.startswith(label):
                return candidate
    message = (
        f"{campaign.name} has no candidate {label!r}, neither tried nor in its space; 'matloop export' lists what was"
        " tried, with labels and ids"
    )
    raise StoreError(message)


def _measured(dataset: Dataset, problem: Problem, name: str) -> list[tuple[Candidate, float]]:
    labels = dataset.labels(problem.properties)
    column = labels.values[:, problem.properties.index(name)]
    return [(c, float(v)) for c, v in zip(labels.candidates, column, strict=True) if v == v]  # noqa: PLR0124  no NaN


def _joined(
    candidates: Sequence[tuple[int | None, Candidate]],
    explanations: Sequence[Explanation],
    dataset: Dataset,
    problem: Problem,
    name: str,
) -> tuple[Explained, ...]:
    from orchestrator.report.explanations import Explained  # noqa: PLC0415  not needed by --help

    values = {candidate.id: value for candidate, value in _measured(dataset, problem, name)}
    return tuple(
        Explained(candidate, explanation, trial, values.get(candidate.id))
        for (trial, candidate), explanation in zip(candidates, explanations, strict=True)
    )


# --- the terminal -------------------------------------------------------------------------------------------------


def _show(console: Console, why: Why, problem: Problem) -> None:
    from orchestrator.report.why import direction  # noqa: PLC0415  not needed by --help

    for one in why.explained:
        _show_one(console, one, why.measured, direction(problem, one.explanation) or 1)
    if why.effects is not None:
        console.print(_effects_line(why.effects, direction(problem, why.explained[0].explanation) or 1))
        console.print()
    console.print(f"[dim]{why.note}[/dim]")


def _show_one(console: Console, one: Explained, measured: Mapping[str, float], better: int) -> None:
    from rich.markup import escape  # noqa: PLC0415  not needed by --help
    from rich.table import Table  # noqa: PLC0415  the same
    from rich.text import Text  # noqa: PLC0415  the same

    from orchestrator.report.periodic import signed  # noqa: PLC0415  the same
    from orchestrator.report.words import number, plain, unit_of, with_error  # noqa: PLC0415  the same

    e = one.explanation
    unit = unit_of(e.unit)
    head = f"[bold]{escape(one.candidate.label)}[/bold]" + (f" (trial {one.trial})" if one.trial is not None else "")
    told = f"{plain(e.property)}: predicted {with_error(e.mean, e.sd)} {unit}".rstrip()
    told += f", measured {number(one.measured)} {unit}".rstrip() if one.measured is not None else ""
    console.print(f"{head}  {told}")
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(justify="right")
    table.add_column(justify="right")
    table.add_column()
    table.add_row("typical", number(e.baseline, 3), "")
    largest = max((abs(part.value) for part in e.parts), default=1.0) or 1.0
    for part in sorted(e.parts, key=lambda part: -abs(part.value)):
        style = "blue" if better * part.value > 0 else "yellow"
        length = max(round(BAR * abs(part.value) / largest), 1)
        table.add_row(Text(part.name, style="bold"), signed(part.value), Text("█" * length, style=style))
    table.add_row("predicted", number(e.mean, 3), Text("blue: towards what is wanted", style="dim"))
    console.print(table)
    near = [n for n in e.neighbours if n.candidate_id != one.candidate.id][:NEIGHBOURS]
    if near:
        names = ", ".join(f"{n.label} {number(n.value, 3)} ({100 * n.similarity:.0f} % similar)" for n in near)
        console.print(f"  nearest measured: {escape(names)}")
    if e.substitutions:
        console.print("  if one element were another, most favourable first:")
        swaps = Table(box=None, pad_edge=False, show_header=False)
        for s in e.substitutions[:SWAPS]:
            style = "green" if better * (s.mean - e.mean) > 0 else ""
            known = f"measured {number(measured[s.label], 3)}" if s.label in measured else ""
            change = Text(f"({signed(s.mean - e.mean)})", style=style)
            swaps.add_row("   ", f"{s.old} → {s.new}", s.label, with_error(s.mean, s.sd), change, known)
        console.print(swaps)
    console.print()


def _effects_line(effects: Effects, better: int) -> str:
    """Name the elements that help and hurt most."""
    from orchestrator.report.periodic import signed  # noqa: PLC0415  not needed by --help

    ordered = sorted(effects.values.items(), key=lambda item: -better * item[1])
    good = ", ".join(f"{symbol} {signed(value)}" for symbol, value in ordered[:SWAPS] if better * value > 0)
    bad = ", ".join(f"{symbol} {signed(value)}" for symbol, value in ordered[::-1][:SWAPS] if better * value < 0)
    share = f"{100 * max(effects.explained, 0.0):.0f} % of the predictions' variance"
    return (
        f"elements over {effects.candidates} measured candidates ({share}): [blue]{good or 'none helps'}[/blue];"
        f" [yellow]{bad or 'none hurts'}[/yellow]"
    )


def _content(campaign: str, why: Why) -> dict[str, object]:
    """Return everything as JSON content."""
    return {
        "campaign": campaign,
        "explained": [
            {
                "candidate": one.candidate.id,
                "label": one.candidate.label,
                "trial": one.trial,
                "measured": one.measured,
                **asdict(one.explanation),
            }
            for one in why.explained
        ],
        "effects": None
        if why.effects is None
        else {
            "unit": why.effects.unit,
            "values": dict(why.effects.values),
            "counts": dict(why.effects.counts),
            "explained": why.effects.explained,
            "candidates": why.effects.candidates,
        },
    }
