"""What a campaign pursues: objectives, constraints, fidelities, budget."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from orchestrator.domain.candidates import Candidate
from orchestrator.domain.canonical import TARGET, Array
from orchestrator.domain.expenses import Expense, Expenses

Goal = Literal["maximize", "minimize", "target", "window", "learn"]


@dataclass(frozen=True)
class Objective:
    """What is wanted of a property; all in `unit`.

    Args:
        property: its name.
        unit: of values, target and window.
        goal: to maximize or minimize it, to bring it close to a target or into a window, or only to learn it.
        target: with the goal ``target``.
        window: lowest and highest good value, with the goal ``window``: inside, nothing is better than anything else.
    """

    property: str
    unit: str
    goal: Goal
    target: float | None = None
    window: tuple[float, float] | None = None

    def utility(self, values: Array) -> Array:
        """Turn values into larger-is-better numbers of the same unit, any shape; NaN stays NaN."""
        if self.goal == "maximize":
            return values
        if self.goal == "minimize":
            return -values
        if self.goal == "learn":
            return values * 0.0
        if self.goal == "window":
            low, high = self.window if self.window is not None else (np.nan, np.nan)
            return -np.maximum(np.maximum(low - values, values - high), 0.0)
        return -np.abs(values - float(self.target if self.target is not None else np.nan))


@dataclass(frozen=True)
class Constraint:
    """A bound, in `unit`, that a measured property must satisfy."""

    property: str
    unit: str
    low: float | None = None
    high: float | None = None

    def satisfied(self, values: Array) -> npt.NDArray[np.bool_]:
        """Say elementwise whether values satisfy the bound; NaN does not."""
        good = np.isfinite(values)
        if self.low is not None:
            good &= values >= self.low
        if self.high is not None:
            good &= values <= self.high
        return good


@dataclass(frozen=True)
class Fidelity:
    """A named level of trust and cost; each is a procedure with a cost.

    Args:
        name: of the level.
        cost: price of a trial before what the candidate and the change-over add, in the budget's units.
        hours: its duration, likewise.
    """

    name: str = TARGET
    cost: float = 1.0
    hours: float = 0.0


@dataclass(frozen=True)
class Budget:
    """Caps that the store enforces; None is no cap. At least one is given."""

    trials: int | None = None
    hours: float | None = None
    cost: float | None = None


@dataclass(frozen=True)
class Problem:
    """What a campaign pursues.

    Args:
        objectives: one to four.
        constraints: bounds on measured properties.
        fidelities: from the least trusted to the target, which is last.
        budget: caps.
        expenses: what a candidate adds to the price and the duration of a trial.
    """

    objectives: tuple[Objective, ...]
    constraints: tuple[Constraint, ...] = ()
    fidelities: tuple[Fidelity, ...] = (Fidelity(),)
    budget: Budget = Budget()
    expenses: Expenses = field(default=Expenses(), hash=False)

    @property
    def learns_only(self) -> bool:
        """Whether no objective has a better end: the campaign is there to know, not to find the best."""
        return all(objective.goal == "learn" for objective in self.objectives)

    def fidelity(self, name: str) -> Fidelity:
        """Return a fidelity by name.

        Raises:
            KeyError: there is none.
        """
        return {f.name: f for f in self.fidelities}[name]

    def expense(self, candidate: Candidate, fidelity: str = TARGET, before: Candidate | None = None) -> Expense:
        """Return the price and the duration of one trial.

        Args:
            candidate: what is to be measured.
            fidelity: at which level.
            before: what the instruments were set up for last; None where that is unknown or nothing.
        """
        level = self.fidelity(fidelity)
        added = self.expenses.of(candidate, before)
        return Expense(level.cost + added.cost, level.hours + added.hours)

    @property
    def properties(self) -> tuple[str, ...]:
        """Names of the m modelled properties: objectives first, then constrained ones, each once."""
        return tuple(dict.fromkeys([o.property for o in self.objectives] + [c.property for c in self.constraints]))

    @property
    def units(self) -> Mapping[str, str]:
        """Unit of each modelled property."""
        return {c.property: c.unit for c in self.constraints} | {o.property: o.unit for o in self.objectives}
