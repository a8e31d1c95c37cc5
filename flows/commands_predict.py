"""`matloop predict`: ask a fit about a whole pool."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from flows.session import campaign_of, is_file, lab_option, opened, resolve, store_option
from orchestrator.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator.fits import Recipe
    from orchestrator.materials.streams import Columns
    from orchestrator.screening.parts import Report
    from orchestrator.screening.screen import Pool


@click.command()
@click.argument("pool", metavar="[FILE|FOLDER]", required=False, type=click.Path(path_type=Path))
@click.option("--campaign", help="Ask the fit that proposes in this campaign, updated to all its results.")
@click.option("--fit", "fit_id", type=int, metavar="ID", help="Ask this fit of 'matloop fits list', as it was trained.")
@click.option("--fit-folder", type=click.Path(exists=True, file_okay=False, path_type=Path), help="An exported fit.")
@click.option("--out", "-o", required=True, type=click.Path(dir_okay=False, path_type=Path), help=".csv or .parquet.")
@click.option("--top", default=10, show_default=True, type=click.IntRange(0, 10_000), help="Show so many of the best.")
@click.option(
    "--interval",
    default=0.9,
    show_default=True,
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help="Share of measurements that the intervals are to contain.",
)
@click.option("--chunk", default=1000, show_default=True, type=click.IntRange(1), help="Rows committed together.")
@click.option("--workers", default=1, show_default=True, type=click.IntRange(1, 256), help="Processes.")
@click.option("--most-atoms", default=500, show_default=True, type=click.IntRange(1), help="Larger cells are refused.")
@click.option("--structure-column", help="Column of a table with CIF texts or JSON structures.")
@click.option("--formula-column", help="Column of a table with formulas.")
@click.option("--id-column", help="Column of a table with ids.")
@click.option("--resume/--no-resume", default=True, show_default=True, help="Go on with what was begun.")
@click.option("--force", is_flag=True, help="Replace a file that exists.")
@lab_option
@store_option
def predict(
    *,
    pool: Path | None,
    campaign: str | None,
    fit_id: int | None,
    fit_folder: Path | None,
    out: Path,
    top: int,
    interval: float,
    chunk: int,
    workers: int,
    most_atoms: int,
    structure_column: str | None,
    formula_column: str | None,
    id_column: str | None,
    resume: bool,
    force: bool,
    lab: Path | None,
    store: str | None,
) -> None:
    """Predict every entry of a pool, of any size.

    The pool is a CIF, a folder, zip or tar file of CIFs, JSON lines (.jsonl) or JSON of structures, extended XYZ, a CSV
    or Parquet table, an ASE database, or a campaign file, which means its search space. Without a pool the search space
    of --campaign is meant.

    Each row has the mean, its standard deviation (from not knowing, from noise), an interval, how far the entry lies
    outside what was learned from (above 1 is an extrapolation), or the reason why there is no prediction. A screening
    that was cut off goes on when the same command is given again.
    """
    given = [option for option in (campaign, fit_id, fit_folder) if option is not None]
    if len(given) != 1:
        message = "say which fit is asked: one of --campaign NAME, --fit ID and --fit-folder FOLDER"
        raise click.UsageError(message)
    if pool is None and campaign is None:
        message = "name a pool to predict; without one, --campaign NAME is needed, whose search space is then meant"
        raise click.UsageError(message)
    if not out.parent.is_dir():
        message = f"the folder {out.parent} does not exist; make it, or give --out another place"
        raise ConfigError(message)
    # A manifest beside it means: joined, and killed before the parts were cleared away.
    if out.exists() and not force and not out.with_name(f"{out.name}.parts").joinpath("manifest.json").exists():
        message = f"{out} exists; give another name, or --force to replace it"
        raise ConfigError(message)
    from orchestrator.materials.streams import Columns  # noqa: PLC0415  pymatgen is not needed by --help
    from orchestrator.screening.screen import screen  # noqa: PLC0415  the same
    from orchestrator.screening.workers import Settings  # noqa: PLC0415  the same

    recipe, space = _recipe(campaign, fit_id, fit_folder, lab, store)
    source = _pool(pool, space, Columns(structure_column, formula_column, id_column), lab)
    with _progress(source.title) as progress:
        report = screen(
            recipe,
            source,
            out,
            Settings(level=interval, chunk=chunk, most_atoms=most_atoms),
            workers=workers,
            resume=resume,
            top=top,
            progress=progress,
        )
    _show(report, recipe, out)


def _recipe(
    campaign: str | None, fit_id: int | None, folder: Path | None, lab: Path | None, store: str | None
) -> tuple[Recipe, Pool | None]:
    """Find the fit; and the search space of its campaign, where a campaign was named."""
    from orchestrator import fits  # noqa: PLC0415  NumPy and pydantic are not needed by --help
    from orchestrator.config.read import load_lab  # noqa: PLC0415  the same
    from orchestrator.screening.spaces import pool_of_space  # noqa: PLC0415  the same

    if folder is not None:
        return fits.of_folder(folder, load_lab(lab).allowed_modules if lab else ()), None
    with opened(store) as records:
        if fit_id is not None:
            name, fit = fits.find(records, fit_id)
        else:
            name = resolve(records, campaign)
            fit = fits.newest(records, name)
        found = campaign_of(records, name, lab)
        recipe = fits.of_campaign(found, fit, where=store, updated=fit_id is None)
        return recipe, pool_of_space(found.config, found.base, found.lab.allowed_modules) if campaign else None


def _pool(path: Path | None, space: Pool | None, columns: Columns, lab: Path | None) -> Pool:
    from orchestrator.config.read import load_campaign  # noqa: PLC0415  not needed by --help
    from orchestrator.screening.spaces import pool_of_file, pool_of_space  # noqa: PLC0415  the same

    if path is None:
        assert space is not None  # noqa: S101  the caller has refused that
        return space
    if is_file(path.name):
        loaded = load_campaign(path, lab=lab)
        return pool_of_space(loaded.config, loaded.base, loaded.lab.allowed_modules)
    return pool_of_file(path, columns)


@contextmanager
def _progress(title: str) -> Iterator[Callable[[int, float], None]]:
    """Show what is done, how fast, and what is left; nothing where nobody watches."""
    from rich.console import Console  # noqa: PLC0415  not needed by --help
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn  # noqa: PLC0415

    console = Console(stderr=True)
    shown = [
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[rows]:,} rows, {task.fields[speed]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    ]
    with Progress(*shown, console=console, disable=not console.is_terminal) as bar:
        job = bar.add_task(title, total=1.0, rows=0, speed="loading the fit")
        first: list[int] = []

        def show(rows: int, share: float) -> None:
            first.append(rows) if not first else None
            elapsed = bar.tasks[0].elapsed or 0.0
            speed = f"{(rows - first[0]) / elapsed:,.0f}/s" if elapsed > 0 and rows > first[0] else "…"
            known = 0.0 if math.isnan(share) else share  # not every form of pool can say how long it is
            bar.update(job, completed=max(bar.tasks[0].completed, known), rows=rows, speed=speed)

        yield show


def _show(report: Report, recipe: Recipe, out: Path) -> None:
    from rich.console import Console  # noqa: PLC0415  not needed by --help
    from rich.table import Table  # noqa: PLC0415  the same

    objective = recipe.problem.objectives[0]
    if report.best:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for title in ("id", "", objective.property, "sd", "outside"):
            table.add_column(title, overflow="fold", justify="left" if title in {"id", ""} else "right")
        for one in report.best:
            far = "–" if one.outside is None else f"{one.outside:.2f}" + (" (extrapolates)" if one.outside > 1 else "")
            table.add_row(one.id, one.label, f"{one.mean:.4g} {objective.unit}", f"{one.sd:.2g}", far)
        Console().print(f"[bold]best by {objective.goal} {objective.property}[/], as {recipe.title} predicts:")
        Console().print(table)
    counts = [f"{report.rows:,} rows"]
    counts += [f"{report.unreadable:,} without a prediction"] if report.unreadable else []
    counts += [f"{report.extrapolated:,} extrapolations"] if report.extrapolated else []
    counts += [f"{report.resumed:,} from before"] if report.resumed else []
    speed = f"; {report.per_second:,.0f} rows/s over {report.seconds:.1f} s" if report.rows > report.resumed else ""
    click.echo(f"{', '.join(counts)} → {out}{speed}")
    if report.intervals:
        click.echo(f"intervals rest on {report.intervals}")
