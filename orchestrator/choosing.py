"""One decision: what may be chosen, the choice, and its record.

A choice may take seconds to minutes, so it is made apart from its record: meanwhile instruments go on. Trials that were
planned ahead and have not begun are ranked anew with everything else; those that are chosen again keep their trial,
the others are withdrawn in the same transaction that records the decision. What has begun is never touched.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from orchestrator import fitting
from orchestrator.config.defaults import IMPORTED
from orchestrator.domain import Dataset, Proposal, canonical_json, closed_at, sha256
from orchestrator.planner import Chosen, Planner
from orchestrator.purse import Purse
from orchestrator.record import queue
from orchestrator.record.states import TrialState
from orchestrator.record.store import CampaignStore
from orchestrator.record.views import DecisionInfo, FitInfo, StepsOf, TrialInfo
from orchestrator.standing import OPEN, Standing

RERANKED = "acquisition"
"""Purpose of the decisions whose trials may be withdrawn: an initial design is carried out as it was laid out."""


@dataclass(frozen=True)
class Choice:
    """What one decision chose, before it is recorded.

    Args:
        number: of the decision.
        chosen: the proposals and how they came about.
        dataset: what was known.
        pending: candidate ids in flight.
        closed_sha256: hash of the ids that were not to be proposed.
        fit: that was used.
        queued: trials that were ranked anew.
        note: for the history.
    """

    number: int
    chosen: Chosen
    dataset: Dataset
    pending: tuple[str, ...]
    closed_sha256: str
    fit: FitInfo | None
    queued: tuple[TrialInfo, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class Settled:
    """What became of a choice: new trials, waiting ones that were chosen again, and waiting ones that were not."""

    made: Sequence[TrialInfo]
    kept: Sequence[TrialInfo]
    withdrawn: Sequence[TrialInfo]


def queue_of(now: Standing, begun: Collection[int] = ()) -> list[TrialInfo]:
    """Return the trials that wait and may be ranked anew, by number.

    Args:
        now: how the campaign stands.
        begun: numbers of trials that are being carried out, whatever the record says yet.
    """
    ranked = {decision.number for decision in now.decisions if decision.purpose == RERANKED}
    return [
        trial
        for trial in now.open_trials
        if trial.state is TrialState.PLANNED
        and trial.started_at is None
        and trial.decision in ranked
        and trial.number not in begun
    ]


def choose(
    store: CampaignStore,
    name: str,
    planner: Planner,
    now: Standing,
    *,
    q: int,
    ahead: int = 0,
    queued: Sequence[TrialInfo] = (),
) -> Choice:
    """Choose up to q candidates; nothing is written.

    Args:
        store: the campaign database.
        name: of the campaign.
        planner: of the current revision.
        now: how the campaign stands.
        q: how many are wanted.
        ahead: how many of them are planned ahead; none is while there is nothing to rank by.
        queued: trials from `queue_of` to be ranked anew: their candidates are open again.

    Returns:
        The choice, to be recorded by `settle`.

    Raises:
        SpaceExhausted: nothing is left to propose.
    """
    config, dataset = planner.config, now.dataset
    number = now.decisions[-1].number + 1 if now.decisions else 1
    fits = fitting.usable(store, name, planner, now.fits) if planner.learns else []
    initial = planner.is_initial(now.planned, dataset) or (planner.learns and not fits)
    if initial and now.planned < config.initial.trials and config.initial.use != IMPORTED:
        q = min(q, config.initial.trials - now.planned)
    elif initial:
        q = max(1, q - ahead)
    fit = None if initial else fitting.proposing(fits)
    waiting = {trial.number for trial in queued}
    pending = [trial.candidate for trial in now.trials if trial.state in OPEN and trial.number not in waiting]
    closed = closed_ids(now.trials, waiting) | store.vetoes(name)
    chosen = planner.choose(
        number,
        q=q,
        initial=initial,
        dataset=dataset,
        pending=pending,
        closed=closed,
        surrogate=planner.restore(store.fit_folder(fit.id)) if fit else None,
        purse=purse_of(planner, now, waiting) if config.priced else None,
    )
    return Choice(
        number=number,
        chosen=chosen,
        dataset=dataset,
        pending=tuple(candidate.id for candidate in pending),
        closed_sha256=closed_sha256(closed),
        fit=fit,
        queued=tuple(queued),
        note=fitting.line(fitting.judged(now, planner)) if fit else "",
    )


def settle(store: CampaignStore, name: str, choice: Choice, steps: StepsOf, begun: Collection[int] = ()) -> Settled:
    """Record a choice, and withdraw what it left behind: one transaction.

    Args:
        store: the campaign database.
        name: of the campaign.
        choice: from `choose`.
        steps: what the trial of each proposal consists of.
        begun: numbers of trials that were begun since it was chosen; they are never withdrawn.

    Returns:
        What became of it.

    Raises:
        StoreError: another process has decided meanwhile.
    """
    chosen, fit = choice.chosen, choice.fit
    kept = _kept(chosen.proposals, choice.queued)
    again = set(kept.values())
    waits: set[int] = set()
    if choice.queued:
        now = store.trials(name, states={TrialState.PLANNED})
        waits = {trial.number for trial in now if trial.started_at is None} - set(begun)
    withdrawn = [trial for trial in choice.queued if trial.number in waits - again]
    made = store.record_decision(
        name,
        number=choice.number,
        policy=chosen.policy,
        purpose=chosen.purpose,
        proposals=chosen.proposals,
        seen=sorted({row.token for row in choice.dataset.rows}),
        seen_sha256=choice.dataset.sha256,
        pending=choice.pending,
        closed_sha256=choice.closed_sha256,
        fit=fit.id if fit else None,
        seed=chosen.seed,
        device=fit.report.device if fit else "cpu",
        threads=_threads(),
        seconds=chosen.seconds,
        summary=chosen.summary,
        steps=steps,
        note=choice.note,
        queued=[trial.number for trial in choice.queued],
        kept=kept,
        withdrawn=[trial.number for trial in withdrawn],
    )
    return Settled(made, [trial for trial in choice.queued if trial.number in again], withdrawn)


def purse_of(planner: Planner, now: Standing, waiting: Collection[int] = ()) -> Purse:
    """Return what may be spent: the cap less what is spent, reserved and planned.

    Args:
        planner: of the current revision.
        now: how the campaign stands.
        waiting: numbers of the trials that are ranked anew: their price is free again.
    """
    planned = [trial for trial in now.trials if trial.number not in waiting and not is_withdrawn(trial)]
    cap = planner.problem.budget.cost
    owed = sum(step.cost for t in planned if t.state in OPEN and t.started_at is None for step in t.steps)
    left = None if cap is None else cap - now.info.spent.cost - now.info.reserved_cost - owed
    return Purse(left, planned[-1].candidate if planned else None)


def closed_ids(trials: Sequence[TrialInfo], waiting: Collection[int] = ()) -> frozenset[str]:
    """Name the candidates that have a trial, each at its fidelity: not those that only wait, or were withdrawn.

    Args:
        trials: of the campaign.
        waiting: numbers of those that are ranked anew.
    """
    return frozenset(
        closed_at(trial.candidate.id, trial.fidelity)
        for trial in trials
        if trial.number not in waiting and not is_withdrawn(trial)
    )


def closed_before(decision: DecisionInfo, trials: Sequence[TrialInfo]) -> frozenset[str]:
    """Name what a recorded decision found closed by trials; vetoes come on top.

    Args:
        decision: the decision.
        trials: every trial of the campaign.
    """
    return frozenset(
        closed_at(trial.candidate.id, trial.fidelity)
        for trial in trials
        if trial.decision < decision.number
        and trial.number not in decision.queued
        and not (is_withdrawn(trial) and (trial.ended_at or 0) <= decision.made_at)
    )


def is_withdrawn(trial: TrialInfo) -> bool:
    """Say whether a later decision withdrew a trial before it began."""
    return trial.state is TrialState.ABANDONED and queue.is_withdrawn(trial.reason)


def closed_sha256(closed: frozenset[str]) -> str:
    """Return the hash by which a decision remembers what it was not allowed to propose."""
    return sha256(canonical_json(sorted(closed)))


def _kept(proposals: Sequence[Proposal], queued: Sequence[TrialInfo]) -> Mapping[int, int]:
    """Return, by position among the proposals, the queued trial of the same candidate at the same fidelity."""
    waiting = {(trial.candidate.id, trial.fidelity): trial.number for trial in queued}
    return {
        place: waiting[proposal.candidate.id, proposal.fidelity]
        for place, proposal in enumerate(proposals)
        if (proposal.candidate.id, proposal.fidelity) in waiting
    }


def _threads() -> int:
    """Read how many threads numerical libraries use; part of what a decision depends on."""
    return int(os.environ.get("OMP_NUM_THREADS", "0")) or (os.cpu_count() or 1)
