"""Features that are dear to compute, kept by crystal: in memory, and as safetensors in the user's cache folder."""

from __future__ import annotations

import json
import logging
import os
import threading
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from platformdirs import user_cache_path
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from orchestrator.domain import Array, Crystal
from orchestrator.networks.crystals import content_key

FEW_FILES = 32
"""Cache files above which they are merged into one."""
MOST_CACHED = 200_000
"""Crystals kept in memory and on disk; the oldest go first."""
CACHE_VARIABLE = "MATLOOP_CACHE"
"""Environment variable that names another folder for caches."""

Row = npt.NDArray[np.float32]
_log = logging.getLogger(__name__)


def cache_folder(name: str) -> Path:
    """Return the folder of one kind of features."""
    base = os.environ.get(CACHE_VARIABLE)
    folder = Path(base) if base else user_cache_path("matloop", appauthor=False)
    return folder / name


class FeatureCache:
    """Features by crystal, in memory and on disk.

    Args:
        folder: where files are kept; None keeps nothing on disk.
        width: numbers a crystal.
        compute: yields the row of each crystal, in order; rows that came before an error are kept.
        every: rows after which the file on disk is written, for features that take seconds each.
    """

    def __init__(
        self,
        folder: Path | None,
        width: int,
        compute: Callable[[Sequence[Crystal]], Iterable[Row]],
        *,
        every: int = 100_000,
    ) -> None:
        self.folder = folder
        self._width, self._compute_rows, self._every = width, compute, every
        self._known: dict[str, Row] = {}
        self._read = False
        self._lock = threading.Lock()

    def get(self, crystals: Sequence[Crystal]) -> Array:
        """Return features, computing what is not known yet; n × width."""
        keys = [content_key(crystal) for crystal in crystals]
        with self._lock:
            missing = [i for i, key in enumerate(keys) if key not in self._known]
            if missing and not self._read:
                self._read_files()
                missing = [i for i in missing if keys[i] not in self._known]
            if missing:
                self._compute({keys[i]: crystals[i] for i in missing})
            rows = np.array([self._known[key] for key in keys], dtype=np.float64).reshape(len(keys), self._width)
            while len(self._known) > MOST_CACHED:
                self._known.pop(next(iter(self._known)))
            return rows

    def _compute(self, wanted: Mapping[str, Crystal]) -> None:
        new: dict[str, Row] = {}
        try:
            rows = iter(self._compute_rows(list(wanted.values())))
            for key in wanted:
                new[key] = next(rows)
                if len(new) >= self._every:
                    self._keep(new)
                    new = {}
        finally:
            self._keep(new)

    def _keep(self, new: dict[str, Row]) -> None:
        self._known |= new
        if new:
            self._write(new)

    def _read_files(self) -> None:
        self._read = True
        if self.folder is None:
            return
        files = sorted(self.folder.glob("*.safetensors"), key=lambda path: path.name)
        for path in files:
            try:
                with safe_open(path, framework="np") as file:
                    keys = json.loads((file.metadata() or {})["keys"])
                    values = file.get_tensor("features")
            except (OSError, SafetensorError, KeyError, ValueError) as error:
                _log.warning("the cache file %s cannot be used (%s); its features are computed again", path, error)
                continue
            if values.shape == (len(keys), self._width) and values.dtype == np.float32:
                self._known |= dict(zip(keys, values, strict=True))
        while len(self._known) > MOST_CACHED:
            self._known.pop(next(iter(self._known)))
        if len(files) > FEW_FILES and self._write(self._known):
            for path in files:
                path.unlink(missing_ok=True)

    def _write(self, new: Mapping[str, Row]) -> bool:
        if self.folder is None:
            return False
        name = uuid.uuid4().hex
        partial = self.folder / f".{name}.partial"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            save_file({"features": np.array(list(new.values()))}, partial, {"keys": json.dumps(list(new))})
            partial.replace(self.folder / f"{name}.safetensors")
        except OSError as error:  # a cache is a convenience: a full disk must not stop a campaign here
            _log.warning("features cannot be cached in %s: %s", self.folder, error)
            return False
        return True
