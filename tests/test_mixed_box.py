"""The example campaign over a box with every kind of axis runs to its end, inside the space, past bad labels."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from orchestrator import loop
from orchestrator.campaign import Campaign
from orchestrator.record.store import CampaignStore

CAMPAIGNS = Path(__file__).parent.parent / "campaigns"


def test_a_mixed_box_is_searched_to_its_end(tmp_path: Path) -> None:
    """Every trial is a mixture on the grid, the last trials are good ones, and grossly low labels are named."""
    campaign = Campaign.create(
        CAMPAIGNS / "mixed_box.yaml", store=CampaignStore.open(tmp_path / "test.db"), actor="test"
    )
    asyncio.run(loop.run(campaign))
    trials = campaign.store.trials(campaign.name)
    assert len(trials) == 35
    assert len({trial.candidate.id for trial in trials}) == 35
    for trial in trials:
        p = trial.candidate.parameters
        assert float(p["nickel"]) + float(p["manganese"]) + float(p["cobalt"]) == pytest.approx(1.0)
        assert float(p["cobalt"]) <= 0.6 + 1e-9
        assert float(p["time"]) in {1.0, 3.0, 5.0, 7.0, 9.0}
    values = [row.value for row in campaign.store.dataset(campaign.name).rows][-10:]
    assert sorted(v for v in values if v is not None)[5] > 68  # one point in twelve of the box is as good
    notes = [note for fit in campaign.store.fits(campaign.name) for note in fit.report.notes]
    named = {int(note.split(":")[0].removeprefix("trial ")) for note in notes if "hardly counts" in note}
    assert named
