"""What derived properties are computed from, and what they give."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from orchestrator.domain.candidates import Candidate, Crystal
from orchestrator.domain.dataset import Measurement


@dataclass(frozen=True)
class TrialRecord:
    """What is stored of one completed trial, for functions that derive properties from it.

    Args:
        trial: number.
        candidate: what was asked for.
        measurements: by step name and property: good measurements only.
        structures: by step name and output name: structures that came back.
    """

    trial: int
    candidate: Candidate
    measurements: Mapping[str, Mapping[str, Measurement]]
    structures: Mapping[str, Mapping[str, Crystal]] = field(default_factory=dict)


@dataclass(frozen=True)
class DerivedValue:
    """One derived number, or the reason why there is none."""

    value: float | None
    std_error: float | None = None
    reason: str = ""
