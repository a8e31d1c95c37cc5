"""kill -9 at every labelled point: nothing is carried out twice, nothing is lost, and the harness can tell.

The whole matrix, with more seeds, is `tests/benchmarks/crash.py`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from tests.crash.harness import CLASSES, LABELS, Case, judge
from tests.crash.mutants import MISTAKES

SLOW_NETWORK = {"send.after_bytes": "delayed", "ack.in_txn": "delayed", "claim.after": "late"}
"""At these points the network matters most; elsewhere a test need not wait for it."""


def run(cases: Sequence[Case]) -> list[tuple[Case, dict[str, Any]]]:
    """Run cases in a harness process of their own, on a memory file system where there is one."""
    memory = Path("/dev/shm")  # noqa: S108  a folder of our own is made in it
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        done = subprocess.run(
            [sys.executable, "-m", "tests.crash.harness", folder],
            input="".join(json.dumps(asdict(case)) + "\n" for case in cases),
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
            cwd=Path(__file__).parents[1],
        )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) == len(cases)
    return [(case, line["finding"]) for case, line in zip(cases, lines, strict=True)]


@pytest.fixture(scope="module")
def findings() -> list[tuple[Case, dict[str, Any]]]:
    """One run of every label in every recovery class."""
    return run([Case(label, kind, 0, network=SLOW_NETWORK.get(label, "")) for kind in CLASSES for label in LABELS])


def test_every_kill_fires(findings: list[tuple[Case, dict[str, Any]]]) -> None:
    """A harness that kills nothing proves nothing: each run was killed once or twice, at its labels."""
    assert len(LABELS) >= 19
    assert [case for case, finding in findings if finding["unfired"] or not finding["kills"]] == []
    assert sum(finding["kills"] for _, finding in findings) > len(findings)


def test_nothing_is_repeated_and_nothing_is_lost(findings: list[tuple[Case, dict[str, Any]]]) -> None:
    """The instrument's own log and the database agree after every crash and restart."""
    wrong = [(case, finding["violations"]) for case, finding in findings if finding["violations"]]
    assert wrong == []
    assert all(finding["executions"] == 4 for _, finding in findings)


def test_only_blind_instruments_need_people(findings: list[tuple[Case, dict[str, Any]]]) -> None:
    """Questions are asked in the blind class, and there only where nobody can know."""
    asked = {case.label for case, finding in findings if finding["questions"] and case.recovery != "blind"}
    assert asked == set()
    blind = {case.label: finding["questions"] for case, finding in findings if case.recovery == "blind"}
    assert blind["poll.before"] >= 1


@pytest.fixture(scope="module")
def caught() -> dict[str, list[tuple[Case, dict[str, Any]]]]:
    """Findings of the seeded mistakes, where they must show."""
    cases = [
        Case(label, kind, 0, name, mistake.network)
        for name, mistake in MISTAKES.items()
        for kind in mistake.classes[-1:]
        for label in mistake.labels[:1]
    ]
    found: dict[str, list[tuple[Case, dict[str, Any]]]] = {}
    for case, finding in run(cases):
        found.setdefault(case.mistake, []).append((case, finding))
    return found


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_harness_catches_seeded_mistakes(
    caught: dict[str, list[tuple[Case, dict[str, Any]]]], mistake: str
) -> None:
    """Each mistake gives violations of the kind that it must give."""
    for case, finding in caught[mistake]:
        harm = [text for text in finding["violations"] if text.startswith(MISTAKES[mistake].harm)]
        assert harm, f"{case} was not caught: {finding}"


def test_the_judge_sees_each_kind_of_harm() -> None:
    """A repeated, a lost, a doubled and an invented result, a needless question and a stuck trial are all named."""
    line = {"what": "kiln-1/fire", "key": "a", "value": 100}
    clean = {"values": [100.0], "unknown": [], "other": [], "unfinished": []}

    def said(log: list[dict[str, Any]], last: bool = True, blind: bool = True, **changed: Any) -> str:
        return " ".join(judge(log, {**clean, **changed}, blind=blind, last=last))

    assert said([line]) == ""
    assert "repeated" in said([line, {**line, "value": 101}], values=[100.0, 101.0])
    assert "lost" in said([line], values=[])
    assert "lost" in said([line], values=[100.0, 100.0])
    assert "invented" in said([line], values=[100.0, 7.0])
    assert said([line], values=[], unknown=["a"], last=False) == ""
    assert "lost" in said([line], values=[], unknown=["b"], last=False)
    assert "needless" in said([line], unknown=["a"], blind=False, last=False)
    assert "twice" in said([line], values=[], unknown=["a", "a"], last=False)
    assert "stuck" in said([line], unfinished=[1])
    assert "left open" in said([line], other=["a INTENT"])
