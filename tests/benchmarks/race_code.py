"""Which of our files decide what the shipped default chooses on the races' tables.

Kept apart from the protocol of the races, so that peers are not measured anew when our code changes.
"""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

from tests.benchmarks.units import HERE, protocol

ROOT = HERE.parents[1]
OURS = ("matloop", "greedy")
ENTRANCES = (
    "acquisition.designs",
    "acquisition.greedy",
    "acquisition.improvement",
    "config.defaults",
    "surrogates.gaussian_process",
)
ASIDE = ("acquisition.words", "surrogates.explanation")
"""What only speaks of a choice, and never changes it."""
ROOMS = ("acquisition", "pareto", "surrogates")


@cache
def learned_by(arm: str) -> str:
    """Return the hash of our code behind an arm; empty for peers."""
    return protocol(used()) if arm in OURS else ""


@cache
def used() -> tuple[Path, ...]:
    """List the files behind the default: what its modules import when they are loaded, within the rooms that choose.

    What they import only when asked (a box's gradient search, say) plays no part in a table.
    """
    found: dict[str, Path] = {}
    left = list(ENTRANCES)
    while left:
        name = left.pop()
        path = (ROOT / "orchestrator" / name.replace(".", "/")).with_suffix(".py")
        if name in found or name in ASIDE or not path.exists():
            continue
        found[name] = path
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("orchestrator."):
                inside = str(node.module).removeprefix("orchestrator.")
                names = [inside, *(f"{inside}.{alias.name}" for alias in node.names)]
                left += [one for one in names if one.split(".")[0] in ROOMS]
    return tuple(found[name] for name in sorted(found))
