"""Screening: a fit asked about a pool of any size, in chunks that are committed one by one.

Nothing holds the pool. Each chunk of entries is read, predicted and written to a part file of its own, whole or not at
all; a manifest beside the parts says which fit, which input and which settings they belong to. So a screening that was
killed goes on where it was, repeats no row and loses none, and never joins parts of two different questions. At the
end the parts become one file, in the order of the pool.

An entry that cannot be read, or about which the surrogate cannot be asked, is a row with the reason.
"""

from __future__ import annotations

import itertools
import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from orchestrator.domain import JsonObject
from orchestrator.errors import IncompatibleError
from orchestrator.fits import Recipe
from orchestrator.materials.items import Item
from orchestrator.screening.parts import MANIFEST, Report, begin, held, join, write_json
from orchestrator.screening.table import Table, table_for
from orchestrator.screening.workers import Chunks, Done, Settings, Task, crew

FORMAT = 1
"""Version of the part files' layout; parts of another one are not gone on with."""


@dataclass(frozen=True)
class Pool:
    """What is screened.

    Args:
        items: begins the pool anew at every call.
        identity: changes whenever an item does.
        title: what people call it.
    """

    items: Callable[[], Iterable[Item]]
    identity: str
    title: str


def screen(
    recipe: Recipe,
    pool: Pool,
    out: Path,
    settings: Settings,
    *,
    workers: int = 1,
    resume: bool = True,
    top: int = 10,
    progress: Callable[[int, float], None] = lambda _rows, _share: None,
) -> Report:
    """Predict every entry of a pool and write one row each.

    Args:
        recipe: the fit.
        pool: what to predict.
        out: ``.csv`` or ``.parquet``.
        settings: see `Settings`.
        workers: processes; 1 predicts in this one.
        resume: go on with finished parts; else they are thrown away.
        top: how many of the best to report.
        progress: called with rows done and the share of the pool that is read.

    Returns:
        What was done; the output is complete.

    Raises:
        StoreError: finished parts belong to another fit, pool or settings; or another process is at work on them.
        IncompatibleError: the surrogate cannot be asked about such entries at all.
        MaterialError: the pool as a whole cannot be read.
    """
    table = table_for(out, recipe.problem, settings.level)
    folder = out.with_name(f"{out.name}.parts")
    manifest = _manifest(recipe, pool, settings, table)
    with held(folder):
        done = begin(folder, manifest, resume=resume)
        report = Report()
        report.resumed = sum(sum(1 for _ in table.read_part(folder / name)) for name in done.values())
        task = Task(recipe, settings, str(folder), out.suffix)
        begun = time.perf_counter()
        with crew(task, workers) as work:
            finished = report.resumed
            for result in work(_chunks(pool.items(), settings.chunk, set(done))):
                if result.refusal and not finished:
                    raise IncompatibleError(_refusal(recipe, result))
                finished += result.rows
                report.intervals = report.intervals or result.intervals
                progress(finished, result.share)
        report.seconds = time.perf_counter() - begun
        join(folder, table, out, report=report, top=top)
        about = {**manifest, "report": {**asdict(report), "per_second": report.per_second}, "fit": recipe.title}
        write_json(out.with_name(f"{out.name}.json"), about)
        (folder / MANIFEST).unlink()  # from here on the parts are rubbish: a kill now costs nothing
    shutil.rmtree(folder, ignore_errors=True)
    return report


def _manifest(recipe: Recipe, pool: Pool, settings: Settings, table: Table) -> JsonObject:
    return {
        "format": FORMAT,
        "fit": recipe.identity(),
        "input": pool.identity,
        "settings": {"level": settings.level, "chunk": settings.chunk, "most_atoms": settings.most_atoms},
        "columns": list(table.columns),
    }


def _chunks(items: Iterable[Item], size: int, done: set[int]) -> Chunks:
    numbers = itertools.count()
    stream = iter(items)
    while chunk := list(itertools.islice(stream, size)):
        number = next(numbers)
        if number not in done:
            yield number, chunk


def _refusal(recipe: Recipe, result: Done) -> str:
    return f"{recipe.title}: none of the first {result.rows} entries can be predicted: {result.refusal}"
