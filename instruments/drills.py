"""Levels 1 and 2 of the conformance checks: the link, orders that must be refused, orders that must work."""

from __future__ import annotations

import asyncio
import math
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace

from instruments.declarations import Findings, describe_order
from orchestrator.domain import (
    Absent,
    Capability,
    Crystal,
    Description,
    Health,
    JsonObject,
    Order,
    Parameter,
    Quantity,
    Recovery,
    Result,
    Unsure,
)
from orchestrator.errors import Busy, Effect, InstrumentError, Rejected, UnitError
from orchestrator.protocols import Instrument, Recoverable
from orchestrator.units import convert, same_dimension

OPEN_S = 60.0
"""Loading a potential for the first time takes seconds; no device takes a minute to say who it is."""
HEALTH_S = 1.0
REFUSE_S = 5.0
LOOP_S = 0.2
"""A campaign watches other instruments on the same event loop."""
WATCH_S = 0.01
ABORT_S = 10.0
ALIVE = ("ready", "busy", "interlocked")
OTHER_UNITS = ("kelvin", "degC", "second", "hour", "g", "kg", "meter", "mm", "Pa", "percent", "eV", "mol/L", "mA")
COPPER = Crystal(((0.0, 1.8, 1.8), (1.8, 0.0, 1.8), (1.8, 1.8, 0.0)), ("Cu",), ((0.0, 0.0, 0.0),))
"""A structure that every potential knows."""


class QuietEvents:
    """Events of nobody: remembers what it was told.

    Args:
        speed: how much faster than the wall clock `sleep` runs.
    """

    def __init__(self, speed: float = 1000.0) -> None:
        self.handles: list[JsonObject] = []
        self.fractions: list[float] = []
        self.abort = False
        self._speed = speed

    async def accepted(self, handle: JsonObject) -> None:
        """Remember the handle."""
        self.handles.append(handle)

    def progress(self, fraction: float, text: str = "") -> None:
        """Remember the fraction."""
        del text
        self.fractions.append(fraction)

    def abort_requested(self) -> bool:
        """Say what `abort` says."""
        return self.abort

    async def sleep(self, seconds: float) -> None:
        """Sleep, faster."""
        await asyncio.sleep(seconds / self._speed)


def good_order(capability: Capability, key: str = "") -> Order:
    """Make an order from the middle of the declared bounds.

    Args:
        capability: what to ask for.
        key: dispatch key; a new one where none is given.
    """
    numbers = {p.name: Quantity(_middle(p), p.unit) for p in capability.parameters if not p.choices}
    return Order(
        key=key or f"conformance-{uuid.uuid4().hex}",
        capability=capability.name,
        settings=numbers,
        choices={p.name: p.choices[0] for p in capability.parameters if p.choices},
        crystal=COPPER if capability.takes_structure else None,
        label="conformance",
        deadline_s=capability.longest_s,
    )


def bad_orders(capability: Capability, good: Order) -> Iterator[tuple[str, Order]]:
    """Make orders that must be refused, each with its name.

    Args:
        capability: what they ask for.
        good: an order that works.
    """
    yield "an unknown capability", replace(good, capability="no_such_capability")
    yield "an unknown parameter", replace(good, settings={**good.settings, "no_such_parameter": Quantity(1.0, "degC")})
    if capability.takes_structure:
        yield "a missing structure", replace(good, crystal=None)
    for p in capability.parameters:
        if p.choices:
            yield f"{p.name} of no choice", replace(good, choices={**good.choices, p.name: "no such choice"})
            continue
        span = (p.high or 0.0) - (p.low or 0.0)
        other = "meter" if not same_dimension(p.unit, "meter") else "second"
        wrong = {
            f"{p.name} above its bound": Quantity((p.high or 0.0) + 0.01 * span, p.unit),
            f"{p.name} below its bound": Quantity((p.low or 0.0) - 0.01 * span, p.unit),
            f"{p.name} not a number": Quantity(math.nan, p.unit),
            f"{p.name} infinite": Quantity(math.inf, p.unit),
            f"{p.name} of another dimension": Quantity(_middle(p), other),
        }
        for name, quantity in wrong.items():
            yield name, replace(good, settings={**good.settings, p.name: quantity})
        if p.default is None:
            yield f"{p.name} missing", replace(good, settings={k: v for k, v in good.settings.items() if k != p.name})


async def passive(
    instrument: Instrument, description: Description, findings: Findings, *, order: Order | None, send: bool
) -> None:
    """Check the link, and orders that must be refused.

    Args:
        instrument: built, not opened.
        description: what it declares.
        findings: to add to.
        order: one that works.
        send: whether orders may be sent.
    """
    before = set(threading.enumerate())
    # Catches: an `open` that "succeeds" on a dead port; a second link where one is there.
    first = await asyncio.wait_for(instrument.open(), OPEN_S)
    findings.that("the identity has a name", bool(first.name), repr(first))
    findings.that("opening twice is harmless", await instrument.open() == first, "the second identity differs")
    await _health(instrument, findings, "when idle")
    # Catches: an abort that leaves the device stopped, or that raises.
    findings.that("abort when idle is harmless", *await _quiet(instrument.abort("conformance"), ABORT_S))
    await _health(instrument, findings, "after an abort")
    if isinstance(instrument, Recoverable) and description.recovery is Recovery.QUERYABLE:
        where = await instrument.lookup(f"conformance-{uuid.uuid4().hex}", None)
        # Catches: another job's result given for this key.
        findings.that("an unknown key is absent or unsure", isinstance(where, Absent | Unsure), repr(where))
    for capability in description.capabilities:
        await _refusals(instrument, capability, findings, order=order, send=send)
    findings.that("closing twice is harmless", *await _quiet(_twice(instrument), OPEN_S))
    again = await asyncio.wait_for(instrument.open(), OPEN_S)
    findings.that("it opens again as the same", again == first, f"{again} after {first}")
    await instrument.close()
    # Catches: a reader thread that holds the port for ever.
    findings.that("no thread is left", not await _left(before), ", ".join(await _left(before)))


async def active(
    instrument: Instrument, description: Description, findings: Findings, *, order: Order | None, send: bool
) -> None:
    """Check orders that must work.

    Args:
        instrument: built, not opened.
        description: what it declares.
        findings: to add to.
        order: one that works; the capability's middle where none is given.
        send: whether orders may be sent.
    """
    for capability in description.capabilities:
        if order is not None and order.capability != capability.name:
            continue
        name = capability.name
        if not send:
            findings.that(f"{name}: a good order works", None, "not tried: a real instrument; allow it with send")
            continue
        good = order or good_order(capability)
        await asyncio.wait_for(instrument.open(), OPEN_S)
        try:
            result = await _one_run(instrument, capability, good, findings)
            if result is not None:
                if description.recovery is Recovery.IDEMPOTENT:
                    await _same_again(instrument, good, result, findings)
                await _other_units(instrument, capability, good, result, findings)
                await _crowd(instrument, description, capability, good, findings)
                await _cancelled(instrument, capability, good, findings)
        finally:
            await instrument.close()


async def _refusals(
    instrument: Instrument, capability: Capability, findings: Findings, *, order: Order | None, send: bool
) -> None:
    good = order if order is not None and order.capability == capability.name else good_order(capability)
    for name, bad in bad_orders(capability, good):
        check = f"{capability.name}: refuses {name}"
        if not send:
            findings.that(check, None, "not tried: a real instrument; allow it with send")
            continue
        # Catches: clamping 500 to 100 without a word; kelvin taken for degC; a NaN that becomes a set-point.
        try:
            await asyncio.wait_for(instrument.run(bad, QuietEvents()), REFUSE_S)
        except Rejected as error:
            findings.that(check, error.effect is Effect.NONE, f"the effect is {error.effect.value}")
        except Exception as error:  # noqa: BLE001  a driver may raise anything; that is what is reported
            findings.that(check, False, f"{type(error).__name__} instead of Rejected: {error}")
        else:
            findings.that(check, False, f"carried out {describe_order(bad)}")


async def _one_run(instrument: Instrument, capability: Capability, good: Order, findings: Findings) -> Result | None:
    name, events = capability.name, QuietEvents()
    try:
        result, blocked = await _watched(instrument, capability, good, events)
        if blocked >= LOOP_S:  # a busy computer, or libraries that load only once; a blocking driver does it again
            again = replace(good, key=f"conformance-{uuid.uuid4().hex}")
            blocked = min(blocked, (await _watched(instrument, capability, again, QuietEvents()))[1])
    except Exception as error:  # noqa: BLE001  a driver may raise anything; that is what is reported
        findings.that(f"{name}: a good order works", False, f"{type(error).__name__}: {error} ({describe_order(good)})")
        return None
    findings.that(f"{name}: a good order works", isinstance(result, Result), repr(result))
    # Catches: a blocking read in an async method; every other instrument stands still meanwhile.
    findings.that(f"{name}: the event loop stays free", blocked < LOOP_S, f"blocked for {blocked:.2f} s")
    findings.that(f"{name}: the key comes back", result.key == good.key, f"{result.key} for {good.key}")
    findings.none_of(f"{name}: readings are as declared", _wrong_readings(capability, result))
    # Catches: "the plan succeeded though the motor had not moved".
    asked = {p.name for p in capability.parameters}
    seen = set(result.applied) | set(result.applied_choices)
    findings.that(f"{name}: set-points are read back", seen == asked, f"{sorted(seen)} for {sorted(asked)}")
    fractions = all(0.0 <= fraction <= 1.0 for fraction in events.fractions)
    findings.that(f"{name}: progress is between 0 and 1", fractions, f"{events.fractions}")
    return result


def _wrong_readings(capability: Capability, result: Result) -> Iterator[str]:
    numbers = {output.name: output for output in capability.outputs if output.kind == "number"}
    seen = [reading.property for reading in result.readings]
    if sorted(seen) != sorted(numbers):
        yield f"{sorted(seen)} for {sorted(numbers)}"
        return
    structures = {output.name for output in capability.outputs if output.kind == "structure"}
    if set(result.structures) != structures:
        yield f"structures {sorted(result.structures)} for {sorted(structures)}"
    now = time.time_ns() // 1000
    for reading in result.readings:
        output = numbers[reading.property]
        try:
            value = convert(reading.value, reading.unit, output.unit)
        except UnitError as error:
            yield f"{output.name}: {error}"
            continue
        low = -math.inf if output.low is None else output.low
        high = math.inf if output.high is None else output.high
        if not (math.isfinite(value) and low <= value <= high):
            yield f"{output.name} is {value} {output.unit}"
        if reading.measured_at is not None and not abs(now - reading.measured_at) < 60e6:  # noqa: PLR2004  a minute
            yield f"{output.name} was measured {(now - reading.measured_at) / 1e6:.0f} s ago"


async def _same_again(instrument: Instrument, good: Order, first: Result, findings: Findings) -> None:
    second = await instrument.run(good, QuietEvents())
    same = [replace(r, measured_at=None) for r in second.readings] == [
        replace(r, measured_at=None) for r in first.readings
    ]
    # Catches: an "idempotent" instrument whose second answer is another measurement.
    findings.that(f"{good.capability}: the same key gives the same readings", same, "the second answer differs")


async def _other_units(
    instrument: Instrument, capability: Capability, good: Order, first: Result, findings: Findings
) -> None:
    other = _in_other_units(capability, good)
    if other is None:
        return
    result = await instrument.run(other, QuietEvents())
    apart = [
        p.name
        for p in capability.parameters
        if p.name in other.settings and not _close(result.applied.get(p.name), first.applied.get(p.name), p.unit)
    ]
    # Catches: 300 K set as 300 degC.
    check = f"{capability.name}: units of orders are converted"
    findings.that(check, not apart, f"{', '.join(apart)} in {describe_order(other)}")


def _close(one: Quantity | None, other: Quantity | None, unit: str) -> bool:
    if one is None or other is None:
        return False
    a, b = convert(one.value, one.unit, unit), convert(other.value, other.unit, unit)
    return math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-9)


async def _crowd(
    instrument: Instrument, description: Description, capability: Capability, good: Order, findings: Findings
) -> None:
    orders = [replace(good, key=f"conformance-{uuid.uuid4().hex}") for _ in range(description.slots + 1)]
    jobs = [asyncio.create_task(instrument.run(order, QuietEvents())) for order in orders[:16]]
    await asyncio.sleep(0)
    await _health(instrument, findings, f"while {capability.name} runs")
    ended = await asyncio.gather(*jobs, return_exceptions=True)
    # Catches: two orders mixed on one wire; a Busy that claims something was started.
    wrong = [
        repr(end)
        for end in ended
        if not isinstance(end, Result) and not (isinstance(end, Busy) and end.effect is Effect.NONE)
    ]
    keys = [end.key for end in ended if isinstance(end, Result)]
    mixed = [key for key, order in zip(keys, orders, strict=False) if len(keys) == len(orders) and key != order.key]
    findings.none_of(f"{capability.name}: more orders than slots are Busy, or wait", wrong + mixed)


async def _cancelled(instrument: Instrument, capability: Capability, good: Order, findings: Findings) -> None:
    events = QuietEvents()
    job = asyncio.create_task(instrument.run(replace(good, key=f"conformance-{uuid.uuid4().hex}"), events))
    await asyncio.sleep(0.02)
    events.abort = True
    await instrument.abort("conformance")
    try:
        await asyncio.wait_for(asyncio.shield(job), ABORT_S)
        ended = True
    except InstrumentError as error:
        ended = error.effect is not Effect.UNKNOWN
    except TimeoutError:
        ended = False
        job.cancel()
    # Catches: a stop that is queued behind the very job that it should stop.
    findings.that(f"{capability.name}: an abort ends the job", ended, f"still at work after {ABORT_S:g} s")
    until = time.monotonic() + ABORT_S
    while True:
        try:
            await asyncio.wait_for(
                instrument.run(replace(good, key=f"conformance-{uuid.uuid4().hex}"), QuietEvents()), 600
            )
        except Busy:
            if time.monotonic() < until:
                await asyncio.sleep(0.1)
                continue
            findings.that(f"{capability.name}: usable after an abort", False, "it stays busy")
        except InstrumentError as error:
            findings.that(f"{capability.name}: usable after an abort", False, f"{type(error).__name__}: {error}")
        else:
            findings.that(f"{capability.name}: usable after an abort", True)
        return


async def _health(instrument: Instrument, findings: Findings, when: str) -> None:
    began = time.monotonic()
    health = await instrument.health()
    took = time.monotonic() - began
    fine = isinstance(health, Health) and health.state in ALIVE and took < HEALTH_S
    # Catches: a health that waits for the job, or that answers "ready" from a cache after the cable was pulled.
    findings.that(f"health answers {when}", fine, f"{health} after {took:.2f} s")


async def _twice(instrument: Instrument) -> None:
    await instrument.close()
    await instrument.close()


async def _quiet(work: object, limit_s: float) -> tuple[bool, str]:
    try:
        await asyncio.wait_for(work, limit_s)  # type: ignore[arg-type]
    except Exception as error:  # noqa: BLE001  a driver may raise anything; that is what is reported
        return False, f"{type(error).__name__}: {error}"
    return True, ""


async def _watched(
    instrument: Instrument, capability: Capability, order: Order, events: QuietEvents
) -> tuple[Result, float]:
    worst = [0.0]
    watch = asyncio.create_task(_watch(worst))
    await asyncio.sleep(0)  # the watch must have begun before a driver can block
    try:
        result = await asyncio.wait_for(instrument.run(order, events), capability.longest_s)
        await asyncio.sleep(WATCH_S)
    finally:
        watch.cancel()
    return result, worst[0]


async def _watch(worst: list[float]) -> None:
    while True:
        began = time.monotonic()
        await asyncio.sleep(WATCH_S)
        worst[0] = max(worst[0], time.monotonic() - began - WATCH_S)


async def _left(before: set[threading.Thread]) -> list[str]:
    until = time.monotonic() + 2.0
    while True:
        # The event loop's own pool (asyncio.to_thread) stays for the next call.
        left = [t.name for t in set(threading.enumerate()) - before if not t.name.startswith("asyncio_")]
        if not left or time.monotonic() > until:
            return left
        await asyncio.sleep(0.05)


def _middle(parameter: Parameter) -> float:
    if isinstance(parameter.default, float | int):
        return float(parameter.default)
    return ((parameter.low or 0.0) + (parameter.high or 0.0)) / 2


def _in_other_units(capability: Capability, good: Order) -> Order | None:
    settings = dict(good.settings)
    for p in capability.parameters:
        other = next((u for u in OTHER_UNITS if u != p.unit and same_dimension(u, p.unit)), None)
        if other is not None and p.name in settings:
            quantity = settings[p.name]
            settings[p.name] = Quantity(convert(quantity.value, quantity.unit, other), other)
    if settings == dict(good.settings):
        return None
    return replace(good, key=f"conformance-{uuid.uuid4().hex}", settings=settings)
