"""A lane: one private thread that carries out blocking calls, one after the other.

Most device libraries block and may only be used from one thread. A lane keeps the event loop free, so that deadlines,
aborts and health checks work while a driver blocks. Its thread is a daemon: a device that hangs cannot keep the program
from ending, which a thread of `concurrent.futures` would (the interpreter joins those at exit). At exit lanes are told
to end and get a few seconds: a thread that is inside a C++ library when the interpreter goes aborts the whole process.
"""

from __future__ import annotations

import asyncio
import atexit
import queue
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

LAST_CALL_S = 3.0
"""At exit: long enough for one step of a relaxation, short enough for a person who pressed Ctrl-C."""
ending = threading.Event()
"""Set when the program exits; jobs take it as a request to abort."""
_lanes: weakref.WeakSet[Lane] = weakref.WeakSet()


class Lane:
    """One private thread; it starts with the first call.

    Args:
        name: of the thread, as debuggers show it.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._calls: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._pending = 0
        self._lock = threading.Lock()
        _lanes.add(self)

    @property
    def busy(self) -> bool:
        """Whether a call runs or waits."""
        return self._pending > 0

    def submit(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Queue a call for the thread.

        Args:
            function: what to call.
            *args: its arguments.
            **kwargs: its named arguments.

        Returns:
            The future of its value.
        """
        future: Future[T] = Future()
        with self._lock:
            self._pending += 1
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
                self._thread.start()
            self._calls.put((future, lambda: function(*args, **kwargs)))
        return future

    async def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a call on the thread and wait for it without blocking the event loop.

        A cancelled wait does not stop the call: a blocking device call cannot be interrupted, and the lane stays busy
        until it returns.

        Args:
            function: what to call.
            *args: its arguments.
            **kwargs: its named arguments.

        Returns:
            Its value.
        """
        return await asyncio.shield(asyncio.wrap_future(self.submit(function, *args, **kwargs)))

    async def close(self) -> None:
        """Let the thread end after what is queued, and wait for it a moment; a later call starts a new one."""
        thread = self.end()
        if thread is not None:
            await asyncio.to_thread(thread.join, LAST_CALL_S)

    def end(self) -> threading.Thread | None:
        """Let the thread end after what is queued, and return it; None where there is none."""
        with self._lock:
            thread, self._thread = self._thread, None
            if thread is not None:
                self._calls.put(None)
                self._calls = queue.SimpleQueue()
        return thread

    def _work(self) -> None:
        calls = self._calls
        while (item := calls.get()) is not None:
            future, call = item
            try:
                value = call()
            except BaseException as error:  # noqa: BLE001  whatever the driver raises belongs to the caller
                self._done()
                future.set_exception(error)
            else:
                self._done()
                future.set_result(value)

    def _done(self) -> None:
        with self._lock:  # before the future is set: whoever waits for it must find the lane free
            self._pending -= 1


@atexit.register
def _end_all() -> None:
    ending.set()
    threads = [thread for lane in tuple(_lanes) if (thread := lane.end()) is not None]
    until = time.monotonic() + LAST_CALL_S
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))
