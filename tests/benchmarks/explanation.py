"""Are explanations faithful? Deletion curves against random order, on three public data sets.

    python -m tests.benchmarks.explanation --data matloop-data/public        goes on where it was cut off
    python -m tests.benchmarks.explanation --data … --units 1                at most one unit now

A graph surrogate is trained on 200 labels and asked about 30 held-out crystals. The parts of each crystal (kinds of
sites) are deleted one after the other: first the one that is said to move the prediction most from what is typical to
where it stands. Deleting means what `surrogates.coalitions` means by it, with stand-ins that no explanation has used.
The better an explanation, the faster the prediction falls back; the area under that fall, in standard deviations of the
labels, is compared with its mean over all orders, which is what a random order gives.
"""

from __future__ import annotations

import argparse
import io
import itertools
import sys
import tarfile
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from orchestrator import plugins
from orchestrator.domain import Array, Candidate, Dataset, Explanation, Objective, Outcome, Problem, Row
from orchestrator.surrogates.coalitions import Background, Part, without
from tests.benchmarks.data import SOURCES, provide
from tests.benchmarks.discovery_arms import ROOT
from tests.benchmarks.units import HERE, Unit, protocol, row, run_missing, say, summarise

SEEDS = 5
LABELS, EXPLAINED = 200, 30
PARTS = (2, 3, 4)
"""Numbers of parts of the crystals that are explained: one part has no order, and of more not every order is asked."""
MOST_ATOMS = 20
FRESH = 1_000_000
"""Added to the seed of the stand-ins that judge, so that they are not those that explained."""
STAND_INS = 8
SURROGATE = {"network": "cgcnn", "folds": 2, "epochs": 20, "device": "cpu"}
SETS = {
    "perovskites": ("perovskites", "eV/atom", "heat of formation of cubic perovskites"),
    "phonons": ("phonons", "1/cm", "last peak of the phonon density of states"),
    "jarvis": ("jarvis", "eV/atom", "formation energy, intermetallics and others of JARVIS-DFT"),
}
"""Name → source, unit, what is predicted."""
ARMS = {
    "matloop": "Shapley values of the whole surrogate (what `matloop explain` shows)",
    "integrated_gradients": "integrated gradients of the networks alone, on the atoms' embeddings",
    "random": "the mean over all orders",
}
RESAMPLES = 4000


@cache
def table(name: str, folder: Path) -> tuple[tuple[Candidate, ...], Array]:
    """Read the crystals of a data set and their labels; rows that repeat a formula are kept once."""
    source = folder / SOURCES[SETS[name][0]].name
    found = {"perovskites": _perovskites, "phonons": _phonons, "jarvis": _jarvis}[name](source)
    kept = {c.label: (c, v) for c, v in found if c.crystal is not None and len(c.crystal.species) <= MOST_ATOMS}
    return tuple(c for c, _ in kept.values()), np.array([v for _, v in kept.values()])


def _candidate(structure: Any, key: str) -> Candidate:
    from orchestrator.materials.structures import formula, from_pymatgen  # noqa: PLC0415  imports pymatgen

    crystal = from_pymatgen(structure, key)
    return Candidate.make(label=formula(crystal), crystal=crystal, crystal_key=key)


def _perovskites(path: Path) -> list[tuple[Candidate, float]]:
    import pandas as pd  # noqa: PLC0415  not needed by --help
    from pymatgen.core import Structure  # noqa: PLC0415  2 s to import

    rows = pd.read_csv(path).sample(frac=0.25, random_state=0)  # a quarter is plenty, and CIF is slow to read
    made = []
    for r in rows.itertuples():
        made.append((_candidate(Structure.from_str(r.cif, "cif"), str(r.material_id)), float(r.heat_all)))  # noqa: PERF401  a line too long
    return made


def _phonons(path: Path) -> list[tuple[Candidate, float]]:
    from orchestrator.matbench import read_task  # noqa: PLC0415  imports pymatgen

    task = read_task("matbench_phonons", path)
    return [(candidate, float(value)) for candidate, value in zip(task.candidates, task.values, strict=True)]


def _jarvis(path: Path) -> list[tuple[Candidate, float]]:
    import pandas as pd  # noqa: PLC0415  as above
    from pymatgen.core import Structure  # noqa: PLC0415

    found = []
    with tarfile.open(path) as archive:
        names = {Path(member.name).name: member for member in archive.getmembers()}
        listed = archive.extractfile(names["metadata.csv"])
        rows = pd.read_csv(io.BytesIO(listed.read() if listed else b"")).sample(n=900, random_state=0)
        for r in rows.itertuples():
            file = archive.extractfile(names[str(r.cif_filename)])
            structure = Structure.from_str((file.read() if file else b"").decode(), "cif").get_primitive_structure()
            found.append((_candidate(structure, str(r.jid)), float(r.formation_energy_per_atom)))
    return found


def measure(unit: Unit, folder: Path) -> Mapping[str, Any]:
    """Train on one draw of labels, explain held-out crystals, delete in every order."""
    name, seed = unit.parameters["set"], int(unit.parameters["seed"])
    candidates, values = table(name, folder)
    order = np.random.default_rng(seed).permutation(len(candidates))
    train = order[:LABELS]
    problem = Problem((Objective("y", SETS[name][1], "minimize"),))
    rows = [
        Row(k + 1, candidates[i], {}, "y", float(values[i]), None, Outcome.MEASURED, measurement=k + 1)
        for k, i in enumerate(train)
    ]
    surrogate = plugins.build("surrogates", "gnn_gp", SURROGATE)
    report = surrogate.fit(Dataset(tuple(rows)), problem, seed)
    fresh = Background([candidates[i] for i in train], references=STAND_INS, seed=FRESH + seed)
    chosen = [candidates[i] for i in order[LABELS:] if len(fresh.divide(candidates[i])) in PARTS][:EXPLAINED]
    shapley = surrogate.explain(chosen, "y")
    gradients = surrogate.explain_network(chosen, "y")
    spread = float(values[train].std())
    areas: list[dict[str, float]] = []
    for candidate, one, other in zip(chosen, shapley, gradients, strict=True):
        parts = fresh.divide(candidate)
        worth = worths(lambda asked: surrogate.predict(asked).mean[:, 0], candidate, parts)
        towards = float(np.sign(one.mean - one.baseline)) or 1.0
        found = {
            "matloop": area(worth, ranked(parts, one, towards)),
            "integrated_gradients": area(worth, ranked(parts, other, towards)),
            "random": float(np.mean([area(worth, list(o)) for o in itertools.permutations(range(len(parts)))])),
        }
        areas.append({arm: value / spread for arm, value in found.items()})
    return {
        "areas": [{arm: round(value, 6) for arm, value in one.items()} for one in areas],
        "held_out": dict(report.metrics["y"]),
        "rows": len(candidates),
        "spread": spread,
    }


def worths(
    predict: Callable[[Sequence[Candidate]], Array], candidate: Candidate, parts: Sequence[Part]
) -> dict[tuple[bool, ...], float]:
    """Return the prediction for every combination of kept parts, averaged over the stand-ins of the others."""
    combinations = list(itertools.product((False, True), repeat=len(parts)))
    asked = [without(candidate, parts, kept, r) for kept in combinations for r in range(STAND_INS)]
    answers = predict(asked).reshape(len(combinations), STAND_INS).mean(1)
    return dict(zip(combinations, answers.tolist(), strict=True))


def ranked(parts: Sequence[Part], explanation: Explanation, towards: float) -> list[int]:
    """Order parts by how far they are said to move the prediction to where it stands."""
    by_site = {atom.site: atom.value for atom in explanation.atoms}
    said = [towards * sum(by_site[site] for site in part.sites) for part in parts]
    return sorted(range(len(parts)), key=lambda i: (-said[i], i))


def area(worth: Mapping[tuple[bool, ...], float], order: Sequence[int]) -> float:
    """Return the mean fall of the prediction while all but the last part are deleted, towards the typical."""
    k = len(order)
    full, empty = worth[(True,) * k], worth[(False,) * k]
    direction = float(np.sign(full - empty)) or 1.0
    kept, falls = [True] * k, []
    for i in order[:-1]:
        kept[i] = False
        falls.append(direction * (full - worth[tuple(kept)]))
    return float(np.mean(falls))


def rows_of(lines: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Turn the lines into rows: mean area an arm and set, and differences to random, paired by crystal."""
    made = []
    for name in SETS:
        areas = [one for line in lines if line["parameters"]["set"] == name for one in line["result"]["areas"]]
        if not areas:
            continue
        made += [_mean(arm, f"deletion_area_{name}", [one[arm] for one in areas]) for arm in ARMS]
        for arm in ("random", "integrated_gradients"):
            differences = [one["matloop"] - one[arm] for one in areas]
            made.append(_mean("matloop", f"deletion_area_{name}_minus_{arm}", differences))
        differences = [one["integrated_gradients"] - one["random"] for one in areas]
        made.append(_mean("integrated_gradients", f"deletion_gain_{name}", differences))
    return made


def _mean(who: str, metric: str, values: Sequence[float]) -> dict[str, Any]:
    """Return a row with the mean and its 95 % bootstrap interval over crystals."""
    data: Array = np.asarray(values, dtype=np.float64)
    means = np.random.default_rng(0).choice(data, size=(RESAMPLES, len(data))).mean(axis=1)
    low, high = (float(x) for x in np.quantile(means, [0.025, 0.975]))
    return {**row(who, metric, "sd", data.tolist(), low=low, high=high), "median": float(data.mean())}


def units(seeds: int) -> list[Unit]:
    """List everything that belongs to the benchmark."""
    return [Unit(f"{name}/{seed}", {"set": name, "seed": seed}) for seed in range(seeds) for name in SETS]


def main() -> None:
    """Measure what is missing and write the summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT / "matloop-data" / "public", help="folder of `make data`")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--units", type=int, default=None, help="run at most so many units now")
    arguments = parser.parse_args()
    for source, _, _ in SETS.values():
        provide(SOURCES[source], ROOT.parent / "shared" / "data", arguments.data)
    import torch  # noqa: PLC0415  only to keep it to one thread, as the measurement states

    torch.set_num_threads(1)
    rooms = ROOT / "orchestrator" / "surrogates"
    code = [rooms / f"{name}.py" for name in ("attributions", "coalitions", "explanation")]
    mark = protocol([HERE / "explanation.py", *code], *(SOURCES[source].sha256 for source, _, _ in SETS.values()))
    everything = units(arguments.seeds)
    lines = run_missing(
        "explanation",
        everything,
        lambda unit: measure(unit, arguments.data),
        protocol=mark,
        packages=("captum", "numpy", "torch", "torch-geometric"),
        most=arguments.units,
    )
    if len(lines) < len(everything):
        say(f"explanation: {len(lines)} of {len(everything)} units are measured; run again to go on")
        sys.exit(0 if arguments.units is not None else 1)
    summarise(
        "explanation",
        rows_of(lines),
        work=(
            f"Fall of the prediction, in standard deviations of the labels, while the parts of {EXPLAINED} held-out"
            f" crystals a seed are deleted in the order of their contributions; gnn_gp (cgcnn) on {LABELS} labels."
            " Larger is more faithful. Means over crystals with their 95 % bootstrap intervals, differences paired."
        ),
        command="make bench-explanation",
        protocol=mark,
        arms=ARMS,
    )


if __name__ == "__main__":
    main()
