"""The base of policies that ask another optimiser at each decision, and forget it again."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from pydantic import Field

from orchestrator.acquisition import outsiders
from orchestrator.acquisition.designs import Random
from orchestrator.acquisition.outsiders import Told
from orchestrator.acquisition.policy import Pick, Policy, PolicyOptions, Situation
from orchestrator.protocols import BoxSpace, FiniteSpace

GOALS = frozenset({"maximize", "minimize", "target", "window"})
SPARE = 2
"""Points asked for beyond q on a box: rounding to the resolution can make a point one that is closed."""


class OutsiderOptions(PolicyOptions):
    """Options of an `Outsider`.

    Args:
        largest_pool: candidates above which a pool is refused, since the other optimiser holds all of them in memory.
    """

    largest_pool: int = Field(default=50_000, ge=2)


class Outsider(Policy):
    """Another optimiser behind our door; the class of each says how it is told and asked.

    Args:
        options: see `OutsiderOptions`.

    Raises:
        PluginError: its package is not installed.
    """

    Options: ClassVar[type[PolicyOptions]] = OutsiderOptions
    options: OutsiderOptions
    who: ClassVar[str]
    """What people call it; `name` is also its package and its extra."""
    takes_bounds: ClassVar[bool]
    """Whether it takes bounds on results."""

    def __init__(self, options: OutsiderOptions | None = None) -> None:
        super().__init__(options)
        outsiders.check_installed(self.name, self.who, self.name)

    def pick(self, situation: Situation) -> list[Pick]:
        """Choose up to q open candidates, best first."""
        outsiders.check_problem(self.who, situation.problem, constraints=self.takes_bounds, goals=GOALS)
        listed = outsiders.finite(situation.space, self.who, self.options.largest_pool)
        known = outsiders.told(situation)
        if not known.candidates:
            return Random().pick(situation)
        with outsiders.quiet(situation.seed_for(self.name)):
            if listed is not None:
                return self.from_list(situation, listed, known)
            if isinstance(situation.space, BoxSpace):
                return self.from_box(situation, situation.space, known)
        return []

    @abstractmethod
    def from_list(self, situation: Situation, space: FiniteSpace, known: Told) -> list[Pick]:
        """Choose among listed candidates."""

    @abstractmethod
    def from_box(self, situation: Situation, space: BoxSpace, known: Told) -> list[Pick]:
        """Choose in a box."""
