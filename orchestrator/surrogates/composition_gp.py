"""Gaussian process on element statistics: the cheapest surrogate that knows what it does not know.

It sees no structure, so it needs none; features after Ward et al., npj Comput. Mater. 2, 16028 (2016),
doi:10.1038/npjcompumats.2016.28 (`networks.composition`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy.typing as npt

from orchestrator.domain import Array, Candidate, JsonObject
from orchestrator.networks import composition
from orchestrator.protocols import Support
from orchestrator.surrogates.encoding import Scaling
from orchestrator.surrogates.gaussian import Design, GaussianOptions, WithBotorch
from orchestrator.surrogates.kernels import Term
from orchestrator.surrogates.targets import Standardised


class CompositionGaussianProcessOptions(GaussianOptions):
    """Options of `composition_gp`."""

    kernel: Literal["matern52", "rbf"] = "matern52"


class CompositionGaussianProcess(WithBotorch):
    """Gaussian process on element statistics: a smooth function of them and a straight line.

    Args:
        options: see `CompositionGaussianProcessOptions`.
    """

    Options = CompositionGaussianProcessOptions
    kind = "composition_gp"

    def __init__(self, options: CompositionGaussianProcessOptions | None = None) -> None:
        super().__init__()
        self.options: CompositionGaussianProcessOptions = options or CompositionGaussianProcessOptions()

    def supports(self) -> frozenset[Support]:
        """Name what it can learn from and answer."""
        inputs: frozenset[Support] = frozenset({"structure", "composition"})
        return inputs | self._answers()

    def _learn(self, data: Standardised, seed: int, *, warm: bool) -> Design:
        del seed, warm
        raw = self._encode(data.labels.candidates)
        every = (tuple(range(raw.shape[1])),)
        scaling = Scaling.standardise(raw, composition.FLOOR * composition.spread())
        return Design(scaling, (Term(self.options.kernel, every), Term("linear", every)))

    def _encode(self, candidates: Sequence[Candidate]) -> Array:
        return composition.statistics(candidates)

    def _encoding_state(self) -> tuple[dict[str, npt.NDArray[Any]], JsonObject]:
        return {}, {}

    def _load_encoding(self, arrays: Mapping[str, npt.NDArray[Any]], rest: Mapping[str, Any]) -> None:
        pass  # element statistics are the same for ever
