"""What is used where a campaign file says nothing."""

from __future__ import annotations

from orchestrator.config.schema import CampaignConfig, Use
from orchestrator.protocols import ProductSpace, SearchSpace

IMPORTED = "table"
"""`initial.use` that means: start from results that exist already."""


MULTI_FIDELITY = "multi_fidelity"
"""The surrogate that learns from cheaper fidelities and from earlier campaigns, where they help."""


def default_surrogate(space: SearchSpace, config: CampaignConfig | None = None) -> Use:
    """Choose the surrogate where the campaign file names none.

    Args:
        space: the search space.
        config: the campaign, for its fidelities and earlier campaigns.

    Returns:
        A graph network under a Gaussian process for structures, a forest for compositions, a Gaussian process for
        process parameters and for materials under them; inside of one that learns from other fidelities too, where
        there are any.
    """
    if config is not None and (config.fidelities or config.earlier):
        return Use(use=MULTI_FIDELITY, options={"surrogate": default_surrogate(space).model_dump()})
    offers = space.offers()
    if isinstance(space, ProductSpace) or offers >= {"structure", "parameters"}:
        return Use(use="gaussian_process")
    if "structure" in offers:
        return Use(use="gnn_gp")
    if "composition" in offers:
        return Use(use="composition_forest")
    return Use(use="gaussian_process")
