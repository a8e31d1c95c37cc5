"""The initial design of a campaign with several fidelities: the same candidates at every one of them.

Only what was measured at two fidelities tells how they are related, so half of the first results would be of little use
were the candidates different.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import ceil

from orchestrator.domain import TARGET, Candidate, Dataset, Outcome, Problem, Proposal, closed_at, frozen
from orchestrator.errors import SpaceExhausted
from orchestrator.protocols import AcquisitionPolicy, SearchSpace


def at_every_fidelity(
    policy: AcquisitionPolicy,
    space: SearchSpace,
    *,
    q: int,
    problem: Problem,
    dataset: Dataset,
    pending: Sequence[Candidate],
    closed: frozenset[str],
    costs: Mapping[str, float],
    seed: int,
) -> tuple[Proposal, ...]:
    """Choose q trials: candidates that were begun are completed first, then new ones are taken at every fidelity.

    Args:
        policy: the initial design, which chooses new candidates.
        space: where they come from.
        q: how many trials are wanted.
        problem: with the fidelities, the cheapest first.
        dataset: what is known.
        pending: in flight.
        closed: see `orchestrator.abilities.ChoosesFidelity`.
        costs: cost by fidelity.
        seed: for everything random.

    Raises:
        SpaceExhausted: nothing is left to propose.
    """
    levels = [fidelity.name for fidelity in problem.fidelities]
    flying = {candidate.id for candidate in pending}
    begun = {row.candidate.id: row.candidate for row in dataset.rows if row.fidelity in levels}
    failed = {row.candidate.id for row in dataset.rows if row.outcome is Outcome.FAILED}
    chosen: list[Proposal] = []
    for key, candidate in begun.items():
        if key in flying or key in failed or key in closed:
            continue
        reason = "measured at a cheaper fidelity: at every one it shows how they are related"
        chosen += [
            Proposal(candidate, "shared_points", reason, fidelity=level, details=frozen({"seed": seed}))
            for level in levels
            if closed_at(key, level) not in closed
        ]
    chosen = chosen[:q]
    wanted = q - len(chosen)
    if wanted > 0:
        try:
            picks = policy.select(
                None,
                space,
                q=ceil(wanted / len(levels)),
                problem=problem,
                dataset=dataset.of_target,
                pending=(*pending, *(one for key, one in begun.items() if key not in flying)),
                closed=frozenset(key for key in closed if "@" not in key),
                costs=costs,
                seed=seed,
            )
        except SpaceExhausted:
            if not chosen:
                raise
            picks = ()
        new = [
            replace(pick, fidelity=level, reason=f"{pick.reason}; at {_named(level)}, as at every fidelity")
            for pick in picks
            for level in levels
        ]
        chosen += new[:wanted]
    return tuple(chosen)


def _named(level: str) -> str:
    return "the target" if level == TARGET else level
