"""What is said beforehand is what happens: the forecast of a campaign, and the campaign in virtual time."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from flows.cli import main
from orchestrator import loop
from orchestrator.campaign import Campaign
from orchestrator.execution.clock import VirtualClock, run_virtual
from orchestrator.record.states import StepState, TrialState
from orchestrator.record.store import CampaignStore
from orchestrator.schedule.forecast import forecast
from orchestrator.schedule.shop import Operation

CAMPAIGNS = Path(__file__).parent.parent / "campaigns"
FILE, LAB = CAMPAIGNS / "two_furnaces.yaml", CAMPAIGNS / "lab_two_furnaces.yaml"
ROUTE = (
    Operation("weigh", "balance", 10.0),
    Operation("fire", "furnace", 100.0, wait_s=50.0),
    Operation("look", "xrd", 20.0),
)
MACHINES = {"balance": 1, "furnace": 1, "xrd": 1}


def test_the_bottleneck_and_what_a_second_one_saves() -> None:
    """Eight trials through one furnace take eight firings; two furnaces take half of that."""
    one = forecast(ROUTE, MACHINES, trials=8, parallel=8)
    assert one.bottleneck == "furnace"
    assert one.makespan_s == pytest.approx(10 + 8 * 100 + 50 + 20)
    assert one.alone_s == pytest.approx(180.0)
    two = forecast(ROUTE, {**MACHINES, "furnace": 2}, trials=8, parallel=8)
    assert two.makespan_s == pytest.approx(20 + 4 * 100 + 50 + 20, abs=10)
    assert forecast(ROUTE, MACHINES, trials=8, parallel=1).makespan_s == pytest.approx(8 * 180)


def test_rounds_and_places_hold_trials_back() -> None:
    """Rounds of two wait for both; a place that all need is as narrow as an instrument of one slot."""
    rounds = forecast(ROUTE, MACHINES, trials=4, parallel=2, rounds_of=2)
    assert rounds.makespan_s == pytest.approx(2 * (10 + 200 + 50 + 20))
    tray = tuple(Operation("dry", "oven", 60.0, places={"tray": 1}) for _ in range(1))
    held = forecast(tray, {"oven": 4}, trials=4, parallel=4, places={"tray": 2})
    assert held.makespan_s == pytest.approx(120.0)


def test_the_example_goes_as_forecast(tmp_path: Path) -> None:
    """Conditions, repeats, waits, places, gas and samples in one campaign; it takes about what was said."""
    shown = CliRunner().invoke(main, ["simulate", str(FILE), "--lab", str(LAB), "--out", str(tmp_path / "g.html")])
    assert shown.exit_code == 0, shown.output
    assert "12 trials take 4 min" in shown.output
    assert "bottleneck: furnaces; one more of it would save" in shown.output
    assert (tmp_path / "g.html").read_text().count("<rect") == 12 * 4
    where = tmp_path / "c.db"
    store = CampaignStore.open(where)
    text = FILE.read_text()  # what is chosen does not matter here, and choosing well takes a while
    for line in ("surrogate:   {use: gaussian_process}", "acquisition: {use: log_expected_improvement}"):
        assert line in text
        text = text.replace(line, "acquisition: {use: random}" if "acquisition" in line else "")
    (tmp_path / "c.yaml").write_text(text)
    campaign = Campaign.create(tmp_path / "c.yaml", store=store, actor="test", lab=LAB)
    reason = run_virtual(loop.run(campaign, clock=VirtualClock(), threaded=False))
    assert reason == "budget: all 12 trials are used"
    trials = store.trials(campaign.name)
    assert {trial.state for trial in trials} <= {TrialState.COMPLETED, TrialState.FAILED}
    last = [trial.steps[-1].state for trial in trials if trial.state is TrialState.COMPLETED]
    assert set(last) == {StepState.RECORDED, StepState.SKIPPED}
    completed = {trial.number for trial in trials if trial.state is TrialState.COMPLETED}
    done = [
        row for row in store.dataset(campaign.name).rows if row.property == "conductivity" and row.trial in completed
    ]
    assert len(done) == len(last) > 6
    assert all(row.std_error is not None and row.std_error > 0 for row in done)
    assert campaign.info.spent.hours == pytest.approx(257 / 3600, rel=0.3)  # some fail, and are tried again
    by_name = {one.name: one for one in store.resources()}
    fired = sum(a.state in ("RECORDED", "FAILED") for a in store.attempts(campaign.name) if a.step.startswith("fire"))
    assert by_name["argon"].level == pytest.approx(100.0 - 2.0 * fired)
    assert by_name["crucible"].free == 3
    assert store.verify() == []
    store.close()
    tree = CliRunner().invoke(main, ["samples", "two-furnaces", "--store", str(where)])
    assert "two-furnaces-1-powder" in tree.output
    assert ", at rack, made by weigh_dense" in tree.output
    more = CliRunner().invoke(main, ["refill", "argon", "10", "L", "--by", "Ada", "--store", str(where)])
    assert f"argon: {110 - 2 * fired} L of 120 L" in more.output
    listed = CliRunner().invoke(main, ["resources", "--store", str(where)])
    assert "crucible: 3 of 3 places free" in listed.output
