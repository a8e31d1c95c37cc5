"""Frozen features of SevenNet-0 (11 July 2024), whose weights come inside its wheel: an extra, `matloop[sevennet]`.

SevenNet: Park et al., Journal of Chemical Theory and Computation 20, 4857 (2024), doi:10.1021/acs.jctc.4c00190.

The network is equivariant; of each layer only the scalars are taken, which no rotation changes. A crystal becomes their
mean and spread over its atoms, and the energy an atom. Which layer helps depends on the property: on the phonons of
MatBench the second is nearly twice as good as the last (50.7 against 87.3 cm⁻¹).
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.util import find_spec
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from orchestrator.domain import Array, Crystal
from orchestrator.errors import MaterialError, PluginError
from orchestrator.networks.crystals import to_structure
from orchestrator.networks.feature_cache import FeatureCache, cache_folder

KNOWLEDGE = "sevennet-0-11jul2024"
"""What surrogates that use these features declare in `knows`."""
LAYOUT = 1
"""Version of the columns below; part of the cache's name."""

Layer = Literal["conv1", "conv2", "conv3", "conv4", "conv5"]
LAYERS: tuple[Layer, ...] = ("conv1", "conv2", "conv3", "conv4", "conv5")
POOLS = ("mean", "spread")
WIDTH = 128
"""Scalars an atom after each layer."""
DIMENSION = len(LAYERS) * len(POOLS) * WIDTH + 1

_log = logging.getLogger(__name__)


def columns(layers: Sequence[Layer]) -> tuple[int, ...]:
    """Return the columns of some layers; the energy, the last column, belongs to none."""
    block = len(POOLS) * WIDTH
    return tuple(LAYERS.index(layer) * block + k for layer in layers for k in range(block))


def features(crystals: Sequence[Crystal]) -> Array:
    """Return frozen features, about 50 ms a crystal on one core at first and nothing later.

    Args:
        crystals: n crystals.

    Returns:
        n × `DIMENSION`.

    Raises:
        MaterialError: SevenNet cannot read a crystal.
        PluginError: the package is missing; the message names the command to type.
    """
    return _cache().get(crystals)


def check_package() -> None:
    """Refuse to go on without the package.

    Raises:
        PluginError: it is not installed.
    """
    if find_spec("sevenn") is None:
        message = "the features of SevenNet need sevenn, not installed here: type pip install 'matloop[sevennet]'"
        raise PluginError(message)


def _compute(crystals: Sequence[Crystal]) -> Iterator[npt.NDArray[np.float32]]:
    check_package()
    if len(crystals) > 50:  # noqa: PLR2004  some seconds: long enough to say so
        _log.info("computing SevenNet features of %d crystals, about 50 ms each", len(crystals))
    for crystal in crystals:
        yield _network().describe(crystal)


class _Network:
    """SevenNet-0 up to its energies, without forces."""

    def __init__(self) -> None:
        from sevenn.calculator import SevenNetCalculator  # noqa: PLC0415  an extra, seconds to import

        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            calculator = SevenNetCalculator("7net-0", device="cpu")
        self.body: Any = calculator.model.eval()
        self.cutoff = float(calculator.cutoff)

    def describe(self, crystal: Crystal) -> npt.NDArray[np.float32]:
        structure = to_structure(crystal)
        try:
            layers, energy = self._forward(structure)
        except (ValueError, RuntimeError, IndexError) as error:
            message = (
                f"SevenNet cannot read {structure.composition.reduced_formula} ({len(structure)} atoms,"
                f" {structure.volume:.1f} Å³): {error}; leave this structure out of the space"
            )
            raise MaterialError(message) from error
        parts = [part for atoms in layers for part in (atoms.mean(0), atoms.std(0))]
        row: npt.NDArray[np.float32] = np.concatenate([*parts, [energy]]).astype(np.float32)
        if not np.all(np.isfinite(row)):
            message = (
                f"SevenNet gives features that are not finite for {structure.composition.reduced_formula}; look for"
                " atoms on top of each other"
            )
            raise MaterialError(message)
        return row

    def _forward(self, structure: Any) -> tuple[list[npt.NDArray[Any]], float]:
        import torch  # noqa: PLC0415  as above
        from ase import Atoms  # noqa: PLC0415
        from sevenn.atom_graph_data import AtomGraphData  # noqa: PLC0415
        from sevenn.train.dataload import unlabeled_atoms_to_graph  # noqa: PLC0415

        atoms = Atoms(
            numbers=structure.atomic_numbers,
            positions=structure.cart_coords,
            cell=structure.lattice.matrix,
            pbc=True,
        )
        content = AtomGraphData.from_numpy_dict(unlabeled_atoms_to_graph(atoms, self.cutoff, with_shift=False))
        caught: list[npt.NDArray[Any]] = []
        with torch.no_grad():
            content = self.body._preprocess(content)  # noqa: SLF001  `forward` without its last part, the forces
            for name, layer in self.body.named_children():
                content = layer(content)
                if name.endswith("equivariant_gate"):
                    caught.append(content["x"][:, :WIDTH].numpy().copy())  # the scalars come first
                if name == "rescale_atomic_energy":
                    break
        return caught, float(content["atomic_energy"].mean())


@cache
def _network() -> _Network:
    return _Network()


@cache
def _cache() -> FeatureCache:
    return FeatureCache(cache_folder(f"{KNOWLEDGE}-layout{LAYOUT}"), DIMENSION, _compute, every=500)
