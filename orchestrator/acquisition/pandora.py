"""Pandora's box: how good the best so far would have to be for a trial no longer to be worth what it costs.

Each candidate's index is the g at which its expected improvement over g equals its expense in units of the objective,
λ c. The largest index is measured next. Optimal where boxes are independent (Weitzman, Econometrica 47, 641 (1979),
doi:10.2307/1910412); for Gaussian processes Xie, Astudillo, Frazier, Scully, Terenin, NeurIPS 2024, arXiv:2406.20062,
and with the matching stopping rule Xie, Cai, Terenin, Frazier, Scully, 2025, arXiv:2507.12453: once no expected
improvement is worth its expense, λ is halved (or the campaign may stop).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from pydantic import Field

from orchestrator.acquisition.draws import known_feasible
from orchestrator.acquisition.gains import pursued, utilities
from orchestrator.acquisition.knowledge import Knowledge
from orchestrator.acquisition.marginal import ends, expected_improvement, log_feasible
from orchestrator.acquisition.policy import Pick, Policy, PolicyOptions
from orchestrator.acquisition.ranking import searched
from orchestrator.acquisition.situation import SMALLEST, Situation, check_finite, predict
from orchestrator.acquisition.slots import Slots, promising
from orchestrator.acquisition.words import expected
from orchestrator.domain import Array, Candidate, Objective, Prediction
from orchestrator.errors import IncompatibleError
from orchestrator.protocols import Support

STEPS = 60
"""Bisections: enough to find an index to the last digits that matter."""
HALVINGS = 40
"""Most halvings of λ: a trial that is not worth 1e-12 of the spread is worth nothing."""


class PandoraOptions(PolicyOptions):
    """Options of `PandorasBox`.

    Args:
        worth: what a plain trial must be expected to gain to be worth its expense, as a share of the spread of the
            measured values.
        halve: halve it as often as needed for some candidate to be worth its expense.
        draws: functions drawn, for how much picks and pending candidates tell.
        shortlist: how many of the largest indices are drawn jointly.
        samples: points sampled where the space cannot be listed.
    """

    worth: float = Field(default=0.1, gt=0.0, le=10.0)
    halve: bool = True
    draws: int = Field(default=256, ge=32, le=8192)
    shortlist: int = Field(default=512, ge=8, le=20000)
    samples: int = Field(default=2048, ge=16, le=1_000_000)


class PandorasBox(Policy):
    """Choose the largest Gittins indices; one objective.

    Expense counts as it is, undiminished by ``anneal``: λ falls instead. Constraints and failures count as the
    probability that a trial brings its gain. In a batch, and beside pending trials, standard deviations shrink by what
    the others will tell (`Knowledge`), and each change-over counts from the pick before.
    """

    Options: ClassVar[type[PolicyOptions]] = PandoraOptions
    options: PandoraOptions
    name = "pandoras_box"

    def needs(self) -> frozenset[Support]:
        """Need standard deviations, and joint draws for batches."""
        return frozenset({"uncertainty", "draws"})

    def pick(self, situation: Situation) -> list[Pick]:
        """Choose up to q open candidates, best first.

        Raises:
            IncompatibleError: there are several objectives.
        """
        goals = pursued(situation.problem)
        if len(goals) > 1:
            names = ", ".join(goal.property for goal in goals)
            message = (
                f"'pandoras_box' weighs one objective against its expense, and the campaign pursues {names}; use"
                " 'log_expected_improvement', which counts expense too"
            )
            raise IncompatibleError(message)
        reached, spread = standing(situation)

        def score(candidates: list[Candidate]) -> tuple[Array, Array]:
            now = predict(situation.trained, candidates)
            worth = self.options.worth * spread * expense(situation, candidates)
            return indices(situation, candidates, now, worth)[:, None], np.zeros(len(candidates))

        pool = searched(self.pool(situation, self.options.samples), situation, score)
        prediction = predict(situation.trained, pool)
        unit = self._unit(situation, pool, prediction, reached, spread)
        first = indices(situation, pool, prediction, unit * expense(situation, pool))
        check_finite(np.isfinite(first), "indices")
        order = np.argsort(-first, kind="stable")
        order = promising(situation, pool, order, max(self.options.shortlist, 2 * situation.q))
        listed = [pool[i] for i in order]
        now = Prediction(prediction.mean[order], prediction.epistemic[order], prediction.noise[order])
        knowledge = Knowledge(situation, listed, now, self.options.draws)
        slots, last = Slots(situation, listed), situation.before
        picks = []
        for _ in range(min(situation.q, len(listed))):
            index = indices(situation, listed, knowledge.now(), unit * expense(situation, listed, last))
            place = int(np.lexsort((-index, ~slots.open()))[0])
            slots.take(place)
            knowledge.include(place)
            last = listed[place]
            until = _in_words(goals[0], float(index[place]))
            reason = f"worth its expense until {until} is reached; predicted {expected(situation, now, place)}"
            facts = {"among": len(pool), "worth_of_a_plain_trial": float(unit), "index": float(index[place])}
            picks.append(Pick(last, float(index[place]), reason, facts))
        return picks

    def _unit(
        self, situation: Situation, pool: Sequence[Candidate], prediction: Prediction, reached: float, spread: float
    ) -> float:
        """Return λ: the worth of a plain trial in the objective's unit."""
        unit = self.options.worth * spread
        if not self.options.halve or not np.isfinite(reached):
            return unit
        best = float(gain_per_expense(situation, pool, prediction, reached).max())
        needed = np.ceil(np.log2(unit / best)) if best > 0 else HALVINGS
        return float(unit * 0.5 ** np.clip(needed, 0, HALVINGS))


def standing(situation: Situation) -> tuple[float, float]:
    """Return the best utility reached so far (of posterior means; minus infinity: none) and the spread of utilities.

    Args:
        situation: with a trained surrogate and one pursued objective.
    """
    labels = situation.labels()
    if not len(labels):
        return -np.inf, 1.0
    reached = utilities(predict(situation.trained, labels.candidates).mean, situation.problem)[:, 0]
    good = reached[known_feasible(labels.values, situation.problem)]
    measured = labels.values[:, situation.problem.properties.index(pursued(situation.problem)[0].property)]
    measured = measured[np.isfinite(measured)]
    spread = float(measured.std()) if len(measured) else 0.0
    return float(good.max(initial=-np.inf)), spread if spread > 0 else 1.0


def expense(situation: Situation, candidates: Sequence[Candidate], before: Candidate | None = None) -> Array:
    """Return what each trial costs, in plain trials, n; ones where candidates do not differ or it is not to count."""
    return np.asarray(np.exp(situation.per_expense.alpha * situation.log_expense(candidates, before)))


def gain_per_expense(
    situation: Situation, candidates: Sequence[Candidate], prediction: Prediction, reached: float
) -> Array:
    """Return the expected improvement of each candidate per plain trial's expense, n, in the objective's unit.

    Where the largest is below what a plain trial is worth, nothing open is worth measuring: the stopping rule of
    arXiv:2507.12453.

    Args:
        situation: with a trained surrogate and one pursued objective.
        candidates: n.
        prediction: of them.
        reached: best utility so far.
    """
    objective, mean, sd = _of_objective(situation, prediction)
    odds = np.exp(log_feasible(situation, prediction, candidates))
    return expected_improvement(objective, mean, sd, reached) * odds / expense(situation, candidates)


def indices(situation: Situation, candidates: Sequence[Candidate], prediction: Prediction, worth: Array) -> Array:
    """Return the utility g of each candidate at which the expected improvement over g equals what the trial costs, n.

    Args:
        situation: gives objective, constraints and failures.
        candidates: n.
        prediction: of them.
        worth: n, price of each trial in the objective's unit.
    """
    objective, mean, sd = _of_objective(situation, prediction)
    odds = np.exp(np.maximum(log_feasible(situation, prediction, candidates), np.log(1e-9)))
    wanted = np.asarray(worth, dtype=np.float64) / odds
    middle = objective.utility(mean)
    # the expected utility is at least `middle - sd`, so that over this g even the mean gains enough
    low = middle - sd - wanted - SMALLEST
    high = np.zeros(len(mean)) if ends(objective) is not None else middle + 40.0 * sd
    low = np.minimum(low, high)
    for _ in range(STEPS):
        half = (low + high) / 2
        enough = expected_improvement(objective, mean, sd, half) >= wanted
        low, high = np.where(enough, half, low), np.where(enough, high, half)
    return np.asarray((low + high) / 2, dtype=np.float64)


def _in_words(objective: Objective, index: float) -> str:
    unit = "" if objective.unit == "dimensionless" else f" {objective.unit}"
    if ends(objective) is not None:
        return f"{objective.property} within {-index:.3g}{unit} of the {objective.goal}"
    return f"{objective.property} {-index if objective.goal == 'minimize' else index:.3g}{unit}"


def _of_objective(situation: Situation, prediction: Prediction) -> tuple[Objective, Array, Array]:
    objective = pursued(situation.problem)[0]
    j = situation.problem.properties.index(objective.property)
    return objective, prediction.mean[:, j], prediction.epistemic[:, j]
