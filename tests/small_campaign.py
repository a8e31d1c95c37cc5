"""A small campaign for tests of the command line and the flows: real parts, answers from a table, over in seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

TEMPERATURES = tuple(range(400, 800, 10))
BEST = 640


def strength(temperature: int) -> float:
    """Return a smooth made-up strength in MPa, largest at `BEST` degC."""
    return 90.0 - abs(temperature - BEST) / 5


def table_options() -> dict[str, Any]:
    """Return the options of an instrument that looks the strength up."""
    return {
        "file": "table.csv",
        "match": "parameters",
        "parameters": {"temperature": {"unit": "degC"}},
        "outputs": {"strength": {"unit": "MPa"}},
    }


def write_campaign(folder: Path, **changes: Any) -> Path:
    """Write a campaign file and its table.

    Args:
        folder: where they go.
        changes: top-level keys that replace those of the file; None takes a key out.

    Returns:
        The campaign file.
    """
    lines = ["run,temperature,strength", *(f"T{t},{t},{strength(t):g}" for t in TEMPERATURES)]
    (folder / "table.csv").write_text("\n".join(lines), encoding="utf-8")
    pool = {"path": "table.csv", "parameters": {"temperature": {"unit": "degC"}}, "label_column": "run"}
    content: dict[str, Any] = {
        "name": "small",
        "seed": 3,
        "objectives": [{"property": "strength", "unit": "MPa", "goal": "maximize"}],
        "space": {"use": "pool", "options": {**pool, "keep": ["strength"]}},
        "instruments": {"oven": {"use": "table_lookup", "options": table_options()}},
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
    inner = {"use": "table_lookup", "options": table_options()}
    options = {"instrument": inner, "duration_s": {"mean": seconds}, "faults": faults}
    return {"oven": {"use": "simulated", "options": options}}
