"""Results that exist already: a person's own past table, recorded as trials that ended, without touching the budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from orchestrator.domain import Candidate, Dataset, DecisionSummary, Proposal, Quality, canonical_json, sha256
from orchestrator.record import statements, tables
from orchestrator.record.base import current
from orchestrator.record.database import Write
from orchestrator.record.knowledge import Knowledge
from orchestrator.record.planning import write_decision
from orchestrator.record.recording import write_result
from orchestrator.record.states import AttemptState, StepState
from orchestrator.record.steps import dispatch_key
from orchestrator.record.views import NewMeasurement, StepPlan, TrialInfo

IMPORTED = "imported"
"""Purpose of the decision, name of the step, and kind of the event."""
TABLE = "table"
"""Name of the policy and of the instrument of imported trials."""


class PastResult(Protocol):
    """One line of a table of past results."""

    @property
    def candidate(self) -> Candidate:
        """What was measured."""

    @property
    def values(self) -> Mapping[str, tuple[float, float | None]]:
        """Property → value and standard error, in the problem's units."""


class Imports(Knowledge):
    """The part of the store that takes in results from before the campaign."""

    def import_results(
        self, name: str, results: Sequence[PastResult], *, actor: str, units: Mapping[str, str]
    ) -> list[TrialInfo]:
        """Record past results as completed trials of one decision: one transaction, and no budget is spent.

        Args:
            name: of the campaign.
            results: lines of the table; a candidate may come several times.
            actor: who brings them.
            units: of the values, by property.

        Returns:
            The trials.

        Raises:
            StoreError: a value is not finite, or the campaign went on meanwhile.
        """
        if not results:
            return []
        content = canonical_json([{"candidate": r.candidate.to_json(), "values": dict(r.values)} for r in results])
        raw = self.raw.put(content.encode())
        decisions = self.decisions(name)
        number = decisions[-1].number + 1 if decisions else 1
        proposals = [Proposal(r.candidate, TABLE, "measured before the campaign") for r in results]

        def work(write: Write) -> list[int]:
            numbers = write_decision(
                write,
                proposals,
                [StepPlan(name=IMPORTED, instrument=TABLE, capability=IMPORTED)],
                number=number,
                policy=TABLE,
                purpose=IMPORTED,
                seen=(),
                seen_sha256=Dataset().sha256,
                pending=(),
                closed_sha256=sha256(canonical_json([])),
                fit=None,
                seed=0,
                device="cpu",
                threads=1,
                seconds=0.0,
                summary=DecisionSummary(),
            )
            uuid = current(write).uuid
            for trial, result in zip(numbers, results, strict=True):
                _complete(write, trial, result, uuid=uuid, raw=raw, units=units)
            write.event(IMPORTED, actor, note=f"{len(results)} results from before the campaign: trials {numbers}")
            return numbers

        campaign = self._id(name)
        numbers = sorted(self._db.write(campaign, IMPORTED, work))
        with self._db.read() as connection:
            return self._trials(connection, campaign, tables.trial.c.number.in_(numbers))


def _complete(write: Write, number: int, result: PastResult, *, uuid: str, raw: str, units: Mapping[str, str]) -> None:
    """Take a planned trial through the same states as any other, with the result that is at hand."""
    at = {"campaign_id": write.campaign, "number": number}
    trial = write.connection.execute(statements.by(tables.trial, *at), at).one()
    step = write.connection.execute(statements.by(tables.step, "trial_id"), {"trial_id": trial.id}).one()
    for state in (StepState.CLAIMED, StepState.OPEN):
        write.change(tables.step, step, state=state)
        step = write.row(tables.step, step.id)
    key = dispatch_key(uuid, number, IMPORTED, 1)
    attempt_id = write.insert(
        tables.attempt,
        campaign_id=write.campaign,
        trial_id=trial.id,
        step_id=step.id,
        number=1,
        dispatch_key=key,
        instrument=TABLE,
        place=f"{uuid}/{TABLE}",
        slot=0,
        cost=0,
        request=canonical_json({"key": key, "capability": IMPORTED, "label": result.candidate.label}),
        state=AttemptState.INTENT,
        note="",
        created_at=write.now,
    )
    write.change(tables.attempt, write.row(tables.attempt, attempt_id), state=AttemptState.MEASURED, raw_sha256=raw)
    write_result(
        write,
        write.row(tables.attempt, attempt_id),
        step,
        [
            NewMeasurement(name, value, units[name], std_error, Quality.GOOD, write.now)
            for name, (value, std_error) in result.values.items()
        ],
        structures={},
        applied=result.candidate.parameters,
        attachments=(),
        notes="measured before the campaign",
    )
    write.change(tables.attempt, write.row(tables.attempt, attempt_id), state=AttemptState.RECORDED)
    write.change(tables.step, write.row(tables.step, step.id), state=StepState.RECORDED, attempts=1)
    write.change(tables.trial, trial, started_at=write.now, ended_at=write.now)
