"""The story of one trial: why it was chosen, from what knowledge, what was done and what came back."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from flows.overview import number
from orchestrator.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestrator.record.store import CampaignStore
    from orchestrator.record.views import DecisionInfo, TrialInfo


def story(store: CampaignStore, name: str, trial_number: int) -> str:
    """Tell the story of a trial.

    Args:
        store: the campaign database.
        name: of the campaign.
        trial_number: of the trial.

    Returns:
        Several lines of text.

    Raises:
        StoreError: there is no such trial.
    """
    trial = store.trial(name, trial_number)
    decision = next((d for d in store.decisions(name) if d.number == trial.decision), None)
    if decision is None:
        message = f"decision {trial.decision} of trial {trial_number} is missing from campaign {name!r}: matloop verify"
        raise StoreError(message)
    lines = [f"trial {trial.number} of {name}: {trial.candidate.label} ({trial.state.value.lower()})"]
    if trial.reason:
        lines.append(f"  {trial.reason}")
    lines.append(f"  candidate {trial.candidate.id}")
    lines += [f"  {key} = {value}" for key, value in trial.candidate.parameters.items()]
    lines += ["", *_chosen(store, name, trial, decision), "", *_done(store, name, trial)]
    return "\n".join(lines)


def _chosen(store: CampaignStore, name: str, trial: TrialInfo, decision: DecisionInfo) -> list[str]:
    proposal = trial.proposal
    place = next((i for i, p in enumerate(decision.proposals, 1) if p.candidate.id == trial.candidate.id), None)
    lines = [
        f"chosen in decision {decision.number} ({decision.purpose}) by {proposal.policy} at {_when(decision.made_at)}"
        + (f", place {place} of {len(decision.proposals)}" if place else ""),
        f"  why: {proposal.reason}",
    ]
    if proposal.score is not None:
        lines.append(f"  score {proposal.score:.4g} (larger is better)")
    lines += [
        f"  expected {prop}: {number(mean)} ± {number(proposal.sd.get(prop))}" for prop, mean in proposal.mean.items()
    ]
    known = {t.candidate.id: f"{t.candidate.label} (trial {t.number})" for t in store.trials(name)}
    lines += [
        f"  {key.replace('_', ' ')}: {_plainly(value, known)}"
        for key, value in proposal.details.items()
        if key not in {"seed", "pending"}  # said below
    ]
    lines.append(
        f"  known then: {len(decision.seen)} results (dataset {decision.seen_sha256[:12]}), "
        f"{len(decision.pending)} pending; seed {decision.seed}; {decision.device}, {decision.threads} threads"
    )
    fit = next((f for f in store.fits(name) if f.id == decision.fit), None)
    if fit is not None:
        lines.append(
            f"  fit {fit.number}: {fit.surrogate} on {fit.report.labels} labels, checkpoint"
            f" {fit.checkpoint_sha256[:12]}, {fit.report.seconds:.1f} s"
        )
    if decision.summary.best is not None:
        lines.append(f"  best before it: {number(decision.summary.best)}")
    return lines


def _done(store: CampaignStore, name: str, trial: TrialInfo) -> list[str]:
    lines = []
    attempts = store.attempts(name, trial=trial.number)
    for step in trial.steps:
        lines.append(f"step {step.name} on {step.instrument}: {step.state.value.lower()} {step.reason}".rstrip())
        lines += [
            f"  attempt {a.number} ({_when(a.created_at)}): {a.state.value.lower()}"
            + (f", effect {a.effect}" if a.effect else "")
            + (f", raw {a.raw_sha256[:12]}" if a.raw_sha256 else "")
            + (f"; {a.note}" if a.note else "")
            for a in attempts
            if a.step_id == step.id
        ]
    lines += [
        f"{m.property} = {number(m.value, 6)} {m.unit}"
        + (f" ± {number(m.std_error, 2)}" if m.std_error is not None else "")
        + f" ({m.quality.value}, {_when(m.measured_at)}{', ' + m.step if m.step else ''})"
        for m in store.measurements(name, trial=trial.number)
    ]
    return lines


def _plainly(value: Any, known: Mapping[str, str]) -> str:
    """Write a detail for people: candidates by their names, numbers short."""
    if isinstance(value, list | tuple):
        return ", ".join(_plainly(one, known) for one in value) or "none"
    if isinstance(value, float):
        return number(value)
    return known.get(value, value) if isinstance(value, str) else str(value)


def _when(micros: int) -> str:
    return datetime.fromtimestamp(micros / 1e6, tz=UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
