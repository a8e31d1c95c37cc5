"""How fast, and in how much memory, is a large pool screened; and what does a kill in the middle cost?

    python -m tests.benchmarks.screening                            goes on where it was cut off
    python -m tests.benchmarks.screening --structures 5000 --units 1    a small one, now

Structures are made by decorating prototypes with elements: cubic perovskites and binary compounds of up to 14 atoms,
all different. A surrogate is trained on 150 of them. `matloop predict` with two worker processes is killed (SIGKILL)
after two fifths of the pool and given again; the measurement waits until its orphans have ended by themselves.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pymatgen.core import Element

from orchestrator.domain import Candidate, Crystal, Dataset, Outcome, Row
from orchestrator.materials.prototypes import prototypes
from orchestrator.materials.structures import formula
from tests.benchmarks.units import HERE, Unit, protocol, row, run_missing, say, summarise

ROOT = HERE.parents[1]
LABELS = 150
WORKERS = 2
KILLED_AT = 0.4
PACKING = 0.55
"""Share of the volume that spheres of the atoms' radii fill; makes volumes that are about right."""
_SYMBOLS = (
    "Li Be Na Mg Al K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge Rb Sr Y Zr Nb Mo Tc Ru Rh Pd Ag Cd In Sn Sb Cs Ba La Ce Pr"
    " Nd Sm Eu Gd Tb Dy Ho Er Tm Yb Lu Hf Ta W Re Os Ir Pt Au Hg Tl Pb Bi Th U"
)
METALS = tuple(_SYMBOLS.split())
ANIONS = ("O", "S", "Se", "Te", "F", "Cl", "Br", "I", "N", "P", "As", "C")
BINARY = ("rocksalt", "zincblende", "wurtzite", "cesium_chloride", "nickel_arsenide", "fluorite", "litharge", "rutile",
          "anatase", "cadmium_iodide", "cooperite", "rhenium_trioxide", "molybdenite", "spinel", "cuprite",
          "tin_fluoride", "lanthanum_oxide", "iron_fluoride")  # fmt: skip
SURROGATES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "gnn_gp": ("gnn_gp", {"device": "cpu"}),
    "gnn_gp_cgcnn": ("gnn_gp", {"network": "cgcnn", "device": "cpu"}),
    "composition_forest": ("composition_forest", {}),
}
WORDS = {
    "gnn_gp": "gnn_gp as shipped, 2 processes",
    "gnn_gp_cgcnn": "gnn_gp on CGCNN, 2 processes",
    "composition_forest": "forest on composition features, 2 processes",
}


def decorations() -> Iterator[tuple[str, Crystal]]:
    """Give different structures: binaries of each prototype, perovskites, then intermetallics."""
    for name, metal, anion in itertools.product(BINARY, METALS, ANIONS):
        yield f"{name}/{metal}-{anion}", _decorated(name, {"cation": metal, "anion": anion})
    for a, b, x in itertools.product(METALS, METALS, ANIONS):
        if a != b:
            yield f"perovskite/{a}-{b}-{x}", _decorated("perovskite", {"A": a, "B": b, "X": x})
    for name, one, other in itertools.product(BINARY[:12], METALS, METALS):
        if one != other:
            yield f"{name}/{one}-{other}", _decorated(name, {"cation": one, "anion": other})


def shuffled(count: int) -> list[tuple[str, Crystal]]:
    """Return the first of a fixed random order, the same for every count."""
    everything = list(decorations())
    order = np.random.default_rng(0).permutation(len(everything))
    if count > len(everything):
        message = f"there are {len(everything)} decorations; {count} were asked for"
        raise ValueError(message)
    return [everything[i] for i in order[:count]]


def write_pool(path: Path, structures: Sequence[tuple[str, Crystal]]) -> None:
    """Write JSON lines."""
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps({"id": own, **crystal.to_json()}) + "\n" for own, crystal in structures)


def measure(unit: Unit, structures: Sequence[tuple[str, Crystal]]) -> dict[str, Any]:
    """Screen the pool with a kill in the middle."""
    use, options = SURROGATES[unit.parameters["surrogate"]]
    with tempfile.TemporaryDirectory(prefix="matloop-screening-") as name:
        folder = Path(name)
        write_pool(folder / "pool.jsonl", structures)
        _train(folder, structures[:LABELS], use, options)
        chunk = min(1000, max(50, len(structures) // 50))
        command = [sys.executable, "-m", "flows.cli", "predict", str(folder / "pool.jsonl"), "--fit", "1"]
        command += ["--store", str(folder / "store.db"), "--out", str(folder / "out.csv"), "--top", "0"]
        command += ["--workers", str(WORKERS), "--chunk", str(chunk)]
        parts = folder / "out.csv.parts"
        stop = int(KILLED_AT * len(structures) / chunk)
        first = _watched(command, lambda: len(list(parts.glob("part-*"))) >= stop)
        kept = len(list(parts.glob("part-*")))
        second = _watched(command, lambda: False)
        about = json.loads((folder / "out.csv.json").read_text("utf-8"))
        with (folder / "out.csv").open(newline="", encoding="utf-8") as file:
            rows = [(int(one["row"]), one["id"], one["reason"]) for one in csv.DictReader(file)]
    wanted = [own for own, _ in structures]
    found = [own for _, own, _ in rows]
    return {
        "structures": len(structures),
        "per_second": about["report"]["per_second"],
        "peak_gb": max(first, second) / 1e9,
        "kept_chunks": kept,
        "chunk": chunk,
        "lost": len(set(wanted) - set(found)),
        "repeated": len(found) - len(set(found)),
        "in_order": found == wanted,
        "without_prediction": sum(bool(reason) for _, _, reason in rows),
    }


def rows_of(lines: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Turn the lines into rows."""
    made = []
    for line in lines:
        who, found = line["parameters"]["surrogate"], line["result"]
        made += [
            row(who, "structures_per_s", "1/s", [found["per_second"]]),
            row(who, "peak_memory", "GB", [found["peak_gb"]]),
            row(who, "lost_rows", "rows", [found["lost"]]),
            row(who, "repeated_rows", "rows", [found["repeated"]]),
        ]
    return made


def _decorated(name: str, elements: Mapping[str, str]) -> Crystal:
    """Decorate a prototype and give it the volume that its atoms fill."""
    lattice, roles, coords = _cell(name)
    species = tuple(elements[role] for role in roles)
    filled = sum(4 / 3 * np.pi * _radius(symbol) ** 3 for symbol in species)
    scale = (filled / PACKING / abs(np.linalg.det(lattice))) ** (1 / 3)
    rows = tuple((float(a), float(b), float(c)) for a, b, c in lattice * scale)
    return Crystal(rows, species, coords)


_cells: dict[str, Any] = {}
_radii: dict[str, float] = {}


def _cell(name: str) -> Any:
    if name not in _cells:
        prototype = prototypes()[name]
        stand_in = dict(zip(prototype.roles, ("H", "He", "Li"), strict=False))
        structure = prototype.decorate(stand_in)
        role_of = {element: role for role, element in stand_in.items()}
        coords = tuple((float(a), float(b), float(c)) for a, b, c in structure.frac_coords)
        _cells[name] = (structure.lattice.matrix, tuple(role_of[site.specie.symbol] for site in structure), coords)
    return _cells[name]


def _radius(symbol: str) -> float:
    if symbol not in _radii:
        radius = Element(symbol).atomic_radius or Element(symbol).atomic_radius_calculated
        _radii[symbol] = float(radius or 1.5)
    return _radii[symbol]


def _train(folder: Path, structures: Sequence[tuple[str, Crystal]], use: str, options: Mapping[str, Any]) -> None:
    """Store a fit that has learned a made-up property: how much the electronegativities in a crystal differ."""
    from orchestrator import plugins  # noqa: PLC0415  imports torch
    from orchestrator.config.schema import CampaignConfig  # noqa: PLC0415  the same
    from orchestrator.record.store import CampaignStore  # noqa: PLC0415  the same

    config = CampaignConfig.model_validate(
        {
            "name": "screening",
            "objectives": [{"property": "contrast", "unit": "eV", "goal": "maximize"}],
            "space": {"use": "pool", "options": {"path": "pool.jsonl"}},
            "surrogate": {"use": use, "options": dict(options)},
            "budget": {"trials": LABELS},
        }
    )
    rows = []
    for i, (own, crystal) in enumerate(structures):
        candidate = Candidate.make(label=formula(crystal), crystal=crystal, crystal_key=own)
        value = float(np.std([Element(symbol).X for symbol in crystal.species]))
        rows.append(Row(i + 1, candidate, {}, "contrast", value, None, Outcome.MEASURED, measurement=i + 1))
    surrogate = plugins.build("surrogates", use, options)
    dataset = Dataset(tuple(rows))
    report = surrogate.fit(dataset, config.problem(), 0)
    store = CampaignStore.open(folder / "store.db")
    store.create_campaign(config, actor="benchmark")
    state = folder / "state"
    state.mkdir()
    surrogate.save(state)
    given: dict[str, Any] = {"number": 1, "parent": None, "surrogate": use, "seed": 0, "seen": ()}
    store.record_fit("screening", report=report, folder=state, **given)
    store.close()


def _watched(command: Sequence[str], over: Any) -> int:
    """Run a command; kill it and all that it started once `over` says so. Returns the peak of the resident bytes."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "MATLOOP_HOME": tempfile.gettempdir()}
    process = subprocess.Popen(command, env=env, start_new_session=True, stdout=subprocess.DEVNULL)
    peak, killed = 0, False
    while process.poll() is None:
        peak = max(peak, _resident(process.pid))
        if not killed and over():
            process.send_signal(signal.SIGKILL)  # the parent alone: that its workers end is part of what is measured
            killed = True
        time.sleep(0.1)
    while _members(process.pid):
        time.sleep(0.1)
    if process.returncode and not killed:
        message = f"the screening ended with {process.returncode}"
        raise RuntimeError(message)
    return peak


def _members(group: int) -> list[int]:
    """Return the living processes of a group."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text("utf-8").rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group and fields[0] != "Z":
            found.append(int(path.parent.name))
    return found


def _resident(group: int) -> int:
    total = 0
    for pid in _members(group):
        try:
            total += int(Path(f"/proc/{pid}/statm").read_text("utf-8").split()[1]) * os.sysconf("SC_PAGE_SIZE")
        except OSError:
            continue
    return total


def main() -> None:
    """Measure what is missing and write the summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=None, help="where public data lie; this benchmark needs none")
    parser.add_argument("--structures", type=int, default=100_000)
    parser.add_argument("--units", type=int, default=None, help="run at most so many units now")
    parser.add_argument("--only", choices=tuple(SURROGATES), help="this surrogate only; prints and stores nothing")
    arguments = parser.parse_args()
    structures = shuffled(arguments.structures)
    if arguments.only:
        say(json.dumps(measure(Unit("dry", {"surrogate": arguments.only}), structures), indent=1))
        return
    everything = [Unit(name, {"surrogate": name}) for name in SURROGATES]
    mark = protocol([HERE / "screening.py"], arguments.structures)
    lines = run_missing(
        "screening",
        everything,
        lambda unit: measure(unit, structures),
        protocol=mark,
        packages=("matgl", "numpy", "torch", "torch-geometric"),
        most=arguments.units,
    )
    if len(lines) < len(everything):
        say(f"screening: {len(lines)} of {len(everything)} units are measured; run again to go on")
    summarise(
        "screening",
        rows_of(lines),
        work=(
            f"{arguments.structures:,} different decorated prototypes of 2 to 14 atoms predicted by 'matloop predict',"
            f" killed after {KILLED_AT:.0%} and given again. Memory is the sum of the resident sizes of all processes."
        ),
        command="make bench-screening",
        protocol=mark,
        arms=WORDS,
    )


if __name__ == "__main__":
    main()
