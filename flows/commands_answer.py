"""The command by which people answer what no program can find out: answer."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING

import click

from flows.given import given
from flows.session import actor, campaign_of, opened, resolve, split_target, store_option, who_option
from orchestrator.errors import StoreError

if TYPE_CHECKING:
    from orchestrator.campaign import Campaign
    from orchestrator.domain import Capability
    from orchestrator.execution.answers import Question
    from orchestrator.record.store import CampaignStore

ATTEMPT = re.compile(r"\d+")
NUMBER_OR_VALUE = re.compile(r"\d+|\w+\s*=.*", re.DOTALL)


@click.command()
@click.argument("arguments", metavar="[CAMPAIGN] [ATTEMPT] [PROPERTY=VALUE[UNIT]]...", nargs=-1)
@click.option("--not-started", is_flag=True, help="It was never carried out: the step is tried again.")
@click.option("--discard", is_flag=True, help="Nothing usable came of it: the trial has failed.")
@click.option("--reason", help="What you saw at the instrument; needed with an answer.")
@who_option
@store_option
def answer(
    *,
    arguments: tuple[str, ...],
    not_started: bool,
    discard: bool,
    reason: str | None,
    who: str | None,
    store: str | None,
) -> None:
    """Answer what no program can find out.

    After a crash it may be unknown whether an instrument carried out an order. Without an answer the questions are
    listed; look at the instrument or its log, then say one of three things:

    \b
    matloop answer 7 --not-started --reason "the furnace log has no such run"
    matloop answer 7 --discard     --reason "the crucible broke"
    matloop answer 7 strength=3.4MPa --reason "read from the tester's display"
    """  # noqa: D301  \b tells click to keep the lines
    campaign, rest = split_target(arguments, NUMBER_OR_VALUE)
    number = int(rest[0]) if rest and ATTEMPT.fullmatch(rest[0]) else None
    texts = rest[1:] if number is not None else rest
    answers = [not_started, discard, bool(texts)]
    if sum(answers) > 1:
        message = "one answer was expected: --not-started, --discard, or the values that were measured"
        raise click.UsageError(message)
    if any(answers) and not reason:
        message = "say with --reason what you saw at the instrument: it stands in the record beside your name"
        raise click.UsageError(message)
    with opened(store) as records:
        name = resolve(records, campaign)
        if not any(answers):
            _list(records, name)
            return
        question = _asked(records, name, number)
        _give(records, question, texts, not_started=not_started, who=who or actor(), reason=reason or "")
        click.echo(f"attempt {question.attempt} (trial {question.trial}, {question.label}) is answered")
        click.echo(f"go on: matloop resume {name}")


def _list(records: CampaignStore, name: str) -> None:
    from orchestrator.execution.answers import questions  # noqa: PLC0415  not needed by --help

    found = questions(records, name)
    for question in found:
        click.echo(f"attempt {question.attempt}: {question}")
    if not found:
        click.echo(f"{name} asks nothing")


def _asked(records: CampaignStore, name: str, number: int | None) -> Question:
    from orchestrator.execution.answers import questions  # noqa: PLC0415  not needed by --help

    found = questions(records, name)
    fitting = [question for question in found if number in (None, question.attempt)]
    if len(fitting) == 1:
        return fitting[0]
    numbers = ", ".join(str(question.attempt) for question in found) or "none"
    message = f"which attempt? Questions of {name!r} are about attempts {numbers}; 'matloop answer {name}' lists them"
    raise StoreError(message)


def _give(
    records: CampaignStore, question: Question, texts: tuple[str, ...], *, not_started: bool, who: str, reason: str
) -> None:
    from orchestrator.execution.answers import (  # noqa: PLC0415  not needed by --help
        answer_discard,
        answer_done,
        answer_not_started,
    )

    if not texts:
        say = answer_not_started if not_started else answer_discard
        say(records, question.attempt, who=who, reason=reason)
        return
    capability = asyncio.run(_capability(campaign_of(records, question.campaign), question))
    values = given(texts, {output.name: output.unit for output in capability.outputs})
    answer_done(records, question.attempt, values, capability=capability, who=who, reason=reason)


async def _capability(campaign: Campaign, question: Question) -> Capability:
    """Read what the step's instrument declares; no device is touched."""
    description = await campaign.instruments()[question.instrument].describe()
    step = next(step for step in campaign.config.procedure if step.step == question.step)
    return description.capability(step.capability)
