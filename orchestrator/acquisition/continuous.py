"""Log expected improvement over a box, optimised with gradients by botorch.

Each slot of the batch: sampled feasible points are scored, the best are polished with gradients (discrete axes held),
discrete axes are tried one value away, everything is rounded by the space itself, and the best rounded point that is
not taken wins. Pending candidates and earlier picks are `X_pending`. Balandat et al., NeurIPS 2020, arXiv:1910.06403;
Ament et al., NeurIPS 2023, arXiv:2310.20708; Daulton et al., NeurIPS 2021, arXiv:2105.08195.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from botorch.acquisition.logei import qLogNoisyExpectedImprovement
from botorch.acquisition.multi_objective import logei as hypervolume_logei
from botorch.acquisition.multi_objective.logei import qLogNoisyExpectedHypervolumeImprovement
from botorch.acquisition.multi_objective.objective import GenericMCMultiOutputObjective
from botorch.acquisition.objective import GenericMCObjective
from botorch.exceptions.errors import CandidateGenerationError
from botorch.exceptions.warnings import BotorchWarning
from botorch.models.model import Model
from botorch.optim import optimize_acqf
from botorch.sampling import SobolQMCNormalSampler
from linear_operator.utils.warnings import NumericalWarning

from orchestrator.abilities import BotorchView
from orchestrator.acquisition.draws import reference
from orchestrator.acquisition.encoding import Encoding, knows_choices
from orchestrator.acquisition.gains import utilities
from orchestrator.acquisition.open import blend, open_candidates
from orchestrator.acquisition.policy import Pick, Situation, check_finite, predict
from orchestrator.acquisition.words import expected
from orchestrator.domain import Array, Candidate, Objective
from orchestrator.errors import SpaceError, SpaceExhausted
from orchestrator.protocols import BoxSpace

CHUNK = 128
"""Points scored at once: bounds the memory of the joint posterior with every measured point."""
STEPS = 40
"""Most L-BFGS or SLSQP steps of one start; rounding makes more of them useless."""
VALUES = 24
"""Most values tried on one discrete axis in the step away from a good point."""


# botorch 0.18 compiles C++ with the machine's own flags at the first use of this acquisition function: minutes of a
# campaign's time, a warning where there is no compiler, and other last digits on another machine. Not here.
if hasattr(hypervolume_logei, "_load_attempted"):
    hypervolume_logei._load_attempted = True  # noqa: SLF001  there is no public switch


@dataclass(frozen=True)
class Effort:
    """How much work one slot may be.

    Args:
        samples: feasible points scored.
        restarts: of them polished with gradients.
        draws: Monte Carlo draws of the acquisition function.
    """

    samples: int = 1024
    restarts: int = 6
    draws: int = 256


class _InBox(Model):  # type: ignore[misc]  # botorch is untyped
    """A surrogate's botorch model over box coordinates."""

    def __init__(self, inner: Any, encoding: Encoding) -> None:
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


def pick_in_box(situation: Situation, space: BoxSpace, view: BotorchView, effort: Effort) -> list[Pick] | None:
    """Choose up to q points of a box.

    Args:
        situation: with a trained surrogate.
        space: the box.
        view: the surrogate as a botorch model.
        effort: how much work.

    Returns:
        The picks, best first; None where the encoding is not a plain function of the axes or nothing is measured, so
        that another search must be used.

    Raises:
        SpaceExhausted: no open point was found.
        NonFiniteValues: the acquisition function is not finite.
    """
    axes = space.axes()
    samples = open_candidates(space, situation.closed, effort.samples, situation.seed_for("sample"))
    if not samples:
        message = "no point of the box is left to propose; widen its bounds or constraints, or refine its resolution"
        raise SpaceExhausted(message)
    labels = situation.labels()
    baseline = [c for c in labels.candidates if knows_choices(axes, c)]
    encoding = Encoding.find(axes, view, samples[:16])
    if encoding is None or not baseline:
        return None
    search = _Search(situation, space, view, encoding, effort, tuple(baseline))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(situation.seed_for("torch") % 2**63)
        return search.batch(samples)


@dataclass(frozen=True, eq=False)
class _Search:
    situation: Situation
    space: BoxSpace
    view: BotorchView
    encoding: Encoding
    effort: Effort
    baseline: tuple[Candidate, ...]

    def batch(self, samples: list[Candidate]) -> list[Pick]:
        taken: list[Candidate] = []
        picks: list[Pick] = []
        for slot in range(self.situation.q):
            closed = self.situation.closed | {c.id for c in taken}
            acquisition = self._acquisition([*self.situation.pending, *taken])
            found = self._best(acquisition, samples, closed, slot)
            if found is None:
                break
            candidate, score, polished = found
            taken.append(candidate)
            prediction = predict(self.situation.trained, [candidate])
            reason = (
                f"largest noisy expected improvement in the box; predicted {expected(self.situation, prediction, 0)}"
            )
            facts = {"samples": len(samples), "polished": polished, "expected_gain": math.exp(min(score, 700.0))}
            picks.append(Pick(candidate, score, reason, facts))
        return picks

    def _best(
        self, acquisition: Any, samples: list[Candidate], closed: frozenset[str], slot: int
    ) -> tuple[Candidate, float, bool] | None:
        scores = self._score(acquisition, samples)
        top = [samples[i] for i in np.argsort(-scores, kind="stable")[:16]]
        more = blend(
            self.space,
            [*top, *self._feasible_baseline()],
            samples,
            closed,
            size=max(len(samples) // 4, 16),
            seed=self.situation.seed_for(f"blend {slot}"),
        )
        known = {c.id: c for c in [*samples, *more] if c.id not in closed}
        starts = self._ranked(acquisition, list(known.values()))[: self.effort.restarts]
        if not starts:
            return None
        tried = {c.id: c for c, _ in starts}
        for start, _ in starts:
            for candidate in self._polished(acquisition, start):
                tried.setdefault(candidate.id, candidate)
        leader = self._ranked(acquisition, [c for c in tried.values() if c.id not in closed])[0][0]  # a start at least
        for candidate in self._neighbours(leader):
            tried.setdefault(candidate.id, candidate)
        best, score = self._ranked(acquisition, [c for c in tried.values() if c.id not in closed])[0]
        return best, score, best.id not in known

    def _feasible_baseline(self) -> list[Candidate]:
        """Return measured points that can be blended: those inside the space as it is now."""
        inside = []
        for candidate in self.baseline:
            try:
                inside.append(self.space.make({a.name: candidate.parameters[a.name] for a in self.encoding.axes}))
            except SpaceError:
                continue
        return inside

    def _ranked(self, acquisition: Any, candidates: Sequence[Candidate]) -> list[tuple[Candidate, float]]:
        ordered = sorted(candidates, key=lambda c: c.id)
        scores = self._score(acquisition, ordered)
        return [(ordered[i], float(scores[i])) for i in np.argsort(-scores, kind="stable")]

    def _score(self, acquisition: Any, candidates: Sequence[Candidate]) -> Array:
        if not candidates:
            return np.zeros(0)
        points = torch.from_numpy(self.encoding.coordinates(candidates)).unsqueeze(-2)
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore", NumericalWarning)  # near-equal points need jitter; the scores stay usable
            parts = [acquisition(points[i : i + CHUNK]) for i in range(0, len(points), CHUNK)]
        scores: Array = torch.cat(parts).numpy()
        check_finite(~np.isnan(scores), "acquisition values")
        return scores

    def _polished(self, acquisition: Any, start: Candidate) -> list[Candidate]:
        axes = self.encoding.axes
        point = self.encoding.coordinates([start])[0]
        fixed = {
            j: float(point[j]) for j, axis in enumerate(axes) if axis.kind != "continuous" or axis.low == axis.high
        }
        if len(fixed) == len(axes):
            return []
        at_most, equal = self._linear()
        bounds = torch.tensor(
            [[0.0] * len(axes), [len(a.choices) - 1.0 if a.kind == "categorical" else 1.0 for a in axes]],
            dtype=torch.double,
        )
        try:
            with warnings.catch_warnings():
                # a start that stops early is still a point to compare; nothing is lost by not warning
                warnings.simplefilter("ignore", BotorchWarning)
                warnings.simplefilter("ignore", RuntimeWarning)
                warnings.simplefilter("ignore", NumericalWarning)
                best, _ = optimize_acqf(
                    acquisition,
                    bounds,
                    q=1,
                    num_restarts=1,
                    batch_initial_conditions=torch.from_numpy(point).reshape(1, 1, -1),
                    fixed_features=fixed or None,
                    inequality_constraints=at_most or None,
                    equality_constraints=equal or None,
                    options={"maxiter": STEPS},
                    retry_on_optimization_warning=False,
                )
        except (CandidateGenerationError, ValueError):  # no step from here stays inside the constraints
            return []
        polished = best.detach().numpy()[0]
        for share in (1.0, 0.9, 0.5):  # rounding may lead outside: step back towards the start, which is inside
            try:
                return [self.space.make(self.encoding.values(point + share * (polished - point)))]
            except SpaceError:
                continue
        return []

    def _neighbours(self, leader: Candidate) -> list[Candidate]:
        """Return the leader with one discrete axis changed, as far as the space takes it."""
        found = []
        for axis in self.encoding.axes:
            if axis.kind == "categorical":
                values: list[Any] = list(axis.choices)[:VALUES]
            elif axis.kind == "integer":
                here = int(float(leader.parameters[axis.name]))
                low, high = max(int(axis.low), here - VALUES // 2), min(int(axis.high), here + VALUES // 2)
                values = list(range(low, high + 1))
            else:
                continue
            for value in values:
                try:
                    found.append(self.space.make({**leader.parameters, axis.name: value}))
                except SpaceError:
                    continue
        return found

    def _linear(self) -> tuple[list[Any], list[Any]]:
        """Turn the space's constraints into botorch's: sums of coordinates that are at least, or equal to, a bound."""
        column = {axis.name: j for j, axis in enumerate(self.encoding.axes)}
        at_most, equal = [], []
        for constraint in self.space.linear():
            names = list(constraint.coefficients)
            spans = [self.encoding.axes[column[n]] for n in names]
            weights = [constraint.coefficients[n] * (a.high - a.low) for n, a in zip(names, spans, strict=True)]
            bound = constraint.bound - sum(
                constraint.coefficients[n] * a.low for n, a in zip(names, spans, strict=True)
            )
            indices = torch.tensor([column[n] for n in names])
            tensor = torch.tensor(weights, dtype=torch.double)
            if constraint.sense == "==":
                equal.append((indices, tensor, float(bound)))
            else:
                at_most.append((indices, -tensor, -float(bound)))
        return at_most, equal

    def _acquisition(self, pending: Sequence[Candidate]) -> Any:
        problem = self.situation.problem
        column = {name: j for j, name in enumerate(problem.properties)}
        model = _InBox(self.view.model, self.encoding)
        shape = torch.Size([self.effort.draws if len(problem.objectives) == 1 else min(self.effort.draws, 128)])
        sampler = SobolQMCNormalSampler(shape, seed=self.situation.seed_for("draws") % 2**31)
        points = [c for c in pending if knows_choices(self.encoding.axes, c)]
        common: dict[str, Any] = {
            "model": model,
            "X_baseline": torch.from_numpy(self.encoding.coordinates(self.baseline)),
            "sampler": sampler,
            "X_pending": torch.from_numpy(self.encoding.coordinates(points)) if points else None,
            "constraints": _constraints(self.situation, column) or None,
            "prune_baseline": True,
            "cache_root": False,  # the shortcut knows gpytorch models only, not one behind an encoding
        }
        goals = [(column[o.property], _utility(o)) for o in problem.objectives]

        def several(values: torch.Tensor, X: torch.Tensor | None = None) -> torch.Tensor:  # noqa: ARG001, N803
            return torch.stack([utility(values[..., j]) for j, utility in goals], dim=-1)

        def one(values: torch.Tensor, X: torch.Tensor | None = None) -> torch.Tensor:  # noqa: ARG001, N803
            return goals[0][1](values[..., goals[0][0]])

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NumericalWarning)
            warnings.simplefilter("ignore", BotorchWarning)  # about pending points being detached: they are
            if len(goals) == 1:
                return qLogNoisyExpectedImprovement(objective=GenericMCObjective(one), **common)
            mean = predict(self.situation.trained, self.baseline).mean
            corner = reference(self.situation, utilities(mean, problem))
            return qLogNoisyExpectedHypervolumeImprovement(
                ref_point=corner.tolist(), objective=GenericMCMultiOutputObjective(several), **common
            )


def _utility(objective: Objective) -> Callable[[torch.Tensor], torch.Tensor]:
    if objective.goal == "maximize":
        return lambda values: values
    if objective.goal == "minimize":
        return lambda values: -values
    target = float(objective.target if objective.target is not None else math.nan)
    return lambda values: -(values - target).abs()


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
