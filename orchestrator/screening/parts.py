"""Part files with their manifest: whose they are, which are finished, and how they become one file."""

from __future__ import annotations

import fcntl
import heapq
import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from orchestrator.domain import JsonObject, Problem, canonical_json, sha256
from orchestrator.errors import StoreError
from orchestrator.record.raw import sync_folder
from orchestrator.screening.table import Table

MANIFEST, LOCK = "manifest.json", "lock"
PART = re.compile(r"part-(?P<number>\d{8})-(?P<sha>[0-9a-f]{16})\.(csv|parquet)")
EXTRAPOLATES = 1.0
"""`KnowsItsDomain.outside` above this marks an extrapolation."""


@dataclass(frozen=True)
class Best:
    """One of the best candidates: its id, label, mean, sd and how far outside it lies."""

    id: str
    label: str
    mean: float
    sd: float
    outside: float | None


@dataclass
class Report:
    """What a screening did.

    Args:
        rows: in the output.
        unreadable: of them without a prediction.
        extrapolated: of them far from what was learned from.
        resumed: of them from an earlier run.
        intervals: what they rest on.
        seconds: of this run, with loading the fit, without joining the parts.
        best: by the first objective, best first.
    """

    rows: int = 0
    unreadable: int = 0
    extrapolated: int = 0
    resumed: int = 0
    intervals: str = ""
    seconds: float = 0.0
    best: list[Best] = field(default_factory=list)

    @property
    def per_second(self) -> float:
        """Rows of this run a second."""
        return (self.rows - self.resumed) / self.seconds if self.seconds > 0 else math.nan


def begin(folder: Path, manifest: JsonObject, *, resume: bool) -> dict[int, str]:
    """Return the finished parts by number, after comparing whose they are; begin where there are none.

    Args:
        folder: of the parts.
        manifest: what they must belong to.
        resume: go on with what is there; else throw it away.

    Raises:
        StoreError: they belong to something else.
    """
    path = folder / MANIFEST
    if not path.exists() or not resume:
        _clear(folder)
        write_json(path, manifest)
        return {}
    found = json.loads(path.read_text(encoding="utf-8"))
    changed = [name for name in manifest if canonical_json(found.get(name)) != canonical_json(manifest[name])]
    if changed:
        words = {"fit": "the fit", "input": "the pool", "settings": "--interval, --chunk or --most-atoms"}
        what = ", ".join(words.get(name, name) for name in changed)
        message = (
            f"{folder} holds the beginning of another screening: {what} differed;"
            " finish that one as it was begun, or throw it away with --no-resume"
        )
        raise StoreError(message)
    done = {}
    for path in sorted(folder.iterdir()):
        match = PART.fullmatch(path.name)
        if match and sha256(path.read_bytes())[:16] == match["sha"]:
            done[int(match["number"])] = path.name
        elif path.name not in {MANIFEST, LOCK}:
            path.unlink()  # half written, or damaged since: it is predicted again
    return done


def _clear(folder: Path) -> None:
    for path in folder.iterdir():
        if path.name != LOCK:
            path.unlink()


def commit(folder: Path, table: Table, number: int, rows: Sequence[Sequence[Any]], suffix: str) -> None:
    """Write a part, whole or not at all; its name holds the hash of its content.

    Args:
        folder: of the parts.
        table: their format.
        number: of the chunk, from 0.
        rows: of the chunk.
        suffix: of the output.
    """
    temporary = folder / f".tmp-{os.getpid()}{suffix}"
    table.write_part(temporary, rows)
    sync_folder(temporary)
    digest = sha256(temporary.read_bytes())[:16]
    temporary.replace(folder / f"part-{number:08d}-{digest}{suffix}")
    sync_folder(folder)


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Let one process at a time work on the parts; the lock ends with the process, however it ends."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            message = f"another process is writing {folder}; wait for it, or give --out another name"
            raise StoreError(message) from error
        yield


def join(folder: Path, table: Table, out: Path, *, report: Report, top: int) -> None:
    """Write the output from the parts, in their order, and count what is in it.

    Args:
        folder: of the parts, all of them finished.
        table: their format.
        out: replaced where it exists.
        report: its counts and its best are filled in.
        top: how many of the best are wanted.
    """
    problem = table.problem
    parts = sorted(path for path in folder.iterdir() if PART.fullmatch(path.name))
    temporary = out.with_name(f".{out.name}.{os.getpid()}")
    best: list[tuple[float, int, Best]] = []
    objective = problem.objectives[0]
    try:
        with table.writer(temporary) as write:
            for part in parts:
                write(part)
                for row in table.read_part(part):
                    report.rows += 1
                    means = table.means(row)
                    if means is None:
                        report.unreadable += 1
                        continue
                    far = table.outside(row)
                    report.extrapolated += far is not None and far > EXTRAPOLATES
                    if not _allowed(problem, means):
                        continue
                    value = means[objective.property]
                    score = float(objective.utility(np.array(value)))
                    one = Best(str(row[1]), str(row[2]), value, table.sd(row), far)
                    heapq.heappush(best, (score, -report.rows, one))
                    if len(best) > top:
                        heapq.heappop(best)
        sync_folder(temporary)
        temporary.replace(out)
        sync_folder(out.parent)
    finally:
        temporary.unlink(missing_ok=True)
    report.best = [one for _, _, one in sorted(best, key=lambda entry: entry[:2], reverse=True)]


def _allowed(problem: Problem, means: Mapping[str, float]) -> bool:
    return all(bool(c.satisfied(np.array([means[c.property]]))[0]) for c in problem.constraints)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file, whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    sync_folder(temporary)
    temporary.replace(path)
    sync_folder(path.parent)
