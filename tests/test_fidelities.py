"""Several fidelities end to end: each trial is carried out, paid, recorded and counted at its own."""

from __future__ import annotations

import asyncio
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator import loop
from orchestrator.campaign import Campaign
from orchestrator.config.check import check
from orchestrator.config.read import Loaded, load_campaign
from orchestrator.config.schema import CampaignConfig
from orchestrator.decisions import verify_decisions
from orchestrator.domain import TARGET, Quantity
from orchestrator.errors import ConfigError
from orchestrator.record.states import TrialState
from orchestrator.record.store import CampaignStore

CAMPAIGNS = Path(__file__).parents[1] / "campaigns"
FILE = CAMPAIGNS / "two_fidelities.yaml"


def loaded(**changes: Any) -> Loaded:
    """Return the example with top-level keys replaced; None takes a key out."""
    found = load_campaign(FILE)
    content = {key: value for key, value in {**found.config.snapshot(), **changes}.items() if value is not None}
    return replace(found, config=CampaignConfig.model_validate(content))


def test_the_example_runs_to_its_end(tmp_path: Path) -> None:
    """Values, prices and decisions are those of the trial's fidelity; only the target's count as results."""
    store = CampaignStore.open(tmp_path / "two.db")
    campaign = Campaign.begin(loaded(budget={"cost": 106, "trials": 60}), store=store, actor="Ada")
    reason = asyncio.run(loop.run(campaign, threaded=False))
    assert reason.startswith(("budget:", "target_reached:"))
    trials = store.trials(campaign.name)
    assert {trial.state for trial in trials} == {TrialState.COMPLETED}
    initial = [(trial.candidate.id, trial.fidelity) for trial in trials[:12]]
    assert len({candidate for candidate, _ in initial}) == 6
    assert [fidelity for _, fidelity in initial] == ["quick", TARGET] * 6
    chosen = [trial.fidelity for trial in trials[12:]]
    assert "quick" in chosen
    assert TARGET in chosen
    assert len({(trial.candidate.id, trial.fidelity) for trial in trials}) == len(trials)

    by_number = {trial.number: trial for trial in trials}
    at_target = {trial.number for trial in trials if trial.fidelity == TARGET}
    assert {best.trial.number for best in campaign.best(100)} == at_target
    assert {row.fidelity for row in campaign.dataset().rows} == {"quick", TARGET}
    assert {by_number[row.trial].fidelity == row.fidelity for row in campaign.dataset().rows} == {True}
    assert {trial.steps[0].instrument for trial in trials if trial.fidelity == "quick"} == {"probe"}

    spent, before = 0.0, None
    for trial in trials:
        price = campaign.problem.expense(trial.candidate, trial.fidelity, before).cost
        assert sum(step.cost for step in trial.steps) == pytest.approx(price)
        spent, before = spent + price, trial.candidate
    assert campaign.info.spent.cost == pytest.approx(spent)
    assert spent <= 106
    assert campaign.info.spent.trials == len(trials)
    assert all("quick" in trial.proposal.reason or "target" in trial.proposal.reason for trial in trials)
    assert verify_decisions(campaign) == []
    assert store.verify() == []
    assert Campaign.open(campaign.name, store=store).info.spent.cost == pytest.approx(spent)


def by_hand(**changes: Any) -> dict[str, Any]:
    """Return changes that make the example one that people measure, with a policy that needs no surrogate."""
    free = {"acquisition": {"use": "fidelity_choice", "options": {"choose": "random"}}, "instruments": {}}
    quick = {"quick": {"cost": 1, "hours": 0.1}}
    return {"procedure": (), "fidelities": quick, "stop": [], **free, **changes}


def test_asked_and_told_by_hand(tmp_path: Path) -> None:
    """A candidate that was begun is completed at the next fidelity once its result is there, not before."""
    store = CampaignStore.open(tmp_path / "hand.db")
    campaign = Campaign.begin(loaded(**by_hand(initial={"use": "random", "trials": 4})), store=store, actor="Ada")
    first, second = campaign.ask(2)[0], None
    campaign.tell(first.number, {"conductivity": Quantity(0.4, "mS/cm")}, who="Ada")
    second = campaign.ask(1)[0]
    assert [first.fidelity, second.fidelity] == ["quick", TARGET]
    assert first.candidate.id == second.candidate.id
    (third,) = [trial for trial in campaign.ask(2) if trial.number != second.number]
    assert third.candidate.id != first.candidate.id
    campaign.tell(second.number, {"conductivity": Quantity(0.5, "mS/cm")}, who="Ada")
    assert [best.values["conductivity"] for best in campaign.best()] == [0.5]
    assert campaign.info.spent.cost == pytest.approx(
        campaign.problem.expense(first.candidate, "quick").cost + campaign.problem.expense(first.candidate).cost
    )
    assert verify_decisions(campaign) == []


def test_what_the_budget_does_not_pay_for_is_not_planned(tmp_path: Path) -> None:
    """With money for a short firing only, a short one is asked; with money for none, the campaign says so."""
    store = CampaignStore.open(tmp_path / "poor.db")
    expenses = {"cost": 1.0, "rates": {"time": {"cost": 1.0}}}
    plain = {"fidelities": {}, "acquisition": {"use": "random"}, "initial": {"use": "random", "trials": 1}}
    changes = by_hand(**plain, expenses=expenses, budget={"cost": 5.2})
    campaign = Campaign.begin(loaded(**changes), store=store, actor="Ada")
    asked = []
    while trials := campaign.ask(1):
        asked.append(trials[0])
        campaign.tell(trials[0].number, {"conductivity": Quantity(0.4, "mS/cm")}, who="Ada")
    assert asked
    paid = sum(1.0 + float(trial.candidate.parameters["time"]) for trial in asked)
    assert campaign.info.spent.cost == pytest.approx(paid)
    assert 5.2 - paid < 2.0  # the cheapest trial costs 2
    assert verify_decisions(campaign) == []


def test_the_price_of_the_target_follows_its_steps_where_the_file_leaves_it_out(tmp_path: Path) -> None:
    """What the instruments declare is filled in when the campaign begins; the file still counts as the same."""
    found = loaded()
    content = found.config.snapshot()
    content["procedure"][0]["cost"] = 7
    content["expenses"] = {"rates": content["expenses"]["rates"]}
    store = CampaignStore.open(tmp_path / "price.db")
    config = CampaignConfig.model_validate(content)
    campaign = Campaign.begin(replace(found, config=config), store=store, actor="Ada")
    assert campaign.problem.fidelity(TARGET).cost == 7
    assert campaign.problem.fidelity("quick").cost == 1
    assert campaign.problem.fidelity(TARGET).hours > 0

    folder = tmp_path / "files"
    shutil.copytree(CAMPAIGNS, folder)
    file = folder / FILE.name
    file.write_text(file.read_text().replace("  cost: 10  ", "  #").replace("hours: 4", "# 4"))
    other = Campaign.create(file, store=store, actor="Ada", name="again")
    assert Campaign.open(other.name, store=store, file=file).config == other.config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fidelities": {TARGET: {"cost": 1}}}, "'target' is the campaign's own procedure"),
        ({"fidelities": {"quick": {"cost": 1}}}, "lacks a 'procedure'"),
    ],
)
def test_a_fidelity_that_cannot_be(change: dict[str, Any], message: str) -> None:
    """Its name is its own, and all are measured by instruments or all by people."""
    with pytest.raises(ValueError, match=message):
        loaded(**change)


def test_each_procedure_is_checked() -> None:
    """A step of a fidelity has its line in the errors; what measures nothing of the target is refused."""
    text = FILE.read_text()

    def refused(old: str, new: str) -> str:
        file = FILE.with_name("two_fidelities_wrong.yaml")
        assert old in text
        try:
            file.write_text(text.replace(old, new))
            with pytest.raises(ConfigError) as error:
                check(load_campaign(file))
        finally:
            file.unlink()
        return str(error.value)

    said = refused("instrument: probe", "instrument: prob")
    assert "fidelities.quick.procedure[0].instrument" in said.replace(".0.", "[0].")
    assert "probe" in said
    said = refused("outputs: {conductivity: {column: quick", "outputs: {hardness: {column: quick")
    assert "fidelity 'quick' measures none of conductivity" in said
    said = refused(
        "outputs: {conductivity: {column: quick, unit: mS/cm}}", "outputs: {conductivity: {column: quick, unit: g}}"
    )
    assert "they measure different things" in said


def test_notices_and_amendments(tmp_path: Path) -> None:
    """A policy that never measures cheaply is told of; a fidelity keeps its procedure for life, not its price."""
    plain = loaded(acquisition={"use": "log_expected_improvement"}, surrogate={"use": "gaussian_process"})
    notices = " ".join(check(plain).notices)
    assert "no trial of quick is ever chosen" in notices
    assert "learns from results of the target alone" in notices

    folder = tmp_path / "files"
    shutil.copytree(CAMPAIGNS, folder)
    file = folder / FILE.name
    campaign = Campaign.create(file, store=CampaignStore.open(tmp_path / "amend.db"), actor="Ada")
    text = file.read_text()
    file.write_text(text.replace("    cost: 1\n", "    cost: 2\n"))
    assert campaign.amend(file, actor="Ada") == ["fidelities.quick.cost: 1.0 → 2.0"]
    assert campaign.problem.fidelity("quick").cost == 2
    file.write_text(text.replace("{step: measure, instrument: probe}", "{step: measure, instrument: impedance}"))
    with pytest.raises(ConfigError, match=r"no step uses the instrument 'probe'|would mean something else"):
        campaign.amend(file, actor="Ada")
