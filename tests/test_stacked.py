"""The stack: weights by what members said of labels they had not seen, and a mixture that is a surrogate."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize

from orchestrator import plugins
from orchestrator.domain import Candidate, Dataset, HeldOut, Objective, Outcome, Problem, Row
from orchestrator.errors import Diverged, PluginError, SurrogateError
from orchestrator.surrogates import stacking
from orchestrator.surrogates.composition_gp import CompositionGaussianProcess
from orchestrator.surrogates.stacked import Stacked, StackedOptions

PROBLEM = Problem((Objective("gap", "eV", "maximize"), Objective("energy", "eV", "minimize")))
CATIONS, ANIONS = ("Li", "Na", "K", "Rb", "Mg", "Ca", "Sr", "Ba"), ("F", "Cl", "Br", "I", "O", "S", "Se", "Te")
CANDIDATES = [
    Candidate.make(label=a + b, composition=a + b, parameters={"t": float(i % 7)})
    for i, (a, b) in enumerate(itertools.product(CATIONS, ANIONS))
]


def _dataset(n: int) -> Dataset:
    """Label the first n of a shuffled pool; the second property is known of two thirds of them."""
    rng = np.random.default_rng(5)
    order = rng.permutation(len(CANDIDATES))
    rows = []
    for trial, i in enumerate(order[:n].tolist(), 1):
        gap = i // 8 + 0.5 * (i % 8)
        given: dict[str, Any] = {"candidate": CANDIDATES[i], "applied": {}, "std_error": None}
        rows.append(Row(trial, property="gap", value=gap + 0.1 * rng.normal(), outcome=Outcome.MEASURED, **given))
        if trial % 3:
            rows.append(Row(trial, property="energy", value=float(-(i % 8)), outcome=Outcome.MEASURED, **given))
    return Dataset(tuple(rows))


def _stack(*members: Any) -> Stacked:
    return Stacked(StackedOptions.model_validate({"members": members}))


FAST = ("composition_gp", {"use": "composition_forest", "options": {"trees": 30}})


@pytest.fixture(scope="module")
def trained() -> Stacked:
    """Return a small stack on 36 labels."""
    stack = _stack(*FAST)
    stack.fit(_dataset(36), PROBLEM, 3)
    return stack


# --- weights --------------------------------------------------------------------------------------------------------


def _held(residuals: Any, sd: Any) -> dict[str, HeldOut]:
    n = len(residuals)
    return {"y": HeldOut(np.asarray(residuals), np.full(n, sd), np.zeros(n), tuple(range(1, n + 1)))}


def test_weights_maximise_the_mean_log_density_of_the_mixture() -> None:
    """The same weights as a general optimiser finds for the same concave problem, the prior included."""
    rng = np.random.default_rng(0)
    densities = rng.normal(size=(3, 50)) + np.array([[0.0], [0.3], [-2.0]])

    def loss(free: np.ndarray) -> float:
        weights = np.exp(free) / np.exp(free).sum()
        mixture = np.log(weights @ np.exp(densities)).sum()
        return -float(mixture + stacking.PRIOR_LABELS / 3 * np.log(weights).sum())

    found = minimize(loss, np.zeros(3), method="BFGS").x
    np.testing.assert_allclose(stacking.best_weights(densities), np.exp(found) / np.exp(found).sum(), atol=1e-3)


def test_the_better_member_takes_over_as_labels_grow() -> None:
    """One member is honest and sharp, one honest and blunt: nearly even at 4 labels, all for the sharp one at 200."""
    rng = np.random.default_rng(1)
    errors = rng.normal(size=200)
    few, _ = stacking.weigh([_held(0.3 * errors[:4], 0.3), _held(errors[:4], 1.0)])
    many, losses = stacking.weigh([_held(0.3 * errors, 0.3), _held(errors, 1.0)])
    assert few[1] > 0.05
    assert many[0] > 0.98
    assert losses[0] < losses[1]


def test_members_that_err_on_different_labels_share() -> None:
    """Each is good on its half and bad on the other: half each, and the mixture beats both."""
    small, large = np.full(40, 0.1), np.full(40, 2.0)
    members = [_held(np.r_[small, large], 0.7), _held(np.r_[large, small], 0.7)]
    weights, _ = stacking.weigh(members)
    np.testing.assert_allclose(weights, 0.5, atol=1e-6)
    mixed = stacking.mixed(members, weights)["y"]
    np.testing.assert_allclose(mixed.residuals, 1.05)
    np.testing.assert_allclose(mixed.sd, np.sqrt(0.49 + 0.95**2))


def test_only_labels_that_all_members_held_out_count() -> None:
    """Members that held out different trials are compared on the common ones, matched by number."""
    one = {"y": HeldOut(np.array([1.0, 2.0, 9.0]), np.ones(3), np.array([1.0, 2.0, 3.0]), (4, 6, 7))}
    other = {"y": HeldOut(np.array([2.0, 1.0]), np.ones(2), np.array([2.0, 1.0]), (6, 4))}
    mixed = stacking.mixed([one, other], np.array([0.5, 0.5]))["y"]
    assert mixed.trials == (4, 6)
    np.testing.assert_allclose(mixed.residuals, [1.0, 2.0])


# --- the surrogate --------------------------------------------------------------------------------------------------


def test_its_report_logs_the_weights_and_every_score(trained: Stacked) -> None:
    """Weights stand in the metrics and in a sentence with the number of labels; the mixture is judged as a whole."""
    report = _stack(*FAST).fit(_dataset(36), PROBLEM, 3)
    shares = [report.metrics["gap"][f"weight_{name}"] for name in ("composition_gp", "composition_forest")]
    assert sum(shares) == pytest.approx(1.0)
    assert any("weights by out-of-fold likelihood at 36 labels: composition_gp" in note for note in report.notes)
    assert report.metrics["gap"]["held_out"] == 36
    assert report.metrics["energy"]["held_out"] == 24
    assert {"nll", "crps", "ence", "miscalibration_area", "spearman"} <= set(report.metrics["energy"])
    assert set(trained.held_out()) == {"gap", "energy"}


def test_the_mixture_is_no_worse_than_its_members_and_honest() -> None:
    """On labels never seen: a log loss within 0.1 nats of the best member's, and 90 % intervals that hold 75-100 %."""
    everything = _dataset(64)
    train, rest = (Dataset(tuple(r for r in everything.rows if (r.trial <= 40) == first)) for first in (True, False))
    problem = Problem((PROBLEM.objectives[0],))
    asked = rest.labels(("gap",))
    losses = []
    for surrogate in (_stack(*FAST), _stack(FAST[0]), _stack(FAST[1])):
        surrogate.fit(train, problem, 1)
        told = surrogate.predict(asked.candidates)
        z = (asked.values - told.mean) / told.sd
        losses.append(float(np.mean(0.5 * z**2 + np.log(told.sd))))
        if len(losses) == 1:
            assert 0.75 <= np.mean(np.abs(z) < 1.645) <= 1.0
    assert losses[0] < min(losses[1:]) + 0.1


def test_draws_are_functions_of_the_mixture(trained: Stacked) -> None:
    """In chunks, permuted and all at once the same values; their moments are those of `predict`."""
    asked = CANDIDATES[:12]
    draws = trained.draw(asked, 400, seed=7)
    order = np.random.default_rng(0).permutation(12)
    permuted = trained.draw([asked[i] for i in order], 400, seed=7)
    np.testing.assert_allclose(permuted, draws[:, order], rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(trained.draw(asked[5:7], 400, seed=7), draws[:, 5:7], rtol=1e-6, atol=1e-8)
    told = trained.predict(asked)
    np.testing.assert_allclose(draws.mean(0), told.mean, atol=4 * told.epistemic.max() / np.sqrt(400))
    assert np.median(draws.std(0) / told.epistemic) == pytest.approx(1.0, abs=0.15)


def test_save_and_load_keep_every_answer(trained: Stacked, tmp_path: Path) -> None:
    """Bit for bit after an update to the same dataset; other members are refused."""
    trained.save(tmp_path)
    again = _stack(*FAST)
    again.load(tmp_path, PROBLEM)
    for stack in (trained, again):
        stack.update(_dataset(40))
    asked = CANDIDATES[:9]
    np.testing.assert_array_equal(again.predict(asked).sd, trained.predict(asked).sd)
    np.testing.assert_array_equal(again.draw(asked, 3, 1), trained.draw(asked, 3, 1))
    np.testing.assert_array_equal(again.interval(asked, 0.8), trained.interval(asked, 0.8))
    trained.update(_dataset(36))
    with pytest.raises(SurrogateError, match="other members"):
        _stack("composition_gp").load(tmp_path, PROBLEM)
    assert again.fit(_dataset(40), PROBLEM, 4).warm


def test_widening_reaches_draws_and_intervals(trained: Stacked, tmp_path: Path) -> None:
    """Means stay; sd and draws spread by the factor, one property at a time."""
    trained.save(tmp_path)
    wide = _stack(*FAST)
    wide.load(tmp_path, PROBLEM)
    wide.widen({"gap": 2.0})
    asked = CANDIDATES[:5]
    before, after = trained.predict(asked), wide.predict(asked)
    np.testing.assert_array_equal(after.mean, before.mean)
    np.testing.assert_allclose(after.sd, before.sd * [2.0, 1.0])
    apart = wide.draw(asked, 4, 1)[:, :, 0] - after.mean[:, 0]
    np.testing.assert_allclose(apart, 2 * (trained.draw(asked, 4, 1)[:, :, 0] - before.mean[:, 0]))


def test_a_member_that_cannot_be_trained_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """One diverges: the other answers, and a note says so; both diverge: an error names both."""

    def fail(*_: Any) -> Any:
        message = "no finite optimum"
        raise Diverged(message)

    monkeypatch.setattr(CompositionGaussianProcess, "fit", fail)
    stack = _stack(*FAST)
    report = stack.fit(_dataset(20), PROBLEM, 1)
    assert any("composition_gp is left out: no finite optimum" in note for note in report.notes)
    assert np.all(np.isfinite(stack.predict(CANDIDATES[:3]).mean))
    with pytest.raises(Diverged, match="no member"):
        _stack("composition_gp").fit(_dataset(20), PROBLEM, 1)


def test_knowledge_and_defaults() -> None:
    """The default stack knows what its potential knows; without the foundation nothing; bad members are named early."""
    assert "chgnet-0.3.0" in Stacked().knows()
    plain = Stacked(StackedOptions(foundation=False))
    assert plain.knows() == frozenset()
    assert "structure" in plain.supports()
    assert _stack(*FAST).supports() >= {"composition", "structure", "draws", "uncertainty"}
    for member, told in (("oracle", "cannot be a member"), ({"use": "gnn_gp", "options": {"x": 1}}, "'x' of gnn_gp")):
        with pytest.raises(PluginError, match=told):
            plugins.build("surrogates", "stacked", {"members": [member]})
