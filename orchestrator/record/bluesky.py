"""Trials as bluesky documents, for Tiled, databroker and everything else that reads them.

A trial is one run: RunStart holds what was known before it (the candidate, why it was chosen, what was predicted), each
step is a stream with its order as configuration, each result an event, and RunStop says how it ended and what became of
every attempt. Written as JSON lines ``{"name": …, "doc": …}``, as bluesky's own writer does. The uids are made from the
campaign's, so that exporting twice gives the same documents. Schemas: event-model (BSD-3); a test validates against it.
"""

from __future__ import annotations

import json
import os
import re
import uuid
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator.domain import Measurement, Value
from orchestrator.record.states import TrialState
from orchestrator.record.views import AttemptInfo, CampaignInfo, TrialInfo

Document = dict[str, Any]
SPACE = uuid.UUID("6f0c1f7a-52b6-4d0c-9a55-0d8a3f0b7c11")
"""Made once, at random, for the uids of these documents."""
EXIT = {TrialState.COMPLETED: "success", TrialState.FAILED: "fail", TrialState.ABANDONED: "abort"}
DERIVED = "derived"
"""Stream of what was computed from stored rows."""


def export_bluesky(
    path: Path,
    *,
    campaign: CampaignInfo,
    trials: Sequence[TrialInfo],
    attempts: Sequence[AttemptInfo],
    measurements: Sequence[Measurement],
    applied: Mapping[int, Mapping[str, Value]],
) -> int:
    """Write the documents of every trial that was begun.

    Args:
        path: to be written.
        campaign: that they belong to.
        trials: of the campaign.
        attempts: the same.
        measurements: the same, of every quality.
        applied: set-points as applied, by attempt id.

    Returns:
        The number of trials written.
    """
    by_trial: dict[int, list[AttemptInfo]] = defaultdict(list)
    for attempt in attempts:
        by_trial[attempt.trial].append(attempt)
    numbers: dict[int, list[Measurement]] = defaultdict(list)
    for one in measurements:
        numbers[one.trial].append(one)
    begun = [t for t in trials if t.started_at is not None or numbers[t.number]]
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("w", encoding="utf-8") as file:
        for trial in begun:
            for name, document in documents(campaign, trial, by_trial[trial.number], numbers[trial.number], applied):
                file.write(json.dumps({"name": name, "doc": document}, allow_nan=False) + "\n")
    temporary.replace(path)
    return len(begun)


def documents(
    campaign: CampaignInfo,
    trial: TrialInfo,
    attempts: Sequence[AttemptInfo],
    measurements: Sequence[Measurement],
    applied: Mapping[int, Mapping[str, Value]],
) -> Iterator[tuple[str, Document]]:
    """Give the documents of one trial, in the order in which bluesky emits them.

    Args:
        campaign: that it belongs to.
        trial: the trial.
        attempts: its attempts, oldest first.
        measurements: its measurements.
        applied: set-points as applied, by attempt id.

    Yields:
        Name and content: start, then descriptor and event for each stream, then stop where the trial has ended.
    """
    run = _uid(campaign, trial, "start")
    began = trial.started_at if trial.started_at is not None else trial.planned_at
    yield "start", _start(campaign, trial, run, began)
    counts: dict[str, int] = {}
    steps: dict[str, list[Measurement]] = defaultdict(list)
    for one in measurements:
        steps[one.step or DERIVED].append(one)
    for step, numbers in steps.items():
        last = next((a for a in reversed(attempts) if a.step == step), None)
        settings = applied.get(last.id, {}) if last else {}
        keys: frozenset[str] = frozenset()
        descriptor = ""
        for event in _events(numbers):
            counts[step] = counts.get(step, 0) + 1
            if frozenset(event) != keys:
                keys = frozenset(event)
                descriptor = _uid(campaign, trial, f"{step} descriptor {counts[step]}")
                yield (
                    "descriptor",
                    _descriptor(descriptor, run, place=(campaign, step), event=event, settings=settings, attempt=last),
                )
            yield (
                "event",
                _event(
                    _uid(campaign, trial, f"{step} event {counts[step]}"), descriptor, counts[step], event, settings
                ),
            )
    if trial.state in EXIT:
        ended = trial.ended_at if trial.ended_at is not None else began
        yield "stop", _stop(_uid(campaign, trial, "stop"), run, trial, attempts=attempts, ended=ended, counts=counts)


def _start(campaign: CampaignInfo, trial: TrialInfo, run: str, began: int) -> Document:
    candidate, proposal = trial.candidate, trial.proposal
    known = {
        "uid": run,
        "time": began / 1e6,
        "scan_id": trial.number,
        "project": campaign.name,
        "plan_name": "matloop trial",
        "plan_type": "generator",
        "sample": {"name": candidate.label, "id": trial.sample, "candidate": candidate.id},
        "campaign": {"name": campaign.name, "uid": campaign.uuid, "seed": campaign.seed, "revision": campaign.revision},
        "objectives": campaign.config.get("objectives", []),
        "composition": candidate.composition,
        "parameters": dict(candidate.parameters),
        "structure": candidate.crystal.to_json() if candidate.crystal else None,
        "fidelity": trial.fidelity,
        "replicate": trial.replicate,
        "decision": trial.decision,
        "policy": proposal.policy,
        "why": proposal.reason,
        "predicted_mean": dict(proposal.mean),
        "predicted_sd": dict(proposal.sd),
        "steps": [{"name": s.name, "instrument": s.instrument, "capability": s.capability} for s in trial.steps],
    }
    return {key: _plain(value) for key, value in known.items() if value is not None}


def _descriptor(
    uid: str,
    run: str,
    *,
    place: tuple[CampaignInfo, str],
    event: Mapping[str, Measurement],
    settings: Mapping[str, Value],
    attempt: AttemptInfo | None,
) -> Document:
    campaign, step = place
    who = attempt.instrument if attempt else DERIVED
    source = f"matloop://{campaign.name}/{who}"
    keys: Document = {}
    for name, one in event.items():
        number = {"dtype": "number", "shape": [], "dtype_numpy": "<f8", "units": one.unit, "object_name": who}
        keys[name] = {"source": f"{source}/{name}", **number}
        keys[f"{name}_quality"] = {"source": f"{source}/{name}", "dtype": "string", "shape": [], "object_name": who}
        if one.std_error is not None:
            keys[f"{name}_std_error"] = {"source": f"{source}/{name}", **number}
    for name, value in settings.items():
        kind = "string" if isinstance(value, str) else "number"
        keys[f"applied_{_key(name)}"] = {"source": f"{source}/applied", "dtype": kind, "shape": [], "object_name": who}
    asked: Any = (attempt.order.get("settings") or {}) if attempt else {}
    chosen: Any = (attempt.order.get("choices") or {}) if attempt else {}
    stamp = (attempt.created_at if attempt else min(one.measured_at for one in event.values())) / 1e6
    configuration = {
        "data": {_key(n): q[0] for n, q in asked.items()} | {_key(n): c for n, c in chosen.items()},
        "timestamps": {_key(n): stamp for n in (*asked, *chosen)},
        "data_keys": {
            _key(n): {"source": f"{source}/asked", "dtype": "number", "shape": [], "units": q[1]}
            for n, q in asked.items()
        }
        | {_key(n): {"source": f"{source}/asked", "dtype": "string", "shape": []} for n in chosen},
    }
    return {
        "uid": uid,
        "run_start": run,
        "time": stamp,
        "name": step,
        "data_keys": keys,
        "object_keys": {who: list(keys)},
        "configuration": {who: configuration},
        "hints": {who: {"fields": list(event)}},
    }


def _event(
    uid: str, descriptor: str, number: int, event: Mapping[str, Measurement], settings: Mapping[str, Value]
) -> Document:
    at = max(one.measured_at for one in event.values()) / 1e6
    data: Document = {}
    times: Document = {}
    for name, one in event.items():
        values: Document = {name: one.value, f"{name}_quality": one.quality.value}
        if one.std_error is not None:
            values[f"{name}_std_error"] = one.std_error
        data |= values
        times |= dict.fromkeys(values, one.measured_at / 1e6)
    asked = {f"applied_{_key(name)}": value for name, value in settings.items()}
    return {
        "uid": uid,
        "descriptor": descriptor,
        "seq_num": number,
        "time": at,
        "data": data | asked,
        "timestamps": times | dict.fromkeys(asked, at),
        "filled": {},
    }


def _stop(
    uid: str, run: str, trial: TrialInfo, *, attempts: Sequence[AttemptInfo], ended: int, counts: Mapping[str, int]
) -> Document:
    became = [
        {
            "step": a.step,
            "instrument": a.instrument,
            "key": a.key,
            "state": a.state.value,
            "effect": a.effect or "",
            "note": a.note,
        }
        for a in attempts
    ]
    return {
        "uid": uid,
        "run_start": run,
        "time": ended / 1e6,
        "exit_status": EXIT[trial.state],
        "reason": trial.reason,
        "num_events": dict(counts),
        "attempts": became,
    }


def _events(numbers: Sequence[Measurement]) -> list[dict[str, Measurement]]:
    """Join the numbers of a step: one event holds each property once; repeats make further events."""
    events: list[dict[str, Measurement]] = []
    for one in numbers:
        free = next((event for event in events if one.property not in event), None)
        if free is None:
            free = {}
            events.append(free)
        free[one.property] = one
    return events


def _plain(value: Any) -> Any:
    """Make content fit for metadata, whose keys hold neither dots nor slashes."""
    if isinstance(value, Mapping):
        return {_key(str(name)): _plain(inside) for name, inside in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inside) for inside in value]
    return value


def _key(name: str) -> str:
    return re.sub(r"[./]", "_", name) or "_"


def _uid(campaign: CampaignInfo, trial: TrialInfo, what: str) -> str:
    return str(uuid.uuid5(SPACE, f"{campaign.uuid}/{trial.number}/{what}"))
