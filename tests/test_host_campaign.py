"""A campaign goes on when the host of its instrument is killed and comes back; nothing is carried out twice."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flows.answering import Desk, give, waiting
from flows.beginning import loaded_with
from instruments.host import descriptions, tokens
from orchestrator import loop
from orchestrator.campaign import Campaign
from orchestrator.record.states import CampaignState, TrialState
from orchestrator.record.store import CampaignStore
from tests.small_campaign import write_campaign
from tests.test_host import TOKEN, Home

TRIALS = 4


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    """A folder for the host and the campaign."""
    monkeypatch.setenv("MATLOOP_HOME", str(tmp_path))
    monkeypatch.setenv(tokens.VARIABLE, TOKEN)
    home = Home(tmp_path)
    yield home
    for server in home.servers:
        server.kill()


@pytest.mark.parametrize(("driver", "recovery"), [("SafeOven", "queryable"), ("Oven", "idempotent"), ("Oven", "blind")])
async def test_a_killed_host_costs_no_trial(home: Home, driver: str, recovery: str) -> None:
    """Killed in mid-order and started again: the journal, the driver or a person says what became of the order."""
    server = home.host(driver, seconds=0.6, recovery=recovery)
    url = f"http://127.0.0.1:{server.port}/oven"
    file = home.folder / "oven.json"
    descriptions.write(await asyncio.to_thread(descriptions.describe_host, url), file)
    oven = {"use": "remote", "options": {"url": url, "description": str(file), "patience_s": 3}}
    (home.folder / "lab.yaml").write_text(json.dumps({"name": "lab", "instruments": {"oven": oven}}))
    bake = [{"step": "bake", "instrument": "oven"}]
    written = write_campaign(
        home.folder, name="far", instruments=None, procedure=bake, parallel=1, budget={"trials": TRIALS}
    )
    store = CampaignStore.open(home.folder / "store.db", create=True)
    campaign = Campaign.begin(loaded_with(written), store=store, actor="ada")
    running = asyncio.create_task(loop.run(campaign))
    await _until(lambda: len(home.marked()) >= 2)
    await asyncio.to_thread(server.kill)
    await asyncio.sleep(0.5)
    await asyncio.to_thread(lambda: home.host(driver, port=server.port, seconds=0.6, recovery=recovery))
    desk = Desk(store)
    until = time.monotonic() + 60
    while store.campaign("far").state is not CampaignState.DONE:
        assert time.monotonic() < until, store.trials("far")
        there = await asyncio.to_thread(waiting, desk, ["far"])
        for one in there:
            assert recovery == "blind", one
            await asyncio.to_thread(give, desk, "far", one.id, "retry", who="Ada", reason="the oven is cold")
        if running.done() and store.campaign("far").state is not CampaignState.DONE:
            assert recovery == "blind", running
            if store.campaign("far").state is not CampaignState.ACTIVE:
                store.set_state("far", CampaignState.ACTIVE, actor="ada", reason="")
            running = asyncio.create_task(loop.run(Campaign.open("far", store=store)))
        await asyncio.sleep(0.1)
    await running
    trials = store.trials("far")
    assert [trial.state for trial in trials] == [TrialState.COMPLETED] * TRIALS
    assert len(store.measurements("far")) == TRIALS
    fired = Counter(line for line in home.marked() if " " not in line)
    if recovery != "idempotent":
        assert set(fired.values()) == {1}, fired
    assert len(fired) == TRIALS + (recovery == "blind")


async def _until(holds: Callable[[], bool], seconds: float = 20.0) -> None:
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until
        await asyncio.sleep(0.02)
