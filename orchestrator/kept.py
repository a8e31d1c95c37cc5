"""Large arrays in the user's cache folder: written whole or not at all, memory-mapped when they are read.

Entries are named by hashes of what they were made from, so they can never be out of date; deleting the folder costs
time and nothing else.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import platformdirs

from orchestrator.errors import SpaceError


def folder(kind: str) -> Path:
    """Return the folder of one kind of entries; it need not exist yet."""
    return Path(platformdirs.user_cache_dir("matloop")) / kind


def read(kind: str, entry: str) -> npt.NDArray[Any] | None:
    """Return a kept array, memory-mapped; None where there is none."""
    try:
        found: npt.NDArray[Any] = np.load(folder(kind) / f"{entry}.npy", mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError):
        return None
    return found


@contextlib.contextmanager
def scratch(kind: str, entry: str | None, shape: tuple[int, ...]) -> Iterator[npt.NDArray[np.float32]]:
    """Give an array to be filled, which is kept when the block ends without an error.

    Args:
        kind: folder of the entry.
        entry: its name; None gives an ordinary array that is not kept.
        shape: of the array, in single precision.

    Yields:
        The array, zero at first; still good after the block.

    Raises:
        SpaceError: the cache folder cannot be written.
    """
    if entry is None:
        yield np.zeros(shape, dtype=np.float32)
        return
    target = folder(kind) / f"{entry}.npy"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as place:  # vanishes with whatever was half written
            whole = Path(place) / target.name
            made = np.lib.format.open_memmap(whole, mode="w+", dtype=np.float32, shape=shape)
            yield made
            made.flush()
            whole.replace(target)
    except OSError as error:
        message = (
            f"{np.prod(shape) * 4 / 1e6:.0f} MB of numbers cannot be kept in {target.parent}: {error}; free disk space"
            " there, or name another folder with the variable XDG_CACHE_HOME"
        )
        raise SpaceError(message) from error


def prune(kind: str, most: int) -> None:
    """Delete all but the newest entries of a kind; who has an older one mapped keeps it."""
    found = []
    for path in folder(kind).glob("*.npy"):
        with contextlib.suppress(OSError):  # another process may have been quicker
            found.append((path.stat().st_mtime_ns, path))
    for _, path in sorted(found)[: max(len(found) - most, 0)]:
        with contextlib.suppress(OSError):
            path.unlink()
