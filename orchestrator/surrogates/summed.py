"""Levels of fidelity as one botorch model: each property a weighted sum of independent Gaussian processes.

What stands on another level is ρ times that plus a correction, and the two are learned one after the other, so that
they are independent given the labels: means add with their weights, covariances with the weights' squares.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from botorch.models.model import Model
from botorch.posteriors.gpytorch import GPyTorchPosterior
from gpytorch.distributions import MultitaskMultivariateNormal, MultivariateNormal

from orchestrator.abilities import BotorchView, HasBotorchView
from orchestrator.surrogates.levels import Level

Summands = tuple[tuple[float, Any], ...]


class SummedModel(Model):  # type: ignore[misc]  # botorch is untyped
    """A botorch model whose outputs are weighted sums of independent ones.

    Args:
        outputs: weight and model, with one output, of each summand of each property; the first summand's noise counts.
    """

    def __init__(self, outputs: tuple[Summands, ...]) -> None:
        super().__init__()
        self.outputs = outputs
        self.inner = torch.nn.ModuleList(model for output in outputs for _, model in output)

    @property
    def num_outputs(self) -> int:
        """Count the properties."""
        return len(self.outputs)

    @property
    def batch_shape(self) -> torch.Size:
        """Say that there is no batch of models."""
        return torch.Size()

    def posterior(
        self,
        X: torch.Tensor,  # noqa: N803  botorch's name
        output_indices: list[int] | None = None,
        observation_noise: bool | torch.Tensor = False,
        posterior_transform: Any = None,
        **_: Any,
    ) -> Any:
        """Return the joint posterior at q points; see `botorch.models.model.Model.posterior`."""
        chosen = range(len(self.outputs)) if output_indices is None else output_indices
        found = []
        for j in chosen:
            mean: Any = 0.0
            covariance: Any = 0.0
            for k, (weight, model) in enumerate(self.outputs[j]):
                own = model.posterior(X, observation_noise=observation_noise if k == 0 else False).distribution
                mean, covariance = mean + weight * own.mean, covariance + weight**2 * own.covariance_matrix
            found.append(MultivariateNormal(mean, covariance))
        joint = found[0] if len(found) == 1 else MultitaskMultivariateNormal.from_independent_mvns(found)
        posterior = GPyTorchPosterior(joint)
        return posterior if posterior_transform is None else posterior_transform(posterior)


def summed_view(levels: Sequence[Level]) -> BotorchView:
    """Return the last level, with everything that it stands on, as a botorch view.

    Args:
        levels: whose surrogates have views over the same columns.
    """
    weight = np.ones_like(levels[-1].rho)
    place: int | None = len(levels) - 1
    outputs: list[list[tuple[float, Any]]] = [[] for _ in weight]
    views: list[BotorchView] = []
    while place is not None:
        level = levels[place]
        view = cast("HasBotorchView", level.surrogate).to_botorch()
        views.append(view)
        models = view.model.models if len(outputs) > 1 else [view.model]
        for output, model, own in zip(outputs, models, weight.tolist(), strict=True):
            if own != 0.0:
                output.append((own, model))
        weight, place = weight * level.rho, level.below
    top = views[0]
    if all(len(output) == 1 for output in outputs):
        return top
    summands = tuple(tuple(output) for output in outputs)
    return BotorchView(SummedModel(summands), top.encode, top.differentiable, summands)
