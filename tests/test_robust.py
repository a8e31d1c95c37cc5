"""Odd labels and repeated labels: what a Gaussian process makes of gross errors, and of the same point twice."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from orchestrator.domain import Array, Candidate, Dataset, Objective, Outcome, Problem, Row
from orchestrator.surrogates.gaussian_process import GaussianProcess, GaussianProcessOptions

PROBLEM = Problem((Objective("y", "percent", "maximize"),))


def truth(x: Array) -> Array:
    """Return a smooth function of two numbers."""
    return np.asarray(10 * np.sin(3 * x[:, 0]) + 6 * x[:, 1] ** 2)


def candidates(x: Array) -> list[Candidate]:
    """Name points."""
    return [Candidate.make(label=str(i), parameters={"u": float(a), "v": float(b)}) for i, (a, b) in enumerate(x)]


def labelled(x: Array, y: Array, std_error: float | None = None) -> Dataset:
    """Make a dataset of one label a point, trials counted from 1."""
    return Dataset(
        tuple(
            Row(i, c, {}, "y", float(v), std_error, Outcome.MEASURED, measurement=i)
            for i, (c, v) in enumerate(zip(candidates(x), y, strict=True), start=1)
        )
    )


def fitted(dataset: Dataset, outliers: str = "keep") -> tuple[GaussianProcess, tuple[str, ...]]:
    """Train, and return what it notes."""
    surrogate = GaussianProcess(GaussianProcessOptions.model_validate({"outliers": outliers}))
    report = surrogate.fit(dataset, PROBLEM, 0)
    surrogate.update(dataset)
    return surrogate, report.notes


@pytest.mark.parametrize("seed", [0, 1])
def test_gross_errors_are_named_and_hardly_count(seed: int, tmp_path: Path) -> None:
    """With a tenth of the labels grossly wrong, the robust fit names them and errs far less than the plain one."""
    rng = np.random.default_rng(seed)
    x = rng.random((40, 2))
    y = truth(x) + 0.1 * rng.standard_normal(40)
    wrong = rng.choice(40, 4, replace=False)
    y[wrong] += rng.choice([-1, 1], 4) * rng.uniform(15, 40, 4)
    dataset = labelled(x, y)
    asked = rng.random((200, 2))
    plain, _ = fitted(dataset)
    robust, notes = fitted(dataset, "robust")
    error = [float(np.abs(s.predict(candidates(asked)).mean[:, 0] - truth(asked)).mean()) for s in (plain, robust)]
    assert error[1] < 0.3 * error[0]
    named = {int(note.split(":")[0].removeprefix("trial ")) - 1 for note in notes if "hardly counts" in note}
    assert named == set(map(int, wrong))
    robust.save(tmp_path)
    again = GaussianProcess(GaussianProcessOptions(outliers="robust"))
    again.load(tmp_path, PROBLEM)
    again.update(dataset)
    assert again.predict(candidates(asked)).mean == pytest.approx(robust.predict(candidates(asked)).mean, abs=1e-9)


def test_good_labels_are_left_alone() -> None:
    """Without gross errors nothing is named, and the robust fit predicts as the plain one does."""
    rng = np.random.default_rng(3)
    x = rng.random((30, 2))
    dataset = labelled(x, truth(x) + 0.3 * rng.standard_normal(30))
    robust, notes = fitted(dataset, "robust")
    assert not [note for note in notes if "hardly counts" in note]
    plain, _ = fitted(dataset)
    asked = candidates(rng.random((50, 2)))
    assert robust.predict(asked).mean == pytest.approx(plain.predict(asked).mean, abs=1.0)


def test_repeated_points_tell_the_noise() -> None:
    """Points measured four times each fix the noise of one more measurement, whatever the function does between."""
    rng = np.random.default_rng(5)
    x = np.repeat(rng.random((12, 2)), 4, axis=0)
    y = truth(x) + 0.8 * rng.standard_normal(48)
    pooled = float(np.sqrt(y.reshape(12, 4).var(axis=1, ddof=1).mean()))
    surrogate, _ = fitted(labelled(x, y))
    noise = surrogate.predict(candidates(rng.random((5, 2)))).noise[:, 0]
    assert noise == pytest.approx(np.full(5, pooled), rel=0.25)


def test_stated_standard_errors_are_believed() -> None:
    """Labels with a standard error are fitted no closer than it says, and the noise is at least that."""
    rng = np.random.default_rng(6)
    x = rng.random((30, 2))
    surrogate, _ = fitted(labelled(x, truth(x) + rng.standard_normal(30), std_error=1.0))
    assert surrogate.predict(candidates(x[:3])).noise.min() > 0.8
