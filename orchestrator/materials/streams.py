"""Pools of any size, one item after another: what `matloop predict` reads. Nothing here holds a whole pool.

An item is raw text with its place in the pool; `items.read` makes a candidate of it, perhaps in another process. So an
entry that cannot be read is known by its place and stops nothing.

Forms: CIF files, alone, in a folder, a zip or a tar file; JSON lines and JSON documents of pymatgen's, OPTIMADE's or
Matloop's own structures; extended XYZ; CSV and Parquet tables with a column of structures or formulas, or with process
parameters; ASE databases. Text forms may be gzipped.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
import re
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256 as new_sha256
from pathlib import Path
from typing import IO, Any, Literal

from orchestrator.errors import MaterialError
from orchestrator.materials.files import entries
from orchestrator.materials.items import NAMES, STRUCTURES, Form, Item, own_id

Kind = Literal["cif", "folder", "zip", "tar", "lines", "json", "extxyz", "csv", "parquet", "ase"]
SUFFIXES: Mapping[str, Kind] = {
    ".tar": "tar",
    ".tar.gz": "tar",
    ".tgz": "tar",
    ".tar.bz2": "tar",
    ".tar.xz": "tar",
    ".zip": "zip",
    ".jsonl": "lines",
    ".ndjson": "lines",
    ".json": "json",
    ".cif": "cif",
    ".xyz": "extxyz",
    ".extxyz": "extxyz",
    ".csv": "csv",
    ".parquet": "parquet",
    ".db": "ase",
}
MEMBERS: Mapping[str, Form] = {".cif": "cif", ".json": "json"}
"""Suffixes of the files in a folder or archive that are read; others are passed over."""
FORMULAS = ("formula", "composition", "formula_pretty", "pretty_formula", "reduced_formula", "full_formula")
"""Columns that hold formulas, in this order."""
LARGEST = 64_000_000
"""Bytes beyond which a text is no structure. A JSON document, which has to be held whole, may have `DOCUMENT`."""
DOCUMENT = 512_000_000


@dataclass(frozen=True)
class Columns:
    """Which columns of a table to read; what is None is found by its usual names.

    Args:
        structure: holds CIF texts or JSON structures.
        formula: holds chemical formulas.
        id: holds ids.
    """

    structure: str | None = None
    formula: str | None = None
    id: str | None = None


def kind_of(path: Path) -> Kind:
    """Tell the kind of a pool by its name.

    Raises:
        MaterialError: there is no such file, or its suffix is not known.
    """
    if not path.exists():
        message = f"there is no file or folder {path}; give a pool of structures or formulas"
        raise MaterialError(message)
    if path.is_dir():
        return "folder"
    name = path.name.lower()
    plain = name.removesuffix(".gz")
    for suffix, kind in SUFFIXES.items():
        if name.endswith(suffix) or plain.endswith(suffix):
            return kind
    message = f"{path} has no suffix that is known: {', '.join(SUFFIXES)}; text forms may end in .gz besides"
    raise MaterialError(message)


def stream(path: Path, columns: Columns = Columns()) -> Iterator[Item]:
    """Give the items of a pool in its order, the same at every call.

    Args:
        path: file or folder.
        columns: of tables.

    Yields:
        Items.

    Raises:
        MaterialError: the pool as a whole cannot be read, or is cut off.
    """
    readers: Mapping[Kind, Callable[[], Iterator[tuple[str, str, Form, str, float]]]] = {
        "folder": lambda: _folder(path),
        "zip": lambda: _zip(path),
        "tar": lambda: _tar(path),
        "lines": lambda: _lines(path),
        "json": lambda: _document(path),
        "cif": lambda: _cifs(path),
        "extxyz": lambda: _frames(path),
        "csv": lambda: _csv(path, columns),
        "parquet": lambda: _parquet(path, columns),
        "ase": lambda: _ase(path),
    }
    try:
        for number, (own, name, form, content, share) in enumerate(readers[kind_of(path)](), start=1):
            yield Item(number, own or name, name, form, content, share)
    except (OSError, EOFError, zipfile.BadZipFile, tarfile.TarError, csv.Error, ValueError) as error:
        message = f"{path} cannot be read to its end: {type(error).__name__}: {error}; get a whole copy of it"
        raise MaterialError(message) from error


def fingerprint(path: Path) -> str:
    """Return the SHA-256 of a file, or of the names and contents of the files of a folder, without holding them."""
    digest = new_sha256()
    for file in _members(path) if path.is_dir() else [path]:
        if path.is_dir():
            digest.update(f"{file.name}\0".encode())
        with file.open("rb") as raw:
            while block := raw.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


# --- forms: each gives (own id or "", name, form, content, share) -----------------------------------------------------


def _folder(path: Path) -> Iterator[tuple[str, str, Form, str, float]]:
    files = _members(path)
    if not files:
        message = f"the folder {path} holds no file {' or '.join('*' + suffix for suffix in MEMBERS)}"
        raise MaterialError(message)
    for i, file in enumerate(files):
        with _binary(file) as (raw, _):
            yield from _member(file.name, raw, i / len(files))


def _zip(path: Path) -> Iterator[tuple[str, str, Form, str, float]]:
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if _suffix(name) in MEMBERS]
        for i, name in enumerate(names):
            with archive.open(name) as raw:
                yield from _member(name, raw, i / len(names))


def _tar(path: Path) -> Iterator[tuple[str, str, Form, str, float]]:
    size = path.stat().st_size
    with path.open("rb") as file, tarfile.open(fileobj=file, mode="r|*") as archive:
        for member in archive:
            raw = archive.extractfile(member) if member.isfile() and _suffix(member.name) in MEMBERS else None
            if raw is not None:
                yield from _member(member.name, raw, file.tell() / size)


def _member(name: str, raw: IO[bytes], share: float) -> Iterator[tuple[str, str, Form, str, float]]:
    form = MEMBERS[_suffix(name)]
    own = Path(name).name.removesuffix(".gz").removesuffix(_suffix(name))
    try:
        content = raw.read(LARGEST + 1)
        if name.lower().endswith(".gz") and content[:2] == b"\x1f\x8b":  # of an archive; folders are unpacked already
            content = gzip.GzipFile(fileobj=io.BytesIO(content)).read(LARGEST + 1)
    except (OSError, EOFError, zipfile.BadZipFile) as error:
        yield own, name, "unreadable", f"{name} cannot be unpacked: {error}", share
        return
    if len(content) > LARGEST:
        yield own, name, "unreadable", f"{name} is larger than {LARGEST // 1_000_000} MB: no single structure", share
        return
    yield own, name, form, content.decode("utf-8", "replace"), share


def _lines(path: Path) -> Iterator[tuple[str, str, Form, str, float]]:
    with _binary(path) as (raw, share):
        for number, line in enumerate(raw, start=1):
            if line.strip():
                yield *_line(line.decode("utf-8", "replace"), f"{path.name}: line {number}"), share()


def _line(text: str, name: str) -> tuple[str, str, Form, str]:
    try:
        entry = json.loads(text)
    except ValueError as error:
        return "", name, "unreadable", f"{name} is no JSON: {error}"
    if isinstance(entry, str):
        return "", name, "formula", entry
    has_structure = isinstance(entry, dict) and any(key in entry for key in ("lattice", "attributes", *STRUCTURES))
    if isinstance(entry, dict) and not has_structure:
        for key in FORMULAS:
            if key in entry:
                return own_id(entry), name, "formula", str(entry[key])
    return own_id(entry), name, "json", text


def _document(path: Path) -> Iterator[tuple[str, str, Form, str, float]]:
    with _binary(path) as (raw, _):
        text = raw.read(DOCUMENT + 1)
    if len(text) > DOCUMENT:
        message = f"{path} is a JSON document of more than {DOCUMENT // 1_000_000} MB; write it as JSON lines (.jsonl)"
        raise MaterialError(message)
    content = json.loads(text)
    if isinstance(content, dict):
        inner = next(
            (content[key] for key in ("data", "structures") if isinstance(content.get(key), list | dict)), None
        )
        content = inner if inner is not None else [content] if "lattice" in content else content
    named = content.items() if isinstance(content, dict) else enumerate(content, start=1)
    for i, (key, entry) in enumerate(named):
        own = str(key) if isinstance(content, dict) else own_id(entry)
        yield own, f"{path.name}: entry {key}", "json", json.dumps(entry), i / len(content)


def _cifs(path: Path) -> Iterator[tuple[str, str, Form, str, float]]:
    with _binary(path) as (raw, _):
        text = raw.read(LARGEST).decode("utf-8", "replace")
    blocks = [block for block in re.split(r"(?m)^(?=data_)", text) if "_cell_length_a" in block]
    if len(blocks) < 2:  # noqa: PLR2004  one structure; its blocks belong together
        yield "", path.name, "cif", text, 0.0
        return
    for i, block in enumerate(blocks):
        own = block.split(maxsplit=1)[0].removeprefix("data_")
        yield own, f"{path.name}: data_{own}", "cif", block, i / len(blocks)


def _frames(path: Path) -> Iterator[tuple[str, str, Form, str, float]]:
    with _binary(path) as (raw, share):
        number = 0
        while first := raw.readline():
            if not first.strip():
                continue
            number += 1
            name = f"{path.name}: frame {number}"
            if not first.strip().isdigit():
                message = f"{name} begins with {first[:40]!r}; the number of atoms was expected: mend the file there"
                raise MaterialError(message)
            count = int(first)
            rows = [raw.readline() for _ in range(count + 1)]
            if not all(rows):
                yield "", name, "unreadable", f"{name} is cut off: fewer than {count} atoms", share()
                return
            yield "", name, "xyz", b"".join([first, *rows]).decode("utf-8", "replace"), share()


def _csv(path: Path, columns: Columns) -> Iterator[tuple[str, str, Form, str, float]]:
    csv.field_size_limit(LARGEST)  # a cell may hold a whole CIF
    with _binary(path) as (raw, share):
        table = csv.DictReader(io.TextIOWrapper(raw, "utf-8-sig", "replace", newline=""))
        yield from _rows(path, list(table.fieldnames or ()), table, columns, share)


def _parquet(path: Path, columns: Columns) -> Iterator[tuple[str, str, Form, str, float]]:
    try:
        from pyarrow import parquet  # noqa: PLC0415  an extra
    except ImportError as error:
        message = f"reading {path} needs pyarrow; install it with: pip install 'matloop[parquet]'"
        raise MaterialError(message) from error
    table = parquet.ParquetFile(path)
    total, seen = max(1, table.metadata.num_rows), [0]

    def rows() -> Iterator[Mapping[str, Any]]:
        for batch in table.iter_batches(batch_size=1000):
            for one in batch.to_pylist():
                seen[0] += 1
                yield one

    yield from _rows(path, list(table.schema_arrow.names), rows(), columns, lambda: seen[0] / total)


def _rows(
    path: Path,
    names: list[str],
    table: Iterator[Mapping[str, Any]] | csv.DictReader[str],
    columns: Columns,
    share: Callable[[], float],
) -> Iterator[tuple[str, str, Form, str, float]]:
    for asked in (columns.structure, columns.formula, columns.id):
        if asked is not None and asked not in names:
            message = f"{path.name} has no column {asked!r}; it has: {', '.join(names) or 'none'}"
            raise MaterialError(message)
    lower = {name.lower(): name for name in reversed(names)}
    structure, text, own = columns.structure, columns.formula, columns.id
    if structure is None and text is None:
        structure = next((lower[name] for name in STRUCTURES if name in lower), None)
    if structure is None and text is None:
        text = next((lower[name] for name in FORMULAS if name in lower), None)
    own = own or next((lower[name] for name in NAMES if name in lower and lower[name] not in {structure, text}), None)
    for number, row in enumerate(table, start=1):
        name = f"{path.name}: row {number}"
        given = "" if own is None else str(row[own])
        if structure is not None:
            cell = row[structure]
            content = cell if isinstance(cell, str) else json.dumps(cell)
            yield given, name, "json" if content.lstrip().startswith("{") else "cif", content, share()
        elif text is not None:
            yield given, name, "formula", str(row[text] or ""), share()
        else:
            rest = {key: value for key, value in row.items() if key is not None and key != own}
            yield given, name, "parameters", json.dumps(rest), share()


def _ase(path: Path) -> Iterator[tuple[str, str, Form, str, float]]:
    for entry in entries(path, "ase"):
        try:
            crystal = entry.read() if entry.read is not None else None
        except MaterialError as error:
            yield str(entry.facts.get("id", "")), entry.name, "unreadable", str(error), math.nan
            continue
        content = json.dumps(crystal.to_json() if crystal else {})
        yield str(entry.facts.get("id", "")), entry.name, "json", content, math.nan


def _suffix(name: str) -> str:
    return Path(name.lower().removesuffix(".gz")).suffix


def _members(path: Path) -> list[Path]:
    return sorted(file for file in path.iterdir() if _suffix(file.name) in MEMBERS and file.is_file())


@contextmanager
def _binary(path: Path) -> Iterator[tuple[IO[bytes], Callable[[], float]]]:
    """Open a file that may be gzipped, with a function that says how much of it is read."""
    size = max(1, path.stat().st_size)
    with path.open("rb") as file:
        raw: IO[bytes] = gzip.GzipFile(fileobj=file) if path.suffix == ".gz" else file  # type: ignore[assignment]
        yield raw, lambda: file.tell() / size
