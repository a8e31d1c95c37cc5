"""The command by which people take instruments out of service and bring them back: service."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from flows.session import actor, opened, resolve, store_option, who_option
from orchestrator.errors import StoreError

if TYPE_CHECKING:
    from orchestrator.record.service import OutOfService


@click.command()
@click.argument("instrument", required=False)
@click.argument("state", required=False, type=click.Choice(["in", "out"]))
@click.option("--campaign", help="Campaign; default: all to look at; the only one, or MATLOOP_CAMPAIGN, to change.")
@click.option("--reason", help="What you saw or did; needed with 'in' and 'out'.")
@who_option
@store_option
def service(
    *,
    instrument: str | None,
    state: str | None,
    campaign: str | None,
    reason: str | None,
    who: str | None,
    store: str | None,
) -> None:
    """Say which instruments are OUT OF SERVICE, take one out, or bring it back.

    \b
    matloop service
    matloop service furnace_1 out --reason "the door does not close"
    matloop service furnace_1 in  --reason "new heater, tested at 800 degC"

    An instrument of the lab file is out for all campaigns of the database. A running campaign takes note by itself.
    """  # noqa: D301  \b tells click to keep the lines
    with opened(store) as records:
        if instrument is None:
            names = [resolve(records, campaign)] if campaign else [info.name for info in records.campaigns()]
            lines = dict.fromkeys(_line(out) for name in names for out in records.out_of_service(name).values())
            click.echo("\n".join(lines) or "every instrument is in service")
            return
        name = resolve(records, campaign)
        if state is None or not reason or not reason.strip():
            message = "say 'in' or 'out', and --reason: what you saw or did at the instrument"
            raise click.UsageError(message)
        person = who or actor()
        known = _known(records.campaign(name).config) | set(records.out_of_service(name))
        known |= {attempt.instrument for attempt in records.attempts(name)}
        if state == "out":
            records.take_out_of_service(name, instrument, cause="person", reason=reason, actor=person)
        elif not records.return_to_service(name, instrument, reason=reason, actor=person):
            there = ", ".join(sorted(records.out_of_service(name))) or "none"
            message = f"{instrument!r} is in service; out of service are: {there}"
            raise StoreError(message)
        unknown = "" if instrument in known else f" (no campaign has used an instrument {instrument!r} so far)"
        click.echo(f"{instrument} is {'OUT OF SERVICE' if state == 'out' else 'in service'}{unknown}")


def _line(out: OutOfService) -> str:
    since = datetime.fromtimestamp(out.since / 1e6, UTC).strftime("%Y-%m-%d %H:%M UTC")
    return f"{out.instrument}: OUT OF SERVICE since {since}, by {out.by} ({out.cause}): {out.reason}"


def _known(config: Mapping[str, Any]) -> set[str]:
    return {str(step["instrument"]) for step in config.get("procedure", ())}
