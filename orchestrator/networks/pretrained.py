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
import logging
import warnings
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from orchestrator.domain import Array, Crystal
from orchestrator.errors import MaterialError
from orchestrator.networks.crystals import to_structure
from orchestrator.networks.feature_cache import FeatureCache, cache_folder
from orchestrator.networks.graphs import frame

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
    return _cache().get(crystals)


def cache_in(folder: Path | None) -> FeatureCache:
    """Return a cache of these features in a folder; None keeps nothing on disk."""
    return FeatureCache(folder, DIMENSION, _compute)


def _compute(crystals: Sequence[Crystal]) -> Iterator[npt.NDArray[np.float32]]:
    if len(crystals) > 100:  # noqa: PLR2004  two seconds: long enough to say so
        _log.info("computing CHGNet features of %d crystals, about 20 ms each", len(crystals))
    for crystal in crystals:
        yield _network().describe(crystal)


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
        frame(crystal)  # names what is wrong with a cell better than CHGNet does
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
def _cache() -> FeatureCache:
    return cache_in(cache_folder(f"{KNOWLEDGE}-layout{LAYOUT}"))
