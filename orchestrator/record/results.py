"""What came back, read in the ways that Matloop needs it: dataset, measurements, outputs, derived values."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, select

from orchestrator.config.steps import MARK, base_name
from orchestrator.domain import (
    Candidate,
    Crystal,
    Dataset,
    DerivedValue,
    Measurement,
    Outcome,
    Quality,
    TrialRecord,
    Value,
    frozen,
)
from orchestrator.domain import Row as DatasetRow
from orchestrator.errors import StoreError
from orchestrator.record import codec, tables
from orchestrator.record.base import StorePart, check_row, config_of
from orchestrator.record.database import Write
from orchestrator.record.earlier import KEY, Kept, link_of
from orchestrator.record.recording import check_finite
from orchestrator.record.replicates import Mean, combined
from orchestrator.record.service import doubts
from orchestrator.record.states import StepState, TrialState, trial_state
from orchestrator.record.views import StepOutput
from orchestrator.units import convert, scale

FINISHED = (TrialState.COMPLETED, TrialState.FAILED)


class Results(StorePart):
    """The part of the store that gives results back."""

    def dataset(
        self, name: str, *, units: Mapping[str, str] | None = None, seen: Collection[int] | None = None
    ) -> Dataset:
        """Read what is known: good values of finished trials, and the failures with their reasons.

        Args:
            name: of the campaign.
            units: by property: values are converted to these; others stay in the unit in which they are stored.
            seen: tokens of rows; only these are given, also where a newer version of a derived property has
                superseded them since. None gives what is known now.

        Returns:
            The dataset; the same history gives the same dataset.

        Raises:
            Damaged: a stored row does not match its hash.
        """
        campaign, wanted = self._id(name), None if seen is None else frozenset(seen)
        with self._db.read() as connection:
            trials = _trials(connection, campaign)
            candidates = self._candidates_of(connection, campaign)
            applied = _applied(connection, campaign)
            objectives = _objectives(connection, campaign)
            current = None if wanted is not None else _current_versions(connection, campaign)
            # a decision of the past is chosen again from what was trusted then
            doubted = doubts(connection, campaign) if wanted is None else {}
            rows: list[DatasetRow] = []
            without: dict[int, str] = {}  # trials for which a derived property could not be computed
            valued: set[int] = set()
            for row in _numbers(connection, campaign):
                trial = trials[row.trial_id]
                if trial.state not in FINISHED or row.quality != Quality.GOOD or row.trial_id in doubted:
                    continue
                if current is not None and row.kind == "derived" and current.get(row.property) != row.version:
                    continue
                _check(row)
                if row.value is None:
                    without[row.trial_id] = f"{row.property}: {row.reason}"
                    continue
                if row.property in objectives:
                    valued.add(row.trial_id)
                candidate = candidates[trial.candidate]
                rows.append(_dataset_row(row, trial, candidate, applied.get(row.trial_id, {}), units or {}))
            for trial_id, trial in trials.items():
                reason = trial.reason if trial.state is TrialState.FAILED else without.get(trial_id)
                reason = reason if reason is not None else trial.skipped or None
                if trial.state not in FINISHED or reason is None:
                    continue
                if trial.state is TrialState.FAILED or trial_id not in valued or wanted is not None:
                    rows.append(_failure(trial, candidates[trial.candidate], applied.get(trial_id, {}), reason))
            rows += self._earlier(connection, campaign, units or {})
        return Dataset(tuple(row for row in rows if wanted is None or row.token in wanted))

    def keep_earlier(self, name: str, kept: Kept) -> None:
        """Keep the rows that a campaign takes over from earlier ones; from now on they are in its dataset.

        Args:
            name: of the campaign, which has just begun.
            kept: rows whose numbers are below zero, with their units.
        """
        digest = self.raw.put(kept.to_bytes())

        def work(write: Write) -> None:
            write.insert(tables.link, campaign_id=write.campaign, key=KEY, value=digest, at=write.now)
            write.event("earlier", "matloop", note=f"{len(kept.rows)} values of earlier campaigns: raw file {digest}")

        self._db.write(self._id(name), "earlier", work)

    def _earlier(self, connection: Connection, campaign: int, units: Mapping[str, str]) -> Sequence[DatasetRow]:
        digest = link_of(connection, campaign)
        if digest is None:
            return ()
        if digest not in self._kept:
            self._kept[digest] = Kept.from_bytes(self.raw.get(digest))
        return self._kept[digest].converted(units)

    def measurements(self, name: str, *, trial: int | None = None, single: bool = False) -> list[Measurement]:
        """Read the stored numbers, of every quality, by trial; of derived properties those of the current version.

        Args:
            name: of the campaign.
            trial: only this trial's.
            single: each number of a repeated step on its own, instead of their mean.
        """
        campaign = self._id(name)
        with self._db.read() as connection:
            trials = _trials(connection, campaign)
            current = _current_versions(connection, campaign)
            found = [
                _measurement(row, trials[row.trial_id].number)
                for row in _numbers(connection, campaign, single=single)
                if row.value is not None and (row.kind == "measured" or current.get(row.property) == row.version)
            ]
        return sorted(
            (one for one in found if trial is None or one.trial == trial), key=lambda one: (one.trial, one.id)
        )

    def applied(self, name: str) -> Mapping[int, Mapping[str, Value]]:
        """Read the set-points as applied, by attempt id."""
        table = tables.artifact
        query = select(table.c.attempt_id, table.c.content).where(
            (table.c.campaign_id == self._id(name)) & (table.c.kind == "applied")
        )
        with self._db.read() as connection:
            return {row.attempt_id: codec.from_text(row.content) for row in connection.execute(query)}

    def trial_records(self, name: str) -> list[TrialRecord]:
        """Read the completed trials as functions of derived properties see them, by number."""
        campaign = self._id(name)
        with self._db.read() as connection:
            trials = _trials(connection, campaign)
            candidates = self._candidates_of(connection, campaign)
            numbers: dict[int, dict[str, dict[str, Measurement]]] = defaultdict(lambda: defaultdict(dict))
            for row in _numbers(connection, campaign):
                if row.kind == "measured" and row.quality == Quality.GOOD:
                    _check(row)
                    one = _measurement(row, trials[row.trial_id].number)
                    numbers[row.trial_id][row.step][row.property] = one
            crystals = _structures(connection, campaign)
        none: Mapping[str, Mapping[str, Crystal]] = {}
        done = [(key, trial) for key, trial in trials.items() if trial.state is TrialState.COMPLETED]
        return [
            TrialRecord(
                trial.number, candidates[trial.candidate], _frozen(numbers[key]), _frozen(crystals.get(key, none))
            )
            for key, trial in sorted(done, key=lambda pair: pair[1].number)
        ]

    def record_derived(
        self,
        name: str,
        *,
        property: str,  # noqa: A002  the word for it everywhere in Matloop
        unit: str,
        version: str,
        values: Mapping[int, DerivedValue],
    ) -> None:
        """Store values of a derived property; a new version supersedes the old one as a whole.

        Args:
            name: of the campaign.
            property: name.
            unit: of the values.
            version: of function and reference data; a trial that has this version already is skipped.
            values: by trial number.

        Raises:
            StoreError: a value is not finite, or a trial is unknown.
        """
        campaign = self._id(name)
        with self._db.read() as connection:
            fresh = _fresh(connection, campaign, property, version, values)
            if not fresh and _current_versions(connection, campaign).get(property) == version:
                return

        def work(write: Write) -> None:
            new = _fresh(write.connection, campaign, property, version, values)
            for number, (trial_id, derived) in new.items():
                _insert_derived(write, trial_id, number, derived, name=property, unit=unit, version=version)
            if _current_versions(write.connection, campaign).get(property) != version:
                where = {"campaign_id": campaign, "property": property, "unit": unit}
                write.insert(tables.derivation, **where, version=version, at=write.now)
            write.event("derived", "matloop", note=f"{property} of {len(new)} trials by {version}")

        self._db.write(campaign, "derived", work)

    def outputs(self, name: str, trial: int) -> Mapping[str, StepOutput]:
        """Read what the recorded steps of a trial gave: the inputs of its later steps.

        Args:
            name: of the campaign.
            trial: number.

        Returns:
            By step name: good numbers with their units, and structures.
        """
        campaign = self._id(name)
        table, step = tables.measurement, tables.step
        number = (tables.trial.c.campaign_id == campaign) & (tables.trial.c.number == trial)
        with self._db.read() as connection:
            trial_id = connection.execute(select(tables.trial.c.id).where(number)).scalar()
            if trial_id is None:
                message = f"campaign {name!r} has no trial {trial}"
                raise StoreError(message)
            recorded = (step.c.trial_id == trial_id) & (step.c.state == StepState.RECORDED.value)
            names = connection.execute(select(step.c.name).where(recorded).order_by(step.c.position)).scalars().all()
            numbers: dict[str, dict[str, tuple[float, str]]] = defaultdict(dict)
            good = (
                (table.c.trial_id == trial_id) & (table.c.kind == "measured") & (table.c.quality == Quality.GOOD.value)
            )
            rows = connection.execute(table.select().where(good).order_by(table.c.id)).all()
            for row in (*rows, *combined(row for row in rows if MARK in row.step)):
                _check(row)
                numbers[row.step][row.property] = (row.value, row.unit)
            crystals = _structures(connection, campaign, trial_id).get(trial_id, {})
        names = list(dict.fromkeys([*names, *(base_name(name) for name in names)]))
        return {name: StepOutput(frozen(numbers.get(name)), frozen(crystals.get(name))) for name in names}


@dataclass(frozen=True)
class _Trial:
    """A trial as far as results need it."""

    number: int
    candidate: int
    fidelity: str
    state: TrialState
    reason: str
    skipped: str


def _trials(connection: Connection, campaign: int) -> dict[int, _Trial]:
    trial, step = tables.trial, tables.step
    query = select(step.c.trial_id, step.c.state, step.c.reason).join(trial, trial.c.id == step.c.trial_id)
    query = query.where(trial.c.campaign_id == campaign)
    steps: dict[int, list[tuple[StepState, str]]] = defaultdict(list)
    for row in connection.execute(query.order_by(step.c.trial_id, step.c.position)):
        steps[row.trial_id].append((StepState(row.state), row.reason))
    query = select(trial.c.id, trial.c.number, trial.c.candidate_id, trial.c.fidelity)
    return {
        row.id: _Trial(
            number=row.number,
            candidate=row.candidate_id,
            fidelity=row.fidelity,
            state=trial_state(state for state, _ in steps[row.id]),
            reason=next((reason for state, reason in steps[row.id] if state is StepState.FAILED), ""),
            skipped=next((reason for state, reason in steps[row.id] if state is StepState.SKIPPED), ""),
        )
        for row in connection.execute(query.where(trial.c.campaign_id == campaign).order_by(trial.c.number))
    }


def _numbers(connection: Connection, campaign: int, *, single: bool = False) -> list[Any]:
    """Read the rows of measurements, in order; of repeated steps their means, or each number on its own."""
    table = tables.measurement
    rows = connection.execute(table.select().where(table.c.campaign_id == campaign).order_by(table.c.id)).all()
    for row in rows:
        if MARK in row.step:
            check_row(table, row)
    return list(rows) if single else combined(rows)


def _check(row: Any) -> None:
    """Compare a row that is about to be used with its hash; the rows behind a mean were compared before."""
    if not isinstance(row, Mean):
        check_row(tables.measurement, row)


def _applied(connection: Connection, campaign: int) -> Mapping[int, Mapping[str, Value]]:
    """Return the set-points as applied by trial id, those of later steps over those of earlier ones."""
    table, attempt, step = tables.artifact, tables.attempt, tables.step
    query = (
        select(table.c.trial_id, table.c.content)
        .join(attempt, attempt.c.id == table.c.attempt_id)
        .join(step, step.c.id == attempt.c.step_id)
        .where((table.c.campaign_id == campaign) & (table.c.kind == "applied"))
        .order_by(table.c.trial_id, step.c.position)
    )
    found: dict[int, dict[str, Value]] = defaultdict(dict)
    for row in connection.execute(query):
        found[row.trial_id].update(codec.from_text(row.content))
    return found


def _structures(
    connection: Connection, campaign: int, trial: int | None = None
) -> Mapping[int, Mapping[str, Mapping[str, Crystal]]]:
    """Return the structures that came back: by trial id, step name and output name."""
    table, attempt, step = tables.artifact, tables.attempt, tables.step
    where = (table.c.campaign_id == campaign) & (table.c.kind == "structure")
    if trial is not None:
        where &= table.c.trial_id == trial
    query = (
        select(table, step.c.name.label("step_name"))
        .join(attempt, attempt.c.id == table.c.attempt_id)
        .join(step, step.c.id == attempt.c.step_id)
        .where(where)
        .order_by(table.c.id)
    )
    found: dict[int, dict[str, dict[str, Crystal]]] = defaultdict(lambda: defaultdict(dict))
    for row in connection.execute(query):
        found[row.trial_id][row.step_name][row.name] = Crystal.from_json(codec.from_text(row.content))
    return found


def _objectives(connection: Connection, campaign: int) -> frozenset[str]:
    row = connection.execute(tables.campaign.select().where(tables.campaign.c.id == campaign)).one()
    return frozenset(objective["property"] for objective in config_of(connection, row)["objectives"])


def _current_versions(connection: Connection, campaign: int) -> dict[str, str]:
    table = tables.derivation
    query = table.select().where(table.c.campaign_id == campaign).order_by(table.c.id)
    return {row.property: row.version for row in connection.execute(query)}


def _fresh(
    connection: Connection, campaign: int, name: str, version: str, values: Mapping[int, DerivedValue]
) -> dict[int, tuple[int, DerivedValue]]:
    """Return by trial number (trial id, value) of what is not stored yet."""
    trial, table = tables.trial, tables.measurement
    query = select(trial.c.number, trial.c.id).where(trial.c.campaign_id == campaign)
    ids = {row.number: row.id for row in connection.execute(query)}
    unknown = sorted(set(values) - set(ids))
    if unknown:
        message = f"values of {name!r} for trials {unknown}, which this campaign does not have"
        raise StoreError(message)
    where = (table.c.campaign_id == campaign) & (table.c.kind == "derived")
    where &= (table.c.property == name) & (table.c.version == version)
    stored = set(connection.execute(select(table.c.trial_id).where(where)).scalars())
    return {number: (ids[number], one) for number, one in sorted(values.items()) if ids[number] not in stored}


def _insert_derived(
    write: Write, trial: int, number: int, derived: DerivedValue, *, name: str, unit: str, version: str
) -> None:
    if derived.value is not None:
        check_finite(derived.value, f"the value of {name!r} for trial {number}")
    write.insert(
        tables.measurement,
        campaign_id=write.campaign,
        trial_id=trial,
        kind="derived",
        step="",
        property=name,
        value=derived.value,
        unit=unit,
        std_error=derived.std_error,
        quality=Quality.GOOD,
        version=version,
        reason=derived.reason or ("" if derived.value is not None else "no reason was given"),
        measured_at=write.now,
    )


def _dataset_row(
    row: Row[Any], trial: _Trial, candidate: Candidate, applied: Mapping[str, Value], units: Mapping[str, str]
) -> DatasetRow:
    unit = units.get(row.property, row.unit)
    error = row.std_error
    return DatasetRow(
        trial=trial.number,
        candidate=candidate,
        applied=frozen(applied),
        property=row.property,
        value=convert(row.value, row.unit, unit),
        std_error=error if error is None or unit == row.unit else error * abs(scale(row.unit, unit)),
        outcome=Outcome.MEASURED,
        fidelity=trial.fidelity,
        measurement=row.id,
    )


def _failure(trial: _Trial, candidate: Candidate, applied: Mapping[str, Value], reason: str) -> DatasetRow:
    return DatasetRow(
        trial=trial.number,
        candidate=candidate,
        applied=frozen(applied),
        property="",
        value=None,
        std_error=None,
        outcome=Outcome.FAILED,
        fidelity=trial.fidelity,
        reason=reason,
    )


def _measurement(row: Row[Any], trial: int) -> Measurement:
    return Measurement(
        id=row.id,
        trial=trial,
        property=row.property,
        value=row.value,
        unit=row.unit,
        std_error=row.std_error,
        quality=Quality(row.quality),
        measured_at=row.measured_at,
        raw_sha256=row.raw_sha256,
        step=row.step,
    )


def _frozen(steps: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Mapping[str, Any]]:
    return frozen({name: frozen(found) for name, found in steps.items()})
