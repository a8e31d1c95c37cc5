"""Gaussian process on what a pretrained potential sees in a crystal: strong from the first ten labels on.

The features are CHGNet's (`networks.pretrained`), with untrained statistics of neighbourhoods and composition. Nothing
of the network is trained. `knows` says so, because a campaign whose instrument is the same potential would be asking it
for its own answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from orchestrator.domain import Array, Candidate, JsonObject
from orchestrator.networks import composition, environments, pretrained
from orchestrator.networks.crystals import crystals_of
from orchestrator.protocols import Options, Support
from orchestrator.surrogates.encoding import Scaling
from orchestrator.surrogates.gaussian import Design, WithBotorch
from orchestrator.surrogates.kernels import Term
from orchestrator.surrogates.targets import Standardised

Block = Literal["chgnet", "energies", "environments", "composition"]

NETWORK_FLOOR = 0.02
"""Smallest scale of a column from the network, whose features are layer-normalised, and of energies and moments."""


class PotentialGaussianProcessOptions(Options):
    """Options of `potential_gp`."""

    features: tuple[Block, ...] = Field(
        default=("chgnet", "energies", "environments", "composition"),
        min_length=1,
        description=(
            "chgnet: pooled atom features; energies: energy, moments, volume; environments: who sits beside whom;"
            " composition: element statistics"
        ),
    )
    layers: tuple[pretrained.Layer, ...] = Field(default=("readout",), min_length=1)
    pools: tuple[Literal["mean", "spread", "largest", "smallest"], ...] = Field(default=("mean",), min_length=1)
    pca: int | None = Field(
        default=None, ge=1, description="keep so many principal components of the chgnet columns of the labelled ones"
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
    """Gaussian process on frozen CHGNet features.

    Args:
        options: see `PotentialGaussianProcessOptions`.
    """

    Options = PotentialGaussianProcessOptions
    kind = "potential_gp"

    def __init__(self, options: PotentialGaussianProcessOptions | None = None) -> None:
        super().__init__()
        self.options = options or PotentialGaussianProcessOptions()
        self._projection: Array | None = None
        self._centre: Array | None = None

    def supports(self) -> frozenset[Support]:
        """Name what it can learn from and answer."""
        return frozenset({"structure", "uncertainty", "draws", "botorch"})

    def knows(self) -> frozenset[str]:
        """Name the pretrained knowledge inside."""
        return frozenset({pretrained.KNOWLEDGE}) if {"chgnet", "energies"} & set(self.options.features) else frozenset()

    def _learn(self, data: Standardised, seed: int, *, warm: bool) -> Design:
        del seed, warm
        candidates = data.labels.candidates
        self._projection = self._centre = None
        if self.options.pca is not None and "chgnet" in self.options.features:
            self._project(self._block("chgnet", candidates), self.options.pca)
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
        everything = pretrained.features(crystals_of(candidates))
        if name == "energies":
            return everything[:, list(pretrained.scalar_columns(self.options.scalars))]
        chosen = everything[:, list(pretrained.columns(self.options.layers, self.options.pools))]
        if self._projection is None or self._centre is None:
            return chosen
        projected: Array = (chosen - self._centre) @ self._projection
        return projected

    def _project(self, chosen: Array, most: int) -> None:
        scale = np.maximum(chosen.std(0), self.options.floor)
        centre = chosen.mean(0)
        _, sizes, directions = np.linalg.svd((chosen - centre) / scale, full_matrices=False)
        kept = min(most, int((sizes > 1e-6 * sizes[0]).sum())) or 1
        self._centre = centre
        self._projection = directions[:kept].T / scale[:, None]

    def _floors(self, name: Block, width: int) -> Array:
        if name == "composition":
            return composition.FLOOR * composition.spread()
        fixed = {"chgnet": self.options.floor, "energies": NETWORK_FLOOR, "environments": composition.FLOOR}
        return np.full(width, fixed[name])

    def _encoding_state(self) -> tuple[dict[str, npt.NDArray[Any]], JsonObject]:
        if self._projection is None or self._centre is None:
            return {}, {"projected": False}
        return {"projection": self._projection, "centre": self._centre}, {"projected": True}

    def _load_encoding(self, arrays: Mapping[str, npt.NDArray[Any]], rest: Mapping[str, Any]) -> None:
        self._projection = arrays["projection"] if rest["projected"] else None
        self._centre = arrays["centre"] if rest["projected"] else None
