"""The conformance checks themselves: a good driver passes, and each deliberate mistake is caught by the right check.

A check that no mistake trips is dead weight, so every mistake names the check that must find it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar

import pytest
from pydantic import BaseModel

from instruments import conformance
from instruments.settings import checked
from orchestrator.domain import (
    Capability,
    Description,
    Health,
    Identity,
    JsonObject,
    Limit,
    Order,
    Output,
    Parameter,
    Quantity,
    Reading,
    Recovery,
    Result,
    Running,
    Whereabouts,
)
from orchestrator.errors import Aborted, Busy, Fault, Rejected
from orchestrator.protocols import Events, Options


class Oven:
    """An async driver that keeps the contract; the mutants below break it in one place each."""

    Options: ClassVar[type[BaseModel]] = Options

    def __init__(self) -> None:
        self.busy = False
        self.stop = asyncio.Event()
        self.calls = 0

    def capability(self) -> Capability:
        return Capability(
            "bake",
            outputs=(Output("strength", "MPa", 0.0, 900.0),),
            parameters=(Parameter("temperature", "degC", 20.0, 800.0), Parameter("gas", choices=("air", "argon"))),
            longest_s=20.0,
        )

    async def describe(self) -> Description:
        return Description((self.capability(),), recovery=Recovery.IDEMPOTENT, simulated=True)

    async def open(self) -> Identity:
        return Identity("oven")

    async def close(self) -> None:
        self.busy = False

    async def health(self) -> Health:
        return Health("busy" if self.busy else "ready")

    async def run(self, order: Order, events: Events) -> Result:
        if order.capability != "bake":
            message = f"cannot {order.capability}"
            raise Rejected(message)
        numbers, choices = checked(self.capability(), order)
        if self.busy:
            message = "baking"
            raise Busy(message)
        self.busy = True
        self.stop.clear()
        self.calls += 1
        try:
            await self.bake()
        finally:
            self.busy = False
        if self.stop.is_set():
            message = "stopped"
            raise Aborted(message)
        events.progress(1.0)
        return self.result(order, numbers["temperature"], choices["gas"])

    async def bake(self) -> None:
        try:
            await asyncio.wait_for(self.stop.wait(), 0.05)
        except TimeoutError:
            return

    def result(self, order: Order, temperature: float, gas: str) -> Result:
        return Result(
            order.key,
            (Reading("strength", temperature, "MPa"),),
            applied={"temperature": Quantity(temperature, "degC")},
            applied_choices={"gas": gas},
        )

    async def abort(self, reason: str) -> None:
        self.stop.set()


def mutant(name: str, **methods: Any) -> type[Oven]:
    """Break the oven in one place."""
    return type(name, (Oven,), methods)


def _capability(**changes: Any) -> dict[str, Callable[[Any], Capability]]:
    return {"capability": lambda self: replace(Oven.capability(self), **changes)}


def _result(change: Callable[[Oven, Result], Result]) -> dict[str, Any]:
    return {"result": lambda self, order, t, gas: change(self, Oven.result(self, order, t, gas))}


async def _clamps(self: Oven, order: Order, events: Events) -> Result:
    settings = dict(order.settings)
    if "temperature" in settings and settings["temperature"].unit == "degC" and settings["temperature"].value > 800:
        settings["temperature"] = Quantity(800.0, "degC")
    return await Oven.run(self, replace(order, settings=settings), events)


async def _ignores_units(self: Oven, order: Order, events: Events) -> Result:
    settings = {name: Quantity(min(q.value, 800.0), "degC") for name, q in order.settings.items()}
    return await Oven.run(self, replace(order, settings=settings), events)


async def _refuses_with_effect(self: Oven, order: Order, events: Events) -> Result:
    try:
        return await Oven.run(self, order, events)
    except Rejected as error:
        raise Fault(str(error)) from error


async def _slow_health(self: Oven) -> Health:
    await asyncio.sleep(1.1 if self.busy else 0.0)
    return Health("ready")


async def _blocks(self: Oven) -> None:
    time.sleep(0.3)  # noqa: ASYNC251  this is the mistake


async def _deaf(self: Oven) -> None:
    await asyncio.sleep(0.05 if self.calls < 5 else 1.0)


async def _stays_aborted(self: Oven, order: Order, events: Events) -> Result:
    if self.stop.is_set() and self.calls > 4:
        message = "emergency stop is pressed"
        raise Fault(message)
    return await Oven.run(self, order, events)


async def _faults_when_busy(self: Oven, order: Order, events: Events) -> Result:
    try:
        return await Oven.run(self, order, events)
    except Busy as error:
        raise Fault(str(error)) from error


async def _other_identity(self: Oven) -> Identity:
    self.opened = getattr(self, "opened", 0) + 1
    return Identity("oven", serial=str(self.opened))


async def _raises(self: Oven, *args: Any) -> None:
    message = "nothing to do"
    raise RuntimeError(message)


async def _asks_the_device(self: Oven) -> Description:
    message = "no device"
    raise ConnectionError(message)


async def _knows_everything(self: Oven, key: str, handle: JsonObject | None) -> Whereabouts:
    return Running({"key": key})


async def _blind_to_queries(self: Oven) -> Description:
    return replace(await Oven.describe(self), recovery=Recovery.QUERYABLE)


def _sync_health(self: Oven) -> Health:
    return Health("ready")


HOT = Parameter("temperature", "degC", 20.0, 800.0)
GAS = Parameter("gas", choices=("air", "argon"))
MUTANTS = [
    (mutant("SyncHealth", health=_sync_health), "the six methods are async", 0),
    (mutant("LooseOptions", Options=BaseModel), "options refuse unknown keys", 0),
    (mutant("AsksTheDevice", describe=_asks_the_device), "describe works offline", 0),
    (mutant("NoOutputs", **_capability(outputs=())), "every capability declares outputs", 0),
    (mutant("Coulomb", **_capability(parameters=(replace(HOT, unit="C"), GAS))), "units are known", 0),
    (mutant("NoLimits", **_capability(parameters=(replace(HOT, low=None, high=None), GAS))), "finite bounds", 0),
    (mutant("ZeroZero", **_capability(parameters=(replace(HOT, low=0.0, high=0.0), GAS))), "finite bounds", 0),
    (mutant("DefaultOut", **_capability(parameters=(replace(HOT, default=900.0), GAS))), "finite bounds", 0),
    (mutant("LostLimit", **_capability(limits=(Limit({"pressure": 1.0}, 1.0, "no"),))), "joint limits", 0),
    (mutant("Forever", **_capability(longest_s=float("inf"))), "durations and cost", 0),
    (mutant("CannotLookUp", describe=_blind_to_queries), "can look up", 0),
    (
        mutant("LooksUpAll", describe=_blind_to_queries, lookup=_knows_everything, attach=_knows_everything),
        "an unknown key",
        1,
    ),
    (mutant("OtherIdentity", open=_other_identity), "opening twice", 1),
    (mutant("AbortRaises", abort=_raises), "abort when idle", 1),
    (mutant("ClosesOnce", close=_raises), "closing twice", 1),
    (mutant("Clamps", run=_clamps), "refuses temperature above", 1),
    (mutant("RefusesWithEffect", run=_refuses_with_effect), "refuses temperature", 1),
    (mutant("IgnoresUnits", run=_ignores_units), "refuses temperature of another dimension", 1),
    (mutant("WrongKey", **_result(lambda o, r: replace(r, key="other"))), "the key comes back", 2),
    (mutant("NoReading", **_result(lambda o, r: replace(r, readings=()))), "readings are as declared", 2),
    (
        mutant("NaN", **_result(lambda o, r: replace(r, readings=(Reading("strength", float("nan"), "MPa"),)))),
        "readings are as declared",
        2,
    ),
    (
        mutant("Stale", **_result(lambda o, r: replace(r, readings=(replace(r.readings[0], measured_at=10**15),)))),
        "readings are as declared",
        2,
    ),
    (
        mutant("WrongUnit", **_result(lambda o, r: replace(r, readings=(Reading("strength", 1.0, "kelvin"),)))),
        "readings are as declared",
        2,
    ),
    (mutant("NoReadback", **_result(lambda o, r: replace(r, applied={}))), "set-points are read back", 2),
    (mutant("Blocking", bake=_blocks), "the event loop stays free", 2),
    (mutant("FaultsWhenBusy", run=_faults_when_busy), "more orders than slots", 2),
    (mutant("SlowHealth", health=_slow_health), "health answers while", 2),
    (
        mutant(
            "Drifts",
            **_result(lambda o, r: replace(r, readings=(Reading("strength", 100.0 + o.calls, "MPa"),))),
        ),
        "the same key gives the same readings",
        2,
    ),
    (mutant("DeafToAbort", bake=_deaf), "an abort ends the job", 2),
    (mutant("StaysAborted", run=_stays_aborted), "usable after an abort", 2),
]


async def test_a_good_driver_passes_everything() -> None:
    """No check fails, none is skipped."""
    findings = await conformance.check(Oven(), level=2)
    assert len(findings) > 35
    assert not [finding for finding in findings if not finding.passed]


@pytest.mark.parametrize(("driver", "check", "level"), MUTANTS, ids=[m[0].__name__ for m in MUTANTS])
async def test_mistakes_are_caught(driver: type[Oven], check: str, level: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each deliberately wrong driver fails the check that is there for it."""
    monkeypatch.setattr("instruments.drills.ABORT_S", 0.5)
    failed = conformance.failures(await conformance.check(driver(), level=level))  # type: ignore[arg-type]
    assert [finding for finding in failed if check in finding.check], failed
    assert all(finding.detail for finding in failed)


async def test_real_instruments_get_no_orders_unasked() -> None:
    """Without `send` a driver that is not simulated is never told to run, at any level."""

    class Real(Oven):
        async def describe(self) -> Description:
            return replace(await Oven.describe(self), simulated=False)

        async def run(self, order: Order, events: Events) -> Result:
            self.calls += 1
            return await Oven.run(self, order, events)

    driver = Real()
    findings = await conformance.check(driver, level=2)
    assert driver.calls == 0
    assert [finding for finding in findings if finding.passed is None]
    assert not conformance.failures(findings)
    await conformance.check(driver, level=2, send=True)
    assert driver.calls > 0
