"""What the campaign knows and decides: fits, decisions with their proposals, and the trials that follow from them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Row, func, select

from orchestrator.domain import Candidate, DecisionSummary, FitReport, Proposal
from orchestrator.errors import Damaged, StoreError
from orchestrator.record import codec, tables
from orchestrator.record.base import MICRO, StorePart, current
from orchestrator.record.database import Write
from orchestrator.record.planning import NONE_KEPT, want_next, write_decision
from orchestrator.record.queue import superseded, unneeded, withdraw, withdrawn_by
from orchestrator.record.raw import folder_sha256, keep_folder
from orchestrator.record.states import StepState, TrialState, trial_state
from orchestrator.record.views import DecisionInfo, FitInfo, StepInfo, StepsOf, TrialInfo


class Knowledge(StorePart):
    """The part of the store that knows fits, decisions and trials."""

    def record_fit(
        self,
        name: str,
        *,
        number: int,
        parent: int | None,
        surrogate: str,
        seed: int,
        seen: Sequence[int],
        report: FitReport,
        folder: Path,
        note: str = "",
    ) -> FitInfo:
        """Store a training: its files first, then its row.

        Args:
            name: of the campaign.
            number: 1, 2, …; one more than the last.
            parent: id of the fit it started from.
            surrogate: plug-in name.
            seed: of the training.
            seen: tokens of the dataset rows it was trained on.
            report: what the training did.
            folder: what `Surrogate.save` wrote; copied.
            note: added to the event's note, for people.

        Raises:
            StoreError: the number is taken, or the folder is empty.
        """
        shelf = self.folder / "fits"
        shelf.mkdir(exist_ok=True)
        checkpoint = keep_folder(folder, shelf)
        said = f"fit {number} by {surrogate} on {report.labels} labels"

        def work(write: Write) -> int:
            want_next(write, tables.fit, "fit", number)
            fit = write.insert(
                tables.fit,
                campaign_id=write.campaign,
                number=number,
                parent_id=parent,
                surrogate=surrogate,
                seed=seed,
                seen=codec.to_text(sorted(int(token) for token in seen), "the rows seen"),
                report=codec.to_text(codec.report_to_json(report), "the fit's report"),
                checkpoint_sha256=checkpoint,
                revision=current(write).revision,
                at=write.now,
            )
            write.event("fit", "matloop", note="; ".join(filter(None, (said, note))))
            return fit

        fit = self._db.write(self._id(name), "fit", work)
        return next(info for info in self.fits(name) if info.id == fit)

    def fits(self, name: str) -> list[FitInfo]:
        """Read the fits of a campaign by number."""
        query = tables.fit.select().where(tables.fit.c.campaign_id == self._id(name)).order_by(tables.fit.c.number)
        with self._db.read() as connection:
            return [_fit_info(row) for row in connection.execute(query)]

    def fit_folder(self, fit_id: int) -> Path:
        """Return the folder of a fit's files, after comparing them with their hash.

        Raises:
            Damaged: files are missing or were changed.
            StoreError: there is no such fit.
        """
        query = select(tables.fit.c.checkpoint_sha256).where(tables.fit.c.id == fit_id)
        with self._db.read() as connection:
            digest = connection.execute(query).scalar()
        if digest is None:
            message = f"there is no fit with id {fit_id} in this database"
            raise StoreError(message)
        folder = self.folder / "fits" / str(digest)
        try:
            good = folder_sha256(folder) == digest
        except (StoreError, OSError):
            good = False
        if not good:
            message = f"the files of fit {fit_id} in {folder} are missing or were changed; restore them from a backup"
            raise Damaged(message)
        return folder

    def record_decision(
        self,
        name: str,
        *,
        number: int,
        policy: str,
        purpose: str,
        proposals: Sequence[Proposal],
        seen: Sequence[int],
        seen_sha256: str,
        pending: Sequence[str],
        closed_sha256: str,
        fit: int | None,
        seed: int,
        device: str,
        threads: int,
        seconds: float,
        summary: DecisionSummary,
        steps: StepsOf,
        note: str = "",
        queued: Sequence[int] = (),
        kept: Mapping[int, int] = NONE_KEPT,
        withdrawn: Sequence[int] = (),
    ) -> list[TrialInfo]:
        """Store a decision with its candidates, proposals, trials and steps: one transaction.

        Args:
            name: of the campaign.
            number: one more than the last decision's.
            policy: plug-in name.
            purpose: ``initial``, ``acquisition``, ``asked`` or ``imported``.
            proposals: what was chosen, best first.
            seen: tokens of the dataset rows it was allowed to see.
            seen_sha256: hash of that dataset.
            pending: candidate ids in flight.
            closed_sha256: hash of the ids not to be proposed.
            fit: id of the fit used.
            seed: of the choice.
            device: where it was computed.
            threads: on how many.
            seconds: how long it took.
            summary: for stopping rules.
            steps: what each trial consists of, in order; or a function of its proposal that says it.
            note: added to the event's note, for people.
            queued: numbers of trials that waited and were ranked anew.
            kept: by position among the proposals: the queued trial that is kept for it, so that none is made.
            withdrawn: queued trials that were not chosen again; they are abandoned.

        Returns:
            The new trials.

        Raises:
            StoreError: the number is not the next one, a proposal is not storable, or a candidate has a trial already.
            IllegalTransition: a trial to be withdrawn has begun.
        """
        given: dict[str, Any] = {
            "number": number,
            "policy": policy,
            "purpose": purpose,
            "seen": seen,
            "seen_sha256": seen_sha256,
            "pending": pending,
            "closed_sha256": closed_sha256,
            "fit": fit,
            "seed": seed,
            "device": device,
            "threads": threads,
            "seconds": seconds,
            "summary": summary,
            "queued": queued,
            "kept": kept,
        }

        def work(write: Write) -> list[int]:
            withdraw(write, withdrawn, superseded(number))
            numbers = write_decision(write, proposals, steps, **given)
            said = f"decision {number} ({purpose}): trials {numbers}"
            said += f", kept {sorted(kept.values())}" if kept else ""
            said += f", withdrawn {sorted(withdrawn)}" if withdrawn else ""
            write.event("decision", policy, note="; ".join(filter(None, (said, note))))
            return numbers

        campaign = self._id(name)
        numbers = set(self._db.write(campaign, "decision", work))
        with self._db.read() as connection:
            return self._trials(connection, campaign, tables.trial.c.number.in_(sorted(numbers)))

    def withdraw(self, name: str, numbers: Sequence[int], *, reason: str, actor: str = "matloop") -> None:
        """Abandon planned trials of which nothing has begun, because the campaign stops before them.

        Args:
            name: of the campaign.
            numbers: of the trials.
            reason: why.
            actor: person or program.

        Raises:
            IllegalTransition: one of them has begun.
        """

        def work(write: Write) -> None:
            withdraw(write, numbers, unneeded(reason))
            write.event("withdraw", actor, note=f"trials {sorted(numbers)}: {reason}")

        self._db.write(self._id(name), "withdraw", work)

    def decisions(self, name: str) -> list[DecisionInfo]:
        """Read the decisions of a campaign by number."""
        campaign = self._id(name)
        decision, proposal, trial = tables.decision, tables.proposal, tables.trial
        with self._db.read() as connection:
            candidates = self._candidates_of(connection, campaign)
            chosen: dict[int, list[Proposal]] = defaultdict(list)
            numbers: dict[int, list[int | None]] = defaultdict(list)
            query = (
                select(proposal, trial.c.number)
                .join(trial, trial.c.proposal_id == proposal.c.id, isouter=True)  # a kept trial has another proposal
                .where(proposal.c.campaign_id == campaign)
                .order_by(proposal.c.decision_id, proposal.c.position)
            )
            for row in connection.execute(query):
                content = codec.from_text(row.content)
                chosen[row.decision_id].append(codec.proposal_from_json(content, candidates[row.candidate_id]))
                numbers[row.decision_id].append(row.number)
            query = decision.select().where(decision.c.campaign_id == campaign).order_by(decision.c.number)
            ended = withdrawn_by(connection, campaign)
            return [
                _decision_info(row, tuple(chosen[row.id]), numbers[row.id], ended) for row in connection.execute(query)
            ]

    def trials(self, name: str, *, states: Collection[TrialState] | None = None) -> list[TrialInfo]:
        """Read the trials of a campaign by number.

        Args:
            name: of the campaign.
            states: only trials in these states.
        """
        campaign = self._id(name)
        where = None
        if states is not None and not set(states) & {TrialState.COMPLETED, TrialState.FAILED, TrialState.ABANDONED}:
            where = tables.trial.c.ended_at.is_(None)  # spares reading the whole past at every turn of the loop
        with self._db.read() as connection:
            found = self._trials(connection, campaign, where)
        return [trial for trial in found if states is None or trial.state in states]

    def trial(self, name: str, number: int) -> TrialInfo:
        """Read one trial.

        Raises:
            StoreError: there is none of that number.
        """
        campaign = self._id(name)
        with self._db.read() as connection:
            found = self._trials(connection, campaign, tables.trial.c.number == number)
            if not found:
                count = select(func.count()).select_from(tables.trial).where(tables.trial.c.campaign_id == campaign)
                last = connection.execute(count).scalar_one()
                message = f"campaign {name!r} has no trial {number}; it has the trials 1 to {last}"
                raise StoreError(message)
        return found[0]

    def _trials(self, connection: Connection, campaign: int, where: Any = None) -> list[TrialInfo]:
        trial, step, proposal, decision = tables.trial, tables.step, tables.proposal, tables.decision
        wanted = trial.c.campaign_id == campaign
        if where is not None:
            wanted &= where
        query = select(step, trial.c.number.label("trial_number")).join(trial, trial.c.id == step.c.trial_id)
        steps: dict[int, list[StepInfo]] = defaultdict(list)
        for row in connection.execute(query.where(wanted).order_by(step.c.trial_id, step.c.position)):
            steps[row.trial_id].append(_step_info(row))
        query = (
            select(trial, proposal.c.content, decision.c.number.label("decision"))
            .join(proposal, proposal.c.id == trial.c.proposal_id)
            .join(decision, decision.c.id == trial.c.decision_id)
        )
        rows = connection.execute(query.where(wanted).order_by(trial.c.number)).all()
        candidates = self._candidates_of(connection, campaign)
        return [_trial_info(row, candidates[row.candidate_id], tuple(steps[row.id])) for row in rows]


def _fit_info(row: Row[Any]) -> FitInfo:
    return FitInfo(
        id=row.id,
        number=row.number,
        parent=row.parent_id,
        surrogate=row.surrogate,
        seed=row.seed,
        seen=tuple(codec.from_text(row.seen)),
        report=codec.report_from_json(codec.from_text(row.report)),
        checkpoint_sha256=row.checkpoint_sha256,
        made_at=row.at,
        revision=row.revision,
    )


def _decision_info(
    row: Row[Any], proposals: tuple[Proposal, ...], trials: Sequence[int | None], ended: Mapping[int, str]
) -> DecisionInfo:
    summary: Mapping[str, Any] = codec.from_text(row.summary)
    pending, queued, kept = codec.waiting_from_json(codec.from_text(row.pending))
    return DecisionInfo(
        number=row.number,
        policy=row.policy,
        purpose=row.purpose,
        seen=tuple(codec.from_text(row.seen)),
        seen_sha256=row.seen_sha256,
        pending=pending,
        closed_sha256=row.closed_sha256,
        fit=row.fit_id,
        seed=row.seed,
        device=row.device,
        threads=row.threads,
        proposals=proposals,
        trials=tuple(kept[i] if number is None else number for i, number in enumerate(trials)),
        summary=codec.summary_from_json(summary),
        seconds=row.seconds,
        made_at=row.at,
        revision=row.revision,
        queued=queued,
        withdrawn=tuple(number for number in queued if ended.get(number) == superseded(row.number)),
    )


def _step_info(row: Row[Any]) -> StepInfo:
    return StepInfo(
        id=row.id,
        trial=row.trial_number,
        index=row.position,
        name=row.name,
        instrument=row.instrument,
        capability=row.capability,
        state=StepState(row.state),
        reason=row.reason,
        cost=row.cost / MICRO,
        attempts=row.attempts,
        not_before=row.not_before,
    )


def _trial_info(row: Row[Any], candidate: Candidate, steps: tuple[StepInfo, ...]) -> TrialInfo:
    state = trial_state(step.state for step in steps)
    wanted = {TrialState.FAILED: (StepState.FAILED,), TrialState.ABANDONED: (StepState.CANCELLED, StepState.SKIPPED)}
    return TrialInfo(
        number=row.number,
        candidate=candidate,
        proposal=codec.proposal_from_json(codec.from_text(row.content), candidate),
        decision=row.decision,
        state=state,
        reason=next((step.reason for step in steps if step.state in wanted.get(state, ())), ""),
        fidelity=row.fidelity,
        replicate=row.replicate,
        steps=steps,
        planned_at=row.planned_at,
        started_at=row.started_at,
        ended_at=row.ended_at,
        sample=row.sample,
        charged=row.charge != "none",
    )
