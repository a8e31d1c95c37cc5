"""Trials planned ahead: an idle instrument starts at once, what waits is ranked anew, what runs is left alone."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator import loop
from orchestrator.campaign import Campaign, Plan
from orchestrator.choosing import is_withdrawn
from orchestrator.decisions import verify_decisions
from orchestrator.errors import IllegalTransition
from orchestrator.execution.answers import answer_not_started, questions
from orchestrator.execution.clock import VirtualClock, run_virtual
from orchestrator.record.crash_points import install
from orchestrator.record.states import CampaignState, TrialState
from orchestrator.record.store import CampaignStore
from orchestrator.record.views import TrialInfo

CAMPAIGN = """
name: line
seed: 3
objectives: [{{property: y, goal: maximize}}]
space: {{use: "tests.line_lab:Line", options: {{points: 60}}}}
instruments:
  bench: {{use: simulated, options: {{instrument: {{use: "tests.line_lab:bench"}}, duration_s: {{mean: 60, sd: 20}}}}}}
procedure: [{{step: measure, instrument: bench}}]
surrogate: {{use: "tests.line_lab:Learner"}}
acquisition: {{use: "tests.line_lab:Best"}}
initial: {{use: random, trials: 4}}
parallel: 3
queue: {queue}
budget: {{trials: {trials}}}
{more}
"""
CHOICE_S = 45.0


class Slow(loop.Plain):
    """A choice takes its time on the campaign's clock; notes what was in flight meanwhile."""

    def __init__(self, clock: VirtualClock) -> None:
        super().__init__()
        self.clock = clock
        self.spans: list[tuple[float, float]] = []

    async def propose(self, act: Callable[[], Awaitable[Plan]]) -> Plan:
        await self.clock.sleep(CHOICE_S)
        return await act()

    async def trial(self, trial: TrialInfo, act: Callable[[], Awaitable[TrialInfo]]) -> TrialInfo:
        begun = self.clock.monotonic()
        done = await act()
        self.spans.append((begun, self.clock.monotonic()))
        return done


def begin(folder: Path, queue: int = 3, trials: int = 24, more: str = "") -> Campaign:
    """Begin a campaign with a queue."""
    (folder / "line.yaml").write_text(CAMPAIGN.format(queue=queue, trials=trials, more=more))
    (folder / "lab.yaml").write_text("allowed_modules: [tests.line_lab]\n")
    return Campaign.create(folder / "line.yaml", store=CampaignStore.open(folder / "line.db"), actor="test")


def run(campaign: Campaign, **given: Any) -> str:
    """Run a campaign in virtual time."""

    async def inside() -> str:
        clock = VirtualClock()
        hooks = Slow(clock) if given.get("slow") else None
        reason = await loop.run(campaign, clock=clock, hooks=hooks, threaded=False)
        if hooks is not None:
            given["spans"].extend(hooks.spans)
        return reason

    return run_virtual(inside())


def test_what_waits_is_ranked_anew_and_nothing_that_began_is_touched(tmp_path: Path) -> None:
    """Results withdraw waiting trials that fell behind; each measured point is measured once, within the budget."""
    campaign = begin(tmp_path, trials=45)
    assert run(campaign) == "budget: all 45 trials are used"
    trials = campaign.store.trials(campaign.name)
    done = [t for t in trials if t.state is TrialState.COMPLETED]
    gone = [t for t in trials if is_withdrawn(t)]
    assert len(done) == len({t.candidate.id for t in done}) == 45
    assert len(done) + len(gone) == len(trials)
    assert gone
    assert all(t.started_at is None and not campaign.store.attempts("line", trial=t.number) for t in gone)
    decisions = campaign.store.decisions("line")
    assert {n for d in decisions for n in d.withdrawn} <= {t.number for t in gone}
    for decision in decisions:
        assert len(decision.trials) == len(decision.proposals)
        assert set(decision.withdrawn) <= set(decision.queued)
        assert not set(decision.withdrawn) & set(decision.trials)
    kept = [set(d.queued) & set(d.trials) for d in decisions]
    assert any(kept)  # chosen again: the same trial
    chosen_again = {t.candidate.id for t in gone} & {t.candidate.id for t in done}
    assert chosen_again  # a withdrawn candidate is open again
    assert campaign.store.verify() == []


def test_every_decision_of_a_queue_can_be_chosen_again(tmp_path: Path) -> None:
    """What waited, what was withdrawn and what was in flight is known of each decision."""
    campaign = begin(tmp_path)
    run(campaign)
    again = Campaign.open("line", store=CampaignStore.open(tmp_path / "line.db"))
    assert any(decision.withdrawn for decision in again.store.decisions("line"))
    assert verify_decisions(again) == []


def test_instruments_go_on_while_a_choice_is_made(tmp_path: Path) -> None:
    """With a queue the instruments are busy during choices that take long; without one they wait for each."""
    idle = {}
    for queue in (0, 3):
        folder = tmp_path / str(queue)
        folder.mkdir()
        spans: list[tuple[float, float]] = []
        run(begin(folder, queue=queue), slow=True, spans=spans)
        begun, ended = min(s[0] for s in spans), max(s[1] for s in spans)
        idle[queue] = 1.0 - sum(b - a for a, b in spans) / (3 * (ended - begun))
    assert idle[3] < 0.2
    assert idle[0] > idle[3] + 0.15


def test_a_kill_between_withdrawal_and_decision_loses_nothing(tmp_path: Path) -> None:
    """Withdrawal and decision are one transaction: killed inside it, neither happened, and the campaign goes on."""
    campaign = begin(tmp_path)

    class Killed(BaseException):
        pass

    count = 0

    def kill(label: str) -> None:
        nonlocal count
        count += label == "decision.in_txn"
        if count == 6:
            raise Killed

    take_away = install(kill)
    try:
        with pytest.raises(Killed):
            run(campaign)
    finally:
        take_away()
    before = campaign.store.trials("line")
    assert len(campaign.store.decisions("line")) == 5
    assert any(t.state is TrialState.PLANNED for t in before)
    resumed = Campaign.open("line", store=campaign.store)
    while "budget" not in run(resumed):
        for question in questions(campaign.store, "line"):  # the bench keeps no log of its own
            answer_not_started(campaign.store, question.attempt, who="Ada", reason="nothing on the bench")
    done = [t for t in campaign.store.trials("line") if t.state is TrialState.COMPLETED]
    assert len(done) == len({t.candidate.id for t in done}) == 24
    assert verify_decisions(resumed) == []
    assert campaign.store.verify() == []


def test_a_stop_leaves_the_queue_unmeasured(tmp_path: Path) -> None:
    """When a rule ends the campaign, what waits is withdrawn with the reason, and what runs is finished."""
    more = "stop: [{use: target_reached, options: {value: -0.5}}]"
    campaign = begin(tmp_path, trials=50, more=more)
    reason = run(campaign)
    assert reason.startswith("target_reached")
    assert campaign.info.state is CampaignState.DONE
    trials = campaign.store.trials("line")
    assert all(t.state in {TrialState.COMPLETED, TrialState.ABANDONED} for t in trials)
    assert "target_reached" in next(t.reason for t in reversed(trials) if t.state is TrialState.ABANDONED)
    assert sum(t.state is TrialState.COMPLETED for t in trials) < 50


def test_a_begun_trial_cannot_be_withdrawn(tmp_path: Path) -> None:
    """The store refuses, whoever asks."""
    campaign = begin(tmp_path)
    trial = campaign.plan(1).trials[0]
    campaign.store.claim(trial.steps[0].id, owner="somebody")
    with pytest.raises(IllegalTransition, match="has begun"):
        campaign.store.withdraw("line", [trial.number], reason="test")


def test_threads_and_a_pause_leave_a_legal_record(tmp_path: Path) -> None:
    """On the wall's clock, with choices on a thread; paused and resumed; every decision can be chosen again."""
    text = CAMPAIGN.replace("duration_s: {{mean: 60, sd: 20}}", "duration_s: {{mean: 0.02, sd: 0.01}}")
    (tmp_path / "line.yaml").write_text(text.format(queue=2, trials=16, more=""))
    (tmp_path / "lab.yaml").write_text("allowed_modules: [tests.line_lab]\n")
    campaign = Campaign.create(tmp_path / "line.yaml", store=CampaignStore.open(tmp_path / "line.db"), actor="test")

    class PauseAtSix(loop.Plain):
        async def publish(self, campaign: Campaign, news: str) -> None:
            if "trial 6 " in news:
                campaign.store.set_state("line", CampaignState.PAUSED, actor="test", reason="lunch")

    assert "paused" in asyncio.run(loop.run(campaign, hooks=PauseAtSix()))
    campaign.store.set_state("line", CampaignState.ACTIVE, actor="test", reason="back")
    assert "budget" in asyncio.run(loop.run(campaign))
    done = [t for t in campaign.store.trials("line") if t.state is TrialState.COMPLETED]
    assert len(done) == len({t.candidate.id for t in done}) == 16
    assert verify_decisions(campaign) == []
    assert campaign.store.verify() == []
