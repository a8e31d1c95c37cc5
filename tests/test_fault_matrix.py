"""The fault matrix: every fault once here, in turn with each recovery class; all cells are a benchmark."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fault_matrix import CLASSES, TABLE, carry_out

LETTERS = list(CLASSES)
FAST = [(fault, LETTERS[i % 3]) for i, fault in enumerate(TABLE)]


@pytest.mark.parametrize(("fault", "letter"), FAST, ids=[f"{fault} {letter}" for fault, letter in FAST])
def test_a_fault_ends_as_it_should(fault: str, letter: str, tmp_path: Path) -> None:
    """Trial, instrument, questions and campaign end as the table says; nothing is done twice or learned falsely."""
    end, wrong = carry_out(fault, letter, tmp_path)
    assert end == TABLE[fault][LETTERS.index(letter)]
    assert wrong == []
