"""One VISA session that survives what wires do to it.

SCPI has no request numbers: after a time-out the late answer is taken for the answer to the next question, and from
then on every value is wrong (with 5 % of the replies late, 290 of 300 in a measurement of ours). So a session ends with
any time-out, and with any answer that nobody asked for; it is opened again, and the device must say who it is before
the next question. Questions are asked again then; what could move something is sent once and never again.

pyvisa (MIT) with pyvisa-py (MIT); ``pip install 'matloop[scpi]'``.
"""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from instruments.phases import Phases
from instruments.scpi.answers import NUMBER, REFUSED_CODES, error_code, identity, mapped, number, pyvisa_library, stray
from instruments.sequence import pause
from instruments.sync import Job
from orchestrator.domain import Health, Identity
from orchestrator.errors import (
    Aborted,
    Fault,
    InstrumentError,
    NotConnected,
    ProtocolDesync,
    Rejected,
    TimedOut,
)

IDENTIFY_S = 1.5
"""A dead address must be known as such within two seconds; pyvisa-py opens a dead port without an error."""
STALE_LINES = 8
"""Answers to earlier questions that may stand before the one to ``*IDN?`` on a serial line, which reopening keeps."""
SETTLE_S = 0.02
"""After a reopening: long enough for a second copy of the identity to arrive."""
HEALTH_S = 0.3
"""Patience of a health question: the whole of `health` takes less than a second."""
LONGEST_QUEUE = 64
LOST = (NotConnected, TimedOut, ProtocolDesync)


class ScpiSession:
    """A line to one device; may be used from several threads, one question at a time.

    Args:
        address: VISA resource, such as ``TCPIP::10.0.0.7::5025::SOCKET``, ``ASRL/dev/ttyUSB0::INSTR`` or
            ``USB0::0x0957::0x17A6::MY1::INSTR``.
        expect: regular expression that the identity must contain.
        identify: the question for it.
        timeout_s: longest wait in seconds for one answer.
        retries: how often a question is asked again, each time with twice the patience.
        terminator: ends a command and an answer.
        library: ``@py`` is pyvisa-py; ``@ivi`` the vendor's VISA.
        baud_rate: of a serial line.
    """

    def __init__(
        self,
        address: str,
        *,
        expect: str = ".",
        identify: str = "*IDN?",
        timeout_s: float = 1.0,
        retries: int = 2,
        terminator: str = "\n",
        library: str = "@py",
        baud_rate: int = 9600,
    ) -> None:
        self.address = address
        self.timeout_s = timeout_s
        self.phases = Phases()
        self.reopened = 0
        self._identify = identify
        self._expect = re.compile(expect)
        self._retries = retries
        self._terminator = terminator
        self._library = library
        self._baud_rate = baud_rate
        self._resource: Any = None
        self._known = ""
        self._closed = False
        self._lock = threading.RLock()
        self._job: Job | None = None

    # the link

    def open(self) -> Identity:
        """Make the link and ask who is there.

        Returns:
            Manufacturer and type as name, serial number and firmware, from the four fields of ``*IDN?``.

        Raises:
            NotConnected: nobody answers, or somebody else.
        """
        with self._lock:
            self._drop()
            self._known, self._closed = "", False
            self._connect()
            return identity(self._known)

    def close(self) -> None:
        """Give the link back."""
        # A thread that is inside a question holds the lock at most for its time-out; after that the link is taken away.
        self._closed = True  # that thread must not open it again
        held = self._lock.acquire(timeout=self.timeout_s)
        try:
            self._drop()
        finally:
            if held:
                self._lock.release()

    # questions and commands

    def query(self, command: str, *, timeout_s: float | None = None, retries: int | None = None) -> str:
        """Ask, and ask again on a fresh session where no answer came.

        Args:
            command: the question; it must not move anything.
            timeout_s: another patience than the session's, in seconds.
            retries: another number than the session's.

        Returns:
            The answer without its terminator and surrounding blanks.

        Raises:
            TimedOut: no answer in time.
            NotConnected: the link is gone.
            ProtocolDesync: the answer cannot be read.
        """
        patience = timeout_s or self.timeout_s
        with self._lock:
            for left in range(self._retries if retries is None else retries, -1, -1):
                try:
                    if self._resource is None:
                        self._connect()
                    return self._ask(command, patience)
                except LOST:
                    if not left:
                        raise
                    patience *= 2  # a device that was slow once may be slow again
        raise AssertionError  # the loop returns or raises

    def number(self, command: str, *, scale: float = 1.0, pattern: re.Pattern[str] = NUMBER) -> float:
        """Ask for a number.

        Args:
            command: the question.
            scale: what the device's number is multiplied with.
            pattern: its first group is the number; the whole answer must match.

        Returns:
            The number times `scale`.

        Raises:
            BadData: the answer is no finite number.
        """
        return number(self.query(command), command, scale=scale, pattern=pattern)

    def write(self, command: str) -> None:
        """Send a command that has no answer, once; it is never sent again by itself.

        Raises:
            NotConnected: the link is gone; whether the command arrived is not known.
        """
        with self._lock:
            if self._resource is None:
                self._connect()
            self._exchange(command, None)

    def set(self, command: str, query: str, value: float, *, tolerance: float = 1e-6) -> float:
        """Send a set-point and read it back.

        Args:
            command: with the number in it.
            query: asks for the set-point.
            value: what was asked for.
            tolerance: how far the device may be off, absolute.

        Returns:
            The set-point as the device has it.

        Raises:
            Rejected: the device has another one.
        """
        self.write(command)
        seen = self.number(query)
        if not abs(seen - value) <= tolerance * (1 + 1e-9):
            message = f"{command!r} was sent and {query!r} answers {seen:g}: the device did not take {value:g}"
            raise Rejected(message)
        return seen

    def raise_errors(self, query: str = "SYST:ERR?") -> None:
        """Ask the error queue, and raise what stands in it.

        Raises:
            Rejected: a command was not carried out.
            Fault: the device reports anything else.
        """
        # A lost answer took the error with it: after the start, asking again would find an empty queue.
        answer = self.query(query, retries=0 if self.phases.place == "sent" else None)
        code = error_code(answer, query)
        if code:
            message = f"the device reports {answer}"
            raise Rejected(message) if code in REFUSED_CODES else Fault(message)

    # one order, for drivers in Python

    @contextlib.contextmanager
    def order(self, job: Job, *, abort: str = "", errors: str = "SYST:ERR?") -> Iterator[None]:
        """Carry out one order inside: errors get the effect that they have at their place, and an abort is sent.

        Args:
            job: looked at for an abort.
            abort: command that halts the device; none where there is nothing to halt.
            errors: question to the error queue, which is emptied first; none where there is no queue.
        """
        self._job = job
        with self.phases:
            if errors:
                self._empty(errors)
            try:
                yield
            except (Aborted, TimedOut):
                if abort and self.phases.place in {"sent", "working"}:
                    self.write(abort)
                raise
            finally:
                self._job = None

    def start(self, command: str, errors: str = "SYST:ERR?") -> None:
        """Send the start, exactly once, and have the device confirm it.

        Args:
            command: that starts.
            errors: question to the error queue.

        Raises:
            Rejected: the device refused; nothing moved.
            TimedOut: it did not confirm; nobody knows.
        """
        with self._lock:
            if self._resource is None:
                self._connect()  # before the place changes: a dead link is known before anything is sent
            self.phases.sent()
            self._exchange(command, None)
            self.raise_errors(errors)
            self.phases.working()

    def wait(self, query: str, done: Callable[[str], bool], *, every_s: float = 0.2, at_most_s: float = 3600.0) -> None:
        """Ask until the device has finished; inside of `order`.

        Args:
            query: the question.
            done: says of the answer whether the work is done.
            every_s: seconds between two questions.
            at_most_s: seconds.

        Raises:
            Aborted: the campaign wants the order to end.
            TimedOut: it does not finish.
        """
        until = time.monotonic() + at_most_s
        while not done(self.query(query)):
            if time.monotonic() > until:
                message = f"{query!r} did not say within {at_most_s:g} s that the work is done; look at the device"
                raise TimedOut(message)
            if self._job is None:
                time.sleep(every_s)
            else:
                pause(self._job, every_s)
        self.phases.done()

    def settle(
        self, query: str, goal: float, *, within: float, every_s: float = 0.2, at_most_s: float = 3600.0
    ) -> None:
        """Ask until a number is close to a goal; inside of `order`.

        Args:
            query: the question.
            goal: number that the device is to reach.
            within: how close.
            every_s: seconds between two questions.
            at_most_s: seconds.

        Raises:
            Aborted: the campaign wants the order to end.
            TimedOut: it does not get there.
        """
        self.wait(query, lambda a: abs(number(a, query) - goal) <= within, every_s=every_s, at_most_s=at_most_s)

    def health(self, query: str = "*OPC?") -> Health:
        """Ask something quickly; an error says that the device is not there.

        Args:
            query: any question that has an answer.
        """
        self.query(query, timeout_s=HEALTH_S, retries=0)
        return Health("ready")

    # inside

    def _empty(self, errors: str) -> None:
        """Take out of the error queue what stands there from earlier: it is not this order's."""
        for _ in range(LONGEST_QUEUE):
            if error_code(self.query(errors), errors) == 0:
                return
        message = f"the error queue of {self.address} does not become empty; look at the device"
        raise Fault(message)

    def _connect(self) -> None:
        if self._closed:
            message = f"the session with {self.address} was closed"
            raise NotConnected(message)
        pyvisa = pyvisa_library()
        serial = {"baud_rate": self._baud_rate} if self.address.upper().startswith("ASRL") else {}
        try:
            self._resource = pyvisa.ResourceManager(self._library).open_resource(
                self.address,
                open_timeout=int(IDENTIFY_S * 1000),
                read_termination=self._terminator,
                write_termination=self._terminator,
                **serial,
            )
            answer = self._who()
        except InstrumentError as error:
            self._drop()
            message = f"{self.address}: nobody answers {self._identify!r} ({error}); is it switched on and free?"
            raise NotConnected(message) from error
        except Exception as error:
            self._drop()
            message = f"{self.address} cannot be opened: {type(error).__name__}: {error}"
            raise NotConnected(message) from error
        if not self._expect.search(answer) or (self._known and answer != self._known):
            self._drop()
            wanted = repr(self._known) if self._known else f"something like {self._expect.pattern!r}"
            message = f"{self.address} says it is {answer!r}; {wanted} was expected; look at the address and the cables"
            raise NotConnected(message)
        self.reopened += bool(self._known)
        self._known = answer

    def _who(self) -> str:
        # On a serial line answers to earlier questions may still come; a device answers in order, so they come first.
        until = time.monotonic() + IDENTIFY_S
        first = answer = self._exchange(self._identify, IDENTIFY_S)
        for _ in range(STALE_LINES):
            if answer == self._known or (not self._known and self._expect.search(answer)):
                break
            try:
                answer = self._exchange(None, max(0.001, min(self.timeout_s, until - time.monotonic())))
            except TimedOut:
                return first
        if self._known:
            time.sleep(SETTLE_S)
            self._discard()
        return answer

    def _ask(self, command: str, timeout_s: float) -> str:
        if stray(self._resource):
            self._drop()
            message = f"before {command!r} was asked, {self.address} had sent something that nobody asked for"
            raise ProtocolDesync(message)
        return self._exchange(command, timeout_s)

    def _exchange(self, command: str | None, timeout_s: float | None) -> str:
        """Send and, where a time-out is given, read one line; any failure ends the session."""
        resource, asked = self._resource, f" to {command!r}" if command else ""
        if resource is None:  # another thread has given the link back
            message = f"the session with {self.address} was closed"
            raise NotConnected(message)
        try:
            if command is not None:
                resource.write(command)
            if timeout_s is None:
                return ""
            resource.timeout = max(1, int(timeout_s * 1000))
            return str(resource.read()).strip()
        except Exception as error:
            self._drop()
            raise mapped(error, f"{self.address}{asked}", timeout_s) from error

    def _discard(self) -> None:
        while stray(self._resource):
            self._exchange(None, self.timeout_s)

    def _drop(self) -> None:
        resource, self._resource = self._resource, None
        if resource is not None:
            with contextlib.suppress(Exception):  # the line may be gone already, each library says so in its own way
                resource.close()
