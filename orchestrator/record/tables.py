"""The tables of the campaign database.

Three kinds: *history* is only ever appended to; *state* rows change along the legal pairs of `states` and are never
deleted; `meta` describes the database. Triggers (`triggers`) enforce it. Every row of history and state carries
`row_sha`, the hash of its other columns, and every event names the rows that its transaction wrote with their hashes,
so that `verify` finds a changed, deleted or exchanged row. Tables of samples and of the lab's resources: `lab_tables`.

Costs are whole millionths of the campaign's cost unit: sums of binary fractions would miss a cap by a rounding error.
Columns that hold JSON hold it in canonical form. No money, no float compares, no cascades.
"""

from __future__ import annotations

from typing import cast

from sqlalchemy import CheckConstraint, Index, Table, UniqueConstraint, text
from sqlmodel import Field

from orchestrator.record.lab_tables import Hold, Resource, Sample, SampleFate, Supply
from orchestrator.record.service_tables import Doubt, QuestionRow, ReferenceRow, Reply, ServiceRow
from orchestrator.record.states import OPEN_ATTEMPT, SLOT_HOLDING, AttemptState, CampaignState, StepState
from orchestrator.record.table_base import Record, big, may_point_to, one_of, points_to

SCHEMA_VERSION = 2
FINITE = "BETWEEN -1e300 AND 1e300"
"""Refuses NaN, infinities and, on SQLite, text: all three compare outside every interval (measured on both)."""


class Meta(Record, table=True):
    """Facts about the database: schema version and fingerprint."""

    __tablename__ = "meta"
    key: str = Field(primary_key=True)
    value: str


class Campaign(Record, table=True):
    """State: one campaign with the caps of its budget, and what is reserved and spent of them."""

    __tablename__ = "campaign"
    __table_args__ = (
        UniqueConstraint("name", name="uq_campaign_name"),
        UniqueConstraint("uuid", name="uq_campaign_uuid"),
        CheckConstraint(f"state IN {one_of(CampaignState)}", name="ck_campaign_state"),
        CheckConstraint(
            "reserved_trials >= 0 AND spent_trials >= 0 "
            "AND (cap_trials IS NULL OR reserved_trials + spent_trials <= cap_trials)",
            name="ck_campaign_trials",
        ),
        CheckConstraint(
            "reserved_cost >= 0 AND spent_cost >= 0 AND (cap_cost IS NULL OR reserved_cost + spent_cost <= cap_cost)",
            name="ck_campaign_cost",
        ),
        CheckConstraint("cap_hours IS NULL OR cap_hours BETWEEN 0 AND 1e300", name="ck_campaign_hours"),
    )
    id: int | None = Field(default=None, primary_key=True)
    uuid: str
    name: str
    seed: int = big()
    file: str
    state: str
    state_reason: str
    revision: int
    cap_trials: int | None = big(default=None)
    cap_hours: float | None = None
    cap_cost: int | None = big(default=None)
    reserved_trials: int = big()
    reserved_cost: int = big()
    spent_trials: int = big()
    spent_cost: int = big()
    created_at: int = big()
    row_sha: str


class Ledger(Record, table=True):
    """State: the head of a campaign's chain of events and its hours; every write transaction locks this row first."""

    __tablename__ = "ledger"
    __table_args__ = (
        UniqueConstraint("campaign_id", name="uq_ledger_campaign"),
        CheckConstraint("hours BETWEEN 0 AND 1e300", name="ck_ledger_hours"),
    )
    id: int | None = Field(default=None, primary_key=True)
    campaign_id: int = points_to("campaign")
    events: int = big()
    head_sha: str
    hours: float
    row_sha: str


class Revision(Record, table=True):
    """History: one content of the campaign file."""

    __tablename__ = "revision"
    __table_args__ = (UniqueConstraint("campaign_id", "number", name="uq_revision_number"),)
    id: int | None = Field(default=None, primary_key=True)
    campaign_id: int = points_to("campaign")
    number: int
    config: str
    config_sha256: str
    actor: str
    at: int = big()
    row_sha: str


class Link(Record, table=True):
    """History: where else a campaign can be seen; the newest of a key counts."""

    __tablename__ = "link"
    __table_args__ = (Index("ix_link_campaign", "campaign_id", "key"),)
    id: int | None = Field(default=None, primary_key=True)
    campaign_id: int = points_to("campaign")
    key: str
    value: str
    at: int = big()
    row_sha: str


class Veto(Record, table=True):
    """History: a candidate that somebody does not want measured."""

    __tablename__ = "veto"
    __table_args__ = (UniqueConstraint("campaign_id", "candidate_sha", name="uq_veto_candidate"),)
    id: int | None = Field(default=None, primary_key=True)
    campaign_id: int = points_to("campaign")
    candidate_sha: str
    actor: str
    reason: str
    at: int = big()
    row_sha: str


class CandidateRow(Record, table=True):
    """History: a candidate, once a campaign; `sha` is its id in the rest of Matloop."""

    __tablename__ = "candidate"
    __table_args__ = (
        UniqueConstraint("campaign_id", "sha", name="uq_candidate_sha"),
        CheckConstraint("length(sha) = 64", name="ck_candidate_sha"),
    )
    id: int | None = Field(default=None, primary_key=True)
    campaign_id: int = points_to("campaign")
    sha: str
    label: str
    content: str
    row_sha: str


class Fit(Record, table=True):
    """History: one training of a surrogate."""

    __tablename__ = "fit"
    __table_args__ = (
        UniqueConstraint("campaign_id", "number", name="uq_fit_number"),
        CheckConstraint("length(checkpoint_sha256) = 64", name="ck_fit_checkpoint"),
    )
    id: int | None = Field(default=None, primary_key=True)
    campaign_id: int = points_to("campaign")
    number: int
    parent_id: int | None = may_point_to("fit")
    surrogate: str
    seed: int = big()
    seen: str
    report: str
    checkpoint_sha256: str
    revision: int
    at: int = big()
    row_sha: str


class Decision(Record, table=True):
    """History: what was chosen from what knowledge."""

    __tablename__ = "decision"
    __table_args__ = (UniqueConstraint("campaign_id", "number", name="uq_decision_number"),)
    id: int | None = Field(default=None, primary_key=True)
    campaign_id: int = points_to("campaign")
    number: int
    policy: str
    purpose: str
    seen: str
    seen_sha256: str
    pending: str
    closed_sha256: str
    fit_id: int | None = may_point_to("fit")
    seed: int = big()
    device: str
    threads: int
    summary: str
    seconds: float
    revision: int
    at: int = big()
    row_sha: str


class ProposalRow(Record, table=True):
    """History: one choice of a decision, best first, with its reasons."""

    __tablename__ = "proposal"
    __table_args__ = (UniqueConstraint("decision_id", "position", name="uq_proposal_position"),)
    id: int | None = Field(default=None, primary_key=True)
    campaign_id: int = points_to("campaign")
    decision_id: int = points_to("decision")
    position: int
    candidate_id: int = points_to("candidate")
    content: str
    row_sha: str


class Trial(Record, table=True):
    """State: one execution of a proposal's procedure; its state is derived from its steps and stored nowhere."""

    __tablename__ = "trial"
    __table_args__ = (
        UniqueConstraint("campaign_id", "number", name="uq_trial_number"),
        UniqueConstraint("campaign_id", "candidate_id", "fidelity", "replicate", name="uq_trial_replicate"),
        UniqueConstraint("proposal_id", name="uq_trial_proposal"),
        CheckConstraint("replicate >= 0", name="ck_trial_replicate"),
        CheckConstraint("charge IN ('none', 'reserved', 'spent')", name="ck_trial_charge"),
    )
    id: int | None = Field(default=None, primary_key=True)
    campaign_id: int = points_to("campaign")
    number: int
    decision_id: int = points_to("decision")
    proposal_id: int = points_to("proposal")
    candidate_id: int = points_to("candidate")
    fidelity: str
    replicate: int
    charge: str
    sample: str
    planned_at: int = big()
    started_at: int | None = big(default=None)
    ended_at: int | None = big(default=None)
    row_sha: str


_CLAIMED = text("state = 'CLAIMED'")
_OPEN = text(f"state IN {one_of(OPEN_ATTEMPT)}")
_HOLDING = text(f"state IN {one_of(SLOT_HOLDING)}")


class Step(Record, table=True):
    """State: one order to one instrument within a trial; `fence` counts the claims, `not_before` ends a wait."""

    __tablename__ = "step"
    __table_args__ = (
        UniqueConstraint("trial_id", "position", name="uq_step_position"),
        UniqueConstraint("trial_id", "name", name="uq_step_name"),
        CheckConstraint(f"state IN {one_of(StepState)}", name="ck_step_state"),
        CheckConstraint("cost >= 0 AND fence >= 0 AND attempts >= 0", name="ck_step_counts"),
        # none on campaign_id alone: SQLite would take it instead of this one; a campaign's steps are read by trial
        Index("ix_step_claimed", "campaign_id", sqlite_where=_CLAIMED, postgresql_where=_CLAIMED),
    )
    id: int | None = Field(default=None, primary_key=True)
    campaign_id: int = points_to("campaign")
    trial_id: int = points_to("trial")
    position: int
    name: str
    instrument: str
    capability: str
    cost: int = big()
    state: str
    reason: str
    owner: str
    fence: int
    attempts: int
    not_before: int | None = big(default=None)
    row_sha: str


class Attempt(Record, table=True):
    """State: one permission to start a step; `place` names the instrument whose slot it holds."""

    __tablename__ = "attempt"
    __table_args__ = (
        UniqueConstraint("dispatch_key", name="uq_attempt_key"),
        UniqueConstraint("step_id", "number", name="uq_attempt_number"),
        CheckConstraint(f"state IN {one_of(AttemptState)}", name="ck_attempt_state"),
        CheckConstraint("slot >= 0 AND cost >= 0 AND number >= 1", name="ck_attempt_counts"),
        CheckConstraint(
            "state NOT IN ('MEASURED', 'RECORDED', 'HELD') OR raw_sha256 IS NOT NULL", name="ck_attempt_raw"
        ),
        Index("uq_attempt_open", "step_id", unique=True, sqlite_where=_OPEN, postgresql_where=_OPEN),
        Index("uq_attempt_slot", "place", "slot", unique=True, sqlite_where=_HOLDING, postgresql_where=_HOLDING),
        Index("ix_attempt_open", "campaign_id", sqlite_where=_OPEN, postgresql_where=_OPEN),
        Index("ix_attempt_trial", "trial_id"),  # for the same reason none on campaign_id alone
    )
    id: int | None = Field(default=None, primary_key=True)
    campaign_id: int = points_to("campaign")
    trial_id: int = points_to("trial")
    step_id: int = points_to("step")
    number: int
    dispatch_key: str
    instrument: str
    place: str
    slot: int
    cost: int = big()
    state: str
    request: str
    handle: str | None = None
    raw_sha256: str | None = None
    effect: str | None = None
    note: str
    created_at: int = big()
    row_sha: str


class MeasurementRow(Record, table=True):
    """History: one number, measured or derived; a derived row without a value says why there is none."""

    __tablename__ = "measurement"
    __table_args__ = (
        UniqueConstraint("attempt_id", "property", name="uq_measurement_property"),
        Index(
            "uq_measurement_derived",
            "trial_id",
            "property",
            "version",
            unique=True,
            sqlite_where=text("kind = 'derived'"),
            postgresql_where=text("kind = 'derived'"),
        ),
        CheckConstraint(f"value IS NULL OR value {FINITE}", name="ck_measurement_finite"),
        CheckConstraint("std_error IS NULL OR std_error BETWEEN 0 AND 1e300", name="ck_measurement_std_error"),
        CheckConstraint("quality IN ('good', 'uncertain', 'bad')", name="ck_measurement_quality"),
        CheckConstraint(
            "(kind = 'measured' AND value IS NOT NULL AND attempt_id IS NOT NULL AND raw_sha256 IS NOT NULL) "
            "OR (kind = 'derived' AND attempt_id IS NULL AND version <> '' AND (value IS NOT NULL OR reason <> ''))",
            name="ck_measurement_kind",
        ),
        Index("ix_measurement_campaign", "campaign_id"),
    )
    id: int | None = Field(default=None, primary_key=True)
    campaign_id: int = points_to("campaign")
    trial_id: int = points_to("trial")
    attempt_id: int | None = may_point_to("attempt")
    kind: str
    step: str
    property: str
    value: float | None = None
    unit: str
    std_error: float | None = None
    quality: str
    version: str
    reason: str
    measured_at: int = big()
    raw_sha256: str | None = None
    row_sha: str


class Derivation(Record, table=True):
    """History: the version by which a derived property is computed from now on."""

    __tablename__ = "derivation"
    __table_args__ = (Index("ix_derivation_campaign", "campaign_id", "property"),)
    id: int | None = Field(default=None, primary_key=True)
    campaign_id: int = points_to("campaign")
    property: str
    unit: str
    version: str
    at: int = big()
    row_sha: str


class Artifact(Record, table=True):
    """History: what came back besides numbers: structures, set-points as applied, attached files, notes."""

    __tablename__ = "artifact"
    __table_args__ = (
        UniqueConstraint("attempt_id", "kind", "name", name="uq_artifact_name"),
        CheckConstraint("kind IN ('structure', 'applied', 'attachment', 'notes')", name="ck_artifact_kind"),
        Index("ix_artifact_campaign", "campaign_id", "kind"),
    )
    id: int | None = Field(default=None, primary_key=True)
    campaign_id: int = points_to("campaign")
    trial_id: int = points_to("trial")
    attempt_id: int = points_to("attempt")
    kind: str
    name: str
    media_type: str
    content: str
    row_sha: str


class Event(Record, table=True):
    """History: one line for every write transaction, chained by hashes; `writes` names the rows it wrote."""

    __tablename__ = "event"
    __table_args__ = (
        UniqueConstraint("op_id", name="uq_event_op"),
        UniqueConstraint("campaign_id", "number", name="uq_event_number"),
        UniqueConstraint("campaign_id", "prev_sha", name="uq_event_prev"),
    )
    id: int | None = Field(default=None, primary_key=True)
    campaign_id: int = points_to("campaign")
    number: int = big()
    op_id: str
    at: int = big()
    actor: str
    kind: str
    trial: int | None = None
    step_id: int | None = may_point_to("step")
    attempt_id: int | None = may_point_to("attempt")
    state_from: str
    state_to: str
    note: str
    writes: str
    prev_sha: str
    row_sha: str


def _table(model: type[Record]) -> Table:
    return cast("Table", model.__table__)  # type: ignore[attr-defined]  # SQLModel adds it at run time


meta = _table(Meta)
campaign = _table(Campaign)
ledger = _table(Ledger)
revision = _table(Revision)
link = _table(Link)
veto = _table(Veto)
candidate = _table(CandidateRow)
fit = _table(Fit)
decision = _table(Decision)
proposal = _table(ProposalRow)
trial = _table(Trial)
step = _table(Step)
attempt = _table(Attempt)
measurement = _table(MeasurementRow)
derivation = _table(Derivation)
artifact = _table(Artifact)
sample = _table(Sample)
sample_fate = _table(SampleFate)
resource = _table(Resource)
hold = _table(Hold)
supply = _table(Supply)
event = _table(Event)
service = _table(ServiceRow)
question = _table(QuestionRow)
reply = _table(Reply)
doubt = _table(Doubt)
reference = _table(ReferenceRow)

HISTORY = (
    revision,
    link,
    veto,
    candidate,
    fit,
    decision,
    proposal,
    measurement,
    derivation,
    artifact,
    sample,
    sample_fate,
    event,
    service,
    question,
    reply,
    doubt,
    reference,
)
"""Tables that are only ever appended to."""

STATE = (campaign, ledger, trial, step, attempt)
"""Tables whose rows change, and are never deleted."""

LAB_HISTORY = (supply,)
"""As `HISTORY`, of the whole lab: in no campaign's chain of events, so that `verify` adds them up instead."""

LAB_STATE = (resource, hold)
"""As `STATE`, of the whole lab."""
