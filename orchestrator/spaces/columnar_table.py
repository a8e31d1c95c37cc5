"""A table of candidates read chunk by chunk into arrays: ids, columns of numbers, columns of text.

The id of a row is the one that `Candidate.make` would give it. Its canonical JSON is written from whole columns, which
takes microseconds a row instead of the tens of them that a candidate costs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from pymatgen.core import Composition

from orchestrator.domain import Array
from orchestrator.errors import MaterialError, SpaceError

CHUNK = 100_000
"""Rows read at once: bounds the memory of text while a file is read to some 100 MB."""
DIGITS = 12
"""Decimals that are kept of a rounded value, as in every other space."""
SUFFIXES = (".csv", ".parquet", ".npz", ".npy")
SHOWN = 3
"""How many offenders an error names."""

Numbers = npt.NDArray[np.float64]
Texts = npt.NDArray[np.bytes_]


@dataclass(frozen=True)
class Layout:
    """Which columns are read, and as what.

    Args:
        numbers: parameter → (column, resolution or None).
        names: parameter → column, for parameters whose values are names.
        composition: column of chemical formulas; None where there is none.
        texts: columns that are kept as text: ids, labels, attributes.
    """

    numbers: Mapping[str, tuple[str, float | None]]
    names: Mapping[str, str]
    composition: str | None
    texts: tuple[str, ...] = ()

    @property
    def columns(self) -> list[str]:
        """Every column that is needed, each once."""
        every = [column for column, _ in self.numbers.values()]
        every += [*self.names.values(), *([self.composition] if self.composition else []), *self.texts]
        return list(dict.fromkeys(every))


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows as arrays, n long each.

    Args:
        ids: 32 bytes each.
        row: number in the file, counted from 1.
        numbers: parameter → values.
        names: parameter → names in UTF-8.
        composition: reduced formulas in UTF-8; None where rows have none.
        texts: column → texts in UTF-8.
    """

    ids: Texts
    row: npt.NDArray[np.int64]
    numbers: Mapping[str, Numbers]
    names: Mapping[str, Texts]
    composition: Texts | None
    texts: Mapping[str, Texts]

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return every array under a name that says what it is."""
        found: dict[str, npt.NDArray[Any]] = {"ids": self.ids, "row": self.row}
        found |= {f"number.{name}": array for name, array in self.numbers.items()}
        found |= {f"name.{name}": array for name, array in self.names.items()}
        found |= {f"text.{name}": array for name, array in self.texts.items()}
        return found | ({} if self.composition is None else {"composition": self.composition})

    @classmethod
    def of(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> Rows:
        """Build the rows from `arrays`."""

        def those(kind: str) -> dict[str, npt.NDArray[Any]]:
            return {name[len(kind) :]: array for name, array in arrays.items() if name.startswith(kind)}

        return cls(
            arrays["ids"], arrays["row"], those("number."), those("name."), arrays.get("composition"), those("text.")
        )

    def at(self, order: Any) -> Rows:
        """Return some rows, in a given order."""
        return Rows.of({name: array[order] for name, array in self.arrays().items()})


def read_rows(path: Path, layout: Layout, duplicates: str) -> tuple[Rows, int]:
    """Read a table, sorted by id, so that the order of its rows means nothing.

    Args:
        path: CSV (may be compressed), Parquet, NPZ with an array a column, or NPY with named fields.
        layout: what to read.
        duplicates: ``refuse`` or ``drop``.

    Returns:
        The rows, and how many duplicates were left out.

    Raises:
        SpaceError: a column is missing, a cell is wrong, or rows are the same candidate.
        MaterialError: the file cannot be read.
    """
    reader = _Reader(path.name, layout)
    parts = [reader.rows(frame) for frame in _frames(path, layout.columns)]
    if not parts:
        message = f"{path.name} has no rows; give a table with one candidate a row"
        raise SpaceError(message)
    pieces = [part.arrays() for part in parts]
    rows = Rows.of({name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]})
    del parts, pieces
    order = np.argsort(rows.ids, kind="stable")
    again = np.zeros(len(order), dtype=bool)
    again[1:] = rows.ids[order[1:]] == rows.ids[order[:-1]]
    if again.any() and duplicates == "refuse":
        places = np.flatnonzero(again)
        some = "; ".join(f"rows {rows.row[order[i - 1]]} and {rows.row[order[i]]}" for i in places[:SHOWN])
        more = f" and {len(places) - SHOWN} more" if len(places) > SHOWN else ""
        message = (
            f"{len(places)} rows of {path.name} are the same candidate as another one: {some}{more}; remove them, name"
            " columns that tell them apart, or set 'duplicates: drop'"
        )
        raise SpaceError(message)
    return rows.at(order[~again]), int(again.sum())


def check_readable(path: Path) -> str:
    """Return the suffix that says how a file is read.

    Raises:
        MaterialError: there is no such file, or its suffix is not known.
    """
    if not path.is_file():
        message = f"there is no file {path}; relative paths start at the folder of the campaign file"
        raise MaterialError(message)
    suffix = next((s.lower() for s in reversed(path.suffixes) if s.lower() in SUFFIXES), None)
    if suffix is None:
        message = f"{path.name} is no table that can be read as columns; write one of {', '.join(SUFFIXES)}"
        raise MaterialError(message)
    return suffix


class _Reader:
    """Turns chunks of a table into rows; formulas are understood once each."""

    def __init__(self, name: str, layout: Layout) -> None:
        self._name = name
        self._layout = layout
        self._formulas: dict[str, str] = {}
        self._before = 0

    def rows(self, frame: Mapping[str, npt.NDArray[Any]]) -> Rows:
        """Turn one chunk, column → cells, into rows."""
        layout = self._layout
        numbers = {p: self._numbers(frame[column], column, step) for p, (column, step) in layout.numbers.items()}
        words = {p: self._words(frame[column], column) for p, column in layout.names.items()}
        formulas = None if layout.composition is None else self._compositions(frame[layout.composition])
        texts = {column: [str(cell) for cell in frame[column]] for column in layout.texts}
        size = len(next(iter(frame.values())))
        row = np.arange(self._before + 1, self._before + size + 1)
        self._before += size
        return Rows(
            ids=_ids(size, numbers, words, formulas),
            row=row,
            numbers=numbers,
            names={name: _encoded(cells) for name, cells in words.items()},
            composition=None if formulas is None else _encoded(formulas),
            texts={name: _encoded(cells) for name, cells in texts.items()},
        )

    def _numbers(self, cells: npt.NDArray[Any], column: str, step: float | None) -> Numbers:
        values = np.asarray(pd.to_numeric(pd.Series(cells), errors="coerce"), dtype=np.float64) + 0.0
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad):
            where = f"row {self._before + int(bad[0]) + 1}"
            message = f"{self._name}, {where}: {column!r} is {str(cells[bad[0]])!r}; a finite number was expected"
            raise SpaceError(message)
        if step is None:
            return values
        steps, place = np.unique(np.rint(values / step), return_inverse=True)
        return np.array([round(float(k) * step, DIGITS) for k in steps])[place] + 0.0

    def _words(self, cells: npt.NDArray[Any], column: str) -> list[str]:
        words = [str(cell).strip() for cell in cells]
        if "" in words:
            message = (
                f"{self._name}, row {self._before + words.index('') + 1}: {column!r} is empty; a name was expected"
            )
            raise SpaceError(message)
        return words

    def _compositions(self, cells: npt.NDArray[Any]) -> list[str]:
        texts = [str(cell) for cell in cells]
        for i, text in enumerate(texts):
            if text not in self._formulas:
                self._formulas[text] = self._formula(text, i)
        return [self._formulas[text] for text in texts]

    def _formula(self, text: str, place: int) -> str:
        try:
            composition = Composition(text)
        except (ValueError, TypeError):
            composition = Composition()
        if not composition.num_atoms or not composition.valid:
            message = (
                f"{self._name}, row {self._before + place + 1}: {text!r} is no chemical formula; write it like CsPbI3"
                " or Ba0.5Sr0.5TiO3"
            )
            raise SpaceError(message)
        return str(composition.get_integer_formula_and_factor()[0])


def _ids(
    size: int, numbers: Mapping[str, Numbers], names: Mapping[str, Sequence[str]], formulas: Sequence[str] | None
) -> Texts:
    """Hash the canonical JSON of rows, 32 bytes each."""
    rendered: dict[str, list[str]] = {name: [repr(v) for v in array.tolist()] for name, array in numbers.items()}
    rendered |= {name: _quoted(cells) for name, cells in names.items()}
    inside = ",".join(json.dumps(name, ensure_ascii=False) + ":%s" for name in sorted(rendered))
    template = '{"composition":%s,"crystal":null,"parameters":{' + inside + "}}"
    columns = [["null"] * size if formulas is None else _quoted(formulas)]
    columns += [rendered[name] for name in sorted(rendered)]
    digests = [hashlib.sha256((template % row).encode()).digest() for row in zip(*columns, strict=True)]
    return np.frombuffer(b"".join(digests), dtype="S32")


def _quoted(cells: Sequence[str]) -> list[str]:
    known = {cell: json.dumps(cell, ensure_ascii=False) for cell in set(cells)}
    return [known[cell] for cell in cells]


def _encoded(cells: Sequence[str]) -> Texts:
    return np.array([cell.encode() for cell in cells], dtype=np.bytes_)


def _frames(path: Path, columns: list[str]) -> Iterator[Mapping[str, npt.NDArray[Any]]]:
    """Give a table in chunks, column → cells."""
    readers: Mapping[str, Callable[[Path, list[str]], Iterator[Mapping[str, npt.NDArray[Any]]]]] = {
        ".csv": _csv,
        ".parquet": _parquet,
        ".npz": _numpy,
        ".npy": _numpy,
    }
    try:
        yield from readers[check_readable(path)](path, columns)
    except SpaceError:
        raise
    except (OSError, ValueError, UnicodeDecodeError) as error:
        message = f"{path.name} cannot be read as a table: {error}"
        raise MaterialError(message) from error


def _csv(path: Path, columns: list[str]) -> Iterator[Mapping[str, npt.NDArray[Any]]]:
    _check(path, columns, list(pd.read_csv(path, dtype=str, nrows=0).columns))
    with pd.read_csv(path, dtype=str, keep_default_na=False, usecols=columns, chunksize=CHUNK) as chunks:
        for frame in chunks:
            yield {column: frame[column].to_numpy(dtype=object) for column in columns}


def _parquet(path: Path, columns: list[str]) -> Iterator[Mapping[str, npt.NDArray[Any]]]:
    try:
        from pyarrow.parquet import ParquetFile  # noqa: PLC0415  an extra, which only these files need
    except ImportError as error:
        message = f"reading {path.name} needs pyarrow; install it with: pip install 'matloop[parquet]'"
        raise MaterialError(message) from error
    with ParquetFile(path) as file:
        _check(path, columns, file.schema_arrow.names)
        for batch in file.iter_batches(batch_size=CHUNK, columns=columns):
            yield {column: batch.column(column).to_numpy(zero_copy_only=False) for column in columns}


def _numpy(path: Path, columns: list[str]) -> Iterator[Mapping[str, npt.NDArray[Any]]]:
    content = np.load(path, mmap_mode="r" if path.suffix == ".npy" else None, allow_pickle=False)
    known = list(content.files) if hasattr(content, "files") else list(content.dtype.names or ())
    _check(path, columns, known)
    arrays = {column: content[column] for column in columns}
    sizes = {len(array) for array in arrays.values()}
    if len(sizes) != 1:
        message = f"the columns of {path.name} have different lengths ({sorted(sizes)}); one row a candidate is needed"
        raise SpaceError(message)
    for start in range(0, sizes.pop(), CHUNK):
        yield {column: array[start : start + CHUNK] for column, array in arrays.items()}


def _check(path: Path, columns: list[str], known: list[str]) -> None:
    for column in columns:
        if column not in known:
            message = f"{path.name} has no column {column!r}; there are: {', '.join(map(str, known)) or 'none'}"
            raise SpaceError(message)


def one_hot(texts: Texts, words: Sequence[bytes]) -> Array:
    """Return n × k zeros and ones: which of k words stands in each row."""
    return np.asarray(texts[:, None] == np.array(words)[None, :], dtype=np.float64)
