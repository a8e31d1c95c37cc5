"""What a forest learns from failed trials: formulas near failures are less likely to give a value."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from orchestrator.domain import Candidate, Dataset, Objective, Outcome, Problem, Row
from orchestrator.surrogates.forest import CompositionForest

PROBLEM = Problem((Objective("gap", "eV", "maximize"),))
GOOD = ("NaCl", "KCl", "LiCl", "RbCl", "NaBr", "KBr", "LiBr", "RbBr")
BAD = ("Na2S", "K2S", "Li2S", "Rb2S")
ASKED = ("CsCl", "CsBr", "Cs2S")


def of(formulas: tuple[str, ...]) -> list[Candidate]:
    """Return candidates of formulas."""
    return [Candidate.make(label=formula, composition=formula) for formula in formulas]


def dataset(good: tuple[str, ...], bad: tuple[str, ...]) -> Dataset:
    """Return values for good formulas and failures for bad ones."""
    made = [
        Row(i + 1, one, {}, "gap", 3.0 + 0.1 * i, None, Outcome.MEASURED, measurement=i + 1)
        for i, one in enumerate(of(good))
    ]
    failed = [Row(50 + i, one, {}, "gap", None, None, Outcome.FAILED) for i, one in enumerate(of(bad))]
    return Dataset((*made, *failed))


def test_formulas_near_failures_are_less_likely_to_give_a_value(tmp_path: Path) -> None:
    """Sulfides failed, halides did not: that is learned, kept by save and load, and forgotten by another dataset."""
    forest = CompositionForest()
    assert "feasibility" in forest.supports()
    forest.fit(dataset(GOOD, BAD), PROBLEM, seed=1)
    chloride, bromide, sulfide = forest.success(of(ASKED))
    assert sulfide < 0.5 < min(chloride, bromide)
    assert np.all((forest.success(of((*GOOD, *BAD))) > 0) & (forest.success(of((*GOOD, *BAD))) < 1))
    forest.save(tmp_path)
    loaded = CompositionForest()
    loaded.load(tmp_path, PROBLEM)
    np.testing.assert_allclose(loaded.success(of(ASKED)), [chloride, bromide, sulfide])
    loaded.update(dataset(GOOD, ()))
    again = loaded.success(of(ASKED))
    np.testing.assert_allclose(again, again[0])  # nothing failed: the same everywhere, and high
    assert again[0] > 0.85


def test_the_order_of_what_is_asked_changes_nothing() -> None:
    """A chance of success belongs to its candidate."""
    forest = CompositionForest()
    forest.fit(dataset(GOOD, BAD), PROBLEM, seed=1)
    np.testing.assert_allclose(forest.success(of(ASKED[::-1]))[::-1], forest.success(of(ASKED)))
    assert len(forest.success([])) == 0
