"""One acceptance campaign: a virtual lab with faults, spoiled wires, an operator, and the books afterwards."""

from __future__ import annotations

import asyncio
import json
import math
import re
import threading
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from instruments.simulated.wire import Chaos
from instruments.virtual.device import FAULTS
from instruments.virtual.lab import Plan, VirtualLab
from instruments.virtual.world import World
from orchestrator import loop
from orchestrator.campaign import Campaign
from orchestrator.record.states import AttemptState, CampaignState
from orchestrator.record.store import CampaignStore
from orchestrator.record.views import AttemptInfo
from orchestrator.units import convert
from tests.benchmarks.acceptance_operator import WHO, Operator

CAMPAIGN = """
name: acceptance
seed: {seed}
objectives: [{{property: conductivity, unit: S/cm, goal: maximize}}]
constraints: [{{property: zirconate, unit: percent, min: 50}}]
space:
  use: box
  options:
    parameters:
      ratio: {{min: 0.9, max: 1.3, resolution: 0.01}}
      temperature: {{unit: degC, min: 1100, max: 1650, resolution: 5}}
      soak: {{unit: hour, min: 1, max: 12, log: true, resolution: 0.5}}
procedure:
  - {{step: dispense, instrument: dispenser}}
  - {{step: fire, instrument: tube_furnace, inputs: {{vial: {{from: dispense.vial}}}}}}
  - {{step: scan, instrument: diffractometer, inputs: {{vial: {{from: dispense.vial}}}}}}
  - {{step: measure, instrument: probe, inputs: {{vial: {{from: dispense.vial}}}}}}
acquisition: {{use: random}}
initial: {{use: diverse, trials: 10}}
parallel: 4
budget: {{trials: {trials}}}
"""
FAILURES = [
    {"error": error, "effect": "none", "then": "retry", "attempts": 5, "wait_s": 0.2}
    for error in ("Busy", "NotConnected", "TimedOut", "ProtocolDesync")
]
"""The lab's own lines of the retry table: virtual devices are free again within a moment."""
CLASS = re.compile(r"\b(Rejected|Busy|NotConnected|Interlocked|TimedOut|ProtocolDesync|Aborted|BadData|Fault)\b")
CLOSE = 1e-6
"""Relative: what a conversion of units and printing ten digits may change."""
MOST_TURNS = 60


class Wires:
    """A chaos proxy before each device, all on a thread of their own.

    Args:
        ports: of the devices.
        rate: probability that a reply meets a fault.
        seed: of the choice.
    """

    def __init__(self, ports: Mapping[str, int], rate: float, seed: int) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.proxies = {
            device: Chaos("127.0.0.1", port, rate=rate, seed=seed * 100 + i, delay_s=1.5, freeze_s=1.5)
            for i, (device, port) in enumerate(ports.items())
        }

    def __enter__(self) -> Self:
        """Start them."""
        self.thread.start()
        for proxy in self.proxies.values():
            asyncio.run_coroutine_threadsafe(proxy.start(), self.loop).result(10)
        return self

    def __exit__(self, *_: object) -> None:
        """End them."""
        for proxy in self.proxies.values():
            asyncio.run_coroutine_threadsafe(proxy.close(), self.loop).result(10)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)
        self.loop.close()

    def ports(self) -> dict[str, int]:
        """Return the proxies' ports by device."""
        return {device: proxy.port for device, proxy in self.proxies.items()}


def campaign_once(folder: Path, *, seed: int, trials: int, faults: float, wire: float, speed: float) -> dict[str, Any]:
    """Run one campaign, and do the books.

    Args:
        folder: empty, for everything that is written.
        seed: of the campaign, the devices and the wires.
        trials: of the campaign.
        faults: probability that an order meets a fault of its device.
        wire: probability that a reply of a device meets a fault of the wire.
        speed: virtual seconds in a second.

    Returns:
        What was counted.
    """
    plan = Plan(folder, seed=seed, speed=speed, faults=faults, kinds=FAULTS)
    with VirtualLab(plan) as lab, Wires(lab.ports, wire, seed) as wires:
        path = lab.write(wires.ports())
        head, text = path.read_text(encoding="utf-8").split("\n", 1)
        path.write_text(head + "\n" + json.dumps({**json.loads(text), "failures": FAILURES}, indent=1))
        file = folder / "acceptance.yaml"
        file.write_text(CAMPAIGN.format(seed=seed, trials=trials))
        store = CampaignStore.open(folder / "acceptance.db")
        campaign = Campaign.create(file, store=store, lab=path, actor="benchmark")
        operator = Operator(store, campaign.name, plan.world())
        begun = time.monotonic()
        turns, reason = asyncio.run(carried_through(campaign, operator))
        seconds = time.monotonic() - begun
        books = account(store, campaign.name, plan.world())
        replies = sum(proxy.replies for proxy in wires.proxies.values())
        injected = Counter(one.fault for proxy in wires.proxies.values() for one in proxy.injected)
        problems = store.verify(campaign.name)
        state = campaign.info.state
        store.close()
    return {
        "state": str(state),
        "reason": reason,
        "turns": turns,
        "seconds": round(seconds, 1),
        **books,
        "wire_replies": replies,
        "wire_faults": sum(injected.values()),
        "wire_kinds": dict(injected),
        "answers": dict(operator.answers),
        "unusual": operator.unusual,
        "verify_problems": len(problems),
    }


async def carried_through(campaign: Campaign, operator: Operator) -> tuple[int, str]:
    """Run a campaign to its end; a person resumes it wherever it waits.

    Returns:
        How often it was begun or resumed, and why it ended.
    """
    watching = asyncio.create_task(operator.watch())
    reason = ""
    try:
        for turn in range(1, MOST_TURNS + 1):
            reason = await loop.run(campaign)
            if campaign.info.state is CampaignState.DONE:
                return turn, reason
            operator.look()
            if campaign.info.state is not CampaignState.ACTIVE:
                operator.see_to(campaign.info.state_reason)
                campaign.store.set_state(campaign.name, CampaignState.ACTIVE, actor=WHO, reason="everything is seen to")
    finally:
        watching.cancel()
    return MOST_TURNS, reason


def account(store: CampaignStore, name: str, world: World) -> dict[str, Any]:
    """Compare the campaign's record with the world's log.

    Args:
        store: of the campaign.
        name: of the campaign.
        world: that knows what really happened.

    Returns:
        Counts, and the first cases of what went wrong.
    """
    lines = world.events()
    attempts = {attempt.key: attempt for attempt in store.attempts(name)}
    started = Counter(line["key"] for line in lines if line["event"] == "started")
    twice = {key: n for key, n in started.items() if n > 1}
    steps = Counter((attempts[key].trial, attempts[key].step) for key in started if key in attempts)
    values, wrong = wrong_values(store, name, attempts, lines)
    missing = unrecorded(store, name, attempts, lines)
    faults = Counter(line["fault"] for line in lines if line.get("fault") and line["event"] != "started")
    trials = Counter(str(trial.state) for trial in store.trials(name))
    return {
        "trials": dict(trials),
        "orders": len(attempts),
        "acts": sum(started.values()),
        "executed_twice": len(twice),
        "steps_done_again": sum(n > 1 for n in steps.values()),
        "acts_without_attempt": sum(key not in attempts for key in started),
        "values": values,
        "wrong_values": len(wrong),
        "wrong": wrong[:20],
        "faults": sum(faults.values()),
        "fault_kinds": dict(faults),
        "faults_recorded": sum(faults.values()) - len(missing),
        "unrecorded": missing[:20],
        "open_attempts": len(store.open_attempts(name)),
    }


def wrong_values(
    store: CampaignStore, name: str, attempts: Mapping[str, AttemptInfo], lines: list[dict[str, Any]]
) -> tuple[int, list[str]]:
    """Find numbers of the training set that are not what the device truly read for that order.

    Returns:
        How many numbers were compared, and what is wrong.
    """
    truth = {line["key"]: line["readings"] for line in lines if line["event"] == "finished"}
    setpoints = {line["key"]: line["values"] for line in lines if line["event"] == "started"}
    recorded = {(a.trial, a.step): a for a in attempts.values() if a.state is AttemptState.RECORDED}
    wrong, count = [], 0
    for one in store.measurements(name):
        attempt = recorded.get((one.trial, one.step))
        true = truth.get(attempt.key, {}).get(one.property) if attempt is not None else None
        count += 1
        if true is None or not math.isclose(one.value, true, rel_tol=CLOSE, abs_tol=1e-12):
            wrong.append(f"trial {one.trial} {one.step} {one.property}: {one.value} {one.unit}, truly {true}")
    for attempt in recorded.values():
        for parameter, (value, unit) in attempt.order["settings"].items():
            done = setpoints.get(attempt.key, {}).get(parameter, math.nan)
            count += 1
            if not math.isclose(convert(float(value), unit, unit), done, rel_tol=1e-3, abs_tol=0.51):
                wrong.append(f"trial {attempt.trial} {attempt.step}: {parameter} {value} asked, {done} done")
    return count, wrong


def unrecorded(
    store: CampaignStore, name: str, attempts: Mapping[str, AttemptInfo], lines: list[dict[str, Any]]
) -> list[str]:
    """Find faults of devices without a row that gives class and action.

    A fault has its row where the history of its attempt names the class of error, and the attempt or its step was
    ended, tried again, or answered by a person.
    """
    told: dict[int, str] = {}
    for event in store.events(name):
        if event.attempt is not None:
            told[event.attempt] = told.get(event.attempt, "") + f" {event.to} {event.note}"
    missing = []
    for line in lines:
        if not line.get("fault") or line["event"] == "started":
            continue
        attempt = attempts.get(line["key"])
        text = f"{told.get(attempt.id, '')} {attempt.note}" if attempt is not None else ""
        if attempt is None or attempt.state is AttemptState.RECORDED or not CLASS.search(text):
            state = attempt.state if attempt is not None else "no attempt"
            missing.append(f"{line['device']} {line['fault']} {line['event']}: {state}: {text[-300:]}")
    return missing
