"""`matloop explain`: the reasons of a stored fit in the terminal, as JSON and as a page."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from flows.cli import main
from tests.small_campaign import write_campaign

Matloop = Callable[..., Result]


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run a small campaign whose surrogate learns from one set-point; return its folder."""
    folder = tmp_path_factory.mktemp("explain")
    file = write_campaign(
        folder,
        surrogate={"use": "gaussian_process"},
        acquisition={"use": "upper_confidence_bound"},
        initial={"use": "random", "trials": 6},
        budget={"trials": 8},
    )
    write_campaign(folder, name="blind")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MATLOOP_HOME", str(folder / "data"))
        for name in (file.name, "blind.yaml"):
            told = CliRunner().invoke(main, ["run", name, "--plain", "--store", str(folder / "store.db")])
            assert told.exit_code == 0, told.output
    return folder


@pytest.fixture
def matloop(campaign: Path, monkeypatch: pytest.MonkeyPatch) -> Matloop:
    """Type `matloop …` in the campaign's folder."""
    monkeypatch.chdir(campaign)
    monkeypatch.setenv("MATLOOP_HOME", str(campaign / "data"))
    monkeypatch.setenv("MATLOOP_STORE", str(campaign / "store.db"))
    monkeypatch.delenv("MATLOOP_CAMPAIGN", raising=False)
    monkeypatch.setenv("COLUMNS", "160")

    def type_(*arguments: str, code: int = 0) -> Result:
        told = CliRunner().invoke(main, list(arguments))
        if told.exception is not None and not isinstance(told.exception, SystemExit):
            raise told.exception
        assert told.exit_code == code, told.output
        return told

    return type_


def test_the_best_are_explained_in_every_form(matloop: Matloop, campaign: Path) -> None:
    """The terminal names what matters, the JSON adds up, and the page needs nothing else."""
    told = matloop("explain", "small", "--best", "2", "--json", "why.json", "--out", "why.html").stdout
    assert len(re.findall("^ *typical +[0-9]", told, re.MULTILINE)) == 2
    assert "temperature" in told
    assert "nearest measured" in told
    assert "Shapley" in told, "the method is named"
    content = json.loads((campaign / "why.json").read_text(encoding="utf-8"))
    assert len(content["explained"]) == 2
    for one in content["explained"]:
        total = one["baseline"] + sum(part["value"] for part in one["elements"] + one["parameters"])
        assert total == pytest.approx(one["mean"])
        assert (one["property"], one["unit"]) == ("strength", "MPa")
        assert one["neighbours"][0]["value"] == pytest.approx(one["measured"])
    html = (campaign / "why.html").read_text(encoding="utf-8")
    assert 'class="waterfall"' in html
    assert "<script" not in html
    assert not re.search(r'(?:src|href)="[^#]', html)


def test_one_candidate_is_explained_by_trial_or_by_name(matloop: Matloop) -> None:
    """A trial by its number, and a candidate of the space that nobody has measured, by its label."""
    assert "(trial 3)" in matloop("explain", "small", "--trial", "3").stdout
    for temperature in range(400, 800, 10):
        told = matloop("explain", "small", "--candidate", f"T{temperature}").stdout
        if "measured" not in told.split("typical")[0]:
            break
    else:
        pytest.fail("every candidate claims to be measured")
    assert f"T{temperature}" in told
    assert "trial" not in told.split("typical")[0]


def test_wrong_questions_are_answered_with_what_to_do(matloop: Matloop) -> None:
    """Two choices at once, an unknown candidate or property, and a campaign without a surrogate are refused."""
    assert "one of" in matloop("explain", "small", "--trial", "1", "--best", "2", code=2).stderr
    assert "T401" in matloop("explain", "small", "--candidate", "T401", code=1).stderr
    assert "strength" in matloop("explain", "small", "--property", "colour", code=1).stderr
    assert "no fit" in matloop("explain", "blind", code=1).stderr
    assert "no network" in matloop("explain", "small", "--network", code=1).stderr
