"""Commands around campaign files: validate, plugins, replay."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from flows.session import lab_option
from orchestrator.errors import ConfigError, MatloopError

if TYPE_CHECKING:
    from rich.console import Console

    from orchestrator.replay import Interval, Score


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


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--data", type=click.Path(exists=True, path_type=Path), help="Table instead of the one in the file.")
@click.option("--seeds", default=3, show_default=True, type=click.IntRange(1, 1000), help="Campaigns per arm.")
@click.option("--against", default="random,greedy", show_default=True, help="Policies to compare with, by comma.")
@click.option(
    "--share", default=0.01, show_default=True, type=click.FloatRange(0, 1, min_open=True), help="Best share."
)
@click.option("--json", "out", type=click.Path(dir_okay=False, path_type=Path), help="Also write the rows to a file.")
def replay(*, file: Path, data: Path | None, seeds: int, against: str, share: float, out: Path | None) -> None:
    """Back-test a campaign file on known data."""
    from rich.console import Console  # noqa: PLC0415  not needed by --help

    from orchestrator import replay as back_test  # noqa: PLC0415  imports the learning rooms

    console = Console()
    arms = tuple(name.strip() for name in against.split(",") if name.strip())
    if out is not None and not out.parent.is_dir():
        message = f"the folder {out.parent} does not exist; make it, or give --json another place"
        raise ConfigError(message)
    with console.status("reading the data") as line:
        scores = back_test.replay(
            file,
            data=data,
            seeds=range(seeds),
            against=arms,
            share=share,
            progress=lambda arm, seed: line.update(f"{arm}, seed {seed}"),
        )
    count = f", median of {seeds} campaigns (90 % interval)" if seeds > 1 else ""
    console.print(f"[bold]recall of the best {share:.0%}[/]{count}")
    _scores(console, scores, {f"after {mark}": [s.recall[mark] for s in scores] for mark in scores[0].recall})
    last = list(scores[0].enhancement)[-1]
    console.print("\n[bold]against random choice[/]: as many finds with fewer trials, more finds with as many")
    columns = {f"acceleration to {level}": level for level in ("20%", "50%", "80%")}
    factors = {head: [s.acceleration.get(level) for s in scores] for head, level in columns.items()}
    _scores(console, scores, {**factors, f"enhancement at {last}": [s.enhancement[last] for s in scores]})
    console.print("\nseconds of training and choosing: " + ", ".join(f"{s.arm} {s.seconds:.1f}" for s in scores))
    if out is not None:
        command = f"matloop replay {file.name} --seeds {seeds} --against {against}"
        content = back_test.as_json(scores, work=f"replay of {file.name}", command=command)
        out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _scores(console: Console, scores: Sequence[Score], columns: Mapping[str, Sequence[Interval | None]]) -> None:
    """Print a line an arm; an interval where there are several seeds, a dash where an arm did not get there."""
    from rich.table import Table  # noqa: PLC0415  not needed by --help

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("arm")
    for head in columns:
        table.add_column(head, justify="right")
    for i, score in enumerate(scores):
        table.add_row(score.arm, *(_cell(column[i]) for column in columns.values()))
    console.print(table)


def _cell(told: Interval | None) -> str:
    if told is None:
        return "–"
    return f"{told.median:.2f}" + (f"\n({told.low:.2f}–{told.high:.2f})" if told.low != told.high else "")
