"""The loop, end to end over a real store: rounds, asynchronous runs, crashes, decisions chosen again, work by hand."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator import loop
from orchestrator.campaign import Campaign
from orchestrator.decisions import verify_decisions
from orchestrator.domain import Quantity
from orchestrator.errors import BudgetSpent, ConfigError, Unanswered
from orchestrator.execution.answers import answer_done, answer_not_started, questions
from orchestrator.execution.clock import VirtualClock, run_virtual
from orchestrator.execution.executor import Executor
from orchestrator.record.states import CampaignState, TrialState
from orchestrator.record.store import CampaignStore
from orchestrator.record.views import TrialInfo
from tests.fakes import ListSpace
from tests.line_lab import bench

CAMPAIGN = """
name: line
seed: 3
objectives: [{property: y, goal: maximize}]
space: {use: "tests.line_lab:Line", options: {points: 40}}
instruments:
  bench: {use: simulated, options: {instrument: {use: "tests.line_lab:bench"}, duration_s: {mean: 60, sd: 20}}}
procedure: [{step: measure, instrument: bench}]
surrogate: {use: "tests.line_lab:Learner"}
acquisition: {use: "tests.line_lab:Best"}
initial: {use: "tests.line_lab:First", trials: 4}
parallel: 2
plan_when_free: 2
refit: {every: 3}
budget: {trials: 12}
"""
PLAIN_BENCH = """  bench: {use: "tests.line_lab:bench"}
"""


def _write(folder: Path, *, simulated: bool = False, **changes: str) -> Path:
    text = CAMPAIGN
    if not simulated:
        start = text.index("  bench:")
        text = text[:start] + PLAIN_BENCH + text[text.index("procedure:") :]
    for old, new in changes.items():
        lines = [
            line for line in text.splitlines() if not line.startswith((f"{old}:", *(["  "] * (old == "instruments"))))
        ]
        text = "\n".join([*lines, f"{old}: {new}", ""])
    file = folder / "line.yaml"
    file.write_text(text)
    (folder / "lab.yaml").write_text("allowed_modules: [tests.line_lab]\n")
    return file


def _begin(folder: Path, **changes: Any) -> Campaign:
    store = CampaignStore.open(folder / "line.db")
    return Campaign.create(_write(folder, **changes), store=store, actor="test")


def _sequence(campaign: Campaign) -> list[str]:
    return [trial.candidate.label for trial in campaign.store.trials(campaign.name)]


def test_a_campaign_runs_to_its_budget_and_says_so(tmp_path: Path) -> None:
    """Every trial of the budget is measured once, and the campaign ends DONE for a stated reason."""
    campaign = _begin(tmp_path)
    reason = asyncio.run(loop.run(campaign))
    trials = campaign.store.trials(campaign.name)
    assert reason == "budget: all 12 trials are used"
    assert campaign.info.state is CampaignState.DONE
    assert [t.state for t in trials] == [TrialState.COMPLETED] * 12
    assert len({t.candidate.id for t in trials}) == 12
    assert campaign.best(1)[0].values["y"] == max(-abs(t.candidate.parameters["x"] - 23.0) for t in trials)


def test_rounds_give_the_same_campaign_twice(tmp_path: Path) -> None:
    """Synchronous rounds: the same seed gives the same candidates, in whatever order results come."""
    sequences = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        campaign = _begin(tmp_path / name)
        asyncio.run(loop.run(campaign))
        sequences.append(_sequence(campaign))
    assert sequences[0] == sequences[1]


def test_an_asynchronous_campaign_is_the_same_on_a_virtual_clock(tmp_path: Path) -> None:
    """With simulated durations, who is pending when the campaign plans is reproducible, and costs no waiting."""
    sequences = []
    started = time.monotonic()
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        campaign = _begin(tmp_path / name, simulated=True, plan_when_free="1", parallel="3")
        run_virtual(loop.run(campaign, clock=VirtualClock(), threaded=False))
        sequences.append(_sequence(campaign))
        pending = [len(d.pending) for d in campaign.store.decisions(campaign.name)]
        assert max(pending) > 0
        assert campaign.info.spent.hours > 0.05
    assert sequences[0] == sequences[1]
    assert time.monotonic() - started < 30


def test_every_decision_can_be_chosen_again(tmp_path: Path) -> None:
    """Another process with the same store reproduces every decision from its row."""
    campaign = _begin(tmp_path, plan_when_free="1", parallel="3")
    asyncio.run(loop.run(campaign))
    again = Campaign.open("line", store=CampaignStore.open(tmp_path / "line.db"))
    assert verify_decisions(again) == []


def test_a_changed_decision_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The verification can fail: another space behind the same name gives other choices."""
    campaign = _begin(tmp_path)
    asyncio.run(loop.run(campaign))
    again = Campaign.open("line", store=CampaignStore.open(tmp_path / "line.db"))
    monkeypatch.setattr(ListSpace, "candidates", lambda space: space.listed[::-1])
    problems = verify_decisions(again)
    assert problems
    assert "choosing again gives" in problems[0]


RUN = """
import asyncio, sys
from orchestrator import loop
from orchestrator.campaign import Campaign
from orchestrator.record.store import CampaignStore
store = CampaignStore.open(sys.argv[1])
names = [c.name for c in store.campaigns()]
campaign = Campaign.open("line", store=store) if names else Campaign.create(sys.argv[2], store=store, actor="test")
print(asyncio.run(loop.run(campaign)), flush=True)
"""


@pytest.mark.slow
def test_rounds_survive_kill_9(tmp_path: Path) -> None:
    """Killed again and again, the campaign measures what the uninterrupted one measures, and each point once."""
    (tmp_path / "whole").mkdir()
    whole = _begin(tmp_path / "whole")
    asyncio.run(loop.run(whole))
    file = _write(tmp_path)
    log = tmp_path / "world.log"
    chance = random.Random(5)
    kills = 0
    for _ in range(40):
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(RUN), str(tmp_path / "line.db"), str(file)],
            env={**os.environ, "LINE_LAB_LOG": str(log)},
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            said, _ = process.communicate(timeout=chance.uniform(1.2, 2.6) if kills < 4 else 60)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            kills += 1
            continue
        if "budget" in said:
            break
        _answer_questions(tmp_path / "line.db", log)
    campaign = Campaign.open("line", store=CampaignStore.open(tmp_path / "line.db"))
    assert kills >= 2
    assert _sequence(campaign) == _sequence(whole)
    done = log.read_text().split()
    assert len(done) == len(set(done)) == 12


def _answer_questions(database: Path, log: Path) -> None:
    """Answer as a person would who looks at what happened in the world."""
    store = CampaignStore.open(database)
    done = log.read_text().split() if log.exists() else []
    capability = asyncio.run(bench(bench.Options()).describe()).capability(None)
    for question in questions(store, "line"):
        x = float(store.trial("line", question.trial).candidate.parameters["x"])
        if f"{x:g}" in done:
            values = {"y": Quantity(-abs(x - 23.0), "dimensionless")}
            answer_done(store, question.attempt, values, capability=capability, who="Ada", reason="read off the log")
        else:
            answer_not_started(store, question.attempt, who="Ada", reason="the log has no such line")
    store.close()


def test_a_changed_file_is_refused_and_can_be_adopted(tmp_path: Path) -> None:
    """`resume` with another budget shows the difference; `amend` adopts it, and the campaign goes on."""
    campaign = _begin(tmp_path)
    asyncio.run(loop.run(campaign))
    file = _write(tmp_path, budget="{trials: 15}")
    with pytest.raises(ConfigError, match=r"budget\.trials"):
        Campaign.open("line", store=campaign.store, file=file)
    assert any("budget.trials" in line for line in campaign.amend(file, actor="test"))
    asyncio.run(loop.run(campaign))
    assert len(_sequence(campaign)) == 15
    assert verify_decisions(campaign) == []


def test_stop_is_obeyed(tmp_path: Path) -> None:
    """After STOP nothing new starts; resuming goes on where it was."""
    campaign = _begin(tmp_path)

    class StopAtFour(loop.Plain):
        async def publish(self, campaign: Campaign, news: str) -> None:
            if "trial 4" in news:
                campaign.store.set_state(campaign.name, CampaignState.STOPPED, actor="test", reason="enough")

    reason = asyncio.run(loop.run(campaign, hooks=StopAtFour()))
    assert "stopped: enough" in reason
    measured = [t for t in campaign.store.trials(campaign.name) if t.state is TrialState.COMPLETED]
    assert 4 <= len(measured) <= 5
    campaign.store.set_state(campaign.name, CampaignState.ACTIVE, actor="test", reason="go on")
    assert "budget" in asyncio.run(loop.run(campaign))


def test_failures_in_a_row_pause_the_campaign(tmp_path: Path) -> None:
    """An instrument that rejects everything does not walk through the whole space: a person is asked to look."""
    broken = '{bench: {use: simulated, options: {instrument: {use: "tests.line_lab:bench"}, faults: {rejected: 1.0}}}}'
    campaign = _begin(tmp_path, instruments=broken)
    reason = asyncio.run(loop.run(campaign))
    assert "10 trials in a row failed" in reason
    assert campaign.info.state is CampaignState.PAUSED
    assert 10 <= len(campaign.store.trials(campaign.name)) <= 14


def test_an_answer_in_between_does_not_end_the_campaign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A question that held everything up and was answered meanwhile leaves the campaign to be resumed, not DONE."""
    campaign = _begin(tmp_path)

    async def held(*_: object) -> None:
        message = "trial 1 cannot go on before an answer"
        raise Unanswered(message)

    with monkeypatch.context() as patch:
        patch.setattr(Executor, "carry_out", held)
        assert "resume" in asyncio.run(loop.run(campaign))
    assert campaign.info.state is CampaignState.ACTIVE
    assert "budget: all 12" in asyncio.run(loop.run(campaign))


async def test_a_spent_budget_does_not_strand_what_was_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trial that stood still for a question goes on after the answer, although nothing new can be paid for."""
    campaign = _begin(tmp_path)
    campaign.propose(3)
    begun, new, unpaid = campaign.open_trials()[:3]
    calls: list[int] = []

    async def carry_out(_: Executor, number: int) -> TrialInfo:
        calls.append(number)
        if number == unpaid.number:
            message = "the budget is used up"
            raise BudgetSpent(message)
        return campaign.store.trial(campaign.name, number)

    monkeypatch.setattr(Executor, "carry_out", carry_out)
    clock = VirtualClock()
    turns = loop._Turns(campaign, campaign.executor(clock), loop.Plain(), clock, threaded=False)
    running = [replace(one, state=TrialState.RUNNING) for one in (unpaid, begun)]
    turns._start(running[:1])
    (task,) = turns.in_flight
    await asyncio.wait([task])
    await turns._finish(task, turns.in_flight.pop(task))
    turns._start([*running, new])
    assert list(turns.in_flight.values()) == [begun.number]
    await turns.drop()


def test_people_measure_by_hand(tmp_path: Path) -> None:
    """Without a procedure: ask, tell with a unit, ask again; what was asked and not told comes first."""
    file = _write(tmp_path, procedure="[]", instruments="{}")
    campaign = Campaign.create(file, store=CampaignStore.open(tmp_path / "line.db"), actor="test")
    first, second = campaign.ask(2)
    assert [t.number for t in campaign.ask(2)] == [first.number, second.number]
    campaign.tell(first.number, {"y": Quantity(-1.0, "dimensionless")}, who="Ada")
    campaign.tell_failed(second.number, who="Ada", reason="spilled")
    for _ in range(4):
        (trial,) = campaign.ask(1)
        campaign.tell(trial.number, {"y": Quantity(-abs(trial.candidate.parameters["x"] - 23), "1")}, who="Ada")
    assert len(campaign.dataset().failures) == 1
    assert len(campaign.store.fits(campaign.name)) >= 1
    assert verify_decisions(campaign) == []
