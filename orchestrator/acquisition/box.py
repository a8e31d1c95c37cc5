"""Whether a decision is made on a box with gradients; apart from the search itself, which imports torch."""

from __future__ import annotations

from orchestrator.abilities import HasBotorchView
from orchestrator.acquisition.situation import Situation
from orchestrator.protocols import BoxSpace, FiniteSpace


def is_box(situation: Situation) -> bool:
    """Say whether the space is a box that cannot be listed, and the surrogate has a view with gradients."""
    space, surrogate = situation.space, situation.trained
    if isinstance(space, FiniteSpace) or not isinstance(space, BoxSpace):
        return False
    return "botorch" in surrogate.supports() and isinstance(surrogate, HasBotorchView)
