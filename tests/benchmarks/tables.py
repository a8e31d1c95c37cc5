"""Tables of measured results, generated from `tests/benchmarks/results/NAME.json`.

README shows each in short, between ``<!-- results:NAME -->`` and ``<!-- /results -->``; names after a colon choose what
is measured: ``<!-- results:NAME: AF_80 EF_max -->``. Everything stands in `tests/benchmarks/README.md`. `--write` makes
both anew; `--check` fails when a file differs from its results, or when a result has no table.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

from tests.benchmarks.data import SOURCES

RESULTS = Path(__file__).parent / "results"
METRIC = re.compile(r"(.+?)(_(?:half|quarter)_(?:chosen_on|other|unseen))?(?:_minus_(.+))?")
"""Metric, the part of the data that it was measured on, and the arm that it is a difference to."""
BLOCK = re.compile(r"(<!-- results:(?P<name>[a-z_]+)(?:: (?P<chosen>[^>]*?))? -->\n).*?(<!-- /results -->)", re.DOTALL)
EVERYTHING = Path(__file__).with_name("README.md")
BEFORE = "# Everything that is measured"
INTRODUCTION = """
Each benchmark is made of units (a fold, a seed, an arm) of at most twenty minutes; each finished unit is a line of
`results/NAME.jsonl` with the hash of its protocol and the versions of what it used. `make bench-NAME` runs what is
missing or stale, and says the hours left; `make docs` writes this page and README's tables from `results/NAME.json`.
"""


def number(value: float) -> str:
    """Write a number with three significant digits, whole ones without a point, large ones without a power."""
    if 1000 <= abs(value) < 1e7 and not float(value).is_integer():
        return f"{float(f'{value:.3g}'):.0f}"
    return f"{value:.0f}" if float(value).is_integer() and abs(value) < 1e7 else f"{value:.3g}"


def cell(row: dict[str, Any] | None) -> str:
    """Write a median with its interval, where it has one."""
    if row is None:
        return ""
    if row.get("low") is None or row["low"] == row["high"] == row["median"]:
        return number(row["median"])
    return f"{number(row['median'])} ({number(row['low'])} – {number(row['high'])})"


def grid(rows: list[dict[str, Any]]) -> list[str]:
    """Write rows of who, metric, unit as Markdown: a line an arm, a column a metric."""
    arms = list(dict.fromkeys(row["who"] for row in rows))
    units = {row["metric"]: row["unit"] for row in rows}
    cells = {(row["who"], row["metric"]): row for row in rows}
    head = [""] + [f"{m} ({u})" if u not in {"", "share", "count"} else m for m, u in units.items()]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for arm in arms:
        name = f"**{arm}**" if arm == "matloop" else arm
        lines.append("| " + " | ".join([name, *(cell(cells.get((arm, metric))) for metric in units)]) + " |")
    return lines


def table(name: str, content: dict[str, Any]) -> str:
    """Write one result file as Markdown tables: the arms, what they differ by, then the parts of the data.

    Args:
        name: of the benchmark.
        content: of its JSON file.
    """
    parts: dict[tuple[str, bool], list[dict[str, Any]]] = {}
    for row in content["rows"]:
        match = METRIC.fullmatch(row["metric"])
        base, part, other = match.groups() if match else (row["metric"], None, None)
        who = f"matloop − {other}" if other else row["who"]
        parts.setdefault((part or "", bool(other)), []).append({**row, "who": who, "metric": base})
    lines = grid(parts.pop(("", False)))
    if ("", True) in parts:
        lines += ["", "Paired differences:", "", *grid(parts.pop(("", True)))]
    seeds = sorted({row["n"] for row in content["rows"] if row.get("n")})
    foot = f"{content['work']} Measured {content['date']} on {content['machine']} by `{content['command']}`"
    foot += f"; n = {seeds[0]}{f' to {seeds[-1]}' if len(seeds) > 1 else ''}; median (interval)." if seeds else "."
    if name in SOURCES:
        source = SOURCES[name]
        foot += f" Data: {source.repository}, `{source.path}` ({source.licence}), SHA-256 `{source.sha256}`."
    lines += ["", foot, ""]
    if parts or "arms" in content:
        lines += ["<details><summary>What the arms are, and the parts of the pool</summary>", ""]
        lines += [f"- {arm}: {words}" for arm, words in content.get("arms", {}).items()]
        if "settings_chosen_on" in content:
            lines += ["", f"Settings were chosen on `{content['settings_chosen_on']}` alone.", ""]
        for (part, differs), rows in parts.items():
            lines += [f"`{part.strip('_')}`{', paired differences' if differs else ''}:", "", *grid(rows), ""]
        lines += ["</details>", ""]
    return "\n".join(lines)


def short(name: str, content: dict[str, Any], chosen: str | None) -> str:
    """Write one result file as README shows it: the arms on the whole of the data, and where to find the rest.

    Args:
        name: of the benchmark.
        content: of its JSON file.
        chosen: names of metrics, separated by spaces; every one where None.

    Raises:
        SystemExit: a chosen metric is not measured.
    """
    plain = [row for row in content["rows"] if not any(METRIC.fullmatch(row["metric"]).groups()[1:])]  # type: ignore[union-attr]
    metrics = list(dict.fromkeys(row["metric"] for row in plain))
    wanted = chosen.split() if chosen else metrics
    unknown = sorted(set(wanted) - set(metrics))
    if unknown:
        message = f"README wants {', '.join(unknown)} of {name}, which has {', '.join(metrics)}"
        raise SystemExit(message)
    rows = sorted((row for row in plain if row["metric"] in wanted), key=lambda row: wanted.index(row["metric"]))
    order = {who: place for place, who in enumerate(dict.fromkeys(row["who"] for row in plain))}
    lines = grid(sorted(rows, key=lambda row: order[row["who"]]))
    seeds = sorted({row["n"] for row in rows if row.get("n")})
    counts = f"; n = {seeds[0]}{f' to {seeds[-1]}' if len(seeds) > 1 else ''}, median (interval)" if seeds else ""
    foot = f"{content['work']} `{content['command']}`{counts}; [more](tests/benchmarks/README.md#{name})."
    return "\n".join([*lines, "", foot, ""])


def everything() -> str:
    """Return the page that shows every result file in full."""
    parts = [BEFORE, INTRODUCTION]
    for path in sorted(RESULTS.glob("*.json")):
        parts += [f"## {path.stem}\n", table(path.stem, json.loads(path.read_text()))]
    return "\n".join(parts)


def render(text: str) -> str:
    """Return README's text with every table made anew.

    Raises:
        SystemExit: a result file has no table, or a table no result file.
    """
    shown = {match["name"] for match in BLOCK.finditer(text)}
    measured = {path.stem for path in RESULTS.glob("*.json")}
    if shown != measured:
        message = f"README shows {sorted(shown)}, and there are results of {sorted(measured)}"
        raise SystemExit(message)

    def fresh(match: re.Match[str]) -> str:
        content = json.loads((RESULTS / f"{match['name']}.json").read_text())
        return f"{match[1]}{short(match['name'], content, match['chosen'])}{match.groups()[-1]}"

    return BLOCK.sub(fresh, text)


def main() -> None:
    """Write or check the tables."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--write", type=Path)
    action.add_argument("--check", type=Path)
    arguments = parser.parse_args()
    readme = arguments.write or arguments.check
    for path, fresh in ((readme, render(readme.read_text())), (EVERYTHING, everything())):
        if arguments.write:
            path.write_text(fresh)
        elif not path.exists() or path.read_text() != fresh:
            sys.exit(f"{path} does not show what tests/benchmarks/results holds: run 'make docs'")
        sys.stdout.write(f"{path}: tables are current\n")


if __name__ == "__main__":
    main()
