"""What is to be large over a box: expected improvement, confidence bound, drawn function; with gradients.

Noisy expected improvement in closed form given what the measured points are worth, averaged over draws of that
(Letham et al. 2019, doi:10.1214/18-BA1110; Daulton, Balandat, Bakshy, NeurIPS 2021, arXiv:2105.08195, for several
objectives); confidence bounds after Desautels, Krause, Burdick, J. Mach. Learn. Res. 15, 4053 (2014); drawn functions
after Kandasamy et al., AISTATS 2018, arXiv:1705.09236.
"""

from __future__ import annotations

import math
import warnings
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from linear_operator.utils.warnings import NumericalWarning

from orchestrator.acquisition.box_gains import LOWEST, cells, log_gain, log_holds, log_minus, optimistic, utility
from orchestrator.acquisition.box_posterior import BoxPosterior, Conditioned, normal_draws
from orchestrator.acquisition.box_search import Acquisition
from orchestrator.acquisition.draws import known_feasible, reference
from orchestrator.acquisition.encoding import Encoding, knows_choices
from orchestrator.acquisition.fantasies import believed
from orchestrator.acquisition.gains import Booleans, Front, feasible, pursued, utilities
from orchestrator.acquisition.situation import Situation, predict
from orchestrator.domain import Array, Candidate, Objective
from orchestrator.protocols import Axis

MOST_KNOWN = 16
"""Measured points whose worth is drawn: those that are the best in most draws; the others can hardly be."""
PRUNING = 256
"""Draws that decide which measured points could be the best."""
CONSIDERED = 256
"""Measured points that take part in these draws, the best by their means first."""
SEVERAL = 32
"""Most draws with several objectives, where each one costs a front."""
EVEN_ODDS = math.log(0.5)
WORST = -1e6
"""Logarithm below which odds are not told apart."""
STEP = 1e-4
"""Coordinate difference for slopes of what has no gradient of its own."""


class Torch(Acquisition):
    """Values and slopes of a torch function."""

    @abstractmethod
    def value(self, points: torch.Tensor) -> torch.Tensor:
        """Return N values at N × d coordinates."""

    def values(self, points: Array) -> Array:
        """Return the value at each point."""
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore", NumericalWarning)  # near-equal points need jitter; values stay usable
            return np.asarray(self.value(torch.from_numpy(np.ascontiguousarray(points))).numpy(), dtype=np.float64)

    def slopes(self, points: Array) -> tuple[Array, Array]:
        """Return values and gradients."""
        asked = torch.from_numpy(np.ascontiguousarray(points)).requires_grad_()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NumericalWarning)
            found = self.value(asked)
            (slope,) = torch.autograd.grad(found.sum(), asked)
        return found.detach().numpy(), slope.numpy()


class Goals:
    """Columns of the problem's objectives and constraints."""

    def __init__(self, situation: Situation) -> None:
        problem = situation.problem
        column = {name: j for j, name in enumerate(problem.properties)}
        self.objectives: list[tuple[int, Objective]] = [(column[o.property], o) for o in pursued(problem)]
        self.constraints = [(column[c.property], c) for c in problem.constraints]
        self.columns = len(problem.properties)

    def apart(self) -> bool:
        """Say whether no property is both an objective and constrained: then draws of the two are independent."""
        return not {j for j, _ in self.objectives} & {j for j, _ in self.constraints}


class Improvement(Torch):
    """Logarithm of the noisy expected (hypervolume) improvement, constraints counted by their probability.

    Args:
        situation: gives goals, labels, odds of success and prices.
        posterior: of the surrogate.
        baseline: measured candidates with their coordinates, already the few that could be the best.
        pending: coordinates of points in flight and of earlier picks.
        draws: of what the known points are worth.
        before: what the instruments are set up for; None for what the situation says.
    """

    def __init__(
        self,
        situation: Situation,
        posterior: BoxPosterior,
        baseline: Baseline,
        pending: Array,
        *,
        draws: int,
        before: Candidate | None = None,
    ) -> None:
        self.situation = situation
        self.before = before
        self.goals = Goals(situation)
        several = len(self.goals.objectives) > 1
        s = min(draws, SEVERAL) if several else draws
        known = torch.from_numpy(np.vstack([pending, baseline.points]))
        b, m = len(known), len(posterior.processes)
        normal = normal_draws(s, b * m, situation.seed_for("draws")).reshape(s, b, m)
        if situation.fantasy != "draws":
            normal[:, : len(pending)] = leaning(situation, posterior, pending)
        self.parts = [Conditioned(p, known, normal[..., j]) for j, p in enumerate(posterior.processes)]
        drawn = torch.stack([part.values for part in self.parts], dim=-1)  # S × b × m
        reached = torch.stack([utility(o, drawn[..., j]) for j, o in self.goals.objectives], dim=-1)
        holds = np.ones(drawn.shape[:2], dtype=bool) & feasible(drawn.numpy(), situation.problem)
        holds[:, len(pending) :] &= baseline.allowed
        allowed = torch.from_numpy(holds)
        if several:
            self.low, self.high = cells(reached, allowed, torch.from_numpy(baseline.corner))
        else:
            best = torch.where(allowed, reached[..., 0], torch.full_like(reached[..., 0], baseline.floor))
            self.best = best.max(dim=1).values if b else torch.full((s,), baseline.floor, dtype=torch.double)

    def value(self, points: torch.Tensor) -> torch.Tensor:
        """Return the logarithms, N."""
        told = [part(points) for part in self.parts]
        if len(self.goals.objectives) == 1:
            j, objective = self.goals.objectives[0]
            gain = log_gain(objective, told[j][0], told[j][1], self.best[:, None])
        else:
            gain = self._volume(told)
        for j, constraint in self.goals.constraints:
            gain = gain + log_holds(constraint, *told[j])
        return torch.logsumexp(gain, dim=0) - math.log(len(gain))

    def _volume(self, told: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
        """Return log expected hypervolume growth in each draw, S × N: a sum over boxes of products over objectives."""
        total: Any = 0.0
        for k, (j, objective) in enumerate(self.goals.objectives):
            mean, sd = told[j][0].unsqueeze(1), told[j][1]  # S × 1 × N, N
            low, high = self.low[..., k : k + 1], self.high[..., k : k + 1]  # S × cells × 1
            part = log_gain(objective, mean, sd, low)
            bounded = torch.isfinite(high)
            if bounded.any():
                beyond = log_gain(objective, mean, sd, torch.where(bounded, high, low))
                part = torch.where(bounded, log_minus(part, beyond), part)
            total = total + part
        empty = ~(self.high > self.low).all(-1, keepdim=True)
        return torch.logsumexp(torch.where(empty, torch.full_like(total, LOWEST), total), dim=1)

    def beside(self, candidates: Sequence[Candidate]) -> Array:
        """Return log odds of success minus what expense counts."""
        return self.situation.log_success(candidates) - self.situation.price(candidates, self.before)


def leaning(situation: Situation, posterior: BoxPosterior, pending: Array) -> torch.Tensor:
    """Return how many standard deviations off its mean each point in flight is taken to yield, points × m.

    Each in its turn, given what the points before it are taken to yield; see `fantasies`.
    """
    if not len(pending):
        return torch.zeros(0, len(posterior.processes), dtype=torch.double)
    with torch.no_grad():
        mean = torch.stack([p.ask(torch.from_numpy(pending))[0] for p in posterior.processes], dim=-1).numpy()
    one = np.ones(mean.shape[1])
    off = [believed(situation.problem, own, one, situation.fantasy) - own for own in mean]
    return torch.from_numpy(np.round(np.array(off)))


class Confidence(Torch):
    """Best utility within `beta` standard deviations; of several objectives the hypervolume that it would add.

    Args:
        situation: gives goals and odds of success.
        posterior: of the surrogate.
        baseline: measured candidates.
        pending: coordinates of points in flight and of earlier picks, which shrink standard deviations around them.
        beta: standard deviations.
    """

    def __init__(
        self, situation: Situation, posterior: BoxPosterior, baseline: Baseline, pending: Array, *, beta: float
    ) -> None:
        self.situation = situation
        self.beta = beta
        self.goals = Goals(situation)
        known = torch.from_numpy(pending)
        taken = leaning(situation, posterior, pending)  # with draws as with believers: only the spread shrinks
        self.parts = [Conditioned(p, known, taken[None, :, j], p.noise) for j, p in enumerate(posterior.processes)]
        with torch.no_grad():
            here = torch.from_numpy(np.vstack([pending, baseline.points]))
            told = [p.ask(here) for p in posterior.processes]
            reached = torch.stack([utility(o, told[j][0]) for j, o in self.goals.objectives], dim=-1)
            bold = torch.stack(
                [optimistic(o, told[j][0], beta * told[j][1].sqrt()) for j, o in self.goals.objectives], -1
            )
        reached[: len(pending)] = bold[: len(pending)]  # an earlier pick counts with the bound that it was chosen for
        allowed = torch.from_numpy(np.concatenate([np.ones(len(pending), dtype=bool), baseline.allowed]))
        spread = reached.std(dim=0, correction=0) if len(reached) else torch.ones(len(self.goals.objectives))
        self.spread = torch.where(spread > 0, spread, torch.ones_like(spread))
        if len(self.goals.objectives) > 1:
            self.low, self.high = cells(reached[None], allowed[None], torch.from_numpy(baseline.corner))

    def value(self, points: torch.Tensor) -> torch.Tensor:
        """Return bounds; lowered by far where a constraint holds with less than even odds."""
        told = [part(points) for part in self.parts]
        bold = torch.stack([optimistic(o, told[j][0][0], self.beta * told[j][1]) for j, o in self.goals.objectives], -1)
        value = bold[:, 0] if bold.shape[1] == 1 else self._volume(bold)
        total = torch.zeros_like(value)
        for j, constraint in self.goals.constraints:
            total = total + log_holds(constraint, told[j][0][0], told[j][1])
        weight = 10.0 * (self.spread[0] if bold.shape[1] == 1 else 1.0)
        return value + weight * torch.where(total >= EVEN_ODDS, torch.zeros_like(total), total.clamp_min(WORST))

    def _volume(self, bold: torch.Tensor) -> torch.Tensor:
        reach = torch.minimum(bold[:, None], self.high) - self.low  # N × cells × k
        volume = (reach.clamp_min(0.0) / self.spread).prod(dim=-1).sum(dim=-1)
        behind = ((bold - bold.detach().max(dim=0).values) / self.spread).sum(dim=-1)  # ranks what adds nothing
        return torch.where(volume > 0, volume, 1e-6 * behind)

    def beside(self, candidates: Sequence[Candidate]) -> Array:
        """Lower by far what is less likely than not to yield a value."""
        odds = self.situation.log_success(candidates)
        weight = 10.0 * (float(self.spread[0]) if len(self.goals.objectives) == 1 else 1.0)
        return np.where(odds >= EVEN_ODDS, 0.0, weight * odds)


class DrawnFunction(Acquisition):
    """One function drawn from the posterior; of several objectives the hypervolume that each point would add in it.

    Args:
        situation: gives goals, odds of success, and the surrogate that draws.
        encoding: from coordinates to candidates.
        number: of the function.
        of: how many functions are drawn.
        seed: of all of them.
    """

    def __init__(self, situation: Situation, encoding: Encoding, number: int, of: int, seed: int) -> None:
        self.situation = situation
        self.encoding = encoding
        self.number, self.of, self.seed = number, of, seed
        self.front: Front | None = None
        self.spread = np.ones(1)
        labels = situation.labels()
        if len(labels):
            drawn = self._draw(labels.candidates)
            reached = utilities(drawn, situation.problem)
            spread = reached.std(axis=0)
            self.spread = np.where(spread > 0, spread, 1.0)
            if reached.shape[1] > 1:
                allowed = feasible(drawn, situation.problem) & known_feasible(labels.values, situation.problem)
                corner = reference(situation, reached)
                self.front = Front(reached[None], allowed[None], corner, floor=np.zeros(1))

    def values(self, points: Array) -> Array:
        """Return utilities, or growth of the hypervolume; lowered by far where a constraint is broken in the draw."""
        drawn = self._draw([_unrounded(self.encoding.axes, self.encoding.values(p)) for p in points])
        reached = utilities(drawn, self.situation.problem)
        if self.front is None:
            value = reached[:, 0]
        else:
            gains = self.front.gains(reached[None], np.ones((1, len(reached)), dtype=bool))[0]
            near = ((reached - reached.max(axis=0)) / self.spread).sum(axis=1)
            value = np.where(gains > 0, gains / self.spread.prod(), 1e-6 * near)
        return value - 10.0 * self._scale * self._broken(drawn)

    def slopes(self, points: Array) -> tuple[Array, Array]:
        """Return values and one-sided differences, inwards at the edges."""
        here = self.values(points)
        moving = [j for j, axis in enumerate(self.encoding.axes) if axis.kind == "continuous"]
        signs = np.where(points[:, moving] + STEP > 1.0, -1.0, 1.0)  # N × moving
        moved = np.repeat(points[:, None, :], len(moving), axis=1)
        for k, j in enumerate(moving):
            moved[:, k, j] += signs[:, k] * STEP
        there = self.values(moved.reshape(-1, points.shape[1])).reshape(len(points), len(moving))
        slope = np.zeros_like(points)
        slope[:, moving] = (there - here[:, None]) * signs / STEP
        return here, slope

    def beside(self, candidates: Sequence[Candidate]) -> Array:
        """Lower by far what is less likely than not to yield a value."""
        odds = self.situation.log_success(candidates)
        return np.where(odds >= EVEN_ODDS, 0.0, 10.0 * self._scale * odds)

    @property
    def _scale(self) -> float:
        return float(self.spread[0]) if self.front is None else 1.0

    def _broken(self, drawn: Array) -> Array:
        """Add up by how much constraints are broken, in spreads of the drawn property; steps say where none is."""
        total = np.zeros(len(drawn))
        column = {name: j for j, name in enumerate(self.situation.problem.properties)}
        for constraint in self.situation.problem.constraints:
            values = drawn[:, column[constraint.property]]
            low = -math.inf if constraint.low is None else constraint.low
            high = math.inf if constraint.high is None else constraint.high
            excess = np.maximum(np.maximum(low - values, values - high), 0.0)
            scale = max(abs(v) for v in (low, high) if math.isfinite(v)) or 1.0
            total += np.where(excess > 0, 1.0 + excess / scale, 0.0)
        return total

    def _draw(self, candidates: Sequence[Candidate]) -> Array:
        drawn = self.situation.trained.draw(candidates, self.of, self.seed)
        return np.asarray(drawn[self.number], dtype=np.float64)


def _unrounded(axes: Sequence[Axis], values: dict[str, Any]) -> Candidate:
    """Return a point that no resolution has touched: gradients need points between the steps of a grid."""
    del axes
    return Candidate.make(label="between", parameters=values)


class Baseline:
    """The measured points of a box that could be the best, found once a decision.

    Args:
        situation: gives labels and goals.
        encoding: of the box.
        posterior: of the surrogate; None where its parts are not known, and every point stays.
    """

    def __init__(self, situation: Situation, encoding: Encoding, posterior: BoxPosterior | None) -> None:
        labels = situation.labels()
        keep = [i for i, c in enumerate(labels.candidates) if knows_choices(encoding.axes, c)]
        self.candidates = tuple(labels.candidates[i] for i in keep)
        self.allowed = known_feasible(labels.values[keep], situation.problem)
        self.points = encoding.coordinates(self.candidates)
        self.floor = 0.0
        self.corner = np.zeros(len(pursued(situation.problem)))
        if not self.candidates:
            return
        mean = predict(situation.trained, self.candidates).mean
        reached = utilities(mean, situation.problem)
        self.corner = reference(situation, reached)
        if posterior is not None:
            self._prune(situation, posterior, reached)

    def _prune(self, situation: Situation, posterior: BoxPosterior, reached: Array) -> None:
        spread = np.where(reached.std(axis=0) > 0, reached.std(axis=0), 1.0)
        order = np.lexsort((-(reached / spread).sum(axis=1), ~self.allowed))[:CONSIDERED]
        points = torch.from_numpy(self.points[order])
        b, m = len(points), len(posterior.processes)
        normal = normal_draws(PRUNING, b * m, situation.seed_for("prune")).reshape(PRUNING, b, m)
        drawn = np.stack(
            [Conditioned(p, points, normal[..., j]).values.numpy() for j, p in enumerate(posterior.processes)], -1
        )
        values = utilities(drawn, situation.problem)
        holds = feasible(drawn, situation.problem) & self.allowed[order]
        lowest = values[..., 0].min()
        self.floor = float(lowest - (values[..., 0].max() - lowest))
        if values.shape[-1] == 1:
            best = np.where(holds, values[..., 0], -np.inf).argmax(axis=1)
            counts = np.bincount(best[holds.any(axis=1)], minlength=b)
        else:
            fronts = [_front_of(draw, ok) for draw, ok in zip(values[:SEVERAL], holds[:SEVERAL], strict=True)]
            counts = np.sum(fronts, axis=0)
        most = MOST_KNOWN if values.shape[-1] == 1 else 2 * MOST_KNOWN
        chosen = np.argsort(-np.asarray(counts), kind="stable")[:most]
        chosen = order[[int(i) for i in chosen if counts[i] > 0]]
        self.candidates = tuple(self.candidates[i] for i in chosen)
        self.points, self.allowed = self.points[chosen], self.allowed[chosen]


def _front_of(values: Array, holds: Booleans) -> Booleans:
    """Say which points hold and are dominated by no other one, n."""
    masked = np.where(holds[:, None], values, -np.inf)
    good: Booleans = np.all(masked[None] >= masked[:, None], axis=-1)
    better: Booleans = np.any(masked[None] > masked[:, None], axis=-1)
    return np.asarray(holds & ~np.any(good & better, axis=1), dtype=np.bool_)
