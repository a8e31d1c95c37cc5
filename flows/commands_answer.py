"""The commands by which people see what they are asked, and answer: questions, answer."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from flows.session import actor, opened, resolve, store_option, who_option

if TYPE_CHECKING:
    from flows.answering import Open


@click.command()
@click.argument("campaign", required=False)
@click.option("--json", "as_json", is_flag=True, help="Write JSON, for programs.")
@store_option
def questions(*, campaign: str | None, as_json: bool, store: str | None) -> None:
    """Show what people are asked, and which answers fit.

    Questions and task cards of one campaign, or of all that are not done.
    """
    from flows.answering import Desk, waiting  # noqa: PLC0415  not needed by --help

    with opened(store) as records:
        there = waiting(Desk(records), [resolve(records, campaign)] if campaign else None)
        if as_json:
            click.echo(json.dumps([one.to_json() for one in there], indent=1, default=str))
            return
        for one in there:
            _show(one)
        if not there:
            click.echo(f"{campaign} asks nothing" if campaign else "no campaign asks anything")


@click.command()
@click.argument("arguments", metavar="[CAMPAIGN] [QUESTION] [ANSWER] [PROPERTY=VALUE[UNIT]]...", nargs=-1)
@click.option("--not-started", is_flag=True, help="The same as the answer retry.")
@click.option("--discard", is_flag=True, help="The same as the answer discard.")
@click.option("--reason", default="", help="What you saw at the instrument; needed with an answer.")
@who_option
@store_option
def answer(
    *,
    arguments: tuple[str, ...],
    not_started: bool,
    discard: bool,
    reason: str,
    who: str | None,
    store: str | None,
) -> None:
    """Answer what no program can find out.

    Without an answer the questions are listed, each with the answers that fit. Look at the instrument or its log, then:

    \b
    matloop answer a7 retry    --reason "the furnace log has no such run"
    matloop answer a7 discard  --reason "the crucible broke"
    matloop answer a7 strength=3.4MPa --reason "read from the tester's display"
    matloop answer q3 approve  --reason "the hood is on"
    matloop answer t3fa9c1d2 strength=12.3MPa --who Ada

    ANSWER is one of retry, skip, done-by-hand (with values), discard, out-of-service, abort, approve, refuse.
    """  # noqa: D301  \b tells click to keep the lines
    from flows.answering import Desk, give, read, waiting  # noqa: PLC0415  not needed by --help

    with opened(store) as records:
        typed = read(arguments, [info.name for info in records.campaigns()])
        verbs = [
            *([typed.verb] if typed.verb else []),
            *(["retry"] if not_started else []),
            *(["discard"] if discard else []),
        ]
        if len(verbs) > 1 or ((not_started or discard) and typed.values):
            message = "one answer was expected; seen: " + ", ".join([*verbs, *typed.values])
            raise click.UsageError(message)
        name = resolve(records, typed.campaign)
        if not verbs and not typed.values:
            there = waiting(Desk(records), [name])
            for one in there:
                _show(one)
            if not there:
                click.echo(f"{name} asks nothing")
            return
        is_card = (typed.question or "").startswith("t")
        if not reason and not (is_card and typed.values):
            message = "say with --reason what you saw at the instrument: it stands in the record beside your name"
            raise click.UsageError(message)
        verb = verbs[0] if verbs else None
        click.echo(give(Desk(records), name, typed.question, verb, typed.values, who=who or actor(), reason=reason))
        click.echo(f"a campaign that runs goes on by itself; else: matloop resume {name}")


def _show(one: Open) -> None:
    click.secho(f"{one.id}  {one.campaign}  {one.instrument}".rstrip(), bold=True)
    click.echo(f"  {one.text}")
    width = max(len(verb) for verb in one.verbs)
    for verb, meaning in one.verbs.items():
        click.echo(f"  {verb.replace('_', '-'):<{width}}  {meaning}")
    verb = "done_by_hand" if one.values and "done_by_hand" in one.verbs else next(iter(one.verbs))
    click.echo(f"  {one.example(verb)}")
