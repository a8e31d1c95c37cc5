"""The example of a safe lab runs as it stands, and what is wrong in such a lab file is said with its line."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from orchestrator import loop
from orchestrator.campaign import Campaign
from orchestrator.config.check import check
from orchestrator.config.read import load_campaign
from orchestrator.errors import ConfigError
from orchestrator.execution.answers import answer, questions
from orchestrator.execution.retry import table_of_retries
from orchestrator.record.states import TrialState
from orchestrator.record.store import CampaignStore

CAMPAIGNS = Path(__file__).parent.parent / "campaigns"
LAB = (CAMPAIGNS / "lab_safety.yaml").read_text(encoding="utf-8")


def test_the_example_runs_with_a_person_who_signs(tmp_path: Path) -> None:
    """All trials end; both furnaces worked, references were measured, and hot trials have a signature."""
    store = CampaignStore.open(tmp_path / "c.db")
    campaign = Campaign.create(CAMPAIGNS / "safety.yaml", store=store, actor="test", lab=CAMPAIGNS / "lab_safety.yaml")

    async def main() -> str:
        running = asyncio.create_task(loop.run(campaign))
        while not running.done():
            for question in questions(store, "safety"):
                assert question.kind == "approval", question
                answer(store, "safety", question, "approve", who="Ada", reason="it is the new tube")
            await asyncio.sleep(0.05)
        return await running

    assert "budget" in asyncio.run(main())
    assert {trial.state for trial in store.trials("safety")} == {TrialState.COMPLETED}
    fired = [one for one in store.attempts("safety") if one.step == "fire"]
    assert {one.instrument for one in fired} == {"furnace_1", "furnace_2"}
    references = store.references("safety")
    assert references
    assert all(one.good and one.instrument == "furnace_1" for one in references)
    signed = {one.trial for one in store.asked("safety", answered=True) if one.verb == "approve"}
    hot = {t.number for t in store.trials("safety") if float(t.candidate.parameters["temperature"]) > 1250}
    assert signed == hot
    assert signed
    assert len({row.trial for row in store.dataset("safety").rows}) == 16
    assert store.verify("safety") == []
    store.close()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("furnaces: [furnace_1, furnace_2]", "furnaces: [furnace_1, oven]", "no instrument 'oven' in the lab"),
        ("furnaces: [furnace_1, furnace_2]", "furnaces: [furnace_1, balance]", "balance cannot stand in"),
        ("before: [furnaces.fire]", "before: [furnaces.burn]", "furnaces cannot do 'burn'"),
        ("output: mass", "output: weight", "there is no 'weight'"),
        ("{value: 100, unit: mg}", "{value: 100, unit: degC}", "the unit degC does not go with g"),
        ("parameter: temperature\n", "parameter: temprature\n", "did you mean 'temperature'"),
        ("    unit: degC\n    message: the tube", "    unit: mg\n    message: the tube", "does not go with degC"),
        ("unit: mS/cm", "unit: mg", "does not go with S/cm"),
        ("output: conductivity", "output: conduct", "there is no 'conduct'"),
        ("saturation: [density]", "saturation: [mass]", "there is no 'mass'"),
        (
            "{error: Fault, effect: started, then: ask}",
            "{error: Fault, effect: started, then: retry}",
            "could do a physical act twice",
        ),
        (
            "{error: Fault, effect: started, then: ask}",
            "{error: Fault, effect: unknown, then: fail}",
            "only a person can end what is unknown",
        ),
        ("{error: Busy, then:", "{error: Busy, instrument: oven, then:", "no instrument 'oven' in the lab"),
        ("    max: 0.11", "    max: 0.11\n    equals: 1", "write one of them"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(tmp_path: Path, old: str, new: str, said: str) -> None:
    """Every name leads somewhere, units fit, and nothing unsafe passes; before anything runs."""
    assert old in LAB
    file = tmp_path / "lab.yaml"
    file.write_text(LAB.replace(old, new, 1))
    with pytest.raises(ConfigError) as caught:
        check(load_campaign(CAMPAIGNS / "safety.yaml", lab=file))
    assert said in str(caught.value)
    before = LAB.split(old)[0].count("\n") + 1
    assert caught.value.line is not None
    assert before - 6 <= caught.value.line <= before + new.count("\n") + 1


def test_a_kind_is_bounded_by_its_tightest_member(tmp_path: Path) -> None:
    """A candidate must be safe on whichever furnace is free: the search stays within both envelopes."""
    file = tmp_path / "lab.yaml"
    file.write_text(LAB.replace("temperature: {max: 1300}", "temperature: {max: 1270}"))
    with pytest.raises(ConfigError, match=r"takes 900 to 1270 degC \(safety envelope"):
        check(load_campaign(CAMPAIGNS / "safety.yaml", lab=file))


def test_the_retry_table_is_told() -> None:
    """The table for people has a line for every rule."""
    assert table_of_retries().count("\n") >= 10
    assert "| unknown | any | blind | 1 | hold |" in table_of_retries()


def test_a_held_result_stops_nothing(tmp_path: Path) -> None:
    """One trial at a time, and one in five makes no sense: each waits for a person, and the others go on."""
    (tmp_path / "line.yaml").write_text(
        "name: line\n"
        "objectives: [{property: y, goal: maximize}]\n"
        'space: {use: "tests.line_lab:Line"}\n'
        "procedure: [{step: measure, instrument: bench}]\n"
        'acquisition: {use: "tests.line_lab:First"}\n'
        'initial: {use: "tests.line_lab:First", trials: 0}\n'
        "budget: {trials: 20}\n"
    )
    (tmp_path / "lab.yaml").write_text(
        "allowed_modules: [tests.line_lab]\n"
        "instruments:\n"
        '  bench: {use: simulated, options: {instrument: {use: "tests.line_lab:bench"}, faults: {wrong_unit: 0.2}}}\n'
        "failures: [{error: BadData, effect: done, then: hold}]\n"
    )
    store = CampaignStore.open(tmp_path / "c.db")
    campaign = Campaign.create(tmp_path / "line.yaml", store=store, actor="test")
    assert "waits for a person's answer" in asyncio.run(loop.run(campaign))
    held = [question for question in questions(store, "line") if question.kind == "held"]
    assert 1 <= len(held) < 10
    assert len(store.trials("line")) == 20
    assert len(store.dataset("line").rows) == 20 - len(held)
    for question in held:
        answer(store, "line", question, "discard", who="Ada", reason="the cable was loose")
    assert "budget" in asyncio.run(loop.run(campaign))
    store.close()
