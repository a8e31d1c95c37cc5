"""What is made large over a box: closed forms against integrals, gradients against differences, search against grid."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.stats import norm

from orchestrator.acquisition.box_gains import cells, log_gain, log_holds
from orchestrator.acquisition.box_monte_carlo import MonteCarlo
from orchestrator.acquisition.box_posterior import BoxPosterior
from orchestrator.acquisition.box_scores import Baseline, Confidence, DrawnFunction, Improvement
from orchestrator.acquisition.box_search import Effort, Search
from orchestrator.acquisition.confidence import ConfidenceOptions, UpperConfidenceBound
from orchestrator.acquisition.encoding import Encoding
from orchestrator.acquisition.fantasies import Fantasy
from orchestrator.acquisition.improvement import ImprovementOptions, LogExpectedImprovement
from orchestrator.acquisition.policy import Policy
from orchestrator.acquisition.situation import Situation
from orchestrator.acquisition.thompson import Thompson, ThompsonOptions
from orchestrator.domain import Candidate, Constraint, Dataset, Objective, Outcome, Problem, Row
from orchestrator.pareto import hypervolume
from orchestrator.spaces.box import Box
from orchestrator.surrogates.gaussian_process import GaussianProcess

ONE = Problem((Objective("a", "percent", "maximize"),))
TWO = Problem((Objective("a", "percent", "maximize"), Objective("b", "percent", "minimize")))
THREE = Problem((*TWO.objectives, Objective("c", "percent", "target", target=0.4)))
BOUNDED = Problem(ONE.objectives, (Constraint("b", "percent", low=0.1, high=0.6),))


def box(parameters: dict[str, Any], constraints: Sequence[dict[str, Any]] = ()) -> Box:
    """Build a box from what a campaign file would say."""
    return Box(Box.Options.model_validate({"parameters": parameters, "constraints": list(constraints)}))


SQUARE = box({"x": {"min": 0, "max": 1}, "y": {"min": 0.01, "max": 1, "log": True}})


def told(candidate: Candidate) -> dict[str, float]:
    """Return smooth values of three properties."""
    numbers = [float(v) for v in candidate.parameters.values() if not isinstance(v, str)]
    x, y = numbers[0], numbers[1]
    return {"a": math.sin(5 * x) - (y - 0.4) ** 2, "b": x * y + 0.2 * math.cos(4 * y), "c": x - y}


def situation(space: Box, problem: Problem, n: int = 10, **more: Any) -> Situation:
    """Measure sampled points and train on them."""
    rows = [
        Row(i, c, {}, name, told(c)[name], None, Outcome.MEASURED, measurement=10 * i + j)
        for i, c in enumerate(space.sample(n, 0), start=1)
        for j, name in enumerate(problem.properties)
    ]
    dataset = Dataset(tuple(rows))
    surrogate = GaussianProcess()
    surrogate.look_at(space)
    surrogate.fit(dataset, problem, 0)
    surrogate.update(dataset)
    closed = frozenset(row.candidate.id for row in rows)
    return Situation(surrogate, space, more.pop("q", 1), problem, dataset, (), closed, {}, 3, **more)


def parts(now: Situation, space: Box) -> tuple[Encoding, BoxPosterior, Baseline]:
    """Take the surrogate apart."""
    surrogate = now.trained
    assert isinstance(surrogate, GaussianProcess)
    points = space.sample(8, 1)
    encoding = Encoding.find(space.axes(), surrogate.to_botorch(), points)
    assert encoding is not None
    posterior = BoxPosterior.find(surrogate.to_botorch(), encoding, encoding.coordinates(points))
    assert posterior is not None
    return encoding, posterior, Baseline(now, encoding, posterior)


@pytest.mark.parametrize(
    "objective",
    [
        Objective("a", "m", "maximize"),
        Objective("a", "m", "minimize"),
        Objective("a", "m", "target", target=1.0),
        Objective("a", "m", "window", window=(1.0, 2.0)),
    ],
    ids=lambda o: o.goal,
)
@pytest.mark.parametrize(("mean", "sd", "reached"), [(0.3, 1.0, -0.4), (2.5, 0.3, -0.2), (1.4, 0.5, -0.7)])
def test_gains_are_integrals(objective: Objective, mean: float, sd: float, reached: float) -> None:
    """The closed form of every goal must be the integral of its improvement."""

    def gain(y: float) -> float:
        return max(float(objective.utility(np.array(y))) - reached, 0.0) * float(norm.pdf(y, mean, sd))

    expected = quad(gain, mean - 9 * sd, mean + 9 * sd, limit=400, points=[0.2, 0.4, 1.0, 2.0])[0]
    found = log_gain(objective, *(torch.tensor(v, dtype=torch.double) for v in (mean, sd, reached)))
    assert math.exp(float(found)) == pytest.approx(expected, rel=1e-4, abs=1e-12)


def test_gains_keep_order_and_slope_where_they_underflow() -> None:
    """A thousand standard deviations away the logarithm must still rise towards the best and have a slope."""
    mean = torch.linspace(-2000.0, 0.0, 41, dtype=torch.double).requires_grad_()
    sd = torch.ones_like(mean)
    for goal in ({"goal": "maximize"}, {"goal": "target", "target": 1.0}, {"goal": "window", "window": (1.0, 2.0)}):
        value = log_gain(Objective("a", "m", **goal), mean, sd, torch.tensor(-0.1, dtype=torch.double))  # type: ignore[arg-type]
        (slope,) = torch.autograd.grad(value.sum(), mean)
        assert bool((value.diff() > 0).all())
        assert bool(torch.isfinite(slope).all())
        assert bool((slope > 0).all())


def test_odds_of_a_window_keep_their_digits() -> None:
    """The probability of lying between two bounds, far outside as well."""
    between = Constraint("a", "m", low=1.0, high=2.0)
    for mean in (-3.0, 1.2, 6.0):
        found = float(log_holds(between, torch.tensor(mean, dtype=torch.double), torch.tensor(0.5, dtype=torch.double)))
        low, high = (1.0 - mean) / 0.5, (2.0 - mean) / 0.5
        larger, smaller = (-low, -high) if mean < 1.5 else (high, low)  # the tail in which digits are kept
        expected = norm.logcdf(larger) + math.log1p(-math.exp(norm.logcdf(smaller) - norm.logcdf(larger)))
        assert found == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("k", [2, 3])
def test_cells_fill_what_is_not_dominated(k: int) -> None:
    """Boxes must add up to the whole region minus what the front dominates, and not overlap."""
    rng = np.random.default_rng(k)
    points, corner = rng.random((7, k)), np.full(k, 0.05)
    low, high = cells(torch.from_numpy(points[None]), torch.ones(1, 7, dtype=torch.bool), torch.from_numpy(corner))
    top = torch.minimum(high, torch.ones_like(high))
    free = float((top - low).clamp_min(0.0).prod(-1).sum())
    assert free == pytest.approx((1 - 0.05) ** k - hypervolume(points, corner), abs=1e-9)


@pytest.mark.parametrize("problem", [ONE, TWO, BOUNDED], ids=["one", "two", "bounded"])
def test_closed_form_agrees_with_monte_carlo(problem: Problem) -> None:
    """Where botorch's draws show an improvement at all, the closed form must be the same number."""
    now = situation(SQUARE, problem)
    encoding, posterior, baseline = parts(now, SQUARE)
    points = encoding.coordinates(SQUARE.sample(64, 5))
    pending = points[:1]
    exact = Improvement(now, posterior, baseline, pending, draws=256).values(points)
    surrogate = now.trained
    assert isinstance(surrogate, GaussianProcess)
    drawn = MonteCarlo(now, surrogate.to_botorch(), encoding, baseline, pending, draws=512).values(points)
    best = np.flatnonzero(exact > exact.max() - 2.0)  # below, few of botorch's draws show anything
    assert len(best) > 1
    assert exact[best] == pytest.approx(drawn[best], abs=0.3)
    assert int(np.argmax(exact)) in np.argsort(-drawn)[:3]


@pytest.mark.parametrize("problem", [ONE, TWO, THREE, BOUNDED], ids=["one", "two", "three", "bounded"])
def test_slopes_are_differences(problem: Problem) -> None:
    """Gradients of every acquisition function must be those of its values."""
    now = situation(SQUARE, problem)
    encoding, posterior, baseline = parts(now, SQUARE)
    points = encoding.coordinates(SQUARE.sample(6, 5))
    none = np.zeros((0, 2))
    for acquisition in (
        Improvement(now, posterior, baseline, none, draws=32),
        Confidence(now, posterior, baseline, none, beta=1.0),
        DrawnFunction(now, encoding, 0, 1, 7),
    ):
        values, slopes = acquisition.slopes(points)
        assert values == pytest.approx(acquisition.values(points), abs=1e-9)
        step = 1e-5
        for j in range(2):
            moved = points.copy()
            moved[:, j] -= step
            back = acquisition.values(moved)
            moved[:, j] += 2 * step
            seen = (acquisition.values(moved) - back) / (2 * step)
            assert slopes[:, j] == pytest.approx(seen, rel=0.05, abs=0.02 * (1 + np.abs(seen).max()))


@pytest.mark.parametrize(
    "policy",
    [
        LogExpectedImprovement(ImprovementOptions(samples=64, restarts=3, draws=32)),
        UpperConfidenceBound(ConfidenceOptions(samples=64)),
        Thompson(ThompsonOptions(samples=64)),
    ],
    ids=lambda p: p.name,
)
def test_every_policy_follows_gradients(policy: Policy) -> None:
    """From 64 samples each policy must reach a point that none of 4,000 others beats by its own measure."""
    now = situation(SQUARE, ONE)
    made = policy.pick(now)[0]
    assert made.details["polished"] is True
    encoding, posterior, baseline = parts(now, SQUARE)
    none = np.zeros((0, 2))
    acquisition = {
        "log_expected_improvement": lambda: Improvement(now, posterior, baseline, none, draws=32),
        "upper_confidence_bound": lambda: Confidence(now, posterior, baseline, none, beta=1.0),
        "thompson": lambda: DrawnFunction(now, encoding, 0, 1, now.seed_for("functions")),
    }[policy.name]()
    grid = acquisition.values(encoding.coordinates(SQUARE.sample(4000, 9)))
    assert made.score is not None
    assert made.score >= grid.max() - 1e-3 * grid.std()


def test_discrete_axes_are_climbed() -> None:
    """With many combinations the search must end where no single change of a discrete axis is better."""
    choices = {f"s{i}": {"choices": ["u", "v", "w"]} for i in range(4)}
    space = box({"x": {"min": 0, "max": 1}, "n": {"kind": "integer", "min": 0, "max": 40}, **choices})
    now = situation(space, ONE, n=14)
    encoding, posterior, baseline = parts(now, space)
    acquisition = Improvement(now, posterior, baseline, np.zeros((0, 6)), draws=32)
    search = Search(now, space, encoding, Effort(samples=64, restarts=4, draws=32), ())
    found = search.best(acquisition, space.sample(64, 2), now.closed, 0)
    assert found is not None
    candidate, value, _ = found
    for name, other in itertools.product(choices, "uvw"):
        changed = space.make({**candidate.parameters, name: other})
        if changed.id not in now.closed:
            assert search.score(acquisition, [changed])[0] <= value + 1e-9


def test_mixtures_on_a_grid_swap_parts() -> None:
    """On a simplex with steps, the point found must beat every swap of one step between two parts."""
    space = box(
        {name: {"min": 0, "max": 1, "resolution": 0.05} for name in "abc"},
        [{"sum": {"a": 1, "b": 1, "c": 1}, "equals": 1}],
    )
    now = situation(space, ONE, n=8)
    encoding, posterior, baseline = parts(now, space)
    acquisition = Improvement(now, posterior, baseline, np.zeros((0, 3)), draws=32)
    search = Search(now, space, encoding, Effort(samples=32, restarts=3, draws=32), ())
    found = search.best(acquisition, space.sample(32, 2), now.closed, 0)
    assert found is not None
    everything = [c for c in space.sample(500, 0) if c.id not in now.closed]
    scores = search.score(acquisition, everything)
    assert found[1] >= scores.max() - 1e-9


@pytest.mark.parametrize(("fantasy", "off"), [("believer", 0.0), ("pessimistic", -1.0)])
def test_points_in_flight_are_taken_to_yield_what_the_fantasy_says(fantasy: Fantasy, off: float) -> None:
    """Each is its mean, or one standard deviation worse, in every draw, given those before; the measured ones vary."""
    now = situation(SQUARE, TWO, fantasy=fantasy)
    encoding, posterior, baseline = parts(now, SQUARE)
    pending = encoding.coordinates(SQUARE.sample(2, 12))
    made = Improvement(now, posterior, baseline, pending, draws=16)
    for j, sign in enumerate((1.0, -1.0)):  # the second is to be minimised: worse is more
        process, values = posterior.processes[j], made.parts[j].values
        with torch.no_grad():
            mean, variance, half, inputs = process.ask(torch.from_numpy(pending))
            between = process.between(half, inputs, half, inputs)
        first = mean[0] + sign * off * variance[0].sqrt()
        share = between[0, 1] / variance[0]
        left = (variance[1] - share * between[0, 1]).sqrt()
        second = mean[1] + share * (first - mean[0]) + sign * off * left
        wanted = torch.stack([first, second]).expand(16, 2)
        np.testing.assert_allclose(values[:, :2], wanted, rtol=1e-5, atol=1e-6)
        assert float(values[:, 2:].std(dim=0).max()) > 0
