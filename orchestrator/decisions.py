"""Recompute what was decided: the proof that choosing is a pure function of what the decision row names.

A decision names the rows it saw, the pending candidates, the fit, the seed and the revision of the campaign file. With
those, the same planner must choose the same candidates again, in this process or on another day, on the same device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from orchestrator.campaign import Campaign
from orchestrator.choosing import closed_before, closed_sha256
from orchestrator.config.schema import CampaignConfig
from orchestrator.domain import TARGET, Candidate, closed_at
from orchestrator.errors import MatloopError
from orchestrator.growth import added_later
from orchestrator.planner import Parts, Planner
from orchestrator.purse import Purse
from orchestrator.record.views import DecisionInfo, EventInfo, TrialInfo

VETO = "veto"
"""Kind of the events by which people take candidates out; their note begins with the candidate's id."""
ID_DIGITS = 64


def verify_decisions(
    campaign: Campaign, *, progress: Callable[[int, int], None] = lambda _done, _all: None
) -> list[str]:
    """Choose again for every decision, and compare.

    Args:
        campaign: whose decisions are verified.
        progress: called with the number of decisions done and their total.

    Returns:
        Problems found, one sentence each; empty where every decision is reproduced.
    """
    store, name = campaign.store, campaign.name
    decisions = [d for d in store.decisions(name) if d.purpose in {"initial", "acquisition"}]
    trials = store.trials(name)
    vetoes = [event for event in store.events(name) if event.kind == VETO]
    planners = _planners(campaign)
    problems = []
    for done, decision in enumerate(decisions):
        progress(done, len(decisions))
        try:
            problem = _verify(campaign, planners[decision.revision], decision, trials, vetoes)
        except MatloopError as error:
            problem = str(error)
        if problem:
            problems.append(f"decision {decision.number}: {problem}")
    progress(len(decisions), len(decisions))
    return problems


def _planners(campaign: Campaign) -> dict[int, Planner]:
    """Build one planner a revision of the campaign file; revisions that agree share one, and its caches."""
    made: dict[str, Planner] = {}
    planners = {}
    for revision in campaign.store.revisions(campaign.name):
        config = CampaignConfig.model_validate(dict(revision["config"]))
        if config.sha256() not in made:
            parts = Parts.build(config, base=campaign.base, allowed_modules=campaign.lab.allowed_modules)
            made[config.sha256()] = Planner(config, parts)
        planners[int(revision["number"])] = made[config.sha256()]
    return planners


def _verify(
    campaign: Campaign,
    planner: Planner,
    decision: DecisionInfo,
    trials: Sequence[TrialInfo],
    vetoes: Sequence[EventInfo],
) -> str | None:
    """Choose again for one decision; return what differs."""
    store = campaign.store
    dataset = store.dataset(campaign.name, units=planner.problem.units, seen=decision.seen)
    if dataset.sha256 != decision.seen_sha256:
        return "the results that it saw are no longer what they were (superseded by a newer derived version?)"
    earlier: dict[str, Candidate] = {t.candidate.id: t.candidate for t in trials if t.decision < decision.number}
    vetoed = {event.note[:ID_DIGITS] for event in vetoes if event.at <= decision.made_at}
    closed = closed_before(decision, trials) | frozenset(vetoed)
    if closed_sha256(closed) != decision.closed_sha256:
        return "the candidates that it was not allowed to propose cannot be gathered again"
    later = added_later(
        store, campaign.name, planner.parts.space, revision=decision.revision, at=decision.made_at
    )  # what came into a growing pool afterwards: closed to it, which is the same as not there
    purse = decision.proposals[0].details.get("purse") if decision.proposals else None
    chosen = planner.choose(
        decision.number,
        q=purse["asked"] if purse else len(decision.proposals),
        initial=decision.purpose == "initial",
        dataset=dataset,
        pending=[earlier[candidate] for candidate in decision.pending],
        closed=closed | later,
        surrogate=None if decision.fit is None else planner.restore(store.fit_folder(decision.fit)),
        purse=Purse(purse["left"], earlier.get(purse["before"])) if purse else None,
    )
    before = [closed_at(one.candidate.id, one.fidelity) for one in decision.proposals]
    now = [closed_at(one.candidate.id, one.fidelity) for one in chosen.proposals]
    if before != now:
        labels = {
            closed_at(p.candidate.id, p.fidelity): f"{p.candidate.label}{_at(p.fidelity)}"
            for p in (*decision.proposals, *chosen.proposals)
        }
        return (
            f"it chose {', '.join(labels[i] for i in before)}, and choosing again gives"
            f" {', '.join(labels[i] for i in now)} (it was made on {decision.device} with {decision.threads} threads)"
        )
    return None


def _at(fidelity: str) -> str:
    return "" if fidelity == TARGET else f" at {fidelity}"
