"""Gaussian process on what a pretrained potential sees in a crystal: strong from the first ten labels on.

The features are CHGNet's (`networks.pretrained`) or SevenNet's (`networks.sevennet`), the harmonic phonons that either
gives (`networks.vibrations`), with untrained statistics of neighbourhoods and composition. Nothing of the networks is
trained. `knows` says so, because a campaign whose instrument is the same potential would be asking it for its own
answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from orchestrator.domain import Array, Candidate, JsonObject
from orchestrator.networks import composition, environments, pretrained, sevennet, vibrations
from orchestrator.networks.crystals import crystals_of
from orchestrator.protocols import Support
from orchestrator.surrogates.encoding import Scaling
from orchestrator.surrogates.gaussian import Design, GaussianOptions, WithBotorch
from orchestrator.surrogates.kernels import Term
from orchestrator.surrogates.targets import Standardised

Block = Literal["chgnet", "energies", "sevennet", "vibrations", "environments", "composition"]
PROJECTED: tuple[Block, ...] = ("chgnet", "sevennet")
"""Blocks wide enough to be reduced to principal components."""

NETWORK_FLOOR = 0.02
"""Smallest scale of a column from the network, whose features are layer-normalised, and of energies and moments."""
FREQUENCY_BLUR, STIFFNESS_BLUR, SHARE_BLUR = 5.0, 0.1, 0.01
"""What a potential's own errors blur of vibrational columns: in cm⁻¹, in eV/Å², as a share."""
VIBRATION_FLOOR = 0.02
"""Smallest scale of the logarithm of a vibrational column: two per cent."""


class PotentialGaussianProcessOptions(GaussianOptions):
    """Options of `potential_gp`."""

    features: tuple[Block, ...] = Field(
        default=("chgnet", "energies", "environments", "composition"),
        min_length=1,
        description=(
            "chgnet: pooled atom features; energies: energy, moments, volume; sevennet: pooled atom features of"
            " SevenNet-0 (an extra); vibrations: harmonic phonons, seconds a crystal (an extra); environments: who sits"
            " beside whom; composition: element statistics"
        ),
    )
    layers: tuple[pretrained.Layer, ...] = Field(default=("readout",), min_length=1, description="of CHGNet")
    pools: tuple[Literal["mean", "spread", "largest", "smallest"], ...] = Field(default=("mean",), min_length=1)
    sevennet_layers: tuple[sevennet.Layer, ...] = Field(default=("conv2",), min_length=1, description="of SevenNet-0")
    vibrations_by: vibrations.Potential = Field(default="chgnet", description="whose forces the phonons come from")
    pca: int | None = Field(
        default=None,
        ge=1,
        description="keep so many principal components of the chgnet and the sevennet columns of the labelled ones",
    )
    floor: float = Field(
        default=NETWORK_FLOOR,
        gt=0,
        description="smallest scale of a chgnet column: two thirds of the readout's columns vary by less than 0.02, and"
        " are let in with 0.001",
    )
    kernel: Literal["matern52", "rbf"] = "matern52"
    structure: Literal["joint", "additive"] = Field(
        default="additive", description="one function of all blocks, or a sum of one function a block"
    )
    scalars: tuple[pretrained.Scalar, ...] = Field(
        default=pretrained.SCALARS, min_length=1, description="columns of the block energies"
    )
    mean: Literal["constant", "linear", "zero_shot"] = Field(
        default="linear",
        description="linear: a straight line in every block besides; zero_shot: in the potential's interaction energy"
        " only, so that its ranking is there before the first label",
    )

    @model_validator(mode="after")
    def _zero_shot_has_its_column(self) -> Self:
        if self.mean == "zero_shot" and not ("energies" in self.features and "interaction_energy" in self.scalars):
            message = "'mean: zero_shot' needs the block energies in 'features', with interaction_energy in 'scalars'"
            raise ValueError(message)
        return self


class PotentialGaussianProcess(WithBotorch):
    """Gaussian process on frozen features of pretrained potentials.

    Args:
        options: see `PotentialGaussianProcessOptions`.

    Raises:
        PluginError: a package that a block needs is missing.
    """

    Options = PotentialGaussianProcessOptions
    kind = "potential_gp"
    options: PotentialGaussianProcessOptions

    def __init__(self, options: PotentialGaussianProcessOptions | None = None) -> None:
        super().__init__()
        self.options = options or PotentialGaussianProcessOptions()
        self._projections: dict[Block, _Projection] = {}
        if "sevennet" in self.options.features:
            sevennet.check_package()
        if "vibrations" in self.options.features:
            vibrations.check_packages(self.options.vibrations_by)

    def supports(self) -> frozenset[Support]:
        """Name what it can learn from and answer."""
        inputs: frozenset[Support] = frozenset({"structure"})
        return inputs | self._answers()

    def knows(self) -> frozenset[str]:
        """Name the pretrained knowledge inside."""
        used = set(self.options.features)
        known = {pretrained.KNOWLEDGE} if {"chgnet", "energies"} & used else set()
        known |= {sevennet.KNOWLEDGE} if "sevennet" in used else set()
        known |= {vibrations.KNOWLEDGE[self.options.vibrations_by]} if "vibrations" in used else set()
        return frozenset(known)

    def _learn(self, data: Standardised, seed: int, *, warm: bool) -> Design:
        del seed, warm
        candidates = data.labels.candidates
        self._projections = {}
        if self.options.pca is not None:
            self._projections = {
                name: _Projection.learn(self._block(name, candidates), self.options.pca, self._floor(name))
                for name in PROJECTED
                if name in self.options.features
            }
        blocks = {name: self._block(name, candidates) for name in self.options.features}
        floors = np.concatenate([self._floors(name, block.shape[1]) for name, block in blocks.items()])
        raw = np.hstack(list(blocks.values()))
        groups, start = {}, 0
        for name, block in blocks.items():
            groups[name] = tuple(range(start, start + block.shape[1]))
            start += block.shape[1]
        kernel = self.options.kernel
        if self.options.structure == "additive":
            terms = [Term(kernel, (group,)) for group in groups.values()]
        else:
            terms = [Term(kernel, tuple(groups.values()))]
        if self.options.mean == "linear":
            terms += [Term("linear", (group,)) for group in groups.values()]
        if self.options.mean == "zero_shot":
            place = self.options.scalars.index("interaction_energy")
            terms.append(Term("linear", ((groups["energies"][place],),)))
        return Design(Scaling.standardise(raw, floors), tuple(terms))

    def _encode(self, candidates: Sequence[Candidate]) -> Array:
        return np.hstack([self._block(name, candidates) for name in self.options.features])

    def _block(self, name: Block, candidates: Sequence[Candidate]) -> Array:
        if name == "composition":
            return composition.statistics(candidates)
        if name == "environments":
            return environments.statistics(crystals_of(candidates))
        crystals = crystals_of(candidates)
        if name == "vibrations":
            # Logarithms beyond the scale that the potential blurs, with their sign: imaginary modes are negative.
            return np.arcsinh(vibrations.features(crystals, self.options.vibrations_by) / VIBRATION_BLUR)
        if name == "energies":
            return pretrained.features(crystals)[:, list(pretrained.scalar_columns(self.options.scalars))]
        if name == "sevennet":
            chosen = sevennet.features(crystals)[:, list(sevennet.columns(self.options.sevennet_layers))]
        else:
            chosen = pretrained.features(crystals)[:, list(pretrained.columns(self.options.layers, self.options.pools))]
        return self._projections[name].apply(chosen) if name in self._projections else chosen

    def _floor(self, name: Block) -> float:
        return self.options.floor if name == "chgnet" else NETWORK_FLOOR

    def _floors(self, name: Block, width: int) -> Array:
        if name == "composition":
            return composition.FLOOR * composition.spread()
        if name == "vibrations":
            return np.full(width, VIBRATION_FLOOR)
        return np.full(width, composition.FLOOR if name == "environments" else self._floor(name))

    def _encoding_state(self) -> tuple[dict[str, npt.NDArray[Any]], JsonObject]:
        arrays: dict[str, npt.NDArray[Any]] = {}
        for name, projection in self._projections.items():
            arrays |= {f"projection.{name}": projection.directions, f"centre.{name}": projection.centre}
        return arrays, {"projected": [*sorted(self._projections)]}

    def _load_encoding(self, arrays: Mapping[str, npt.NDArray[Any]], rest: Mapping[str, Any]) -> None:
        self._projections = {
            name: _Projection(arrays[f"centre.{name}"], arrays[f"projection.{name}"]) for name in rest["projected"]
        }


@dataclass(frozen=True, eq=False)
class _Projection:
    """Columns → principal components of the labelled candidates' scaled columns."""

    centre: Array
    directions: Array

    @classmethod
    def learn(cls, chosen: Array, most: int, floor: float) -> Self:
        """Learn at most `most` components of n × d columns whose smallest scale is `floor`."""
        scale = np.maximum(chosen.std(0), floor)
        centre = chosen.mean(0)
        _, sizes, directions = np.linalg.svd((chosen - centre) / scale, full_matrices=False)
        kept = min(most, int((sizes > 1e-6 * sizes[0]).sum())) or 1
        return cls(centre, directions[:kept].T / scale[:, None])

    def apply(self, chosen: Array) -> Array:
        """Return the components, n × kept."""
        projected: Array = (chosen - self.centre) @ self.directions
        return projected


def _blur(column: str) -> float:
    if column.startswith("stiffness"):
        return STIFFNESS_BLUR
    return SHARE_BLUR if column == "unstable_share" else FREQUENCY_BLUR


VIBRATION_BLUR: Array = np.array([_blur(column) for column in vibrations.COLUMNS])
