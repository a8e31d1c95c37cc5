"""Frozen features of CHGNet 0.3.0, whose weights come inside its wheel.

CHGNet: Deng et al., Nature Machine Intelligence 5, 1031 (2023), doi:10.1038/s42256-023-00716-3.

A crystal becomes the mean, spread, largest and smallest of its atoms' features after several layers, and a few numbers
with a meaning: the energy, the energy beyond the element references that CHGNet itself was trained with (close to a
formation energy without a single label), magnetic moments, volume and density. Early layers know geometry, late ones
energies; which layer helps depends on the property (see also doi:10.48550/arXiv.2506.18497).

Each crystal goes through the network alone, so that its features never depend on what was computed beside it; they are
kept in memory and, as safetensors, in the user's cache folder.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import threading
import uuid
import warnings
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from platformdirs import user_cache_path
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from orchestrator.domain import Array, Crystal
from orchestrator.errors import MaterialError
from orchestrator.networks.crystals import content_key, to_structure

KNOWLEDGE = "chgnet-0.3.0"
"""What surrogates that use these features declare in `knows`."""
LAYOUT = 1
"""Version of the columns below; part of the cache's name."""

Layer = Literal["conv1", "conv2", "conv3", "readout"]
LAYERS: tuple[Layer, ...] = ("conv1", "conv2", "conv3", "readout")
POOLS = ("mean", "spread", "largest", "smallest")
WIDTH = 64
"""Features an atom in CHGNet 0.3.0."""
Scalar = Literal["energy", "interaction_energy", "magmom_mean", "magmom_largest", "volume_per_atom", "density"]
SCALARS: tuple[Scalar, ...] = (
    "energy",
    "interaction_energy",
    "magmom_mean",
    "magmom_largest",
    "volume_per_atom",
    "density",
)
DIMENSION = len(LAYERS) * len(POOLS) * WIDTH + len(SCALARS)
FEW_FILES = 32
"""Cache files above which they are merged into one."""
MOST_CACHED = 200_000
"""Crystals kept in memory and on disk: 0.8 GB at 4 kB each; the oldest go first."""
CACHE_VARIABLE = "MATLOOP_CACHE"
"""Environment variable that names another folder for caches."""

_log = logging.getLogger(__name__)


def columns(layers: Sequence[Layer], pools: Sequence[str] = POOLS) -> tuple[int, ...]:
    """Return the columns of some layers.

    Args:
        layers: of `LAYERS`.
        pools: of `POOLS`.

    Returns:
        Column numbers of `features`.
    """
    starts = [(LAYERS.index(layer) * len(POOLS) + POOLS.index(pool)) * WIDTH for layer in layers for pool in pools]
    return tuple(start + k for start in starts for k in range(WIDTH))


def scalar_columns(names: Sequence[Scalar] = SCALARS) -> tuple[int, ...]:
    """Return the columns of some of `SCALARS`, in the order given."""
    return tuple(DIMENSION - len(SCALARS) + SCALARS.index(name) for name in names)


def features(crystals: Sequence[Crystal]) -> Array:
    """Return frozen features, about 20 ms a crystal on one core at first and nothing later.

    Args:
        crystals: n crystals.

    Returns:
        n × `DIMENSION`.

    Raises:
        MaterialError: CHGNet cannot read a crystal.
    """
    return _store().get(crystals)


class FeatureStore:
    """Features by crystal, in memory and on disk.

    Args:
        folder: where files are kept; None keeps nothing on disk.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self._known: dict[str, npt.NDArray[np.float32]] = {}
        self._read = False
        self._lock = threading.Lock()

    def get(self, crystals: Sequence[Crystal]) -> Array:
        """Return features, computing what is not known yet; n × `DIMENSION`."""
        keys = [content_key(crystal) for crystal in crystals]
        with self._lock:
            missing = [i for i, key in enumerate(keys) if key not in self._known]
            if missing and not self._read:
                self._read_files()
                missing = [i for i in missing if keys[i] not in self._known]
            if missing:
                self._compute({keys[i]: crystals[i] for i in missing})
            return np.array([self._known[key] for key in keys], dtype=np.float64).reshape(len(keys), DIMENSION)

    def _compute(self, wanted: dict[str, Crystal]) -> None:
        if len(wanted) > 100:  # noqa: PLR2004  two seconds: long enough to say so
            _log.info("computing CHGNet features of %d crystals, about 20 ms each", len(wanted))
        new = {}
        try:
            for key, crystal in wanted.items():
                new[key] = _network().describe(crystal)
        finally:
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
            if values.shape == (len(keys), DIMENSION) and values.dtype == np.float32:
                self._known |= dict(zip(keys, values, strict=True))
        while len(self._known) > MOST_CACHED:
            self._known.pop(next(iter(self._known)))
        if len(files) > FEW_FILES and self._write(self._known):
            for path in files:
                path.unlink(missing_ok=True)

    def _write(self, new: dict[str, npt.NDArray[np.float32]]) -> bool:
        if self.folder is None:
            return False
        name = uuid.uuid4().hex
        partial = self.folder / f".{name}.partial"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            save_file({"features": np.array(list(new.values()))}, partial, {"keys": json.dumps(list(new))})
            partial.replace(self.folder / f"{name}.safetensors")
        except OSError as error:  # a cache is a convenience: a full disk must not stop a campaign here
            _log.warning("CHGNet features cannot be cached in %s: %s", self.folder, error)
            return False
        return True


class _Network:
    """CHGNet with hooks that catch the atoms' features after each layer."""

    def __init__(self) -> None:
        from chgnet.model import CHGNet  # noqa: PLC0415  seconds to import, needed with these features only

        with contextlib.redirect_stdout(io.StringIO()):  # CHGNet prints its size
            self.model = CHGNet.load(use_device="cpu", verbose=False).eval()
        self.caught: dict[str, Any] = {}
        for name, layer in zip(LAYERS, self.model.atom_conv_layers, strict=False):
            if name != "readout":
                layer.register_forward_hook(self._catch(name))
        self.model.readout_norm.register_forward_hook(self._catch("readout"))
        self.references = self.model.composition_model.fc.weight.detach().numpy().ravel()

    def _catch(self, name: str) -> Any:
        def hook(_module: Any, _inputs: Any, output: Any) -> None:
            self.caught[name] = output.detach()

        return hook

    def describe(self, crystal: Crystal) -> npt.NDArray[np.float32]:
        structure = to_structure(crystal)
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="Converting a tensor with requires_grad=True")
                graph = self.model.graph_converter(structure)
                answer = self.model.predict_graph(graph, task="em")
        except (ValueError, RuntimeError, IndexError) as error:
            message = (
                f"CHGNet cannot read {structure.composition.reduced_formula} ({len(structure)} atoms,"
                f" {structure.volume:.1f} Å³): {error}; leave this structure out of the space"
            )
            raise MaterialError(message) from error
        parts = []
        for layer in LAYERS:
            atoms = self.caught[layer].numpy()
            parts += [atoms.mean(0), atoms.std(0), atoms.max(0), atoms.min(0)]
        energy = float(np.asarray(answer["e"]))
        reference = float(np.mean([self.references[number - 1] for number in structure.atomic_numbers]))
        moments = np.abs(np.asarray(answer["m"]))
        volume = structure.volume / len(structure)
        scalars = [energy, energy - reference, moments.mean(), moments.max(), volume, float(structure.density)]
        row: npt.NDArray[np.float32] = np.concatenate([*parts, scalars]).astype(np.float32)
        if not np.all(np.isfinite(row)):
            message = (
                f"CHGNet gives features that are not finite for {structure.composition.reduced_formula}; look for atoms"
                " on top of each other"
            )
            raise MaterialError(message)
        return row


@cache
def _network() -> _Network:
    return _Network()


@cache
def _store() -> FeatureStore:
    base = os.environ.get(CACHE_VARIABLE)
    folder = Path(base) if base else user_cache_path("matloop", appauthor=False)
    return FeatureStore(folder / f"{KNOWLEDGE}-layout{LAYOUT}")
