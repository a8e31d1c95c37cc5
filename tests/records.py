"""Campaigns, decisions and results in a few words, for tests of the store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.config.schema import CampaignConfig
from orchestrator.domain import Candidate, Crystal, DecisionSummary, Proposal, Quality, Value
from orchestrator.record.states import AttemptState
from orchestrator.record.store import CampaignStore, NewMeasurement, StepPlan
from orchestrator.record.views import AttemptInfo, TrialInfo

ONE_STEP = (StepPlan("measure", "toy", "go", 0.5),)
TWO_STEPS = (StepPlan("fire", "furnace", "fire", 1.0), StepPlan("scan", "diffractometer", "scan", 0.25))


def config(name: str = "demo", *, budget: Mapping[str, Any] | None = None, **changes: Any) -> CampaignConfig:
    """Return a small campaign file."""
    content: dict[str, Any] = {
        "name": name,
        "objectives": [{"property": "y", "unit": "eV", "goal": "minimize"}],
        "space": {"use": "box"},
        "budget": dict(budget or {"trials": 100}),
        **changes,
    }
    return CampaignConfig.model_validate(content)


def begin(store: CampaignStore, name: str = "demo", **changes: Any) -> str:
    """Make a campaign and return its name."""
    return store.create_campaign(config(name, **changes), actor="Ada").name


def candidate(x: float) -> Candidate:
    """Return a candidate at one coordinate."""
    return Candidate.make(label=f"x={x:g}", parameters={"x": float(x)})


def decide(
    store: CampaignStore,
    name: str,
    xs: Sequence[float],
    *,
    steps: Sequence[StepPlan] = ONE_STEP,
    purpose: str = "acquisition",
    **changes: Any,
) -> list[TrialInfo]:
    """Store a decision for candidates at these coordinates."""
    proposals = [Proposal(candidate(x), "random", f"because {x:g}", score=x, mean={"y": x}, sd={"y": 0.5}) for x in xs]
    given: dict[str, Any] = {
        "number": len(store.decisions(name)) + 1,
        "policy": "random",
        "purpose": purpose,
        "proposals": proposals,
        "seen": (),
        "seen_sha256": "0" * 64,
        "pending": (),
        "closed_sha256": "0" * 64,
        "fit": None,
        "seed": 2**62,
        "device": "cpu",
        "threads": 1,
        "seconds": 0.1,
        "summary": DecisionSummary(),
        "steps": steps,
        **changes,
    }
    return store.record_decision(name, **given)


def start(
    store: CampaignStore, step_id: int, *, instrument: str = "toy", slots: int = 99, cost: float = 0.5
) -> AttemptInfo:
    """Claim a step and get the permission to start it."""
    fence = store.claim(step_id, owner="worker")
    return store.intent(step_id, fence=fence, order={"capability": "go"}, instrument=instrument, slots=slots, cost=cost)


def measured(store: CampaignStore, attempt: AttemptInfo) -> AttemptInfo:
    """Store raw bytes for an attempt and say that it is measured."""
    return store.advance(attempt.id, AttemptState.MEASURED, raw_sha256=store.raw.put(attempt.key.encode()))


def number(value: float, name: str = "y", *, unit: str = "eV", quality: Quality = Quality.GOOD) -> NewMeasurement:
    """Return one number to be recorded."""
    return NewMeasurement(name, value, unit, 0.01, quality, 1_700_000_000_000_000)


def carry_out(
    store: CampaignStore,
    trial: TrialInfo,
    value: float,
    *,
    applied: Mapping[str, Value] | None = None,
    structures: Mapping[str, Crystal] | None = None,
) -> None:
    """Carry out every step of a trial; the last one gives y, the earlier ones give their position."""
    for step in trial.steps:
        attempt = measured(store, start(store, step.id, instrument=step.instrument, cost=step.cost))
        last = step.index == len(trial.steps) - 1
        numbers = [number(value)] if last else [number(step.index, f"{step.name}_output")]
        store.record(attempt.id, numbers, structures=structures or {}, applied=applied or {})
