"""The fault matrix: what becomes of a trial, an instrument and a campaign, for every fault and recovery class.

Each cell is carried out on the virtual clock, and compared with its expected end. Beside that, in every cell: no order
is executed twice, nothing false is learned, and the record is whole.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

from orchestrator.config.lab import LabConfig
from orchestrator.domain import Recovery
from orchestrator.errors import Unanswered
from orchestrator.execution import raw
from orchestrator.execution.clock import VirtualClock, run_virtual
from orchestrator.execution.executor import Executor
from orchestrator.execution.questions import questions
from orchestrator.record.states import CampaignState
from orchestrator.record.store import CampaignStore
from tests.crash.world import NAME, config, new_store
from tests.fault_world import LATE_S, Died, Furnace

FIRE = {"step": "fire", "instrument": "furnace", "capability": "fire"}
LAB: dict[str, Any] = {
    "instruments": {"furnace": {"use": "test", "alarms": {"saturation": ["strength"]}}},
    "failures": [{"effect": "done", "then": "hold"}],
    "patience_s": 600,
}
REFERENCE = {
    "every": 10,
    "settings": {"temperature": {"value": 400, "unit": "degC"}},
    "output": "strength",
    "value": 100,
    "tolerance": 3,
    "unit": "MPa",
}
REFERENCED = ("drift", "read-back echoes the set-point")
STUCK = "stuck sensor"
TEMPERATURES = [800.0, 900.0, 1000.0]
TRUE = {None, *(temperature / 4 for temperature in TEMPERATURES)}
CLASSES = {"I": Recovery.IDEMPOTENT, "Q": Recovery.QUERYABLE, "B": Recovery.BLIND}


@dataclass(frozen=True)
class End:
    """How a cell ends.

    Args:
        trial: its state.
        attempts: their states, oldest first.
        acts: how often the furnace really fired for this trial.
        learned: whether the dataset has its value.
        asks: kinds of the questions to people.
        out: why the furnace is OUT OF SERVICE; empty where it is in service.
        campaign: its state.
    """

    trial: str
    attempts: str
    acts: int
    learned: bool = False
    asks: str = ""
    out: str = ""
    campaign: str = "ACTIVE"


RECORDED = End("COMPLETED", "RECORDED", 1, learned=True)
AGAIN = End("COMPLETED", "FAILED RECORDED", 1, learned=True)
PROVED = End("COMPLETED", "NOT_STARTED RECORDED", 1, learned=True)
UNKNOWN = End("RUNNING", "UNKNOWN", 1, asks="unknown")
NEVER = End("RUNNING", "UNKNOWN", 0, asks="unknown")
HUNG = End("RUNNING", "UNKNOWN", 1, asks="service unknown", out="hang")
HELD = End("RUNNING", "HELD", 1, asks="held")
ASKED = End("PLANNED", "FAILED", 1, asks="failure")
PAUSED = End("PLANNED", "FAILED FAILED FAILED", 0, asks="service", out="offline", campaign="PAUSED")
STARTED = End("FAILED", "FAILED", 1)
TWICE = End("COMPLETED", "RECORDED", 2, learned=True)
UNCERTAIN = End("COMPLETED", "RECORDED", 1)
GOES_ON = End("RUNNING", "SUBMITTED", 1, campaign="STOPPED")
OFF = End("PLANNED", "RECORDED", 1, asks="service", out="reference", campaign="PAUSED")
DOUBTED = End("COMPLETED", "RECORDED", 1, asks="doubt service", out="stuck")
NO_INTENT = End("PLANNED", "", 0, asks="service", out="identity", campaign="PAUSED")


def same(end: End) -> tuple[End, End, End]:
    """Give every recovery class the same end."""
    return end, end, end


TABLE: dict[str, tuple[End, End, End]] = {
    # before any byte
    "refused": same(AGAIN),
    "refused for ever": same(PAUSED),
    "hang on connect": same(AGAIN),
    "local control": same(AGAIN),
    "wrong serial number": same(NO_INTENT),
    # the START
    "START lost": (RECORDED, PROVED, NEVER),
    "ack lost": (RECORDED, RECORDED, UNKNOWN),
    "ack late": (RECORDED, RECORDED, HUNG),
    "sender died before START": (RECORDED, PROVED, NEVER),
    "sender died after START": (RECORDED, RECORDED, UNKNOWN),
    "START arrives after its sender died": (RECORDED, RECORDED, UNKNOWN),
    "START duplicated": (RECORDED, TWICE, TWICE),  # the driver's contract is broken: the conformance kit finds it
    "says ERROR, did run": (RECORDED, RECORDED, UNKNOWN),
    "says ERROR, began": same(STARTED),
    # while it runs
    "partition": (RECORDED, RECORDED, UNKNOWN),
    "half-open": (RECORDED, RECORDED, UNKNOWN),
    "partition for ever": (UNKNOWN, UNKNOWN, UNKNOWN),
    "sender died while it ran": (RECORDED, RECORDED, UNKNOWN),
    "reboot, job lost": (UNKNOWN, UNKNOWN, UNKNOWN),
    "reboot, job resumed": (RECORDED, RECORDED, UNKNOWN),
    "reboot, ids restart": (RECORDED, RECORDED, UNKNOWN),
    "abort refused": (GOES_ON, GOES_ON, replace(UNKNOWN, campaign="STOPPED")),
    # the result
    "sender died with the result": (RECORDED, RECORDED, UNKNOWN),
    "slow reader": (RECORDED, RECORDED, HUNG),
    "DONE before the data": same(HELD),
    "previous job's result": same(HELD),
    "says DONE, did nothing": same(HELD),
    "nan": same(HELD),
    "inf": same(HELD),
    "OVER": same(HELD),
    "decimal comma": same(HELD),
    "empty": same(HELD),
    "truncated": same(HELD),
    "bad checksum": same(ASKED),
    "unit missing": same(HELD),
    "thousand times too large": same(HELD),
    "saturated": same(UNCERTAIN),
    "drift": same(OFF),
    "read-back echoes the set-point": same(OFF),
    "stuck sensor": same(DOUBTED),
    "clock a day behind": same(HELD),
    "clock a day ahead": same(RECORDED),
    "ten gigabytes": same(ASKED),
    "endless line": same(ASKED),
}
"""Fault → its end with an idempotent, a queryable and a blind furnace."""


def cells() -> Iterator[tuple[str, str, End]]:
    """List fault, recovery class and expected end."""
    for fault, ends in TABLE.items():
        for letter, end in zip(CLASSES, ends, strict=True):
            yield fault, letter, end


def carry_out(fault: str, letter: str, folder: Path) -> tuple[End, list[str]]:
    """Carry out one cell.

    Args:
        fault: that strikes.
        letter: recovery class.
        folder: for the database.

    Returns:
        How it ended, and what must never be.
    """
    store = new_store(folder / "c.db", [FIRE], TEMPERATURES)
    furnace = Furnace(CLASSES[letter], fault)
    with mock.patch.object(raw, "LARGEST_FILE", 1000), mock.patch.object(raw, "LARGEST_TEXT", 10_000):
        run_virtual(_life(store, furnace))
    end = _end(store, furnace)
    wrong = [f"the furnace fired {end.acts} times"] if end.acts > 1 and fault != "START duplicated" else []
    wrong += [f"{row.value} was learned" for row in store.dataset(NAME).rows if row.value not in TRUE]
    wrong += store.verify(NAME)
    store.close()
    return end, wrong


def _lab(fault: str) -> dict[str, Any]:
    """Return the lab file; with a reference where only a known sample can tell, with an alarm for what is stuck."""
    entry: dict[str, Any] = dict(LAB["instruments"]["furnace"])
    if fault in REFERENCED:
        entry["reference"] = REFERENCE
    if fault == STUCK:
        entry["alarms"] = {"stuck": 3}
    return {**LAB, "instruments": {"furnace": entry}}


async def _life(store: CampaignStore, furnace: Furnace) -> None:
    """Run the trial; where the process died, begin anew as its successor does."""
    for _ in range(3):
        clock = VirtualClock()
        if furnace.fault == "abort refused":
            clock.poll_s = 1.0  # the job must still run when STOP is seen
        lab = LabConfig.model_validate(_lab(furnace.fault))
        executor = Executor(store, NAME, {"furnace": furnace}, config([FIRE]).procedure, clock=clock, lab=lab)
        try:
            await executor.open()
            await executor.recover()
            work = asyncio.create_task(_trials(executor, (1, 2, 3) if furnace.fault == STUCK else (1,)))
            if furnace.fault == "abort refused" and furnace.orders == 0:
                await asyncio.sleep(10)
                store.set_state(NAME, CampaignState.STOPPED, actor="Ada", reason="fire alarm")
            await work
        except Unanswered:
            pass
        except Died:
            continue  # nothing of the dead process cleans up
        await asyncio.sleep(2 * LATE_S)  # whatever was on its way has arrived
        await executor.close()
        return


async def _trials(executor: Executor, numbers: tuple[int, ...]) -> None:
    for number in numbers:
        await executor.carry_out(number)


def _end(store: CampaignStore, furnace: Furnace) -> End:
    trial = store.trial(NAME, 1)
    out = store.out_of_service(NAME).get("furnace")
    keys = {attempt.key for attempt in store.attempts(NAME, trial=1)}
    return End(
        trial=trial.state.value,
        attempts=" ".join(attempt.state.value for attempt in store.attempts(NAME, trial=1)),
        acts=sum(key in keys for key in furnace.acts),
        learned=any(row.trial == 1 and row.value is not None for row in store.dataset(NAME).rows),
        asks=" ".join(sorted(question.kind for question in questions(store, NAME))),
        out=out.cause if out else "",
        campaign=store.campaign(NAME).state.value,
    )
