"""A surrogate's state on disk: arrays as safetensors, the rest as JSON; no pickle, so that loading runs no code."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file, save_file

from orchestrator.errors import SurrogateError

ARRAYS, REST = "state.safetensors", "state.json"
FORMAT = 1
"""Version of the files' layout; another one is refused."""

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
    save_file({name: np.ascontiguousarray(array) for name, array in sorted(arrays.items())}, folder / ARRAYS)
    content = {"format": FORMAT, "kind": kind, "properties": list(properties), "rest": rest}
    (folder / REST).write_text(json.dumps(content, indent=1, sort_keys=True, allow_nan=True), encoding="utf-8")


def read(folder: Path, kind: str, properties: Sequence[str]) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
    """Read what `write` wrote.

    Args:
        folder: where from; the store has checked its hash.
        kind: name of the surrogate that reads.
        properties: m modelled properties of the problem.

    Returns:
        Arrays by name, and the JSON content.

    Raises:
        SurrogateError: the folder holds another surrogate, other properties or another format.
    """
    try:
        content = json.loads((folder / REST).read_text(encoding="utf-8"))
        arrays = load_file(folder / ARRAYS)
    except (OSError, ValueError) as error:
        message = f"no fit of {kind} can be read from {folder}: {error}; train again without loading it"
        raise SurrogateError(message) from error
    for name, seen, wanted in (
        ("format", content.get("format"), FORMAT),
        ("surrogate", content.get("kind"), kind),
        ("properties", content.get("properties"), list(properties)),
    ):
        if seen != wanted:
            message = f"the fit in {folder} has {name} {seen!r}, expected {wanted!r}; train again without loading it"
            raise SurrogateError(message)
    return arrays, content["rest"]
