"""Domain values to JSON columns and back.

Numbers that judge a fit may be NaN (R² of one label): they are stored as null and read as NaN. A proposal's own numbers
may not: a NaN there is a mistake of a policy and is refused.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np

from orchestrator.domain import Candidate, DecisionSummary, FitReport, Proposal, canonical_json, frozen
from orchestrator.errors import StoreError


def to_text(content: Any, what: str) -> str:
    """Write canonical JSON.

    Args:
        content: JSON content.
        what: named in the error.

    Raises:
        StoreError: the content is no JSON, or holds NaN or an infinity.
    """
    try:
        return canonical_json(content)
    except (TypeError, ValueError) as error:
        message = f"{what} cannot be stored: {error}; only finite numbers, text, lists and mappings can"
        raise StoreError(message) from error


def from_text(text: str) -> Any:
    """Read canonical JSON."""
    return json.loads(text)


def proposal_to_json(proposal: Proposal) -> dict[str, Any]:
    """Return a proposal without its candidate, which has a row of its own."""
    return {
        "policy": proposal.policy,
        "reason": proposal.reason,
        "score": None if proposal.score is None else float(proposal.score),
        "mean": {name: float(value) for name, value in proposal.mean.items()},
        "sd": {name: float(value) for name, value in proposal.sd.items()},
        "fidelity": proposal.fidelity,
        "details": lenient(proposal.details),
    }


def proposal_from_json(content: Mapping[str, Any], candidate: Candidate) -> Proposal:
    """Build the proposal of a candidate from `proposal_to_json` content."""
    return Proposal(
        candidate=candidate,
        policy=content["policy"],
        reason=content["reason"],
        score=content["score"],
        mean=frozen(content["mean"]),
        sd=frozen(content["sd"]),
        fidelity=content["fidelity"],
        details=frozen(content["details"]),
    )


def report_to_json(report: FitReport) -> dict[str, Any]:
    """Return a fit's report as JSON content; NaN becomes null."""
    return {
        "labels": report.labels,
        "data_sha256": report.data_sha256,
        "metrics": lenient(report.metrics),
        "calibration": lenient(report.calibration),
        "device": report.device,
        "seconds": float(report.seconds),
        "warm": bool(report.warm),
        "notes": list(report.notes),
        "prospective": lenient(report.prospective),
        "promoted": bool(report.promoted),
        "champion": report.champion,
        "reason": report.reason,
    }


def report_from_json(content: Mapping[str, Any]) -> FitReport:
    """Build a fit's report from `report_to_json` content; null becomes NaN."""
    return FitReport(
        labels=content["labels"],
        data_sha256=content["data_sha256"],
        metrics=_numbers(content["metrics"]),
        calibration=_numbers(content["calibration"]),
        device=content["device"],
        seconds=content["seconds"],
        warm=content["warm"],
        notes=tuple(content["notes"]),
        # fits stored before champions and challengers all proposed
        prospective=_numbers(content.get("prospective", {})),
        promoted=content.get("promoted", True),
        champion=content.get("champion"),
        reason=content.get("reason", ""),
    )


def summary_to_json(summary: DecisionSummary) -> dict[str, Any]:
    """Return a decision's summary as JSON content; NaN becomes null."""
    content: dict[str, Any] = lenient({field.name: getattr(summary, field.name) for field in fields(summary)})
    return content


def summary_from_json(content: Mapping[str, Any]) -> DecisionSummary:
    """Build a decision's summary from `summary_to_json` content; what an older version did not know stays unknown."""
    pairs = tuple((float(level), float(short)) for level, short in content.get("regret", ()))
    corner = tuple(float(value) for value in content.get("reference", ()))
    return DecisionSummary(**{**content, "regret": pairs, "reference": corner})


def waiting_to_json(pending: Sequence[str], queued: Sequence[int], kept: Mapping[int, int]) -> Any:
    """Return what a decision knew to be in flight, and what it did with what waited, as JSON content.

    Args:
        pending: candidate ids in flight.
        queued: trials that waited and were ranked anew.
        kept: by position among the proposals: the trial that was chosen again.
    """
    if not queued:
        return list(pending)  # as every decision was stored before there were queues
    places = {str(place): int(number) for place, number in kept.items()}
    return {"pending": list(pending), "queued": sorted(int(number) for number in queued), "kept": places}


def waiting_from_json(content: Any) -> tuple[tuple[str, ...], tuple[int, ...], dict[int, int]]:
    """Read `waiting_to_json` content: pending ids, queued trials, kept trials by position."""
    if not isinstance(content, Mapping):
        return tuple(content), (), {}
    kept = {int(place): int(number) for place, number in content["kept"].items()}
    return tuple(content["pending"]), tuple(content["queued"]), kept


def lenient(content: Any) -> Any:
    """Bring what a plug-in reports into JSON: NumPy numbers become plain ones, NaN and infinities null."""
    if isinstance(content, Mapping):
        return {str(key): lenient(value) for key, value in content.items()}
    if isinstance(content, (np.ndarray, np.generic)):
        return lenient(content.tolist())
    if isinstance(content, (set, frozenset)):
        content = sorted(content)
    if isinstance(content, (list, tuple)):
        return [lenient(value) for value in content]
    if isinstance(content, float):
        return float(content) if math.isfinite(content) else None
    return content


def _numbers(content: Mapping[str, Mapping[str, float | None]]) -> Mapping[str, Mapping[str, float]]:
    return frozen(
        {
            name: frozen({key: math.nan if value is None else value for key, value in values.items()})
            for name, values in content.items()
        }
    )
