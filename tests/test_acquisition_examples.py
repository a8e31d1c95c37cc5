"""The example campaigns of failing syntheses, priced trials and batches do what they say, run to their end."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from pathlib import Path

from orchestrator import loop
from orchestrator.acquisition.features import fractions
from orchestrator.campaign import Campaign
from orchestrator.domain import Problem
from orchestrator.record.states import TrialState
from orchestrator.record.store import CampaignStore

CAMPAIGNS = Path(__file__).parent.parent / "campaigns"


def finished(folder: Path, name: str) -> Campaign:
    """Run an example to its end."""
    campaign = Campaign.create(CAMPAIGNS / name, store=CampaignStore.open(folder / "test.db"), actor="test")
    asyncio.run(loop.run(campaign))
    return campaign


def test_failing_syntheses_are_learned_from(tmp_path: Path) -> None:
    """Gaps inside the window are found, failures become rarer than among all, and no batch repeats an element set."""
    campaign = finished(tmp_path, "failing_synthesis.yaml")
    trials = campaign.store.trials(campaign.name)
    inside = [best for best in campaign.best(20) if 1.3 <= best.values["gap"] <= 1.45]
    assert len(inside) >= 5  # ten of 252 are
    chosen = [t for t in trials if t.proposal and t.proposal.policy == "log_expected_improvement"]
    assert len(chosen) == 24
    assert sum(t.state is TrialState.FAILED for t in chosen) / len(chosen) < 0.45  # among all it is 0.49
    assert all("probability_of_success" in t.proposal.details for t in chosen if t.proposal)
    for decision in campaign.store.decisions(campaign.name):
        if decision.proposals[0].policy == "log_expected_improvement":
            systems = Counter(frozenset(fractions(p.candidate)) for p in decision.proposals)
            assert max(systems.values()) == 1


def test_prices_and_change_overs_are_heeded(tmp_path: Path) -> None:
    """The budget of money holds, few rinses are paid for, and the best cheap solvent is found."""
    campaign = finished(tmp_path, "priced_solvents.yaml")
    trials = campaign.store.trials(campaign.name)
    assert campaign.info.spent.cost <= 400
    assert campaign.best(1)[0].values["yield"] > 60
    solvents = [str(t.candidate.parameters["solvent"]) for t in trials]
    rinses = [a != b for a, b in itertools.pairwise(solvents)]
    assert sum(rinses[8:]) / len(rinses[8:]) < 0.5 < sum(rinses[:7]) / 7
    priced = [t.proposal for t in trials if t.proposal and t.proposal.policy == "pandoras_box"]
    problem: Problem = campaign.problem
    for number, proposal in enumerate(priced, start=len(trials) - len(priced)):
        expense = problem.expense(proposal.candidate, before=trials[number - 1].candidate)
        assert proposal.details["expense"] == {"cost": expense.cost, "hours": expense.hours}


def test_batches_hold_what_is_probably_best(tmp_path: Path) -> None:
    """Four at a time, the shares of a batch are probabilities, the learned property ranks nothing."""
    campaign = finished(tmp_path, "batches_of_solvents.yaml")
    assert campaign.best(1)[0].values["yield"] > 75
    batches = [d.proposals for d in campaign.store.decisions(campaign.name) if len(d.proposals) == 4]
    chosen = [b for b in batches if b[0].policy == "probability_of_optimality"]
    assert chosen
    for batch in chosen:
        shares = [p.details["probability_of_optimality"] for p in batch]
        assert min(shares) >= 0
        assert sum(shares) <= 1 + 1e-9


def test_a_refined_shortlist_finds_the_strongest(tmp_path: Path) -> None:
    """Chosen by botorch from the fifth trial on, and within a percent of the best of the table."""
    campaign = finished(tmp_path, "refined.yaml")
    trials = campaign.store.trials(campaign.name)
    assert all(t.proposal.details["refined"] for t in trials[5:] if t.proposal)
    table = (CAMPAIGNS / "ageing.csv").read_text(encoding="utf-8").splitlines()[1:]
    assert campaign.best(1)[0].values["strength"] > 0.99 * max(float(line.split(",")[3]) for line in table)
