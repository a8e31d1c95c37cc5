"""What the Prefect page shows of a campaign, without a Prefect server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from flows import page
from flows.beginning import begin_or_resume, loaded_with
from flows.overview import Overview, ago, number
from orchestrator import loop
from orchestrator.campaign import Campaign
from orchestrator.errors import ConfigError
from orchestrator.record.store import CampaignStore
from tests.small_campaign import BEST, slow_oven, write_campaign

NOON = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[CampaignStore]:
    """An empty campaign database."""
    opened = CampaignStore.open(tmp_path / "store.db")
    yield opened
    opened.close()


def _begin(store: CampaignStore, file: Path) -> Campaign:
    return Campaign.begin(loaded_with(file), store=store, actor="ada")


async def test_the_page_of_a_finished_campaign(store: CampaignStore, tmp_path: Path) -> None:
    """It shows how it ended, the best first, a plot that fits the page, and how to go on."""
    campaign = _begin(store, write_campaign(tmp_path, budget={"trials": 12}))
    await loop.run(campaign)
    view = Overview.of(store, "small")
    images = page.plots(campaign)
    assert images
    assert all(image.startswith(b"\x89PNG") and len(image) <= page.LARGEST_IMAGE for image in images.values())
    text = page.report(view, images, NOON)
    for words in (
        "**done**: budget: all 12 trials are used",
        "12 of 12 trials",
        "12:00:00 UTC",
        "maximize strength (MPa)",
        "data:image/png;base64,",
        "the campaign has ended",
        "matloop resume small",
    ):
        assert words in text
    rows = page.rows(view)
    assert len(rows) == 12
    values = [float(row["strength (MPa)"]) for row in rows]
    assert values == sorted(values, reverse=True)
    assert json.loads(json.dumps(rows)) == rows
    assert f"**{rows[0]['candidate']}**" in text


def test_the_page_before_anything_is_measured(store: CampaignStore, tmp_path: Path) -> None:
    """A campaign that has just begun has a page too, which says what happens next and draws nothing."""
    campaign = _begin(store, write_campaign(tmp_path))
    assert page.plots(campaign) == {}
    assert "Nothing is measured yet" in page.report(Overview.of(store, "small"), {}, NOON)
    campaign.plan(2)
    view = Overview.of(store, "small")
    text = page.report(view, {}, NOON)
    for trial in view.waiting:
        assert f"{trial.candidate.label} (trial {trial.number}) is next" in text


async def test_failures_and_violated_constraints_are_shown(store: CampaignStore, tmp_path: Path) -> None:
    """Failed trials stand there with their reasons; a candidate that breaks a constraint is struck out."""
    bound = [{"property": "strength", "unit": "MPa", "max": 60}]
    file = write_campaign(
        tmp_path, constraints=bound, instruments=slow_oven(0.01, rejected=0.6), budget={"trials": 5}, seed=BEST
    )
    await loop.run(_begin(store, file))
    view = Overview.of(store, "small")
    text = page.report(view, {}, NOON)
    assert "trials failed" in text
    assert "Rejected" in text
    broken = [best.trial.candidate.label for best in view.ranked if not best.feasible]
    assert broken
    assert f"~~{broken[0]}~~" in text
    assert "violated" in {row["constraints"] for row in page.rows(view)}


def test_the_same_request_goes_on_and_another_is_refused(store: CampaignStore, tmp_path: Path) -> None:
    """Sending the form twice opens the same campaign; other settings under its name are refused with the difference."""
    file = write_campaign(tmp_path)
    changes = {"budget": {"trials": 4, "hours": None}, "parallel": None, "seed": 8}
    first = begin_or_resume(loaded_with(file, name="one", changes=changes), store, actor="ada")
    again = begin_or_resume(loaded_with(file, name="one", changes=changes), store, actor="ada")
    assert first.info.id == again.info.id
    assert (first.config.budget.trials, first.config.parallel, first.config.seed) == (4, 2, 8)
    with pytest.raises(ConfigError, match=r"budget\.trials"):
        begin_or_resume(loaded_with(file, name="one", changes={"seed": 8}), store, actor="ada")
    with pytest.raises(ConfigError, match="parallel"):
        loaded_with(file, changes={"parallel": 0})


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s ago"), (119, "119 s ago"), (600, "10 min ago"), (7200, "2 h ago"), (2e5, "2 d ago")]
)
def test_times_are_written_for_people(seconds: float, text: str) -> None:
    """A moment is told by how long ago it was; a clock that runs behind gives no negative time."""
    assert ago(1_000_000, now=1.0 + seconds) == text
    assert ago(5_000_000, now=1.0) == "0 s ago"
    assert number(None) == "–"
