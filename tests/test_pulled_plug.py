"""Pulling a device's plug in the middle of a campaign: out of service, told, the rest goes on, and back again."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path

from orchestrator import loop
from orchestrator.campaign import Campaign
from orchestrator.execution.answers import answer, questions
from orchestrator.record.states import CampaignState, TrialState
from orchestrator.record.store import CampaignStore
from tests.loopback_servers import Server, launch

HEATER = Path(__file__).parent.parent / "campaigns" / "devices" / "heater.yaml"
TRIALS = 36
LONGEST_S = 60.0

CAMPAIGN = f"""
name: strips
objectives: [{{property: resistance, unit: kohm, goal: minimize}}]
space:
  use: box
  options:
    parameters:
      temperature: {{unit: degC, min: 400, max: 850, resolution: 1}}
      time: {{unit: minute, min: 5, max: 90, resolution: 1}}
procedure: [{{step: anneal, instrument: heater}}]
acquisition: {{use: random}}
initial: {{use: random, trials: 2}}
parallel: 2
budget: {{trials: {TRIALS}}}
"""


def lab(*ports: int) -> str:
    """A lab of two heaters that can stand in for each other."""
    entries = "".join(
        f"  heater_{i}: {{use: scpi, options: {{device: '{HEATER}', address: 'TCPIP::127.0.0.1::{port}::SOCKET'}}}}\n"
        for i, port in enumerate(ports, 1)
    )
    failures = "failures: [{error: NotConnected, then: out_of_service}]\n"  # the built-in line waits half a minute
    return f"instruments:\n{entries}kinds: {{heater: [heater_1, heater_2]}}\n{failures}"


def served(port: int = 0) -> Server:
    """Start a heater in a process of its own."""
    command = [sys.executable, "-m", "flows.cli", "instrument", "serve", str(HEATER), "--duration", "0.2"]
    return launch([*command, "--port", str(port)])


def test_a_pulled_plug_stops_nothing_else(tmp_path: Path) -> None:
    """SIGKILL of one server: the other heater goes on; when the first is back it works again; all trials are done."""
    (tmp_path / "strips.yaml").write_text(CAMPAIGN)
    store = CampaignStore.open(tmp_path / "c.db")

    def done(by: str = "") -> int:
        completed = {trial.number for trial in store.trials("strips") if trial.state is TrialState.COMPLETED}
        return sum(one.trial in completed and one.instrument.endswith(by) for one in store.attempts("strips"))

    async def until(what: Callable[[], bool], running: asyncio.Task[str]) -> None:
        for _ in range(round(LONGEST_S / 0.1)):
            if what() or running.done():
                break
            await asyncio.sleep(0.1)
        assert what(), running

    async def main() -> str:
        first, second = served(), served()
        try:
            (tmp_path / "lab.yaml").write_text(lab(first.port, second.port))
            campaign = Campaign.create(tmp_path / "strips.yaml", store=store, actor="test")
            running = asyncio.create_task(loop.run(campaign))
            await until(lambda: done("heater_1") >= 2 and done("heater_2") >= 2, running)
            first.kill()
            await until(lambda: "heater_1" in store.out_of_service("strips"), running)
            assert any(q.instrument == "heater_1" for q in questions(store, "strips"))
            before = done("heater_2")
            await until(lambda: done("heater_2") >= before + 2, running)
            assert store.campaign("strips").state is CampaignState.ACTIVE
            first = served(first.port)
            await until(lambda: not store.out_of_service("strips"), running)
            for question in questions(store, "strips"):  # a job that ran when the plug was pulled
                answer(store, "strips", question, "retry", who="Ada", reason="the strip is still cold")
            before = done("heater_1")
            await until(lambda: done("heater_1") > before, running)
            return await running
        finally:
            first.kill()
            second.kill()

    reason = asyncio.run(main())
    assert "budget" in reason
    assert store.campaign("strips").state is CampaignState.DONE
    assert {trial.state for trial in store.trials("strips")} == {TrialState.COMPLETED}
    causes = {event.note.split(":")[1].strip() for event in store.events("strips") if event.kind == "service"}
    assert "offline" in causes
    assert store.verify("strips") == []
    store.close()
