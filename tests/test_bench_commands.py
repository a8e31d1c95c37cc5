"""What `make bench` types must be understood: an option that a benchmark does not know ends the whole night's run."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NAMES = re.findall(r"\w+", re.findall(r"for work in ([\w\s\\]+);", (ROOT / "Makefile").read_text())[0])


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
@pytest.mark.parametrize("name", NAMES)
def test_every_benchmark_takes_what_make_passes(name: str) -> None:
    """A benchmark is given the folder of public data exactly where it has an option for that."""
    (ROOT / "tests" / "benchmarks" / f"{name}.py").resolve(strict=True)
    typed = subprocess.run(
        ["make", "--dry-run", "--no-print-directory", f"bench-{name}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()[-1]
    assert f"tests.benchmarks.{name}" in typed
    source = (ROOT / "tests" / "benchmarks" / f"{name}.py").read_text()
    takes_data = '"--data"' in source or "race import run" in source
    assert ("--data" in typed) == takes_data
