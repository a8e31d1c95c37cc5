"""A small campaign for tests of execution: a few planned trials, no surrogate, no search space."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from orchestrator.config.schema import CampaignConfig
from orchestrator.config.steps import StepConfig
from orchestrator.domain import Candidate, DecisionSummary, Proposal
from orchestrator.record.store import CampaignStore, StepPlan
from orchestrator.record.views import TrialInfo

NAME = "kiln"


def config(procedure: Sequence[dict[str, Any]], budget: dict[str, float] | None = None) -> CampaignConfig:
    """Return a campaign that measures `strength` by the given steps."""
    return CampaignConfig.model_validate(
        {
            "name": NAME,
            "objectives": [{"property": "strength", "unit": "MPa", "goal": "maximize"}],
            "space": {"use": "box"},
            "instruments": {step["instrument"]: {"use": "test"} for step in procedure},
            "procedure": list(procedure),
            "budget": budget or {"trials": 100},
        }
    )


def candidate(temperature: float, **more: Any) -> Candidate:
    """Return a candidate that is one firing temperature in degC."""
    return Candidate.make(label=f"{temperature:g} degC", parameters={"temperature": temperature, **more})


def plan(store: CampaignStore, candidates: Sequence[Candidate], steps: Sequence[StepConfig]) -> list[TrialInfo]:
    """Plan one trial for each candidate."""
    number = len(store.decisions(NAME)) + 1
    return store.record_decision(
        NAME,
        number=number,
        policy="given",
        purpose="asked",
        proposals=[Proposal(one, policy="given", reason="for a test") for one in candidates],
        seen=[],
        seen_sha256="0" * 64,
        pending=[],
        closed_sha256="0" * 64,
        fit=None,
        seed=0,
        device="cpu",
        threads=1,
        seconds=0.0,
        summary=DecisionSummary(),
        steps=[StepPlan(s.step, s.instrument, s.capability or "", s.cost or 0.0) for s in steps],
    )


def new_store(
    where: Path,
    procedure: Sequence[dict[str, Any]],
    temperatures: Sequence[float],
    budget: dict[str, float] | None = None,
) -> CampaignStore:
    """Make a store with one campaign and one planned trial for each temperature."""
    store = CampaignStore.open(where)
    made = config(procedure, budget)
    store.create_campaign(made, actor="test")
    plan(store, [candidate(t) for t in temperatures], made.procedure or (StepConfig(step="tell", instrument="person"),))
    return store
