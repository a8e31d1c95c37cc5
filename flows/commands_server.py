"""Commands for the Prefect server: up, down."""

from __future__ import annotations

from pathlib import Path

import click

from flows.session import store_option


@click.command()
@click.option(
    "--campaigns",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=None,
    help="Folder whose campaign files the form offers; default: 'campaigns' here, else this folder.",
)
@click.option("--at-once", default=2, show_default=True, type=click.IntRange(1, 64), help="Campaigns that may run.")
@store_option
def up(*, campaigns: Path | None, at_once: int, store: str | None) -> None:
    """Serve a form that starts campaigns.

    It stands on the Prefect page, under Deployments, until Ctrl-C.
    The server itself stays; 'matloop down' ends it.
    """
    from flows.serving import serve  # noqa: PLC0415  not needed by --help

    folder = campaigns or (Path("campaigns") if Path("campaigns").is_dir() else Path())
    serve(folder.resolve(), at_once=at_once, store=store)


@click.command()
def down() -> None:
    """Stop the Prefect server that Matloop started."""
    from flows.server import stop_server  # noqa: PLC0415  not needed by --help

    pid = stop_server()
    click.echo("no server of Matloop runs" if pid is None else f"stopped the Prefect server (process {pid})")
