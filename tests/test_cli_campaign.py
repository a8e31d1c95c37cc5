"""Campaigns by command line, without Prefect: run, look, pause, resume, amend, check, export."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from flows.beginning import loaded_with
from flows.cli import main
from orchestrator.campaign import Campaign
from orchestrator.record.states import CampaignState, TrialState
from orchestrator.record.store import CampaignStore
from tests.small_campaign import slow_oven, write_campaign

Matloop = Callable[..., Result]


@pytest.fixture
def matloop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Matloop:
    """Type `matloop …` in a folder of its own, with a campaign database of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MATLOOP_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("MATLOOP_STORE", str(tmp_path / "store.db"))
    monkeypatch.delenv("MATLOOP_CAMPAIGN", raising=False)
    monkeypatch.setenv("COLUMNS", "160")

    def type_(*arguments: str, code: int = 0) -> Result:
        told = CliRunner().invoke(main, list(arguments))
        if told.exception is not None and not isinstance(told.exception, SystemExit):
            raise told.exception
        assert told.exit_code == code, told.output
        return told

    return type_


@pytest.fixture
def store(tmp_path: Path, matloop: Matloop) -> CampaignStore:
    """Look into the database that the commands use."""
    return CampaignStore.open(tmp_path / "store.db")


def test_run_to_the_end(tmp_path: Path, matloop: Matloop, store: CampaignStore) -> None:
    """A campaign runs until its budget is used, says why it ended and what was best, and everything is recorded."""
    told = matloop("run", str(write_campaign(tmp_path)), "--plain")
    assert "budget: all 6 trials are used" in told.stdout
    assert "best so far" in told.stdout
    assert [trial.state for trial in store.trials("small")] == [TrialState.COMPLETED] * 6
    assert store.campaign("small").state is CampaignState.DONE
    assert "small" in matloop("status").stdout
    assert "agree" in matloop("verify").stdout
    assert "every decision is reproduced" in matloop("verify", "--decisions").stdout


def test_a_name_is_taken_once(tmp_path: Path, matloop: Matloop, store: CampaignStore) -> None:
    """A second `run` of the same name is refused and names the ways out; --name begins another campaign."""
    file = str(write_campaign(tmp_path))
    matloop("run", file, "--plain")
    refused = matloop("run", file, "--plain", code=1)
    assert "resume" in refused.stderr
    assert "--name" in refused.stderr
    matloop("run", file, "--plain", "--name", "second")
    assert {info.name for info in store.campaigns()} == {"small", "second"}
    assert "second" in matloop("status").stdout


def test_resume_of_a_finished_campaign_says_what_to_do(tmp_path: Path, matloop: Matloop) -> None:
    """A finished campaign is not run again; the message names `amend`."""
    matloop("run", str(write_campaign(tmp_path)), "--plain")
    told = matloop("resume", "small", "--plain")
    assert "budget" in told.stdout
    assert "amend" in told.stdout


def test_amend_and_go_on(tmp_path: Path, matloop: Matloop, store: CampaignStore) -> None:
    """A changed file is refused by `resume` with the difference, adopted by `amend`, and then carried on."""
    file = str(write_campaign(tmp_path))
    matloop("run", file, "--plain")
    assert "already" in matloop("amend", file).stdout
    write_campaign(tmp_path, budget={"trials": 8})
    refused = matloop("resume", file, "--plain", code=2)
    assert "budget.trials" in refused.stderr
    assert "amend" in refused.stderr
    told = matloop("amend", file)
    assert "revision 2" in told.stdout
    assert "budget.trials" in told.stdout
    matloop("resume", file, "--plain")
    assert len(store.trials("small")) == 8


def test_amend_may_not_change_what_a_property_means(tmp_path: Path, matloop: Matloop) -> None:
    """Another unit of a recorded property is refused with exit code 2."""
    file = write_campaign(tmp_path)
    matloop("run", str(file), "--plain")
    file.write_text(file.read_text(encoding="utf-8").replace("unit: MPa", "unit: kelvin"), encoding="utf-8")
    assert matloop("amend", str(file), code=2).stderr.startswith("error: ")


def test_resume_works_from_another_folder(
    tmp_path: Path, matloop: Matloop, store: CampaignStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Relative paths of a campaign file still lead to its files when the campaign is resumed elsewhere."""
    Campaign.begin(loaded_with(write_campaign(tmp_path).name), store=store, actor="ada")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert "all 6 trials are used" in matloop("resume", "--plain").stdout


def test_the_only_campaign_needs_no_name(tmp_path: Path, matloop: Matloop, monkeypatch: pytest.MonkeyPatch) -> None:
    """With one campaign its name may be left out; with several the message lists them; a variable decides."""
    file = str(write_campaign(tmp_path))
    matloop("run", file, "--plain")
    assert "trial 2 of small" in matloop("why", "2").stdout
    matloop("run", file, "--plain", "--name", "second")
    refused = matloop("why", "2", code=1)
    assert "second, small" in refused.stderr
    assert "trial 2 of second" in matloop("why", "second", "2").stdout
    monkeypatch.setenv("MATLOOP_CAMPAIGN", "small")
    assert "trial 2 of small" in matloop("why", "2").stdout


def test_a_wrong_name_gets_the_nearest(tmp_path: Path, matloop: Matloop) -> None:
    """A misspelled campaign is refused with the one that was probably meant."""
    matloop("run", str(write_campaign(tmp_path)), "--plain")
    assert "small" in matloop("status", "smal", code=1).stderr


def test_without_a_database_the_message_says_how_to_begin(matloop: Matloop) -> None:
    """Looking at nothing is no traceback."""
    assert "start a campaign first" in matloop("status", code=1).stderr


def test_why_tells_the_story_of_a_trial(tmp_path: Path, matloop: Matloop) -> None:
    """`why` gives the decision, what was known, the attempts with their raw files, and the result."""
    matloop("run", str(write_campaign(tmp_path)), "--plain")
    text = matloop("why", "small", "5").stdout
    for words in ("chosen in decision", "known then", "seed", "attempt 1", "raw ", "strength = ", "step fire on oven"):
        assert words in text
    content = json.loads(matloop("why", "small", "5", "--json").stdout)
    assert content["chosen"]["policy"] == "random"
    assert content["measurements"][0]["value"] == pytest.approx(content["predictions"][0]["measured"])
    assert "trial" in matloop("why", "small", "77", code=1).stderr
    matloop("why", "small", code=2)


def test_export_writes_a_line_a_trial(tmp_path: Path, matloop: Matloop) -> None:
    """The CSV has a line for each trial, and a file that exists is only replaced when asked for."""
    matloop("run", str(write_campaign(tmp_path)), "--plain")
    out = tmp_path / "out.csv"
    matloop("export", "--csv", str(out))
    with out.open(encoding="utf-8") as lines:
        assert len(list(csv.DictReader(lines))) == 6
    assert "--force" in matloop("export", "--csv", str(out), code=1).stderr
    matloop("export", "--csv", str(out), "--force")


def test_pause_stop_and_the_record_of_who(tmp_path: Path, matloop: Matloop, store: CampaignStore) -> None:
    """`pause` and `stop` name who and why in the record, and `resume` makes the campaign active again."""
    Campaign.begin(loaded_with(write_campaign(tmp_path)), store=store, actor="ada")
    matloop("stop", "small", "--reason", "the furnace smells", "--who", "ada")
    info = store.campaign("small")
    assert (info.state, info.state_reason) == (CampaignState.STOPPED, "the furnace smells")
    assert any(event.actor == "ada" for event in store.events("small"))
    assert "stopped" in matloop("status").stdout
    assert "all 6 trials are used" in matloop("resume", "--plain").stdout
    assert matloop("pause", code=1).stderr.startswith("error: ")


def test_a_failed_trial_is_shown_with_its_reason(tmp_path: Path, matloop: Matloop, store: CampaignStore) -> None:
    """Trials that fail are counted, shown with their reasons, and do not end the campaign."""
    matloop(
        "run", str(write_campaign(tmp_path, budget={"trials": 2}, instruments=slow_oven(0.01, rejected=0.7))), "--plain"
    )
    failed = [trial for trial in store.trials("small") if trial.state is TrialState.FAILED]
    assert failed
    assert f"{len(failed)} failed" in matloop("status", "small").stdout
    assert failed[0].reason in matloop("why", str(failed[0].number)).stdout


def test_validate_says_what_a_file_would_do(tmp_path: Path, matloop: Matloop) -> None:
    """A good file is summed up; of several files each wrong one gets its message, with exit code 2."""
    good = write_campaign(tmp_path)
    told = matloop("validate", str(good)).stdout
    for words in ("maximize strength (MPa)", "40 candidates", "fire (oven)", "6 trials"):
        assert words in told
    wrong = write_campaign(tmp_path, name="wrong", parallel=0)
    refused = matloop("validate", str(good), str(wrong), code=2)
    assert "parallel" in refused.stderr
    assert "1 of 2" in refused.stderr
    assert "parallel" in matloop("validate", str(wrong), code=2).stderr


def test_plugins_lists_what_is_there(matloop: Matloop) -> None:
    """Each kind of plug-in is listed with its class and package; a wrong kind is named."""
    told = matloop("plugins").stdout
    assert "table_lookup" in told
    assert "matloop" in told
    assert "table_lookup" not in matloop("plugins", "spaces").stdout
    assert "spaces" in matloop("plugins", "space", code=2).stderr


def test_replay_back_tests_a_file(tmp_path: Path, matloop: Matloop) -> None:
    """`replay` runs the campaign and its controls against a table, and writes rows as JSON."""
    file = write_campaign(tmp_path, budget={"trials": 20})
    out = tmp_path / "rows.json"
    told = matloop("replay", str(file), "--seeds", "2", "--against", "random", "--share", "0.1", "--json", str(out))
    assert "recall after 20" in told.stdout
    assert '"recall_20"' in out.read_text(encoding="utf-8")
    refused = matloop("replay", str(file), "--json", str(tmp_path / "no" / "rows.json"), code=2)
    assert "does not exist" in refused.stderr


def _interrupted(file: str, *, until: str, signals: int) -> tuple[int, str]:
    """Run a campaign as a process of its own, and press Ctrl-C some times once a text has appeared."""
    command = [sys.executable, "-m", "flows.cli", "run", file, "--plain"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    seen = []
    for line in process.stdout:
        seen.append(line)
        if until in line:
            break
    time.sleep(0.3)
    for _ in range(signals):
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)
    rest, _ = process.communicate(timeout=60)
    return process.returncode, "".join(seen) + rest


def test_ctrl_c_finishes_what_runs(tmp_path: Path, matloop: Matloop, store: CampaignStore) -> None:
    """One Ctrl-C finishes and records what runs, pauses the campaign, says how to go on, and ends with 130."""
    code, text = _interrupted(write_campaign(tmp_path, instruments=slow_oven(1.5)).name, until="decision 1", signals=1)
    assert code == 130
    assert "matloop resume small" in text
    assert "Traceback" not in text
    states = [trial.state for trial in store.trials("small")]
    assert states.count(TrialState.COMPLETED) == 2
    assert TrialState.RUNNING not in states
    assert store.campaign("small").state is CampaignState.PAUSED


def test_ctrl_c_twice_leaves_at_once(tmp_path: Path, matloop: Matloop, store: CampaignStore) -> None:
    """A second Ctrl-C does not wait for a long step; what ran is found again, and no trial runs twice."""
    file = write_campaign(tmp_path, instruments=slow_oven(300.0))
    started = time.monotonic()
    code, text = _interrupted(file.name, until="decision 1", signals=2)
    assert code == 130
    assert time.monotonic() - started < 40
    assert "matloop resume small" in text
    assert store.campaign("small").state is CampaignState.PAUSED
    write_campaign(tmp_path)
    matloop("amend", file.name)
    matloop("resume", "--plain")
    assert "agree" in matloop("verify").stdout
    assert {trial.state for trial in store.trials("small")} <= {TrialState.COMPLETED, TrialState.FAILED}
