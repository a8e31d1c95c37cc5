"""Level 1 of the conformance checks: the link, and orders that must be refused."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable
from pathlib import Path
from typing import TypeVar

from instruments.conformance.orders import QuietEvents, Window, bad_orders, describe_order, good_order, new_key
from instruments.conformance.rules import Findings
from orchestrator.domain import Absent, Capability, Description, Health, Order, Recovery, Unsure
from orchestrator.errors import Effect, NotConnected, Rejected
from orchestrator.protocols import Instrument, Recoverable

T = TypeVar("T")
OPEN_S = 60.0
"""Loading a potential for the first time takes seconds; no device takes a minute to say who it is."""
DEAD_S = 2.0
HEALTH_S = 1.0
REFUSE_S = 5.0
ABORT_S = 10.0
LOOP_S = 0.1
"""A campaign watches other instruments on the same event loop."""
WATCH_S = 0.005
TRIES = 3
"""A busy computer holds a loop up now and then; a driver that blocks does it each time."""
LEFT_S = 2.0
ALIVE = ("ready", "busy", "interlocked")
NOT_TRIED = "not tried: a real instrument; allow it with --yes NAME, in a test with send=True"


async def passive(
    instrument: Instrument,
    description: Description,
    findings: Findings,
    *,
    order: Order | None,
    send: bool,
    window: Window | None,
    dead: Instrument | None,
) -> None:
    """Check the link, and orders that must be refused.

    Args:
        instrument: built, not opened.
        description: what it declares.
        findings: to add to.
        order: one that works.
        send: whether orders may be sent.
        window: what a good order may set.
        dead: the same driver with an address at which nobody answers.
    """
    before = Left()
    await answers(instrument, findings, "health answers before opening", ("offline", "unknown", "fault", *ALIVE))
    first, blocked = await watched(instrument.open(), OPEN_S)
    findings.identity = first
    for _ in range(TRIES - 1):  # a library that loads holds the loop up once
        if blocked >= LOOP_S:
            await instrument.close()
            blocked = min(blocked, (await watched(instrument.open(), OPEN_S))[1])
    findings.that("the identity has a name", bool(first.name.strip()), repr(first))
    findings.that("opening leaves the event loop free", blocked < LOOP_S, f"blocked for {blocked:.2f} s")
    findings.that("opening twice is harmless", await instrument.open() == first, "the second identity differs")
    await answers(instrument, findings, "health answers", ALIVE)
    findings.that("abort when idle is harmless", *await _quiet(instrument.abort("conformance"), ABORT_S))
    await answers(instrument, findings, "health answers", ALIVE, about="after an abort")
    if isinstance(instrument, Recoverable) and description.recovery is Recovery.QUERYABLE:
        where = await instrument.lookup(new_key(), None)
        findings.that("an unknown key is absent or unsure", isinstance(where, Absent | Unsure), repr(where))
    for capability in description.capabilities:
        named = order is not None and order.capability == capability.name
        good = order if named and order is not None else good_order(capability, window=window)
        await _refusals(instrument, capability, good, findings, send=send)
    findings.that("closing twice is harmless", *await _quiet(_twice(instrument), OPEN_S))
    again = await asyncio.wait_for(instrument.open(), OPEN_S)
    findings.that("it opens again as the same", again == first, f"{again} after {first}")
    await instrument.close()
    findings.none_of("nothing is left after closing", await before.more())
    if dead is not None:
        findings.that("a dead address is not connected", *await _refused(dead))


async def answers(
    instrument: Instrument, findings: Findings, rule: str, states: tuple[str, ...], *, about: str = ""
) -> bool:
    """Ask for the health, and note whether it came in time and as it must be.

    Args:
        instrument: to ask.
        findings: to add to.
        rule: that is checked.
        states: that are right.
        about: when it was asked.

    Returns:
        Whether it is right.
    """
    began = time.monotonic()
    try:
        health = await asyncio.wait_for(instrument.health(), 3 * HEALTH_S)
    except Exception as error:  # noqa: BLE001  a driver may raise anything; that is what is reported
        return findings.that(rule, False, f"{type(error).__name__}: {error}; health answers, it does not raise")
    took = time.monotonic() - began
    fine = isinstance(health, Health) and health.state in states and took < HEALTH_S
    return findings.that(rule, fine, f"{health} after {took:.2f} s", about=about)


class Left:
    """What a driver must not leave behind: threads of its own and TCP connections."""

    def __init__(self) -> None:
        self._threads = set(threading.enumerate())
        self._connections = _connections()

    async def more(self) -> list[str]:
        """Wait a moment, and return what is more than at the beginning."""
        until = time.monotonic() + LEFT_S
        while True:
            # The event loop's own pool (asyncio.to_thread) stays for the next call.
            threads = [t for t in set(threading.enumerate()) - self._threads if not t.name.startswith("asyncio_")]
            left = [f"the thread {thread.name}" for thread in threads]
            more = len(_connections() - self._connections)
            left += [f"{more} TCP connections"] if more else []
            if not left or time.monotonic() > until:
                return left
            await asyncio.sleep(0.02)


def _connections() -> set[str]:
    """Return this process's TCP sockets; none where the system does not tell."""
    try:
        tables = [Path(f"/proc/self/net/{name}").read_text() for name in ("tcp", "tcp6")]
    except OSError:
        return set()
    inodes = {f"socket:[{line.split()[9]}]" for table in tables for line in table.splitlines()[1:]}
    own = set()
    for entry in Path("/proc/self/fd").iterdir():
        try:
            own.add(str(entry.readlink()))
        except OSError:  # closed meanwhile
            continue
    return own & inodes


async def watched(work: Awaitable[T], limit_s: float) -> tuple[T, float]:
    """Await something and tell how long it held the event loop up.

    Args:
        work: what to await.
        limit_s: after this many seconds it is given up.

    Returns:
        Its value, and seconds.
    """
    worst = [0.0]
    watch = asyncio.create_task(_watch(worst))
    await asyncio.sleep(0)  # the watch must have begun before a driver can block
    try:
        value = await asyncio.wait_for(work, limit_s)
        await asyncio.sleep(WATCH_S)
    finally:
        watch.cancel()
    return value, worst[0]


async def _watch(worst: list[float]) -> None:
    while True:
        began = time.monotonic()
        await asyncio.sleep(WATCH_S)
        worst[0] = max(worst[0], time.monotonic() - began - WATCH_S)


async def _refusals(
    instrument: Instrument, capability: Capability, good: Order, findings: Findings, *, send: bool
) -> None:
    for rule, about, bad in bad_orders(capability, good):
        if not send:
            findings.that(rule, None, NOT_TRIED, about=about)
            continue
        try:
            await asyncio.wait_for(instrument.run(bad, QuietEvents()), REFUSE_S)
        except Rejected as error:
            effect = f"the effect is {error.effect.value}; a refusal has none"
            findings.that(rule, error.effect is Effect.NONE, effect, about=about)
        except Exception as error:  # noqa: BLE001  a driver may raise anything; that is what is reported
            findings.that(rule, False, f"{type(error).__name__} instead of Rejected: {error}", about=about)
        else:
            findings.that(rule, False, f"carried out {describe_order(bad)}", about=about)


async def _refused(dead: Instrument) -> tuple[bool, str]:
    began = time.monotonic()
    try:
        identity = await asyncio.wait_for(dead.open(), 3 * DEAD_S)
    except NotConnected as error:
        took = time.monotonic() - began
        return took < DEAD_S and error.effect is Effect.NONE, f"after {took:.1f} s, effect {error.effect.value}"
    except Exception as error:  # noqa: BLE001  a driver may raise anything; that is what is reported
        return False, f"{type(error).__name__} instead of NotConnected: {error}"
    else:
        return False, f"it opened as {identity}"
    finally:
        await _quiet(dead.close(), ABORT_S)


async def _twice(instrument: Instrument) -> None:
    await instrument.close()
    await instrument.close()


async def _quiet(work: Awaitable[None], limit_s: float) -> tuple[bool, str]:
    try:
        await asyncio.wait_for(work, limit_s)
    except Exception as error:  # noqa: BLE001  a driver may raise anything; that is what is reported
        return False, f"{type(error).__name__}: {error}"
    return True, ""
