"""The clock of a campaign: the wall's, or a virtual one on which a simulated campaign takes no time.

No decision compares the wall clocks of two machines: durations come from `monotonic`, and `now` is only ever stored.

The virtual clock is an event loop whose time jumps to the next timer whenever nothing else can go on, so that a
campaign with simulated durations is deterministic and costs no waiting. Work on a thread takes no virtual time: time
stands still while a thread works. An instrument says by `events.sleep` that it waits rather than works.
"""

from __future__ import annotations

import asyncio
import selectors
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Executor as Pool
from contextlib import contextmanager
from typing import Any, TypeVar, TypeVarTuple, Unpack

Ts = TypeVarTuple("Ts")
T = TypeVar("T")
EPOCH_US = 1_767_225_600_000_000  # 2026-01-01T00:00Z: where virtual time starts; a fixed start keeps runs equal
POLL_S = 0.25  # STOP has to reach a running step within a second, on a busy computer too
VIRTUAL_POLL_S = 60.0  # a virtual hour passes in an instant: looking every virtual second would be all the work


class Clock:
    """The real clock."""

    poll_s = POLL_S
    """Seconds between two looks at whether the campaign was stopped."""

    def now(self) -> int:
        """Return the time in UTC, in microseconds since 1970; for storing, never for measuring durations."""
        return time.time_ns() // 1000

    def monotonic(self) -> float:
        """Return seconds since an arbitrary start, which no clock setting disturbs."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)

    @contextmanager
    def at_work(self, orders: int = 1) -> Iterator[None]:
        """Count an order as being worked on: virtual time must not pass meanwhile; -1 for one that only waits."""
        del orders
        yield


class VirtualClock(Clock):
    """The clock inside `run_virtual`.

    Args:
        start: when the virtual world begins, UTC in microseconds.
    """

    poll_s = VIRTUAL_POLL_S

    def __init__(self, start: int = EPOCH_US) -> None:
        self._start = start

    def now(self) -> int:
        """Return the virtual time in UTC, in microseconds since 1970."""
        return self._start + round(self.monotonic() * 1_000_000)

    def monotonic(self) -> float:
        """Return the virtual seconds since the loop began."""
        return asyncio.get_running_loop().time()

    @contextmanager
    def at_work(self, orders: int = 1) -> Iterator[None]:
        """Count an order as being worked on, or with -1 as waiting."""
        loop = asyncio.get_running_loop()
        if not isinstance(loop, VirtualLoop):
            message = "a VirtualClock works only inside run_virtual; use Clock() on an ordinary event loop"
            raise TypeError(message)
        loop.orders_at_work += orders
        try:
            yield
        finally:
            loop.orders_at_work -= orders


class _JumpingSelector(selectors.DefaultSelector):
    """A selector that does not wait for timers: it moves the loop's time to them instead."""

    def __init__(self) -> None:
        super().__init__()
        self.jump: Callable[[float], bool] = lambda _: False

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Return what is ready; where only a timer could go on, jump to it."""
        ready = super().select(0)
        if ready or (timeout is not None and (timeout <= 0 or self.jump(timeout))):
            return ready
        return super().select(None)  # a thread works or a peer is awaited: only the real world can go on


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop on virtual time, which starts at 0."""

    def __init__(self) -> None:
        selector = _JumpingSelector()
        self._seconds = 0.0
        self._pool_calls = 0
        self.orders_at_work = 0
        self._bystanders = frozenset(threading.enumerate())
        super().__init__(selector)
        selector.jump = self._jump

    def time(self) -> float:
        """Return the virtual time in seconds."""
        return self._seconds

    def run_in_executor(self, executor: Pool | None, func: Callable[[Unpack[Ts]], T], *args: *Ts) -> asyncio.Future[T]:
        """Run a function on a pool's thread; virtual time stands still until it is done."""
        future: asyncio.Future[T] = super().run_in_executor(executor, func, *args)
        self._pool_calls += 1
        future.add_done_callback(self._pool_call_done)
        return future

    def _pool_call_done(self, _: object) -> None:
        self._pool_calls -= 1

    def _jump(self, seconds: float) -> bool:
        """Move the time, unless a thread may still bring something about at the present virtual instant."""
        if self._pool_calls or (self.orders_at_work > 0 and self._drivers_have_threads()):
            return False
        self._seconds += seconds
        return True

    def _drivers_have_threads(self) -> bool:
        """Say whether there are threads, begun under this loop, that are not the loop's own idle pool."""
        return any(
            thread not in self._bystanders and not thread.name.startswith("asyncio_")
            for thread in threading.enumerate()
        )


def run_virtual(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in virtual time.

    Args:
        main: gives its executor a `VirtualClock`; `asyncio.sleep` is virtual in it too.

    Returns:
        What the coroutine returns.
    """
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)
