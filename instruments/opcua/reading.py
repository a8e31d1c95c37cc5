"""One value with its status code and its source time stamp, read together: what may be a measurement, and what not."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from instruments.opcua.link import name_of, our_errors
from instruments.self_described.driver import Seen
from instruments.self_described.scans import Described
from orchestrator.domain import Quality
from orchestrator.errors import BadData

STALE_US = 1000
"""Time stamps of one server are compared with its own clock; they are rounded to milliseconds at worst."""
LAST_USABLE = ("UncertainLastUsableValue", "UncertainNoCommunicationLastUsableValue")


@dataclass(frozen=True)
class Since:
    """When the order began.

    Args:
        begun_us: by the device's clock, UTC in microseconds; None where it is not known.
        skew_us: our clock less the device's.
        any_age: whether older values count, since the device stamps them only when they change.
    """

    begun_us: int | None = None
    skew_us: int = 0
    any_age: bool = False


async def read(node: Any, value: Described, since: Since, *, output: bool) -> Seen:
    """Read one value.

    Args:
        node: of the variable.
        value: as it was scanned.
        since: when the order began.
        output: whether it is to be a measurement of this order.

    Returns:
        The value, with its quality and when it was measured, by our clock.

    Raises:
        BadData: the server calls it bad, or old; or it is older than the order.
    """
    with our_errors({}, f"reading {value.source}"):
        held = await node.read_data_value(raise_on_bad_status=False)
    status, stamp = held.StatusCode, held.SourceTimestamp
    name = "Good" if status is None or status.value == 0 else name_of(status.value)
    if name in LAST_USABLE:
        message = f"{value.name} comes as {name}: the last value of an earlier time, which is no new measurement"
        raise BadData(message)
    if status is not None and status.is_bad():
        message = f"{value.name} comes as {name}; look at the sensor"
        raise BadData(message)
    stamped = microseconds(stamp) if stamp is not None else None
    if output:
        _refuse_old(value, stamped, since)
    try:
        number = value.from_device(plain(held.Value.Value if held.Value is not None else None))
    except (TypeError, ValueError) as error:
        message = f"{value.name} is {held.Value!r}; {value.kind} was expected"
        raise BadData(message) from error
    quality = Quality.GOOD if name.startswith("Good") else Quality.UNCERTAIN
    return Seen(number, quality, stamped + since.skew_us if stamped is not None and output else None)


def microseconds(moment: datetime) -> int:
    """Return a moment as UTC in microseconds; OPC UA's clock is UTC."""
    aware = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    return round(aware.timestamp() * 1e6)


def plain(value: Any) -> Any:
    """Return the text of a localized text, and anything else as it is."""
    return value.Text if hasattr(value, "Text") and hasattr(value, "Locale") else value


def _refuse_old(value: Described, stamped: int | None, since: Since) -> None:
    if since.any_age or since.begun_us is None or stamped is None or stamped >= since.begun_us - STALE_US:
        return
    age = (since.begun_us - stamped) / 1e6
    message = (
        f"{value.name} is {age:.1f} s older than the order, so it is not this order's; where the device stamps a value"
        " only when it changes, say 'freshness: any'"
    )
    raise BadData(message)
