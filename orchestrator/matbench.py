"""MatBench tasks on their official folds, with honest uncertainty: any file of a task, any surrogate, fold by fold.

MatBench v0.1: Dunn et al., npj Computational Materials 6, 138 (2020), doi:10.1038/s41524-020-00406-3. The official
folds are five shuffled parts of the rows in their order; a surrogate sees nothing of a test fold before it predicts it,
and whatever it chooses (transforms, weights, calibration) it chooses inside the training fold.
"""

from __future__ import annotations

import csv
import gzip
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from orchestrator import plugins
from orchestrator.domain import (
    Array,
    Candidate,
    Dataset,
    Objective,
    Outcome,
    Problem,
    Row,
    canonical_json,
    derive_seed,
    sha256,
)
from orchestrator.errors import ConfigError
from orchestrator.materials.structures import from_pymatgen
from orchestrator.protocols import Surrogate
from orchestrator.scoring import Predicted, score

FOLDS = 5
FOLD_SEED = 18012019
"""Of the official folds; checked against the stored row ids of six tasks."""
ERRORS = frozenset({"mae", "rmse", "max_error", "bias", "r2"})
"""Stated as the mean over folds, as MatBench does; the rest judges all predictions together."""

UNITS: Mapping[str, str] = {
    "matbench_dielectric": "dimensionless",
    "matbench_expt_gap": "eV",
    "matbench_jdft2d": "meV",
    "matbench_log_gvrh": "dimensionless",
    "matbench_log_kvrh": "dimensionless",
    "matbench_mp_e_form": "eV",
    "matbench_mp_gap": "eV",
    "matbench_perovskites": "eV",
    "matbench_phonons": "1/cm",
    "matbench_steels": "MPa",
}
"""Units of the regression tasks' targets; a task that is not listed is a classification, or has none."""
CLASSIFICATIONS = ("matbench_expt_is_metal", "matbench_glass", "matbench_mp_is_metal")


@dataclass(frozen=True, eq=False)
class Task:
    """One MatBench task as its file gives it.

    Args:
        name: such as ``matbench_phonons``.
        unit: of the target.
        classification: whether targets are 0 or 1.
        sha256: of the file's content.
        candidates: n, in the official order.
        values: n targets.
    """

    name: str
    unit: str
    classification: bool
    sha256: str
    candidates: tuple[Candidate, ...]
    values: Array

    def __len__(self) -> int:
        """Count the rows."""
        return len(self.candidates)

    def folds(self) -> list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
        """Return the official folds: rows to train on, rows to predict."""
        from sklearn.model_selection import KFold, StratifiedKFold  # noqa: PLC0415  a second to import

        kind = StratifiedKFold if self.classification else KFold
        split = kind(FOLDS, shuffle=True, random_state=FOLD_SEED).split(np.zeros(len(self)), self.values)
        return [(np.asarray(train), np.asarray(test)) for train, test in split]


def read_task(name: str, path: Path) -> Task:
    """Read a task's file: MatBench's JSON (gzipped or not), or a CSV with formula and target.

    Args:
        name: of the task; decides the unit, and whether it is a classification.
        path: the file.

    Returns:
        The task.

    Raises:
        ConfigError: the task or the file's layout is unknown.
    """
    if name not in UNITS and name not in CLASSIFICATIONS:
        known = ", ".join(sorted((*UNITS, *CLASSIFICATIONS)))
        message = f"there is no MatBench task {name!r}; write one of: {known}"
        raise ConfigError(message)
    try:
        raw = path.read_bytes()
        text = (gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw).decode()
    except (OSError, EOFError, UnicodeDecodeError) as error:
        message = f"the file of {name} cannot be read: {error}; give the task's file by --data"
        raise ConfigError(message, file=str(path)) from error
    rows = list(_json_rows(text, path) if text.lstrip()[:1] == "{" else _csv_rows(text, path))
    return Task(
        name=name,
        unit=UNITS.get(name, "dimensionless"),
        classification=name in CLASSIFICATIONS,
        sha256=sha256(text.encode()),
        candidates=tuple(candidate for candidate, _ in rows),
        values=np.array([value for _, value in rows]),
    )


def _json_rows(text: str, path: Path) -> Iterator[tuple[Candidate, float]]:
    from pymatgen.core import Structure  # noqa: PLC0415  2 s to import

    content = json.loads(text)
    if not {"columns", "data"} <= set(content) or len(content["columns"]) != 2:  # noqa: PLR2004  input and target
        message = (
            "a MatBench file has the keys 'index', 'columns' (two of them) and 'data', seen: "
            + ", ".join(content)[:200]
        )
        raise ConfigError(message, file=str(path))
    for number, (given, value) in enumerate(content["data"]):
        if isinstance(given, str):
            yield _formula(given, number), float(value)
            continue
        structure = Structure.from_dict(given)
        formula = structure.composition.reduced_formula
        # Rows may repeat a crystal, and must stay rows: so the row's number is part of the identity.
        key = f"row {number}"
        yield Candidate.make(label=formula, crystal=from_pymatgen(structure, key), crystal_key=key), float(value)


def _csv_rows(text: str, path: Path) -> Iterator[tuple[Candidate, float]]:
    reader = csv.DictReader(text.splitlines())
    if not reader.fieldnames or "formula" not in reader.fieldnames or "target" not in reader.fieldnames:
        message = f"a task as CSV has the columns 'formula' and 'target', seen: {reader.fieldnames}"
        raise ConfigError(message, file=str(path))
    for number, line in enumerate(reader):
        yield _formula(line["formula"], number), float(line["target"])


def _formula(formula: str, number: int) -> Candidate:
    return Candidate.make(label=f"{formula} (row {number})", composition=formula)


@dataclass(frozen=True)
class Entry:
    """What is measured on a task.

    Args:
        surrogate: name of a plug-in.
        options: its options.
        seed: of the campaign that this stands for; each fold derives its own.
    """

    surrogate: str
    options: Mapping[str, Any]
    seed: int = 0

    def build(self) -> Surrogate:
        """Build the surrogate, which has learned nothing."""
        made: Surrogate = plugins.build("surrogates", self.surrogate, self.options)
        return made


PHONONS = Entry(
    "potential_gp",
    {
        "features": ["vibrations", "composition", "environments"],
        "structure": "joint",
        "transforms": {"target": "log"},
    },
)
"""Harmonic phonons by a pretrained potential, corrected by labels; chosen on inner folds of fold 0's training rows."""
STRUCTURES = Entry("potential_gp", {"structure": "joint", "layers": ["conv2", "readout"]})
FORMULAS = Entry("composition_gp", {})


def recommended(task: Task) -> Entry:
    """Return what is measured where nothing is named: phonons of a potential, what it sees, or composition alone."""
    if task.name == "matbench_phonons":
        return PHONONS
    return STRUCTURES if task.candidates and task.candidates[0].crystal is not None else FORMULAS


def measure_fold(task: Task, fold: int, entry: Entry) -> dict[str, Any]:
    """Train on one training fold, then predict its test fold once.

    Args:
        task: the task.
        fold: 0 to 4.
        entry: what is measured.

    Returns:
        Rows, labels, means, standard deviations, metrics, seconds of training and prediction, and what the fit says.
    """
    train, test = task.folds()[fold]
    problem = Problem((Objective("target", task.unit, "minimize"),))
    dataset = labelled(task.candidates, task.values, train)
    surrogate = entry.build()
    begun = time.perf_counter()
    report = surrogate.fit(dataset, problem, derive_seed(entry.seed, fold, "fit"))
    trained = time.perf_counter()
    prediction = surrogate.predict([task.candidates[i] for i in test])
    done = time.perf_counter()
    mean, sd = prediction.mean[:, 0], prediction.sd[:, 0]
    metrics = _finite(score(Predicted(task.values[test], mean, sd)))
    if task.classification:
        metrics["roc_auc"] = _roc_auc(task.values[test], mean)
    return {
        "fold": fold,
        "rows": [int(i) for i in test],
        "mean": [float(f"{x:.6g}") for x in mean],
        "sd": [float(f"{x:.6g}") for x in sd],
        "metrics": metrics,
        "fit_seconds": round(trained - begun, 1),
        "predict_seconds": round(done - trained, 1),
        "device": report.device,
        "notes": list(report.notes),
    }


def labelled(candidates: Sequence[Candidate], values: Array, rows: Sequence[int] | npt.NDArray[np.int64]) -> Dataset:
    """Make a dataset of some rows, one trial a row, of the property ``target``.

    Args:
        candidates: n candidates.
        values: n labels.
        rows: which of them.

    Returns:
        The dataset; a trial's number is its row plus one.
    """
    return Dataset(
        tuple(
            Row(
                int(i) + 1,
                candidates[i],
                {},
                "target",
                float(values[i]),
                None,
                Outcome.MEASURED,
                measurement=int(i) + 1,
            )
            for i in rows
        )
    )


def benchmark(
    task: Task, entry: Entry, out: Path, *, folds: Sequence[int] = range(FOLDS), say: Callable[[str], None] = print
) -> dict[str, Any]:
    """Measure the folds that are missing in a result file, writing it after each.

    Args:
        task: the task.
        entry: what is measured.
        out: JSON file; gone on with where it is of the same task, surrogate, options, seed and versions.
        folds: which folds.
        say: takes one line for people.

    Returns:
        What stands in the file then: ``protocol``, ``folds`` and, over the measured ones, ``metrics``.

    Raises:
        ConfigError: the file belongs to something else.
    """
    about: dict[str, Any] = {
        "task": task.name,
        "rows": len(task),
        "data_sha256": task.sha256,
        "surrogate": entry.surrogate,
        "options": dict(entry.options),
        "seed": entry.seed,
        "versions": versions(),
    }
    about["protocol"] = sha256(canonical_json(about))[:16]
    content: dict[str, Any] = {**about, "folds": [], "metrics": {}}
    if out.exists():
        content = _same(out, about)
    done = {one["fold"]: one for one in content["folds"]}
    for fold in folds:
        if fold in done:
            say(f"{task.name} fold {fold}: measured already")
            continue
        done[fold] = measure_fold(task, fold, entry)
        content["folds"] = [done[k] for k in sorted(done)]
        content["metrics"] = over_folds(content["folds"], task.values)
        _write(out, content)
        seconds = done[fold]["fit_seconds"] + done[fold]["predict_seconds"]
        metrics = done[fold]["metrics"]
        say(
            f"{task.name} fold {fold}: MAE {metrics['mae']:.4g} {task.unit},"
            f" {100 * metrics['coverage_90']:.0f} % of the labels in the 90 % intervals, {seconds:.0f} s"
        )
    return content


def over_folds(folds: Sequence[Mapping[str, Any]], values: Array) -> dict[str, float]:
    """Return the mean of each metric over folds, as MatBench states it, and the calibration of all predictions.

    Args:
        folds: of `measure_fold`.
        values: targets of the task.

    Returns:
        ``mae`` and the other errors: the mean over folds. Calibration is of all predictions together.
    """
    names = set.intersection(*(set(fold["metrics"]) for fold in folds))
    means = {name: float(np.mean([fold["metrics"][name] for fold in folds])) for name in sorted(names)}
    rows = np.concatenate([np.array(fold["rows"]) for fold in folds])
    mean, sd = (np.concatenate([np.array(fold[part]) for fold in folds]) for part in ("mean", "sd"))
    together = _finite(score(Predicted(values[rows], mean, sd)))
    return {**means, **{name: value for name, value in together.items() if name not in ERRORS}}


def versions() -> dict[str, str]:
    """Return the versions that a result depends on."""
    from importlib.metadata import version  # noqa: PLC0415  seldom needed

    return {name: version(name) for name in ("matloop", "numpy", "scipy", "torch", "matgl", "chgnet")}


def _same(out: Path, about: dict[str, Any]) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    except ValueError as error:
        message = f"{out} is no result file ({error}); give another --json, or remove it"
        raise ConfigError(message) from error
    if content.get("protocol") != about["protocol"]:
        differing = [name for name in about if content.get(name) != about[name] and name != "protocol"]
        message = (
            f"{out} holds results of another {', '.join(differing) or 'benchmark'}; give another --json, or remove it"
        )
        raise ConfigError(message)
    return content


def _write(out: Path, content: Mapping[str, Any]) -> None:
    partial = out.with_name(f".{out.name}.partial")
    with partial.open("w", encoding="utf-8") as file:
        json.dump(content, file, indent=1)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    partial.replace(out)


def _finite(metrics: Mapping[str, float]) -> dict[str, float]:
    """Leave out what is no number, such as a correlation with a constant: JSON has no word for it."""
    return {name: value for name, value in metrics.items() if math.isfinite(value)}


def _roc_auc(values: Array, scores: Array) -> float:
    from sklearn.metrics import roc_auc_score  # noqa: PLC0415  a second to import

    return float(roc_auc_score(values > 0.5, scores))  # noqa: PLR2004  the classes are 0 and 1
