"""The commands about what is in the lab: samples, resources, refill."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from flows.session import actor, opened, resolve, store_option

if TYPE_CHECKING:
    from orchestrator.record.samples import SampleInfo


@click.command()
@click.argument("campaign", required=False)
@click.option("--trial", type=int, help="Only this trial's.")
@store_option
def samples(*, campaign: str | None, trial: int | None, store: str | None) -> None:
    """Show the samples of a campaign: made of what, where, and what became of them."""
    with opened(store) as records:
        name = resolve(records, campaign)
        found = records.samples(name, trial=trial)
        if not found:
            click.echo(f"no step of {name} has worked on a sample yet")
            return
        for number in dict.fromkeys(one.trial for one in found):
            click.echo(f"trial {number}")
            mine = [one for one in found if one.trial == number]
            for one in mine:
                if not one.parents:
                    _tree(one, mine, 1)


def _tree(sample: SampleInfo, others: list[SampleInfo], depth: int) -> None:
    by = f", made by {sample.step}" if sample.step else ""
    place = f", at {sample.place}" if sample.place and sample.state in {"there", "suspect"} else ""
    why = next((f" ({fate.note})" for fate in sample.fates if fate.note), "")
    click.echo(f"{'  ' * depth}{sample.name}: {sample.state}{place}{by}{why}")
    for one in others:
        if one.parents and one.parents[0] == sample.name:  # of several parents, under the first
            _tree(one, others, depth + 1)


@click.command()
@store_option
def resources(*, store: str | None) -> None:
    """List the places and stocks of the lab, and who holds them."""
    with opened(store) as records:
        found = records.resources()
        for one in found:
            held = ", ".join(f"trial {number} of {name}" for name, number in one.holders)
            click.echo(str(one) + (f"; held by {held}" if held else ""))
        if not found:
            click.echo("no campaign of this database has used a resource; they stand in lab.yaml under 'resources'")


@click.command()
@click.argument("name")
@click.argument("amount")
@click.argument("unit", required=False)
@click.option("--by", "who", help="Your name, for the record; default: user@computer.")
@click.option("--reason", default="", help="What else should be known.")
@store_option
def refill(*, name: str, amount: str, unit: str | None, who: str | None, reason: str, store: str | None) -> None:
    """Say that a stock was refilled: matloop refill argon 20 L.

    A negative amount, after --, corrects what was counted wrongly. A campaign that waits for it goes on with resume.
    """
    try:
        number = float(amount)
    except ValueError as error:
        message = f"{amount!r} is no number; write the amount and its unit, such as: matloop refill {name} 20 L"
        raise click.BadParameter(message) from error
    with opened(store) as records:
        records.refill(name, number, unit, actor=who or actor(), reason=reason)
        click.echo(str(next(one for one in records.resources() if one.name == name)))
