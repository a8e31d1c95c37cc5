"""The command that says beforehand what a campaign file will take: simulate."""

from __future__ import annotations

from pathlib import Path

import click

from flows.session import lab_option


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--trials", type=click.IntRange(1, 1000), help="How many trials; default: the budget's, at most 24.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Also write a page with the chart.")
@lab_option
def simulate(*, file: Path, trials: int | None, out: Path | None, lab: Path | None) -> None:
    """Say how long the trials of a file will take, and where it is tight.

    From the durations that the instruments declare: makespan, use of each instrument, cost against the budget, a Gantt
    chart. No instrument is touched.
    """
    from orchestrator.config.check import check  # noqa: PLC0415  --help needs none of it
    from orchestrator.config.read import load_campaign  # noqa: PLC0415
    from orchestrator.errors import ConfigError  # noqa: PLC0415
    from orchestrator.report import outlook  # noqa: PLC0415

    loaded = load_campaign(file, lab=lab)
    if not loaded.config.procedure:
        message = "people measure this campaign: it has no procedure whose durations could be added up"
        raise ConfigError(message, file=str(file))
    found = outlook.outlook(loaded.config, loaded.lab, check(loaded).descriptions, trials=trials)
    for line in outlook.lines(found):
        click.echo(line)
    if out is not None:
        out.write_text(outlook.page(found), encoding="utf-8")
        click.echo(f"\nwritten to {out}")
