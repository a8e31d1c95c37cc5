"""Heat of formation of cubic perovskites: learning curves, five folds, and honesty on random and held-out anions.

Each unit trains one arm on some rows and predicts others once. `fold k/n` trains on n labels of the training part of
fold k and predicts its test part; `without X` trains on 1,000 labels without an anion family and predicts that family.
Run `make bench-perovskites`.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from orchestrator.abilities import GivesIntervals
from orchestrator.domain import Array, Candidate, Objective, Problem
from orchestrator.matbench import Entry, labelled
from orchestrator.scoring import Predicted, score
from tests.benchmarks.data import SOURCES, provide
from tests.benchmarks.discovery_arms import known
from tests.benchmarks.units import HERE, Unit, protocol, row, run_missing, say, summarise

ROOT = HERE.parents[1]
FOLDS, SPLIT_SEED = 5, 0
SIZES = (50, 100, 200, 500, 1000, 3000)
FAMILIES = ("O", "N", "FO", "NO", "OS", "FNO")
"""Anions of a cell, sorted: every family of the table."""
FAMILY_LABELS = 1000
PROBLEM = Problem((Objective("target", "eV/atom", "minimize"),))
EXACT = {"exact_up_to": 4000}
ARMS: Mapping[str, Entry] = {
    "matloop": Entry("potential_gp", {"structure": "joint", "layers": ["conv2", "readout"], **EXACT}),
    "gp_on_chgnet": Entry("potential_gp", {"features": ["chgnet"], "mean": "constant", **EXACT}),
    "composition_forest": Entry("composition_forest", {}),
    "network": Entry("gnn_gp", {"network": "cgcnn", "device": "cpu", **EXACT}),
    "ensemble": Entry("gnn_ensemble", {"network": "cgcnn", "members": 3, "device": "cpu", **EXACT}),
}
LARGEST = {"network": 1000, "ensemble": 1000, "matgl_megnet": 3000}
"""Labels above which an arm is not measured: two processor cores are what there is."""
FOLDS_OF = {
    "matgl_megnet": {50: 3, 100: 3, 200: 3, 500: 1, 1000: 1, 3000: 1},
    "ensemble": {1000: 2},
    "network": {1000: 3},
}
"""Folds of an arm at a size, where not all five: for the same reason."""
WORDS = {
    "matloop": "`potential_gp` on CHGNet's atom features (two layers), energies, neighbourhoods and composition",
    "gp_on_chgnet": "Gaussian process on CHGNet's pooled atom features",
    "composition_forest": "random forest on composition",
    "network": "`gnn_gp` with CGCNN trunks, neighbourhoods and composition; nothing pretrained",
    "ensemble": "`gnn_ensemble` of three CGCNN networks, recalibrated on what each member left out",
    "ensemble_raw": "the same ensemble's standard deviations before recalibration",
    "matgl_megnet": "matgl's MEGNet, trained by matgl's own Lightning module",
    "matloop_conformal": "conformal intervals over `matloop`'s predictions",
}


@cache
def pool(path: Path) -> tuple[tuple[Candidate, ...], Array, tuple[str, ...]]:
    """Read candidates, labels in eV/atom, and anion families."""
    from orchestrator.replay import Truth  # noqa: PLC0415  only the type's shape is used

    truth: Truth = known(path)[2]
    families = tuple(family(candidate) for candidate in truth.candidates)
    return truth.candidates, truth.values[:, 0], families


def family(candidate: Candidate) -> str:
    """Return the anions of a cubic perovskite, sorted: the last three sites."""
    species = candidate.crystal.species if candidate.crystal else ()
    return "".join(sorted(set(species) & {"F", "N", "O", "S"}))


def split(fold: int, n: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return n rows of the training part of a fold, nested in larger n, and the rows of its test part."""
    order = np.random.default_rng(SPLIT_SEED).permutation(n)
    test = order[fold::FOLDS]
    train = np.random.default_rng([SPLIT_SEED, fold]).permutation(np.setdiff1d(order, test))
    return train, test


def rows_for(unit: Mapping[str, Any], path: Path) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the rows that a unit trains on and predicts."""
    _, values, families = pool(path)
    if "without" in unit:
        inside = np.array([one == unit["without"] for one in families])
        rng = np.random.default_rng([SPLIT_SEED, FAMILIES.index(unit["without"])])
        return rng.permutation(np.flatnonzero(~inside))[:FAMILY_LABELS], np.flatnonzero(inside)
    train, test = split(unit["fold"], len(values))
    return train[: unit["labels"]], test


def measure(unit: Mapping[str, Any], path: Path) -> Mapping[str, Any]:
    """Train one arm and predict once."""
    candidates, values, _ = pool(path)
    train, test = rows_for(unit, path)
    begun = time.process_time()
    if unit["arm"] == "matgl_megnet":
        from tests.benchmarks.matgl_peer import train_and_predict  # noqa: PLC0415  ten seconds to import

        mean = train_and_predict([candidates[i] for i in train], values[train], [candidates[i] for i in test])
        return {
            "mae": float(np.abs(values[test] - mean).mean()),
            "rmse": float(np.sqrt(((values[test] - mean) ** 2).mean())),
            "cpu_seconds": round(time.process_time() - begun, 1),
        }
    surrogate = ARMS[unit["arm"]].build()
    report = surrogate.fit(labelled(candidates, values, train), PROBLEM, int(unit.get("fold", 0)))
    asked = [candidates[i] for i in test]
    prediction = surrogate.predict(asked)
    found: dict[str, Any] = dict(score(Predicted(values[test], prediction.mean[:, 0], prediction.sd[:, 0])))
    found["sd_factor"] = report.calibration["target"].get("sd_factor", 1.0)
    raw = score(Predicted(values[test], prediction.mean[:, 0], prediction.sd[:, 0] / found["sd_factor"]))
    found["raw"] = {name: raw[name] for name in ("coverage_90", "miscalibration_area", "nll")}
    if isinstance(surrogate, GivesIntervals):
        low, high = surrogate.interval(asked, 0.9)
        found["conformal_90"] = float(((values[test] >= low[:, 0]) & (values[test] <= high[:, 0])).mean())
    found["cpu_seconds"] = round(time.process_time() - begun, 1)
    found["train_rows"], found["test_rows"] = len(train), len(test)
    return found


def units() -> list[Unit]:
    """List everything that belongs to the benchmark, the cheap and telling units first."""
    made = []
    for arm in (*ARMS, "matgl_megnet"):
        settings = [ARMS[arm].surrogate, dict(ARMS[arm].options)] if arm in ARMS else ["matgl"]
        sizes = [n for n in SIZES if n <= LARGEST.get(arm, 3000)]
        for n in [1000] if arm == "ensemble" else sizes:
            for fold in range(FOLDS_OF.get(arm, {}).get(n, FOLDS)):
                about = {"arm": arm, "fold": fold, "labels": n, "settings": settings}
                made.append(Unit(f"{arm}/fold {fold}/{n}", about))
        if arm in {"matloop", "gp_on_chgnet", "ensemble", "network"}:
            made += [
                Unit(f"{arm}/without {name}", {"arm": arm, "without": name, "settings": settings})
                for name in FAMILIES[: 3 if arm in {"ensemble", "network"} else None]
            ]
    return made


def rows_of(lines: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the table."""
    made: list[dict[str, Any]] = []
    for arm in (*ARMS, "matgl_megnet"):
        own = [line for line in lines if line["parameters"]["arm"] == arm]
        for n in SIZES:
            found = [line["result"] for line in own if line["parameters"].get("labels") == n]
            if found:
                made.append(row(arm, f"MAE_{n}", "eV/atom", [one["mae"] for one in found]))
    for arm in ARMS:
        own = [line for line in lines if line["parameters"]["arm"] == arm]
        random = [line["result"] for line in own if line["parameters"].get("labels") == FAMILY_LABELS]
        apart = [line["result"] for line in own if "without" in line["parameters"]]
        for where, found in (("random", random), ("without_anion", apart)):
            if not found:
                continue
            for name, metric in (("coverage_90", "coverage_90"), ("miscalibration_area", "miscalibration_area")):
                made.append(row(arm, f"{metric}_{where}", "share", [one[name] for one in found]))
                if arm == "ensemble":
                    made.append(row("ensemble_raw", f"{metric}_{where}", "share", [one["raw"][name] for one in found]))
            if arm == "matloop" and "conformal_90" in found[0]:
                values = [one["conformal_90"] for one in found]
                made.append(row("matloop_conformal", f"coverage_90_{where}", "share", values))
    return made


def main() -> None:
    """Measure what is missing and write the summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT / "matloop-data" / "public", help="folder of `make data`")
    parser.add_argument("--units", type=int, default=None, help="run at most so many units now")
    parser.add_argument("--arm", default=None, choices=[*ARMS, "matgl_megnet"], help="run units of this arm only")
    arguments = parser.parse_args()
    path = arguments.data / SOURCES["perovskites"].name
    if not path.exists():
        path = provide(SOURCES["perovskites"], ROOT.parent / "shared" / "data", arguments.data)
    import torch  # noqa: PLC0415  only to keep it to one thread, as the measurement states

    torch.set_num_threads(1)
    everything = units()
    settings = {unit.key: unit.parameters["settings"] for unit in everything}
    mark = protocol([path], FOLDS, SPLIT_SEED, FAMILY_LABELS)
    chosen = [unit for unit in everything if arguments.arm in {None, unit.parameters["arm"]}]

    def counts(line: Mapping[str, Any]) -> bool:
        return bool(line["parameters"]["settings"] == settings.get(line["unit"]))

    def work(unit: Unit) -> Mapping[str, Any]:
        return measure(unit.parameters, path)

    names = ("chgnet", "matgl", "numpy", "scikit-learn", "scipy", "torch")
    run_missing("perovskites", chosen, work, protocol=mark, packages=names, counts=counts, most=arguments.units)
    lines = run_missing("perovskites", everything, work, protocol=mark, packages=names, counts=counts, most=0)
    if len(lines) < len(everything):
        say(f"perovskites: {len(lines)} of {len(everything)} units are measured; run again to go on")
    summarise(
        "perovskites",
        rows_of(lines),
        work=(
            "Heat of formation of 3,787 cubic perovskites: mean absolute error on the test part of five folds after"
            " 50 to 3,000 labels; honesty of the intervals with 1,000 labels on random test parts, and on an anion"
            " family that the labels lack."
        ),
        command="make bench-perovskites",
        protocol=mark,
        settings_chosen_on="inner folds of the training part of fold 0",
        arms=WORDS,
    )
    if len(lines) < len(everything) and arguments.units is None and arguments.arm is None:
        sys.exit(1)


if __name__ == "__main__":
    main()
