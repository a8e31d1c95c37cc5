"""Trials as a table for spreadsheets.

A cell that begins with ``=``, ``+``, ``-``, ``@``, a tab or a line end is a formula to a spreadsheet, which runs it:
such text gets a leading apostrophe (CVE-2021-41270). Numbers stay numbers.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from pathlib import Path

from orchestrator.domain import Measurement, Value
from orchestrator.record.samples import SampleInfo
from orchestrator.record.views import TrialInfo

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")  # and their full-width forms


def export_csv(
    trials: Sequence[TrialInfo],
    measurements: Sequence[Measurement],
    path: Path,
    samples: Sequence[SampleInfo] = (),
) -> int:
    """Write one line a trial.

    Args:
        trials: by number.
        measurements: of the same campaign; the last of a property in a trial counts.
        path: to be written.
        samples: of the same campaign; each trial's stand in the last column.

    Returns:
        The number of lines below the header.
    """
    parameters = sorted({name for trial in trials for name in trial.candidate.parameters})
    properties = sorted({(one.property, one.unit) for one in measurements})
    predicted = sorted({name for trial in trials for name in trial.proposal.mean})
    header = ["trial", "candidate", "candidate_id", "composition", *parameters, "fidelity", "replicate", "state"]
    for name, unit in properties:
        header += [f"{name} [{unit}]", f"{name} std_error [{unit}]", f"{name} quality"]
    for name in predicted:
        header += [f"{name} predicted mean", f"{name} predicted sd"]
    header += ["decision", "policy", "why", "reason", "samples"]
    things: dict[int, list[str]] = {}
    for one in samples:
        of = f" of {' + '.join(one.parents)}" if one.parents else ""
        things.setdefault(one.trial, []).append(f"{one.name}{of}: {one.state}")
    values = {(one.trial, one.property, one.unit): one for one in measurements}
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([safe(cell) for cell in header])
        for trial in trials:
            line = [*_line(trial, parameters, properties, predicted, values), "; ".join(things.get(trial.number, []))]
            writer.writerow([safe(cell) for cell in line])
    temporary.replace(path)
    return len(trials)


def safe(cell: Value | None) -> Value | None:
    """Make a cell harmless in a spreadsheet: text that it would take for a formula gets a leading apostrophe."""
    if isinstance(cell, str) and cell.lstrip(" \"'").startswith(_FORMULA):
        return f"'{cell}"
    return cell


def _line(
    trial: TrialInfo,
    parameters: Sequence[str],
    properties: Sequence[tuple[str, str]],
    predicted: Sequence[str],
    values: dict[tuple[int, str, str], Measurement],
) -> list[Value | None]:
    candidate, proposal = trial.candidate, trial.proposal
    line: list[Value | None] = [trial.number, candidate.label, candidate.id, candidate.composition]
    line += [candidate.parameters.get(name) for name in parameters]
    line += [trial.fidelity, trial.replicate, trial.state.value]
    for name, unit in properties:
        one = values.get((trial.number, name, unit))
        line += [None, None, None] if one is None else [one.value, one.std_error, one.quality.value]
    for name in predicted:
        line += [proposal.mean.get(name), proposal.sd.get(name)]
    return [*line, trial.decision, proposal.policy, proposal.reason, trial.reason]
