"""README's tables of measured results, generated from `tests/benchmarks/results/NAME.json`.

A table stands in README between ``<!-- results:NAME -->`` and ``<!-- /results -->``. `--write` makes it anew;
`--check` fails when README and file differ, or when a result has no table.
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
BLOCK = re.compile(r"(<!-- results:(?P<name>[a-z_]+) -->\n).*?(<!-- /results -->)", re.DOTALL)


def number(value: float) -> str:
    """Write a number with three significant digits, whole ones without a point."""
    return f"{value:.0f}" if float(value).is_integer() and abs(value) < 1e7 else f"{value:.3g}"


def table(name: str, content: dict[str, Any]) -> str:
    """Write one result file as a Markdown table: a line an arm, a column a metric.

    Args:
        name: of the benchmark.
        content: of its JSON file.
    """
    rows = content["rows"]
    arms = list(dict.fromkeys(row["who"] for row in rows))
    metrics = list(dict.fromkeys(row["metric"] for row in rows))
    cells = {(row["who"], row["metric"]): row for row in rows}
    units = {row["metric"]: row["unit"] for row in rows}
    head = [""] + [f"{m} ({units[m]})" if units[m] not in {"", "share", "count"} else m for m in metrics]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for arm in arms:
        line = [f"**{arm}**" if arm == "matloop" else arm]
        for metric in metrics:
            row = cells.get((arm, metric))
            if row is None:
                line.append("")
            elif row.get("low") is None or row["low"] == row["high"] == row["median"]:
                line.append(number(row["median"]))
            else:
                line.append(f"{number(row['median'])} ({number(row['low'])} – {number(row['high'])})")
        lines.append("| " + " | ".join(line) + " |")
    seeds = sorted({row["n"] for row in rows if row.get("n")})
    foot = f"{content['work']} Measured {content['date']} on {content['machine']} by `{content['command']}`"
    foot += f"; n = {seeds[0]}{f' to {seeds[-1]}' if len(seeds) > 1 else ''}; median (interval)." if seeds else "."
    if name in SOURCES:
        source = SOURCES[name]
        foot += f" Data: {source.repository}, `{source.path}` ({source.licence}), SHA-256 `{source.sha256}`."
    return "\n".join([*lines, "", foot, ""])


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
        return f"{match[1]}{table(match['name'], content)}{match[3]}"

    return BLOCK.sub(fresh, text)


def main() -> None:
    """Write or check the tables."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--write", type=Path)
    action.add_argument("--check", type=Path)
    arguments = parser.parse_args()
    readme = arguments.write or arguments.check
    text = readme.read_text()
    fresh = render(text)
    if arguments.write:
        readme.write_text(fresh)
    elif fresh != text:
        sys.exit("README's tables are not those of tests/benchmarks/results: run 'make docs'")
    sys.stdout.write(f"{readme}: tables are current\n")


if __name__ == "__main__":
    main()
