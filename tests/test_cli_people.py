"""People take part by command line: ask, tell, veto, answer."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from hypothesis import given as property_of
from hypothesis import strategies as st

from flows.beginning import loaded_with
from flows.cli import main
from flows.given import given
from orchestrator.campaign import Campaign
from orchestrator.domain import Order, Quantity
from orchestrator.errors import ConfigError
from orchestrator.record.states import AttemptState, TrialState
from orchestrator.record.store import CampaignStore
from tests.small_campaign import strength, write_campaign

Matloop = Callable[..., Result]
UNITS = {"strength": "MPa", "yield_": "percent"}


@pytest.fixture
def matloop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Matloop:
    """Type `matloop …` in a folder of its own, with a campaign database of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MATLOOP_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("MATLOOP_STORE", str(tmp_path / "store.db"))
    monkeypatch.delenv("MATLOOP_CAMPAIGN", raising=False)

    def type_(*arguments: str, code: int = 0) -> Result:
        told = CliRunner().invoke(main, list(arguments))
        if told.exception is not None and not isinstance(told.exception, SystemExit):
            raise told.exception
        assert told.exit_code == code, told.output
        return told

    return type_


@pytest.fixture
def by_hand(tmp_path: Path) -> str:
    """A campaign that people measure."""
    return write_campaign(tmp_path, name="hand", procedure=None, instruments=None, parallel=1).name


# --- reading what people type ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value", "unit"),
    [
        ("strength=3.4MPa", 3.4, "MPa"),
        ("strength = 3.4 MPa", 3.4, "MPa"),
        ("strength=3.4", 3.4, "MPa"),
        ("strength=-1e-3GPa", -1e-3, "GPa"),
        ("strength=1.2eV", 1.2, "eV"),
        ("strength=.5 kN/mm**2", 0.5, "kN/mm**2"),
        ("yield_=80", 80.0, "percent"),
        ("new=5", 5.0, "dimensionless"),
    ],
)
def test_numbers_with_units_are_read_as_meant(text: str, value: float, unit: str) -> None:
    """Value and unit are told apart, with or without spaces; a missing unit is the property's own."""
    (quantity,) = given((text,), UNITS).values()
    assert quantity == Quantity(value, unit)


@pytest.mark.parametrize("text", ["strength", "strength=", "=3", "strength=MPa", "strength=nan", "strength=inf", "3=4"])
def test_what_cannot_be_read_is_refused(text: str) -> None:
    """Anything else is refused with an example, NaN and infinities too."""
    with pytest.raises(ConfigError, match=r"strength=3\.4MPa"):
        given((text,), UNITS)


def test_a_property_is_given_once() -> None:
    """Two values for one property are an error, not the last one."""
    with pytest.raises(ConfigError, match="twice"):
        given(("strength=1", "strength=2"), UNITS)


@property_of(st.floats(allow_nan=False, allow_infinity=False), st.sampled_from(["MPa", "eV/atom", "degC", " 1/s"]))
def test_every_finite_number_survives(value: float, unit: str) -> None:
    """What Python writes of a finite number is read back exactly; a unit that begins with a digit needs its space."""
    assert given((f"x={value!r}{unit}",), {})["x"] == Quantity(value, unit.strip())


# --- ask and tell ---------------------------------------------------------------------------------------------------


def test_ask_and_tell_to_the_end(matloop: Matloop, by_hand: str, tmp_path: Path) -> None:
    """`ask FILE` begins the campaign; told values arrive in the objective's unit with the person's name."""
    told = matloop("ask", by_hand, "-n", "2")
    assert "begun" in told.stderr
    for number in (1, 2):
        assert f"trial {number} " in told.stdout
    assert "temperature = " in told.stdout
    assert "matloop tell hand 1 'strength=VALUE MPa'" in told.stdout
    assert matloop("ask", "-n", "2").stdout == told.stdout  # what was asked and not told comes first
    matloop("tell", "1", "strength=0.08GPa", "--who", "ada")
    matloop("tell", "hand", "2", "strength=60")
    with_values = CampaignStore.open(tmp_path / "store.db")
    values = {m.trial: (m.value, m.unit) for m in with_values.measurements("hand")}
    assert values == {1: (pytest.approx(80.0), "MPa"), 2: (60.0, "MPa")}
    assert any(event.actor == "ada" for event in with_values.events("hand"))
    assert "2 of 6 trials" in matloop("status").stdout


def test_ask_writes_json_for_programs(matloop: Matloop, by_hand: str) -> None:
    """With --json the answer is JSON that holds trial, candidate and reason."""
    asked = json.loads(matloop("ask", by_hand, "-n", "3", "--json").stdout)
    assert [one["trial"] for one in asked] == [1, 2, 3]
    assert all(one["parameters"]["temperature"] >= 400 and one["reason"] for one in asked)


def test_a_failed_trial_is_evidence(matloop: Matloop, by_hand: str, tmp_path: Path) -> None:
    """`tell --failed` records the reason; the trial cannot be told again."""
    matloop("ask", by_hand)
    matloop("tell", "1", "--failed", "the pellet cracked")
    (trial,) = CampaignStore.open(tmp_path / "store.db").trials("hand")
    assert trial.state is TrialState.FAILED
    assert "the pellet cracked" in trial.reason
    assert "told already" in matloop("tell", "1", "strength=3", code=1).stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["hand"], 2, "trial number was expected"),
        (["1"], 2, "one of the two"),
        (["1", "strength=3", "--failed", "no"], 2, "one of the two"),
        (["1", "strength=wide"], 2, "strength=3.4MPa"),
        (["1", "strenth=3"], 1, "did you mean 'strength'"),
        (["1", "strength=3kelvin"], 1, "kelvin"),
        (["7", "strength=3"], 1, "no trial 7"),
    ],
)
def test_a_slip_of_the_pen_changes_nothing(
    matloop: Matloop, by_hand: str, arguments: list[str], code: int, words: str
) -> None:
    """A wrong answer is refused with what was expected, and the right one can still be told."""
    matloop("ask", by_hand)
    assert words in matloop("tell", *arguments, code=code).stderr
    matloop("tell", "1", "strength=3")


def test_ask_says_when_nothing_is_left(matloop: Matloop, tmp_path: Path) -> None:
    """At the end of the budget `ask` gives the reason instead of a trial."""
    file = write_campaign(tmp_path, name="hand", procedure=None, instruments=None, parallel=1, budget={"trials": 1})
    matloop("ask", file.name)
    matloop("tell", "1", "strength=50")
    assert "budget" in matloop("ask").stdout


def test_people_and_instruments_are_not_mixed_up(matloop: Matloop, by_hand: str, tmp_path: Path) -> None:
    """What people measure cannot be run, and what instruments measure cannot be asked."""
    assert "matloop ask" in matloop("run", by_hand, "--plain", code=2).stderr
    matloop("run", write_campaign(tmp_path).name, "--plain")
    assert "procedure" in matloop("ask", "small", code=1).stderr


# --- veto -----------------------------------------------------------------------------------------------------------


def test_a_vetoed_candidate_is_not_proposed(matloop: Matloop, tmp_path: Path) -> None:
    """A candidate can be taken out by label or id, before and after it was planned; the rest goes on."""
    rows = {"path": "table.csv", "parameters": {"temperature": {"unit": "degC"}}, "label_column": "run"}
    file = write_campaign(
        tmp_path,
        name="hand",
        procedure=None,
        instruments=None,
        parallel=1,
        space={"use": "pool", "options": rows},
        budget={"trials": 39},
        initial={"use": "random", "trials": 39},
    )
    (first,) = json.loads(matloop("ask", file.name, "--json").stdout)
    matloop("veto", first["id"][:12], "--reason", "out of stock")
    matloop("veto", "hand", "T500" if first["label"] != "T500" else "T510", "--reason", "explosive", "--who", "ada")
    labels = {one["label"] for one in json.loads(matloop("ask", "-n", "38", "--json").stdout)}
    assert len(labels) == 38
    assert first["label"] not in labels
    assert not {"T500"} & (labels if first["label"] != "T500" else set())
    assert "no candidate" in matloop("veto", "T9", "--reason", "odd", code=1).stderr
    matloop("veto", "a", "b", "c", "--reason", "odd", code=2)


# --- answer ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def asked(matloop: Matloop, tmp_path: Path) -> CampaignStore:
    """A campaign that waits for an answer: nobody knows what became of an order that was sent."""
    store = CampaignStore.open(tmp_path / "store.db")
    campaign = Campaign.begin(loaded_with(write_campaign(tmp_path)), store=store, actor="ada")
    (trial, *_) = campaign.plan(1).trials
    step = trial.steps[0]
    fence = store.claim(step.id, owner="a dead process")
    order = Order(key="", capability="look_up", label=trial.candidate.label).to_json()
    attempt = store.intent(step.id, fence=fence, order=order, instrument="oven", slots=1, cost=0.0)
    store.advance(attempt.id, AttemptState.UNKNOWN, note="the link was lost")
    return store


def test_questions_are_listed_and_shown(matloop: Matloop, asked: CampaignStore) -> None:
    """Without an answer the questions are listed; `status` shows them too."""
    (attempt,) = asked.open_attempts("small")
    assert f"a{attempt.id}  small  oven" in matloop("answer").stdout
    listed = matloop("questions").stdout
    assert "retry           it was never started" in listed
    assert f"matloop answer small a{attempt.id} done-by-hand 'strength=… MPa' --reason" in listed
    (one,) = json.loads(matloop("questions", "small", "--json").stdout)
    assert (one["id"], one["kind"], one["values"]) == (f"a{attempt.id}", "unknown", {"strength": "MPa"})
    assert "question" in matloop("status", "small").stdout


@pytest.mark.parametrize(
    ("arguments", "state"),
    [
        (["--not-started"], TrialState.PLANNED),
        (["--discard"], TrialState.FAILED),
        (["strength=12MPa"], TrialState.COMPLETED),
        (["retry"], TrialState.PLANNED),
        (["discard"], TrialState.FAILED),
        (["skip"], TrialState.ABANDONED),
        (["done-by-hand", "strength=12MPa"], TrialState.COMPLETED),
    ],
)
def test_an_answer_ends_the_question(
    matloop: Matloop, asked: CampaignStore, arguments: list[str], state: TrialState
) -> None:
    """Each of the three answers ends UNKNOWN in its own way, with name and reason in the record."""
    (attempt,) = asked.open_attempts("small")
    matloop("answer", "small", str(attempt.id), *arguments, "--reason", "seen in the log", "--who", "ada")
    assert asked.trial("small", attempt.trial).state is state
    assert any(event.actor == "ada" and "seen in the log" in event.note for event in asked.events("small"))
    assert "asks nothing" in matloop("answer").stdout


def test_answers_need_a_reason_and_a_question(matloop: Matloop, asked: CampaignStore) -> None:
    """An answer without reason, two answers at once, or one about nothing change nothing."""
    matloop("answer", "--discard", code=2)
    matloop("answer", "--discard", "--not-started", "--reason", "x", code=2)
    assert "which question" in matloop("answer", "99", "--discard", "--reason", "x", code=1).stderr
    assert "strength" in matloop("answer", "weight=3", "--reason", "x", code=1).stderr
    assert [a.state for a in asked.open_attempts("small")] == [AttemptState.UNKNOWN]


def test_the_table_is_what_the_tests_think() -> None:
    """The made-up strength is largest where the tests expect it."""
    assert max(range(400, 800, 10), key=strength) == 640
