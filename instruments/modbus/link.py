"""One Modbus link, over TCP or a serial line, that is opened anew after anything went wrong.

Modbus/TCP numbers its requests; RTU does not, so that only silence separates a late answer from the next one. A link
that missed an answer is therefore closed, and on a serial line opened again only after the line has been silent; then
the register of known value must be right before the next question. The library's own retries are switched off: what
could move something is sent once.

pymodbus (BSD-3); ``pip install 'matloop[modbus]'``.
"""

from __future__ import annotations

import contextlib
import math
import re
import struct
import threading
import time
from typing import Any

from instruments.modbus.register_map import Command, Known, Register, Who
from orchestrator.domain import Identity
from orchestrator.errors import (
    BadData,
    Busy,
    Fault,
    InstrumentError,
    NotConnected,
    PluginError,
    ProtocolDesync,
    Rejected,
    TimedOut,
)

CONNECT_S = 1.2
"""A dead address must be known as such within two seconds."""
SILENCE_S = 0.05
LOST = (NotConnected, TimedOut, ProtocolDesync)
BUSY_CODES = (5, 6)
"""Exception codes 'acknowledge' and 'server device busy'."""
REFUSED_CODES = (1, 2, 3)
"""Exception codes 'illegal function', 'illegal data address', 'illegal data value'."""
FORMATS = {
    "int16": "h", "uint16": "H", "int32": "i", "uint32": "I",
    "int64": "q", "uint64": "Q", "float32": "f", "float64": "d",
}  # fmt: skip


class ModbusLink:
    """A link to one device; may be used from several threads, one request at a time.

    Args:
        address: ``HOST:PORT``, or the name of a serial line such as ``/dev/ttyUSB0``.
        who: what shows that it is the right device.
        device_id: the device's number on its line.
        word_order: of long numbers.
        timeout_s: longest wait in seconds for one answer.
        retries: how often a reading is tried again on a fresh link.
        baud_rate: of a serial line.
        parity: of a serial line: N, E or O.
    """

    def __init__(
        self,
        address: str,
        who: Who,
        *,
        device_id: int = 1,
        word_order: str = "big",
        timeout_s: float = 1.0,
        retries: int = 2,
        baud_rate: int = 9600,
        parity: str = "N",
    ) -> None:
        self.address = address
        self.timeout_s = timeout_s
        self.reopened = 0
        self._who = who
        self._device_id = device_id
        self._word_order = word_order
        self._retries = retries
        self._line = (baud_rate, parity)
        self._client: Any = None
        self._identity: Identity | None = None
        self._dirty = False
        self._closed = False
        self._lock = threading.RLock()

    def open(self) -> Identity:
        """Make the link and prove it.

        Raises:
            NotConnected: nobody answers, or not the right device.
        """
        with self._lock:
            self._drop()
            self._identity, self._closed = None, False
            return self._connect()

    def close(self) -> None:
        """Give the link back."""
        self._closed = True  # a thread that is inside a request must not open it again
        held = self._lock.acquire(timeout=self.timeout_s)
        try:
            self._drop()
        finally:
            if held:
                self._lock.release()

    def read(self, place: Register, *, timeout_s: float | None = None, retries: int | None = None) -> float:
        """Read a number, again on a fresh link where no answer came.

        Args:
            place: where it stands.
            timeout_s: another patience than the link's, in seconds.
            retries: another number than the link's.

        Returns:
            The number, scaled.

        Raises:
            BadData: it is not finite.
        """
        with self._lock:
            for left in range(self._retries if retries is None else retries, -1, -1):
                try:
                    if self._client is None:
                        self._connect()
                    return self._read(place, timeout_s or self.timeout_s)
                except (*LOST, Rejected, Fault):  # one flipped bit makes an answer a refusal; a true one comes again
                    if not left:
                        raise
        raise AssertionError  # the loop returns or raises

    def write(self, place: Register, value: float) -> None:
        """Write a number, once.

        Args:
            place: where.
            value: in the unit that `place` scales to.

        Raises:
            Rejected: it does not fit into the register, or the device refuses it.
        """
        raw = (value - place.offset) / place.scale
        if place.table == "coil":
            self._write_coil(place.address, on=bool(round(raw)))
            return
        self._write_words(place.address, self._words(place, raw))

    def command(self, command: Command) -> None:
        """Write what makes something happen, once.

        Args:
            command: what.
        """
        if command.table == "coil":
            self._write_coil(command.address, on=bool(command.value))
            return
        place = Register(address=command.address, type=command.type)
        self._write_words(command.address, self._words(place, float(command.value)))

    # inside

    def _connect(self) -> Identity:
        if self._closed:
            message = f"the link with {self.address} was closed"
            raise NotConnected(message)
        try:
            self._client = self._made()
            if self._dirty:
                self._quiet()
            identity = self._identified()
        except PluginError:
            raise
        except InstrumentError as error:
            self._drop()
            message = f"{self.address}, device {self._device_id}: {error}; is it switched on, and the address right?"
            raise NotConnected(message) from error
        except Exception as error:
            self._drop()
            message = f"{self.address} cannot be opened: {type(error).__name__}: {error}"
            raise NotConnected(message) from error
        if self._identity is not None and identity != self._identity:
            self._drop()
            message = f"{self.address} says it is {identity}; {self._identity} was expected"
            raise NotConnected(message)
        self.reopened += self._identity is not None
        self._identity, self._dirty = identity, False
        return identity

    def _made(self) -> Any:
        try:
            from pymodbus.client import ModbusSerialClient, ModbusTcpClient  # noqa: PLC0415  an extra
        except ImportError as error:
            message = f"Modbus devices need pymodbus ({error}); type: pip install 'matloop[modbus]'"
            raise PluginError(message) from error
        if _is_line(self.address):
            baud_rate, parity = self._line
            return ModbusSerialClient(self.address, baudrate=baud_rate, parity=parity, timeout=CONNECT_S, retries=0)
        host, _, port = self.address.rpartition(":")
        if not host or not port.isdigit():
            message = f"the address {self.address!r} is neither HOST:PORT nor a serial line such as /dev/ttyUSB0"
            raise NotConnected(message)
        return ModbusTcpClient(host, port=int(port), timeout=CONNECT_S, retries=0)

    def _quiet(self) -> None:
        """Wait until a serial line is silent, and throw away what came: RTU cannot tell a late answer."""
        if not _is_line(self.address) or not self._client.connect():
            return
        until = time.monotonic() + 10 * self.timeout_s
        silent_since = time.monotonic()
        while time.monotonic() < until and time.monotonic() - silent_since < self.timeout_s:
            if self._client.socket.in_waiting:
                self._client.socket.reset_input_buffer()
                silent_since = time.monotonic()
            time.sleep(min(SILENCE_S, self.timeout_s / 4))

    def _identified(self) -> Identity:
        if not self._client.connect():
            message = "no connection"
            raise NotConnected(message)
        known = self._who.register_
        if known is not None:
            self._known(known)
        if self._who.expect is None:
            return Identity(f"Modbus device {self._device_id}, {self.address}")
        answer = self._request("the device identification", CONNECT_S, "read_device_information", read_code=1)
        fields = [answer.information.get(i, b"").decode("ascii", "replace") for i in range(3)]
        if not re.search(self._who.expect, " ".join(fields)):
            message = f"the device says it is {' '.join(fields)!r}; something like {self._who.expect!r} was expected"
            raise NotConnected(message)
        return Identity(f"{fields[0]} {fields[1]}", firmware=fields[2])

    def _known(self, known: Known) -> None:
        seen = self._read(known, CONNECT_S)
        if abs(seen - known.equals) <= known.tolerance:
            return
        hint = ""
        if FORMATS[known.type] not in "hH":
            other = "little" if (known.word_order or self._word_order) == "big" else "big"
            try:
                swapped = self._read(known.model_copy(update={"word_order": other}), CONNECT_S)
            except BadData:
                swapped = math.nan
            if abs(swapped - known.equals) <= known.tolerance:
                hint = f"; with word_order: {other} it is right"
        message = f"register {known.address} ({known.table}) holds {seen:g}; {known.equals:g} was expected{hint}"
        raise NotConnected(message)

    def _read(self, place: Register, timeout_s: float) -> float:
        what = f"{place.table} {place.address}"
        bits = place.table in {"coil", "discrete"}
        count = 1 if bits else struct.calcsize(FORMATS[place.type]) // 2
        method = {
            "holding": "read_holding_registers",
            "input": "read_input_registers",
            "coil": "read_coils",
            "discrete": "read_discrete_inputs",
        }[place.table]
        answer = self._request(what, timeout_s, method, address=place.address, count=count)
        if bits:
            return float(answer.bits[0]) * place.scale + place.offset
        words = list(answer.registers)
        if len(words) != count:
            self._drop()
            message = f"{what}: {len(words)} words came, {count} were asked for; the link is opened anew"
            raise ProtocolDesync(message)
        if (place.word_order or self._word_order) == "little":
            words.reverse()
        value = float(struct.unpack(f">{FORMATS[place.type]}", struct.pack(f">{count}H", *words))[0])
        if not math.isfinite(value):
            message = f"{what} holds {value}; a finite number was expected"
            raise BadData(message)
        return value * place.scale + place.offset

    def _words(self, place: Register, raw: float) -> list[int]:
        form = FORMATS[place.type]
        try:
            packed = struct.pack(f">{form}", raw if form in "fd" else round(raw))
        except (struct.error, OverflowError) as error:
            message = f"{raw:g} does not fit into {place.table} {place.address} as {place.type}: {error}"
            raise Rejected(message) from error
        words = list(struct.unpack(f">{len(packed) // 2}H", packed))
        return words[::-1] if (place.word_order or self._word_order) == "little" else words

    def _write_coil(self, address: int, *, on: bool) -> None:
        with self._lock:
            if self._client is None:
                self._connect()
            self._request(f"coil {address}", self.timeout_s, "write_coil", address=address, value=on)

    def _write_words(self, address: int, words: list[int]) -> None:
        with self._lock:
            if self._client is None:
                self._connect()
            what = f"holding {address}"
            if len(words) == 1:
                self._request(what, self.timeout_s, "write_register", address=address, value=words[0])
            else:
                self._request(what, self.timeout_s, "write_registers", address=address, values=words)

    def _request(self, what: str, timeout_s: float, method: str, **arguments: Any) -> Any:
        client = self._client
        if client is None:
            message = f"the link with {self.address} was closed"
            raise NotConnected(message)
        client.comm_params.timeout_connect = timeout_s
        began = time.monotonic()
        try:
            answer = getattr(client, method)(device_id=self._device_id, **arguments)
        except Exception as error:
            self._drop()
            raise self._mapped(error, what, time.monotonic() - began, timeout_s) from error
        if answer.isError():
            raise _refused(what, getattr(answer, "exception_code", 0))
        return answer

    def _mapped(self, error: Exception, what: str, took: float, timeout_s: float) -> InstrumentError:
        self._dirty = True
        where = f"{self.address}, {what}"
        name = type(error).__name__
        if name == "ConnectionException" or isinstance(error, OSError):
            return NotConnected(f"the link with {where} is lost: {error}")
        if name == "ModbusIOException" and took >= 0.9 * timeout_s:
            return TimedOut(f"no answer from {where} within {timeout_s:g} s; the link is opened anew")
        return ProtocolDesync(f"{where}: {name}: {error}; the link is opened anew")

    def _drop(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            with contextlib.suppress(Exception):  # the line may be gone already
                client.close()


def _is_line(address: str) -> bool:
    return address.startswith("/") or re.fullmatch(r"COM\d+", address) is not None


def _refused(what: str, code: int) -> InstrumentError:
    if code in BUSY_CODES:
        return Busy(f"{what}: the device is busy (exception {code})")
    if code in REFUSED_CODES:
        return Rejected(f"{what}: the device refuses (exception {code}: illegal function, address or value)")
    return Fault(f"{what}: the device reports exception {code}")
