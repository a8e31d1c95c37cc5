"""Example campaigns that are carried out: several objectives, and an asynchronous lab with a queue."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from orchestrator import loop
from orchestrator.campaign import Campaign
from orchestrator.choosing import is_withdrawn
from orchestrator.decisions import verify_decisions
from orchestrator.execution.clock import VirtualClock, run_virtual
from orchestrator.record.states import TrialState
from orchestrator.record.store import CampaignStore
from orchestrator.report.page import build

CAMPAIGNS = Path(__file__).parent.parent / "campaigns"


def begin(name: str, folder: Path) -> Campaign:
    """Begin an example campaign in a store of its own."""
    store = CampaignStore.open(folder / "store.db")
    return Campaign.create(CAMPAIGNS / f"{name}.yaml", store=store, actor="test")


@pytest.mark.slow
def test_three_objectives_with_a_window(tmp_path: Path) -> None:
    """It stops when the front hardly moves; the report shows every pair, the band, the front and its hypervolume."""
    campaign = begin("tradeoff", tmp_path)
    reason = asyncio.run(loop.run(campaign))
    assert reason.startswith("hypervolume_plateau: the front hardly moves")
    decisions = campaign.store.decisions("tradeoff")
    assert all(d.summary.hypervolume is not None for d in decisions if d.purpose == "acquisition")
    front = [best for best in campaign.best(200) if best.on_front]
    assert len(front) > 3
    assert any(1.66 <= best.values["gap"] <= 1.76 for best in front)
    html = build(campaign.store, "tradeoff")
    assert html.count("<svg viewBox") >= 4
    for words in ("Trade-off", "The front", "Hypervolume", "bring gap (eV) into 1.66 to 1.76", "the wanted window"):
        assert words in html


@pytest.mark.slow
def test_an_asynchronous_lab_with_a_queue(tmp_path: Path) -> None:
    """Furnaces are never idle for long, what waits is ranked anew, and the campaign ends for a reason of worth."""
    campaign = begin("asynchronous", tmp_path)
    reason = run_virtual(loop.run(campaign, clock=VirtualClock(), threaded=False))
    assert reason.split(":")[0] in {"probably_best", "not_worth_its_cost"}
    trials = campaign.store.trials("asynchronous")
    done = [t for t in trials if t.state is TrialState.COMPLETED]
    assert any(is_withdrawn(t) for t in trials)
    assert {t.state for t in trials} == {TrialState.COMPLETED, TrialState.ABANDONED}
    assert campaign.best(1)[0].values["conductivity"] > 0.9
    idle_free = 4.0 * len(done) / 3 / 3600  # what three furnaces need that never wait, at the mean duration
    assert campaign.info.spent.hours < 1.4 * idle_free
    assert verify_decisions(campaign) == []
    html = build(campaign.store, "asynchronous")
    assert "What was spent" in html
    assert "superseded" not in html.split("What failed")[1].split("What was spent")[0]
