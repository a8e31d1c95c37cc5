"""Commands around campaign files: validate, plugins."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from flows.session import lab_option
from orchestrator.errors import MatloopError


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@lab_option
def validate(*, files: tuple[Path, ...], lab: Path | None) -> None:
    """Check campaign files without touching an instrument."""
    from flows.summary import summary  # noqa: PLC0415  not needed by --help
    from orchestrator.config.check import check  # noqa: PLC0415  builds plug-ins
    from orchestrator.config.read import load_campaign  # noqa: PLC0415  the same

    wrong = 0
    for file in files:
        try:
            loaded = load_campaign(file, lab=lab)
            checked = check(loaded)
        except MatloopError as error:
            if len(files) == 1:
                raise
            wrong += 1
            click.echo(str(error), err=True)
            continue
        click.echo(f"{file}: good")
        for line in summary(loaded, checked):
            click.echo(f"  {line}")
        for notice in checked.notices:
            click.echo(f"  note: {notice}")
    if wrong:
        click.echo(f"{wrong} of {len(files)} files are wrong", err=True)
        sys.exit(2)


@click.command()
@click.argument("kind", required=False)
def plugins(*, kind: str | None) -> None:
    """List what campaign and lab files can use."""
    from rich.console import Console  # noqa: PLC0415  not needed by --help
    from rich.table import Table  # noqa: PLC0415  the same

    from orchestrator import plugins as door  # noqa: PLC0415  pydantic is not needed by --help
    from orchestrator.protocols import PROTOCOLS  # noqa: PLC0415  the same

    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("kind", "name", "class", "package"):
        table.add_column(title, overflow="fold")
    for each in (kind,) if kind else PROTOCOLS:
        for listing in door.available(each).values():
            table.add_row(listing.kind, listing.name, listing.path, f"{listing.distribution} {listing.version}")
    Console().print(table)
