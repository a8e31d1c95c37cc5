"""A store and an executor for tests of procedures: one candidate a trial, instruments that answer as told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator.config.resources import ResourceConfig
from orchestrator.config.schema import CampaignConfig
from orchestrator.config.steps import expanded
from orchestrator.domain import (
    Candidate,
    Capability,
    DecisionSummary,
    Description,
    Health,
    Identity,
    Order,
    Output,
    Parameter,
    Proposal,
    Reading,
    Recovery,
    Result,
)
from orchestrator.execution.clock import Clock, VirtualClock, run_virtual
from orchestrator.execution.executor import Executor
from orchestrator.protocols import Events
from orchestrator.record.store import CampaignStore, StepPlan

NAME = "bench"
Answer = Callable[[Order, int], float]


class Device:
    """An instrument that takes `x`, gives one number, and needs some (virtual) seconds.

    Args:
        gives: name of its output.
        answer: the number for an order and how many came before it; raises what goes wrong.
        seconds: how long it works.
        slots: how many orders at once.
    """

    def __init__(
        self, gives: str, answer: Answer = lambda _order, _n: 1.0, *, seconds: float = 0.0, slots: int = 1
    ) -> None:
        self.gives, self.answer, self.seconds, self.slots = gives, answer, seconds, slots
        self.orders: list[Order] = []
        self.begun: list[float] = []
        self.clock: Clock = VirtualClock()

    async def describe(self) -> Description:
        x = Parameter("x", "MPa", 0.0, 1000.0, default=0.0)
        outputs = (Output(self.gives, "MPa", -1000.0, 1000.0),)
        one = Capability("work", outputs, (x,), typical_s=max(self.seconds, 0.01), longest_s=1e6)
        return Description((one,), Recovery.BLIND, slots=self.slots)

    async def open(self) -> Identity:
        return Identity(self.gives)

    async def close(self) -> None:
        pass

    async def health(self) -> Health:
        return Health("ready")

    async def abort(self, reason: str) -> None:
        pass

    async def run(self, order: Order, events: Events) -> Result:
        self.orders.append(order)
        self.begun.append(self.clock.monotonic())
        value = self.answer(order, len(self.orders) - 1)
        await events.sleep(self.seconds)
        return Result(order.key, (Reading(self.gives, value, "MPa"),))


def config_of(procedure: Sequence[Mapping[str, Any]], **more: Any) -> CampaignConfig:
    """Return a campaign that measures `strength` by the given steps."""
    return CampaignConfig.model_validate(
        {
            "name": NAME,
            "objectives": [{"property": "strength", "unit": "MPa", "goal": "maximize"}],
            "space": {"use": "box"},
            "instruments": {step["instrument"]: {"use": "test"} for step in procedure},
            "procedure": list(procedure),
            "budget": {"trials": 100},
            **more,
        }
    )


def store_of(where: Path, config: CampaignConfig, points: Sequence[float]) -> CampaignStore:
    """Make a store with one planned trial for each value of `x`."""
    store = CampaignStore.open(where)
    store.create_campaign(config, actor="test")
    candidates = [Candidate.make(label=f"x={x:g}", parameters={"x": x}) for x in points]
    store.record_decision(
        NAME,
        number=1,
        policy="given",
        purpose="asked",
        proposals=[Proposal(one, policy="given", reason="for a test") for one in candidates],
        seen=[],
        seen_sha256="0" * 64,
        pending=[],
        closed_sha256="0" * 64,
        fit=None,
        seed=0,
        device="cpu",
        threads=1,
        seconds=0.0,
        summary=DecisionSummary(),
        steps=[StepPlan(name, one.instrument, "", 1.0) for name, one in expanded(config.procedure).items()],
    )
    return store


def executor_of(
    store: CampaignStore,
    config: CampaignConfig,
    devices: Mapping[str, Device],
    resources: Mapping[str, Mapping[str, Any]] | None = None,
    **more: Any,
) -> Executor:
    """Return an executor in virtual time."""
    lab = {name: ResourceConfig.model_validate(one) for name, one in (resources or {}).items()}
    return Executor(store, NAME, devices, config.procedure, clock=VirtualClock(), resources=lab, **more)  # type: ignore[arg-type]  # the fake is smaller than the protocol


def carry(made: Executor, *trials: int) -> float:
    """Carry out trials, all at once, and return the virtual seconds that they took."""

    async def main() -> float:
        await made.open()
        await made.recover()
        begun = made.clock.monotonic()
        await asyncio.gather(*(made.carry_out(trial) for trial in trials))
        took = made.clock.monotonic() - begun
        await made.close()
        return took

    return run_virtual(main())
