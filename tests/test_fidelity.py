"""Several fidelities: cheap results help where they are related to the target, and do no harm where they are not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator.domain import TARGET, Candidate, Dataset, Fidelity, Objective, Outcome, Problem, Row
from orchestrator.errors import NotEnoughData, SurrogateError
from orchestrator.surrogates.fidelity import FidelityOptions, MultiFidelity
from orchestrator.surrogates.gaussian_process import GaussianProcess

PROBLEM = Problem(
    (Objective("yield", "percent", "maximize"),), fidelities=(Fidelity("cheap", 0.1), Fidelity("fair", 0.4), Fidelity())
)
ASKED = np.linspace(0.01, 0.99, 60)


def at(x: float) -> Candidate:
    """Return a candidate of one parameter."""
    return Candidate.make(label=f"{x:.4f}", parameters={"temperature": float(x)})


def low(x: np.ndarray) -> np.ndarray:
    """Return what the cheap way gives: the target's shape on another scale."""
    return 40.0 + 10.0 * np.sin(14.0 * x) * x


def high(x: np.ndarray) -> np.ndarray:
    """Return the target: a multiple of the cheap way plus a smooth correction."""
    return 1.6 * low(x) - 30.0 + 4.0 * x


def rows(x: np.ndarray, values: np.ndarray, fidelity: str, first: int) -> list[Row]:
    """Return measured rows with trial numbers from `first` on."""
    return [
        Row(first + i, at(one), {}, "yield", float(y), None, Outcome.MEASURED, fidelity=fidelity, measurement=first + i)
        for i, (one, y) in enumerate(zip(x, values, strict=True))
    ]


def places(n: int, seed: int) -> np.ndarray:
    """Return places in 0 … 1, spread but irregular."""
    return (np.arange(n) + np.random.default_rng(seed).random(n)) / n


def mixed(seed: int, cheap: np.ndarray | None = None) -> Dataset:
    """Return 10 target labels and 60 cheap ones, which may be given."""
    x, z = places(10, seed), places(60, seed + 100)
    return Dataset(
        (
            *rows(z, low(z) if cheap is None else cheap, "cheap", 1),
            *rows(x, high(x), TARGET, 1001),
        )
    )


def build(**more: Any) -> MultiFidelity:
    """Return the surrogate on process parameters."""
    return MultiFidelity(FidelityOptions(surrogate="gaussian_process", **more))


def error(surrogate: Any) -> float:
    """Return the mean error over the whole range."""
    mean = surrogate.predict([at(x) for x in ASKED]).mean[:, 0]
    return float(np.abs(mean - high(ASKED)).mean())


def alone(dataset: Dataset) -> GaussianProcess:
    """Train on the target's labels alone."""
    surrogate = GaussianProcess()
    surrogate.fit(dataset, PROBLEM, seed=0)
    return surrogate


def test_labels_are_those_of_the_target() -> None:
    """A value of another fidelity is another quantity: no surrogate takes it for the target's."""
    dataset = mixed(0)
    assert dataset.fidelities == ("cheap", TARGET)
    assert len(dataset.labels(["yield"])) == 10
    assert len(dataset.labels(["yield"], "cheap")) == 60
    only = Dataset(tuple(row for row in dataset.rows if row.fidelity == TARGET))
    points = [at(x) for x in ASKED]
    np.testing.assert_array_equal(alone(dataset).predict(points).mean, alone(only).predict(points).mean)
    with pytest.raises(NotEnoughData):
        alone(Dataset(tuple(row for row in dataset.rows if row.fidelity == "cheap")))


def test_cheap_results_help() -> None:
    """With 60 cheap results beside 10 of the target, the error falls to less than half, over three draws of places."""
    ratios = []
    for seed in range(3):
        dataset = mixed(seed)
        surrogate = build()
        report = surrogate.fit(dataset, PROBLEM, seed=0)
        ratios.append(error(surrogate) / error(alone(dataset)))
        assert report.labels == 10
        assert report.metrics["yield"][f"rho_{TARGET}"] == pytest.approx(1.6, abs=0.4)
        assert any("cheap plus a correction" in note and "used" in note for note in report.notes)
    assert max(ratios) < 0.5


def test_cheap_results_that_are_noise_do_no_harm() -> None:
    """Where the cheap way says nothing, the error is at most a tenth larger than with the target's labels alone."""
    for seed in range(4):
        noise = np.random.default_rng(seed).normal(size=60)
        dataset = mixed(seed, noise)
        surrogate = build()
        report = surrogate.fit(dataset, PROBLEM, seed=0)
        assert error(surrogate) <= 1.1 * error(alone(dataset))
        assert report.metrics["yield"][f"rho_{TARGET}"] == 0.0 or error(surrogate) < error(alone(dataset))


def test_uncertainty_below_counts_and_draws_have_the_predicted_moments() -> None:
    """Mean and sd over many draws are the predicted ones; a value never depends on the company; far away sd grows."""
    surrogate = build()
    dataset = mixed(1)
    half = Dataset(tuple(row for row in dataset.rows if float(row.candidate.parameters["temperature"]) < 0.5))
    surrogate.fit(half, PROBLEM, seed=0)
    points = [at(x) for x in ASKED]
    prediction = surrogate.predict(points)
    draws = surrogate.draw(points, 500, seed=3)
    np.testing.assert_allclose(draws.mean(0), prediction.mean, atol=0.25 * float(prediction.epistemic.max()))
    np.testing.assert_allclose(draws.std(0) / prediction.epistemic, 1.0, atol=0.25)
    np.testing.assert_allclose(surrogate.draw(points[7:9], 4, seed=3), draws[:4, 7:9], rtol=1e-6, atol=1e-6)
    assert prediction.epistemic[-1, 0] > 3.0 * prediction.epistemic[:20, 0].mean()


def test_update_saving_and_warm_start(tmp_path: Path) -> None:
    """New cheap results move the prediction; an update is absolute; a loaded fit answers the same and starts warm."""
    dataset = mixed(2)
    first = Dataset(dataset.rows[:40] + dataset.rows[60:])
    surrogate = build()
    surrogate.fit(dataset, PROBLEM, seed=0)
    points = [at(x) for x in ASKED]
    before = surrogate.predict(points)
    surrogate.update(first)
    assert not np.allclose(surrogate.predict(points).mean, before.mean, atol=1e-3)
    surrogate.update(dataset)
    np.testing.assert_allclose(surrogate.predict(points).mean, before.mean)
    surrogate.save(tmp_path)
    loaded = build()
    loaded.load(tmp_path, PROBLEM)
    np.testing.assert_allclose(loaded.predict(points).sd, before.sd)
    assert loaded.fit(dataset, PROBLEM, seed=1).warm
    other = alone(dataset)
    for path in (tmp_path / "level-1").iterdir():
        path.unlink()
    other.save(tmp_path / "level-1")
    with pytest.raises(SurrogateError, match=r"level 1 .* belongs to another fit"):
        build().load(tmp_path, PROBLEM)
    with pytest.raises(SurrogateError, match="other surrogates or options"):
        build(below="composition_forest").load(tmp_path, PROBLEM)


def test_levels_stand_on_each_other_in_the_order_of_their_cost() -> None:
    """With three fidelities the fair one stands on the cheap one and carries the target; few labels leave one out."""
    dataset = mixed(0)
    x = places(20, 50)
    fair = rows(x, low(x) ** 1.0 + 2.0 * x, "fair", 501)
    surrogate = build()
    report = surrogate.fit(Dataset((*dataset.rows, *fair)), PROBLEM, seed=0)
    assert [level.fidelity for level in surrogate._levels] == ["cheap", "fair", TARGET]
    assert "rho_fair" in report.metrics["yield"]
    assert error(surrogate) < 0.5 * error(alone(dataset))
    report = surrogate.fit(Dataset((*dataset.rows, *fair[:2])), PROBLEM, seed=0)
    assert any("fair has 2 labels" in note for note in report.notes)
    assert [level.fidelity for level in surrogate._levels] == ["cheap", TARGET]


def test_without_other_fidelities_it_is_the_surrogate_itself() -> None:
    """With the target alone it answers number for number as the surrogate named in its options."""
    dataset = Dataset(tuple(row for row in mixed(0).rows if row.fidelity == TARGET))
    surrogate = build()
    surrogate.fit(dataset, PROBLEM, seed=0)
    points = [at(x) for x in ASKED]
    np.testing.assert_array_equal(surrogate.predict(points).mean, alone(dataset).predict(points).mean)


def test_failed_trials_belong_to_their_fidelity() -> None:
    """A cheap trial that failed teaches the target's level nothing about success."""
    dataset = mixed(0)
    failed = [
        Row(2000 + i, at(0.9 + 0.01 * i), {}, "", None, None, Outcome.FAILED, fidelity="cheap", reason="melted")
        for i in range(5)
    ]
    surrogate = build()
    surrogate.fit(Dataset((*dataset.rows, *failed)), PROBLEM, seed=0)
    unmoved = surrogate.success([at(0.92)])
    surrogate.fit(Dataset((*dataset.rows, *(replace(row, fidelity=TARGET) for row in failed))), PROBLEM, seed=0)
    assert surrogate.success([at(0.92)])[0] < unmoved[0]
