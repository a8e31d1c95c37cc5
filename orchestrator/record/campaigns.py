"""Campaigns in the store: making, amending, stopping, holding them, and their history."""

from __future__ import annotations

import math
import uuid
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

from sqlalchemy import Connection, Row, select

from orchestrator.config.schema import CampaignConfig
from orchestrator.domain import Spent, canonical_json, frozen
from orchestrator.errors import IllegalTransition, StoreError
from orchestrator.record import tables
from orchestrator.record.base import MICRO, StorePart, current, micro
from orchestrator.record.codec import from_text
from orchestrator.record.database import Write
from orchestrator.record.hold import hold
from orchestrator.record.states import CAMPAIGN_PAIRS, CampaignState, StepState
from orchestrator.record.views import CampaignInfo, EventInfo


class Campaigns(StorePart):
    """The part of the store that knows campaigns as a whole."""

    def create_campaign(self, config: CampaignConfig, *, file: str = "", actor: str) -> CampaignInfo:
        """Begin a campaign.

        Args:
            config: content of the campaign file.
            file: its path, as given.
            actor: person or program.

        Returns:
            The campaign, ACTIVE.

        Raises:
            StoreError: the name is taken.
        """
        with self._db.read() as connection:
            names = set(connection.execute(select(tables.campaign.c.name)).scalars())
        if config.name in names:
            raise StoreError(_taken(config.name))

        def work(write: Write) -> None:
            write.campaign = write.insert(
                tables.campaign,
                uuid=uuid.uuid4().hex,
                name=config.name,
                seed=config.seed,
                file=file,
                state=CampaignState.ACTIVE,
                state_reason="",
                revision=1,
                reserved_trials=0,
                reserved_cost=0,
                spent_trials=0,
                spent_cost=0,
                created_at=write.now,
                **_caps(config),
            )
            _revise(write, config, 1, actor)
            write.event("created", actor, change=("", CampaignState.ACTIVE), note=file)

        try:
            self._db.write(None, "create", work)
        except StoreError as error:
            if "campaign" in str(error) and "name" in str(error):  # another process was faster
                raise StoreError(_taken(config.name)) from error
            raise
        return self.campaign(config.name)

    def campaign(self, name: str) -> CampaignInfo:
        """Read a campaign as it stands now.

        Raises:
            StoreError: there is none of that name; the message names the nearest.
        """
        campaign = self._id(name)
        with self._db.read() as connection:
            return _info(connection, connection.execute(_by_id(campaign)).one())

    def campaigns(self) -> list[CampaignInfo]:
        """Read all campaigns, oldest first."""
        with self._db.read() as connection:
            rows = connection.execute(tables.campaign.select().order_by(tables.campaign.c.id)).all()
            return [_info(connection, row) for row in rows]

    def amend(self, name: str, config: CampaignConfig, *, actor: str) -> CampaignInfo:
        """Store a new revision of the campaign file; the caps of the budget follow it.

        Args:
            name: of the campaign.
            config: new content; what may change is the caller's to decide.
            actor: person or program.

        Raises:
            StoreError: a cap lies below what is spent and reserved already.
        """

        def work(write: Write) -> None:
            row = current(write)
            caps = _caps(config)
            used = {
                "cap_trials": row.reserved_trials + row.spent_trials,
                "cap_cost": row.reserved_cost + row.spent_cost,
            }
            for key, amount in used.items():
                cap = caps[key]
                if cap is not None and cap < amount:
                    unit, word = (1, "trials") if key == "cap_trials" else (MICRO, "cost")
                    message = (
                        f"budget.{word} of {cap / unit:g} is below the {amount / unit:g} that campaign {name!r} has "
                        "spent and reserved already; give at least that"
                    )
                    raise StoreError(message)
            number = row.revision + 1
            write.change(tables.campaign, row, revision=number, **caps)
            _revise(write, config, number, actor)
            write.event("amended", actor, note=f"revision {number}")

        self._db.write(self._id(name), "amend", work)
        return self.campaign(name)

    def revisions(self, name: str) -> list[Mapping[str, Any]]:
        """Read the revisions of the campaign file, oldest first: number, config, config_sha256, actor, at."""
        table = tables.revision
        query = table.select().where(table.c.campaign_id == self._id(name)).order_by(table.c.number)
        with self._db.read() as connection:
            return [
                {
                    "number": row.number,
                    "config": from_text(row.config),
                    "config_sha256": row.config_sha256,
                    "actor": row.actor,
                    "at": row.at,
                }
                for row in connection.execute(query)
            ]

    def set_state(self, name: str, state: CampaignState, *, actor: str, reason: str) -> None:
        """Pause, stop, end or resume a campaign; asking for the state it has changes nothing.

        Raises:
            IllegalTransition: that state cannot follow.
        """

        def work(write: Write) -> None:
            row = current(write)
            before = CampaignState(row.state)
            if before is not state and (before, state) not in CAMPAIGN_PAIRS:
                message = f"campaign {name!r} is {before}; it cannot become {state}"
                raise IllegalTransition(message)
            if before is not state or row.state_reason != reason:
                write.change(tables.campaign, row, state=state, state_reason=reason)
            write.event("state", actor, change=(before, state), note=reason)

        self._db.write(self._id(name), "state", work)

    def set_link(self, name: str, key: str, value: str) -> None:
        """Note where else a campaign can be seen, such as ``prefect_flow_run_id``."""

        def work(write: Write) -> None:
            write.insert(tables.link, campaign_id=write.campaign, key=key, value=value, at=write.now)
            write.event("linked", "matloop", note=f"{key}: {value}")

        self._db.write(self._id(name), "link", work)

    def hold(self, name: str, *, who: str = "") -> AbstractContextManager[None]:
        """Hold a campaign, so that no other process carries it on; freed when this process dies.

        Args:
            name: of the campaign.
            who: what is told to others; the command line where empty.

        Raises:
            Held: another process holds it.
        """
        return hold(self.folder / "locks", self._id(name), name, self._db.engine, who=who)

    def tick(self, name: str, hours: float) -> None:
        """Add elapsed hours of an ACTIVE campaign to what is spent.

        Raises:
            StoreError: `hours` is negative or not finite.
        """
        if not (math.isfinite(hours) and hours >= 0):
            message = f"elapsed hours must be a finite number of at least 0, not {hours}"
            raise StoreError(message)
        self._db.add_hours(self._id(name), hours)

    def veto(self, name: str, candidate_id: str, *, actor: str, reason: str) -> None:
        """Keep a candidate from being proposed, and cancel its trials that have not started.

        Args:
            name: of the campaign.
            candidate_id: SHA-256 of the candidate, whether known to the store or not.
            actor: person or program.
            reason: for people.
        """

        def work(write: Write) -> None:
            table = tables.veto
            where = (table.c.campaign_id == write.campaign) & (table.c.candidate_sha == candidate_id)
            if write.connection.execute(table.select().where(where)).first() is None:
                write.insert(
                    table,
                    campaign_id=write.campaign,
                    candidate_sha=candidate_id,
                    actor=actor,
                    reason=reason,
                    at=write.now,
                )
            cancelled = _cancel(write, candidate_id, f"vetoed by {actor}: {reason}")
            note = f"{candidate_id}: {reason}" + (f" (cancelled trials {cancelled})" if cancelled else "")
            write.event("veto", actor, note=note)

        self._db.write(self._id(name), "veto", work)

    def vetoes(self, name: str) -> frozenset[str]:
        """Return the ids of the vetoed candidates."""
        table = tables.veto
        with self._db.read() as connection:
            query = select(table.c.candidate_sha).where(table.c.campaign_id == self._id(name))
            return frozenset(connection.execute(query).scalars())

    def add_event(self, name: str, *, kind: str, actor: str, note: str) -> None:
        """Note a decision of a person, or anything else that belongs into the history."""
        self._db.write(self._id(name), "note", lambda write: write.event(kind, actor, note=note))

    def events(self, name: str, *, since: int = 0) -> list[EventInfo]:
        """Read the history of a campaign.

        Args:
            name: of the campaign.
            since: only events with a larger `seq`.
        """
        table = tables.event
        where = (table.c.campaign_id == self._id(name)) & (table.c.number > since)
        with self._db.read() as connection:
            return [
                EventInfo(
                    seq=row.number,
                    at=row.at,
                    actor=row.actor,
                    kind=row.kind,
                    trial=row.trial,
                    step=row.step_id,
                    attempt=row.attempt_id,
                    frm=row.state_from,
                    to=row.state_to,
                    note=row.note,
                )
                for row in connection.execute(table.select().where(where).order_by(table.c.number))
            ]


def _taken(name: str) -> str:
    return (
        f"there is a campaign {name!r} in this database already: carry it on with `matloop resume {name}`, or start "
        "another one with --name"
    )


def _by_id(campaign: int) -> Any:
    return tables.campaign.select().where(tables.campaign.c.id == campaign)


def _caps(config: CampaignConfig) -> dict[str, Any]:
    budget = config.budget
    return {
        "cap_trials": budget.trials,
        "cap_hours": budget.hours,
        "cap_cost": None if budget.cost is None else micro(budget.cost),
    }


def _revise(write: Write, config: CampaignConfig, number: int, actor: str) -> None:
    write.insert(
        tables.revision,
        campaign_id=write.campaign,
        number=number,
        config=canonical_json(config.snapshot()),
        config_sha256=config.sha256(),
        actor=actor,
        at=write.now,
    )


def _cancel(write: Write, candidate_id: str, reason: str) -> list[int]:
    """Cancel the steps of a candidate's trials that have not started; return the trials' numbers."""
    trial, step, candidate = tables.trial, tables.step, tables.candidate
    query = (
        trial.select()
        .join(candidate, candidate.c.id == trial.c.candidate_id)
        .where((trial.c.campaign_id == write.campaign) & (candidate.c.sha == candidate_id))
        .where((trial.c.charge == "none") & trial.c.ended_at.is_(None))
        .order_by(trial.c.number)
    )
    numbers = []
    for row in write.connection.execute(query).all():
        steps = write.connection.execute(step.select().where(step.c.trial_id == row.id).order_by(step.c.position)).all()
        if any(one.state not in (StepState.PLANNED, StepState.CLAIMED) for one in steps):
            continue
        for one in steps:
            if one.state == StepState.CLAIMED:  # nothing was sent; the claimer's fence is broken by the change
                write.change(step, one, state=StepState.PLANNED, owner="", fence=one.fence + 1)
            write.change(step, write.row(step, one.id), state=StepState.CANCELLED, reason=reason)
        write.change(trial, row, ended_at=write.now)
        numbers.append(row.number)
    return numbers


def _info(connection: Connection, row: Row[Any]) -> CampaignInfo:
    revision, ledger, link = tables.revision, tables.ledger, tables.link
    now = connection.execute(
        revision.select().where((revision.c.campaign_id == row.id) & (revision.c.number == row.revision))
    ).one()
    hours = connection.execute(select(ledger.c.hours).where(ledger.c.campaign_id == row.id)).scalar_one()
    links = connection.execute(link.select().where(link.c.campaign_id == row.id).order_by(link.c.id)).all()
    return CampaignInfo(
        id=row.id,
        uuid=row.uuid,
        name=row.name,
        seed=row.seed,
        state=CampaignState(row.state),
        state_reason=row.state_reason,
        config=frozen(from_text(now.config)),
        config_sha256=now.config_sha256,
        file=row.file,
        revision=row.revision,
        spent=Spent(trials=row.spent_trials, hours=hours, cost=row.spent_cost / MICRO),
        reserved_trials=row.reserved_trials,
        reserved_cost=row.reserved_cost / MICRO,
        created_at=row.created_at,
        links=frozen({one.key: one.value for one in links}),
    )
