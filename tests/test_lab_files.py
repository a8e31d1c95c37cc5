"""The example lab files: every instrument in them can be built and asked what it does, with no device in reach."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from orchestrator import plugins
from orchestrator.config.read import load_lab
from orchestrator.domain import Description
from orchestrator.errors import MatloopError

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
                "instruments", entry.use, entry.options, base=str(CAMPAIGNS), allowed_modules=lab.allowed_modules
            )
            description = asyncio.run(built.describe())
        except MatloopError as error:
            assert "pip install" in str(error), f"{file.name}: {name}: {error}"  # noqa: PT017  nothing else is excused
            continue
        assert isinstance(description, Description)
        known = {parameter.name for capability in description.capabilities for parameter in capability.parameters}
        assert set(entry.envelope) <= known
