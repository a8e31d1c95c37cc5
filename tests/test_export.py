"""The CSV export: complete, one line a trial, and harmless in a spreadsheet."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.domain import Candidate, Proposal
from orchestrator.record.export import safe
from orchestrator.record.states import AttemptState
from orchestrator.record.store import CampaignStore
from tests.records import begin, carry_out, decide, start


def test_one_line_a_trial(store: CampaignStore, tmp_path: Path) -> None:
    """Numbers stay numbers with unit and standard error, predictions and reasons stand beside them."""
    begin(store)
    trials = decide(store, "demo", [-1.5, 2.0, 3.0])
    carry_out(store, trials[0], -0.25)
    store.end_attempt(start(store, trials[1].steps[0].id).id, AttemptState.FAILED, retry=False, reason="=melted")
    assert store.export_csv("demo", tmp_path / "out.csv") == 3
    with (tmp_path / "out.csv").open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    first, second, third = lines
    assert (first["trial"], first["x"], first["state"]) == ("1", "-1.5", "COMPLETED")
    assert (first["y [eV]"], first["y std_error [eV]"], first["y quality"]) == ("-0.25", "0.01", "good")
    assert (first["y predicted mean"], first["y predicted sd"]) == ("-1.5", "0.5")
    assert (second["state"], second["reason"], second["y [eV]"]) == ("FAILED", "'=melted", "")
    assert (third["state"], third["why"], third["policy"]) == ("PLANNED", "because 3", "random")
    assert first["candidate_id"] == trials[0].candidate.id


@pytest.mark.parametrize("begins", ["=", "+", "-", "@", "\t", "\r", " =", '"=', "'+", "＝", "＋", "－", "＠"])
def test_formulas_are_disarmed(store: CampaignStore, tmp_path: Path, begins: str) -> None:
    """Text that a spreadsheet would run gets an apostrophe, in every column, the header included."""
    text = f"{begins}HYPERLINK(1)"
    begin(store)
    proposal = Proposal(Candidate.make(label=text, parameters={text: text}), text, text, mean={text: 1.0})
    [trial] = decide(store, "demo", [], proposals=[proposal])
    store.end_attempt(start(store, trial.steps[0].id).id, AttemptState.FAILED, retry=False, reason=text)
    store.export_csv("demo", tmp_path / "out.csv")
    with (tmp_path / "out.csv").open(newline="", encoding="utf-8") as file:
        cells = [cell for line in csv.reader(file) for cell in line]
    armed = [cell for cell in cells if cell.lstrip(" \"'").startswith(text.strip(" \"'")) and not cell.startswith("'")]
    assert armed == []
    assert sum(cell == f"'{text}" for cell in cells) >= 5


@given(st.one_of(st.floats(allow_nan=False), st.integers(), st.none()))
def test_numbers_are_left_alone(cell: float | None) -> None:
    """A negative number is no formula."""
    assert safe(cell) is cell
