"""Tables of what is doubted, asked and answered; all of them history."""

from __future__ import annotations

from sqlalchemy import CheckConstraint, Index, UniqueConstraint
from sqlmodel import Field

from orchestrator.record.table_base import Record, big, may_point_to, points_to


class ServiceRow(Record, table=True):
    """History: an instrument went OUT OF SERVICE or came back; the newest of a place counts.

    `place` is that of an attempt: an instrument of the lab file is one device for all campaigns of the database.
    """

    __tablename__ = "service"
    __table_args__ = (
        CheckConstraint("state IN ('out', 'in')", name="ck_service_state"),
        Index("ix_service_place", "place"),
    )
    id: int | None = Field(default=None, primary_key=True)
    campaign_id: int = points_to("campaign")
    instrument: str
    place: str
    state: str
    cause: str
    reason: str
    actor: str
    at: int = big()
    row_sha: str


class QuestionRow(Record, table=True):
    """History: something that a person is asked, other than what became of an attempt."""

    __tablename__ = "question"
    __table_args__ = (Index("ix_question_campaign", "campaign_id"),)
    id: int | None = Field(default=None, primary_key=True)
    campaign_id: int = points_to("campaign")
    kind: str
    trial: int | None = None
    step_id: int | None = may_point_to("step")
    instrument: str
    subject: str
    message: str
    at: int = big()
    row_sha: str


class Reply(Record, table=True):
    """History: the one answer to a question; by `matloop` where the reason for asking went away by itself."""

    __tablename__ = "reply"
    __table_args__ = (UniqueConstraint("question_id", name="uq_reply_question"),)
    id: int | None = Field(default=None, primary_key=True)
    campaign_id: int = points_to("campaign")
    question_id: int = points_to("question")
    verb: str
    actor: str
    reason: str
    at: int = big()
    row_sha: str


class Doubt(Record, table=True):
    """History: a trial's numbers are doubted, or no longer; the newest of a trial counts."""

    __tablename__ = "doubt"
    __table_args__ = (
        CheckConstraint("state IN ('doubted', 'lifted')", name="ck_doubt_state"),
        Index("ix_doubt_campaign", "campaign_id"),
    )
    id: int | None = Field(default=None, primary_key=True)
    campaign_id: int = points_to("campaign")
    trial_id: int = points_to("trial")
    state: str
    cause: str
    reason: str
    actor: str
    at: int = big()
    row_sha: str


class ReferenceRow(Record, table=True):
    """History: what an instrument gave for its reference sample; belongs to no trial's dataset."""

    __tablename__ = "reference"
    __table_args__ = (
        UniqueConstraint("attempt_id", name="uq_reference_attempt"),
        CheckConstraint("value BETWEEN -1e300 AND 1e300", name="ck_reference_finite"),
        CheckConstraint("verdict IN ('good', 'off')", name="ck_reference_verdict"),
        Index("ix_reference_campaign", "campaign_id", "instrument"),
    )
    id: int | None = Field(default=None, primary_key=True)
    campaign_id: int = points_to("campaign")
    attempt_id: int = points_to("attempt")
    instrument: str
    property: str
    value: float
    unit: str
    expected: float
    tolerance: float
    verdict: str
    raw_sha256: str
    at: int = big()
    row_sha: str
