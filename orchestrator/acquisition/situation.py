"""Everything that a decision may depend on, and what is read from it: predictions, success, expense.

The probability of success is Matloop's `PredictsSuccess`, learned from failed trials. It multiplies what a candidate is
worth, as in constrained expected improvement (Gelbart, Snoek, Adams, UAI 2014, arXiv:1403.5607).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from orchestrator.abilities import PredictsSuccess
from orchestrator.acquisition.expense import PerExpense, log_expense, used
from orchestrator.acquisition.fantasies import Fantasy
from orchestrator.domain import Array, Candidate, Dataset, Labels, Prediction, Problem, derive_seed, frozen
from orchestrator.errors import IncompatibleError
from orchestrator.protocols import SearchSpace, Surrogate

CHUNK = 4096
"""Candidates predicted at once: bounds the memory of a graph network on a large pool."""


SMALLEST = 1e-300
"""Keeps logarithms finite; far below any difference that could matter."""


class NonFiniteValues(Exception):
    """The surrogate or the acquisition function gave NaN or an infinity; the policy falls back to diversity."""


def predict(surrogate: Surrogate, candidates: Sequence[Candidate]) -> Prediction:
    """Predict in chunks.

    Args:
        surrogate: trained.
        candidates: n.

    Returns:
        Means and standard deviations, n × m.

    Raises:
        NonFiniteValues: something is NaN or infinite.
    """
    parts = [surrogate.predict(candidates[i : i + CHUNK]) for i in range(0, len(candidates), CHUNK)]
    joined = Prediction(
        mean=np.concatenate([p.mean for p in parts]),
        epistemic=np.concatenate([p.epistemic for p in parts]),
        noise=np.concatenate([p.noise for p in parts]),
    )
    good = np.isfinite(joined.mean) & np.isfinite(joined.epistemic) & np.isfinite(joined.noise)
    check_finite(good.all(axis=-1), "predictions")
    return joined


def check_finite(good: Any, what: str) -> None:
    """Refuse a decision whose numbers are not finite.

    Args:
        good: n booleans.
        what: what was checked.

    Raises:
        NonFiniteValues: some are not.
    """
    bad = int(np.size(good) - np.count_nonzero(good))
    if bad:
        message = f"{bad} of {np.size(good)} {what} are not finite"
        raise NonFiniteValues(message)


@dataclass(frozen=True, eq=False)
class Situation:
    """Everything that a decision may depend on.

    Args:
        surrogate: updated to `dataset`; None where none is needed.
        space: where candidates come from.
        q: how many are wanted.
        problem: objectives, constraints, fidelities, budget.
        dataset: what is known.
        pending: in flight.
        closed: ids that must not be proposed, the pending ones among them.
        costs: cost by fidelity.
        seed: for everything random.
        feasibility: whether the learned probability of success counts.
        per_expense: how much price and duration count.
        most_per_system: how many candidates of one chemical system may be in a batch and in flight; None is no cap.
        fantasy: what pending trials and earlier picks of a batch are taken to yield.
    """

    surrogate: Surrogate | None
    space: SearchSpace
    q: int
    problem: Problem
    dataset: Dataset
    pending: tuple[Candidate, ...]
    closed: frozenset[str]
    costs: Mapping[str, float] = field(default_factory=frozen)
    seed: int = 0
    feasibility: bool = True
    per_expense: PerExpense = field(default_factory=PerExpense)
    most_per_system: int | None = None
    fantasy: Fantasy = "draws"

    @property
    def trained(self) -> Surrogate:
        """The surrogate, where there must be one."""
        if self.surrogate is None:
            message = "this acquisition policy needs a surrogate, and the campaign has none; add the key 'surrogate'"
            raise IncompatibleError(message)
        return self.surrogate

    def labels(self) -> Labels:
        """Return the measured values of the modelled properties, one line a distinct measured point."""
        labels = self.dataset.labels(self.problem.properties)
        first: dict[tuple[str, str], int] = {}
        for i, candidate in enumerate(labels.candidates):
            first.setdefault((candidate.id, repr(sorted(candidate.parameters.items()))), i)
        keep = sorted(first.values())
        return Labels(
            trials=tuple(labels.trials[i] for i in keep),
            candidates=tuple(labels.candidates[i] for i in keep),
            values=labels.values[keep],
            std_errors=labels.std_errors[keep],
        )

    def seed_for(self, purpose: str) -> int:
        """Derive the seed of one purpose."""
        return derive_seed(self.seed, 0, purpose)

    @cached_property
    def predictor(self) -> PredictsSuccess | None:
        """What learned the probability of success; None before the first failure, and where nothing learns it."""
        able: Any = self.surrogate
        learns = isinstance(able, PredictsSuccess) and "feasibility" in able.supports()  # type: ignore[attr-defined]
        return able if self.feasibility and learns and self.dataset.failures else None

    def log_success(self, candidates: Sequence[Candidate]) -> Array:
        """Return the logarithm of the probability that a trial of each candidate yields a value, n.

        Args:
            candidates: n.

        Returns:
            Zeros where nothing is learned from failures; never below the logarithm of `SMALLEST`.

        Raises:
            NonFiniteValues: a probability is NaN.
        """
        predictor = self.predictor
        if predictor is None or not candidates:
            return np.zeros(len(candidates))
        parts = [predictor.success(candidates[i : i + CHUNK]) for i in range(0, len(candidates), CHUNK)]
        odds = np.concatenate([np.asarray(part, dtype=np.float64) for part in parts])
        check_finite(np.isfinite(odds), "probabilities of success")
        return np.asarray(np.log(np.clip(odds, SMALLEST, 1.0)), dtype=np.float64)

    @cached_property
    def before(self) -> Candidate | None:
        """What the instruments were set up for last: the last pending candidate, else that of the newest trial."""
        if self.pending:
            return self.pending[-1]
        return self.dataset.rows[-1].candidate if self.dataset.rows else None  # rows are sorted by trial

    @cached_property
    def used(self) -> float:
        """The used share of the budget, 0 to 1, of whichever cap is nearest; pending trials count."""
        return used(self.problem, self.dataset, self.pending)

    def log_expense(self, candidates: Sequence[Candidate], before: Candidate | None = None) -> Array:
        """Return the logarithm of what each trial uses of the budget, against a plain trial, n; zeros without expenses.

        Args:
            candidates: n.
            before: what the instruments are set up for; `self.before` where not given.
        """
        return log_expense(self.problem, candidates, self.before if before is None else before)

    def price(self, candidates: Sequence[Candidate], before: Candidate | None = None) -> Array:
        """Return what policies subtract from a logarithmic score for the expense of each trial, n.

        Args:
            candidates: n.
            before: what the instruments are set up for; `self.before` where not given.
        """
        alpha = self.per_expense.alpha
        if not self.problem.expenses or alpha == 0.0:
            return np.zeros(len(candidates))
        if self.per_expense.anneal:
            alpha *= 1.0 - self.used
        return alpha * self.log_expense(candidates, before)
