"""Structures and tables from files: CIF folders, JSON, extended XYZ, CSV and Parquet, ASE databases.

Every entry has a name by which an error can be traced to its file and row.
"""

from __future__ import annotations

import gzip
import json
import sqlite3
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from pymatgen.core import Structure
from pymatgen.io.ase import AseAtomsAdaptor
from pymatgen.io.cif import CifParser

from orchestrator.domain import Crystal, frozen
from orchestrator.errors import MaterialError
from orchestrator.materials.structures import check, from_pymatgen

Kind = Literal["cif", "json", "extxyz", "table", "ase"]
SUFFIXES: Mapping[str, Kind] = {
    ".cif": "cif",
    ".json": "json",
    ".xyz": "extxyz",
    ".extxyz": "extxyz",
    ".csv": "table",
    ".parquet": "table",
    ".db": "ase",
}


@dataclass(frozen=True)
class Entry:
    """One structure or row of a file.

    Args:
        name: file and row, for people.
        read: gives the structure; raises MaterialError where it cannot be read. None for rows without structures.
        facts: the other columns, or what the file says of the structure.
    """

    name: str
    read: Callable[[], Crystal] | None = None
    facts: Mapping[str, Any] = field(default_factory=frozen)


def kind_of(path: Path, told: Literal["auto"] | Kind = "auto") -> Kind:
    """Tell the kind of a file or folder: as told, or by its suffix; a folder is one of CIFs.

    Raises:
        MaterialError: there is no such file, or its suffix is not known.
    """
    if not path.exists():
        message = f"there is no file or folder {path}; relative paths start at the folder of the campaign file"
        raise MaterialError(message)
    if told != "auto":
        return told
    if path.is_dir():
        return "cif"
    suffixes = [suffix for suffix in path.suffixes if suffix != ".gz"]
    if not suffixes or suffixes[-1].lower() not in SUFFIXES:
        message = f"{path} has no suffix that is known ({', '.join(SUFFIXES)}, each also with .gz); give 'kind'"
        raise MaterialError(message)
    return SUFFIXES[suffixes[-1].lower()]


def entries(path: Path, kind: Kind, structure_column: str | None = None) -> Iterator[Entry]:
    """Give the entries of a file in its order.

    Args:
        path: file, or folder of CIFs.
        kind: what it is.
        structure_column: for tables: the column that holds a CIF text or a JSON structure.

    Yields:
        Entries; structures are read when asked for, so that one that cannot be read is told by name.

    Raises:
        MaterialError: the file as a whole cannot be read.
    """
    readers: Mapping[Kind, Callable[[], Iterator[Entry]]] = {
        "cif": lambda: _cif_entries(path),
        "json": lambda: _json_entries(path),
        "extxyz": lambda: _xyz_entries(path),
        "table": lambda: _table_entries(path, structure_column),
        "ase": lambda: _ase_entries(path),
    }
    return readers[kind]()


def crystal_from_cif(text: str, name: str = "CIF") -> Crystal:
    """Read the one structure of a CIF text.

    Raises:
        MaterialError: it cannot be read, holds no or several structures, or none that can be computed with.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pymatgen tells of every rounding of a coordinate
            structures = CifParser.from_str(text).parse_structures(primitive=False, on_error="raise")
    except Exception as error:  # the parser raises whatever the text makes it stumble over
        message = f"{name} cannot be read as a CIF: {_line(error)}; open it in a viewer, or set 'unreadable: skip'"
        raise MaterialError(message) from error
    if len(structures) != 1:
        message = f"{name} holds {len(structures)} structures; one was expected: split the file"
        raise MaterialError(message)
    return from_pymatgen(structures[0], name)


def crystal_from_json(content: Any, name: str = "JSON") -> Crystal:
    """Read a structure from JSON content: Matloop's own, or pymatgen's dictionary.

    Raises:
        MaterialError: it is neither.
    """
    try:
        if "frac_coords" in content:
            return check(Crystal.from_json(content), name)
        return from_pymatgen(Structure.from_dict(content), name)
    except MaterialError:
        raise
    except Exception as error:  # pymatgen raises whatever the content makes it stumble over
        message = (
            f"{name} cannot be read as a structure: {_line(error)}; expected are the keys lattice, species and"
            " frac_coords, or pymatgen's Structure.as_dict()"
        )
        raise MaterialError(message) from error


def read_table(path: Path) -> pd.DataFrame:
    """Read a CSV or Parquet file with every cell as text, so that the formula NaN stays sodium nitride.

    Args:
        path: the file; CSV may be compressed.

    Returns:
        Rows as text; an empty cell is an empty text.

    Raises:
        MaterialError: it cannot be read; for Parquet without pyarrow, with the command to type.
    """
    try:
        if ".parquet" in path.suffixes:
            return pd.read_parquet(path).map(lambda value: "" if value is None or value != value else str(value))  # noqa: PLR0124  NaN differs from itself
        return pd.read_csv(path, dtype=str, keep_default_na=False)
    except ImportError as error:
        message = f"reading {path} needs pyarrow; install it with: pip install 'matloop[parquet]'"
        raise MaterialError(message) from error
    except (OSError, ValueError, UnicodeDecodeError) as error:
        message = f"{path} cannot be read as a table: {_line(error)}"
        raise MaterialError(message) from error


def _cif_entries(path: Path) -> Iterator[Entry]:
    files = sorted(path.glob("*.cif")) if path.is_dir() else [path]
    if not files:
        message = f"the folder {path} holds no file *.cif"
        raise MaterialError(message)
    for file in files:
        yield Entry(file.name, partial(_from_cif_file, file), {"file": file.name})


def _json_entries(path: Path) -> Iterator[Entry]:
    try:
        content = json.loads(_text(path))
    except ValueError as error:
        message = f"{path.name} is no JSON: {_line(error)}"
        raise MaterialError(message) from error
    if isinstance(content, dict) and isinstance(content.get("structures"), (list, dict)):
        content = content["structures"]
    elif isinstance(content, dict) and "lattice" in content:
        content = [content]
    if not isinstance(content, (list, dict)):
        message = f"{path.name} holds a {type(content).__name__}; a list or mapping of structures was expected"
        raise MaterialError(message)
    named = content.items() if isinstance(content, dict) else enumerate(content, start=1)
    for key, item in named:
        name = f"{path.name}: entry {key}"
        structure = item.get("structure", item) if isinstance(item, dict) else item
        facts = {k: v for k, v in item.items() if not isinstance(v, (dict, list))} if structure is not item else {}
        yield Entry(name, partial(crystal_from_json, structure, name), {"key": str(key), **facts})


def _xyz_entries(path: Path) -> Iterator[Entry]:
    from ase.io import iread  # noqa: PLC0415  0.5 s, and only these files need it

    try:
        for number, atoms in enumerate(iread(path, index=":", format="extxyz"), start=1):
            name = f"{path.name}: frame {number}"
            facts = {k: v for k, v in atoms.info.items() if isinstance(v, (str, int, float))}
            yield Entry(name, partial(_from_ase, atoms, name), {"frame": number, **facts})
    except (OSError, ValueError, KeyError, IndexError) as error:
        message = f"{path.name} cannot be read as extended XYZ: {_line(error)}"
        raise MaterialError(message) from error


def _ase_entries(path: Path) -> Iterator[Entry]:
    from ase.db import connect  # noqa: PLC0415  see _xyz_entries

    try:
        for row in connect(path).select():
            name = f"{path.name}: row {row.id}"
            facts = {"id": row.id, **row.key_value_pairs}
            yield Entry(name, partial(_from_row, row, name), facts)
    except (OSError, ValueError, KeyError, sqlite3.DatabaseError) as error:
        message = f"{path.name} cannot be read as an ASE database: {_line(error)}"
        raise MaterialError(message) from error


def _table_entries(path: Path, structure_column: str | None) -> Iterator[Entry]:
    table = read_table(path)
    if structure_column is not None and structure_column not in table.columns:
        message = (
            f"{path.name} has no column {structure_column!r} with structures; its columns: "
            f"{', '.join(map(str, table.columns))}; name what candidates are with 'structure_column',"
            " 'composition_column' or 'parameters'"
        )
        raise MaterialError(message)
    for number, row in enumerate(table.to_dict("records"), start=1):
        name = f"{path.name}: row {number}"
        facts = {str(key): value for key, value in row.items() if key != structure_column}
        if structure_column is None:
            yield Entry(name, None, facts)
        else:
            text = str(row[structure_column])
            yield Entry(name, partial(_from_cell, text, name), facts)


def _from_cif_file(file: Path) -> Crystal:
    return crystal_from_cif(_text(file), file.name)


def _from_row(row: Any, name: str) -> Crystal:
    return _from_ase(row.toatoms(), name)


def _from_cell(text: str, name: str) -> Crystal:
    if not text.lstrip().startswith("{"):
        return crystal_from_cif(text, name)
    try:
        content = json.loads(text)
    except ValueError as error:
        message = f"{name} holds no readable JSON structure: {_line(error)}"
        raise MaterialError(message) from error
    return crystal_from_json(content, name)


def _from_ase(atoms: Any, name: str) -> Crystal:
    if not all(atoms.pbc) or abs(atoms.cell.volume) < 1e-6:  # noqa: PLR2004  no cell at all
        message = (
            f"{name} is not periodic in three directions (pbc {[bool(p) for p in atoms.pbc]}); crystals are needed"
        )
        raise MaterialError(message)
    return from_pymatgen(AseAtomsAdaptor.get_structure(atoms), name)


def _text(path: Path) -> str:
    try:
        content = path.read_bytes()
        return (gzip.decompress(content) if path.suffix == ".gz" else content).decode("utf-8")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        message = f"{path.name} cannot be read as text: {_line(error)}"
        raise MaterialError(message) from error


def _line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0] if text else 'no details'}"
