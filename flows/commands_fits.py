"""Commands around stored fits: `matloop fits list|card|export`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from flows.session import campaign_of, lab_option, opened, resolve, store_option

if TYPE_CHECKING:
    from orchestrator.record.views import FitInfo


@click.group()
def fits() -> None:
    """List, describe and export the fits of campaigns."""


@fits.command("list")
@click.argument("campaign", required=False)
@store_option
def list_(*, campaign: str | None, store: str | None) -> None:
    """List the fits of a campaign, or of all."""
    from rich.console import Console  # noqa: PLC0415  not needed by --help
    from rich.table import Table  # noqa: PLC0415  the same

    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in (
        "id",
        "campaign",
        "fit",
        "surrogate",
        "labels",
        "held-out error",
        "90 % covers",
        "proposes",
        "parent",
    ):
        table.add_column(title, justify="right" if title in {"id", "fit", "labels", "parent"} else "left")
    with opened(store) as records:
        names = [resolve(records, campaign)] if campaign else sorted(info.name for info in records.campaigns())
        for name in names:
            for fit in records.fits(name):
                table.add_row(*_row(name, fit))
    if table.row_count:
        Console().print(table)
    else:
        click.echo("no fit yet; a campaign trains one once its initial trials are measured")


@fits.command("card")
@click.argument("fit", metavar="ID|FOLDER")
@click.option("--json", "as_json", is_flag=True, help="Write the card as JSON.")
@lab_option
@store_option
def card_(*, fit: str, as_json: bool, lab: Path | None, store: str | None) -> None:
    """Describe a fit: what it learned from, how good it is, what it is meant for.

    A fit is named by its id in 'matloop fits list', or by the folder of an exported one.
    """
    from orchestrator import fits as shelf  # noqa: PLC0415  NumPy and pydantic are not needed by --help

    if not fit.isdigit():
        content = shelf.read_card(Path(fit))
    else:
        with opened(store) as records:
            name, found = shelf.find(records, int(fit))
            content = shelf.card(campaign_of(records, name, lab), found)
    click.echo(json.dumps(content, indent=1, ensure_ascii=False) if as_json else shelf.readable(content))


@fits.command()
@click.argument("fit", metavar="ID", type=int)
@click.argument("folder", type=click.Path(path_type=Path))
@lab_option
@store_option
def export(*, fit: int, folder: Path, lab: Path | None, store: str | None) -> None:
    """Write a fit into a folder of its own, for another computer.

    There 'matloop predict POOL --fit-folder FOLDER' asks it.
    """
    from orchestrator import fits as shelf  # noqa: PLC0415  NumPy and pydantic are not needed by --help

    with opened(store) as records:
        name, found = shelf.find(records, fit)
        shelf.export(campaign_of(records, name, lab), found, folder)
    click.echo(f"fit {found.number} of {name} → {folder}")


def _row(name: str, fit: FitInfo) -> tuple[str, ...]:
    report = fit.report
    errors = [f"{key} {value['mae']:.3g}" for key, value in report.metrics.items() if "mae" in value]
    shares = [f"{value['0.9']:.0%}" for value in report.calibration.values() if "0.9" in value]
    texts = (fit.id, name, fit.number, fit.surrogate, report.labels, ", ".join(errors), ", ".join(shares))
    proposes = "yes" if report.promoted else "no"
    return (*map(str, texts), proposes, "–" if fit.parent is None else str(fit.parent))
