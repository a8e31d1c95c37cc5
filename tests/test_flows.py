"""Campaigns under a real Prefect server: killed, resumed with an empty Prefect database, started from the form.

Everything runs in processes of its own, as users run it; the campaign database is the judge.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.campaign import Campaign
from orchestrator.decisions import verify_decisions
from orchestrator.record.queue import is_withdrawn
from orchestrator.record.states import CampaignState, TrialState
from orchestrator.record.store import CampaignStore
from tests.small_campaign import slow_oven, write_campaign
from tests.test_answering import bench

pytestmark = [pytest.mark.prefect, pytest.mark.slow]
MATLOOP = [sys.executable, "-m", "flows.cli"]
LONGEST_S = 240.0
"""A computer that does eight other things needs it; an idle one takes a tenth."""


class Home:
    """A folder with a campaign database and a Prefect server of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = folder / "store.db"
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("PREFECT_", "MATLOOP_"))}
        self.environment = {
            **kept,
            "MATLOOP_HOME": str(folder / "data"),
            "MATLOOP_STORE": str(self.store),
            "MATLOOP_CAMPAIGNS": str(folder),
            "PREFECT_HOME": str(folder / "users-own"),
            "OMP_NUM_THREADS": "1",
        }

    def matloop(self, *arguments: str) -> str:
        """Type `matloop …` and return what it writes."""
        return self.python(*MATLOOP[1:], *arguments)

    def python(self, *arguments: str) -> str:
        """Run Python and return what it writes."""
        told = subprocess.run(
            [sys.executable, *arguments],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=LONGEST_S,
        )
        assert told.returncode == 0, told.stdout
        return told.stdout

    def killed(self, *arguments: str, after: str) -> str:
        """Type `matloop …` and kill -9 it as soon as a text appears."""
        process = subprocess.Popen(
            [*MATLOOP, *arguments],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert process.stdout is not None
        seen = []
        for line in process.stdout:
            seen.append(line)
            if after in line:
                process.send_signal(signal.SIGKILL)
        text = "".join(seen)
        assert process.wait() == -signal.SIGKILL, text
        process.stdout.close()
        return text

    def ask(self, path: str, content: Any) -> Any:
        """Ask the Prefect server."""
        state = json.loads((self.folder / "data" / "prefect" / "server.json").read_text(encoding="utf-8"))
        address = f"http://127.0.0.1:{state['port']}/api{path}"
        request = urllib.request.Request(address, json.dumps(content).encode(), {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310  http only
            return json.load(answer)

    def flow_runs(self) -> dict[str, dict[str, Any]]:
        """Flow runs by id."""
        return {run["id"]: run for run in self.ask("/flow_runs/filter", {})}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """A home whose server is stopped at the end."""
    made = Home(tmp_path_factory.mktemp("flows"))
    yield made
    made.matloop("down")


def test_kill_and_resume_with_and_without_what_prefect_knew(home: Home) -> None:
    """A killed campaign goes on under the same server and under an emptied one; every trial is measured once.

    The first run's page shows Crashed, the last one's the artifacts and why it ended; decisions can be recomputed.
    """
    write_campaign(home.folder, instruments=slow_oven(0.4), budget={"trials": 8})
    text = home.killed("run", "small.yaml", after="trial ")
    assert "watch it: http://127.0.0.1:" in text
    store = CampaignStore.open(home.store)
    first = store.campaign("small").links["prefect_flow_run_id"]
    assert TrialState.PLANNED in {trial.state for trial in store.trials("small")}

    home.killed("resume", "small", after="trial ")
    second = store.campaign("small").links["prefect_flow_run_id"]
    assert second != first
    runs = home.flow_runs()
    assert (runs[first]["name"], runs[first]["state_type"]) == ("small", "CRASHED")
    assert second in runs[first]["state"]["message"]

    assert "stopped the Prefect server" in home.matloop("down")
    shutil.rmtree(home.folder / "data" / "prefect")
    assert "all 8 trials are used" in home.matloop("resume", "small")
    third = store.campaign("small").links["prefect_flow_run_id"]
    runs = home.flow_runs()
    assert set(runs) == {third}
    assert runs[third]["state_type"] == "COMPLETED"
    assert "all 8 trials are used" in runs[third]["state"]["message"]
    assert set(runs[third]["tags"]) == {"matloop", "campaign:small"}

    assert store.campaign("small").state is CampaignState.DONE
    assert [trial.state for trial in store.trials("small")] == [TrialState.COMPLETED] * 8
    assert sorted(m.trial for m in store.measurements("small")) == list(range(1, 9))
    assert store.verify("small") == []
    assert verify_decisions(Campaign.open("small", store=store)) == []

    artifacts = {one["key"]: one for one in home.ask("/artifacts/latest/filter", {})}
    assert set(artifacts) == {"small-progress", "small-report", "small-results"}
    assert artifacts["small-progress"]["data"] == 100.0
    assert "data:image/png;base64," in artifacts["small-report"]["data"]
    assert len(json.loads(artifacts["small-results"]["data"])) == 8
    assert len(home.ask("/artifacts/filter", {})) == 3  # updated in place, not added
    store.close()


FORM = """
import asyncio, json
from pathlib import Path
from flows import server
server.ensure_server().use()
from flows.campaign import campaign_flow
from flows.deploy import deploy

print("DEPLOYED", asyncio.run(deploy(Path("."), at_once=2)))
for given in {given!r}:
    state = asyncio.run(campaign_flow(**given, return_state=True))
    print("STATE", json.dumps([state.type.value, state.message]))
"""


def test_the_form_starts_resumes_and_refuses(home: Home) -> None:
    """The form begins a campaign with changed settings, and goes on with it when it is sent again.

    It offers the campaign files of the folder, and what is wrong is said without a traceback.
    """
    file = write_campaign(home.folder, name="formed")
    (home.folder / "lab.yaml").write_text("name: lab\n", encoding="utf-8")
    write_campaign(home.folder, name="by-hand", procedure=None, instruments=None)
    text = file.read_text(encoding="utf-8").replace("table.csv", str(home.folder / "table.csv"))
    given = [
        {"file": file.name, "trials": 4, "seed": 9},
        {"file": file.name, "trials": 4, "seed": 9},
        {"file": file.name, "trials": 5, "seed": 9},
        {"text": text, "name": "typed"},
        {"file": "small.yaml", "name": "small", "parallel": 0},
        {},
    ]
    lines = home.python("-c", textwrap.dedent(FORM).format(given=given)).splitlines()
    states = [json.loads(line.removeprefix("STATE ")) for line in lines if line.startswith("STATE ")]
    begun, again, other, typed, wrong, nothing = states
    assert begun == ["COMPLETED", "budget: all 4 trials are used"]
    assert again[0] == "COMPLETED"
    assert other[0] == "FAILED"
    assert "budget.trials" in other[1]
    assert typed == ["COMPLETED", "budget: all 6 trials are used"]
    assert wrong[0] == "FAILED"
    assert "parallel" in wrong[1]
    assert nothing[0] == "FAILED"
    store = CampaignStore.open(home.store)
    assert (len(store.trials("formed")), len(store.trials("typed"))) == (4, 6)
    assert store.campaign("formed").seed == 9
    store.close()

    identity = next(line.split()[1] for line in lines if line.startswith("DEPLOYED "))
    deployments = {one["id"]: one for one in home.ask("/deployments/filter", {})}
    assert len(deployments) == 2  # of campaigns, and of answers
    deployment = deployments[identity]
    fields = deployment["parameter_openapi_schema"]["properties"]
    assert fields["file"]["enum"] == ["formed.yaml", "small.yaml"]  # no lab file, nothing that people measure
    assert all(field["title"] and field["description"] for field in fields.values())
    for parameters in ({"file": "other.yaml"}, {"file": "small.yaml", "trials": 0}):
        with pytest.raises(urllib.error.HTTPError, match="409"):
            home.ask(f"/deployments/{identity}/create_flow_run", {"parameters": parameters})


def test_a_worker_starts_what_the_form_asks_for(home: Home) -> None:
    """`matloop up` keeps a worker that starts a campaign as a process of its own when the form is sent."""
    write_campaign(home.folder, name="formed")
    process = subprocess.Popen(
        [*MATLOOP, "up", "--campaigns", "."],
        cwd=home.folder,
        env=home.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    try:
        line = next(line for line in process.stdout if "start a campaign:" in line)
        identity = line.split("/deployment/")[1].split("/")[0]
        home.ask(
            f"/deployments/{identity}/create_flow_run",
            {"parameters": {"file": "formed.yaml", "name": "sent", "trials": 3}, "state": {"type": "SCHEDULED"}},
        )
        store = CampaignStore.open(home.store)
        until = time.monotonic() + LONGEST_S
        while not any(i.name == "sent" and i.state is CampaignState.DONE for i in store.campaigns()):
            assert time.monotonic() < until, (home.folder / "data" / "worker.log").read_text(encoding="utf-8")
            time.sleep(0.5)
        assert [trial.state for trial in store.trials("sent")] == [TrialState.COMPLETED] * 3
        store.close()
    finally:
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=60)
    assert process.returncode == 0, rest
    assert "ending the worker" in rest


def test_a_person_answers_on_the_page(home: Home) -> None:
    """A task card stands on the page of the campaign's run; its link fills the form, and the answer is taken."""
    bench(home.folder, budget={"trials": 1})
    process = subprocess.Popen(
        [*MATLOOP, "up", "--campaigns", "."],
        cwd=home.folder,
        env=home.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    try:
        line = next(line for line in process.stdout if "start a campaign:" in line)
        identity = line.split("/deployment/")[1].split("/")[0]
        scheduled = {"state": {"type": "SCHEDULED"}}
        home.ask(f"/deployments/{identity}/create_flow_run", {"parameters": {"file": "bench.yaml"}, **scheduled})
        until = time.monotonic() + LONGEST_S
        text = ""
        while "done_by_hand**](" not in text:
            assert time.monotonic() < until, (home.folder / "data" / "worker.log").read_text(encoding="utf-8")
            time.sleep(0.5)
            found = {one["key"]: one for one in home.ask("/artifacts/latest/filter", {})}
            text = found.get("bench-questions", {}).get("data", "")
        link = urllib.parse.urlparse(text.split("done_by_hand**](")[1].split(")")[0])
        form = link.path.split("/")[-2]
        filled = json.loads(urllib.parse.parse_qs(link.query)["parameters"][0])
        filled |= {"values": "strength = 12.5 MPa", "name": "Ada", "reason": "the rig's display"}
        run = home.ask(f"/deployments/{form}/create_flow_run", {"parameters": filled, **scheduled})
        store = CampaignStore.open(home.store)
        while store.campaign("bench").state is not CampaignState.DONE:
            assert time.monotonic() < until, home.flow_runs()[run["id"]]
            time.sleep(0.5)
        assert [(m.value, m.unit) for m in store.measurements("bench")] == [(12.5, "MPa")]
        store.close()
        while home.flow_runs()[run["id"]]["state_type"] != "COMPLETED":
            assert time.monotonic() < until
            time.sleep(0.5)
        assert "is answered" in home.flow_runs()[run["id"]]["state"]["message"]
        wrong = {"parameters": {**filled, "name": ""}, **scheduled}
        with pytest.raises(urllib.error.HTTPError, match="409"):
            home.ask(f"/deployments/{form}/create_flow_run", wrong)
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)


def test_a_queue_under_prefect(home: Home) -> None:
    """Plans are made beside the trials: what waits is ranked anew and withdrawn, and every decision can be remade."""
    content = {"initial": {"use": "random", "trials": 3}, "parallel": 2, "queue": 2, "budget": {"trials": 14}}
    file = write_campaign(home.folder, name="ahead", instruments=slow_oven(0.2), **content)
    text = home.matloop("run", str(file))
    assert "all 14 trials are used" in text
    store = CampaignStore.open(home.store)
    trials = store.trials("ahead")
    done = [trial for trial in trials if trial.state is TrialState.COMPLETED]
    gone = [trial for trial in trials if trial.state is TrialState.ABANDONED]
    assert len(done) == len({trial.candidate.id for trial in done}) == 14
    assert len(done) + len(gone) == len(trials)
    assert gone
    assert all(is_withdrawn(trial.reason) and trial.started_at is None for trial in gone)
    assert verify_decisions(Campaign.open("ahead", store=store)) == []
    assert store.verify() == []
    store.close()
