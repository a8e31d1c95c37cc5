"""The parts of the Gaussian-process surrogates: kernels, heads, cross-fitting, calibration, labels, encoding."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import lognorm, multivariate_normal, norm

from orchestrator import plugins
from orchestrator.domain import Candidate, Dataset, HeldOut, Objective, Outcome, Problem, Row
from orchestrator.errors import NotEnoughData, SurrogateError
from orchestrator.surrogates import crossfit
from orchestrator.surrogates.calibration import assess, sd_factor
from orchestrator.surrogates.encoding import Columns, Scaling
from orchestrator.surrogates.evidence import Labels, density, log_prior
from orchestrator.surrogates.forest import CompositionForest
from orchestrator.surrogates.gaussian_process import GaussianProcess, GaussianProcessOptions
from orchestrator.surrogates.heads import GaussianHead
from orchestrator.surrogates.hyper import Hyperparameters, Points, bounds, covariance
from orchestrator.surrogates.kernels import Kind, Term
from orchestrator.surrogates.potential_gp import PotentialGaussianProcessOptions
from orchestrator.surrogates.targets import learn_targets, standardise

TERMS = (Term("matern52", ((0,), (1, 2))), Term("rbf", ((1, 2),)), Term("linear", ((0, 2),)))
HYPER = Hyperparameters(np.log([0.7, 1.3, 2.0]), np.log([1.0, 0.4, 0.3]), math.log(0.05), 0.2)


def points(n: int, seed: int = 0) -> Points:
    """Return a smooth function of three columns with a little noise."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 3))
    y = np.sin(2 * x[:, 0]) + 0.5 * x[:, 1] + 0.1 * rng.normal(size=n)
    return Points(x, y, np.where(rng.random(n) < 0.3, 0.02, 0.0))


def full_covariance(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """Return the covariance of `TERMS` by its definition, one pair at a time."""
    total = np.zeros((len(one), len(two)))
    for i, a in enumerate(one):
        for j, b in enumerate(two):
            r = math.sqrt(5 * (((a[0] - b[0]) / 0.7) ** 2 + (((a[1:] - b[1:]) / 1.3) ** 2).sum()))
            matern = (1 + r + r * r / 3) * math.exp(-r)
            rbf = math.exp(-0.5 * (((a[1:] - b[1:]) / 2.0) ** 2).sum())
            total[i, j] = matern + 0.4 * rbf + 0.3 * (a[0] * b[0] + a[2] * b[2]) / 2
    return total


def test_predictions_follow_from_the_definition() -> None:
    """Mean and variance are those of the textbook's formula, written out."""
    data, asked = points(15), points(6, seed=1).x
    head = GaussianHead(TERMS, HYPER, data)
    inverse = np.linalg.inv(full_covariance(data.x, data.x) + np.diag(0.05 + data.known))
    cross = full_covariance(asked, data.x)
    mean, variance = head.predict(asked)
    np.testing.assert_allclose(mean, 0.2 + cross @ inverse @ (data.y - 0.2), rtol=1e-6)
    wanted = np.diag(full_covariance(asked, asked) - cross @ inverse @ cross.T)
    np.testing.assert_allclose(variance, wanted, rtol=1e-5)


def test_leave_one_out_is_leaving_one_out() -> None:
    """The closed form gives what predicting each label without it gives."""
    data = points(12)
    residuals, sd = GaussianHead(TERMS, HYPER, data).leave_one_out()
    for i in range(12):
        rest = np.arange(12) != i
        head = GaussianHead(TERMS, HYPER, Points(data.x[rest], data.y[rest], data.known[rest]))
        mean, variance = head.predict(data.x[i : i + 1])
        assert residuals[i] == pytest.approx(data.y[i] - mean[0], rel=1e-6)
        assert sd[i] == pytest.approx(math.sqrt(variance[0] + 0.05 + data.known[i]), rel=1e-6)


def test_random_features_approximate_each_term() -> None:
    """Inner products of many random features are the covariance of the term."""
    x = points(8).x
    scales = (np.log([0.7, 1.3]), np.log([2.0]), np.zeros(0))
    for term, own in zip(TERMS, scales, strict=True):
        features = term.features(x, term.frequencies(own, 40_000, np.random.default_rng(0)))
        exact = term.matrix(torch.from_numpy(x), torch.from_numpy(x), torch.from_numpy(own)).numpy()
        np.testing.assert_allclose(features @ features.T, exact, atol=0.02)
        np.testing.assert_allclose(np.diag(exact), term.diagonal(torch.from_numpy(x)).numpy(), atol=1e-9)


def test_draws_are_joint_draws_of_the_posterior() -> None:
    """Over many draws, means, sds and the correlation of near points are those of the posterior."""
    data = points(20)
    head = GaussianHead(TERMS, HYPER, data)
    asked = np.vstack([points(4, seed=2).x, points(4, seed=2).x + 0.05])
    mean, variance = head.predict(asked)
    draws = head.draw(asked, 3000, (7, 0))
    np.testing.assert_allclose(draws.mean(0), mean, atol=0.05)
    np.testing.assert_allclose(draws.std(0), np.sqrt(variance), rtol=0.06)
    correlation = np.corrcoef(draws.T)
    assert all(correlation[i, i + 4] > 0.9 for i in range(4))


def test_hyperparameters_are_found_and_bounded() -> None:
    """Learning raises the likelihood above the start's, finds a small noise, and stays within its bounds."""
    data = points(60)
    head = GaussianHead.fit(TERMS, Points(data.x, data.y, np.zeros(60)))
    assert 0.002 < math.exp(head.hyper.log_noise) < 0.05
    assert all(low <= value <= high for value, (low, high) in zip(head.hyper.pack(), bounds(TERMS), strict=True))
    asked = points(200, seed=5)
    assert np.sqrt(np.mean((head.predict(asked.x)[0] - asked.y) ** 2)) < 0.5 * asked.y.std()


def test_calibration_scales_spread_and_nothing_else() -> None:
    """A factor multiplies epistemic sd, noise and the draws' distance from the mean; the mean stays."""
    head = GaussianHead(TERMS, HYPER, points(10))
    wide = head.scaled(2.0)
    asked = points(5, seed=3).x
    np.testing.assert_array_equal(head.predict(asked)[0], wide.predict(asked)[0])
    np.testing.assert_allclose(4 * head.predict(asked)[1], wide.predict(asked)[1])
    assert wide.noise_variance == pytest.approx(4 * head.noise_variance)
    mean = head.predict(asked)[0]
    np.testing.assert_allclose(wide.draw(asked, 4, (1,)) - mean, 2 * (head.draw(asked, 4, (1,)) - mean), atol=1e-9)


def test_repeated_points_need_jitter_at_most() -> None:
    """Fifty labels at one point without noise still give a factor, and the mean of the labels there."""
    data = Points(np.zeros((50, 3)), np.linspace(-1, 1, 50), np.zeros(50))
    head = GaussianHead(TERMS, Hyperparameters(HYPER.log_lengthscales, HYPER.log_variances, -40.0, 0.0), data)
    assert head.jitter > 0
    assert abs(head.predict(np.zeros((1, 3)))[0][0]) < 1e-3


def test_the_prior_is_a_density_of_lengthscales_on_ranges_and_of_logarithms_elsewhere() -> None:
    """Of numbers on a range short lengthscales are most probable, of descriptors the median; also after storing."""
    term = Term.from_json(Term("matern52", ((0,), (1,), (2, 3)), ranged=(0, 1)).to_json())
    center, sigma = term.prior_center(), math.sqrt(3.0)
    assert center == pytest.approx(math.sqrt(2) + 0.5 * math.log(4))

    def by_definition(log_lengthscales: np.ndarray) -> float:
        own = lognorm(sigma, scale=math.exp(center)).logpdf(np.exp(log_lengthscales[:2])).sum()
        return float(own + norm(center, sigma).logpdf(log_lengthscales[2]))

    one, two = np.array([-0.3, 1.2, 0.4]), np.array([center - 3.0, center - 3.0, center])
    said = [term.log_prior(at) for at in (one, two)]
    assert said[1] - said[0] == pytest.approx(by_definition(two) - by_definition(one))
    for step in 0.1 * np.vstack([np.eye(3), -np.eye(3)]):
        assert term.log_prior(two + step) < said[1]


def test_numbers_of_a_box_are_on_a_range_and_nothing_else_is() -> None:
    """Of compounds under set-points, bounded numbers have the prior of ranges; choices and compositions have not."""
    rng = np.random.default_rng(0)
    rows = []
    for trial, formula in enumerate(["NaCl", "KCl", "MgO", "CaO", "LiF", "NaF"], 1):
        settings = {"t": float(rng.random()), "u": float(rng.random()), "p": "ab"[trial % 2]}
        candidate = Candidate.make(label=formula, composition=formula, parameters=settings)
        rows.append(Row(trial, candidate, {}, "y", float(trial), None, Outcome.MEASURED, measurement=trial))
    surrogate = GaussianProcess(GaussianProcessOptions(bounds={"u": (0.0, 1.0)}))
    surrogate.fit(Dataset(tuple(rows)), Problem((Objective("y", "eV", "minimize"),)), 0)
    (term,) = surrogate._need().design.terms
    assert (len(term.groups), term.ranged) == (4, (1,))


def test_cross_fitting_judges_by_the_conditional_density() -> None:
    """For fixed hyperparameters it is log p(held out | rest), by the definition."""
    data = points(10)
    held = np.arange(10) % 2 == 0
    matrix = full_covariance(data.x, data.x) + np.diag(0.05 + data.known)
    joint = multivariate_normal(np.full(10, 0.2), matrix).logpdf(data.y)
    for mask in (held, ~held):
        found = density(HYPER.pack(), crossfit._labels(TERMS, crossfit.View(data, mask)))
        rest = multivariate_normal(np.full(5, 0.2), matrix[np.ix_(~mask, ~mask)]).logpdf(data.y[~mask])
        assert found is not None
        assert found[0] - 5 * math.log(2 * math.pi) / 2 == pytest.approx(joint - rest, rel=1e-6)


@pytest.mark.parametrize("first", [0, 4])
@pytest.mark.parametrize("groups", [((0,), (1, 2)), ((0, 1, 2),)])
@pytest.mark.parametrize("kind", ["matern52", "rbf"])
def test_densities_and_their_slopes_are_those_of_the_covariance(kind: Kind, groups: Any, first: int) -> None:
    """The closed form agrees with the covariance that predicts, and its slopes with automatic differentiation."""
    data = points(9)
    terms = (Term(kind, groups, ranged=(0,)), Term("linear", ((1, 2),)))
    count = len(groups)
    vector = np.concatenate([np.linspace(-0.6, 0.4, count), [0.3, -0.7, -2.5, 0.2]])
    x, y, known = (torch.from_numpy(a) for a in (data.x, data.y, data.known))
    v = torch.from_numpy(vector).requires_grad_()
    matrix = covariance(terms, x, x, v) + torch.diag(torch.exp(v[-2]) + known + 1e-8)
    chol = torch.linalg.cholesky(matrix)
    half = torch.linalg.solve_triangular(chol, (y - v[-1])[:, None], upper=False)[first:, 0]
    wanted = -0.5 * (half * half).sum() - torch.log(torch.diagonal(chol)[first:]).sum()
    found = density(vector, Labels.of(terms, data.x, data.y, data.known, first))
    assert found is not None
    assert found[0] == pytest.approx(float(wanted.detach()), rel=1e-9)
    np.testing.assert_allclose(found[1], torch.autograd.grad(wanted, v)[0].numpy(), rtol=1e-6, atol=1e-8)
    value, slope = log_prior(vector, terms)
    for j, step in enumerate(1e-6 * np.eye(len(vector))):
        assert slope[j] == pytest.approx((log_prior(vector + step, terms)[0] - value) / 1e-6, abs=1e-4)


def test_cross_fitting_does_not_trust_what_only_remembers() -> None:
    """A column that equals the labels it was made from, and is noise elsewhere, gets less weight than by likelihood."""
    rng = np.random.default_rng(0)
    data = points(60)
    held = np.arange(60) % 2 == 0
    columns = [np.where(mask, rng.normal(size=60), data.y) for mask in (held, ~held)]
    terms = (Term("linear", ((3,),)), Term("matern52", ((0, 1),)))
    known = np.zeros(60)
    views = [
        crossfit.View(Points(np.column_stack([data.x, column]), data.y, known), mask)
        for column, mask in zip(columns, (held, ~held), strict=True)
    ]
    honest = crossfit.learn(terms, views, None)
    naive = GaussianHead.fit(terms, Points(np.column_stack([data.x, data.y]), data.y, known)).hyper
    assert honest.log_variances[0] < -3.0
    assert naive.log_variances[0] > -1.5


def test_the_factor_mends_a_spread_that_is_wrong() -> None:
    """With sds three times too small the factor is near 3; with right ones near 1; few residuals say little."""
    rng = np.random.default_rng(0)
    residuals = rng.normal(size=400)
    labels = rng.normal(size=400)
    assert sd_factor(HeldOut(residuals, np.full(400, 1 / 3), labels)) == pytest.approx(3.0, rel=0.1)
    assert sd_factor(HeldOut(residuals, np.ones(400), labels)) == pytest.approx(1.0, rel=0.1)
    assert 1.0 < sd_factor(HeldOut(residuals[:2], np.full(2, 0.1), labels[:2])) < 2.5
    metrics, calibration = assess(HeldOut(residuals, np.full(400, 1 / 3), labels))
    assert calibration["0.9"] == pytest.approx(0.9, abs=0.05)
    assert calibration["0.5"] == pytest.approx(0.5, abs=0.08)
    assert metrics["miscalibration_area"] < 0.05
    assert metrics["rmse"] == pytest.approx(float(np.sqrt(np.mean(residuals**2))))
    assert assess(HeldOut(np.zeros(0), np.zeros(0), np.zeros(0))) == ({}, {})


def rows(values: list[float], name: str = "y", errors: list[float | None] | None = None) -> tuple[Row, ...]:
    """Return one labelled candidate a value."""
    given_errors = errors or [None] * len(values)
    return tuple(
        Row(
            i + 1,
            Candidate.make(label=f"c{i}", parameters={"t": float(i)}),
            {},
            name,
            value,
            error,
            Outcome.MEASURED,
            measurement=i,
        )
        for i, (value, error) in enumerate(zip(values, given_errors, strict=True))
    )


def test_labels_are_standardised_and_far_ones_pulled_in() -> None:
    """Ordinary labels keep their values; one of 1e6 keeps its rank only, and is named with its trial."""
    values = [*np.random.default_rng(0).normal(5, 2, 30).tolist(), 1e6]
    dataset = Dataset(rows(values))
    (target,), notes = learn_targets(dataset, ["y"])
    y = standardise(dataset, ["y"], [target]).y[:, 0]
    np.testing.assert_allclose(target.back(y[:30]), values[:30])
    assert y.max() == y[30] < 10
    assert len(notes) == 1
    assert "trial 31" in notes[0]
    with pytest.raises(NotEnoughData, match="2 labels"):
        learn_targets(Dataset(rows([1.0, 2.0])), ["y"])


@given(st.lists(st.floats(-1e3, 1e3), min_size=3, max_size=30))
@settings(max_examples=60, deadline=None)
def test_any_labels_become_finite(values: list[float]) -> None:
    """Whatever finite labels come, standardised ones are finite and keep their order."""
    dataset = Dataset(rows(values))
    (target,), _ = learn_targets(dataset, ["y"])
    y = standardise(dataset, ["y"], [target]).y[:, 0]
    assert np.all(np.isfinite(y))
    order = np.argsort(values, kind="stable")
    assert np.all(np.diff(y[order]) >= -1e-9)


def test_standard_errors_become_known_noise() -> None:
    """A given standard error enters in units of the labels' sd; where some lack one, they get the typical one."""
    dataset = Dataset(rows([0.0, 1.0, 2.0, 3.0], errors=[0.1, 0.1, None, 0.3]))
    (target,), _ = learn_targets(dataset, ["y"])
    known = standardise(dataset, ["y"], [target]).known[:, 0]
    np.testing.assert_allclose(np.sqrt(known) * target.scale, [0.1, 0.1, 0.1, 0.3])


def test_columns_have_the_documented_order() -> None:
    """Numbers sorted by name come first, raw; then one-hot blocks sorted by name and choice."""
    candidates = [
        Candidate.make(label="a", parameters={"time": 2.0, "solvent": "water", "acid": "no", "power": 5}),
        Candidate.make(label="b", parameters={"time": 3.0, "solvent": "ethanol", "acid": "yes", "power": 7}),
    ]
    columns = Columns.learn(candidates, {"solvent": ("toluene",)})
    assert columns.numeric == ("power", "time")
    assert dict(columns.categorical) == {"acid": ("no", "yes"), "solvent": ("ethanol", "toluene", "water")}
    np.testing.assert_array_equal(columns.encode(candidates), [[5, 2, 1, 0, 0, 0, 1], [7, 3, 0, 1, 1, 0, 0]])
    assert columns.blocks == ((0,), (1,), (2, 3), (4, 5, 6))
    assert Columns.from_json(columns.to_json()) == columns
    stranger = Candidate.make(label="c", parameters={"time": 1.0, "solvent": "acetone", "acid": "no", "power": 1})
    np.testing.assert_array_equal(columns.encode([stranger])[0, 4:], [0, 0, 0])
    odd = Candidate.make(label="odd", parameters={"time": "long", "solvent": "water", "acid": "no", "power": 1})
    with pytest.raises(SurrogateError, match="'time'"):
        columns.encode([odd])
    with pytest.raises(SurrogateError, match="'time' is a number in some"):
        Columns.learn([*candidates, odd], {})


def test_scalings_undo_themselves() -> None:
    """Raw columns come back from normalised ones, logarithmic and constant ones too; zero on a log axis is named."""
    raw = np.array([[1.0, 0.01, 7.0], [3.0, 100.0, 7.0], [2.0, 1.0, 7.0]])
    scaling = Scaling.unit_range(raw, {0: (0.0, 4.0)}, (1,))
    np.testing.assert_allclose(scaling.apply(raw)[:, :2], [[0.25, 0.0], [0.75, 1.0], [0.5, 0.5]], atol=1e-12)
    np.testing.assert_allclose(scaling.undo(scaling.apply(raw)), raw)
    with pytest.raises(SurrogateError, match="logarithmic"):
        Scaling.unit_range(np.array([[0.0], [1.0]]), {}, (0,))


def process(temperature: float, pressure: float, gas: str) -> Candidate:
    """Return process settings."""
    return Candidate.make(label=gas, parameters={"temperature": temperature, "pressure": pressure, "gas": gas})


def process_dataset(n: int, seed: int) -> tuple[Dataset, list[Candidate], np.ndarray]:
    """Return a response with a logarithmic axis and a choice."""
    rng = np.random.default_rng(seed)
    found, values = [], []
    for _ in range(n):
        temperature, pressure = float(rng.uniform(300, 900)), float(10 ** rng.uniform(-3, 1))
        gas = str(rng.choice(["air", "argon"]))
        found.append(process(temperature, pressure, gas))
        values.append(math.sin(temperature / 150) + 0.3 * math.log10(pressure) ** 2 + (gas == "argon"))
    table = tuple(
        Row(i + 1, c, c.parameters, "y", v, None, Outcome.MEASURED, measurement=i)
        for i, (c, v) in enumerate(zip(found, values, strict=True))
    )
    return Dataset(table), found, np.array(values)


PROBLEM = Problem((Objective("y", "eV", "minimize"),))


def test_a_gaussian_process_learns_a_process() -> None:
    """On 50 settings of a smooth response the held-out error is a tenth of the spread, and its report agrees."""
    surrogate = GaussianProcess(GaussianProcessOptions(log=("pressure",)))
    report = surrogate.fit(process_dataset(50, 0)[0], PROBLEM, seed=0)
    _, asked, values = process_dataset(200, 1)
    prediction = surrogate.predict(asked)
    error = float(np.sqrt(np.mean((prediction.mean[:, 0] - values) ** 2)))
    assert error < 0.15 * values.std()
    assert report.metrics["y"]["rmse"] < 0.3 * values.std()
    with pytest.raises(SurrogateError, match="'log' or 'bounds' name presure"):
        GaussianProcess(GaussianProcessOptions(log=("presure",))).fit(process_dataset(9, 0)[0], PROBLEM, seed=0)


def test_gradients_reach_the_raw_parameters() -> None:
    """The botorch view takes raw values, with a logarithm inside, and gives the slope of the prediction."""
    surrogate = GaussianProcess(GaussianProcessOptions(log=("pressure",)))
    surrogate.fit(process_dataset(40, 0)[0], PROBLEM, seed=0)
    view = surrogate.to_botorch()
    here = process(600.0, 0.5, "air")
    encoded = torch.from_numpy(view.encode([here])).requires_grad_()
    np.testing.assert_array_equal(encoded.detach().numpy()[0], [0.5, 600.0, 1.0, 0.0])
    view.model.posterior(encoded).mean.sum().backward()
    assert encoded.grad is not None
    near = [process(600.0 + step, 0.5, "air") for step in (-0.01, 0.01)]
    low, high = surrogate.predict(near).mean[:, 0]
    assert float(encoded.grad[0, 1]) == pytest.approx((high - low) / 0.02, rel=1e-3)


def test_noise_and_ignorance_are_kept_apart() -> None:
    """With noisy repeats the noise is found; epistemic sd shrinks at measured points and not far away."""
    rng = np.random.default_rng(0)
    settings_ = [Candidate.make(label="p", parameters={"t": float(i % 10)}) for i in range(60)]
    table = tuple(
        Row(i + 1, c, {}, "y", math.sin(float(c.parameters["t"])) + 0.3 * rng.normal(), None, Outcome.MEASURED)
        for i, c in enumerate(settings_)
    )
    surrogate = GaussianProcess()
    surrogate.fit(Dataset(table), PROBLEM, seed=0)
    prediction = surrogate.predict([settings_[3], Candidate.make(label="far", parameters={"t": 40.0})])
    assert prediction.noise[0, 0] == pytest.approx(0.3, rel=0.35)
    assert prediction.epistemic[0, 0] < 0.2
    assert prediction.epistemic[1, 0] > 3 * prediction.epistemic[0, 0]


def test_a_forest_is_held_out_honestly() -> None:
    """The report's error comes from trees that have not seen the label: it is near the error on new settings."""
    dataset, _, _ = process_dataset(80, 0)
    forest = CompositionForest()
    report = forest.fit(dataset, PROBLEM, seed=0)
    _, asked, values = process_dataset(200, 1)
    prediction = forest.predict(asked)
    error = float(np.sqrt(np.mean((prediction.mean[:, 0] - values) ** 2)))
    assert report.metrics["y"]["rmse"] == pytest.approx(error, rel=0.4)
    inside = np.abs(prediction.mean[:, 0] - values) < 1.645 * prediction.sd[:, 0]
    assert 0.8 < inside.mean() <= 1.0


@pytest.mark.parametrize(
    "options", [{"mean": "zero_shot", "features": ["chgnet"]}, {"features": []}, {"layers": ["conv9"]}, {"pca": 0}]
)
def test_options_that_cannot_work_are_refused(options: dict[str, Any]) -> None:
    """A wrong option fails when the surrogate is described, not when it is trained."""
    with pytest.raises(ValueError, match=r"validation error"):
        PotentialGaussianProcessOptions(**options)


def test_a_gaussian_process_looks_at_its_box() -> None:
    """Ranges, logarithms and choices of the axes are taken over; what the options say stands."""
    space = plugins.build(
        "spaces",
        "box",
        {
            "parameters": {
                "time": {"unit": "hour", "min": 1, "max": 100, "log": True},
                "gas": {"choices": ["air", "argon"]},
                "mass": {"unit": "g", "min": 0, "max": 2},
            }
        },
    )
    told = GaussianProcess(GaussianProcessOptions(bounds={"mass": (0.0, 5.0)}))
    told.look_at(space)
    assert told.options.log == ("time",)
    assert told.options.bounds == {"time": (1.0, 100.0), "mass": (0.0, 5.0)}
    assert told.options.choices == {"gas": ("air", "argon")}
