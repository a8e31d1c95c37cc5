"""What SCPI answers mean, and what pyvisa's errors do."""

from __future__ import annotations

import math
import re
import select
from typing import Any

from orchestrator.domain import Identity
from orchestrator.errors import BadData, InstrumentError, NotConnected, PluginError, ProtocolDesync, TimedOut

NO_NUMBER = 9.9e37
"""SCPI 1999, 7.2.1.4: 9.9E37 stands for infinity, 9.91E37 for not a number."""
NUMBER = re.compile(r"\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*")
REFUSED_CODES = (-200, -213, -221, -222, -224)
"""Standard codes of commands that were not carried out: execution error, init ignored, conflict, out of range."""


def pyvisa_library() -> Any:
    """Import pyvisa.

    Raises:
        PluginError: it is not installed.
    """
    try:
        import pyvisa  # noqa: PLC0415  an extra, and half a second
        import pyvisa_py  # type: ignore[import-untyped]  # noqa: F401, PLC0415  pyvisa looks for it only when it opens
    except ImportError as error:
        message = f"SCPI and VISA devices need pyvisa ({error}); type: pip install 'matloop[scpi]'"
        raise PluginError(message) from error
    return pyvisa


def identity(answer: str) -> Identity:
    """Read the answer to ``*IDN?``: manufacturer, type, serial number, firmware.

    Args:
        answer: of the device; one that keeps to no rule becomes the name.
    """
    fields = [field.strip() for field in answer.split(",")]
    if len(fields) < 4:  # noqa: PLR2004  IEEE 488.2, 10.14
        return Identity(answer)
    return Identity(f"{fields[0]} {fields[1]}", fields[2], fields[3])


def error_code(answer: str, query: str) -> int:
    """Read the number at the beginning of an error queue's answer; 0 for none.

    Args:
        answer: such as ``-222,"Data out of range"``.
        query: that it answers, for messages.

    Raises:
        ProtocolDesync: there is no number.
    """
    found = re.match(r"\s*([-+]?\d+)", answer)
    if found is None:
        message = f"{query!r} answers {answer!r}; a number and a text were expected"
        raise ProtocolDesync(message)
    return int(found[1])


def number(answer: str, command: str, *, scale: float = 1.0, pattern: re.Pattern[str] = NUMBER) -> float:
    """Read a number out of an answer.

    Args:
        answer: of the device.
        command: that it answers, for messages.
        scale: what the device's number is multiplied with.
        pattern: its first group is the number; the whole answer must match.

    Raises:
        BadData: it is no finite number.
    """
    found = pattern.fullmatch(answer)
    try:
        value = float(found[1]) if found else math.nan
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or abs(value) >= NO_NUMBER:
        message = f"{command!r} answers {answer!r}; a finite number was expected"
        raise BadData(message)
    return value * scale


def stray(resource: Any) -> bool:
    """Say whether an answer waits that nobody asked for.

    Args:
        resource: of pyvisa.
    """
    try:
        session = resource.visalib.sessions[resource.session]
    except (AttributeError, KeyError):
        return False  # a vendor's VISA; GPIB and USB keep questions and answers apart themselves
    if getattr(session, "_pending_buffer", b""):
        return True
    line: Any = getattr(session, "interface", None)
    if hasattr(line, "in_waiting"):
        return bool(line.in_waiting)
    return hasattr(line, "recv") and bool(select.select([line], [], [], 0.0)[0])


def mapped(error: Exception, where: str, timeout_s: float | None) -> InstrumentError:
    """Say in our words what pyvisa and what lies under it raise.

    Args:
        error: of the library; few of them are its own.
        where: for the message.
        timeout_s: that was waited.
    """
    code = getattr(error, "error_code", None)
    if isinstance(error, TimeoutError) or (code is not None and "TMO" in str(getattr(error, "abbreviation", ""))):
        return TimedOut(f"no answer from {where} within {timeout_s or 0:g} s; the session is opened anew")
    if isinstance(error, OSError) or code is not None:
        return NotConnected(f"the link with {where} is lost: {type(error).__name__}: {error}")
    if isinstance(error, UnicodeDecodeError):
        return ProtocolDesync(f"the answer of {where} is no text: {error}; the session is opened anew")
    return ProtocolDesync(f"{where}: {type(error).__name__}: {error}; the session is opened anew")
