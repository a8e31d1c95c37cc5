"""What is doubted and what people are asked: instruments OUT OF SERVICE, questions, doubts, reference orders."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, func, select

from orchestrator.errors import IllegalTransition
from orchestrator.record import statements, tables
from orchestrator.record.base import StorePart, config_of, current
from orchestrator.record.budget import settle, steps_of
from orchestrator.record.database import Write
from orchestrator.record.states import ATTEMPT_PAIRS, AttemptState, StepState

OUT, IN = "out", "in"
PASSING = frozenset({"offline", "busy", "interlocked"})
"""Causes that go away by themselves: a link comes back, others finish, a door is closed."""


@dataclass(frozen=True)
class OutOfService:
    """An instrument that is doubted.

    Args:
        instrument: name.
        cause: ``offline``, ``busy``, ``interlocked``, ``fault``, ``faults``, ``hang``, ``identity``, ``reference``,
            ``stuck`` or ``person``.
        reason: for people.
        by: person or program that took it out.
        since: UTC in microseconds.
    """

    instrument: str
    cause: str
    reason: str
    by: str
    since: int

    @property
    def passing(self) -> bool:
        """Whether it comes back by itself as soon as it answers that it is ready."""
        return self.cause in PASSING


@dataclass(frozen=True)
class Asked:
    """A stored question.

    Args:
        id: of the question.
        kind: ``approval``, ``interlock``, ``service``, ``resource``, ``failure`` or ``doubt``.
        trial: number, where it is about one.
        step_id: where it is about one.
        step: its name.
        instrument: concerned; empty where none is.
        subject: what exactly is asked about; two questions of one kind, step and subject are one.
        message: for people.
        asked_at: UTC in microseconds.
        verb: of the answer; empty while there is none.
        by: who answered.
        reason: that was given.
    """

    id: int
    kind: str
    trial: int | None
    step_id: int | None
    step: str
    instrument: str
    subject: str
    message: str
    asked_at: int
    verb: str = ""
    by: str = ""
    reason: str = ""


@dataclass(frozen=True)
class ReferenceResult:
    """What an instrument gave for its reference sample."""

    attempt: int
    instrument: str
    property: str
    value: float
    unit: str
    expected: float
    tolerance: float
    good: bool
    at: int


class Service(StorePart):
    """The part of the store that keeps what is doubted, asked and answered."""

    # --- instruments ----------------------------------------------------------------------------------------------

    def take_out_of_service(self, name: str, instrument: str, *, cause: str, reason: str, actor: str) -> bool:
        """Say that an instrument is doubted: no order goes to it until it is back.

        Returns:
            Whether it was in service before.
        """
        return self._serve(name, instrument, (OUT, cause), reason, actor)

    def return_to_service(self, name: str, instrument: str, *, reason: str, actor: str) -> bool:
        """Say that an instrument can be trusted again; the question about it has its answer by that.

        Returns:
            Whether it was out of service before.
        """
        was_out = self._serve(name, instrument, (IN, ""), reason, actor)
        for asked in self.asked(name):
            if asked.kind == "service" and asked.instrument == instrument:
                with suppress(IllegalTransition):  # answered in this moment
                    self.reply(name, asked.id, "retry", actor=actor, reason=reason)
        return was_out

    def out_of_service(self, name: str) -> dict[str, OutOfService]:
        """Read which instruments of a campaign are out of service, by name; those of the lab for all campaigns."""
        table = tables.service
        with self._db.read() as connection:
            prefix = f"{_campaign(connection, self._id(name)).uuid}/"
            newest = select(func.max(table.c.id)).group_by(table.c.place)
            rows = connection.execute(table.select().where(table.c.id.in_(newest)).order_by(table.c.id)).all()
        return {
            row.instrument: OutOfService(row.instrument, row.cause, row.reason, row.actor, row.at)
            for row in rows
            if row.state == OUT and ("/" not in row.place or row.place.startswith(prefix))
        }

    def _serve(self, name: str, instrument: str, to: tuple[str, str], reason: str, actor: str) -> bool:
        state, cause = to

        def work(write: Write) -> bool:
            campaign, table = current(write), tables.service
            own = instrument in config_of(write.connection, campaign).get("instruments", {})
            place = f"{campaign.uuid}/{instrument}" if own else instrument
            query = table.select().where(table.c.place == place).order_by(table.c.id.desc()).limit(1)
            last = write.connection.execute(query).first()
            before = last.state if last is not None else IN
            if before != state:
                row: dict[str, Any] = {"instrument": instrument, "place": place, "state": state, "cause": cause}
                write.insert(table, campaign_id=write.campaign, **row, reason=reason, actor=actor, at=write.now)
            note = f"{instrument}: {cause}: {reason}" if cause else f"{instrument}: {reason}"
            write.event("service", actor, change=(before, state), note=note)
            return bool(before != state)

        return self._db.write(self._id(name), "service", work)

    # --- questions ------------------------------------------------------------------------------------------------

    def ask(
        self,
        name: str,
        kind: str,
        message: str,
        *,
        trial: int | None = None,
        step_id: int | None = None,
        instrument: str = "",
        subject: str = "",
    ) -> int:
        """Ask people something; an open question about the same is not asked again.

        Returns:
            The id of the question.
        """
        for open_one in self.asked(name):
            same = (open_one.kind, open_one.trial, open_one.step_id, open_one.instrument, open_one.subject)
            if same == (kind, trial, step_id, instrument, subject):
                return open_one.id

        def work(write: Write) -> int:
            made = write.insert(
                tables.question,
                campaign_id=write.campaign,
                kind=kind,
                trial=trial,
                step_id=step_id,
                instrument=instrument,
                subject=subject,
                message=message,
                at=write.now,
            )
            write.event("asked", "matloop", trial=trial, step=step_id, note=f"{kind}: {message}")
            return made

        return self._db.write(self._id(name), "ask", work)

    def asked(self, name: str, *, answered: bool = False) -> list[Asked]:
        """Read the questions that wait for an answer, oldest first.

        Args:
            name: of the campaign.
            answered: whether those that were answered are given too.
        """
        question, reply, step = tables.question, tables.reply, tables.step
        query = (
            select(
                question,
                reply.c.verb,
                reply.c.actor.label("by"),
                reply.c.reason.label("told"),
                step.c.name.label("step_name"),
            )
            .join(reply, reply.c.question_id == question.c.id, isouter=True)
            .join(step, step.c.id == question.c.step_id, isouter=True)
            .where(question.c.campaign_id == self._id(name))
            .order_by(question.c.id)
        )
        if not answered:
            query = query.where(reply.c.id.is_(None))
        with self._db.read() as connection:
            return [_asked(row) for row in connection.execute(query)]

    def reply(self, name: str, question: int, verb: str, *, actor: str, reason: str) -> None:
        """Answer a question, once.

        Raises:
            IllegalTransition: it has its answer already.
            StoreError: there is no such question.
        """

        def work(write: Write) -> None:
            row = write.row(tables.question, question)
            table = tables.reply
            found = write.connection.execute(table.select().where(table.c.question_id == question)).first()
            if found is not None:
                message = f"question {question} was answered by {found.actor} with {found.verb!r}: {found.reason}"
                raise IllegalTransition(message)
            write.insert(
                table,
                campaign_id=write.campaign,
                question_id=question,
                verb=verb,
                actor=actor,
                reason=reason,
                at=write.now,
            )
            write.event("answered", actor, trial=row.trial, step=row.step_id, note=f"{row.kind}: {verb}: {reason}")

        self._db.write(self._id(name), "reply", work)

    def give_up(self, name: str, trial: int, *, actor: str, reason: str) -> None:
        """End a trial of which nothing runs, as ABANDONED: no evidence about its candidate.

        Raises:
            IllegalTransition: one of its steps is being carried out.
        """

        def work(write: Write) -> None:
            table = tables.trial
            where = (table.c.campaign_id == write.campaign) & (table.c.number == trial)
            row = write.connection.execute(table.select().where(where)).one()
            for one in steps_of(write, row.id):
                if one.state == StepState.OPEN:
                    message = f"step {one.name!r} of trial {trial} is being carried out; answer for its attempt first"
                    raise IllegalTransition(message)
                if one.state == StepState.CLAIMED:
                    write.change(tables.step, one, state=StepState.PLANNED, owner="", fence=one.fence + 1)
                if one.state in (StepState.PLANNED, StepState.CLAIMED):
                    fresh = write.row(tables.step, one.id)
                    write.change(tables.step, fresh, state=StepState.CANCELLED, reason=reason)
            write.change(table, row, ended_at=write.now)
            write.event("given_up", actor, trial=trial, note=reason)

        self._db.write(self._id(name), "give_up", work)

    # --- doubted trials -------------------------------------------------------------------------------------------

    def doubt(self, name: str, trials: Iterable[int], *, cause: str, reason: str, actor: str = "matloop") -> None:
        """Doubt the numbers of trials: they stay in the record as uncertain, and nothing is learned from them."""
        self._doubt(name, trials, ("doubted", cause), reason, actor)

    def lift_doubt(self, name: str, trials: Iterable[int], *, reason: str, actor: str) -> None:
        """Trust the numbers of trials again."""
        self._doubt(name, trials, ("lifted", ""), reason, actor)

    def doubted(self, name: str) -> dict[int, str]:
        """Read why the numbers of trials are doubted, by trial number."""
        with self._db.read() as connection:
            numbers = {row.id: row.number for row in _trials(connection, self._id(name))}
            return {numbers[key]: reason for key, reason in doubts(connection, self._id(name)).items()}

    def _doubt(self, name: str, trials: Iterable[int], to: tuple[str, str], reason: str, actor: str) -> None:
        state, cause = to
        wanted = sorted(set(trials))
        if not wanted:
            return

        def work(write: Write) -> None:
            ids = {row.number: row.id for row in _trials(write.connection, write.campaign)}
            for number in wanted:
                what = {"state": state, "cause": cause, "reason": reason, "actor": actor, "at": write.now}
                write.insert(tables.doubt, campaign_id=write.campaign, trial_id=ids[number], **what)
            write.event(state, actor, note=f"trials {wanted}: {reason}")

        self._db.write(self._id(name), "doubt", work)

    # --- reference orders -----------------------------------------------------------------------------------------

    def record_reference(self, attempt_id: int, result: ReferenceResult, *, actor: str = "matloop") -> None:
        """Record what came of a reference order, and plan the step again that it was put before.

        Args:
            attempt_id: of a MEASURED or HELD attempt whose order is marked as a reference.
            result: number and verdict.
            actor: person or program.
        """

        def work(write: Write) -> None:
            row = write.row(tables.attempt, attempt_id)
            if (AttemptState(row.state), AttemptState.RECORDED) not in ATTEMPT_PAIRS:
                message = f"attempt {attempt_id} is {row.state}; it cannot become RECORDED"
                raise IllegalTransition(message)
            write.insert(
                tables.reference,
                campaign_id=write.campaign,
                attempt_id=attempt_id,
                instrument=result.instrument,
                property=result.property,
                value=result.value,
                unit=result.unit,
                expected=result.expected,
                tolerance=result.tolerance,
                verdict="good" if result.good else "off",
                raw_sha256=row.raw_sha256,
                at=write.now,
            )
            write.change(tables.attempt, row, state=AttemptState.RECORDED)
            step = write.row(tables.step, row.step_id)
            write.change(tables.step, step, state=StepState.PLANNED, owner="", reason="after a reference order")
            number = settle(write, row, happened=True)
            change = (row.state, AttemptState.RECORDED)
            note = f"{result.property} = {result.value:g} {result.unit}, expected {result.expected:g}"
            write.event("reference", actor, trial=number, step=step.id, attempt=row.id, change=change, note=note)

        self._db.write(self._campaign_of_attempt(attempt_id), "reference", work)

    def references(self, name: str, instrument: str | None = None) -> list[ReferenceResult]:
        """Read the results of reference orders, oldest first."""
        table = tables.reference
        where = table.c.campaign_id == self._id(name)
        if instrument is not None:
            where &= table.c.instrument == instrument
        with self._db.read() as connection:
            return [
                ReferenceResult(
                    attempt=row.attempt_id,
                    instrument=row.instrument,
                    property=row.property,
                    value=row.value,
                    unit=row.unit,
                    expected=row.expected,
                    tolerance=row.tolerance,
                    good=row.verdict == "good",
                    at=row.at,
                )
                for row in connection.execute(table.select().where(where).order_by(table.c.id))
            ]

    def _campaign_of_attempt(self, attempt_id: int) -> int:
        with self._db.read() as connection:
            query = statements.one_column(tables.attempt, "campaign_id")
            return int(connection.execute(query, {"row_id": attempt_id}).scalar_one())


def doubts(connection: Connection, campaign: int) -> Mapping[int, str]:
    """Return why trials are doubted, by trial id."""
    table = tables.doubt
    query = table.select().where(table.c.campaign_id == campaign).order_by(table.c.id)
    newest = {row.trial_id: row for row in connection.execute(query)}
    return {key: row.reason for key, row in newest.items() if row.state == "doubted"}


def _campaign(connection: Connection, campaign: int) -> Row[Any]:
    return connection.execute(tables.campaign.select().where(tables.campaign.c.id == campaign)).one()


def _trials(connection: Connection, campaign: int) -> list[Row[Any]]:
    trial = tables.trial
    return list(connection.execute(select(trial.c.id, trial.c.number).where(trial.c.campaign_id == campaign)))


def _asked(row: Row[Any]) -> Asked:
    return Asked(
        id=row.id,
        kind=row.kind,
        trial=row.trial,
        step_id=row.step_id,
        step=row.step_name or "",
        instrument=row.instrument,
        subject=row.subject,
        message=row.message,
        asked_at=row.at,
        verb=row.verb or "",
        by=row.by or "",
        reason=row.told or "",
    )
