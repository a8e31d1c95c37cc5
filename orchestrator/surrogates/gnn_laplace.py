"""Crystal graph network with a Bayesian last layer: the cheapest honest uncertainty, also for very many labels.

Trunks are trained as in `gnn_gp`, each without one fold of the labels. The last layer over their readouts, their
answers and the untrained columns beside them has a Gaussian posterior in closed form (`last_layer`, after Daxberger et
al., NeurIPS 2021, doi:10.48550/arXiv.2106.14806). Prior precisions and noise are those under which the labels that a
trunk has not seen are likeliest. A new label changes the posterior in milliseconds, and a draw is a draw of weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Self

from pydantic import Field, model_validator

from orchestrator.domain import Array
from orchestrator.surrogates.graph_surrogate import CrossFitted, CrossFittedOptions
from orchestrator.surrogates.hyper import Hyperparameters, Points
from orchestrator.surrogates.kernels import Term
from orchestrator.surrogates.last_layer import LastLayerHead, linear_terms


class GraphLaplaceOptions(CrossFittedOptions):
    """Options of `gnn_laplace`."""

    kernel: Literal["matern52", "rbf"] = Field(default="matern52", description="not for this one: its layer is linear")

    @model_validator(mode="after")
    def _no_kernel(self) -> Self:
        if self.kernel != "matern52":  # the default, which a written-out list of options repeats
            message = "a last layer is linear and has no kernel; leave 'kernel' out, or use 'gnn_gp'"
            raise ValueError(message)
        return self


class GraphLaplace(CrossFitted):
    """Bayesian last layer on cross-fitted trunks.

    Args:
        options: see `GraphLaplaceOptions`.
    """

    Options = GraphLaplaceOptions
    kind = "gnn_laplace"
    head = "laplace"

    def __init__(self, options: GraphLaplaceOptions | None = None) -> None:
        super().__init__(options or GraphLaplaceOptions())

    def _terms(self, count: int) -> tuple[Term, ...]:
        return linear_terms(super()._terms(count))

    def _make_head(self, terms: tuple[Term, ...], hyper: Hyperparameters, points: Points) -> LastLayerHead:
        return LastLayerHead(terms, hyper, points)

    def _head_from(self, terms: tuple[Term, ...], arrays: Mapping[str, Array], sd_scale: float) -> LastLayerHead:
        return LastLayerHead.from_arrays(terms, arrays, sd_scale)
