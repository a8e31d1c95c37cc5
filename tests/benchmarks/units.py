"""Benchmarks in units: each unit of work is one committed line, so a long measurement can be cut off and gone on with.

A line carries the hash of the protocol (the files that define what is measured), so that a changed protocol measures
anew and old numbers are never mixed with new ones.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).with_name("results")
HERE = Path(__file__).parent


@dataclass(frozen=True)
class Unit:
    """One piece of a measurement, at most twenty minutes of it.

    Args:
        key: names the unit among all units of the benchmark, such as ``blind/seed 3``.
        parameters: JSON content for the work.
    """

    key: str
    parameters: Mapping[str, Any] = field(default_factory=dict)


def protocol(files: Iterable[Path], *settings: Any) -> str:
    """Return the hash of what defines a measurement.

    Args:
        files: programs and inputs, hashed by content in the order of their names.
        settings: JSON content that is not in the files.

    Returns:
        16 hexadecimal digits.
    """
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for path in sorted(files, key=lambda path: path.name):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def run_missing(
    name: str,
    units: Sequence[Unit],
    work: Callable[[Unit], Mapping[str, Any]],
    *,
    protocol: str,
    packages: Sequence[str] = (),
    counts: Callable[[Mapping[str, Any]], bool] = lambda _: True,
    most: int | None = None,
    part: str = "1/1",
    lines: Path | None = None,
    results: Path = RESULTS,
) -> list[dict[str, Any]]:
    """Run the units that have no line yet, and return the lines of all.

    Args:
        name: of the benchmark; lines stand in ``results/NAME.jsonl``.
        units: everything that belongs to it.
        work: measures one unit and returns JSON content.
        protocol: hash from `protocol`; lines of another protocol do not count.
        packages: distributions whose versions each line states.
        counts: says of a line whether it still counts, such as whether it measured the present code.
        most: how many units to run at most now.
        part: ``i/n``: every n-th unit from the i-th only, so that n processes or machines share the work.
        lines: file for new lines instead, to be taken in with `merge` later; its own lines count as done.
        results: folder of the lines.

    Returns:
        One line for each unit that is measured, in the order of `units`: ``unit``, ``parameters``, ``protocol``,
        ``versions``, ``seconds`` and ``result``.
    """
    results.mkdir(exist_ok=True)
    path = results / f"{name}.jsonl"
    there = _lines(path) + (_lines(lines) if lines is not None else [])
    path = lines if lines is not None else path
    done = {line["unit"]: line for line in there if line["protocol"] == protocol and counts(line)}
    missing = [unit for unit in _share(units, part) if unit.key not in done]
    stated = {package: version(package) for package in packages}
    spent: list[float] = [line["seconds"] for line in done.values()]
    for count, unit in enumerate(missing[:most]):
        begun = time.monotonic()
        result = dict(work(unit))
        spent.append(time.monotonic() - begun)
        line = {
            "unit": unit.key,
            "parameters": dict(unit.parameters),
            "protocol": protocol,
            "versions": stated,
            "seconds": round(spent[-1], 1),
            "result": result,
        }
        with path.open("a") as file:
            file.write(json.dumps(line, sort_keys=True) + "\n")
        done[unit.key] = line
        left = (len(missing) - count - 1) * statistics.mean(spent) / 3600
        say(f"{name}: {unit.key} in {spent[-1]:.0f} s; {len(missing) - count - 1} units and {left:.2f} h left")
    return [done[unit.key] for unit in units if unit.key in done]


def merge(name: str, files: Iterable[Path], *, results: Path = RESULTS) -> int:
    """Take in lines that were measured elsewhere; a line that is there already is left out.

    Args:
        name: of the benchmark.
        files: with lines, from `run_missing` with ``lines``.
        results: folder of the lines.

    Returns:
        How many lines were new.
    """
    path = results / f"{name}.jsonl"
    there = {json.dumps(line, sort_keys=True) for line in _lines(path)}
    new = [text for file in files for line in _lines(file) if (text := json.dumps(line, sort_keys=True)) not in there]
    with path.open("a") as file:
        file.writelines(f"{text}\n" for text in dict.fromkeys(new))
    return len(dict.fromkeys(new))


def split_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that share the work among machines: ``--part``, ``--lines`` and ``--merge``."""
    parser.add_argument("--units", type=int, default=None, help="run at most so many units now")
    parser.add_argument("--part", default="1/1", help="i/n: every n-th unit from the i-th only")
    parser.add_argument("--lines", type=Path, default=None, help="write lines to this file, and no summary")
    parser.add_argument("--merge", type=Path, nargs="+", default=(), help="take in lines measured elsewhere first")


def _share(units: Sequence[Unit], part: str) -> Sequence[Unit]:
    """Return the i-th of n shares of the units."""
    i, n = (int(number) for number in part.split("/"))
    if not 1 <= i <= n:
        message = f"part {part!r}: expected i/n with i from 1 to n, such as 2/16"
        raise ValueError(message)
    return units[i - 1 :: n]


def row(
    who: str, metric: str, unit: str, values: Sequence[float], *, low: float | None = None, high: float | None = None
) -> dict[str, Any]:
    """Return one row of a summary: the median of values with the middle 95 % of them, or given bounds.

    Args:
        who: what was measured; our own is ``matloop``.
        metric: what of it.
        unit: of the values.
        values: one each seed or repetition.
        low: instead of the 2.5th percentile.
        high: instead of the 97.5th percentile.
    """
    ordered = sorted(values)
    return {
        "who": who,
        "metric": metric,
        "unit": unit,
        "median": statistics.median(ordered),
        "low": _quantile(ordered, 0.025) if low is None else low,
        "high": _quantile(ordered, 0.975) if high is None else high,
        "n": len(ordered),
    }


def summarise(
    name: str, rows: Sequence[Mapping[str, Any]], *, work: str, command: str, results: Path = RESULTS, **more: Any
) -> Path:
    """Write ``results/NAME.json``, from which the README's tables are made.

    Args:
        name: of the benchmark.
        rows: from `row`.
        work: one sentence: what was measured on what.
        command: that measures it again.
        results: folder.
        more: further facts, such as ``protocol``.

    Returns:
        The file.
    """
    path = results / f"{name}.json"
    content = {
        "benchmark": name,
        "work": work,
        "command": command,
        "machine": machine(),
        "date": datetime.now(UTC).date().isoformat(),
        **more,
        "rows": [dict(one) for one in rows],
    }
    path.write_text(json.dumps(content, indent=1) + "\n")
    return path


def machine() -> str:
    """Describe the computer without naming it."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    python = ".".join(platform.python_version_tuple()[:2])
    return f"{cores} cores, {platform.system()} {platform.machine()}, Python {python}"


def say(text: str) -> None:
    """Write one line for the person who waits."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _lines(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines() if line.strip()]


def _quantile(ordered: Sequence[float], share: float) -> float:
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])
