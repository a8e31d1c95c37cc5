"""How often each fidelity was visited, read off what a decision may see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from orchestrator.domain import TARGET, Candidate, Dataset, Problem, closed_at


@dataclass(frozen=True)
class Visits:
    """What was done so far, what is in flight included.

    Args:
        trials: of the campaign's own fidelities.
        cost: of these.
        since_target: trials below the target since the last one at the target.
    """

    trials: int
    cost: float
    since_target: int

    @classmethod
    def count(cls, problem: Problem, dataset: Dataset, pending: Sequence[Candidate], closed: frozenset[str]) -> Visits:
        """Count the trials that a dataset shows and those in flight.

        Args:
            problem: with the fidelities and what trials cost.
            dataset: results of every fidelity; those of earlier campaigns do not count.
            pending: in flight.
            closed: names at which fidelity what is in flight is.
        """
        own = {fidelity.name for fidelity in problem.fidelities}
        done: dict[int, tuple[str, Candidate]] = {
            row.trial: (row.fidelity, row.candidate) for row in dataset.rows if row.fidelity in own
        }
        known = {closed_at(candidate.id, fidelity) for fidelity, candidate in done.values()}
        levels = [(fidelity, candidate) for _, (fidelity, candidate) in sorted(done.items())]
        for candidate in pending:
            flying = {name for name in own if closed_at(candidate.id, name) in closed - known}
            below = sorted(flying - {TARGET})
            levels.append((below[0] if below else TARGET, candidate))
        visits = cls(0, 0.0, 0)
        for fidelity, candidate in levels:
            visits = visits.after(fidelity, problem.expense(candidate, fidelity).cost)
        return visits

    def after(self, fidelity: str, cost: float) -> Visits:
        """Return the same with one more trial."""
        since = 0 if fidelity == TARGET else self.since_target + 1
        return replace(self, trials=self.trials + 1, cost=self.cost + cost, since_target=since)
