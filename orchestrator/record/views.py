"""What the store answers: frozen values, so that no database object leaves this room.

Times are UTC in microseconds since 1970; costs are in the campaign's own cost unit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from orchestrator.domain import (
    Candidate,
    Crystal,
    DecisionSummary,
    FitReport,
    JsonObject,
    Proposal,
    Quality,
    Spent,
    frozen,
)
from orchestrator.record.states import AttemptState, CampaignState, StepState, TrialState


@dataclass(frozen=True)
class CampaignInfo:
    """One campaign as it stands now.

    Args:
        config: snapshot of the current revision of the campaign file.
        file: path of the campaign file as given at creation; empty where there was none.
        revision: 1 for the first, counted up by `amend`.
        spent: what is used for good; reservations of open attempts come on top.
        links: where else it can be seen, such as ``prefect_flow_run_id``.
    """

    id: int
    uuid: str
    name: str
    seed: int
    state: CampaignState
    state_reason: str
    config: Mapping[str, Any]
    config_sha256: str
    file: str
    revision: int
    spent: Spent
    reserved_trials: int
    reserved_cost: float
    created_at: int
    links: Mapping[str, str] = field(default_factory=frozen)


@dataclass(frozen=True)
class StepPlan:
    """One step of a trial as the campaign wants it done."""

    name: str
    instrument: str
    capability: str
    cost: float = 0.0


StepsOf = Sequence[StepPlan] | Callable[[Proposal], Sequence[StepPlan]]
"""The steps of every trial of a decision, or what gives those of one by its proposal."""


@dataclass(frozen=True)
class StepInfo:
    """One step of a trial as it stands now.

    Args:
        index: from 0 in the order of the procedure.
        reason: why it failed, was cancelled or skipped.
        not_before: end of a wait before it, UTC in microseconds by the campaign's clock; None without one.
    """

    id: int
    trial: int
    index: int
    name: str
    instrument: str
    capability: str
    state: StepState
    reason: str
    cost: float
    attempts: int
    not_before: int | None = None


@dataclass(frozen=True)
class AttemptInfo:
    """One permission to start a step, and what is known of it.

    Args:
        number: 1 for the step's first attempt.
        key: dispatch key, the same for ever.
        slot: of the instrument, from 0.
        order: what was asked.
        handle: token by which the job is found again, where the instrument gave one.
        raw_sha256: of the raw result in the raw store, where one came back.
        effect: what physically happened, where the attempt failed.
    """

    id: int
    step_id: int
    trial: int
    step: str
    number: int
    key: str
    instrument: str
    slot: int
    state: AttemptState
    order: JsonObject
    handle: JsonObject | None
    raw_sha256: str | None
    effect: str | None
    note: str
    created_at: int


@dataclass(frozen=True)
class TrialInfo:
    """One trial: what was proposed, why, and how it stands.

    Args:
        number: 1, 2, … within the campaign.
        decision: number of the decision that proposed it.
        state: derived from the steps.
        reason: why it failed or was abandoned; empty otherwise.
        replicate: 0 for the first trial of a candidate, counted up for deliberate repeats.
        sample: id of the physical sample; empty before the first step starts.
        charged: whether the budget counts it: a trial whose only orders were never carried out costs nothing.
    """

    number: int
    candidate: Candidate
    proposal: Proposal
    decision: int
    state: TrialState
    reason: str
    fidelity: str
    replicate: int
    steps: tuple[StepInfo, ...]
    planned_at: int
    started_at: int | None
    ended_at: int | None
    sample: str
    charged: bool = False


@dataclass(frozen=True)
class DecisionInfo:
    """What was proposed from what knowledge: enough to compute it again.

    Args:
        number: 1, 2, … within the campaign.
        purpose: ``initial``, ``acquisition``, ``asked`` or ``imported``.
        seen: sorted `Row.token` of every dataset row that it was allowed to see.
        seen_sha256: `Dataset.sha256` of those rows.
        pending: candidate ids in flight.
        closed_sha256: hash of the ids that were not to be proposed.
        fit: id (`FitInfo.id`) of the fit that was used.
        trials: of its proposals, in their order; those that were chosen again from the queue among them.
        seconds: wall time of choosing.
        queued: trials that were planned and not begun, and were ranked anew.
        withdrawn: those of them that were not chosen again.
    """

    number: int
    policy: str
    purpose: str
    seen: tuple[int, ...]
    seen_sha256: str
    pending: tuple[str, ...]
    closed_sha256: str
    fit: int | None
    seed: int
    device: str
    threads: int
    proposals: tuple[Proposal, ...]
    trials: tuple[int, ...]
    summary: DecisionSummary
    seconds: float
    made_at: int
    revision: int
    queued: tuple[int, ...] = ()
    withdrawn: tuple[int, ...] = ()


@dataclass(frozen=True)
class FitInfo:
    """The record of one training; `parent` is the id of the fit it started from, `seen` is as in `DecisionInfo`."""

    id: int
    number: int
    parent: int | None
    surrogate: str
    seed: int
    seen: tuple[int, ...]
    report: FitReport
    checkpoint_sha256: str
    made_at: int
    revision: int


@dataclass(frozen=True)
class EventInfo:
    """One line of the campaign's history; `frm` and `to` are states, empty where none changed."""

    seq: int
    at: int
    actor: str
    kind: str
    trial: int | None
    step: int | None
    attempt: int | None
    frm: str
    to: str
    note: str


@dataclass(frozen=True)
class NewMeasurement:
    """One number to be recorded, in the property's declared unit.

    Args:
        std_error: standard error in `unit`, where known.
        measured_at: UTC in microseconds.
    """

    property: str
    value: float
    unit: str
    std_error: float | None
    quality: Quality
    measured_at: int


@dataclass(frozen=True)
class StepOutput:
    """What a recorded step gave: good numbers as (value, unit) by property, structures by output name."""

    numbers: Mapping[str, tuple[float, str]] = field(default_factory=frozen)
    structures: Mapping[str, Crystal] = field(default_factory=frozen)
