"""The faults of simulated instruments: what goes wrong, when, and whether the campaign can see it.

================ ==================================================== =======================================
fault            what happens                                         seen by the campaign as
================ ==================================================== =======================================
busy             at work for somebody else; nothing happened          Busy
not_connected    the link is down; nothing happened                   NotConnected
rejected         refused, each time                                   Rejected
interlocked      a door is open, each time                            Interlocked
fault            the instrument reports a failure, each time          Fault
timed_out_before no answer, and nothing was done                      TimedOut, effect unknown
timed_out        no answer, and the work was done all the same        TimedOut, effect unknown
disconnected     the link breaks while the work goes on               NotConnected, effect unknown
hang             no answer, no abort, no deadline                     the guard's deadline
slow             ten times as long                                    nothing: the value is right
stale            a reading from an hour ago                           BadData: older than the order
wrong_unit       a reading in another dimension                       BadData
times_1000       a prefix lost: mS for S                              BadData, where it leaves the valid range
nan              a reading that is no number                          BadData
partial          an output is missing                                 BadData
wrong_key        the result of another order                          BadData
offset           20 % too little                                      not seen: references, residuals
drift            0.2 % more with each order                           not seen: references
double_effect    the work is done twice                               not seen: the instrument's own log
bad_attachment   the raw file is empty                                not seen: its hash fits
================ ==================================================== =======================================
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Literal

from orchestrator.domain import Attachment, Reading, Result
from orchestrator.errors import Busy, Effect, Fault, Interlocked, NotConnected, Rejected, TimedOut

FaultKind = Literal[
    "busy",
    "not_connected",
    "rejected",
    "interlocked",
    "timed_out",
    "fault",
    "nan",
    "wrong_unit",
    "stale",
    "timed_out_before",
    "disconnected",
    "hang",
    "slow",
    "times_1000",
    "partial",
    "wrong_key",
    "offset",
    "drift",
    "double_effect",
    "bad_attachment",
]
LASTING: tuple[FaultKind, ...] = ("rejected", "interlocked", "fault")
"""Faults that belong to the question: asking again does not help."""
UNSEEN: tuple[FaultKind, ...] = ("offset", "drift", "double_effect", "bad_attachment")
"""Faults that no check of a single result can see."""
STALE_US = 3600 * 1_000_000
LESS = 0.8
DRIFTS = 0.002
SLOWER = 10.0


def raise_before(fault: FaultKind | None) -> None:
    """Refuse an order before anything happens.

    Args:
        fault: that the order meets.

    Raises:
        InstrumentError: of the class of the fault, where it is one of those.
    """
    before = {
        "busy": (Busy, "simulated: at work for somebody else"),
        "not_connected": (NotConnected, "simulated: the link is down"),
        "rejected": (Rejected, "simulated: outside what the instrument takes"),
        "interlocked": (Interlocked, "simulated: the door is open"),
        "fault": (Fault, "simulated: the instrument reports a failure of its own"),
    }
    if fault in before:
        kind, message = before[fault]
        raise kind(message)


def raise_after(fault: FaultKind | None) -> None:
    """Lose the answer of work that was done.

    Args:
        fault: that the order meets.

    Raises:
        InstrumentError: of unknown effect, where the fault is one of those.
    """
    if fault == "timed_out":
        message = "simulated: no answer in time; the work was done all the same"
        raise TimedOut(message)
    if fault == "disconnected":
        message = "simulated: the link broke while the order was at work"
        raise NotConnected(message, effect=Effect.UNKNOWN)


def spoiled(result: Result, fault: FaultKind | None, served: int) -> Result:
    """Spoil a result.

    Args:
        result: as the inner instrument gave it.
        fault: that the order meets.
        served: how many orders this instrument has carried out.
    """
    if fault == "wrong_key":
        return replace(result, key=f"{result.key}-of-another-order")
    if fault == "bad_attachment":
        empty = tuple(replace(one, content=b"") for one in result.attachments)
        return replace(result, attachments=empty or (Attachment("raw.bin", "application/octet-stream", b""),))
    if fault is None or not result.readings:
        return result
    if fault == "partial":
        return replace(result, readings=result.readings[1:])
    return replace(result, readings=(_wrong(result.readings[0], fault, served), *result.readings[1:]))


def _wrong(reading: Reading, fault: FaultKind, served: int) -> Reading:
    factors = {"times_1000": 1000.0, "offset": LESS, "drift": 1.0 + DRIFTS * served, "nan": float("nan")}
    if fault in factors:
        return replace(reading, value=reading.value * factors[fault])
    if fault == "wrong_unit":
        return replace(reading, unit="kelvin" if reading.unit != "kelvin" else "meter")
    if fault == "stale":
        return replace(reading, measured_at=time.time_ns() // 1000 - STALE_US)
    return reading
