"""Heads beside the exact process, and what every Gaussian surrogate says besides: domain, success, intervals."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from orchestrator.abilities import KnowsItsDomain, PredictsSuccess
from orchestrator.domain import Candidate, Dataset, Objective, Outcome, Problem, Row
from orchestrator.errors import IncompatibleError, NotEnoughData
from orchestrator.surrogates import variational
from orchestrator.surrogates.conformal import Conformal
from orchestrator.surrogates.familiarity import Familiarity, column_weights
from orchestrator.surrogates.feasibility import Feasibility
from orchestrator.surrogates.gaussian import GaussianOptions
from orchestrator.surrogates.gaussian_process import GaussianProcess, GaussianProcessOptions
from orchestrator.surrogates.heads import GaussianHead
from orchestrator.surrogates.hyper import Hyperparameters, Points
from orchestrator.surrogates.kernels import Term
from orchestrator.surrogates.last_layer import LastLayerHead, linear_terms
from orchestrator.surrogates.variational import VariationalHead

LINEAR = (Term("linear", ((0, 1),)), Term("linear", ((2,),)))
WEIGHTS = Hyperparameters(np.zeros(0), np.log([1.5, 0.4]), math.log(0.05), 0.2)
RADIAL = (Term("matern52", ((0, 1, 2),)), Term("linear", ((0,),)))
HYPER = Hyperparameters(np.log([1.2]), np.log([1.0, 0.3]), math.log(0.04), 0.1)
PROBLEM = Problem((Objective("y", "eV", "minimize"),))


def points(n: int, seed: int = 0) -> Points:
    """Return a smooth function of three columns with a noise of 0.2; some labels have a known error besides."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 3))
    y = np.sin(x[:, 0]) + 0.5 * x[:, 1] + 0.2 * rng.normal(size=n)
    return Points(x, y, np.where(rng.random(n) < 0.3, 0.02, 0.0))


def setting(t: float, u: float = 0.0) -> Candidate:
    """Return two process parameters."""
    return Candidate.make(label=f"{t:g}/{u:g}", parameters={"t": float(t), "u": float(u)})


def measured(pairs: list[tuple[Candidate, float]], error: float | None = None) -> tuple[Row, ...]:
    """Return one labelled trial a pair."""
    return tuple(
        Row(i + 1, candidate, candidate.parameters, "y", value, error, Outcome.MEASURED, measurement=i)
        for i, (candidate, value) in enumerate(pairs)
    )


def failed(candidates: list[Candidate], first: int) -> tuple[Row, ...]:
    """Return one failed trial a candidate."""
    return tuple(
        Row(first + i, candidate, candidate.parameters, "", None, None, Outcome.FAILED, reason="melted")
        for i, candidate in enumerate(candidates)
    )


def test_a_last_layer_is_the_gaussian_process_with_linear_terms() -> None:
    """Weight space and function space give the same means, variances and leave-one-out residuals."""
    data, asked = points(25), points(8, seed=1).x
    weights, process = LastLayerHead(LINEAR, WEIGHTS, data), GaussianHead(LINEAR, WEIGHTS, data)
    for one, two in zip(weights.predict(asked), process.predict(asked), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-6)
    for one, two in zip(weights.leave_one_out(), process.leave_one_out(), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-6)
    more = points(40, seed=3)
    np.testing.assert_allclose(
        weights.conditioned(more).predict(asked)[0], LastLayerHead(LINEAR, WEIGHTS, more).predict(asked)[0]
    )
    wide = weights.scaled(2.0)
    np.testing.assert_allclose(4 * weights.predict(asked)[1], wide.predict(asked)[1])
    assert wide.noise_variance == pytest.approx(4 * weights.noise_variance)


def test_draws_of_a_last_layer_are_draws_of_weights() -> None:
    """Each draw is exactly linear in the columns; over many, mean and covariance are the posterior's."""
    head = LastLayerHead(LINEAR, WEIGHTS, points(12))
    asked = np.vstack([np.zeros(3), np.eye(3), [[1.0, 1.0, 1.0]]])
    draws = head.draw(asked, 4000, (3,))
    at_zero = draws[:, :1]
    np.testing.assert_allclose((draws[:, 1:4] - at_zero).sum(1), draws[:, 4] - at_zero[:, 0], atol=1e-9)
    mean, variance = head.predict(asked)
    np.testing.assert_allclose(draws.mean(0), mean, atol=0.03)
    np.testing.assert_allclose(draws[:, 1:].std(0), np.sqrt(variance[1:]), rtol=0.06)


def test_blocks_of_a_last_layer_are_the_columns_of_the_terms() -> None:
    """Terms on the same columns become one block; blocks keep their order."""
    terms = (
        Term("matern52", ((0, 1),)),
        Term("linear", ((2,),)),
        Term("matern52", ((3, 4),)),
        Term("linear", ((3, 4),)),
    )
    assert [term.columns for term in linear_terms(terms)] == [(0, 1), (2,), (3, 4)]


def test_a_variational_head_with_a_point_a_label_is_the_exact_one() -> None:
    """With the labelled points as inducing points nothing is approximated: predictions, residuals and draws agree."""
    data, asked = points(40), points(9, seed=1).x
    exact, sparse = GaussianHead(RADIAL, HYPER, data), VariationalHead(RADIAL, HYPER, data, data.x)
    for one, two in zip(sparse.predict(asked), exact.predict(asked), strict=True):
        np.testing.assert_allclose(one, two, rtol=2e-3, atol=1e-4)
    for one, two in zip(sparse.leave_one_out(), exact.leave_one_out(), strict=True):
        np.testing.assert_allclose(one, two, rtol=2e-2, atol=2e-3)
    draws = sparse.draw(asked, 3000, (1, 2))
    mean, variance = exact.predict(asked)
    np.testing.assert_allclose(draws.mean(0), mean, atol=0.05)
    np.testing.assert_allclose(draws.std(0), np.sqrt(variance), rtol=0.06)
    np.testing.assert_allclose(sparse.draw(asked[3:5], 3, (1, 2)), draws[:3, 3:5], atol=1e-9)


def test_a_variational_head_on_few_inducing_points_stays_honest(monkeypatch: pytest.MonkeyPatch) -> None:
    """With 40 points for 500 labels the error is near the noise, and 90 % intervals cover 85 to 99 %."""
    monkeypatch.setattr(variational, "INDUCING", 40)
    data, asked = points(500), points(400, seed=1)
    head = VariationalHead.place(RADIAL, HYPER, data)
    assert head.inducing.shape == (40, 3)
    mean, variance = head.predict(asked.x)
    assert np.sqrt(np.mean((mean - asked.y) ** 2)) < 0.3
    inside = np.abs(mean - asked.y) < 1.645 * np.sqrt(variance + head.noise_variance)
    assert 0.85 < inside.mean() < 0.995
    residuals, sd = head.leave_one_out()
    assert np.sqrt(np.mean(residuals**2)) == pytest.approx(np.sqrt(np.mean((mean - asked.y) ** 2)), rel=0.15)
    assert 0.85 < np.mean(np.abs(residuals) < 1.645 * sd) < 0.995
    assert np.all(head.conditioned(Points(np.zeros((0, 3)), np.zeros(0), np.zeros(0))).predict(asked.x)[1] > 0.9)


def test_many_labels_get_a_variational_head(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Above `exact_up_to` the surrogate is variational, keeps the contract, saves itself, and refuses botorch."""
    monkeypatch.setattr(variational, "INDUCING", 20)
    rng = np.random.default_rng(0)
    pairs = [(setting(t, u), math.sin(t) + 0.3 * u) for t, u in rng.uniform(0, 6, size=(90, 2))]
    options = GaussianProcessOptions.model_construct(**dict(GaussianProcessOptions(), exact_up_to=60))
    surrogate = GaussianProcess(options)
    surrogate.fit(Dataset(measured(pairs[:80])), PROBLEM, seed=0)
    asked = [candidate for candidate, _ in pairs[70:]]
    before, draws = surrogate.predict(asked), surrogate.draw(asked, 4, seed=2)
    np.testing.assert_allclose(before.mean[:, 0], [value for _, value in pairs[70:]], atol=0.25)
    np.testing.assert_allclose(surrogate.draw(asked[5:6], 4, seed=2), draws[:, 5:6], atol=1e-8)
    surrogate.update(Dataset(measured(pairs)))
    surrogate.save(tmp_path)
    surrogate.update(Dataset(measured(pairs[:80])))
    np.testing.assert_allclose(surrogate.predict(asked).mean, before.mean)
    again = GaussianProcess()
    again.load(tmp_path, PROBLEM)
    np.testing.assert_allclose(again.predict(asked).sd, before.sd)
    np.testing.assert_allclose(again.draw(asked, 4, seed=2), draws)
    with pytest.raises(IncompatibleError, match="exact_up_to"):
        surrogate.to_botorch()
    with pytest.raises(ValueError, match="faster and better"):
        GaussianOptions(exact_up_to=100)


def test_distances_count_groups_and_not_columns() -> None:
    """A group of many columns weighs as much as a group of one; the unit is that of the labels' neighbours."""
    terms = (Term("matern52", ((0,), (1, 2, 3, 4))),)
    np.testing.assert_allclose(column_weights(terms, 5) ** 2, [0.5, 0.125, 0.125, 0.125, 0.125])
    x = np.zeros((11, 5))
    x[:, 0] = np.arange(11)  # neighbours at distance sqrt(0.5)
    domain = Familiarity.learn(terms, np.vstack([x, x]))
    asked = np.zeros((3, 5))
    asked[:, 0] = (5.0, 12.0, 30.0)
    np.testing.assert_allclose(domain.outside(asked), [0.0, 2.0, 20.0], atol=1e-6)
    np.testing.assert_allclose(domain.outside(asked[2:]), [20.0])
    assert np.all(np.isfinite(Familiarity.learn(terms, x[:1]).outside(asked)))


def test_success_is_learned_from_failures() -> None:
    """Where trials failed success is unlikely, where they worked likely, far away it is the rate so far."""
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, size=(80, 2))
    works = x[:, 0] > -0.2
    terms = (Term("matern52", ((0, 1),)),)
    classifier = Feasibility.learn(terms, x[works], x[~works])
    asked = rng.uniform(-1, 1, size=(400, 2))
    probability = classifier.probability(asked)
    truth = asked[:, 0] > -0.2
    assert np.mean((probability > 0.5) == truth) > 0.93
    sure = (probability < 0.1) | (probability > 0.9)
    assert sure.mean() > 0.4
    assert np.mean((probability[sure] > 0.5) == truth[sure]) > 0.98
    assert classifier.probability(np.full((1, 2), 1e3))[0] == pytest.approx((works.sum() + 1) / 82, abs=0.05)
    assert Feasibility.learn(terms, x, x[:0]).probability(asked) == pytest.approx(81 / 82)


def test_chances_are_calibrated() -> None:
    """Where failure is a matter of luck, the predicted probabilities are the frequencies that were seen."""
    rng = np.random.default_rng(1)
    x = rng.uniform(-1, 1, size=(300, 2))
    chance = np.where(x[:, 0] > 0, 0.9, 0.4)
    works = rng.random(300) < chance
    classifier = Feasibility.learn((Term("matern52", ((0, 1),)),), x[works], x[~works])
    asked = rng.uniform(-1, 1, size=(400, 2))
    probability = classifier.probability(asked)
    right = asked[:, 0] > 0.2
    left = asked[:, 0] < -0.2
    assert probability[right].mean() == pytest.approx(works[x[:, 0] > 0].mean(), abs=0.06)
    assert probability[left].mean() == pytest.approx(works[x[:, 0] < 0].mean(), abs=0.06)


def test_a_surrogate_learns_from_failures_and_knows_its_domain(tmp_path: Path) -> None:
    """Failures lower the chance of success near them, after fit, update and load; far settings lie outside."""
    good = [(setting(t), math.sin(t)) for t in np.linspace(0, 5, 16)]
    bad = failed([setting(t) for t in np.linspace(6, 8, 8)], 100)
    surrogate = GaussianProcess(GaussianProcessOptions(bounds={"t": (0.0, 10.0)}))
    asked = [setting(2.0), setting(7.0), setting(9.9)]
    surrogate.fit(Dataset(measured(good)), PROBLEM, seed=0)
    assert isinstance(surrogate, PredictsSuccess)
    assert isinstance(surrogate, KnowsItsDomain)
    assert "feasibility" in surrogate.supports()
    np.testing.assert_allclose(surrogate.success(asked), 17 / 18)
    surrogate.update(Dataset((*measured(good), *bad)))
    updated = surrogate.success(asked)
    assert updated[0] > 0.85
    assert updated[1] < 0.3
    surrogate.fit(Dataset((*measured(good), *bad)), PROBLEM, seed=0)
    surrogate.save(tmp_path)
    again = GaussianProcess()
    again.load(tmp_path, PROBLEM)
    np.testing.assert_allclose(again.success(asked), surrogate.success(asked))
    outside = again.outside(asked)
    assert outside[0] < 1 < outside[2]
    np.testing.assert_allclose(outside, surrogate.outside(asked))
    np.testing.assert_allclose(surrogate.outside(asked[2:]), outside[2:])
    assert surrogate.success([]).shape == surrogate.outside([]).shape == (0,)


@pytest.mark.parametrize("level", [0.5, 0.8, 0.9])
def test_conformal_intervals_cover_what_they_say(level: float) -> None:
    """Whatever the sd is worth, over many data sets the interval covers its level, and hardly more."""
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(400):
        sd = rng.uniform(0.5, 2.0, size=31)  # wrong by a factor of three, and the residuals are heavy-tailed
        residuals = 3.0 * sd * rng.standard_t(3, size=31)
        low, high = Conformal.learn(residuals[:30], sd[:30]).interval(np.zeros(1), sd[30:], level)
        covered.append(bool(low[0] <= residuals[30] <= high[0]))
    assert np.mean(covered) == pytest.approx(level + 0.5 / 31, abs=0.05)  # 400 draws: 2 sd are 0.05 at most


def test_too_few_residuals_make_no_interval() -> None:
    """Nine residuals carry a 90 % interval, eight do not, and the message says how many are needed."""
    nine = Conformal.learn(np.arange(1.0, 10.0), np.ones(9))
    assert nine.reach(0.9) == 9.0
    with pytest.raises(NotEnoughData, match="needs 19 of them, and there are 9"):
        nine.reach(0.95)
    with pytest.raises(NotEnoughData, match="needs 9 of them, and there are 8"):
        Conformal.learn(np.ones(8), np.ones(8)).reach(0.9)
    with pytest.raises(ValueError, match="above 0 and below 1"):
        nine.reach(90)


def test_a_surrogate_gives_conformal_intervals(tmp_path: Path) -> None:
    """The interval lies around the mean, survives a save, and grows with the level."""
    rng = np.random.default_rng(0)
    pairs = [(setting(t), math.sin(t) + 0.1 * rng.normal()) for t in rng.uniform(0, 6, size=30)]
    surrogate = GaussianProcess()
    surrogate.fit(Dataset(measured(pairs)), PROBLEM, seed=0)
    asked = [setting(t) for t in (0.5, 2.2, 4.0)]
    mean = surrogate.predict(asked).mean
    low, high = surrogate.interval(asked, 0.9)
    assert low.shape == high.shape == (3, 1)
    assert np.all((low < mean) & (mean < high))
    narrow = surrogate.interval(asked, 0.5)
    assert np.all(narrow[1] - narrow[0] < high - low)
    surrogate.save(tmp_path)
    again = GaussianProcess()
    again.load(tmp_path, PROBLEM)
    np.testing.assert_allclose(again.interval(asked, 0.9), (low, high))


def test_known_noise_is_found_and_known_errors_are_believed() -> None:
    """Noise of 0.3 is learned from labels without errors; with errors given it is told, not learned twice."""
    rng = np.random.default_rng(2)
    places = [setting(t) for t in np.tile(np.linspace(0, 6, 30), 2)]
    pairs = [(place, math.sin(float(place.parameters["t"])) + 0.3 * rng.normal()) for place in places]
    blind, told = GaussianProcess(), GaussianProcess()
    blind.fit(Dataset(measured(pairs)), PROBLEM, seed=0)
    told.fit(Dataset(measured(pairs, error=0.3)), PROBLEM, seed=0)
    asked = [setting(t) for t in np.linspace(0.3, 5.7, 20)]
    truth = np.array([math.sin(float(c.parameters["t"])) for c in asked])
    for surrogate in (blind, told):
        prediction = surrogate.predict(asked)
        assert prediction.noise[0, 0] == pytest.approx(0.3, rel=0.3)
        assert np.all(prediction.epistemic < 0.25)
        assert np.mean(np.abs(prediction.mean[:, 0] - truth) < 2 * prediction.epistemic[:, 0]) > 0.8
    learned = told._current[0].hyper.log_noise
    assert math.exp(learned) * told._fitted.targets[0].scale ** 2 < 0.3 * 0.3**2  # type: ignore[union-attr]
