"""What people are asked is one list with one way to answer: questions, task cards, the page's links and form."""

from __future__ import annotations

import asyncio
import io
import json
import time
import urllib.parse
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from rich.console import Console

from flows import answer_flow
from flows.answering import Desk, Open, Typed, find, give, read, resolve_verb, waiting
from flows.beginning import loaded_with
from flows.screen import Screen
from flows.session import STORE_VARIABLE
from orchestrator import loop
from orchestrator.campaign import Campaign
from orchestrator.domain import Order
from orchestrator.errors import MatloopError, StoreError
from orchestrator.record.states import AttemptState, CampaignState, TrialState
from orchestrator.record.store import CampaignStore
from tests.small_campaign import write_campaign

FORM_ID = UUID("00000000-0000-4000-8000-000000000007")


def bench(folder: Path, **changes: Any) -> Path:
    """Write a campaign whose instrument is a person."""
    options = {
        "outputs": {"strength": "MPa"},
        "parameters": {"temperature": {"unit": "degC", "min": 0, "max": 2000}},
        "instructions": "Break the bar.",
        "folder": str(folder / "cards"),
        "poll_s": 0.05,
    }
    return write_campaign(
        folder,
        name="bench",
        instruments={"technician": {"use": "operator", "options": options}},
        procedure=[{"step": "break", "instrument": "technician"}],
        **{"budget": {"trials": 2}, "parallel": 1, **changes},
    )


@pytest.fixture
def store(tmp_path: Path) -> CampaignStore:
    """A campaign database."""
    return CampaignStore.open(tmp_path / "store.db", create=True)


async def card_of(desk: Desk, seconds: float = 10.0) -> Open:
    """Wait for a task card."""
    until = time.monotonic() + seconds
    while True:
        there = await asyncio.to_thread(waiting, desk, ["bench"])
        if there:
            return there[0]
        assert time.monotonic() < until
        await asyncio.sleep(0.05)


async def test_task_cards_are_answered_like_questions(tmp_path: Path, store: CampaignStore) -> None:
    """Values, a failure and a refusal reach the campaign that waits, with the person's name."""
    campaign = Campaign.begin(loaded_with(bench(tmp_path)), store=store, actor="ada")
    desk = Desk(store)
    running = asyncio.create_task(loop.run(campaign))
    answers: list[tuple[str | None, list[str]]] = [("discard", []), ("refuse", []), (None, ["strength = 0.0125 GPa"])]
    for verb, texts in answers:
        card = await card_of(desk)
        assert (card.kind, card.values) == ("task", {"strength": "MPa"})
        assert "temperature = " in card.text
        assert "Break the bar" in card.text
        assert f"matloop answer bench {card.id} done-by-hand 'strength=… MPa'" in card.example("done_by_hand")
        with pytest.raises(MatloopError, match="strength"):
            await asyncio.to_thread(give, desk, "bench", card.id, None, ["weight = 3 g"], who="Ada", reason="")
        told = await asyncio.to_thread(give, desk, "bench", card.id, verb, texts, who="Ada", reason="as seen")
        assert told.startswith(f"{card.id} of bench is answered")
        until = time.monotonic() + 10
        while any(one.id == card.id for one in await asyncio.to_thread(waiting, desk, ["bench"])):
            assert time.monotonic() < until
            await asyncio.sleep(0.05)
    await asyncio.wait_for(running, 20)
    trials = store.trials("bench")
    assert [trial.state for trial in trials] == [TrialState.FAILED, TrialState.FAILED, TrialState.COMPLETED]
    assert "Ada reports: as seen" in trials[0].reason
    assert "Ada did not begin: as seen" in trials[1].reason
    (measured,) = store.measurements("bench")
    assert (measured.value, measured.unit) == (pytest.approx(12.5), "MPa")


@pytest.fixture
def asked(tmp_path: Path, store: CampaignStore) -> CampaignStore:
    """A campaign with an attempt of unknown outcome and a signature that is wanted."""
    campaign = Campaign.begin(loaded_with(write_campaign(tmp_path)), store=store, actor="ada")
    (trial, *_) = campaign.plan(1).trials
    fence = store.claim(trial.steps[0].id, owner="a dead process")
    order = Order(key="", capability="look_up", label=trial.candidate.label).to_json()
    attempt = store.intent(trial.steps[0].id, fence=fence, order=order, instrument="oven", slots=1, cost=0.0)
    store.advance(attempt.id, AttemptState.UNKNOWN, note="the link was lost")
    store.ask("small", "approval", "1200 degC needs a signature", trial=trial.number, instrument="oven")
    return store


def test_stored_questions_take_their_own_answers(asked: CampaignStore) -> None:
    """Each question takes the answers of its kind alone; one that is answered is asked no more."""
    desk = Desk(asked)
    unknown, approval = waiting(desk)
    assert (unknown.kind, approval.kind) == ("unknown", "approval")
    with pytest.raises(StoreError, match="which question"):
        give(desk, "small", None, "abort", who="Ada", reason="enough")
    with pytest.raises(StoreError, match="these do: approve, refuse, abort"):
        give(desk, "small", approval.id, "retry", who="Ada", reason="enough")
    with pytest.raises(StoreError, match="values go with"):
        give(desk, "small", unknown.id, "done_by_hand", who="Ada", reason="seen")
    with pytest.raises(StoreError, match="name"):
        give(desk, "small", approval.id, "approve", who=" ", reason="the hood is on")
    give(desk, "small", approval.id, "approve", who="Ada", reason="the hood is on")
    assert [one.id for one in waiting(desk)] == [unknown.id]
    (answered,) = asked.asked("small", answered=True)
    assert (answered.verb, answered.by, answered.reason) == ("approve", "Ada", "the hood is on")
    give(desk, "small", None, None, ["strength = 70 MPa"], who="Ada", reason="read from the display")
    assert waiting(desk) == []
    assert [m.value for m in asked.measurements("small")] == [70.0]


def test_abort_stops_the_campaign(asked: CampaignStore) -> None:
    """The answer abort stops the campaign with the person's name."""
    give(Desk(asked), "small", "a1", "abort", who="Ada", reason="it smells")
    assert asked.campaign("small").state is CampaignState.STOPPED
    assert "Ada" in asked.campaign("small").state_reason


def test_the_page_links_to_the_filled_form(asked: CampaignStore) -> None:
    """Each answer is a link whose parameters the form takes; without a form the command is shown."""
    there = waiting(Desk(asked))
    text = answer_flow.listed(there, FORM_ID)
    address = urllib.parse.urlparse(text.split("done_by_hand**](")[1].split(")")[0])
    assert address.path == f"/v2/deployments/deployment/{FORM_ID}/run"
    (filled,) = urllib.parse.parse_qs(address.query)["parameters"]
    assert json.loads(filled) == {
        "campaign": "small",
        "question": there[0].id,
        "answer": "done_by_hand",
        "values": "strength =  MPa",
    }
    assert set(json.loads(filled)) <= set(answer_flow.FORM)
    bare = answer_flow.listed(there, None)
    assert "](" not in bare
    assert f"matloop answer small {there[0].id}" in bare
    assert answer_flow.listed([], FORM_ID) == "Nobody is asked anything.\n"


def test_the_form_answers(asked: CampaignStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the form sends is taken as from the command line; without a name nothing is."""
    monkeypatch.setenv(STORE_VARIABLE, str(tmp_path / "store.db"))
    with pytest.raises(StoreError, match="your name"):
        answer_flow._answered("", "a1", "discard", "", name=" ", reason="broke")
    told = answer_flow._answered("", "a1", "done_by_hand", "strength = 70 MPa;\n", name="Ada", reason="seen")
    assert "a1 of small is answered" in told
    assert [m.value for m in asked.measurements("small")] == [70.0]


@pytest.mark.parametrize(
    ("words", "typed"),
    [
        ([], Typed(None, None, None, ())),
        (["small"], Typed("small", None, None, ())),
        (["7", "retry"], Typed(None, "7", "retry", ())),
        (["small", "a7", "out-of-service"], Typed("small", "a7", "out_of_service", ())),
        (["t3fa9", "x=1 g", "y=2"], Typed(None, "t3fa9", None, ("x=1 g", "y=2"))),
        (["small", "done", "x=1"], Typed("small", None, "done_by_hand", ("x=1",))),
        (["approve"], Typed(None, None, "approve", ())),
        (["retry", "retry"], Typed("retry", None, "retry", ())),
        (["q1", "q1", "approve"], Typed("q1", "q1", "approve", ())),
    ],
)
def test_words_are_told_apart(words: list[str], typed: Typed) -> None:
    """Campaign, question, answer and values may each be missing; a campaign's name comes before all else."""
    assert read(words, ["small", "retry", "q1"]) == typed


def test_what_cannot_be_understood_is_refused() -> None:
    """A word that is nothing is refused with the answers that exist, an unknown question with those that are open."""
    with pytest.raises(StoreError, match="approve"):
        read(["small", "a7", "perhaps"], ["small"])
    assert resolve_verb("Done by hand") == "done_by_hand"
    assert resolve_verb("perhaps") is None
    with pytest.raises(StoreError, match="asks nothing"):
        find([], "small", "a7")


async def test_a_running_campaign_says_what_people_are_asked(store: CampaignStore, tmp_path: Path) -> None:
    """The terminal names each card once, as soon as it waits, and the commands that show and answer it."""
    campaign = Campaign.begin(loaded_with(bench(tmp_path)), store=store, actor="test")
    told = io.StringIO()
    screen = Screen(store, "bench", Console(file=told, width=200))
    desk = Desk(store)

    async def answered() -> str:
        run = asyncio.create_task(loop.run(campaign, hooks=screen))
        for _ in range(2):
            card = await card_of(desk)
            while f"QUESTION {card.id}: " not in told.getvalue():  # noqa: ASYNC110  text has no event
                await asyncio.sleep(0.05)
            await asyncio.to_thread(give, desk, "bench", card.id, None, ["strength=3 MPa"], who="Ada", reason="")
            while any(one.id == card.id for one in await asyncio.to_thread(waiting, desk, ["bench"])):  # noqa: ASYNC110  same
                await asyncio.sleep(0.05)
        return await run

    async with asyncio.timeout(30):
        assert "2 trials" in await screen.watching(answered())
    said = [line for line in told.getvalue().splitlines() if "QUESTION" in line]
    assert len(said) == 2
    assert all("matloop answer bench" in line for line in said)
