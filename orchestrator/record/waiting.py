"""Steps that are skipped, and steps that must wait: what the executor asks of the store between two attempts."""

from __future__ import annotations

from typing import Any

from orchestrator.errors import IllegalTransition
from orchestrator.record import tables
from orchestrator.record.base import StorePart
from orchestrator.record.budget import steps_of
from orchestrator.record.database import Write
from orchestrator.record.states import STEP_ENDED, StepState


class Waiting(StorePart):
    """The part of the store that skips steps and keeps waits."""

    def skip(self, step_id: int, *, reason: str) -> None:
        """Skip a planned step, because a condition of the procedure does not hold; the trial ends with its last step.

        Args:
            step_id: of a PLANNED step.
            reason: for people: the condition and what was seen.

        Raises:
            IllegalTransition: the step is not PLANNED.
        """

        def work(write: Write) -> None:
            row = write.row(tables.step, step_id)
            _planned(row, "skip")
            write.change(tables.step, row, state=StepState.SKIPPED, reason=reason)
            trial = write.row(tables.trial, row.trial_id)
            if all(one.state in STEP_ENDED for one in steps_of(write, trial.id)):
                write.change(tables.trial, trial, ended_at=write.now)
            change = (StepState.PLANNED, StepState.SKIPPED)
            write.event("skip", "matloop", trial=trial.number, step=step_id, change=change, note=reason)

        self._db.write(self._campaign_of(tables.step, step_id), "skip", work)

    def rest(self, step_id: int, *, until: int) -> int:
        """Keep when a planned step may begin; a time that is kept already stays, so that a restart waits no longer.

        Args:
            step_id: of a PLANNED step.
            until: UTC in microseconds, by the campaign's clock.

        Returns:
            The time that counts.

        Raises:
            IllegalTransition: the step is not PLANNED.
        """

        def work(write: Write) -> int:
            row = write.row(tables.step, step_id)
            _planned(row, "rest")
            if row.not_before is None:
                write.change(tables.step, row, not_before=until)
            trial = write.row(tables.trial, row.trial_id)
            write.event("rest", "matloop", trial=trial.number, step=step_id, note=f"step {row.name!r} waits")
            return until if row.not_before is None else int(row.not_before)

        return self._db.write(self._campaign_of(tables.step, step_id), "rest", work)


def _planned(row: Any, what: str) -> None:
    if row.state != StepState.PLANNED:
        message = f"{what} of step {row.name!r} ({row.id}) needs it PLANNED, but it is {row.state}"
        raise IllegalTransition(message)
