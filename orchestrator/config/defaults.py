"""What is used where a campaign file says nothing."""

from __future__ import annotations

from orchestrator.config.schema import Use
from orchestrator.protocols import SearchSpace

IMPORTED = "table"
"""`initial.use` that means: start from results that exist already."""


def default_surrogate(space: SearchSpace) -> Use:
    """Choose the surrogate where the campaign file names none.

    Args:
        space: the search space.

    Returns:
        A graph network under a Gaussian process for structures, a forest for compositions, a Gaussian process for
        process parameters.
    """
    offers = space.offers()
    if "structure" in offers:
        return Use(use="gnn_gp")
    if "composition" in offers:
        return Use(use="composition_forest")
    return Use(use="gaussian_process")
