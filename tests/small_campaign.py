"""A small campaign for tests of the command line and the flows: real parts, answers from a table, over in seconds."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

A, B, X = ("K", "Rb", "Cs", "Ca", "Sr", "Ba"), ("Ti", "Zr", "Hf", "Sn", "Pb", "Ge"), ("O", "F", "Cl")


def energy(a: str, b: str, x: str) -> float:
    """Return a smooth made-up energy in eV/atom, lowest at SrZrO3."""
    return 0.05 * abs(A.index(a) - 4) + 0.08 * abs(B.index(b) - 1) + 0.1 * X.index(x)


def write_campaign(folder: Path, **changes: Any) -> Path:
    """Write a campaign file and its table.

    Args:
        folder: where they go.
        changes: top-level keys that replace those of the file; None takes a key out.

    Returns:
        The campaign file.
    """
    lines = ["formula,energy", *(f"{a}{b}{x}3,{energy(a, b, x):.5f}" for a, b, x in product(A, B, X))]
    (folder / "table.csv").write_text("\n".join(lines), encoding="utf-8")
    outputs = {"energy": {"unit": "eV/atom"}}
    table = {"file": "table.csv", "match": "composition", "column": "formula", "outputs": outputs}
    content: dict[str, Any] = {
        "name": "small",
        "seed": 3,
        "objectives": [{"property": "energy", "unit": "eV/atom", "goal": "minimize"}],
        "space": {"use": "prototypes", "options": {"sites": {"A": list(A), "B": list(B), "X": list(X)}}},
        "instruments": {"oven": {"use": "table_lookup", "options": table}},
        "procedure": [{"step": "fire", "instrument": "oven"}],
        "acquisition": {"use": "random"},
        "initial": {"use": "random", "trials": 3},
        "parallel": 2,
        "budget": {"trials": 6},
    }
    content = {key: value for key, value in {**content, **changes}.items() if value is not None}
    file = folder / f"{content['name']}.yaml"
    with file.open("w", encoding="utf-8") as out:
        YAML(typ="safe").dump(content, out)
    return file


def slow_oven(seconds: float, **faults: float) -> dict[str, Any]:
    """Return the instruments with an oven that takes its time, and may meet faults."""
    outputs = {"energy": {"unit": "eV/atom"}}
    table = {"file": "table.csv", "match": "composition", "column": "formula", "outputs": outputs}
    inner = {"use": "table_lookup", "options": table}
    options = {"instrument": inner, "duration_s": {"mean": seconds}, "faults": faults}
    return {"oven": {"use": "simulated", "options": options}}
