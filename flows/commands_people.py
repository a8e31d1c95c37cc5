"""Commands by which people take part: ask, tell, veto, answer."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flows.given import given
from flows.session import (
    actor,
    campaign_of,
    is_file,
    lab_option,
    opened,
    resolve,
    split_target,
    store_option,
    who_option,
)
from orchestrator.errors import StoreError

if TYPE_CHECKING:
    from orchestrator.campaign import Campaign
    from orchestrator.domain import Candidate
    from orchestrator.record.store import CampaignStore
    from orchestrator.record.views import TrialInfo

TRIAL = re.compile(r"\d+")


@click.command()
@click.argument("campaign", required=False, metavar="[NAME|FILE]")
@click.option("-n", "count", default=1, show_default=True, type=click.IntRange(1, 1000), help="How many.")
@click.option("--json", "as_json", is_flag=True, help="Write JSON, for programs.")
@lab_option
@store_option
def ask(*, campaign: str | None, count: int, lab: Path | None, store: str | None, as_json: bool) -> None:
    """Ask what to measure next; the answer goes in with 'tell'.

    With a FILE whose campaign does not exist yet, the campaign is begun. What was asked before and is not told yet
    comes first.
    """
    with opened(store, create=campaign is not None and is_file(campaign)) as records:
        found = _found_or_begun(records, campaign, lab)
        if not found.by_hand:
            message = f"campaign {found.name!r} has a procedure: instruments measure it, with 'matloop run' or 'resume'"
            raise StoreError(message)
        trials = found.ask(count)
        if as_json:
            content = [
                {"trial": t.number, "fidelity": t.fidelity, **t.candidate.to_json(), "reason": t.proposal.reason}
                for t in trials
            ]
            click.echo(json.dumps(content, indent=1))
            return
        for trial in trials:
            click.echo("\n".join(_card(found, trial)))
        if not trials:
            click.echo(f"nothing to ask: {found.stop_reason() or 'nothing is left in the space'}")


def _found_or_begun(records: CampaignStore, campaign: str | None, lab: Path | None) -> Campaign:
    from flows.beginning import loaded_with  # noqa: PLC0415  not needed by --help
    from orchestrator.campaign import Campaign  # noqa: PLC0415  the same

    if campaign is not None and is_file(campaign):
        name = resolve(records, campaign)
        if name not in {info.name for info in records.campaigns()}:
            begun = Campaign.begin(loaded_with(campaign, lab=lab), store=records, actor=actor())
            click.echo(f"begun: campaign {name} in {records.url}", err=True)
            return begun
    return campaign_of(records, campaign, lab)


def _card(campaign: Campaign, trial: TrialInfo) -> list[str]:
    from orchestrator.protocols import BoxSpace  # noqa: PLC0415  not needed by --help

    space = campaign.planner.parts.space
    units = {axis.name: axis.unit for axis in space.axes()} if isinstance(space, BoxSpace) else {}
    candidate = trial.candidate
    lines = [click.style(f"trial {trial.number}  {candidate.label}", bold=True)]
    if candidate.composition and candidate.composition != candidate.label:
        lines.append(f"  composition = {candidate.composition}")
    for name, value in candidate.parameters.items():
        unit = units.get(name, "").replace("dimensionless", "")
        lines.append(
            f"  {name} = {value:g} {unit}".rstrip() if isinstance(value, (int, float)) else f"  {name} = {value}"
        )
    if campaign.config.fidelities:
        lines.append(f"  fidelity = {trial.fidelity}")
    lines.append(f"  why: {trial.proposal.reason}")
    wanted = " ".join(f"'{o}=VALUE {campaign.problem.units[o]}'" for o in campaign.problem.properties)
    wanted = wanted.replace(" dimensionless", "")
    lines.append(f"  tell: matloop tell {campaign.name} {trial.number} {wanted}")
    return lines


@click.command()
@click.argument("arguments", metavar="[CAMPAIGN] TRIAL PROPERTY=VALUE[UNIT]...", nargs=-1, required=True)
@click.option("--failed", metavar="REASON", help="The trial gave no result, and why: that is evidence too.")
@who_option
@store_option
def tell(*, arguments: tuple[str, ...], failed: str | None, who: str | None, store: str | None) -> None:
    """Record what you measured for a trial.

    \b
    matloop tell 12 strength=3.4MPa 'temperature=610 degC'
    matloop tell 12 --failed "the pellet cracked"

    A value without a unit is in the objective's own unit.
    """  # noqa: D301  \b tells click to keep the lines
    campaign, rest = split_target(arguments, TRIAL)
    if not rest or TRIAL.fullmatch(rest[0]) is None:
        message = f"a trial number was expected, as in 'matloop tell 12 strength=3.4MPa'; seen: {' '.join(arguments)}"
        raise click.UsageError(message)
    if (failed is not None) == (len(rest) > 1):
        message = "give PROPERTY=VALUE for what was measured, or --failed REASON; one of the two"
        raise click.UsageError(message)
    number, by = int(rest[0]), who or actor()
    with opened(store) as records:
        found = campaign_of(records, campaign)
        if failed is not None:
            found.tell_failed(number, who=by, reason=failed)
            click.echo(f"trial {number} of {found.name} failed: {failed} (recorded by {by})")
            return
        values = given(rest[1:], found.problem.units)
        found.tell(number, values, who=by)
        told = ", ".join(f"{name} = {quantity}" for name, quantity in values.items())
        click.echo(f"trial {number} of {found.name}: {told} (recorded by {by})")


@click.command()
@click.argument("arguments", metavar="[CAMPAIGN] CANDIDATE", nargs=-1, required=True)
@click.option("--reason", required=True, help="Why it must not be made or measured.")
@who_option
@store_option
def veto(*, arguments: tuple[str, ...], reason: str, who: str | None, store: str | None) -> None:
    """Take a candidate out.

    It is never proposed again, and a planned trial of it is cancelled.
    CANDIDATE is its id, the first digits of it, or its label.
    """
    if len(arguments) > 2:  # noqa: PLR2004  a campaign and a candidate
        message = f"one candidate was expected, and perhaps a campaign before it; seen: {' '.join(arguments)}"
        raise click.UsageError(message)
    campaign = arguments[0] if len(arguments) > 1 else None
    with opened(store) as records:
        found = campaign_of(records, campaign)
        candidate = _candidate(found, arguments[-1])
        records.veto(found.name, candidate.id, actor=who or actor(), reason=reason)
        click.echo(f"{candidate.label} ({candidate.id[:12]}) will not be proposed by {found.name}: {reason}")


def _candidate(campaign: Campaign, text: str) -> Candidate:
    from orchestrator.protocols import FiniteSpace  # noqa: PLC0415  not needed by --help

    known = {trial.candidate.id: trial.candidate for trial in campaign.store.trials(campaign.name)}
    found = _matching(known.values(), text)
    space: Any = campaign.planner.parts.space if not found else None
    if isinstance(space, FiniteSpace):
        found = _matching(space.candidates(), text)
    if len(found) == 1:
        return found[0]
    if not found:
        message = f"no candidate of {campaign.name!r} has the id or label {text!r}"
        raise StoreError(message)
    shown = ", ".join(f"{c.label} {c.id[:12]}" for c in found[:5])
    message = f"{text!r} fits {len(found)} candidates ({shown} …); give more digits of the id"
    raise StoreError(message)


def _matching(candidates: Any, text: str) -> list[Candidate]:
    exact = [c for c in candidates if text in (c.id, c.label)]
    hexadecimal = re.fullmatch(r"[0-9a-f]{6,64}", text) is not None
    return exact or ([c for c in candidates if c.id.startswith(text)] if hexadecimal else [])
