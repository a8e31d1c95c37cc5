"""Fits are listed, described and exported; an exported fit answers elsewhere as it did here."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
from click.testing import CliRunner, Result

from flows.cli import main
from orchestrator import fits
from orchestrator.domain import FitReport
from orchestrator.errors import Damaged, StoreError
from orchestrator.record.store import CampaignStore
from orchestrator.record.views import FitInfo
from tests.small_campaign import write_campaign

Matloop = Callable[..., Result]


@pytest.fixture(scope="module")
def matloop(tmp_path_factory: pytest.TempPathFactory) -> Matloop:
    """Run a small campaign to its end, and type `matloop …` beside it."""
    folder = tmp_path_factory.mktemp("fits")
    learning = {"acquisition": {"use": "greedy"}, "surrogate": {"use": "gaussian_process"}, "refit": {"every": 2}}
    file = write_campaign(folder, parallel=1, **learning)  # one at a time: trained on 3 and on 5 labels, always
    env = {
        "MATLOOP_HOME": str(folder / "data"),
        "MATLOOP_STORE": str(folder / "store.db"),
        "MATLOOP_CAMPAIGN": None,
        "COLUMNS": "200",
    }

    def type_(*arguments: str, code: int = 0) -> Result:
        told = CliRunner().invoke(main, [one.format(folder=folder) for one in arguments], env=env)
        if told.exception is not None and not isinstance(told.exception, SystemExit):
            raise told.exception
        assert told.exit_code == code, told.output
        return told

    type_("run", str(file), "--plain")
    return type_


@pytest.fixture(scope="module")
def exported(matloop: Matloop, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Export the last fit."""
    folder = tmp_path_factory.mktemp("exported") / "fit"
    matloop("fits", "export", "2", str(folder))
    return folder


def test_the_list_names_every_fit(matloop: Matloop) -> None:
    """`matloop fits list` has a line a fit with surrogate, labels and held-out error."""
    lines = [line.split() for line in matloop("fits", "list").stdout.splitlines()[1:]]
    assert [line[:4] for line in lines] == [[str(i), "small", str(i), "gaussian_process"] for i in (1, 2)]
    assert [line[4] for line in lines] == ["3", "5"]
    assert matloop("fits", "list", "small").stdout == matloop("fits", "list").stdout
    assert "no campaign 'smal'" in matloop("fits", "list", "smal", code=1).stderr


def test_the_card_says_what_a_fit_is(matloop: Matloop) -> None:
    """The card holds surrogate, unit, data, metrics, calibration, domain, lineage and versions, for both readers."""
    card = json.loads(matloop("fits", "card", "2", "--json").stdout)
    assert card["surrogate"]["use"] == "gaussian_process"
    assert card["surrogate"]["licences"] == {}
    assert card["problem"]["objectives"] == [
        {"property": "strength", "unit": "MPa", "goal": "maximize", "target": None}
    ]
    assert card["report"]["labels"] == 5
    assert len(card["report"]["data_sha256"]) == 64
    assert card["report"]["metrics"]["strength"]["mae"] > 0
    assert "0.9" in card["report"]["calibration"]["strength"]
    assert card["domain"]["candidates"] == 5
    low, high = card["domain"]["parameters"]["temperature"]
    assert 400 <= low < high <= 790
    assert card["fit"]["lineage"][0]["number"] == 2
    assert card["versions"]["matloop"]
    text = matloop("fits", "card", "2").stdout
    assert "strength (MPa)" in text
    assert "5 labelled trials" in text
    assert f"temperature {low} to {high}" in text
    assert "'matloop fits list'" in matloop("fits", "card", "99", code=1).stderr


def test_an_exported_fit_answers_alike(matloop: Matloop, exported: Path, tmp_path: Path) -> None:
    """`predict --fit-folder` gives the numbers of `predict --fit`, without the campaign database."""
    assert {"card.json", "README.md", "state.json", "state.safetensors"} <= {path.name for path in exported.iterdir()}
    assert "# Fit 2 of small" in (exported / "README.md").read_text()
    (tmp_path / "pool.csv").write_text("id,temperature\na,450\nb,555.5\nc,hot\n")
    pool = str(tmp_path / "pool.csv")
    matloop("predict", pool, "--fit", "2", "--out", str(tmp_path / "here.csv"))
    nowhere = ("--store", str(tmp_path / "nothing.db"))
    matloop("predict", pool, "--fit-folder", str(exported), "--out", str(tmp_path / "there.csv"), *nowhere)
    assert (tmp_path / "here.csv").read_bytes() == (tmp_path / "there.csv").read_bytes()
    with (tmp_path / "there.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == ["a", "b", "c"]
    assert float(rows[0]["strength sd [MPa]"]) > 0
    assert "'hot'" in rows[2]["reason"]


def test_the_space_of_a_campaign_is_predicted_with_all_that_is_known(matloop: Matloop, tmp_path: Path) -> None:
    """Without a pool the campaign's own space is meant; the fit is updated to every result, unlike with --fit."""
    told = matloop("predict", "--campaign", "small", "--out", str(tmp_path / "now.csv"), "--top", "2")
    assert "of small, updated to all its results" in told.stdout
    matloop("predict", "{folder}/small.yaml", "--fit", "2", "--out", str(tmp_path / "then.csv"))
    now, then = (list(csv.reader((tmp_path / name).read_text().splitlines())) for name in ("now.csv", "then.csv"))
    assert len(now) == len(then) == 41
    assert [row[1] for row in now] == [row[1] for row in then]
    assert [row[3] for row in now] != [row[3] for row in then]


def test_wrong_requests_are_told_before_anything_is_read(matloop: Matloop, exported: Path, tmp_path: Path) -> None:
    """Two fits, no fit, no pool, an output that exists and a folder that does not are refused."""
    out = str(tmp_path / "out.csv")
    assert "one of --campaign" in matloop("predict", "x.csv", "--out", out, code=2).stderr
    assert "one of --campaign" in matloop(
        "predict", "x.csv", "--fit", "1", "--campaign", "small", "--out", out, code=2
    ).stderr  # fmt: skip
    assert "name a pool" in matloop("predict", "--fit", "1", "--out", out, code=2).stderr
    assert "there is no file" in matloop("predict", "x.csv", "--fit", "1", "--out", out, code=2).stderr
    assert "does not exist" in matloop("predict", "x.csv", "--fit", "1", "--out", "no/where.csv", code=2).stderr
    Path(out).write_text("mine")
    assert "--force" in matloop("predict", "x.csv", "--fit", "1", "--out", out, code=2).stderr
    assert Path(out).read_text() == "mine"
    told = matloop("fits", "export", "1", str(exported), code=1)
    assert "not empty" in told.stderr


@pytest.mark.parametrize("change", ["state", "card", "added", "missing"])
def test_a_changed_fit_is_refused(exported: Path, tmp_path: Path, change: str) -> None:
    """A byte more, less or other in state or card is damage, told by the file's name."""
    folder = tmp_path / "fit"
    folder.mkdir()
    for path in exported.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    assert fits.of_folder(folder).surrogate == "gaussian_process"
    if change == "state":
        content = bytearray((folder / "state.safetensors").read_bytes())
        content[-1] ^= 1
        (folder / "state.safetensors").write_bytes(bytes(content))
    elif change == "card":
        (folder / "card.json").write_text((folder / "card.json").read_text().replace('"MPa"', '"GPa"'))
    elif change == "added":
        (folder / "more.json").write_text("{}")
    else:
        (folder / "state.json").unlink()
    name = {"state": "state.safetensors", "card": "card.json", "added": "more.json", "missing": "state.json"}[change]
    with pytest.raises(Damaged, match=name):
        fits.of_folder(folder)


def test_what_is_no_fit_is_named(tmp_path: Path, exported: Path) -> None:
    """A folder without a card, and a card of another version, are refused with what to do."""
    with pytest.raises(StoreError, match="matloop fits export"):
        fits.of_folder(tmp_path)
    card = json.loads((exported / "card.json").read_text())
    (tmp_path / "card.json").write_text(json.dumps({**card, "format": 99}))
    with pytest.raises(StoreError, match="format 99"):
        fits.of_folder(tmp_path)


def test_a_challenger_that_lost_is_not_asked() -> None:
    """`newest` passes over a fit that was not promoted; a campaign without fits says so."""
    won = FitInfo(1, 1, None, "x", 0, (), FitReport(3, "0" * 64), "0" * 64, 0, 1)
    lost = replace(won, id=2, number=2, report=FitReport(5, "0" * 64, promoted=False))

    class Shelf:
        def __init__(self, *found: FitInfo) -> None:
            self.found = found

        def fits(self, name: str) -> list[FitInfo]:
            return list(self.found)

    assert fits.newest(cast("CampaignStore", Shelf(won, lost)), "small") is won
    with pytest.raises(StoreError, match="no fit yet"):
        fits.newest(cast("CampaignStore", Shelf()), "small")


@pytest.mark.parametrize("arguments", [["predict", "--help"], ["fits", "card", "--help"], ["surrogate", "--help"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    """Help of these commands appears without torch, NumPy or pymatgen."""
    heavy = ("torch", "pymatgen", "numpy", "pandas", "sqlalchemy", "pydantic")
    code = (
        "import sys\nfrom flows.cli import main\n"
        f"main({arguments!r}, standalone_mode=False)\n"
        f"print('LOADED', [name for name in {heavy!r} if name in sys.modules])"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert told.stdout.rstrip().endswith("LOADED []")
