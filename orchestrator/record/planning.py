"""Writing a decision down: its candidates, proposals, trials and steps, inside one transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from sqlalchemy import func, select

from orchestrator.domain import Candidate, DecisionSummary, Proposal
from orchestrator.errors import StoreError
from orchestrator.record import codec, statements, tables
from orchestrator.record.base import current, micro
from orchestrator.record.database import Write
from orchestrator.record.states import StepState, TrialState, trial_state
from orchestrator.record.views import StepPlan, StepsOf

NONE_KEPT: Mapping[int, int] = MappingProxyType({})
REPEATABLE = ("asked", "imported")
"""Purposes of decisions that may name a candidate again: people repeat on purpose."""


def _plan_trial(
    write: Write,
    proposal: Proposal,
    steps: Sequence[StepPlan],
    *,
    decision: int,
    position: int,
    number: int,
    purpose: str,
) -> int:
    candidate, row = _write_proposal(write, proposal, decision, position)
    trial = write.insert(
        tables.trial,
        campaign_id=write.campaign,
        number=number,
        decision_id=decision,
        proposal_id=row,
        candidate_id=candidate,
        fidelity=proposal.fidelity,
        replicate=_replicate(write, candidate, proposal, purpose),
        charge="none",
        sample="",
        planned_at=write.now,
    )
    for index, plan in enumerate(steps):
        write.insert(
            tables.step,
            campaign_id=write.campaign,
            trial_id=trial,
            position=index,
            name=plan.name,
            instrument=plan.instrument,
            capability=plan.capability,
            cost=micro(plan.cost),
            state=StepState.PLANNED,
            reason="",
            owner="",
            fence=0,
            attempts=0,
        )
    return trial


def _write_proposal(write: Write, proposal: Proposal, decision: int, position: int) -> tuple[int, int]:
    """Append a proposal and, where it is new, its candidate; return the ids of both rows, the candidate's first."""
    candidate = _keep_candidate(write, proposal.candidate)
    row = write.insert(
        tables.proposal,
        campaign_id=write.campaign,
        decision_id=decision,
        position=position,
        candidate_id=candidate,
        content=codec.to_text(codec.proposal_to_json(proposal), f"the proposal of {proposal.candidate.label!r}"),
    )
    return candidate, row


def write_decision(
    write: Write,
    proposals: Sequence[Proposal],
    steps: StepsOf,
    *,
    number: int,
    purpose: str,
    seen: Sequence[int],
    pending: Sequence[str],
    fit: int | None,
    summary: DecisionSummary,
    queued: Sequence[int] = (),
    kept: Mapping[int, int] = NONE_KEPT,
    **plain: Any,
) -> list[int]:
    """Append a decision with its candidates, proposals, trials and steps; see `Knowledge.record_decision`.

    Returns:
        The numbers of the new trials.

    Raises:
        StoreError: the number is not the next one, there are no steps, or a candidate has a trial already.
    """
    plans = [steps(one) if callable(steps) else steps for one in proposals]
    if not steps or not all(plans):
        message = "a trial needs at least one step; the campaign's procedure is empty"
        raise StoreError(message)
    want_next(write, tables.decision, "decision", number)
    decision = write.insert(
        tables.decision,
        campaign_id=write.campaign,
        number=number,
        purpose=purpose,
        seen=codec.to_text(sorted(int(token) for token in seen), "the rows seen"),
        pending=codec.to_text(codec.waiting_to_json(pending, queued, kept), "the pending candidates"),
        fit_id=fit,
        summary=codec.to_text(codec.summary_to_json(summary), "the summary"),
        revision=current(write).revision,
        at=write.now,
        **plain,
    )
    count = select(func.count()).select_from(tables.trial).where(tables.trial.c.campaign_id == write.campaign)
    first = write.connection.execute(count).scalar_one() + 1
    numbers: list[int] = []
    for i, proposal in enumerate(proposals):
        if i in kept:
            _write_proposal(write, proposal, decision, i)
            continue
        numbers.append(first + len(numbers))
        _plan_trial(write, proposal, plans[i], decision=decision, position=i, number=numbers[-1], purpose=purpose)
    return numbers


def _keep_candidate(write: Write, candidate: Candidate) -> int:
    table = tables.candidate
    query = statements.by(table, "campaign_id", "sha")
    found = write.connection.execute(query, {"campaign_id": write.campaign, "sha": candidate.id}).first()
    if found is not None:
        return int(found.id)
    content = {**candidate.to_json(), "attributes": codec.lenient(candidate.attributes)}
    return write.insert(
        table,
        campaign_id=write.campaign,
        sha=candidate.id,
        label=candidate.label,
        content=codec.to_text(content, f"candidate {candidate.label!r}"),
    )


def _replicate(write: Write, candidate: int, proposal: Proposal, purpose: str) -> int:
    """Number a trial among those of its candidate; a repeat that nobody asked for is refused."""
    same = {"campaign_id": write.campaign, "candidate_id": candidate, "fidelity": proposal.fidelity}
    states: dict[int, list[StepState]] = {}
    for row in write.connection.execute(statements.by(tables.trial, *same), same).all():
        steps = write.connection.execute(statements.by(tables.step, "trial_id"), {"trial_id": row.id})
        states[row.number] = [StepState(one.state) for one in steps]
    ended_badly = (TrialState.FAILED, TrialState.ABANDONED)
    alive = [number for number, found in states.items() if trial_state(found) not in ended_badly]
    if alive and purpose not in REPEATABLE and not proposal.details.get("replicate"):
        message = (
            f"candidate {proposal.candidate.label!r} has trial {alive[0]} already; a policy that repeats a measurement "
            "on purpose says so with details={'replicate': True} in its proposal"
        )
        raise StoreError(message)
    return len(states)


def want_next(write: Write, table: Any, what: str, number: int) -> None:
    """Refuse a fit or a decision whose number is not the next one.

    Raises:
        StoreError: another number is expected.
    """
    query = select(func.max(table.c.number)).where(table.c.campaign_id == write.campaign)
    last = write.connection.execute(query).scalar() or 0
    if number != last + 1:
        message = (
            f"{what} {number} cannot be stored: the last one is {last}, so {last + 1} is expected; another process may "
            "have gone on: read the campaign again"
        )
        raise StoreError(message)
