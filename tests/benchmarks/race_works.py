"""The tables that optimisers race on: how a public file becomes a pool, and what a campaign file says of it.

A campaign file names space, problem, budget and seed only; everything else is the shipped default. It is written to a
folder of its own beside the table it searches.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ruamel.yaml import YAML

from tests.benchmarks.data import SOURCES

Line = dict[str, float | str]


@dataclass(frozen=True)
class Work:
    """One table to be searched.

    Args:
        name: such as ``crossed_barrel`` or ``oer/3851``.
        read: makes the lines of the table from the data folder: parameters and values by column.
        goals: value column → goal; the other columns are parameters.
        share: of the table that counts as the best; unused with several objectives.
        start: random measurements first.
        batch: chosen together.
        budget: measurements in all.
        enough: stop once this share of the best is found, but not before `least` measurements.
        least: measurements made in any case.
        marks: numbers of measurements that are reported.
    """

    name: str
    read: Callable[[Path], list[Line]]
    goals: Mapping[str, str]
    share: float
    start: int
    batch: int
    budget: int
    enough: float
    least: int
    marks: tuple[int, ...]


def write(work: Work, data: Path, seed: int, folder: Path) -> Path:
    """Write the table and the campaign file of one seed.

    Args:
        work: what is searched.
        data: folder of `make data`.
        seed: of the campaign.
        folder: empty.

    Returns:
        The campaign file.
    """
    lines = work.read(data)
    with (folder / "table.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)
    inputs = {
        name: {"text": True} if isinstance(value, str) else {}
        for name, value in lines[0].items()
        if name not in work.goals
    }
    outputs = {name: {"unit": "dimensionless"} for name in work.goals}
    lookup = {"file": "table.csv", "match": "parameters", "parameters": inputs, "outputs": outputs}
    content: dict[str, Any] = {
        "name": re.sub(r"\W", "-", work.name),
        "seed": seed,
        "objectives": [{"property": p, "unit": "dimensionless", "goal": goal} for p, goal in work.goals.items()],
        "space": {"use": "pool", "options": {"path": "table.csv", "parameters": inputs, "keep": list(work.goals)}},
        "instruments": {"table": {"use": "table_lookup", "options": lookup}},
        "procedure": [{"step": "measure", "instrument": "table"}],
        "initial": {"use": "random", "trials": work.start},
        "parallel": work.batch,
        "plan_when_free": work.batch,
        "budget": {"trials": min(work.budget, len(lines))},
    }
    file = folder / "campaign.yaml"
    with file.open("w") as out:
        YAML(typ="safe").dump(json.loads(json.dumps(content)), out)  # copied: a campaign file takes no anchors
    return file


def _table(path: Path, names: list[str] | None = None) -> list[dict[str, str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return [row for row in csv.DictReader(file, names) if any(row.values())]


def _averaged(source: str, value: str) -> Callable[[Path], list[Line]]:
    """Read a table of PV-Lab: lines with equal inputs are one, their values averaged."""

    def read(data: Path) -> list[Line]:
        groups: dict[tuple[float, ...], list[float]] = {}
        rows = _table(data / SOURCES[source].name)
        columns = [name for name in rows[0] if name != value]
        for row in rows:
            groups.setdefault(tuple(float(row[name]) for name in columns), []).append(float(row[value]))
        plain = [re.sub(r"\W", "", name) for name in columns]
        return [
            {**dict(zip(plain, point, strict=True)), _plain(value): float(np.mean(found))}
            for point, found in groups.items()
        ]

    return read


def _plain(name: str) -> str:
    return re.sub(r"\W+", "_", name).lower()


def _plate(source: str, elements: str) -> Callable[[Path], list[Line]]:
    def read(data: Path) -> list[Line]:
        names = [*elements.split(), "overpotential"]
        rows = _table(data / SOURCES[source].name, names)
        return [{name: float(row[name]) for name in names} for row in rows]

    return read


REDOX = ("abs_lam_diff", "ered", "gsol")
LABELS = ("r1", "r3", "r4", "r5")


def _redoxmers(*, described: bool) -> Callable[[Path], list[Line]]:
    """Read the redoxmers: substituents as words, or as the numbers that the data set describes them with."""

    def read(data: Path) -> list[Line]:
        words: dict[str, dict[str, float]] = {}
        rows = _table(data / SOURCES["redoxmers_descriptors"].name, ["parameter", "option", "descriptor", "value"])
        for row in rows:
            words.setdefault(row["option"], {})[row["descriptor"]] = float(row["value"])
        lines: list[Line] = []
        for row in _table(data / SOURCES["redoxmers"].name, [*LABELS, *REDOX]):
            values: Line = {name: float(row[name]) for name in REDOX}
            if described:
                inputs: Line = {f"{r}_{name}": x for r in LABELS for name, x in words[row[r]].items()}
            else:
                inputs = {r: row[r] for r in LABELS}
            lines.append({**inputs, **values})
        return lines

    return read


PATTERNS = {
    "C": r"C(?!l)", "arom": r"c|n(?=\d|c)", "N": r"N|n", "O": r"O", "P": r"P", "F": r"F", "Cl": r"Cl",
    "minus": r"\[O-\]", "K": r"\[K\+\]", "Cs": r"\[Cs\+\]", "double": r"=", "triple": r"#", "branch": r"\(",
    "ring": r"\d",
}  # fmt: skip
"""What is counted in a SMILES string: no chemistry library, the same numbers for every optimiser."""


def _arylation(*, described: bool) -> Callable[[Path], list[Line]]:
    """Read the reactions: base, ligand and solvent as words, or as counts of symbols in their SMILES strings."""

    def read(data: Path) -> list[Line]:
        lines: list[Line] = []
        for row in _table(data / SOURCES["direct_arylation"].name):
            inputs: Line = {}
            for part in ("Base", "Ligand", "Solvent"):
                if described:
                    text = row[f"{part}_SMILES"]
                    inputs |= {f"{part}_{name}": float(len(re.findall(p, text))) for name, p in PATTERNS.items()}
                    inputs[f"{part}_length"] = float(len(text))
                else:
                    inputs[part] = row[part]
            inputs |= {name: float(row[name]) for name in ("Concentration", "Temp_C")}
            lines.append({**inputs, "yield_percent": float(row["yield"])})
        return lines

    return read


def _films(source: str, value: str, goal: str, budget: int) -> Work:
    reach = {"share": 0.05, "start": 2, "batch": 1, "budget": budget, "enough": 0.8, "least": 100, "marks": (50, 100)}
    return Work(source, _averaged(source, value), {_plain(value): goal}, **reach)  # type: ignore[arg-type]


WORKS: Mapping[str, tuple[Work, ...]] = {
    "crossed_barrel": (_films("crossed_barrel", "toughness", "maximize", 300),),
    "agnp": (_films("agnp", "loss", "minimize", 164),),
    "perovskite_films": (_films("perovskite_films", "Instability index", "minimize", 94),),
    "oer": tuple(
        Work(
            name=f"oer/{plate}",
            read=_plate(source, elements),
            goals={"overpotential": "minimize"},
            share=0.01,
            start=10,
            batch=1,
            budget=200,
            enough=1.0,
            least=1,
            marks=(50, 100, 200),
        )
        for plate, source, elements in (
            ("3496", "oer", "ni fe co mn ce la"),
            ("3851", "oer_3851", "ni fe co ta mn cu"),
        )
    ),
    "redoxmers": tuple(
        Work(
            name=f"redoxmers/{kind}",
            read=_redoxmers(described=kind == "descriptors"),
            goals=dict.fromkeys(REDOX, "minimize"),
            share=0.0,
            start=10,
            batch=1,
            budget=200,
            enough=2.0,
            least=200,
            marks=(20, 50, 100, 200),
        )
        for kind in ("words", "descriptors")
    ),
    "direct_arylation": tuple(
        Work(
            name=f"direct_arylation/{kind}",
            read=_arylation(described=kind == "descriptors"),
            goals={"yield_percent": "maximize"},
            share=0.01,
            start=3,
            batch=3,
            budget=90,
            enough=2.0,
            least=90,
            marks=(30, 60, 90),
        )
        for kind in ("words", "descriptors")
    ),
}
"""Benchmark → the tables it races on."""
