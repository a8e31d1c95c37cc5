"""What came back: measurements, and the dataset that surrogates learn from."""

from __future__ import annotations

import builtins
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property

import numpy as np

from orchestrator.domain.candidates import Candidate
from orchestrator.domain.canonical import TARGET, Array, Value, canonical_json, frozen, sha256


class Quality(StrEnum):
    """Trust in one reading, as in EPICS and OPC UA; only GOOD trains a surrogate."""

    GOOD = "good"
    UNCERTAIN = "uncertain"
    BAD = "bad"


class Outcome(StrEnum):
    """How a trial ended, as a surrogate sees it. A failure is evidence too."""

    MEASURED = "measured"
    FAILED = "failed"


@dataclass(frozen=True)
class Measurement:
    """What came back for one property of one trial, in the property's declared unit."""

    id: int
    trial: int
    property: str
    value: float
    unit: str
    std_error: float | None
    quality: Quality
    measured_at: int
    """UTC, in microseconds."""
    raw_sha256: str | None = None
    step: str = ""


@dataclass(frozen=True)
class Row:
    """One line of a dataset: a property of a trial, or the failure of a trial (value None, property empty)."""

    trial: int
    candidate: Candidate
    applied: Mapping[str, Value]
    """Set-points as the instruments applied them; the surrogate trains on these."""
    property: str
    value: float | None
    std_error: float | None
    outcome: Outcome
    fidelity: str = TARGET
    reason: str = ""
    measurement: int | None = None

    @builtins.property  # the field `property` hides the name
    def token(self) -> int:
        """The measurement id, or minus the trial number for a failure: how decisions name what they have seen."""
        return self.measurement if self.measurement is not None else -self.trial

    @builtins.property
    def applied_candidate(self) -> Candidate:
        """The candidate with its parameters as applied; its id stays that of the candidate asked for."""
        known = {name: self.applied[name] for name in self.candidate.parameters if name in self.applied}
        if all(self.candidate.parameters[name] == value for name, value in known.items()):
            return self.candidate
        return replace(self.candidate, parameters=frozen({**self.candidate.parameters, **known}))


@dataclass(frozen=True)
class Dataset:
    """Rows as read from the store, failures included, sorted by trial."""

    rows: tuple[Row, ...] = ()

    def __post_init__(self) -> None:
        """Sort by trial and property, so that a dataset does not depend on the order of arrival."""
        object.__setattr__(self, "rows", tuple(sorted(self.rows, key=lambda row: (row.trial, row.property))))

    def __len__(self) -> int:
        """Count the rows."""
        return len(self.rows)

    @cached_property
    def sha256(self) -> str:
        """Hash of what a fit can depend on."""
        return sha256(
            canonical_json(
                [
                    (
                        r.trial,
                        r.candidate.id,
                        dict(r.applied),
                        r.fidelity,
                        r.property,
                        _plain(r.value),
                        _plain(r.std_error),
                        r.outcome,
                    )
                    for r in self.rows
                ]
            )
        )

    @property
    def trials(self) -> tuple[int, ...]:
        """Numbers of the trials, each once, ascending."""
        return tuple(dict.fromkeys(row.trial for row in self.rows))

    @property
    def fidelities(self) -> tuple[str, ...]:
        """Names of the fidelities at which something was measured, sorted."""
        return tuple(sorted({row.fidelity for row in self.rows if row.outcome is Outcome.MEASURED}))

    def labels(self, properties: Sequence[str], fidelity: str = TARGET) -> Labels:
        """Gather the measured values of some properties at one fidelity, one line a trial that has at least one.

        A value that is no finite number (the store takes none) counts as absent: it never trains anything.

        Args:
            properties: m names.
            fidelity: values of another one are another quantity, and never taken for these.

        Returns:
            Candidates with their applied set-points (n), values and standard errors (n × m, NaN where absent).
        """
        column = {name: j for j, name in enumerate(properties)}
        found: dict[int, list[Row]] = {}
        for row in self.rows:
            if row.outcome is not Outcome.MEASURED or row.property not in column or row.fidelity != fidelity:
                continue
            if row.value is not None and math.isfinite(row.value):
                found.setdefault(row.trial, []).append(row)
        values = np.full((len(found), len(column)), np.nan)
        errors = np.full((len(found), len(column)), np.nan)
        for i, rows in enumerate(found.values()):
            for row in rows:
                values[i, column[row.property]] = row.value if row.value is not None else np.nan
                errors[i, column[row.property]] = row.std_error if row.std_error is not None else np.nan
        return Labels(
            trials=tuple(found),
            candidates=tuple(rows[0].applied_candidate for rows in found.values()),
            values=values,
            std_errors=errors,
        )

    @property
    def of_target(self) -> Dataset:
        """What is known of the target: its own values, and every failure; values of other fidelities are left out."""
        return Dataset(tuple(row for row in self.rows if row.fidelity == TARGET or row.outcome is Outcome.FAILED))

    @property
    def failures(self) -> tuple[Row, ...]:
        """Rows of the trials that failed."""
        return tuple(row for row in self.rows if row.outcome is Outcome.FAILED)

    def seen(self, tokens: Iterable[int]) -> Dataset:
        """Return only the rows whose `token` is given: the dataset as an earlier decision saw it."""
        wanted = set(tokens)
        return Dataset(tuple(row for row in self.rows if row.token in wanted))


@dataclass(frozen=True, eq=False)
class Labels:
    """Measured values side by side: trials and candidates (n), values and standard errors (n × m, NaN where absent)."""

    trials: tuple[int, ...]
    candidates: tuple[Candidate, ...]
    values: Array
    std_errors: Array

    def __len__(self) -> int:
        """Count the trials."""
        return len(self.trials)


def _plain(number: float | None) -> float | str | None:
    """Return a number as JSON can hold it."""
    return str(number) if number is not None and not math.isfinite(number) else number
