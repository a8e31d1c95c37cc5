"""What a trial costs beyond its procedure: what the candidate adds, and what is changed over before it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from orchestrator.domain.candidates import Candidate
from orchestrator.domain.canonical import frozen


@dataclass(frozen=True)
class Expense:
    """A price, in the budget's units, and a duration in hours."""

    cost: float = 0.0
    hours: float = 0.0

    def __add__(self, other: Expense) -> Expense:
        """Add price to price and duration to duration."""
        return Expense(self.cost + other.cost, self.hours + other.hours)

    def times(self, factor: float) -> Expense:
        """Multiply both."""
        return Expense(self.cost * factor, self.hours * factor)


@dataclass(frozen=True)
class Expenses:
    """What candidates add to the price and the duration of a trial.

    Args:
        rates: by numeric parameter: expense of one unit of it.
        choices: by categorical parameter and choice.
        changeover: by parameter: expense of a value other than that of the trial before.
    """

    rates: Mapping[str, Expense] = field(default_factory=frozen)
    choices: Mapping[str, Mapping[str, Expense]] = field(default_factory=frozen)
    changeover: Mapping[str, Expense] = field(default_factory=frozen)

    def __bool__(self) -> bool:
        """Say whether candidates differ in anything."""
        return bool(self.rates or self.choices or self.changeover)

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel to another process as plain mappings; a read-only view of one cannot."""
        choices = {name: dict(by_choice) for name, by_choice in self.choices.items()}
        return _thawed, (dict(self.rates), choices, dict(self.changeover))

    def of(self, candidate: Candidate, before: Candidate | None = None) -> Expense:
        """Return what one candidate adds.

        Args:
            candidate: with its parameters.
            before: what the instruments were set up for last; None costs no change-over.
        """
        total = Expense()
        for name, rate in self.rates.items():
            total += rate.times(float(candidate.parameters[name]))
        for name, by_choice in self.choices.items():
            total += by_choice.get(str(candidate.parameters[name]), Expense())
        for name, change in self.changeover.items():
            if before is not None and before.parameters.get(name) != candidate.parameters.get(name):
                total += change
        return total


def _thawed(
    rates: dict[str, Expense], choices: dict[str, dict[str, Expense]], changeover: dict[str, Expense]
) -> Expenses:
    return Expenses(
        rates=frozen(rates),
        choices=frozen({name: frozen(by_choice) for name, by_choice in choices.items()}),
        changeover=frozen(changeover),
    )
