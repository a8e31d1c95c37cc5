"""The fault matrix: every fault once here, in turn with each recovery class; all cells are a benchmark."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import fault_matrix
from tests.fault_matrix import CLASSES, TABLE, End, carry_out

LETTERS = list(CLASSES)
FAST = [(fault, LETTERS[i % 3]) for i, fault in enumerate(TABLE)]


@pytest.mark.parametrize(("fault", "letter"), FAST, ids=[f"{fault} {letter}" for fault, letter in FAST])
def test_a_fault_ends_as_it_should(fault: str, letter: str, tmp_path: Path) -> None:
    """Trial, instrument, questions and campaign end as the table says; nothing is done twice or learned falsely."""
    end, wrong = carry_out(fault, letter, tmp_path)
    assert end == TABLE[fault][LETTERS.index(letter)]
    assert wrong == []


@pytest.mark.parametrize(
    "fault", ["sender died before START", "sender died after START", "sender died with the result"]
)
@pytest.mark.parametrize("letter", ["I", "Q"])
def test_a_crash_in_a_reference_order_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str, letter: str
) -> None:
    """The successor finds the reference again, records it once, and then does the trial."""
    monkeypatch.setattr(fault_matrix, "REFERENCED", (fault,))
    end, wrong = carry_out(fault, letter, tmp_path)
    never = "NOT_STARTED " if (fault, letter) == ("sender died before START", "Q") else ""
    assert end == End("COMPLETED", f"{never}RECORDED RECORDED", 2, learned=True)
    assert wrong == ["the furnace fired 2 times"]  # once for the reference, once for the trial
