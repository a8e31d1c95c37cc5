"""Commands that look: status, why, report, export."""

from __future__ import annotations

import json
import re
import time
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING

import click

from flows.session import campaign_of, opened, resolve, split_target, store_option
from orchestrator.errors import StoreError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from orchestrator.record.store import CampaignStore

TRIAL = re.compile(r"\d+")
REFRESH_S = 1.0
FILE = click.Path(dir_okay=False, path_type=Path)


@click.command()
@click.argument("campaign", required=False)
@click.option("--watch", "-w", is_flag=True, help="Keep the view up to date until Ctrl-C.")
@store_option
def status(*, campaign: str | None, store: str | None, watch: bool) -> None:
    """Show every campaign, or one in detail."""
    from rich.console import Console  # noqa: PLC0415  not needed by --help
    from rich.live import Live  # noqa: PLC0415  the same

    console = Console()
    with opened(store) as records:
        name = resolve(records, campaign) if campaign else None
        if not watch:
            console.print(_status(records, name))
            return
        with Live(_status(records, name), console=console, auto_refresh=False, screen=console.is_terminal) as live:
            try:
                while True:
                    time.sleep(REFRESH_S)
                    live.update(_status(records, name), refresh=True)
            except KeyboardInterrupt:
                pass  # the way to end a watch
        console.print(_status(records, name))


def _status(records: CampaignStore, name: str | None) -> RenderableType:
    from flows.overview import Overview  # noqa: PLC0415  NumPy is not needed by --help
    from flows.screen import campaign_view, campaigns_table  # noqa: PLC0415  the same

    if name is not None:
        return campaign_view(Overview.of(records, name))
    infos = sorted(records.campaigns(), key=lambda info: info.created_at)
    if not infos:
        return "no campaign yet; begin one with: matloop run FILE"
    if len(infos) == 1:
        return campaign_view(Overview.of(records, infos[0].name))
    return campaigns_table([Overview.of(records, info.name) for info in infos])


@click.command()
@click.argument("arguments", metavar="[CAMPAIGN] TRIAL", nargs=-1, required=True)
@click.option("--json", "as_json", is_flag=True, help="As JSON, everything in full.")
@store_option
def why(*, arguments: tuple[str, ...], as_json: bool, store: str | None) -> None:
    """Say why a trial was chosen, and what came of it."""
    campaign, rest = split_target(arguments, TRIAL)
    if len(rest) != 1 or TRIAL.fullmatch(rest[0]) is None:
        message = f"one trial number was expected, as 'matloop why 12' or 'matloop why NAME 12'; seen: {arguments}"
        raise click.UsageError(message)
    from rich.console import Console  # noqa: PLC0415  not needed by --help

    from flows.story import shown, told  # noqa: PLC0415  NumPy is not needed by --help

    with opened(store) as records:
        content = told(records, resolve(records, campaign), int(rest[0]))
    if as_json:
        click.echo(json.dumps(content, indent=1, default=str))
    else:
        Console().print(shown(content))


@click.command()
@click.argument("campaign", required=False)
@click.option("--out", "-o", type=click.Path(path_type=Path), help="Where to write; default: NAME-report.html here.")
@click.option("--open", "show", is_flag=True, help="Open it in the browser.")
@store_option
def report(*, campaign: str | None, out: Path | None, store: str | None, show: bool) -> None:
    """Write the report of a campaign, one HTML file."""
    from orchestrator.report.page import write_report  # noqa: PLC0415  matplotlib is slow to import

    with opened(store) as records:
        found = campaign_of(records, campaign)
        path = write_report(found, out or Path(f"{found.name}-report.html"))
    click.echo(f"report: {path}")
    if show:
        webbrowser.open(path.absolute().as_uri())


@click.command()
@click.argument("campaign", required=False)
@click.option("--csv", type=FILE, help="Write one line a trial.")
@click.option("--bluesky", type=FILE, help="Write bluesky documents, one JSON line each.")
@click.option("--force", is_flag=True, help="Replace a file that exists.")
@store_option
def export(*, campaign: str | None, csv: Path | None, bluesky: Path | None, store: str | None, force: bool) -> None:
    """Write the trials to a file, for a spreadsheet or for the tools of beam lines."""
    out = csv or bluesky
    if out is None or (csv and bluesky):
        message = "give --csv FILE or --bluesky FILE"
        raise click.UsageError(message)
    if out.exists() and not force:
        message = f"{out} exists; give another name, or --force to replace it"
        raise StoreError(message)
    with opened(store) as records:
        name = resolve(records, campaign)
        lines = records.export_csv(name, out) if csv else records.export_bluesky(name, out)
    click.echo(f"{lines} trials of {name} → {out}")
