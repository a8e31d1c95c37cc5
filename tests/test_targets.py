"""Labels learned through a transform: what is told is in the property's unit, with its uncertainty."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from orchestrator.domain import Candidate, Dataset, Objective, Outcome, Problem, Row
from orchestrator.errors import IncompatibleError, SurrogateError
from orchestrator.surrogates.gaussian_process import GaussianProcess, GaussianProcessOptions
from orchestrator.surrogates.targets import Target, learn_targets, standardise
from orchestrator.surrogates.transforms import Transform, TransformName, choose, log_likelihood

PROBLEM = Problem((Objective("y", "S/cm", "maximize"),))
RNG = np.random.default_rng(0)
NORMAL = RNG.normal(size=60)


def dataset(values: np.ndarray, error: float | None = None) -> Dataset:
    """Return one labelled candidate a value, at t = 0, 0.1, 0.2 and so on."""
    rows = []
    for i, value in enumerate(values):
        candidate = Candidate.make(label=str(i), parameters={"t": 0.1 * i})
        rows.append(
            Row(i + 1, candidate, {}, "y", float(value), error, Outcome.MEASURED, measurement=i),
        )
    return Dataset(tuple(rows))


def settings(*places: float) -> list[Candidate]:
    """Return candidates."""
    return [Candidate.make(label=f"{t:g}", parameters={"t": t}) for t in places]


@pytest.mark.parametrize("power", [0.0, 0.3, 0.5, 1.0, 2.0])
def test_transforms_undo_themselves(power: float) -> None:
    """Labels come back, the order stays, and the slope is the derivative."""
    transform = Transform(power, 3.0)
    values = np.array([0.01, 0.5, 3.0, 40.0])
    np.testing.assert_allclose(transform.back(transform.forward(values)), values)
    assert np.all(np.diff(transform.forward(values)) > 0)
    step = 1e-6 * values
    numeric = (transform.forward(values + step) - transform.forward(values - step)) / (2 * step)
    np.testing.assert_allclose(transform.slope(values), numeric, rtol=1e-5)
    assert transform.forward(np.array([3.0]))[0] == pytest.approx(0.0)


@pytest.mark.parametrize(
    ("values", "power"), [(10 + NORMAL, None), (np.exp(1.5 * NORMAL), 0.0), ((6 + 1.5 * NORMAL) ** 2, 0.5)]
)
def test_auto_finds_what_made_the_labels(values: np.ndarray, power: float | None) -> None:
    """Normal labels stay as they are, log-normal ones get the logarithm, squares something like a root or none."""
    transform, note = choose("auto", values, "y")
    if power == 0.5:
        found, _ = choose("box-cox", values, "y")
        assert found is not None
        assert found.power == pytest.approx(0.5, abs=0.35)
    else:
        assert (transform.power if transform else None) == power
    assert "chosen by likelihood" in note


def test_the_likelihood_has_its_jacobian() -> None:
    """Up to a constant it is the log density of the labels, whatever their unit."""
    values = np.exp(NORMAL)
    one, two = (
        [log_likelihood(Transform(power, 1.0), unit * values) for power in (0.0, 1.0)] for unit in (1.0, 1000.0)
    )
    assert one[0] - one[1] == pytest.approx(two[0] - two[1])
    latent = np.log(values)
    density = -0.5 * ((latent - latent.mean()) / latent.std()) ** 2 - np.log(latent.std()) - latent
    assert one[0] == pytest.approx(density.sum() + 30.0)


def test_moments_are_those_of_the_log_normal() -> None:
    """Mean and variance in the property's unit agree with the closed form."""
    target = Target(0.4, 0.5, 0.0, 1e9, Transform(0.0, 2.0), (-40.0, 40.0))
    mean, variance = np.array([-1.0, 0.0, 2.0]), np.array([0.3, 1.0, 0.1])
    centre, spread = target.moments(mean, variance)
    mu, square = 0.4 + 0.5 * mean + math.log(2.0), 0.25 * variance
    np.testing.assert_allclose(centre, np.exp(mu + square / 2), rtol=1e-8)
    np.testing.assert_allclose(spread, np.exp(2 * mu + square) * (np.exp(square) - 1), rtol=1e-7)
    assert Target.from_json(target.to_json()) == target
    plain = Target(1.0, 2.0, -9.0, 9.0)
    assert Target.from_json(plain.to_json()) == plain
    np.testing.assert_allclose(plain.moments(mean, variance), (1 + 2 * mean, 4 * variance))


def test_errors_and_absurd_labels_are_read_through_the_transform() -> None:
    """A relative error is the same for all sizes of labels; a later label of zero still trains."""
    values = np.exp(NORMAL)
    (target,), _ = learn_targets(dataset(values), ["y"], {"y": "log"})
    (row,) = dataset(values[:1], error=0.1 * float(values[0])).rows
    known = standardise(Dataset((row,)), ["y"], [target]).known
    assert math.sqrt(known[0, 0]) * target.scale == pytest.approx(0.1)
    zero = standardise(Dataset((replace(row, value=0.0, std_error=None),)), ["y"], [target])
    assert np.isfinite(zero.y[0, 0])
    _, notes = learn_targets(dataset(np.append(values, 1e12)), ["y"], {"y": "log"})
    assert any("1e+12 lies far outside" in note for note in notes)
    _, notes = learn_targets(dataset(np.append(values, 30.0)), ["y"], {"y": "log"})
    assert not any("far outside" in note for note in notes)


def test_what_cannot_be_transformed_is_named() -> None:
    """A negative label has no logarithm; a transform of a property that is not modelled is a mistake."""
    with pytest.raises(SurrogateError, match="needs positive labels, and the smallest is -1"):
        learn_targets(dataset(np.array([1.0, -1.0, 2.0])), ["y"], {"y": "log"})
    with pytest.raises(SurrogateError, match="names z; the modelled properties are y"):
        learn_targets(dataset(np.array([1.0, 1.5, 2.0])), ["y"], {"z": "log"})
    assert choose("auto", np.array([1.0, -1.0, 2.0]), "y")[0] is None
    assert choose("box-cox", np.ones(5), "y")[0] is None


@pytest.mark.parametrize("name", ["log", "box-cox"])
def test_a_surrogate_keeps_its_contract_through_a_transform(name: TransformName, tmp_path: Path) -> None:
    """Draws are positive functions with the predicted moments; save, load and update do what they do without."""
    places = np.arange(40) * 0.1
    values = np.exp(2 * np.sin(2 * places) + 0.1 * np.random.default_rng(1).normal(size=40))
    options = GaussianProcessOptions(transforms={"y": name})
    surrogate = GaussianProcess(options)
    report = surrogate.fit(dataset(values[:32]), PROBLEM, seed=0)
    assert any("learned as" in note for note in report.notes)
    asked = settings(0.25, 0.77, 1.5, 3.0)
    prediction = surrogate.predict(asked)
    draws = surrogate.draw(asked, 4000, seed=1)
    assert np.all(draws > 0)
    np.testing.assert_allclose(draws.mean(0), prediction.mean, rtol=0.05)
    np.testing.assert_allclose(draws.std(0), prediction.epistemic, rtol=0.12)
    np.testing.assert_allclose(surrogate.draw(asked[2:3], 3, seed=1), draws[:3, 2:3], rtol=1e-9)
    surrogate.save(tmp_path)
    surrogate.update(dataset(values))
    assert not np.allclose(surrogate.predict(asked).mean, prediction.mean)
    surrogate.update(dataset(values[:32]))
    np.testing.assert_allclose(surrogate.predict(asked).mean, prediction.mean)
    again = GaussianProcess(options)
    again.load(tmp_path, PROBLEM)
    for part in ("mean", "epistemic", "noise"):
        np.testing.assert_allclose(getattr(again.predict(asked), part), getattr(prediction, part))
    low, high = again.interval(asked, 0.9)
    assert np.all(low > 0)
    assert np.all((low < prediction.mean) & (prediction.mean < high))
    assert "botorch" not in surrogate.supports()
    with pytest.raises(IncompatibleError, match="transform"):
        surrogate.to_botorch()


def test_calibration_is_measured_in_the_unit_of_the_property() -> None:
    """Over five decades the logarithm halves the error at least, and 90 % of new labels lie in the interval."""
    rng = np.random.default_rng(4)

    def conductivity(t: np.ndarray) -> np.ndarray:
        exponent: np.ndarray = 10 ** (2.5 * np.sin(2 * t) + 0.08 * rng.normal(size=len(t)))
        return exponent

    values = conductivity(np.arange(60) * 0.1)
    places = rng.uniform(0, 5.9, size=150)
    truth = conductivity(places)
    errors = {}
    for name in ("none", "log"):
        surrogate = GaussianProcess(GaussianProcessOptions(transforms={"y": name}))
        report = surrogate.fit(dataset(values), PROBLEM, seed=0)
        mean = surrogate.predict(settings(*places)).mean[:, 0]
        errors[name] = float(np.median(np.abs(mean - truth) / truth))
    assert errors["log"] < 0.5 * errors["none"]
    low, high = surrogate.interval(settings(*places), 0.9)
    assert 0.8 < np.mean((low[:, 0] < truth) & (truth < high[:, 0])) < 0.98
    assert report.metrics["y"]["mae"] == pytest.approx(float(np.mean(np.abs(mean - truth))), rel=0.8)
