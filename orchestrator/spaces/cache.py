"""What was read of a file of structures, kept in the user's cache folder as JSON.

Reading four thousand CIFs takes half a minute; the cache a second. An entry is named after the hash of the file, the
options and the version of the format, so it can never be out of date; a damaged one is ignored and written anew.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from orchestrator import kept
from orchestrator.domain import Candidate, Json, JsonObject, sha256

FORMAT = 1
"""Grows when candidates are read differently, so that older entries are not found."""
CHUNK = 100_000
"""Rows of a columnar pool that are worked on at once."""


def key(path: Path, options: str) -> str:
    """Return the name of the entry for a file and the options that it is read with."""
    return sha256(f"{FORMAT}/{hash_of(path)}/{options}")


def hash_of(path: Path) -> str:
    """Return the SHA-256 of a file, or of the names and contents of a folder's files."""
    if path.is_dir():
        parts = [f"{file.name}:{sha256(file.read_bytes())}" for file in sorted(path.iterdir()) if file.is_file()]
        return sha256("\n".join(parts))
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def hash_of_array(array: npt.NDArray[Any]) -> str:
    """Return the SHA-256 of an array's bytes."""
    digest = hashlib.sha256()
    for start in range(0, len(array), CHUNK):
        digest.update(np.ascontiguousarray(array[start : start + CHUNK]).tobytes())
    return digest.hexdigest()


def signature(path: Path) -> tuple[tuple[str, int, int], ...]:
    """Return what changes when a file, or a folder's files, are written: names, sizes and times; cheap to look at."""
    if not path.exists():
        return ()
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    found = [(file.name, file.stat()) for file in files if file.is_file()]
    return tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in found)


def read(entry: str) -> tuple[list[Candidate], dict[str, Json]] | None:
    """Return candidates and facts of an entry, or None where there is none that is whole."""
    try:
        stated, _, body = _file(entry).read_text("utf-8").partition("\n")
        if sha256(body) != stated:
            return None
        content = json.loads(body)
        return [Candidate.from_json(item) for item in content["candidates"]], dict(content["facts"])
    except (OSError, ValueError, KeyError, TypeError):
        return None  # the file itself is still there to be read


def write(entry: str, candidates: Sequence[Candidate], facts: Mapping[str, Json]) -> str:
    """Write an entry, whole or not at all.

    Args:
        entry: from `key`.
        candidates: what was read.
        facts: what was left out and why.

    Returns:
        What happened, for the space's summary: a cache that cannot be written costs time and nothing else.
    """
    content: JsonObject = {"candidates": [candidate.to_json() for candidate in candidates], "facts": dict(facts)}
    body = json.dumps(content, allow_nan=False)
    target = _file(entry)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:  # vanishes with whatever was half written
            whole = Path(folder) / target.name
            whole.write_text(f"{sha256(body)}\n{body}", "utf-8")
            whole.replace(target)
    except OSError as error:
        return f"not written: {error}"
    return "written"


def read_arrays(entry: str, *, memory_map_above: int) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Json]] | None:
    """Return arrays and facts of an entry, or None where there is none that is whole.

    Args:
        entry: from `key`.
        memory_map_above: rows above which arrays stay on disk.
    """
    place = kept.folder("columns") / entry
    try:
        content = json.loads((place / "facts.json").read_text("utf-8"))
        arrays = {}
        for name, (number, digest) in content["arrays"].items():
            mapped = np.load(place / f"{number}.npy", mmap_mode="r", allow_pickle=False)
            if hash_of_array(mapped) != digest:
                return None
            arrays[name] = mapped if len(mapped) > memory_map_above else np.array(mapped)
        return arrays, dict(content["facts"])
    except (OSError, ValueError, KeyError, TypeError):
        return None  # the file itself is still there to be read


def write_arrays(entry: str, arrays: Mapping[str, npt.NDArray[Any]], facts: Mapping[str, Json]) -> str:
    """Write an entry of arrays, whole or not at all; see `write`."""
    target = kept.folder("columns") / entry
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            whole = Path(folder) / "whole"
            whole.mkdir()
            named = {}
            for number, (name, array) in enumerate(sorted(arrays.items())):
                np.save(whole / f"{number}.npy", array, allow_pickle=False)
                named[name] = (number, hash_of_array(array))
            (whole / "facts.json").write_text(json.dumps({"arrays": named, "facts": dict(facts)}), "utf-8")
            if target.exists():  # damaged, or written by another process meanwhile
                target.replace(Path(folder) / "old")
            whole.replace(target)
    except OSError as error:
        return f"not written: {error}"
    return "written"


def _file(entry: str) -> Path:
    return kept.folder("pools") / f"{entry}.json"
