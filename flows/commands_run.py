"""Commands that run a campaign or change its course: run, resume, pause, stop, amend."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from flows.session import actor, campaign_of, is_file, lab_option, opened, resolve, store_option, who_option

if TYPE_CHECKING:
    from orchestrator.record.states import CampaignState

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
plain_option = click.option("--plain", is_flag=True, help="Run the same loop without Prefect: no server, no page.")


@click.command()
@click.argument("file", type=FILE)
@click.option("--name", help="Name of the campaign, instead of the one in the file.")
@plain_option
@lab_option
@store_option
def run(*, file: Path, name: str | None, lab: Path | None, store: str | None, plain: bool) -> None:
    """Begin the campaign of a file and run it.

    Ctrl-C finishes what runs and pauses the campaign; a second Ctrl-C leaves at once. Both are safe, and so is a power
    cut: 'matloop resume NAME' goes on where it was.
    """
    from flows.beginning import loaded_with, refuse_by_hand  # noqa: PLC0415  the same
    from flows.running import carry_on  # noqa: PLC0415  NumPy, rich and SQLAlchemy are not needed by --help
    from orchestrator.campaign import Campaign  # noqa: PLC0415  the same

    loaded = loaded_with(file, lab=lab, name=name)
    refuse_by_hand(loaded.config)
    with opened(store, create=True) as records:
        campaign = Campaign.begin(loaded, store=records, actor=actor())
        carry_on(campaign, where=store, plain=plain)


@click.command()
@click.argument("campaign", required=False, metavar="[NAME|FILE]")
@plain_option
@lab_option
@store_option
def resume(*, campaign: str | None, lab: Path | None, store: str | None, plain: bool) -> None:
    """Go on with a campaign.

    After a crash, a pause, a stop, or a question that was answered.

    With a FILE, it must still say what the campaign runs; 'matloop amend' adopts changes.
    """
    from flows.running import carry_on, wake  # noqa: PLC0415  NumPy, rich and SQLAlchemy are not needed by --help

    with opened(store) as records:
        found = campaign_of(records, campaign, lab)
        if wake(found):
            carry_on(found, where=store, plain=plain)


@click.command()
@click.argument("campaign", required=False)
@click.option("--reason", default="", help="For the record.")
@who_option
@store_option
def pause(*, campaign: str | None, reason: str, who: str | None, store: str | None) -> None:
    """Start nothing new until 'resume'; what runs is finished."""
    from orchestrator.record.states import CampaignState  # noqa: PLC0415  kept beside its like

    _halt(campaign, store, CampaignState.PAUSED, reason=reason, who=who)


@click.command()
@click.argument("campaign", required=False)
@click.option("--reason", default="", help="For the record.")
@who_option
@store_option
def stop(*, campaign: str | None, reason: str, who: str | None, store: str | None) -> None:
    """End a campaign.

    What runs is finished and recorded, nothing new starts. This is no emergency
    stop: what is dangerous has its own switch at the instrument.
    """
    from orchestrator.record.states import CampaignState  # noqa: PLC0415  kept beside its like

    _halt(campaign, store, CampaignState.STOPPED, reason=reason, who=who)


def _halt(campaign: str | None, store: str | None, state: CampaignState, *, reason: str, who: str | None) -> None:
    by = who or actor()
    with opened(store) as records:
        name = resolve(records, campaign)
        records.set_state(name, state, actor=by, reason=reason or f"by {by}")
        running = sum(trial.state.value == "RUNNING" for trial in records.trials(name))
    after = f"; {running} trial{'s' if running != 1 else ''} in flight will be finished" if running else ""
    click.echo(f"{name} is {state.value.lower()}{after} (go on: matloop resume {name})")


@click.command()
@click.argument("file", type=FILE)
@click.option("--name", help="Campaign to amend, if it is not called as the file says.")
@lab_option
@who_option
@store_option
def amend(*, file: Path, name: str | None, lab: Path | None, who: str | None, store: str | None) -> None:
    """Adopt a changed campaign file.

    It becomes a new revision. Budget, stopping rules, parallel, instruments, space, surrogate and policy may change;
    what a recorded property means may not.
    """
    with opened(store) as records:
        found = campaign_of(records, name or resolve(records, str(file) if is_file(str(file)) else f"./{file}"))
        changed = found.amend(file, actor=who or actor(), lab=lab)
        if not changed:
            click.echo(f"{found.name}: the file says what revision {found.info.revision} says already")
            return
        click.echo(f"{found.name}: revision {found.info.revision}")
        for line in changed:
            click.echo(f"  {line}")
        click.echo(f"go on: matloop {'ask' if found.by_hand else 'resume'} {found.name}")
