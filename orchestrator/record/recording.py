"""The rows of a result: measurements, structures, set-points as applied, attached files, notes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Row

from orchestrator.domain import Crystal, Value
from orchestrator.errors import StoreError
from orchestrator.record import tables
from orchestrator.record.codec import to_text
from orchestrator.record.database import Write
from orchestrator.record.views import NewMeasurement

LARGEST = 1e300
"""The database's bound on values; a reading beyond it is an overflow, not a measurement."""


def write_result(
    write: Write,
    attempt: Row[Any],
    step: Row[Any],
    measurements: Sequence[NewMeasurement],
    *,
    structures: Mapping[str, Crystal],
    applied: Mapping[str, Value],
    attachments: Sequence[tuple[str, str, str]],
    notes: str,
) -> None:
    """Append the rows of one result.

    Args:
        write: the transaction.
        attempt: that gave the result.
        step: of the attempt.
        measurements: numbers in the properties' declared units.
        structures: by output name.
        applied: set-points as applied.
        attachments: name, media type and SHA-256 of raw files.
        notes: for people.

    Raises:
        StoreError: a number is not finite, or a property comes twice.
    """
    names = [one.property for one in measurements]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        message = f"the result of step {step.name!r} gives {', '.join(twice)} twice; one value a property is expected"
        raise StoreError(message)
    for one in measurements:
        check_finite(one.value, f"the value of {one.property!r}")
        if one.std_error is not None:
            check_finite(one.std_error, f"the standard error of {one.property!r}", low=0.0)
        write.insert(
            tables.measurement,
            campaign_id=write.campaign,
            trial_id=attempt.trial_id,
            attempt_id=attempt.id,
            kind="measured",
            step=step.name,
            property=one.property,
            value=one.value,
            unit=one.unit,
            std_error=one.std_error,
            quality=one.quality,
            version="",
            reason="",
            measured_at=one.measured_at,
            raw_sha256=attempt.raw_sha256,
        )
    for name, crystal in structures.items():
        text = to_text(crystal.to_json(), f"structure {name!r}")
        _artifact(write, attempt, ("structure", name), "application/json", text)
    if applied:
        text = to_text(dict(applied), "the applied set-points")
        _artifact(write, attempt, ("applied", "applied"), "application/json", text)
    used: dict[str, int] = {}
    for name, media_type, digest in attachments:
        used[name] = used.get(name, 0) + 1
        label = name if used[name] == 1 else f"{name} ({used[name]})"
        _artifact(write, attempt, ("attachment", label), media_type, digest)
    if notes:
        _artifact(write, attempt, ("notes", "notes"), "text/plain", notes)


def check_finite(value: float, what: str, *, low: float = -LARGEST) -> None:
    """Refuse a number that is no measurement.

    Args:
        value: to be stored.
        what: named in the error.
        low: smallest allowed.

    Raises:
        StoreError: the number is NaN, infinite or out of range.
    """
    if not math.isfinite(value) or not low <= value <= LARGEST:
        message = f"{what} is {value}; a finite number from {low:g} to {LARGEST:g} is expected, so it was not recorded"
        raise StoreError(message)


def _artifact(write: Write, attempt: Row[Any], what: tuple[str, str], media_type: str, content: str) -> None:
    write.insert(
        tables.artifact,
        campaign_id=write.campaign,
        trial_id=attempt.trial_id,
        attempt_id=attempt.id,
        kind=what[0],
        name=what[1],
        media_type=media_type,
        content=content,
    )
