"""Monte Carlo improvement over a box by botorch, for surrogates whose posterior is not known in closed form.

Balandat et al., NeurIPS 2020, arXiv:1910.06403; Ament et al., NeurIPS 2023, arXiv:2310.20708; Daulton et al., NeurIPS
2021, arXiv:2105.08195.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from botorch.acquisition.logei import qLogNoisyExpectedImprovement
from botorch.acquisition.multi_objective import logei as hypervolume_logei
from botorch.acquisition.multi_objective.logei import qLogNoisyExpectedHypervolumeImprovement
from botorch.acquisition.multi_objective.objective import GenericMCMultiOutputObjective
from botorch.acquisition.objective import GenericMCObjective
from botorch.exceptions.warnings import BotorchWarning
from botorch.models.model import Model
from botorch.sampling import SobolQMCNormalSampler
from linear_operator.utils.warnings import NumericalWarning

from orchestrator.abilities import BotorchView
from orchestrator.acquisition.box_gains import utility
from orchestrator.acquisition.box_scores import Torch
from orchestrator.acquisition.gains import pursued
from orchestrator.acquisition.situation import Situation
from orchestrator.domain import Array, Candidate, Objective

CHUNK = 128
"""Points scored at once: bounds the memory of the joint posterior with every measured point."""


# botorch 0.18 compiles C++ with the machine's own flags at the first use of this acquisition function: minutes of a
# campaign's time, a warning where there is no compiler, and other last digits on another machine. Not here.
if hasattr(hypervolume_logei, "_load_attempted"):
    hypervolume_logei._load_attempted = True  # noqa: SLF001  there is no public switch


class Known(Protocol):
    """Measured points, b × d as `encoding` takes them, and the corner from which hypervolume is counted."""

    points: Array
    corner: Array


class MonteCarlo(Torch):
    """botorch's noisy log expected (hypervolume) improvement over box coordinates.

    Args:
        situation: gives goals, odds of success and prices.
        view: the surrogate.
        encoding: from coordinates to what the view takes.
        baseline: measured points.
        pending: coordinates of points in flight and of earlier picks.
        draws: Monte Carlo draws.
        before: what the instruments are set up for; None for what the situation says.
    """

    def __init__(
        self,
        situation: Situation,
        view: BotorchView,
        encoding: Callable[[torch.Tensor], torch.Tensor],
        baseline: Known,
        pending: Array,
        *,
        draws: int,
        before: Candidate | None = None,
    ) -> None:
        self.situation, self.before = situation, before
        problem = situation.problem
        column = {name: j for j, name in enumerate(problem.properties)}
        shape = torch.Size([draws if len(pursued(problem)) == 1 else min(draws, 128)])
        common: dict[str, Any] = {
            "model": _InBox(view.model, encoding),
            "X_baseline": torch.from_numpy(baseline.points),
            "sampler": SobolQMCNormalSampler(shape, seed=situation.seed_for("draws") % 2**31),
            "X_pending": torch.from_numpy(pending) if len(pending) else None,
            "constraints": _constraints(situation, column) or None,
            "prune_baseline": True,
            "cache_root": False,  # the shortcut knows gpytorch models only, not one behind an encoding
        }
        goals = [(column[o.property], _utility(o)) for o in pursued(problem)]

        def several(values: torch.Tensor, X: torch.Tensor | None = None) -> torch.Tensor:  # noqa: ARG001, N803
            return torch.stack([own(values[..., j]) for j, own in goals], dim=-1)

        def one(values: torch.Tensor, X: torch.Tensor | None = None) -> torch.Tensor:  # noqa: ARG001, N803
            return goals[0][1](values[..., goals[0][0]])

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NumericalWarning)
            warnings.simplefilter("ignore", BotorchWarning)  # about pending points being detached: they are
            if len(goals) == 1:
                self.inner: Any = qLogNoisyExpectedImprovement(objective=GenericMCObjective(one), **common)
            else:
                self.inner = qLogNoisyExpectedHypervolumeImprovement(
                    ref_point=baseline.corner.tolist(), objective=GenericMCMultiOutputObjective(several), **common
                )

    def value(self, points: torch.Tensor) -> torch.Tensor:
        """Return the logarithms, N."""
        parts = [self.inner(points[i : i + CHUNK].unsqueeze(-2)) for i in range(0, len(points), CHUNK)]
        return torch.cat(parts)

    def beside(self, candidates: Sequence[Candidate]) -> Array:
        """Return log odds of success minus what expense counts."""
        return np.asarray(self.situation.log_success(candidates) - self.situation.price(candidates, self.before))


class _InBox(Model):  # type: ignore[misc]  # botorch is untyped
    """A surrogate's botorch model over box coordinates."""

    def __init__(self, inner: Any, encoding: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.inner = inner
        self.encoding = encoding

    @property
    def num_outputs(self) -> int:
        return int(self.inner.num_outputs)

    @property
    def batch_shape(self) -> torch.Size:
        return self.inner.batch_shape  # type: ignore[no-any-return]

    def posterior(self, X: torch.Tensor, *args: Any, **kwargs: Any) -> Any:  # noqa: N803  botorch's name
        return self.inner.posterior(self.encoding(X), *args, **kwargs)


def _utility(objective: Objective) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda values: utility(objective, values)


def _constraints(situation: Situation, column: dict[str, int]) -> list[Callable[[torch.Tensor], torch.Tensor]]:
    made: list[Callable[[torch.Tensor], torch.Tensor]] = []
    for constraint in situation.problem.constraints:
        j = column[constraint.property]
        if constraint.low is not None:
            made.append(_excess(j, constraint.low, -1.0))
        if constraint.high is not None:
            made.append(_excess(j, constraint.high, 1.0))
    return made


def _excess(j: int, bound: float, sign: float) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda values: sign * (values[..., j] - bound)
