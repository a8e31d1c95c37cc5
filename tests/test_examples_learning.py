"""Example campaigns with learning goals, carried out: nothing speaks of a best, and every proposal explains itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from flows.cli import main

CAMPAIGNS = Path(__file__).parent.parent / "campaigns"


def matloop(folder: Path, *arguments: str) -> Result:
    """Run the command line on a database of its own."""
    done = CliRunner().invoke(main, list(arguments), env={"MATLOOP_STORE": str(folder / "campaigns.db")})
    assert done.exit_code == 0, done.output
    return done


@pytest.mark.parametrize(
    ("name", "trial", "words", "key"),
    [
        ("learn-everywhere", 24, "of the variance of strength over the whole space", "variance_taken_away"),
        ("level-set", 9, "P(above 260)", "unclear"),
        pytest.param("phase-diagram", 12, "its class is least known", "chances", marks=pytest.mark.slow),
    ],
)
def test_a_learning_campaign_runs_and_explains_itself(
    name: str, trial: int, words: str, key: str, tmp_path: Path
) -> None:
    """Run, status, report and why of each example."""
    said = matloop(tmp_path, "run", str(CAMPAIGNS / f"{name.replace('-', '_')}.yaml"), "--plain").stdout
    assert "trials are used" in said
    assert "best so far" not in said
    assert "newest" in matloop(tmp_path, "status", name).stdout
    page = tmp_path / "report.html"
    matloop(tmp_path, "report", name, "--out", str(page))
    assert "Best candidates" not in page.read_text(encoding="utf-8")
    content = json.loads(matloop(tmp_path, "why", name, str(trial), "--json").stdout)
    chosen = content["chosen"]
    assert words in chosen["reason"]
    assert key in chosen["details"]
    near = content["nearest_measured"]
    assert len(near) == 3
    assert near[0]["distance"] <= near[1]["distance"] <= near[2]["distance"]
    assert all(one["values"] for one in near)
    shown = matloop(tmp_path, "why", name, str(trial)).stdout
    for heading in ("nearest measured", "pending", "known then", "to repeat", near[0]["label"]):
        assert heading in shown
