"""The command that back-tests a campaign file on known data."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from flows.session import opened, store_option
from orchestrator.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

    from orchestrator.replay import Score

PLOTS = (".png", ".svg")
FILE = click.Path(dir_okay=False, path_type=Path)


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--data", type=click.Path(exists=True, path_type=Path), help="Table instead of the one in the file.")
@click.option("--seeds", default=3, show_default=True, type=click.IntRange(1, 1000), help="Campaigns per arm.")
@click.option(
    "--against",
    default="random,greedy",
    show_default=True,
    help="Arms, by comma: POLICY, POLICY+SURROGATE, +SURROGATE, or no-transfer.",
)
@click.option(
    "--share", default=0.01, show_default=True, type=click.FloatRange(0, 1, min_open=True), help="Best share."
)
@click.option("--direction", type=click.Choice(["maximize", "minimize"]), help="Instead of the first objective's goal.")
@click.option(
    "--until", "recall", type=click.FloatRange(0, 1, min_open=True), help="End a campaign when so much of it is found."
)
@click.option("--json", "rows", type=FILE, help="Also write the figures to a file.")
@click.option("--plot", type=FILE, help="Also draw the curves, as .png or .svg.")
@click.option("--out", "-o", "page", type=FILE, help="Also write one HTML page with everything.")
@store_option
def replay(  # noqa: PLR0917  click passes by name
    file: Path,
    data: Path | None,
    seeds: int,
    against: str,
    share: float,
    direction: Literal["maximize", "minimize"] | None,
    recall: float | None,
    rows: Path | None,
    plot: Path | None,
    page: Path | None,
    store: str | None,
) -> None:
    """Back-test a campaign file on known data."""
    from rich.console import Console  # noqa: PLC0415  not needed by --help

    from orchestrator import replay as back_test  # noqa: PLC0415  imports the learning rooms
    from orchestrator.config.read import load_campaign  # noqa: PLC0415  the same

    console = Console()
    arms = tuple(dict.fromkeys(name.strip() for name in against.split(",") if name.strip()))
    _check_places(rows, plot, page)
    with ExitStack() as kept, console.status("reading the data") as line:
        records = kept.enter_context(opened(store)) if load_campaign(file).config.earlier else None
        scores = back_test.replay(
            file,
            data=data,
            seeds=range(seeds),
            against=arms,
            share=share,
            direction=direction,
            recall=recall,
            store=records,
            progress=lambda arm, seed: line.update(f"{arm}, seed {seed}"),
        )
    _tell(console, scores, _asked(file, seeds, share, recall, scores[0]))
    command = _command(file, data, seeds, against, share, direction, recall)
    if rows is not None:
        content = back_test.as_json(scores, work=f"replay of {file.name}", command=command)
        rows.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    if plot is not None:
        plot.write_bytes(back_test.draw_plot(scores, plot.suffix.removeprefix(".")))
    if page is not None:
        asked = _asked(file, seeds, share, recall, scores[0])
        back_test.write_page(scores, page, title=file.stem, asked=asked, command=command)
        console.print(f"\npage: {page}")


def _check_places(rows: Path | None, plot: Path | None, page: Path | None) -> None:
    """Refuse places that cannot be written before hours are spent.

    Raises:
        ConfigError: a folder does not exist, or a plot has another ending.
    """
    for option, path in (("--json", rows), ("--plot", plot), ("--out", page)):
        if path is not None and not path.parent.is_dir():
            message = f"the folder {path.parent} does not exist; make it, or give {option} another place"
            raise ConfigError(message)
    if plot is not None and plot.suffix not in PLOTS:
        message = f"a plot is drawn as {' or '.join(PLOTS)}, not {plot.suffix!r}; give --plot another ending"
        raise ConfigError(message)


def _asked(file: Path, seeds: int, share: float, recall: float | None, own: Score) -> str:
    """Say in a sentence what was compared."""
    what = f"the best {share:.3g} of the pool" if share < 0.01 else f"the best {share:.0%} of the pool"  # noqa: PLR2004
    goal = f"to find {what}" if own.recall else "to know the pool"
    end = f", until {recall:.0%} of it is found" if recall is not None and own.recall else ""
    many = f"{seeds} campaigns an arm" if seeds > 1 else "one campaign an arm"
    return f"{file.name} against what else could have chosen, {goal}{end}: {many} of up to {max(own.measured)} trials."


def _command(  # noqa: PLR0917  the options of the command
    file: Path,
    data: Path | None,
    seeds: int,
    against: str,
    share: float,
    direction: str | None,
    recall: float | None,
) -> str:
    parts = [f"matloop replay {file.name}"]
    parts += [f"--data {data.name}"] if data else []
    parts += [f"--seeds {seeds}", f"--against {against}", f"--share {share:g}"]
    parts += [f"--direction {direction}"] if direction else []
    parts += [f"--until {recall:g}"] if recall is not None else []
    return " ".join(parts)


def _tell(console: Console, scores: Sequence[Score], asked: str) -> None:
    """Print what each arm reached, and how the others differ from the campaign's own."""
    from rich.table import Table  # noqa: PLC0415  not needed by --help

    from orchestrator.replay.page import differences, table_of  # noqa: PLC0415  the same

    console.print(f"[bold]{asked}[/]")
    note = "median of the campaigns, (90 % bootstrap interval)" if len(scores[0].measured) > 1 else ""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("", no_wrap=True)
    for one in scores:
        table.add_column(one.arm, justify="right")
    for row in table_of(scores):
        table.add_row(*row)
    console.print(table)
    if note:
        console.print(f"[dim]{note}[/]")
    apart = [row for row in differences(scores) if row[3] in {"better", "worse"}]
    if apart and len(scores[0].measured) > 1:
        console.print(f"\n[bold]against {scores[0].arm}, seed by seed[/] (where the interval leaves out zero)")
        colors = {"better": "green", "worse": "red"}
        grid = Table(box=None, pad_edge=False, show_header=False)
        for arm, metric, told, verdict in apart:
            grid.add_row(arm, metric, told, f"[{colors[verdict]}]{verdict}[/]")
        console.print(grid)
