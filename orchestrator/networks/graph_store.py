"""Neighbour lists on disk, under the hash of their crystal: built once, whichever campaign asks.

A shard is one safetensors file, named by its SHA-256, with the neighbour lists of many crystals. Species and positions
come from the crystal that is asked about, so a shard holds 14 bytes an edge. What cannot be read is built again, with a
warning.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from orchestrator.domain import Crystal, sha256
from orchestrator.networks.crystals import content_key
from orchestrator.networks.feature_cache import cache_folder
from orchestrator.networks.graphs import Graph, Integers, build_many, frame

FORMAT = 1
"""Version of the shards' layout and of what `graphs.build` finds; part of the folder's name."""
MOST_BYTES = 2 * 1024**3
"""Disk space for one cutoff; the oldest shards go first."""
SHARD = 20_000
"""Crystals a shard: 25 MB at 90 edges each."""
CHANGED = "its content is not what its name, a SHA-256, says"

_log = logging.getLogger(__name__)


class GraphStore:
    """Graphs of one cutoff in the user's cache folder.

    Args:
        cutoff: in Å.
        nearest: see `graphs.build`.
        folder: another folder for the shards.
        most_bytes: disk space; the oldest shards go first.
    """

    def __init__(
        self, cutoff: float, *, nearest: int | None = None, folder: Path | None = None, most_bytes: int = MOST_BYTES
    ) -> None:
        self.cutoff, self.nearest = cutoff, nearest
        limit = "" if nearest is None else f"-{nearest}"
        self.folder = (folder or cache_folder("graphs")) / f"{FORMAT}-{cutoff:g}{limit}"
        self._most_bytes = most_bytes

    def get(self, crystals: Sequence[Crystal], *, workers: int | None = None) -> list[Graph]:
        """Return the graphs of n crystals, building and storing what is not known yet.

        Args:
            crystals: n structures.
            workers: see `graphs.build_many`.

        Raises:
            MaterialError: see `graphs.build`.
        """
        keys = [content_key(crystal) for crystal in crystals]
        wanted = dict(zip(keys, crystals, strict=True))
        found = self._read(wanted)
        missing = [key for key in wanted if key not in found]
        for start in range(0, len(missing), SHARD):
            part = missing[start : start + SHARD]
            graphs = build_many([wanted[key] for key in part], self.cutoff, workers=workers, nearest=self.nearest)
            fresh = dict(zip(part, graphs, strict=True))
            self._write(fresh, wanted)
            found |= fresh
        return [found[key] for key in keys]

    def _read(self, wanted: Mapping[str, Crystal]) -> dict[str, Graph]:
        found: dict[str, Graph] = {}
        for path in self._shards():
            if len(found) == len(wanted):
                break
            try:
                packed = path.read_bytes()
                if path.stem != sha256(packed):
                    raise ValueError(CHANGED)  # noqa: TRY301  one way out for every damage
                content = load(packed)
                keys, counts = content["keys"], content["counts"]
                edges, images = content["edges"], content["images"]
                _check(keys, counts, edges, images)
            except (OSError, SafetensorError, KeyError, ValueError) as error:
                _log.warning("the cache file %s cannot be used (%s); its graphs are built again", path, error)
                path.unlink(missing_ok=True)
                continue
            ends = np.cumsum(counts)
            for key, end, count in zip(keys, ends, counts, strict=True):
                name = bytes(key).hex()
                if name in wanted and name not in found:
                    own = slice(end - count, end)
                    lattice, species, positions = frame(wanted[name])
                    shifts = images[own].astype(np.int64) @ lattice
                    found[name] = Graph(species, positions, edges[:, own].astype(np.int64), shifts)
        return found

    def _write(self, graphs: Mapping[str, Graph], crystals: Mapping[str, Crystal]) -> None:
        images = [_images(graph, crystals[key]) for key, graph in graphs.items()]
        content = {
            "keys": np.array([list(bytes.fromhex(key)) for key in graphs], dtype=np.uint8),
            "counts": np.array([graph.edges.shape[1] for graph in graphs.values()], dtype=np.int64),
            "edges": np.concatenate([graph.edges for graph in graphs.values()], axis=1).astype(np.int32),
            "images": np.concatenate(images).astype(np.int16),
        }
        # safetensors writes memory as it lies, so every array must lie in rows.
        packed = save({key: np.ascontiguousarray(array) for key, array in content.items()})
        name = sha256(packed)
        partial = self.folder / f".{name}.{os.getpid()}.partial"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            partial.write_bytes(packed)
            partial.replace(self.folder / f"{name}.safetensors")
            self._forget()
        except OSError as error:  # a cache is a convenience: a full disk must not stop a campaign here
            _log.warning("graphs cannot be cached in %s: %s", self.folder, error)

    def _forget(self) -> None:
        """Remove the oldest shards until the rest fits."""
        total = 0
        for path in self._shards():
            total += path.stat().st_size
            if total > self._most_bytes:
                path.unlink(missing_ok=True)

    def _shards(self) -> list[Path]:
        """Return the shards, the newest first."""
        stamped = []
        for path in self.folder.glob("*.safetensors"):
            try:
                stamped.append((path.stat().st_mtime_ns, path.name, path))
            except OSError:  # another process has removed it just now
                continue
        return [path for *_, path in sorted(stamped, reverse=True)]


def _images(graph: Graph, crystal: Crystal) -> Integers:
    """Return the cells, e × 3, in which the edges' destinations lie."""
    shifts = np.linalg.solve(np.array(crystal.lattice, dtype=np.float64).T, graph.shifts.T).T
    images: Integers = np.rint(shifts).astype(np.int64)
    return images


def _check(keys: Integers, counts: Integers, edges: Integers, images: Integers) -> None:
    e = int(counts.sum()) if len(counts) else 0
    shapes = (keys.shape, edges.shape, images.shape)
    expected = ((len(counts), 32), (2, e), (e, 3))
    if shapes != expected or counts.min(initial=0) < 0:
        message = f"arrays of {shapes}, expected {expected}"
        raise ValueError(message)
