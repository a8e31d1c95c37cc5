"""Joint draws of what is measured, what is in flight and what could come next: the basis of every batch.

Draws are functions, so a candidate's value does not depend on which others are asked; a batch is chosen on one matrix
by position, never by running the network again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from orchestrator.acquisition.fantasies import Fantasy, believed, conditioned
from orchestrator.acquisition.gains import Booleans, Front, feasible, pursued, utilities
from orchestrator.acquisition.policy import Situation, check_finite
from orchestrator.domain import Array, Candidate, Problem
from orchestrator.pareto import reference_point


@dataclass(frozen=True, eq=False)
class Draws:
    """Drawn utilities of n candidates and the front that measured and pending points reach in the same draws.

    Args:
        values: utilities, s × n × k.
        allowed: whether the constraints hold, s × n.
        front: from the measured points; pending ones included.
        measured: utilities of the measured points, s × n0 × k.
        scale: spread of the first objective's utilities, for smoothing.
        properties: what was drawn, s × n × m.
        problem: objectives and constraints.
        fantasy: what a pick is taken to yield.
    """

    values: Array
    allowed: Booleans
    front: Front
    measured: Array
    scale: float
    properties: Array
    problem: Problem
    fantasy: Fantasy = "draws"

    def given(self, i: int, succeeds: Booleans | None = None) -> Draws:
        """Return the draws once candidate i counts as measured; the front grows in place.

        Args:
            i: position.
            succeeds: in which draws it yields a value, s; in all where not given.
        """
        after = self
        if self.fantasy != "draws":
            mean, sd = self.properties[:, i].mean(axis=0), self.properties[:, i].std(axis=0)
            drawn = conditioned(self.properties, i, believed(self.problem, mean, sd, self.fantasy))
            values, allowed = utilities(drawn, self.problem), feasible(drawn, self.problem)
            after = replace(self, values=values, allowed=allowed, properties=drawn)
        good = after.allowed[:, i]
        after.front.include(after.values[:, i], good if succeeds is None else good & succeeds)
        return after


def draw(
    situation: Situation, candidates: list[Candidate], s: int, purpose: str = "draws", *, good: float = 0.0
) -> Draws:
    """Draw candidates together with everything measured and pending.

    Args:
        situation: with a trained surrogate.
        candidates: n.
        s: how many functions.
        purpose: names the seed.
        good: see `Front`.

    Returns:
        The draws.

    Raises:
        NonFiniteValues: something drawn is NaN or infinite.
    """
    problem = situation.problem
    labels = situation.labels()
    known = [*labels.candidates, *situation.pending]
    drawn = np.asarray(situation.trained.draw([*known, *candidates], s, situation.seed_for(purpose)), dtype=np.float64)
    check_finite(np.isfinite(drawn).all(axis=(0, 2)), "drawn candidates")
    n0, n1 = len(labels), len(known)
    if situation.fantasy != "draws":
        for j in range(n0, n1):
            mean, sd = drawn[:, j].mean(axis=0), drawn[:, j].std(axis=0)
            drawn = conditioned(drawn, j, believed(problem, mean, sd, situation.fantasy))
    value, allowed = utilities(drawn, problem), feasible(drawn, problem)
    front = Front(
        value[:, :n0],
        allowed[:, :n0] & known_feasible(labels.values, problem)[None, :],
        reference(situation, value.reshape(-1, value.shape[-1])),
        floor=value[..., 0].min(axis=1),
        good=good,
    )
    odds = np.exp(situation.log_success(situation.pending))
    luck = np.random.default_rng(situation.seed_for("success of pending")).random((s, len(odds)))
    for j in range(n0, n1):
        front.include(value[:, j], allowed[:, j] & (luck[:, j - n0] < odds[j - n0]))
    spread = float(np.std(value[..., 0]))
    return Draws(
        value[:, n1:],
        allowed[:, n1:],
        front,
        value[:, :n0],
        spread if spread > 0 else 1.0,
        drawn[:, n1:],
        problem,
        situation.fantasy,
    )


def reference(situation: Situation, drawn: Array) -> Array:
    """Infer the hypervolume's corner from the measured utilities; from drawn ones, n × k, where none is complete."""
    if len(pursued(situation.problem)) == 1:
        return np.zeros(1)
    labels = situation.labels()
    measured = utilities(labels.values, situation.problem)
    complete = np.isfinite(measured).all(axis=1)
    good = complete & feasible(labels.values, situation.problem)
    chosen = measured[good] if good.any() else measured[complete]
    return reference_point(chosen if len(chosen) else drawn)


def known_feasible(values: Array, problem: Problem) -> Booleans:
    """Say which measured points, n × m with NaN where unmeasured, are not known to violate a constraint."""
    column = {name: j for j, name in enumerate(problem.properties)}
    good = np.ones(len(values), dtype=bool)
    for constraint in problem.constraints:
        seen = values[:, column[constraint.property]]
        good &= constraint.satisfied(seen) | ~np.isfinite(seen)
    return good
