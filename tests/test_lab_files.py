"""The example lab files: every instrument in them can be built and asked what it does, with no device in reach."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from orchestrator import measuring, plugins
from orchestrator.campaign import Campaign
from orchestrator.config.check import check
from orchestrator.config.read import load_campaign, load_lab
from orchestrator.domain import Description
from orchestrator.errors import ConfigError, MatloopError
from orchestrator.record.store import CampaignStore

CAMPAIGNS = Path(__file__).parent.parent / "campaigns"
FILES = sorted(CAMPAIGNS.glob("lab*.yaml"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_instrument_describes_itself(file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Options are right and declarations work offline; only a missing package may be in the way, and says its name."""
    monkeypatch.setenv("MATLOOP_HOME", str(tmp_path))
    lab = load_lab(file)
    assert lab.instruments
    for name, entry in lab.instruments.items():
        try:
            built = plugins.build(
                "instruments", entry.use, entry.options, base=lab.base, allowed_modules=lab.allowed_modules
            )
            description = asyncio.run(built.describe())
        except MatloopError as error:
            assert "pip install" in str(error), f"{file.name}: {name}: {error}"  # noqa: PT017  nothing else is excused
            continue
        assert isinstance(description, Description)
        known = {parameter.name for capability in description.capabilities for parameter in capability.parameters}
        assert set(entry.envelope) <= known


CAMPAIGN = """
name: two-folders
objectives: [{property: strength, unit: MPa, goal: maximize}]
space: {use: box, options: {parameters: {t: {unit: degC, min: 20, max: 80}}}}
procedure: [{step: measure, instrument: %s}]
initial: {use: diverse, trials: 2}
budget: {trials: 2}
"""
TABLE = """{use: table_lookup, options: {file: known.csv, match: parameters, parameters: {t: {unit: degC}},
    outputs: {strength: {unit: MPa}}}}"""


def _two_folders(tmp_path: Path, *, known_in: str) -> tuple[Path, Path]:
    """Put a campaign, a lab file, and a table that one of them names into folders."""
    for folder in ("site", "campaign"):
        (tmp_path / folder).mkdir()
    (tmp_path / known_in / "known.csv").write_text("t,strength\n20,1\n80,2\n")
    lab = tmp_path / "site" / "lab.yaml"
    lab.write_text(f"instruments:\n  rig: {TABLE}\n")
    campaign = tmp_path / "campaign" / "campaign.yaml"
    campaign.write_text(CAMPAIGN % "rig")
    return campaign, lab


def test_paths_of_a_lab_file_start_at_its_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Checked, begun and opened again from any folder: the table beside the lab file is the one that is read."""
    campaign, lab = _two_folders(tmp_path, known_in="site")
    monkeypatch.chdir(tmp_path)
    check(load_campaign(campaign, lab=lab.relative_to(tmp_path)))
    store = CampaignStore.open(tmp_path / "campaigns.db")
    Campaign.create(campaign, store=store, actor="test", lab=lab.relative_to(tmp_path))
    monkeypatch.chdir(tmp_path / "campaign")
    again = Campaign.open("two-folders", store=store)
    assert again.lab.base == str(tmp_path / "site")
    built = measuring.instrument("rig", again.config, again.lab, again.base)
    asyncio.run(built.describe())


def test_paths_of_a_lab_file_do_not_start_at_the_campaign(tmp_path: Path) -> None:
    """A file of that name beside the campaign is another file."""
    campaign, lab = _two_folders(tmp_path, known_in="campaign")
    with pytest.raises(ConfigError, match=r"site/known\.csv"):
        check(load_campaign(campaign, lab=lab))


def test_paths_of_a_campaign_start_at_its_own_folder(tmp_path: Path) -> None:
    """Its own instruments read what lies beside it, also under a lab file."""
    campaign, lab = _two_folders(tmp_path, known_in="campaign")
    campaign.write_text(CAMPAIGN % "own" + f"instruments: {{own: {TABLE}}}\n")
    check(load_campaign(campaign, lab=lab))
