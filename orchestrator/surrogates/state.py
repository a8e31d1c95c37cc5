"""A surrogate's state on disk: arrays as safetensors, the rest as JSON; no pickle, so that loading runs no code."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load, save

from orchestrator.domain import sha256
from orchestrator.errors import SurrogateError

ARRAYS, REST = "state.safetensors", "state.json"
FORMAT = 2
"""Version of the files' layout: 2 states the SHA-256 of the arrays."""
UNHASHED = 1
"""The layout before that is still read; another one is refused."""

NO_OBJECT = "its state.json holds no object"

Arrays = Mapping[str, npt.NDArray[Any]]


def write(folder: Path, kind: str, properties: Sequence[str], arrays: Arrays, rest: Mapping[str, Any]) -> None:
    """Write a state into an existing folder.

    Args:
        folder: where to.
        kind: name of the surrogate.
        properties: m modelled properties.
        arrays: by name.
        rest: JSON content.
    """
    packed = save({name: np.ascontiguousarray(array) for name, array in sorted(arrays.items())})
    (folder / ARRAYS).write_bytes(packed)
    content = {
        "format": FORMAT,
        "kind": kind,
        "properties": list(properties),
        "arrays_sha256": sha256(packed),
        "rest": rest,
    }
    (folder / REST).write_text(json.dumps(content, indent=1, sort_keys=True, allow_nan=True), encoding="utf-8")


def read(folder: Path, kind: str, properties: Sequence[str]) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
    """Read what `write` wrote.

    Args:
        folder: where from.
        kind: name of the surrogate that reads.
        properties: m modelled properties of the problem.

    Returns:
        Arrays by name, and the JSON content.

    Raises:
        SurrogateError: the folder holds another surrogate, other properties or another format, or its arrays are not
            those that were written.
    """
    try:
        content = json.loads((folder / REST).read_text(encoding="utf-8"))
        packed = (folder / ARRAYS).read_bytes()
        if not isinstance(content, dict):
            raise ValueError(NO_OBJECT)  # noqa: TRY004, TRY301  damage like any other, told in one way
    except (OSError, ValueError) as error:
        message = f"no fit of {kind} can be read from {folder}: {error}; train again without loading it"
        raise SurrogateError(message) from error
    layout = content.get("format")
    for name, seen, wanted in (
        ("format", layout, UNHASHED if layout == UNHASHED else FORMAT),
        ("SHA-256 of its arrays", sha256(packed), _stated(content, packed)),
        ("surrogate", content.get("kind"), kind),
        ("properties", content.get("properties"), list(properties)),
    ):
        if seen != wanted:
            message = f"the fit in {folder} has {name} {seen!r}, expected {wanted!r}; train again without loading it"
            raise SurrogateError(message)
    try:
        return load(packed), content["rest"]
    except (SafetensorError, KeyError, ValueError) as error:
        message = f"the fit in {folder} is damaged: {error}; train again without loading it"
        raise SurrogateError(message) from error


def _stated(content: Mapping[str, Any], packed: bytes) -> object:
    """Return the hash that the arrays should have; the older layout states none."""
    return sha256(packed) if content.get("format") == UNHASHED else content.get("arrays_sha256")
