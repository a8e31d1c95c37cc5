"""Rows that a campaign took over from earlier ones: one raw file, named by a link of the campaign."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from sqlalchemy import Connection

from orchestrator.domain import Candidate, Outcome, Row, canonical_json, frozen
from orchestrator.record import tables
from orchestrator.units import convert, scale

KEY = "earlier"
"""Key of the link."""


@dataclass(frozen=True)
class Kept:
    """What was taken over, with the units of the values by property."""

    rows: tuple[Row, ...]
    units: Mapping[str, str]

    def to_bytes(self) -> bytes:
        """Write it as canonical JSON."""
        candidates = {row.candidate.id: row.candidate.to_json() for row in self.rows}
        rows = [
            [r.trial, r.candidate.id, r.property, r.value, r.std_error, r.fidelity, r.measurement] for r in self.rows
        ]
        return canonical_json({"candidates": candidates, "rows": rows, "units": dict(self.units)}).encode()

    @classmethod
    def from_bytes(cls, content: bytes) -> Kept:
        """Read what `to_bytes` wrote."""
        found = json.loads(content)
        candidates = {key: Candidate.from_json(one) for key, one in found["candidates"].items()}
        rows = tuple(
            Row(
                trial=trial,
                candidate=candidates[key],
                applied=frozen(),
                property=name,
                value=value,
                std_error=error,
                outcome=Outcome.MEASURED,
                fidelity=fidelity,
                measurement=measurement,
            )
            for trial, key, name, value, error, fidelity, measurement in found["rows"]
        )
        return cls(rows, found["units"])

    def converted(self, units: Mapping[str, str]) -> Sequence[Row]:
        """Return the rows in the given units; a property without one stays as it is."""
        return [_converted(row, self.units[row.property], units.get(row.property, "")) for row in self.rows]


def link_of(connection: Connection, campaign: int) -> str | None:
    """Return the hash of what a campaign took over; None where it took nothing."""
    table = tables.link
    query = table.select().where((table.c.campaign_id == campaign) & (table.c.key == KEY)).order_by(table.c.id.desc())
    found = connection.execute(query).first()
    return None if found is None else str(found.value)


def _converted(row: Row, unit: str, to: str) -> Row:
    if not to or to == unit or row.value is None:
        return row
    error = None if row.std_error is None else row.std_error * abs(scale(unit, to))
    return replace(row, value=convert(row.value, unit, to), std_error=error)
