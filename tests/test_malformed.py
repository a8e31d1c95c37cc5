"""Every malformed campaign file gives one readable error with file, line and the fix, and never a traceback."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.config.check import check
from orchestrator.config.read import load_campaign
from orchestrator.errors import ConfigError

FOLDER = Path(__file__).parent / "malformed"
FILES = sorted(FOLDER.glob("*.yaml"))
THROUGH_THE_DOOR = ["misspelt_goal", "shared_knowledge", "tab_indentation"]
"""Files that are also given to the command line: one from each stage (schema, plug-ins, YAML)."""


def expected(file: Path) -> tuple[str, str]:
    """Read the two comments in which a file says where its error is, and what must be said of it."""
    line, says = file.read_text().splitlines()[:2]
    return line.removeprefix("# line: "), says.removeprefix("# says: ")


def test_there_are_enough() -> None:
    """At least the 25 kinds of mistakes that were promised are tried."""
    assert len(FILES) >= 25


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_malformed(file: Path) -> None:
    """The error is a ConfigError that begins with file and line of the mistake and says how to mend it."""
    line, says = expected(file)
    with pytest.raises(ConfigError) as caught:
        check(load_campaign(file))
    message = str(caught.value)
    assert message.startswith(f"{file}:{line}: "), message
    assert says in message.splitlines()[0] + (message if "and " in message else ""), message
    assert "Traceback" not in message
    assert "pydantic" not in message
    assert len(message.splitlines()[0]) < 900


@pytest.mark.parametrize("name", THROUGH_THE_DOOR)
def test_command_line_says_the_same(name: str) -> None:
    """`matloop validate` writes that error to stderr, nothing else, and ends with 2."""
    file = FOLDER / f"{name}.yaml"
    command = [sys.executable, "-m", "flows.cli", "validate", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    line, says = expected(file)
    said = " ".join(done.stderr.split())
    assert done.returncode == 2, done.stderr
    assert re.search(rf"{re.escape(file.name)}:\s*{line}:", said), done.stderr
    assert says in said, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
