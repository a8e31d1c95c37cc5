"""Which of our files decide what the shipped default chooses on the races' tables.

Kept apart from the protocol of the races, so that peers are not measured anew when this list grows.
"""

from __future__ import annotations

from functools import cache

from tests.benchmarks.units import HERE, protocol

ROOT = HERE.parents[1]
OURS = ("matloop", "greedy")
USED = {
    "acquisition": (
        "designs", "draws", "features", "gains", "greedy", "improvement", "marginal", "open", "policy", "ranking",
    ),
    "surrogates": (
        "calibration", "crossfit", "encoding", "gaussian", "gaussian_process", "heads", "hyper", "kernels", "targets",
        "transforms",
    ),
}  # fmt: skip
"""Files of ours that decide what the default chooses on these tables: when one changes, our arms are measured anew."""


@cache
def learned_by(arm: str) -> str:
    """Return the hash of our code behind an arm; empty for peers."""
    if arm not in OURS:
        return ""
    rooms = ROOT / "orchestrator"
    files = [rooms / room / f"{name}.py" for room, names in USED.items() for name in names]
    return protocol([rooms / "config" / "defaults.py", *(file for file in files if file.exists())])
