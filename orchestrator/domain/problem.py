"""What a campaign pursues: objectives, constraints, fidelities, budget."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from orchestrator.domain.canonical import TARGET, Array

Goal = Literal["maximize", "minimize", "target"]


@dataclass(frozen=True)
class Objective:
    """A property to maximize, to minimize, or to bring close to a target; all in `unit`."""

    property: str
    unit: str
    goal: Goal
    target: float | None = None

    def utility(self, values: Array) -> Array:
        """Turn values into larger-is-better numbers of the same unit, any shape."""
        if self.goal == "maximize":
            return values
        if self.goal == "minimize":
            return -values
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
    """A named level of trust and cost; each is a procedure with a cost."""

    name: str = TARGET
    cost: float = 1.0


@dataclass(frozen=True)
class Budget:
    """Caps that the store enforces; None is no cap. At least one is given."""

    trials: int | None = None
    hours: float | None = None
    cost: float | None = None


@dataclass(frozen=True)
class Problem:
    """What a campaign pursues: objectives, constraints, fidelities with their costs, budget."""

    objectives: tuple[Objective, ...]
    constraints: tuple[Constraint, ...] = ()
    fidelities: tuple[Fidelity, ...] = (Fidelity(),)
    budget: Budget = Budget()

    @property
    def properties(self) -> tuple[str, ...]:
        """Names of the m modelled properties: objectives first, then constrained ones, each once."""
        return tuple(dict.fromkeys([o.property for o in self.objectives] + [c.property for c in self.constraints]))

    @property
    def units(self) -> Mapping[str, str]:
        """Unit of each modelled property."""
        return {c.property: c.unit for c in self.constraints} | {o.property: o.unit for o in self.objectives}
