"""Crystal graph network with a Gaussian-process head: a deep kernel that is honest about what it has not seen.

A few trunks of one network each leave one fold of the labels out. The head is one Gaussian process whose covariance
adds the trunks' readouts and answers, the neighbourhood statistics of `networks.environments` and those of the
composition; it is exact, and variational above `exact_up_to` labels. Its hyperparameters are learned from labels as
seen by the trunk that was not trained on them (`surrogates.crossfit`), so the head leans on the network as far as the
network has proved itself: hardly at twenty labels, more with each. Networks' features under a Gaussian process: Tran
et al., Mach. Learn.: Sci. Technol. 1, 025006 (2020), doi:10.1088/2632-2153/ab7e1a. Nothing in it is pretrained.
"""

from __future__ import annotations

from orchestrator.surrogates.gaussian import WithBotorch
from orchestrator.surrogates.graph_surrogate import CrossFitted, CrossFittedOptions


class GraphGaussianProcessOptions(CrossFittedOptions):
    """Options of `gnn_gp`."""


class GraphGaussianProcess(CrossFitted, WithBotorch):
    """Gaussian process on cross-fitted trunks.

    Args:
        options: see `GraphGaussianProcessOptions`.
    """

    Options = GraphGaussianProcessOptions
    kind = "gnn_gp"
    head = "gp"

    def __init__(self, options: GraphGaussianProcessOptions | None = None) -> None:
        super().__init__(options or GraphGaussianProcessOptions())
