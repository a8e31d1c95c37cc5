"""Several objectives: hypervolume by result, gains in three and four dimensions, and what people see of the front."""

from __future__ import annotations

import io
from collections.abc import Iterator
from datetime import UTC, datetime

import numpy as np
import pytest

from flows import page
from flows.overview import Overview
from flows.screen import campaign_view
from orchestrator.acquisition.gains import hypervolume_gains
from orchestrator.campaign import Campaign
from orchestrator.pareto import growth, hypervolume, nondominated, reference_point
from orchestrator.record.store import CampaignStore
from orchestrator.report import tradeoff
from orchestrator.report.facts import gather
from orchestrator.report.page import build
from tests.test_report import config, fill

THREE = [
    {"property": "gap", "unit": "eV", "goal": "window", "window": [0.2, 0.3]},
    {"property": "strength", "unit": "MPa", "goal": "maximize"},
    {"property": "mass_loss", "unit": "percent", "goal": "minimize"},
]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CampaignStore]:
    """A campaign with three objectives, one of them a window."""
    opened = CampaignStore.open(tmp_path_factory.mktemp("store") / "campaigns.db")
    fill(opened, config(name="three", objectives=THREE, constraints=[]), trials=18)
    yield opened
    opened.close()


def test_hypervolume_by_result_never_falls() -> None:
    """The last value is that of the whole front; infeasible and incomplete results add nothing."""
    rng = np.random.default_rng(1)
    reached = rng.random((30, 3))
    reached[4] = np.nan
    good = np.arange(30) % 7 != 0
    volumes = growth(reached, good)
    counted = reached[good & np.isfinite(reached).all(axis=1)]
    corner = reference_point(counted)
    assert (np.diff(volumes) >= 0).all()
    assert volumes[0] == 0.0
    assert volumes[-1] == pytest.approx(hypervolume(nondominated(counted, corner), corner))
    assert not np.any(growth(reached, np.zeros(30, dtype=bool)))


@pytest.mark.parametrize("k", [2, 3, 4])
def test_gains_are_differences_of_hypervolumes(k: int) -> None:
    """Counted slab by slab for all points at once, as one by one."""
    rng = np.random.default_rng(k)
    corner = np.zeros(k)
    for size in (0, 1, 5, 9):
        front = nondominated(rng.random((size, k)), corner)
        points = rng.random((12, k)) - 0.2
        before = hypervolume(front, corner)
        wanted = [
            hypervolume(nondominated(np.concatenate([front, point[None]]), corner), corner) - before for point in points
        ]
        assert hypervolume_gains(front, points, corner) == pytest.approx(wanted, abs=1e-12)


def test_the_report_shows_every_pair(store: CampaignStore) -> None:
    """Three objectives have three plots; the table holds the front and says what each candidate adds to it."""
    facts = gather(store, "three")
    assert len(tradeoff.fronts(facts)) == 3
    headings, rows = tradeoff.table(facts)
    on_front = [best for best in facts.best if best.on_front]
    assert len(rows) == len(on_front) > 0
    assert all(len(row) == len(headings) for row in rows)
    orders, volumes = tradeoff.hypervolumes(facts)
    assert orders == sorted(orders)
    assert volumes[-1] > 0
    html = build(store, "three")
    for words in ("Trade-off", "bring gap (eV) into 0.2 to 0.3", "away from what is wanted", "What was spent"):
        assert words in html


def test_status_and_prefect_page_show_the_front(store: CampaignStore) -> None:
    """The terminal names the front and its hypervolume; the page has its table and plots that fit."""
    from rich.console import Console  # noqa: PLC0415  only this test prints

    view = Overview.of(store, "three")
    facts = gather(store, "three")
    assert view.hypervolume == pytest.approx(tradeoff.hypervolumes(facts)[1][-1])
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(campaign_view(view))
    said = console.export_text()
    assert "that nothing dominates, hypervolume" in said
    assert "on the front" in said
    campaign = Campaign.open("three", store=store)
    images = page.plots(campaign)
    assert {"Front 1", "Front 2", "Front 3", page.VOLUME} <= set(images)
    text = page.report(view, images, datetime(2026, 11, 22, tzinfo=UTC))
    assert f"## The front: {len(view.front)} candidates" in text
    assert {row["on the front"] for row in page.rows(view)} == {"yes", ""}
