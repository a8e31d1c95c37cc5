"""A campaign that wants CP-SAT is refused where OR-tools is missing, before anything is begun."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.config.check import check
from orchestrator.config.read import load_campaign
from orchestrator.errors import ConfigError
from orchestrator.schedule import cp_sat

CAMPAIGNS = Path(__file__).parent.parent / "campaigns"


def test_cp_sat_needs_or_tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error stands at its line and names what to type; with OR-tools the file is good."""
    text = (CAMPAIGNS / "two_furnaces.yaml").read_text().replace("schedule: {use: plain}", "schedule: {use: cp_sat}")
    file = tmp_path / "c.yaml"
    file.write_text(text)
    loaded = load_campaign(file, lab=CAMPAIGNS / "lab_two_furnaces.yaml")
    check(loaded)
    monkeypatch.setattr(cp_sat, "find_spec", lambda _name: None)
    with pytest.raises(ConfigError, match=r"pip install 'matloop\[schedule\]'") as caught:
        check(loaded)
    line = next(i for i, one in enumerate(text.splitlines(), 1) if one.startswith("schedule:"))
    assert str(caught.value).startswith(f"{file}:{line}: schedule.use")
