"""Level 2 of the conformance checks: orders that must work, two at once, stopped, late, cancelled. Things move."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace

from instruments.conformance.orders import (
    QuietEvents,
    Window,
    describe_order,
    edge_order,
    good_order,
    in_other_units,
    new_key,
)
from instruments.conformance.passive import ALIVE, HEALTH_S, LOOP_S, NOT_TRIED, OPEN_S, TRIES, Left, answers, watched
from instruments.conformance.rules import Findings
from orchestrator.domain import (
    Attachment,
    Capability,
    Description,
    Finished,
    Order,
    Quantity,
    Recovery,
    Result,
    Unsure,
)
from orchestrator.errors import BadData, Busy, Effect, InstrumentError, TimedOut, UnitError
from orchestrator.protocols import Instrument, Recoverable
from orchestrator.units import convert

ABORT_S = 10.0
"""For a job to end after an abort, and for an instrument to be usable again."""
ABORT_ANSWER_S = 1.0
STARTED_S = 0.02
"""After this long a job that lasts is at work."""
REAL = 1.0
"""Speed of the campaign's clock for jobs that must still be at work when they are stopped, or that have a deadline."""
DEADLINE_S = 0.25
LATE_S = 2.0
"""An order may end so long after its deadline, on a busy computer."""
CROWD = 16
FOLLOWS = 0.05
"""A read-back may differ from what was asked by this share of the bounds, or by the resolution."""
STALE_US = 60e6


@dataclass(frozen=True)
class Bench:
    """What the checks of one capability need.

    Args:
        instrument: opened.
        description: what it declares.
        capability: that is checked.
        good: an order that works.
        findings: to add to.
        window: what may be set.
    """

    instrument: Instrument
    description: Description
    capability: Capability
    good: Order
    findings: Findings
    window: Window | None = None

    def that(self, rule: str, passed: bool, detail: str = "") -> bool:
        """Note one finding about this capability."""
        return self.findings.that(rule, passed, detail, about=self.capability.name)

    def another(self, deadline_s: float | None = None) -> Order:
        """Return the good order with a new key."""
        return replace(self.good, key=new_key(), deadline_s=deadline_s or self.good.deadline_s)


async def active(
    instrument: Instrument,
    description: Description,
    findings: Findings,
    *,
    order: Order | None,
    send: bool,
    window: Window | None,
) -> None:
    """Check orders that must work.

    Args:
        instrument: built, not opened.
        description: what it declares.
        findings: to add to.
        order: one that works; the capability's middle where none is given.
        send: whether orders may be sent.
        window: what may be set.
    """
    before = Left()
    for capability in description.capabilities:
        if order is not None and order.capability != capability.name:
            continue
        if not send:
            findings.that("a good order works", None, NOT_TRIED, about=capability.name)
            continue
        good = order or good_order(capability, window=window)
        await asyncio.wait_for(instrument.open(), OPEN_S)
        try:
            await _capability(Bench(instrument, description, capability, good, findings, window), given=bool(order))
        finally:
            await instrument.close()
    if send:
        findings.none_of("nothing is left after work", await before.more())


async def _capability(bench: Bench, *, given: bool) -> None:
    result = await _one_order(bench)
    if result is None:
        return
    recovery = bench.description.recovery
    if recovery is Recovery.IDEMPOTENT:
        second = await bench.instrument.run(bench.good, QuietEvents())
        same = readings_of(second) == readings_of(result)
        bench.that("the same key gives the same readings", same, "the second answer differs")
    if recovery is Recovery.QUERYABLE:
        await _found(bench)
    await _other_units(bench, result)
    if not given:
        await _edges(bench)
    await _crowd(bench)
    await _stopped(bench)
    await _late(bench)
    await _cancelled(bench)
    await answers(
        bench.instrument, bench.findings, "health is ready again after work", ("ready",), about=bench.capability.name
    )


def readings_of(result: Result) -> list[object]:
    """Return what an order gave, without the time.

    Args:
        result: of the order.
    """
    return [replace(reading, measured_at=None) for reading in result.readings]


async def _one_order(bench: Bench) -> Result | None:
    capability, good, events = bench.capability, bench.good, QuietEvents()
    try:
        result, blocked = await watched(bench.instrument.run(good, events), capability.longest_s)
        for _ in range(TRIES - 1):
            if blocked >= LOOP_S:  # a busy computer, or libraries that load only once; a blocking driver does it again
                again = watched(bench.instrument.run(bench.another(), QuietEvents()), capability.longest_s)
                blocked = min(blocked, (await again)[1])
    except Exception as error:  # noqa: BLE001  a driver may raise anything; that is what is reported
        bench.that("a good order works", False, f"{type(error).__name__}: {error} ({describe_order(good)})")
        return None
    if not bench.that("a good order works", isinstance(result, Result), repr(result)):
        return None
    bench.that("the event loop stays free", blocked < LOOP_S, f"blocked for {blocked:.2f} s")
    bench.that("the key comes back", result.key == good.key, f"{result.key} for {good.key}")
    _readings(bench, result)
    asked = {p.name for p in capability.parameters}
    seen = set(result.applied) | set(result.applied_choices)
    bench.that("setpoints are read back", seen == asked, f"{sorted(seen)} for {sorted(asked)}")
    _follows(bench, good, result)
    fractions = all(0.0 <= fraction <= 1.0 for fraction in events.fractions)
    bench.that("progress is between 0 and 1", fractions, f"{events.fractions}")
    faults = [fault for attachment in result.attachments for fault in _attachment(attachment)]
    names = [attachment.name for attachment in result.attachments]
    faults += [f"a name stands twice: {names}"] if len(set(names)) < len(names) else []
    bench.that("attachments are named bytes", not faults, "; ".join(faults))
    return result


def _readings(bench: Bench, result: Result) -> None:
    capability = bench.capability
    seen = sorted([reading.property for reading in result.readings] + list(result.structures))
    wanted = sorted(output.name for output in capability.outputs)
    bench.that("every output is given once", seen == wanted, f"{seen} for {wanted}")
    rules: dict[str, list[str]] = {
        "readings have the declared dimension": [],
        "readings are finite and valid": [],
        "standard errors are finite": [],
        "time stamps are now": [],
    }
    for rule, fault in wrong_readings(capability, result):
        rules[rule].append(fault)
    for rule, faults in rules.items():
        bench.that(rule, not faults, "; ".join(faults))


def wrong_readings(capability: Capability, result: Result) -> Iterator[tuple[str, str]]:
    """Tell what is wrong with the numbers of a result.

    Args:
        capability: declares units and valid ranges.
        result: of an order.

    Yields:
        The rule that is broken, and one sentence.
    """
    numbers = {output.name: output for output in capability.outputs if output.kind == "number"}
    now = time.time_ns() // 1000
    for reading in result.readings:
        output = numbers.get(reading.property)
        if output is None:
            continue
        error = reading.std_error
        if error is not None and not 0.0 <= error < math.inf:
            yield "standard errors are finite", f"{output.name}: {error}"
        stamp = reading.measured_at
        if stamp is not None and not abs(now - stamp) < STALE_US:
            seen = f"{output.name}: {stamp} is {(now - stamp) / 1e6:.0f} s ago; UTC in microseconds is wanted"
            yield "time stamps are now", seen
        try:
            value = convert(reading.value, reading.unit, output.unit)
        except UnitError as wrong:
            yield "readings have the declared dimension", f"{output.name}: {wrong}"
            continue
        low = -math.inf if output.low is None else output.low
        high = math.inf if output.high is None else output.high
        if not (math.isfinite(value) and low <= value <= high):
            yield "readings are finite and valid", f"{output.name} is {value} {output.unit}"


def _attachment(attachment: Attachment) -> Iterator[str]:
    content: object = attachment.content  # a driver may put anything there
    if not isinstance(content, bytes):
        yield f"{attachment.name!r} holds {type(content).__name__}; bytes are wanted"
    if not attachment.name or "/" in attachment.name or "\\" in attachment.name:
        yield f"{attachment.name!r} is no file name"
    if attachment.media_type.count("/") != 1:
        yield f"{attachment.name!r} has the media type {attachment.media_type!r}; such as 'text/csv' is wanted"


def _follows(bench: Bench, order: Order, result: Result) -> bool:
    wrong = []
    for p in bench.capability.parameters:
        asked, seen = order.settings.get(p.name), result.applied.get(p.name)
        if asked is None or seen is None:
            continue
        slack = max(p.resolution or 0.0, FOLLOWS * ((p.high or 0.0) - (p.low or 0.0)))
        try:
            apart = abs(convert(seen.value, seen.unit, p.unit) - convert(asked.value, asked.unit, p.unit))
        except UnitError as error:
            wrong.append(f"{p.name}: {error}")
            continue
        if not apart <= slack:
            wrong.append(f"{p.name}: {seen} for {asked}")
    wrong += [
        f"{name}: {seen!r} for {order.choices[name]!r}"
        for name, seen in result.applied_choices.items()
        if name in order.choices and seen != order.choices[name]
    ]
    return bench.that("applied follows what is asked", not wrong, "; ".join(wrong))


async def _found(bench: Bench) -> None:
    """Carry out an order, open the session anew, and look the order up as after a crash."""
    if not isinstance(bench.instrument, Recoverable):
        return
    order, events = bench.another(), QuietEvents()
    result = await bench.instrument.run(order, events)
    await bench.instrument.close()
    await bench.instrument.open()
    where = await bench.instrument.lookup(order.key, events.handles[-1] if events.handles else None)
    same = isinstance(where, Finished) and readings_of(where.result) == readings_of(result)
    bench.that("a finished order is found", same or isinstance(where, Unsure), repr(where))


async def _other_units(bench: Bench, first: Result) -> None:
    other = in_other_units(bench.capability, bench.good)
    if other is None:
        return
    result = await bench.instrument.run(other, QuietEvents())
    units = {p.name: p for p in bench.capability.parameters if p.name in other.settings}
    apart = [name for name, p in units.items() if not _close(result.applied.get(name), first.applied.get(name), p.unit)]
    bench.that("units of orders are converted", not apart, f"{', '.join(apart)} in {describe_order(other)}")


def _close(one: Quantity | None, other: Quantity | None, unit: str) -> bool:
    if one is None or other is None:
        return False
    a, b = convert(one.value, one.unit, unit), convert(other.value, other.unit, unit)
    return math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-9)


async def _edges(bench: Bench) -> None:
    for share in (-0.9, 0.9):
        order = edge_order(bench.capability, bench.good, bench.window, share)
        if order is None:
            continue
        try:
            result = await bench.instrument.run(order, QuietEvents())
        except BadData:  # it was carried out: a melted pellet is a fact, no refusal
            bench.that("the declared range is accepted", True)
        except InstrumentError as error:
            seen = f"{type(error).__name__}: {error} ({describe_order(order)})"
            bench.that("the declared range is accepted", False, seen)
        else:
            bench.that("the declared range is accepted", True)
            _follows(bench, order, result)


async def _crowd(bench: Bench) -> None:
    orders = [bench.another() for _ in range(bench.description.slots + 1)][:CROWD]
    jobs = [asyncio.create_task(bench.instrument.run(order, QuietEvents())) for order in orders]
    await asyncio.sleep(0)
    await answers(bench.instrument, bench.findings, "health answers", ALIVE, about=f"while {bench.capability.name}")
    ended = await asyncio.gather(*jobs, return_exceptions=True)
    wrong = [
        repr(end)
        for end in ended
        if not isinstance(end, Result) and not (isinstance(end, Busy) and end.effect is Effect.NONE)
    ]
    wrong += [
        f"the result of {end.key} came for {order.key}"
        for end, order in zip(ended, orders, strict=True)
        if isinstance(end, Result) and end.key != order.key
    ]
    bench.that("more orders than slots are Busy or wait", not wrong, "; ".join(wrong))


async def _stopped(bench: Bench) -> None:
    """Fill the slots with jobs that last, look at the health, and stop them."""
    instrument = bench.instrument
    events = [QuietEvents(REAL) for _ in range(bench.description.slots)][:CROWD]
    jobs = [asyncio.create_task(instrument.run(bench.another(), one)) for one in events]
    await asyncio.sleep(STARTED_S)
    began = time.monotonic()
    health = await instrument.health()
    took = time.monotonic() - began
    if not any(job.done() for job in jobs) and len(jobs) == bench.description.slots:
        fresh = health.state == "busy" and took < HEALTH_S
        bench.that("health says busy during a job", fresh, f"{health} after {took:.2f} s")
    for one in events:
        one.abort = True
    began = time.monotonic()
    await instrument.abort("conformance")
    took = time.monotonic() - began
    bench.that("abort answers within a second", took < ABORT_ANSWER_S, f"{took:.2f} s")
    done, still = await asyncio.wait(jobs, timeout=ABORT_S)
    for job in still:
        job.cancel()
    ends = [job.exception() for job in done if not job.cancelled()]
    wrong = [repr(end) for end in ends if end is not None and not isinstance(end, InstrumentError)]
    wrong += [f"{end!r} of unknown effect" for end in ends if isinstance(end, InstrumentError) and _unknown(end)]
    wrong += [f"still at work after {ABORT_S:g} s"] * len(still)
    bench.that("an abort ends the job", not wrong, "; ".join(wrong))
    await _usable(bench, "usable after an abort")


def _unknown(error: InstrumentError) -> bool:
    return error.effect is Effect.UNKNOWN


async def _late(bench: Bench) -> None:
    """Send an order whose deadline passes, where the job lasts so long."""
    began = time.monotonic()
    job = asyncio.create_task(bench.instrument.run(bench.another(deadline_s=DEADLINE_S), QuietEvents(REAL)))
    await asyncio.wait([job], timeout=DEADLINE_S + LATE_S)
    took = time.monotonic() - began
    if not bench.that("the deadline ends the order", job.done(), f"still at work {took - DEADLINE_S:.1f} s later"):
        with suppress(InstrumentError):
            await bench.instrument.abort("conformance")
        job.cancel()
        await asyncio.wait([job], timeout=ABORT_S)
    elif isinstance(error := job.exception(), TimedOut):
        told = error.effect is not Effect.NONE
        bench.that("a passed deadline is never without effect", told, f"effect {error.effect.value}: {error}")
    elif error is not None and not isinstance(error, InstrumentError):
        bench.that("a passed deadline is never without effect", False, repr(error))
    await _usable(bench, "a good order works", quiet=True)


async def _cancelled(bench: Bench) -> None:
    job = asyncio.create_task(bench.instrument.run(bench.another(), QuietEvents(REAL)))
    await asyncio.sleep(STARTED_S)
    job.cancel()
    await asyncio.wait([job], timeout=LATE_S)
    bench.that("a cancelled order ends", job.done(), f"still awaited {LATE_S:g} s after its cancellation")
    with suppress(InstrumentError):
        await bench.instrument.abort("conformance")  # as the guard does: cancelling stops no device
    await asyncio.wait([job], timeout=ABORT_S)
    if job.done() and not job.cancelled():
        job.exception()
    await _usable(bench, "usable after a cancel")


async def _usable(bench: Bench, rule: str, *, quiet: bool = False) -> None:
    """Send a good order until the instrument takes it."""
    until = time.monotonic() + ABORT_S
    while True:
        try:
            await asyncio.wait_for(bench.instrument.run(bench.another(), QuietEvents()), bench.capability.longest_s)
        except Busy:
            if time.monotonic() < until:
                await asyncio.sleep(0.05)
                continue
            bench.that(rule, False, "it stays busy")
        except InstrumentError as error:
            bench.that(rule, False, f"{type(error).__name__}: {error}")
        else:
            if not quiet:
                bench.that(rule, True)
        return
