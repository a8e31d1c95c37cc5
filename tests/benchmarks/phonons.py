"""MatBench phonons on its official folds: error and honesty of every kind of surrogate, beside published entries.

A unit is one arm on one fold: its test fold is predicted once, and that is the line. `without X` trains on the crystals
without an anion and predicts those that have it. Run `make bench-phonons`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from orchestrator.domain import Objective, Problem
from orchestrator.matbench import FOLDS, PHONONS, Entry, Task, labelled, measure_fold, over_folds, read_task
from orchestrator.scoring import Predicted, score
from tests.benchmarks.data import SOURCES, provide
from tests.benchmarks.units import HERE, Unit, protocol, row, run_missing, say, summarise

ROOT = HERE.parents[1]
RESAMPLES = 10_000
LOG = {"transforms": {"target": "log"}}
STATISTICS = ["composition", "environments"]
NETWORK = {"network": "cgcnn", "cutoff": 5.0, "device": "cpu", **LOG}
ARMS: Mapping[str, Entry] = {
    "matloop": PHONONS,
    "nothing_pretrained": Entry("potential_gp", {"features": STATISTICS, "structure": "joint", **LOG}),
    "chgnet_features": Entry("potential_gp", {"features": ["chgnet", "energies"], "pools": ["mean", "spread"], **LOG}),
    "network": Entry("gnn_gp", NETWORK),
    "composition_forest": Entry("composition_forest", {}),
}
WORDS = {
    "matloop": (
        "`potential_gp` on harmonic phonons by CHGNet (finite displacements, phonopy), neighbourhoods and composition;"
        " log target; no phonon label outside the training fold, though CHGNet was trained on energies and forces of"
        " partly the same crystals"
    ),
    "nothing_pretrained": "the same Gaussian process on neighbourhoods and composition alone",
    "chgnet_features": "the same Gaussian process on CHGNet's pooled atom features and energies",
    "network": "`gnn_gp` with CGCNN trunks trained from scratch, neighbourhoods and composition",
    "composition_forest": "random forest on composition",
    "published": (
        "mean absolute errors of the MatBench v0.1 leaderboard (MegNet, coNGN, ALIGNN, MODNet, CrabNet); calibration of"
        " MODNet recomputed from the standard deviations that its entry stores"
    ),
}
PUBLISHED = {
    "published MegNet (kgcnn 2.1)": {"mae": 28.76},
    "published coNGN": {"mae": 28.89},
    "published ALIGNN": {"mae": 29.54},
    "published MODNet 0.1.12": {"mae": 34.28, "coverage_90": 0.588, "miscalibration_area": 0.197},
    "published CrabNet": {"mae": 55.11},
}
METRICS = {
    "mae": ("MAE", "1/cm"),
    "coverage_90": ("coverage_90", "share"),
    "miscalibration_area": ("miscalibration_area", ""),
    "nll": ("NLL", "nats"),
    "crps": ("CRPS", "1/cm"),
    "ence": ("ENCE", ""),
    "spearman": ("rank_correlation", ""),
}
ANIONS = ("O", "S", "Se", "F", "Cl")
"""Anions that are left out in turn: five with 77 to 360 crystals."""
APART = ("matloop", "nothing_pretrained")
"""Arms that are also measured on anions that no label has."""
CHOSEN_ON = "four inner folds of the training rows of fold 0"


@cache
def task(path: Path) -> Task:
    """Read the task once."""
    return read_task("matbench_phonons", path)


def measure_without(anion: str, entry: Entry, path: Path) -> Mapping[str, Any]:
    """Train on the crystals without an anion, and predict those that have it."""
    known = task(path)
    inside = np.array([anion in (one.crystal.species if one.crystal else ()) for one in known.candidates])
    surrogate = entry.build()
    surrogate.fit(
        labelled(known.candidates, known.values, np.flatnonzero(~inside)),
        Problem((Objective("target", known.unit, "minimize"),)),
        entry.seed,
    )
    asked = np.flatnonzero(inside)
    prediction = surrogate.predict([known.candidates[i] for i in asked])
    scores = score(Predicted(known.values[asked], prediction.mean[:, 0], prediction.sd[:, 0]))
    return {"labels": int((~inside).sum()), "asked": len(asked), "metrics": scores}


def rows_of(lines: Sequence[Mapping[str, Any]], path: Path) -> list[dict[str, Any]]:
    """Return the table: means over folds, as MatBench states them, with bootstrap intervals over the crystals."""
    made: list[dict[str, Any]] = []
    values = task(path).values
    for arm in ARMS:
        folds = [line["result"] for line in lines if line["parameters"]["arm"] == arm and "fold" in line["parameters"]]
        if not folds:
            continue
        found = over_folds(folds, values)
        for name, (metric, unit) in METRICS.items():
            if name in found:
                low, high = _interval(folds, values, name)
                one = row(arm, metric, unit, [fold["metrics"][name] for fold in folds])
                made.append({**one, "median": found[name], "low": low, "high": high})
    for arm in APART:
        own = [line for line in lines if line["parameters"]["arm"] == arm and "without" in line["parameters"]]
        found = [line["result"]["metrics"] for line in own]
        for name in ("coverage_90", "miscalibration_area"):
            if found:
                values = [one[name] for one in found]
                made.append(row(arm, f"{name}_without_anion", "share", values, low=min(values), high=max(values)))
    for who, published in PUBLISHED.items():
        for name, value in published.items():
            metric, unit = METRICS[name]
            made.append({**row(who, metric, unit, [value]), "n": None})
    return made


def _interval(folds: Sequence[Mapping[str, Any]], values: Any, name: str) -> tuple[float | None, float | None]:
    """Return a 95 % interval of what is a mean over crystals; None for the other metrics."""
    rows = np.concatenate([fold["rows"] for fold in folds])
    mean, sd = (np.concatenate([fold[part] for fold in folds]) for part in ("mean", "sd"))
    error = np.abs(values[rows] - mean)
    each = {"mae": error, "coverage_90": (error <= 1.6448536 * sd).astype(float)}.get(name)
    if each is None:
        return None, None
    drawn = np.random.default_rng(0).choice(each, size=(RESAMPLES, len(each))).mean(axis=1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(low), float(high)


def main() -> None:
    """Measure what is missing and write the summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT / "matloop-data" / "public", help="folder of `make data`")
    parser.add_argument("--units", type=int, default=None, help="run at most so many units now")
    parser.add_argument("--arm", choices=list(ARMS), default=None, help="run units of this arm only")
    arguments = parser.parse_args()
    path = arguments.data / SOURCES["phonons"].name
    if not path.exists():
        path = provide(SOURCES["phonons"], ROOT.parent / "shared" / "data", arguments.data)
    import torch  # noqa: PLC0415  only to keep it to one thread, as the measurement states

    torch.set_num_threads(1)
    settings = {arm: [entry.surrogate, dict(entry.options), entry.seed] for arm, entry in ARMS.items()}
    everything = [
        Unit(f"{arm}/fold {fold}", {"arm": arm, "fold": fold, "settings": settings[arm]})
        for arm in ARMS
        for fold in range(FOLDS)
    ]
    everything += [
        Unit(f"{arm}/without {anion}", {"arm": arm, "without": anion, "settings": settings[arm]})
        for arm in APART
        for anion in ANIONS
    ]
    chosen = [unit for unit in everything if arguments.arm in {None, unit.parameters["arm"]}]
    mark = protocol([path], FOLDS)

    def measured(unit: Unit) -> Mapping[str, Any]:
        if "without" in unit.parameters:
            return measure_without(unit.parameters["without"], ARMS[unit.parameters["arm"]], path)
        return measure_fold(task(path), unit.parameters["fold"], ARMS[unit.parameters["arm"]])

    def counts(line: Mapping[str, Any]) -> bool:
        return bool(line["parameters"]["settings"] == settings.get(line["parameters"]["arm"]))

    names = ("chgnet", "matgl", "numpy", "phonopy", "scipy", "torch")
    run_missing("phonons", chosen, measured, protocol=mark, packages=names, counts=counts, most=arguments.units)
    lines = run_missing("phonons", everything, measured, protocol=mark, packages=names, counts=counts, most=0)
    if len(lines) < len(everything):
        say(f"phonons: {len(lines)} of {len(everything)} units are measured; run again to go on")
    summarise(
        "phonons",
        rows_of(lines, path),
        work=(
            "MatBench v0.1 phonons (last peak of the phonon density of states, 1,265 crystals), official five folds,"
            " each predicted once. Mean over the folds; 95 % bootstrap interval over the crystals; without an anion:"
            " median, smallest and largest of five anions that no label had. CHGNet's phonons"
            " (some 2 s a crystal and core) are computed once and kept."
        ),
        command="make bench-phonons",
        protocol=mark,
        settings_chosen_on=CHOSEN_ON,
        arms=WORDS,
    )
    if len(lines) < len(everything) and arguments.units is None and arguments.arm is None:
        sys.exit(1)


if __name__ == "__main__":
    main()
