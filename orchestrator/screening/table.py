"""The table that a screening writes: its columns, and its two file formats.

Text that a spreadsheet would run as a formula is made harmless in CSV, as in every table that Matloop writes.
"""

from __future__ import annotations

import csv
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from orchestrator.domain import Problem
from orchestrator.errors import ConfigError
from orchestrator.record.export import safe

FIRST = ("row", "id", "label")
LAST = ("outside", "extrapolates", "reason")
NUMBERS = 6
"""Columns of one property: mean, sd, epistemic, noise, low, high."""

Row = Sequence[Any]


def columns(problem: Problem, level: float) -> tuple[str, ...]:
    """Return the names of the columns.

    Args:
        problem: its m properties with their units.
        level: of the intervals.

    Returns:
        3 + 6 m + 3 names.
    """
    names = list(FIRST)
    for name in problem.properties:
        unit = problem.units[name]
        parts = ("", " sd", " epistemic sd", " noise sd", f" low {level:.0%}", f" high {level:.0%}")
        names += [f"{name}{part} [{unit}]" for part in parts]
    return (*names, *LAST)


class Table(ABC):
    """Part files and the output in one format.

    Args:
        problem: its properties are the columns.
        level: of the intervals.
    """

    def __init__(self, problem: Problem, level: float) -> None:
        self.problem = problem
        self.columns = columns(problem, level)
        self.blank: tuple[None, ...] = (None,) * (NUMBERS * len(problem.properties) + 2)

    @abstractmethod
    def write_part(self, path: Path, rows: Sequence[Row]) -> None:
        """Write rows to a new file."""

    @abstractmethod
    def read_part(self, path: Path) -> Iterator[Row]:
        """Read the rows of a part; cells as the format keeps them."""

    @abstractmethod
    def writer(self, path: Path) -> AbstractContextManager[Callable[[Path], None]]:
        """Open the output; what it gives appends a part."""

    def means(self, row: Row) -> dict[str, float] | None:
        """Return the predicted means of a row by property; None where there is no prediction."""
        if _number(row[len(FIRST)]) is None:
            return None
        return {name: float(row[len(FIRST) + NUMBERS * j]) for j, name in enumerate(self.problem.properties)}

    def sd(self, row: Row) -> float:
        """Return the standard deviation of the first property."""
        return float(row[len(FIRST) + 1])

    def outside(self, row: Row) -> float | None:
        """Return how far outside a row lies, where the surrogate says it."""
        return _number(row[-len(LAST)])


class CsvTable(Table):
    """Comma-separated values, nine significant digits."""

    def write_part(self, path: Path, rows: Sequence[Row]) -> None:
        """Write rows without a header."""
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([_cell(value) for value in row] for row in rows)

    def read_part(self, path: Path) -> Iterator[Row]:
        """Read rows as texts."""
        with path.open(newline="", encoding="utf-8") as file:
            yield from csv.reader(file)

    @contextmanager
    def writer(self, path: Path) -> Iterator[Callable[[Path], None]]:
        """Write the header, then append parts byte by byte."""
        with path.open("wb") as file:
            file.write((",".join(f'"{name}"' for name in self.columns) + "\r\n").encode())

            def append(part: Path) -> None:
                file.write(part.read_bytes())

            yield append


class ParquetTable(Table):
    """Apache Parquet, a row group a part."""

    def write_part(self, path: Path, rows: Sequence[Row]) -> None:
        """Write rows with their types."""
        pa, parquet = _arrow()
        content = {name: [row[j] for row in rows] for j, name in enumerate(self.columns)}
        parquet.write_table(pa.table(content, schema=self._schema()), path)

    def read_part(self, path: Path) -> Iterator[Row]:
        """Read rows as values."""
        _, parquet = _arrow()
        for one in parquet.read_table(path).to_pylist():
            yield [one[name] for name in self.columns]

    @contextmanager
    def writer(self, path: Path) -> Iterator[Callable[[Path], None]]:
        """Append parts as row groups."""
        _, parquet = _arrow()
        with parquet.ParquetWriter(path, self._schema()) as file:
            yield lambda part: file.write_table(parquet.read_table(part))

    def _schema(self) -> Any:
        pa, _ = _arrow()
        types = {"row": pa.int64(), "id": pa.string(), "label": pa.string()}
        types |= {"extrapolates": pa.bool_(), "reason": pa.string()}
        return pa.schema([(name, types.get(name, pa.float64())) for name in self.columns])


def table_for(out: Path, problem: Problem, level: float) -> Table:
    """Choose the format by the name of the output.

    Raises:
        ConfigError: another suffix than ``.csv`` and ``.parquet``; or Parquet without pa.
    """
    if out.suffix == ".csv":
        return CsvTable(problem, level)
    if out.suffix == ".parquet":
        _arrow()
        return ParquetTable(problem, level)
    message = f"the output {out.name} ends in {out.suffix!r}; write .csv or .parquet"
    raise ConfigError(message)


def _cell(value: Any) -> Any:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.9g}"
    return safe(value)


def _number(value: Any) -> float | None:
    if value is None or value == "":
        return None
    number = float(value)
    return number if math.isfinite(number) else None


def _arrow() -> tuple[Any, Any]:
    try:
        import pyarrow as pa  # noqa: PLC0415  an extra
        from pyarrow import parquet  # noqa: PLC0415  the same
    except ImportError as error:
        message = "writing .parquet needs pyarrow; install it with: pip install 'matloop[parquet]', or write .csv"
        raise ConfigError(message) from error
    return pa, parquet
