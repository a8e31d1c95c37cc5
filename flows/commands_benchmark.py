"""`matloop benchmark`: a MatBench task on its official folds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from orchestrator.errors import ConfigError


@click.command()
@click.argument("task")
@click.option(
    "--data",
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The task's file: MatBench's JSON, gzipped or not, or a CSV with formula and target.",
)
@click.option(
    "--json",
    "out",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="Where results go, fold by fold; a file that exists is gone on with.",
)
@click.option("--surrogate", help="Name of a surrogate; left out: what is recommended for the task.")
@click.option("--options", default="{}", show_default=True, help="Options of the surrogate, as JSON.")
@click.option("--fold", "folds", multiple=True, type=click.IntRange(0, 4), help="Only this fold; may be repeated.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0))
def benchmark(
    *, task: str, data: Path, out: Path, surrogate: str | None, options: str, folds: tuple[int, ...], seed: int
) -> None:
    """Measure a surrogate on a MatBench task: official folds, accuracy and calibration.

    TASK is a name such as matbench_phonons. Each fold is trained and predicted once, and written before the next.
    """
    from rich.console import Console  # noqa: PLC0415  not needed by --help
    from rich.table import Table  # noqa: PLC0415  the same

    from orchestrator import matbench  # noqa: PLC0415  numpy and pydantic

    read = matbench.read_task(task, data)
    chosen = _options(options)
    if surrogate is None:
        if chosen:
            message = "--options belong to a surrogate: name it by --surrogate"
            raise ConfigError(message)
        entry = replace(matbench.recommended(read), seed=seed)
    else:
        entry = matbench.Entry(surrogate, chosen, seed)
    click.echo(f"{entry.surrogate} with {json.dumps(entry.options) if entry.options else 'its own options'}")
    content = matbench.benchmark(read, entry, out, folds=folds or range(matbench.FOLDS), say=click.echo)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(f"{task}, {len(content['folds'])} of {matbench.FOLDS} folds")
    table.add_column("value", justify="right")
    for name, value in content["metrics"].items():
        table.add_row(name, f"{value:.4g}")
    Console().print(table)
    click.echo(f"written to {out}")


def _options(text: str) -> Mapping[str, Any]:
    try:
        options = json.loads(text)
    except ValueError as error:
        message = f"--options is no JSON: {error}; write an object, such as '{{\"members\": 3}}'"
        raise ConfigError(message) from error
    if not isinstance(options, dict):
        message = f"--options is {type(options).__name__}; write a JSON object, such as '{{\"members\": 3}}'"
        raise ConfigError(message)
    return options
