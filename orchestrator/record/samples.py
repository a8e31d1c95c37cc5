"""Samples: which physical object a step made, of what, and what became of it.

A trial has one sample unless its procedure says otherwise. What a step does with samples is written in the transaction
that records the step, from the stored campaign file, so that an answer of a person writes the same as an instrument's
result. A step that failed after it had begun, or whose outcome is unknown, makes its sample suspect.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row

from orchestrator.config.steps import SampleConfig, base_name
from orchestrator.domain import TARGET
from orchestrator.record import statements, tables
from orchestrator.record.base import StorePart, config_of, current
from orchestrator.record.budget import steps_of
from orchestrator.record.codec import from_text, to_text
from orchestrator.record.database import Write
from orchestrator.record.states import StepState

GONE = ("spent", "split", "discarded")
"""Fates after which a sample is not there any more."""


@dataclass(frozen=True)
class Fate:
    """Something that became of a sample: ``spent``, ``split``, ``discarded``, ``suspect`` or ``moved``."""

    kind: str
    step: str
    place: str
    note: str
    at: int


@dataclass(frozen=True)
class SampleInfo:
    """A physical object.

    Args:
        name: its id, as orders carry it.
        trial: number of the trial that made it.
        parents: names of the samples that it was made of or is a part of.
        step: that made it; empty for the one that a trial begins with.
        fates: what became of it, oldest first.
    """

    name: str
    trial: int
    parents: tuple[str, ...]
    step: str
    made_at: int
    fates: tuple[Fate, ...]

    @property
    def state(self) -> str:
        """How it stands: ``there``, ``suspect``, or how it went."""
        gone = [fate.kind for fate in self.fates if fate.kind in GONE]
        suspect = any(fate.kind == "suspect" for fate in self.fates)
        return gone[-1] if gone else "suspect" if suspect else "there"

    @property
    def place(self) -> str:
        """Where it is, as far as steps said; empty where none did."""
        return next((fate.place for fate in reversed(self.fates) if fate.kind == "moved"), "")


class Samples(StorePart):
    """The part of the store that knows the samples."""

    def samples(self, name: str, *, trial: int | None = None) -> list[SampleInfo]:
        """Read the samples of a campaign, or of one of its trials, in the order in which they were made."""
        table, fate = tables.sample, tables.sample_fate
        campaign = self._id(name)
        with self._db.read() as connection:
            trials = _by_id(connection, tables.trial, campaign)
            attempts = _by_id(connection, tables.attempt, campaign)
            steps = {row.id: row.name for row in _by_id(connection, tables.step, campaign).values()}
            rows = connection.execute(table.select().where(table.c.campaign_id == campaign).order_by(table.c.id)).all()
            fates = connection.execute(fate.select().where(fate.c.campaign_id == campaign).order_by(fate.c.id)).all()

        def step_of(attempt: int | None) -> str:
            return "" if attempt is None else str(steps[attempts[attempt].step_id])

        return [
            SampleInfo(
                name=row.name,
                trial=trials[row.trial_id].number,
                parents=tuple(from_text(row.parents)),
                step=step_of(row.attempt_id),
                made_at=row.at,
                fates=tuple(
                    Fate(one.kind, step_of(one.attempt_id), one.place, one.note, one.at)
                    for one in fates
                    if one.sample_id == row.id
                ),
            )
            for row in rows
            if trial is None or trials[row.trial_id].number == trial
        ]


def first_name(campaign: str, trial: int) -> str:
    """Return the id of the sample that a trial begins with, with which the ids of all its samples begin."""
    return f"{campaign}-{trial}"


def full_name(trial: str, short: str) -> str:
    """Return the id of a sample.

    Args:
        trial: id of the sample that the trial begins with, such as ``campaign-3``.
        short: its name in the procedure; empty for the one that the trial begins with.
    """
    return f"{trial}-{short}" if short else trial


def left_by(done: Iterable[SampleConfig | None]) -> tuple[str, ...]:
    """Say which samples are at hand after some steps, by their names in the procedure.

    Args:
        done: what each step that was done does with samples, in order.

    Returns:
        Names; the empty one is the sample that the trial begins with.
    """
    left: tuple[str, ...] = ("",)
    for one in done:
        if one is None:
            continue
        left = (one.makes,) if one.makes else one.splits or one.takes or left
    return left


def worked_on(config: SampleConfig | None, before: Sequence[SampleConfig | None]) -> tuple[str, ...]:
    """Say which samples a step works on, by their names in the procedure.

    Args:
        config: of the step.
        before: of the steps that were done before it, in order.

    Returns:
        Names; none for a step that makes the trial's first sample of nothing.
    """
    if config is not None and config.takes:
        return config.takes
    first = all(one is None for one in before)
    if first and config is not None and config.makes:
        return ()
    return left_by(before)


def ordered_sample(config: SampleConfig | None, before: Sequence[SampleConfig | None]) -> str:
    """Name the sample that an order speaks of: the first that the step works on, else the one that it makes."""
    names = worked_on(config, before)
    return names[0] if names else (config.makes or "") if config else ""


def handled(write: Write, attempt: Row[Any], step: Row[Any]) -> None:
    """Write what a recorded step did with samples, in the transaction that records it.

    Args:
        write: the transaction.
        attempt: that gave the result.
        step: of the attempt.
    """
    trial = write.row(tables.trial, step.trial_id)
    plans = _plans(write, trial)
    config = plans.get(base_name(step.name))
    if not plans or not trial.sample:
        return
    earlier = [one for one in steps_of(write, trial.id) if one.position < step.position]
    before = [plans.get(base_name(one.name)) for one in earlier if one.state == StepState.RECORDED]
    if config is None:
        return
    root = first_name(current(write).name, trial.number)
    taken = [full_name(root, short) for short in worked_on(config, before)]
    made = [full_name(root, short) for short in ((config.makes,) if config.makes else config.splits)]
    rows = {name: _sample(write, trial, attempt, name, ()) for name in taken}
    for name in made:
        after = _sample(write, trial, attempt, name, taken)
        _fate(write, attempt, after, "moved", config.at)
    for row in rows.values():
        if config.uses_up:
            _fate(write, attempt, row, "split" if config.splits else "spent")
        elif not made:
            _fate(write, attempt, row, "moved", config.at)
        if config.discards:
            _fate(write, attempt, row, "discarded")


def suspect(write: Write, attempt: Row[Any], why: str) -> None:
    """Mark the sample of an attempt that failed after it had begun, or whose outcome is unknown.

    Args:
        write: the transaction that says so.
        attempt: its row.
        why: for people.
    """
    name = str(from_text(attempt.request).get("sample") or "")
    found = _find(write, name)
    if found is not None:
        _fate(write, attempt, found, "suspect", note=why)


def _plans(write: Write, trial: Row[Any]) -> dict[str, SampleConfig | None]:
    """Return what each step of a trial's procedure does with samples; nothing where none says anything."""
    file = config_of(write.connection, current(write))
    level = trial.fidelity
    procedure = file["procedure"] if level == TARGET else file.get("fidelities", {}).get(level, {}).get("procedure", ())
    plans = {one["step"]: one.get("sample") for one in procedure}
    if not any(plans.values()):
        return {}
    return {name: None if one is None else SampleConfig.model_validate(one) for name, one in plans.items()}


def _find(write: Write, name: str) -> Row[Any] | None:
    key = {"campaign_id": write.campaign, "name": name}
    return write.connection.execute(statements.by(tables.sample, *key), key).first()


def _sample(write: Write, trial: Row[Any], attempt: Row[Any], name: str, parents: Sequence[str]) -> Row[Any]:
    found = _find(write, name)
    if found is not None:
        return found
    row_id = write.insert(
        tables.sample,
        campaign_id=write.campaign,
        trial_id=trial.id,
        attempt_id=attempt.id,
        name=name,
        parents=to_text(list(parents), "the parents of a sample"),
        at=write.now,
    )
    return write.row(tables.sample, row_id)


def _fate(
    write: Write, attempt: Row[Any], sample: Row[Any], kind: str, place: str | None = None, *, note: str = ""
) -> None:
    if kind == "moved" and not place:
        return
    write.insert(
        tables.sample_fate,
        campaign_id=write.campaign,
        trial_id=sample.trial_id,
        sample_id=sample.id,
        attempt_id=attempt.id,
        kind=kind,
        place=place or "",
        note=note,
        at=write.now,
    )


def _by_id(connection: Connection, table: Any, campaign: int) -> dict[int, Row[Any]]:
    return {row.id: row for row in connection.execute(table.select().where(table.c.campaign_id == campaign))}
