"""What execution asks of the store: claim, intent, advance, record, end. Each is one transaction with its event.

The committed INTENT row is the only permission to start anything. It is written only while the campaign is ACTIVE and
within its budget, for a claimed step, on a free slot of the instrument.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from sqlalchemy import ColumnElement, Connection, Row, bindparam, literal_column, select
from sqlalchemy.exc import IntegrityError

from orchestrator.config.steps import NeedConfig
from orchestrator.domain import Crystal, JsonObject, Value, sha256
from orchestrator.errors import Busy, IllegalTransition, Stopped, StoreError
from orchestrator.record import statements, table_base, tables
from orchestrator.record.base import StorePart, config_of, current, micro
from orchestrator.record.budget import reserve, settle, steps_of
from orchestrator.record.codec import from_text, to_text
from orchestrator.record.database import Write, check_space
from orchestrator.record.recording import write_result
from orchestrator.record.resources import NOTHING_NEEDED, take
from orchestrator.record.samples import handled, suspect
from orchestrator.record.states import (
    ATTEMPT_PAIRS,
    OPEN_ATTEMPT,
    SLOT_HOLDING,
    STEP_DONE,
    AttemptState,
    CampaignState,
    StepState,
)
from orchestrator.record.views import AttemptInfo, NewMeasurement

_LABELS = {AttemptState.SUBMITTED: "ack"}
_CLOSED_BY = {
    AttemptState.RECORDED: "record",
    AttemptState.FAILED: "end_attempt",
    AttemptState.NOT_STARTED: "end_attempt",
}


_TAKEN = select(tables.attempt.c.slot).where(
    (tables.attempt.c.place == bindparam("place")) & literal_column(f"state IN {table_base.one_of(SLOT_HOLDING)}")
)
_READ = (
    select(tables.attempt, tables.trial.c.number.label("trial_number"), tables.step.c.name.label("step_name"))
    .join(tables.trial, tables.trial.c.id == tables.attempt.c.trial_id)
    .join(tables.step, tables.step.c.id == tables.attempt.c.step_id)
    .order_by(tables.attempt.c.id)
)
_ONE = _READ.where(tables.attempt.c.id == bindparam("row_id"))


class Steps(StorePart):
    """The part of the store that carries steps and attempts along their state machines."""

    def claim(self, step_id: int, *, owner: str) -> int:
        """Take a planned step, so that nobody else works on it.

        Args:
            step_id: of a PLANNED step whose earlier steps are recorded or skipped.
            owner: who claims.

        Returns:
            The fence number: `intent` and `unclaim` want it, and it is worth nothing once somebody else claimed.

        Raises:
            IllegalTransition: the step is not PLANNED, or an earlier step is not recorded.
        """

        def work(write: Write) -> int:
            row = write.row(tables.step, step_id)
            _want(row, StepState.PLANNED, "claim")
            steps = steps_of(write, row.trial_id)
            waiting = [one.name for one in steps if one.position < row.position and one.state not in STEP_DONE]
            if waiting:
                message = f"step {row.name!r} ({step_id}) cannot be claimed before {', '.join(waiting)} is recorded"
                raise IllegalTransition(message)
            write.change(tables.step, row, state=StepState.CLAIMED, owner=owner, fence=row.fence + 1)
            change = (StepState.PLANNED, StepState.CLAIMED)
            write.event("claim", owner, trial=_number(write, row), step=step_id, change=change)
            return int(row.fence) + 1

        return self._db.write(self._campaign_of(tables.step, step_id), "claim", work)

    def unclaim(self, step_id: int, *, fence: int) -> None:
        """Give a claimed step back; nothing was sent.

        Raises:
            IllegalTransition: the step is not claimed under this fence.
        """

        def work(write: Write) -> None:
            row = write.row(tables.step, step_id)
            _want(row, StepState.CLAIMED, "unclaim", fence)
            write.change(tables.step, row, state=StepState.PLANNED, owner="")
            change = (StepState.CLAIMED, StepState.PLANNED)
            write.event("unclaim", row.owner, trial=_number(write, row), step=step_id, change=change)

        self._db.write(self._campaign_of(tables.step, step_id), "unclaim", work)

    def release_stale_claims(self, name: str) -> int:
        """Give back every claim of a dead process. Call it at start, while holding the campaign.

        Returns:
            How many were given back.
        """
        campaign = self._id(name)
        query = tables.step.select().where(
            (tables.step.c.campaign_id == campaign) & literal_column("state = 'CLAIMED'")
        )
        with self._db.read() as connection:
            if connection.execute(query.limit(1)).first() is None:
                return 0

        def work(write: Write) -> int:
            rows = write.connection.execute(query).all()
            for row in rows:
                write.change(tables.step, row, state=StepState.PLANNED, owner="", fence=row.fence + 1)
            note = f"{len(rows)} claims of a process that ended"
            write.event("released", "matloop", change=(StepState.CLAIMED, StepState.PLANNED), note=note)
            return len(rows)

        return self._db.write(campaign, "release", work)

    def intent(
        self,
        step_id: int,
        *,
        fence: int,
        order: JsonObject,
        instrument: str,
        slots: int,
        cost: float,
        sample: str = "",
        needs: Mapping[str, NeedConfig] = NOTHING_NEEDED,
    ) -> AttemptInfo:
        """Ask for the permission to start a step. Only when this returned may anything be sent.

        Args:
            step_id: of a step claimed by the caller.
            fence: from `claim`.
            order: what will be asked; its ``key`` is replaced by the attempt's dispatch key.
            instrument: name in the campaign or lab file.
            slots: how many orders the instrument takes at once.
            cost: in the campaign's cost unit; reserved, and spent once something has happened.
            sample: id of the physical sample.
            needs: resources that are held until the attempt ends.

        Returns:
            The attempt, INTENT, with its dispatch key and slot.

        Raises:
            Stopped: the campaign is not ACTIVE.
            BudgetSpent: a cap would be passed.
            Busy: every slot of the instrument is taken, or a resource is held by other attempts.
            OutOfStock: less of a resource is there than the step needs.
            IllegalTransition: the claim was lost.
            StoreError: too little disk space is left.
        """
        check_space(self.folder, self._least_free)
        price = micro(cost)

        def work(write: Write) -> AttemptInfo:
            row = write.row(tables.step, step_id)
            campaign = current(write)
            if campaign.state != CampaignState.ACTIVE:
                reason = f" ({campaign.state_reason})" if campaign.state_reason else ""
                message = (
                    f"campaign {campaign.name!r} is {campaign.state}{reason}: no new step may start; carry it on with "
                    f"`matloop resume {campaign.name}`"
                )
                raise Stopped(message)
            _want(row, StepState.CLAIMED, "intent", fence)
            trial = write.row(tables.trial, row.trial_id)
            reserve(write, campaign, 1 if trial.charge == "none" else 0, price)
            number = row.attempts + 1
            attempt = _insert_attempt(
                write,
                slots,
                campaign_id=write.campaign,
                trial_id=trial.id,
                step_id=step_id,
                number=number,
                dispatch_key=dispatch_key(campaign.uuid, trial.number, row.name, number),
                instrument=instrument,
                place=_place(write.connection, campaign, instrument),
                cost=price,
                request=order,
            )
            write.change(tables.step, row, state=StepState.OPEN, attempts=number, cost=price)
            values: dict[str, Any] = {"started_at": trial.started_at or write.now, "sample": sample or trial.sample}
            if trial.charge == "none":
                values["charge"] = "reserved"
            write.change(tables.trial, trial, **values)
            if sample and not trial.sample:
                at = {"campaign_id": write.campaign, "trial_id": trial.id, "at": write.now}
                write.insert(tables.sample, name=sample, parents="[]", **at)
            take(write, attempt, needs)
            change = ("", AttemptState.INTENT)
            write.event("intent", row.owner, trial=trial.number, step=step_id, attempt=attempt, change=change)
            return _one(write.connection, attempt)

        return self._db.write(self._campaign_of(tables.step, step_id), "intent", work)

    def advance(
        self,
        attempt_id: int,
        to: AttemptState,
        *,
        handle: JsonObject | None = None,
        raw_sha256: str | None = None,
        effect: str | None = None,
        note: str = "",
        actor: str = "matloop",
    ) -> AttemptInfo:
        """Say what became of an attempt, short of its end.

        Args:
            attempt_id: of an open attempt.
            to: any state that may follow, except those that `record` and `end_attempt` write.
            handle: the job's token, where one came.
            raw_sha256: of the raw result; needed for MEASURED.
            effect: what physically happened, where that is in doubt.
            note: for people.
            actor: person or program.

        Returns:
            The attempt as it is now.

        Raises:
            IllegalTransition: that state cannot follow.
        """
        if to in _CLOSED_BY:
            message = f"an attempt becomes {to} through {_CLOSED_BY[to]}(), which settles step and budget too"
            raise IllegalTransition(message)
        if to is AttemptState.MEASURED and raw_sha256 is None:
            message = (
                "an attempt becomes MEASURED with the hash of its raw result; put the bytes into the raw store first"
            )
            raise StoreError(message)

        def work(write: Write) -> AttemptInfo:
            row = write.row(tables.attempt, attempt_id)
            _legal(row, to)
            given: dict[str, Any] = {"raw_sha256": raw_sha256, "effect": effect, "note": note or None}
            values = {key: value for key, value in given.items() if value is not None}
            if handle is not None:
                values["handle"] = to_text(handle, "the job's handle")
            write.change(tables.attempt, row, state=to, **values)
            if to is AttemptState.UNKNOWN:
                suspect(write, row, note)
            trial, change = _number(write, row), (row.state, to)
            write.event(to.lower(), actor, trial=trial, step=row.step_id, attempt=row.id, change=change, note=note)
            return _one(write.connection, attempt_id)

        label = _LABELS.get(to, to.lower())
        return self._db.write(self._campaign_of(tables.attempt, attempt_id), label, work)

    def record(
        self,
        attempt_id: int,
        measurements: Sequence[NewMeasurement],
        *,
        structures: Mapping[str, Crystal],
        applied: Mapping[str, Value],
        attachments: Sequence[tuple[str, str, str]] = (),
        notes: str = "",
        actor: str = "matloop",
    ) -> None:
        """Record a result, once and for all: rows, step, budget and event in one transaction.

        Args:
            attempt_id: of a MEASURED or HELD attempt.
            measurements: numbers in the properties' declared units.
            structures: what came back as structures, by output name.
            applied: set-points as the instrument applied them.
            attachments: name, media type and SHA-256 of raw files.
            notes: for people.
            actor: person or program.

        Raises:
            IllegalTransition: the attempt is in another state.
            StoreError: a number is not finite.
        """

        def work(write: Write) -> None:
            row = write.row(tables.attempt, attempt_id)
            _legal(row, AttemptState.RECORDED)
            step = write.row(tables.step, row.step_id)
            write_result(
                write,
                row,
                step,
                measurements,
                structures=structures,
                applied=applied,
                attachments=attachments,
                notes=notes,
            )
            write.change(tables.attempt, row, state=AttemptState.RECORDED)
            write.change(tables.step, step, state=StepState.RECORDED)
            handled(write, row, step)
            number = settle(write, row, happened=True)
            change = (row.state, AttemptState.RECORDED)
            write.event("record", actor, trial=number, step=step.id, attempt=row.id, change=change, note=notes)

        self._db.write(self._campaign_of(tables.attempt, attempt_id), "record", work)

    def end_attempt(
        self,
        attempt_id: int,
        to: Literal[AttemptState.FAILED, AttemptState.NOT_STARTED],
        *,
        retry: bool,
        reason: str,
        effect: str = "",
        actor: str = "matloop",
    ) -> None:
        """Close an attempt that gave no result.

        Args:
            attempt_id: of an open attempt.
            to: FAILED or NOT_STARTED.
            retry: whether the step may be tried again; if not, the trial has failed.
            reason: for people, and as evidence.
            effect: what physically happened; with ``none`` the reservation is given back.
            actor: person or program.

        Raises:
            IllegalTransition: that end cannot follow.
        """
        if _CLOSED_BY.get(to) != "end_attempt":
            message = f"end_attempt ends an attempt as FAILED or NOT_STARTED, not as {to}"
            raise IllegalTransition(message)

        def work(write: Write) -> None:
            row = write.row(tables.attempt, attempt_id)
            _legal(row, to)
            nothing = to is AttemptState.NOT_STARTED or effect == "none"
            write.change(tables.attempt, row, state=to, note=reason, effect=effect or row.effect)
            step = write.row(tables.step, row.step_id)
            if retry:
                write.change(tables.step, step, state=StepState.PLANNED, owner="", reason=reason)
            else:
                write.change(tables.step, step, state=StepState.FAILED, reason=reason)
                later = [one for one in steps_of(write, step.trial_id) if one.position > step.position]
                for one in later:
                    write.change(tables.step, one, state=StepState.CANCELLED, reason=f"{step.name} failed")
            if not nothing:
                suspect(write, row, reason)
            number = settle(write, row, happened=not nothing)
            change = (row.state, to)
            write.event("end", actor, trial=number, step=step.id, attempt=row.id, change=change, note=reason)

        self._db.write(self._campaign_of(tables.attempt, attempt_id), "end", work)

    def open_attempts(self, name: str) -> list[AttemptInfo]:
        """Read the attempts whose end is not known yet, oldest first."""
        return self._attempts(
            (tables.attempt.c.campaign_id == self._id(name))
            & literal_column(f"attempt.state IN {table_base.one_of(OPEN_ATTEMPT)}")
        )

    def users(self, name: str, instrument: str) -> list[str]:
        """Read which campaigns hold slots of an instrument at this moment, a name for each slot.

        Args:
            name: of the campaign that asks.
            instrument: of the lab file, or its own.
        """
        campaign, attempt = tables.campaign, tables.attempt
        asking = statements.by(campaign, "name")
        holding: ColumnElement[bool] = literal_column(f"attempt.state IN {table_base.one_of(SLOT_HOLDING)}")
        with self._db.read() as connection:
            place = _place(connection, connection.execute(asking, {"name": name}).one(), instrument)
            held = select(campaign.c.name).join(attempt, attempt.c.campaign_id == campaign.c.id)
            found = connection.execute(held.where((attempt.c.place == place) & holding).order_by(attempt.c.id))
            return [str(one) for one in found.scalars()]

    def attempt(self, attempt_id: int) -> AttemptInfo:
        """Read one attempt.

        Raises:
            StoreError: there is none of that id.
        """
        with self._db.read() as connection:
            return _one(connection, attempt_id)

    def attempts(self, name: str, *, trial: int | None = None) -> list[AttemptInfo]:
        """Read the attempts of a campaign, or of one of its trials, oldest first."""
        where = tables.trial.c.campaign_id == self._id(name)
        return self._attempts(where if trial is None else where & (tables.trial.c.number == trial))

    def _attempts(self, where: Any) -> list[AttemptInfo]:
        with self._db.read() as connection:
            return [_attempt_info(row) for row in connection.execute(_READ.where(where))]


def dispatch_key(campaign_uuid: str, trial: int, step: str, number: int) -> str:
    """Return the key of an attempt: SHA-256 of campaign, trial number, step name and attempt number."""
    return sha256(f"{campaign_uuid}/{trial}/{step}/{number}")


def _place(connection: Connection, campaign: Any, instrument: str) -> str:
    """Name a device: one of the lab file is the same for all campaigns; one of the campaign file is its own."""
    own = config_of(connection, campaign).get("instruments", {})
    return f"{campaign.uuid}/{instrument}" if instrument in own else instrument


def _insert_attempt(write: Write, slots: int, *, place: str, request: JsonObject, **values: Any) -> int:
    """Insert an attempt on the first free slot."""
    table = tables.attempt
    text = to_text({**request, "key": values["dispatch_key"]}, "the order")
    taken = set(write.connection.execute(_TAKEN, {"place": place}).scalars())
    for slot in (slot for slot in range(slots) if slot not in taken):
        try:
            with write.connection.begin_nested():  # on PostgreSQL another campaign may take the slot meanwhile
                return write.insert(
                    table,
                    place=place,
                    slot=slot,
                    request=text,
                    state=AttemptState.INTENT,
                    note="",
                    created_at=write.now,
                    **values,
                )
        except IntegrityError as error:
            if "uq_attempt_slot" not in str(error.orig) and "attempt.slot" not in str(error.orig):
                raise
    message = (
        f"all {slots} slots of instrument {values['instrument']!r} are taken; nothing was sent. An attempt that is "
        "UNKNOWN keeps its slot until a person says what happened: see `matloop status`"
    )
    raise Busy(message)


def _number(write: Write, row: Row[Any]) -> int:
    query = statements.one_column(tables.trial, "number")
    return int(write.connection.execute(query, {"row_id": row.trial_id}).scalar_one())


def _want(row: Row[Any], state: StepState, what: str, fence: int | None = None) -> None:
    if row.state != state or (fence is not None and row.fence != fence):
        claim = "" if fence is None else f" under fence {fence}"
        seen = f"{row.state} under fence {row.fence}" + (f", owned by {row.owner}" if row.owner else "")
        message = f"{what} of step {row.name!r} ({row.id}) needs it {state}{claim}, but it is {seen}"
        raise IllegalTransition(message)


def _legal(row: Row[Any], to: AttemptState) -> None:
    if (AttemptState(row.state), to) not in ATTEMPT_PAIRS:
        follow = sorted(b for a, b in ATTEMPT_PAIRS if a == row.state)
        allowed = f"only {', '.join(follow)} can follow" if follow else "nothing can follow"
        message = f"attempt {row.id} is {row.state}; it cannot become {to}: {allowed}"
        raise IllegalTransition(message)


def _one(connection: Connection, attempt_id: int) -> AttemptInfo:
    found = connection.execute(_ONE, {"row_id": attempt_id}).first()
    if found is None:
        message = f"there is no attempt with id {attempt_id} in this database"
        raise StoreError(message)
    return _attempt_info(found)


def _attempt_info(row: Row[Any]) -> AttemptInfo:
    return AttemptInfo(
        id=row.id,
        step_id=row.step_id,
        trial=row.trial_number,
        step=row.step_name,
        number=row.number,
        key=row.dispatch_key,
        instrument=row.instrument,
        slot=row.slot,
        state=AttemptState(row.state),
        order=from_text(row.request),
        handle=None if row.handle is None else from_text(row.handle),
        raw_sha256=row.raw_sha256,
        effect=row.effect,
        note=row.note,
        created_at=row.created_at,
    )
