"""The story of a trial: everything that a proposal recorded is told, for people and as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from flows.beginning import loaded_with
from flows.story import shown, told
from orchestrator.campaign import Campaign
from orchestrator.errors import StoreError
from orchestrator.record.store import CampaignStore
from tests.small_campaign import write_campaign


@pytest.fixture
def content(tmp_path: Path) -> dict[str, Any]:
    """Return the story of a planned trial."""
    store = CampaignStore.open(tmp_path / "store.db")
    campaign = Campaign.begin(loaded_with(write_campaign(tmp_path)), store=store, actor="test")
    campaign.plan(2)
    made: dict[str, Any] = told(store, "small", 1)
    with pytest.raises(StoreError):
        told(store, "small", 99)
    return made


def text_of(content: dict[str, Any]) -> str:
    """Render a story without colours."""
    console = Console(width=160, record=True, color_system=None)
    console.print(shown(content))
    return console.export_text()


def test_a_story_is_json(content: dict[str, Any]) -> None:
    """It can be written as JSON and rendered from what was read back."""
    again = json.loads(json.dumps(content))
    assert again == content
    assert again["chosen"]["policy"] == "random"
    assert "nothing was in flight" in text_of(again)


def test_what_a_proposal_recorded_is_told(content: dict[str, Any]) -> None:
    """Fall-back, chance of success, expense, fidelity, pending trials, surprises and neighbours have their lines."""
    content["chosen"] |= {
        "fallback": "diverse: 3 of 5 predictions are not finite",
        "probability_of_success": 0.8,
        "expense": {"cost": 2.5, "hours": 4.0},
        "fidelity_reason": "quick is worth its price",
        "pending": [{"trial": 7, "label": "T450"}],
        "details": {"variance_taken_away": {"strength": 0.25}},
    }
    content |= {
        "fidelity": "quick",
        "predictions": [{"property": "strength", "unit": "MPa", "mean": 50.0, "sd": 5.0, "measured": 70.0, "z": 4.0}],
        "nearest_measured": [
            {"id": "a", "label": "T500", "trial": 3, "distance": 0.125, "values": {"strength": 62.0}},
            {"id": "b", "label": "old", "trial": None, "distance": None, "values": {}},
        ],
    }
    text = text_of(content)
    for words in (
        "3 of 5 predictions are not finite",
        "80% likely to yield a value",
        "cost 2.5, 4 h",
        "quick: quick is worth its price",
        "T450 (trial 7)",
        "variance taken away  strength 0.25",
        "+4.0 sd: a surprise",
        "earlier",
    ):
        assert words in text, words
    assert "T500" in text
    assert "0.125" in text
    assert "62" in text
