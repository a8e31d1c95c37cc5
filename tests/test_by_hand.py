"""One's own past results, measured by hand, amended half-way and exported: as campaigns/README.md says."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

from orchestrator.campaign import Campaign
from orchestrator.decisions import verify_decisions
from orchestrator.domain import Quantity
from orchestrator.record.states import TrialState
from orchestrator.record.store import CampaignStore

CAMPAIGNS = Path(__file__).parents[1] / "campaigns"


def test_two_objectives_from_a_table_by_hand_amended_and_exported(tmp_path: Path) -> None:
    """Past results cost no budget and teach the surrogate; every later trial is asked, told, and in the export."""
    for name in ("by_hand.yaml", "by_hand.csv"):
        shutil.copy(CAMPAIGNS / name, tmp_path)
    file = tmp_path / "by_hand.yaml"
    store = CampaignStore.open(tmp_path / "by_hand.db")
    campaign = Campaign.create(file, store=store, actor="Ada")
    past = len(store.trials(campaign.name))
    assert past > 3
    assert campaign.info.spent.trials == 0
    assert {t.state for t in store.trials(campaign.name)} == {TrialState.COMPLETED}

    (first,) = campaign.ask()
    assert store.decisions(campaign.name)[-1].purpose == "acquisition"
    campaign.tell(first.number, {"conductivity": Quantity(0.4, "mS/cm"), "density": Quantity(91, "percent")}, who="Ada")

    file.write_text(file.read_text().replace("{trials: 6}", "{trials: 2}"))
    assert any("budget.trials" in line for line in campaign.amend(file, actor="Ada"))
    (second,) = campaign.ask(3)
    campaign.tell(second.number, {"conductivity": Quantity(0.5, "mS/cm"), "density": Quantity(0.9, "1")}, who="Ada")
    assert campaign.ask() == []
    assert "budget" in str(campaign.stop_reason())

    lines = store.export_csv(campaign.name, tmp_path / "out.csv")
    with (tmp_path / "out.csv").open(newline="") as exported:
        rows = list(csv.DictReader(exported))
    assert lines == len(rows) == past + 2
    assert verify_decisions(campaign) == []
    assert store.verify() == []
