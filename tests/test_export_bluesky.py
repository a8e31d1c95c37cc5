"""The export of bluesky documents: valid, in order, complete, and the same every time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from flows.commands_look import export
from orchestrator.domain import Candidate, Crystal, Proposal
from orchestrator.record.states import AttemptState
from orchestrator.record.store import CampaignStore
from tests.records import TWO_STEPS, begin, carry_out, decide, start

Lines = list[tuple[str, dict[str, Any]]]


def fill(store: CampaignStore) -> None:
    """Make a campaign with a trial of two steps, one that failed, one that runs and one that waits."""
    begin(store)
    first, second, third, _ = decide(store, "demo", [-1.5, 2.0, 3.0, 4.0], steps=TWO_STEPS)
    carry_out(store, first, -0.25, applied={"x": -1.4})
    store.end_attempt(start(store, second.steps[0].id).id, AttemptState.FAILED, retry=False, reason="melted")
    start(store, third.steps[0].id, instrument="furnace2")


def written(store: CampaignStore, path: Path) -> Lines:
    """Export, and read the lines."""
    store.export_bluesky("demo", path)
    return [(one["name"], one["doc"]) for one in map(json.loads, path.read_text().splitlines())]


def test_every_document_is_valid(store: CampaignStore, tmp_path: Path) -> None:
    """event-model's own schemas accept each document."""
    event_model = pytest.importorskip("event_model")
    fill(store)
    names = event_model.DocumentNames
    for name, document in written(store, tmp_path / "out.jsonl"):
        event_model.schema_validators[getattr(names, name)].validate(document)


def test_documents_come_in_bluesky_s_order(store: CampaignStore, tmp_path: Path) -> None:
    """Start, then for each step descriptor and event, then stop; a trial that runs has no stop yet."""
    fill(store)
    lines = written(store, tmp_path / "out.jsonl")
    assert [name for name, _ in lines] == ["start", *["descriptor", "event"] * 2, "stop", "start", "stop", "start"]
    for name, document in lines:
        if name in {"descriptor", "stop"}:
            assert document["run_start"] in {d["uid"] for n, d in lines if n == "start"}
    uids = [document["uid"] for _, document in lines]
    assert len(set(uids)) == len(uids)


def test_what_is_told(store: CampaignStore, tmp_path: Path) -> None:
    """What was known before, numbers with units, what was applied, how it ended and what became of each attempt."""
    fill(store)
    lines = written(store, tmp_path / "out.jsonl")
    starts = [d for n, d in lines if n == "start"]
    stops = [d for n, d in lines if n == "stop"]
    assert starts[0]["scan_id"] == 1
    assert starts[0]["parameters"] == {"x": -1.5}
    assert starts[0]["why"] == "because -1.5"
    assert starts[0]["predicted_mean"] == {"y": -1.5}
    [descriptor] = [d for n, d in lines if n == "descriptor" and d["name"] == "scan"]
    assert descriptor["data_keys"]["y"]["units"] == "eV"
    assert "diffractometer" in descriptor["object_keys"]
    [event] = [d for n, d in lines if n == "event" and d["descriptor"] == descriptor["uid"]]
    assert event["data"] == {"y": -0.25, "y_quality": "good", "y_std_error": 0.01, "applied_x": -1.4}
    assert set(event["timestamps"]) == set(event["data"]) == set(descriptor["data_keys"])
    assert event["timestamps"]["y"] == pytest.approx(1_700_000_000.0)
    assert (stops[0]["exit_status"], stops[0]["num_events"]) == ("success", {"fire": 1, "scan": 1})
    assert (stops[1]["exit_status"], stops[1]["reason"], stops[1]["num_events"]) == ("fail", "melted", {})
    assert stops[1]["attempts"][0]["state"] == "FAILED"


def test_the_same_every_time(store: CampaignStore, tmp_path: Path) -> None:
    """Exporting twice gives the same documents, so that nothing doubles where they are kept."""
    fill(store)
    assert written(store, tmp_path / "a.jsonl") == written(store, tmp_path / "b.jsonl")


def test_structures_and_odd_names(store: CampaignStore, tmp_path: Path) -> None:
    """A crystal is kept whole; keys with dots and slashes, which event-model forbids, are rewritten."""
    event_model = pytest.importorskip("event_model")
    begin(store)
    crystal = Crystal(((3.0, 0.0, 0.0), (0.0, 3.0, 0.0), (0.0, 0.0, 3.0)), ("Cu",), ((0.0, 0.0, 0.0),))
    candidate = Candidate.make(label="Cu/x.y", parameters={"a.b/c": 1.0}, crystal=crystal, crystal_key="k")
    [trial] = decide(store, "demo", [], proposals=[Proposal(candidate, "random", "why")])
    carry_out(store, trial, 1.0)
    lines = written(store, tmp_path / "out.jsonl")
    assert lines[0][1]["structure"]["species"] == ["Cu"]
    assert lines[0][1]["parameters"] == {"a_b_c": 1.0}
    for name, document in lines:
        event_model.schema_validators[getattr(event_model.DocumentNames, name)].validate(document)


def test_the_command(store: CampaignStore, tmp_path: Path) -> None:
    """One of the two forms must be named, and a file that exists is not replaced by chance."""
    run = CliRunner().invoke(export, ["demo"])
    assert run.exit_code == 2
    assert "--bluesky" in run.output
    run = CliRunner().invoke(export, ["demo", "--csv", str(tmp_path / "a"), "--bluesky", str(tmp_path / "b")])
    assert run.exit_code == 2
