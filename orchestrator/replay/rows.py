"""Scores as rows: who, metric, unit, median, low, high, n."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.replay.scores import Interval, Score, paired


def as_json(scores: Sequence[Score], *, work: str, command: str) -> dict[str, Any]:
    """Write scores as rows; those of differences name the arm that was compared with, the first one.

    Args:
        scores: one an arm.
        work: what was replayed.
        command: that makes the same again.
    """
    rows: list[dict[str, Any]] = []
    for one in scores:
        tables: list[tuple[str, str, Mapping[Any, Interval]]] = [
            ("recall", "share", one.recall),
            ("regret", "objective", one.regret),
            ("enhancement", "ratio", one.enhancement),
            ("acceleration", "ratio", one.acceleration),
            ("hypervolume", "share", one.hypervolume),
            *((name, "", table) for name, table in one.learned.items()),
        ]
        for kind, unit, table in tables:
            rows.extend(
                {"who": one.arm, "metric": f"{kind}_{mark}", "unit": unit, **vars(value)}
                for mark, value in table.items()
            )
        if one.enhancement_max is not None:
            rows.append({"who": one.arm, "metric": "EF_max", "unit": "ratio", **vars(one.enhancement_max)})
        n = len(one.measured) or 1
        rows.append({"who": one.arm, "metric": "seconds", "unit": "s", "median": one.seconds, "n": n})
        rows.append({"who": one.arm, "metric": "ask_seconds", "unit": "s", "median": one.ask_seconds[0], "n": n})
        rows.append({"who": one.arm, "metric": "ask_seconds_95", "unit": "s", "median": one.ask_seconds[1], "n": n})
        rows.append({"who": one.arm, "metric": "ask_peak", "unit": "MiB", "median": one.ask_peak_mib, "n": n})
    for one in scores[1:]:
        rows.extend(
            {"who": one.arm, "metric": f"{metric}_minus_{scores[0].arm}", "unit": "difference", **vars(value)}
            for metric, value in paired(one, scores[0]).items()
        )
    return {"benchmark": "replay", "work": work, "command": command, "rows": rows}
