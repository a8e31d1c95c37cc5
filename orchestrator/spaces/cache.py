"""What was read of a file of structures, kept in the user's cache folder as JSON.

Reading four thousand CIFs takes half a minute; the cache a second. An entry is named after the hash of the file, the
options and the version of the format, so it can never be out of date; a damaged one is ignored and written anew.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import platformdirs

from orchestrator.domain import Candidate, Json, JsonObject, sha256

FORMAT = 1
"""Grows when candidates are read differently, so that older entries are not found."""


def key(path: Path, options: str) -> str:
    """Return the name of the entry for a file and the options that it is read with."""
    return sha256(f"{FORMAT}/{hash_of(path)}/{options}")


def hash_of(path: Path) -> str:
    """Return the SHA-256 of a file, or of the names and contents of a folder's files."""
    if path.is_dir():
        parts = [f"{file.name}:{sha256(file.read_bytes())}" for file in sorted(path.iterdir()) if file.is_file()]
        return sha256("\n".join(parts))
    return sha256(path.read_bytes())


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


def _file(entry: str) -> Path:
    return Path(platformdirs.user_cache_dir("matloop")) / "pools" / f"{entry}.json"
