"""What trials cost, and what is left for them: a trial that the budget does not pay for is not planned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from orchestrator.domain import Candidate, Problem, Proposal, closed_at, frozen
from orchestrator.protocols import ColumnarSpace, FiniteSpace, SearchSpace

SLACK = 1e-9
"""Of the cost units: what sums of binary fractions add."""
LARGEST_LISTED = 100_000
"""Candidates of a listed space whose prices are looked up at once."""


@dataclass(frozen=True)
class Purse:
    """What a decision may spend.

    Args:
        left: of the cost budget; None without a cap.
        before: candidate of the trial that was planned last, from which the instruments are changed over.
    """

    left: float | None = None
    before: Candidate | None = None


@dataclass(frozen=True)
class Paid:
    """Proposals that the purse pays for, with their prices in the details, and those that it does not."""

    kept: tuple[Proposal, ...]
    dropped: tuple[Proposal, ...]


def pay(proposals: Sequence[Proposal], problem: Problem, purse: Purse, asked: int) -> Paid:
    """Take the price of each proposal from the purse, in order; what is too expensive is left out.

    Args:
        proposals: best first.
        problem: with what trials cost.
        purse: what there is.
        asked: how many proposals were wanted, for the record.
    """
    left, before = purse.left, purse.before
    kept: list[Proposal] = []
    dropped: list[Proposal] = []
    for proposal in proposals:
        price = problem.expense(proposal.candidate, proposal.fidelity, before)
        if left is not None and price.cost > left + SLACK:
            dropped.append(proposal)
            continue
        left, before = None if left is None else left - price.cost, proposal.candidate
        details = {**proposal.details, "expense": {"cost": price.cost, "hours": price.hours}}
        if not kept:
            paid_from = purse.before.id if purse.before else None
            details["purse"] = {"left": purse.left, "before": paid_from, "asked": asked}
        kept.append(replace(proposal, details=frozen(details)))
    return Paid(tuple(kept), tuple(dropped))


def too_expensive(space: SearchSpace, problem: Problem, purse: Purse, dropped: Sequence[Proposal]) -> frozenset[str]:
    """Name what must not be proposed again, for want of money.

    Args:
        space: where candidates come from.
        problem: with what trials cost.
        purse: what there is.
        dropped: what was proposed and cannot be paid.

    Returns:
        Names as in `closed`; of a listed space those of every candidate that cannot be paid at the target.
    """
    shut = {closed_at(one.candidate.id, one.fidelity) for one in dropped}
    listed = isinstance(space, FiniteSpace) and not isinstance(space, ColumnarSpace)
    if problem.expenses and purse.left is not None and listed and isinstance(space, FiniteSpace):
        candidates = space.candidates()
        if len(candidates) <= LARGEST_LISTED:
            shut |= {c.id for c in candidates if problem.expense(c, before=purse.before).cost > purse.left + SLACK}
    return frozenset(shut)
