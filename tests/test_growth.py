"""The example campaigns over columns, a growing pool and a product run; what is added to a pool gets proposed."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest

from orchestrator import growth, loop
from orchestrator.campaign import Campaign
from orchestrator.decisions import verify_decisions
from orchestrator.errors import SpaceError
from orchestrator.record.store import CampaignStore
from orchestrator.record.views import TrialInfo

CAMPAIGNS = Path(__file__).parent.parent / "campaigns"


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what a test writes out of the user's cache folder."""
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda _name: str(tmp_path / "cache"))


def begun(folder: Path, name: str) -> Campaign:
    """Begin an example campaign on copies of its files."""
    for file in (*CAMPAIGNS.glob("*.csv"), CAMPAIGNS / f"{name}.yaml"):
        shutil.copy(file, folder)
    store = CampaignStore.open(folder / "campaigns.db")
    return Campaign.create(folder / f"{name}.yaml", store=store, actor="test")


def trials(campaign: Campaign) -> list[TrialInfo]:
    """Return the trials of a campaign."""
    return campaign.store.trials(campaign.name)


@pytest.mark.parametrize("name", ["large_table", "compound_and_temperature"])
def test_example_finds_a_good_one_and_can_be_verified(tmp_path: Path, name: str) -> None:
    """The example runs to its budget, finds one of the best tenth of its table, and each decision is reproduced."""
    campaign = begun(tmp_path, name)
    reason = asyncio.run(loop.run(campaign, threaded=False))
    assert reason.startswith("budget")
    known = [float(line.rsplit(",", 1)[1]) for line in (tmp_path / f"{name}.csv").read_text().splitlines()[1:]]
    (best,) = campaign.best(1)
    assert best.values[campaign.problem.objectives[0].property] >= sorted(known)[-len(known) // 10]
    assert verify_decisions(campaign) == []
    assert campaign.store.verify() == []


class Writes(loop.Plain):
    """Hooks that add candidates to the pool after some decisions."""

    def __init__(self, folder: Path, after: int) -> None:
        super().__init__()
        self.folder = folder
        self.left = after

    async def publish(self, campaign: Campaign, news: str) -> None:
        """Count decisions; grow the pool when it is time."""
        del campaign
        if news.startswith("decision"):
            self.left -= 1
            if self.left == 0:
                grow(self.folder)


def grow(folder: Path) -> None:
    """Add the molybdenum alloys to the pool, as a generator does: whole, by renaming."""
    every = (folder / "growing_pool_values.csv").read_text(encoding="utf-8").splitlines()
    longer = folder / "longer"
    longer.write_text("\n".join(line.split(",")[0] for line in every), encoding="utf-8")
    longer.replace(folder / "growing_pool.csv")


def test_added_candidates_are_proposed_and_decisions_reproduced(tmp_path: Path) -> None:
    """Alloys that came after the third decision are proposed later; earlier decisions are verified without them."""
    campaign = begun(tmp_path, "growing_pool")
    asyncio.run(loop.run(campaign, hooks=Writes(tmp_path, after=3), threaded=False))
    with_mo = [trial.decision for trial in trials(campaign) if "Mo" in trial.candidate.label]
    assert with_mo
    assert min(with_mo) > 3
    notes = [event.note for event in campaign.store.events(campaign.name) if event.kind == "pool"]
    assert [note.partition(";")[0] for note in notes] == [
        "revision 1: 63 candidates, 0 of them new",
        "revision 1: 84 candidates, 21 of them new",
    ]
    assert verify_decisions(campaign) == []
    assert campaign.store.verify() == []
    kept = campaign.store.raw.folder / notes[0][-64:]
    kept.rename(tmp_path / "lost")
    assert any("growing pool" in problem for problem in campaign.store.verify())


def test_growth_while_nobody_looked_is_seen_on_resuming(tmp_path: Path) -> None:
    """A process that starts on a longer file knows what is new, since the store has the ids of the last decision."""
    campaign = begun(tmp_path, "growing_pool")
    campaign.propose(2)
    grow(tmp_path)
    again = Campaign.open(campaign.name, store=campaign.store)
    assert len(again.planner.parts.space.candidates()) == 84  # type: ignore[attr-defined]
    assert growth.look(again.store, again.name, again.planner.parts.space) == 21
    assert growth.look(again.store, again.name, again.planner.parts.space) == 0
    assert verify_decisions(again) == []


def test_taking_candidates_away_is_an_error(tmp_path: Path) -> None:
    """The message says that candidates are missing, and what to do."""
    campaign = begun(tmp_path, "growing_pool")
    campaign.propose(2)
    lines = (tmp_path / "growing_pool.csv").read_text(encoding="utf-8").splitlines()
    (tmp_path / "growing_pool.csv").write_text("\n".join(lines[:-2]), encoding="utf-8")
    with pytest.raises(SpaceError, match=r"2 candidates \(.*\) are no longer in the pool .* put them back"):
        campaign.propose(2)
    (tmp_path / "growing_pool.csv").write_text("\n".join(lines), encoding="utf-8")
    assert campaign.propose(2).trials
