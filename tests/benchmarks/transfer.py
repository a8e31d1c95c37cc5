"""Do other fits and cheap results help? Errors with and without them, at few labels, on public data.

    python -m tests.benchmarks.transfer --data matloop-data/public        goes on where it was cut off
    python -m tests.benchmarks.transfer --data … --units 1                at most one unit now

Transfer: networks trained on formation energies of JARVIS-DFT (intermetallics and others, no perovskite of the target
among them) are the start for heats of formation of cubic perovskites, another property from other calculations. The
arm from a source with shuffled labels shows what negative transfer costs once the shipped surrogate may leave a source
aside. Fidelities: CHGNet's energy, without elemental references of the target, stands below the heat of formation.
Sources are trained once and kept below the data folder.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from orchestrator import plugins
from orchestrator.domain import Array, Candidate, Dataset, Objective, Outcome, Problem, Row
from tests.benchmarks.data import SOURCES, provide
from tests.benchmarks.discovery_arms import ROOT
from tests.benchmarks.explanation import table
from tests.benchmarks.units import HERE, Unit, protocol, row, run_missing, say, summarise

SEEDS = 5
SIZES = (25, 50, 100, 200)
"""Labels of the target."""
ASKED = 300
"""Crystals on which the error is measured; never among the labelled ones."""
SOURCE_LABELS, SOURCE_EPOCHS, SOURCE_SEED = 1000, 25, 1
CHEAP = 400
"""Results of the cheap fidelity, at places of their own."""
NETWORK = {"network": "cgcnn", "device": "cpu"}
STATISTICS = {"features": ["environments", "composition"]}
"""Options of potential_gp without any potential: what stands below the target is then known from its results alone."""
PROBLEM = Problem((Objective("heat_of_formation", "eV/atom", "minimize"),))
BEFORE = Problem((Objective("formation_energy", "eV/atom", "minimize"),))
ARMS = {
    "matloop": "gnn_gp with `start:`, from JARVIS formation energies",
    "no_transfer": "gnn_gp from nothing",
    "shuffled_source": "gnn_gp with `start:`, from shuffled formation energies",
    "two_fidelities": "multi_fidelity on untrained statistics, with 400 CHGNet energies of other crystals below",
    "target_alone": "the same statistics (neighbourhoods, composition) and the target's labels alone",
    "shuffled_fidelity": "multi_fidelity as above, with 400 shuffled CHGNet energies below",
}


def labelled(candidates: Sequence[Candidate], values: Array, name: str, first: int = 1) -> tuple[Row, ...]:
    """Return measured rows with trial numbers from `first` on."""
    return tuple(
        Row(first + i, c, {}, name, float(y), None, Outcome.MEASURED, measurement=first + i)
        for i, (c, y) in enumerate(zip(candidates, values, strict=True))
    )


def source(data: Path, *, shuffled: bool) -> Path:
    """Return the folder of a source, trained where it is not there yet (about two minutes on one core)."""
    mark = protocol([], SOURCE_LABELS, SOURCE_EPOCHS, SOURCE_SEED, NETWORK, shuffled, learned_by())
    folder = data / "sources" / f"jarvis-{'shuffled-' if shuffled else ''}{mark}"
    if (folder / "state.json").exists():
        return folder
    candidates, values = table("jarvis", data)
    order = np.random.default_rng(SOURCE_SEED).permutation(len(candidates))[:SOURCE_LABELS]
    chosen = values[order]
    if shuffled:
        chosen = np.random.default_rng(SOURCE_SEED + 1).permutation(chosen)
    surrogate = plugins.build("surrogates", "gnn_gp", {**NETWORK, "folds": 2, "epochs": SOURCE_EPOCHS})
    rows = labelled([candidates[i] for i in order], chosen, "formation_energy")
    surrogate.fit(Dataset(rows), BEFORE, SOURCE_SEED)
    folder.mkdir(parents=True, exist_ok=True)
    surrogate.save(folder)
    return folder


def cheap(candidates: Sequence[Candidate]) -> Array:
    """Return CHGNet's energy beyond its own element references, in eV an atom: its zero-shot formation energy."""
    from orchestrator.networks import pretrained  # noqa: PLC0415  imports torch, which --help need not

    crystals = [c.crystal for c in candidates if c.crystal is not None]
    (column,) = pretrained.scalar_columns(("interaction_energy",))
    return pretrained.features(crystals)[:, column]


def measure(unit: Unit, data: Path) -> Mapping[str, Any]:
    """Train every arm of one kind on the same labels, and ask all of them about the same crystals."""
    size, seed = int(unit.parameters["labels"]), int(unit.parameters["seed"])
    candidates, values = table("perovskites", data)
    order = np.random.default_rng(seed).permutation(len(candidates))
    mine, asked, below = np.split(order, [size, size + ASKED])
    known = labelled([candidates[i] for i in mine], values[mine], "heat_of_formation")
    others = [candidates[i] for i in asked]
    answers: dict[str, Any] = {}

    def ask(arm: str, name: str, options: Mapping[str, Any], rows: tuple[Row, ...]) -> None:
        surrogate = plugins.build("surrogates", name, options)
        report = surrogate.fit(Dataset(rows), PROBLEM, seed)
        told = surrogate.predict(others)
        error = np.abs(told.mean[:, 0] - values[asked])
        answers[arm] = {
            "mae": float(error.mean()),
            "coverage_90": float((error <= 1.6449 * told.sd[:, 0]).mean()),
            "used": not any("left aside" in note for note in report.notes),
        }

    if unit.parameters["kind"] == "transfer":
        ask("no_transfer", "gnn_gp", NETWORK, known)
        ask("matloop", "gnn_gp", {**NETWORK, "start": source(data, shuffled=False)}, known)
        ask("shuffled_source", "gnn_gp", {**NETWORK, "start": source(data, shuffled=True)}, known)
        return answers
    beside = [candidates[i] for i in below[:CHEAP]]
    energies = cheap(beside)
    ask("target_alone", "potential_gp", STATISTICS, known)
    for arm, own in (
        ("two_fidelities", energies),
        ("shuffled_fidelity", np.random.default_rng(seed).permutation(energies)),
    ):
        lower = labelled(beside, own, "heat_of_formation", first=10_001)
        rows = (*known, *(replace(one, fidelity="chgnet") for one in lower))
        ask(arm, "multi_fidelity", {"surrogate": {"use": "potential_gp", "options": STATISTICS}}, rows)
    return answers


def units(seeds: int) -> list[Unit]:
    """List everything that belongs to the benchmark, small sizes first."""
    return [
        Unit(f"{kind}/{size}/{seed}", {"kind": kind, "labels": size, "seed": seed})
        for size in SIZES
        for kind in ("fidelity", "transfer")
        for seed in range(seeds)
    ]


def rows_of(lines: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Put results into rows: the error of each arm at each number of labels, and its ratio to the arm without help."""
    rows = []
    for size in SIZES:
        for kind, without in (("transfer", "no_transfer"), ("fidelity", "target_alone")):
            here = [one["result"] for one in lines if one["unit"].startswith(f"{kind}/{size}/")]
            for arm in here[0] if here else ():
                rows.append(row(arm, f"MAE_{size}", "eV/atom", [one[arm]["mae"] for one in here]))
                if arm != without:
                    ratios = [one[arm]["mae"] / one[without]["mae"] for one in here]
                    rows.append(row(arm, f"MAE_{size}_over_{without}", "ratio", ratios))
    return rows


def main() -> None:
    """Run what is missing, and write the summary when nothing is."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--data", type=Path, default=Path("matloop-data/public"))
    parser.add_argument("--beside", type=Path, default=Path("../shared/data"))
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--units", type=int, default=None, help="at most so many units now")
    arguments = parser.parse_args()
    for name in ("perovskites", "jarvis"):
        provide(SOURCES[name], arguments.beside, arguments.data)
    mark = protocol(
        [Path(__file__), HERE / "explanation.py"],
        *(SOURCES[name].sha256 for name in ("perovskites", "jarvis")),
        learned_by(),
    )
    everything = units(arguments.seeds)
    lines = run_missing(
        "transfer",
        everything,
        lambda unit: measure(unit, arguments.data),
        protocol=mark,
        packages=("chgnet", "numpy", "scipy", "torch", "torch-geometric"),
        most=arguments.units,
    )
    if len(lines) < len(everything):
        say(f"transfer: {len(lines)} of {len(everything)} units are measured; run again to go on")
        sys.exit(0 if arguments.units is not None else 1)
    summarise(
        "transfer",
        rows_of(lines),
        work=(
            f"Mean error of the heat of formation of {ASKED} held-out cubic perovskites after"
            f" {', '.join(map(str, SIZES))} labels, with and without what was learned elsewhere."
        ),
        command="python -m tests.benchmarks.transfer",
        protocol=mark,
        arms=ARMS,
    )


def learned_by() -> str:
    """Return the hash of the rooms that learn."""
    rooms = ("networks", "surrogates")
    return protocol([path for room in rooms for path in (ROOT / "orchestrator" / room).glob("*.py")])


if __name__ == "__main__":
    main()
