"""Rules that end a campaign because going on is not worth it, or because the best is good enough.

`NotWorthItsCost` is the rule of Xie et al., 2025, arXiv:2507.12453: stop when no candidate's expected improvement is
worth its expense. `ProbablyBest` is the probabilistic regret bound of Wilson, NeurIPS 2024, arXiv:2402.16811.
`HypervolumePlateau` is its plain relative for several objectives: it looks at what was measured alone.

Both model-based rules rest on the surrogate's standard deviations. Where those are too small they stop early, which is
why each asks for several decisions in a row.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from orchestrator.acquisition.gains import feasible, pursued, utilities
from orchestrator.errors import ConfigError
from orchestrator.pareto import growth
from orchestrator.protocols import CampaignView, Options
from orchestrator.units import shown

SEVERAL = 2


class NotWorthItsCostOptions(Options):
    """Options of `NotWorthItsCost`.

    Args:
        least: improvement that one unit of expense must bring, in the first objective's unit (with several objectives:
            hypervolume).
        per: the expense that counts: ``cost`` in the budget's units, or ``hour``.
        decisions: for so many decisions in a row.
    """

    least: float = Field(gt=0.0)
    per: Literal["cost", "hour"] = "cost"
    decisions: int = Field(default=3, ge=1)


class NotWorthItsCost:
    """Stop when no open candidate's expected improvement is worth its expense.

    Args:
        options: see `NotWorthItsCostOptions`.
    """

    Options: ClassVar[type[Options]] = NotWorthItsCostOptions

    def __init__(self, options: NotWorthItsCostOptions) -> None:
        self.options = options

    def reason(self, view: CampaignView) -> str | None:
        """Return one sentence for people, or None to go on.

        Raises:
            ConfigError: trials have no such expense, so that the rule could never fire.
        """
        target = view.problem.fidelities[-1]
        if not (target.cost if self.options.per == "cost" else target.hours) and not view.problem.expenses:
            message = (
                f"the stopping rule not_worth_its_cost counts the {self.options.per} of a trial, and trials have none:"
                " give 'expenses', or another 'per'"
            )
            raise ConfigError(message, key="stop")
        last = view.summaries[-self.options.decisions :]
        known = [one.gain_per_cost if self.options.per == "cost" else one.gain_per_hour for one in last]
        gains = [gain for gain in known if gain is not None]
        if len(gains) < self.options.decisions or max(gains) >= self.options.least:
            return None
        unit = _unit(view)
        per = "a cost unit" if self.options.per == "cost" else "an hour"
        return (
            f"no open candidate is worth its expense: in the last {self.options.decisions} decisions the best of them"
            f" was expected to bring {max(gains):.3g}{unit} {per}, and {self.options.least:g} were asked for"
        )


class ProbablyBestOptions(Options):
    """Options of `ProbablyBest`.

    Args:
        epsilon: how far the best may fall short of the optimum, in the first objective's unit; with several objectives,
            the share of the dominated hypervolume that one more candidate would add.
        probability: how sure that must be.
        decisions: for so many decisions in a row.
    """

    epsilon: float = Field(ge=0.0)
    probability: float = Field(default=0.95, ge=0.5, le=0.99)
    decisions: int = Field(default=3, ge=1)


class ProbablyBest:
    """Stop when the best measured candidate is, with high probability, within epsilon of the optimum.

    Args:
        options: see `ProbablyBestOptions`.
    """

    Options: ClassVar[type[Options]] = ProbablyBestOptions

    def __init__(self, options: ProbablyBestOptions) -> None:
        self.options = options

    def reason(self, view: CampaignView) -> str | None:
        """Return one sentence for people, or None to go on."""
        last = view.summaries[-self.options.decisions :]
        # a level between two that are kept counts as the higher one: never less sure than asked for
        bounds = [
            min((short for level, short in one.regret if level >= self.options.probability - 1e-9), default=None)
            for one in last
        ]
        known = [bound for bound in bounds if bound is not None]
        if len(known) < self.options.decisions or max(known) > self.options.epsilon:
            return None
        several = len(pursued(view.problem)) >= SEVERAL
        what = f"{max(known):.2g} of the hypervolume" if several else f"{max(known):.3g}{_unit(view)}"
        return (
            f"the best is good enough: with a probability of {self.options.probability:g} or more it falls short of"
            f" the optimum by no more than {what} (asked for: {self.options.epsilon:g}, in {self.options.decisions}"
            " decisions in a row)"
        )


class HypervolumePlateauOptions(Options):
    """Options of `HypervolumePlateau`.

    Args:
        trials: so many measured trials in a row...
        growth: ... that made the dominated hypervolume grow by less than this share of itself.
    """

    trials: int = Field(default=20, ge=1)
    growth: float = Field(default=0.01, gt=0.0, lt=1.0)


class HypervolumePlateau:
    """Stop when the last measured trials hardly moved the front.

    Args:
        options: see `HypervolumePlateauOptions`.
    """

    Options: ClassVar[type[Options]] = HypervolumePlateauOptions

    def __init__(self, options: HypervolumePlateauOptions) -> None:
        self.options = options

    def reason(self, view: CampaignView) -> str | None:
        """Return one sentence for people, or None to go on.

        Raises:
            ConfigError: the campaign has one objective only.
        """
        if view.problem.learns_only or len(pursued(view.problem)) < SEVERAL:
            message = (
                "the stopping rule hypervolume_plateau needs two objectives or more that are not only to be learned;"
                " with one use no_improvement with 'trials'"
            )
            raise ConfigError(message, key="stop")
        wanted = self.options.trials
        labels = view.dataset.labels(view.problem.properties)
        if len(labels) <= wanted:
            return None
        reached = utilities(labels.values, view.problem)
        volumes = growth(reached, np.isfinite(reached).all(axis=1) & feasible(labels.values, view.problem))
        now, before = float(volumes[-1]), float(volumes[-1 - wanted])
        if before <= 0.0 or now - before >= self.options.growth * before:
            return None
        return (
            f"the front hardly moves: the last {wanted} trials made its hypervolume grow by"
            f" {(now - before) / before:.2%}, less than {self.options.growth:.2%}"
        )


def _unit(view: CampaignView) -> str:
    if len(pursued(view.problem)) >= SEVERAL:
        return " of hypervolume"
    unit = shown(pursued(view.problem)[0].unit)
    return f" {unit}" if unit else ""
