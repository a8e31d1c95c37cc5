"""Acquisition policies on pools: what they choose, from what, and what they say of it."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from orchestrator import plugins
from orchestrator.acquisition.confidence import ConfidenceOptions, UpperConfidenceBound
from orchestrator.acquisition.designs import Diverse, Random
from orchestrator.acquisition.draws import draw
from orchestrator.acquisition.features import fractions
from orchestrator.acquisition.gains import hypervolume_gains
from orchestrator.acquisition.greedy import Greedy
from orchestrator.acquisition.improvement import ImprovementOptions, LogExpectedImprovement
from orchestrator.acquisition.marginal import (
    expected_improvement,
    log_expected_improvement,
    log_probability_feasible,
)
from orchestrator.acquisition.optimality import ProbabilityOfOptimality
from orchestrator.acquisition.policy import Policy, Situation
from orchestrator.acquisition.thompson import Thompson
from orchestrator.domain import (
    Array,
    Candidate,
    Constraint,
    Dataset,
    FitReport,
    Objective,
    Outcome,
    Prediction,
    Problem,
    Proposal,
    Row,
)
from orchestrator.errors import IncompatibleError, SpaceExhausted
from orchestrator.pareto import hypervolume, reference_point
from orchestrator.protocols import AcquisitionPolicy
from tests.fakes import ListSpace

ENERGY = Objective("energy", "eV", "minimize")
MINIMIZE = Problem((ENERGY,))


def point(x: float, y: float = 0.0) -> Candidate:
    """Make a candidate with two parameters."""
    return Candidate.make(label=f"{x:g},{y:g}", parameters={"x": round(x, 6), "y": round(y, 6)})


@dataclass
class Bayesian:
    """A Bayesian linear model on fixed Fourier features: an exact posterior, whose draws are functions."""

    m: int = 1
    noise: float = 0.01
    length: float = 0.25
    shift: tuple[float, ...] = (0.0,)
    mean: Array = field(default_factory=lambda: np.zeros((0, 0)))
    root: Array = field(default_factory=lambda: np.zeros((0, 0)))
    poison: float | None = None

    def _features(self, candidates: Sequence[Candidate]) -> Array:
        rng = np.random.default_rng(0)
        x = np.array([[float(c.parameters["x"]), float(c.parameters["y"])] for c in candidates]).reshape(-1, 2)
        phase = x @ rng.normal(0, 1 / self.length, (2, 150)) + rng.uniform(0, 2 * np.pi, 150)
        return np.sqrt(2 / 150) * np.cos(phase)

    def supports(self) -> frozenset[Any]:
        return frozenset({"parameters", "uncertainty", "draws"})

    def knows(self) -> frozenset[str]:
        return frozenset()

    def fit(self, dataset: Dataset, problem: Problem, seed: int) -> FitReport:
        labels = dataset.labels(problem.properties)
        self.m = len(problem.properties)
        self.shift = tuple(np.nanmean(labels.values, axis=0)) if len(labels) else (0.0,) * self.m
        phi = self._features(labels.candidates)
        precision = np.eye(150) + phi.T @ phi / self.noise**2
        covariance = np.linalg.inv(precision)
        self.mean = covariance @ phi.T @ (np.nan_to_num(labels.values - self.shift)) / self.noise**2
        self.root = np.linalg.cholesky(covariance + 1e-12 * np.eye(150))
        return FitReport(labels=len(labels), data_sha256=dataset.sha256)

    def update(self, dataset: Dataset) -> None:
        raise NotImplementedError

    def predict(self, candidates: Sequence[Candidate]) -> Prediction:
        phi = self._features(candidates)
        mean = phi @ self.mean + np.array(self.shift)
        if self.poison is not None:
            mean[0] = self.poison
        sd = np.linalg.norm(phi @ self.root, axis=1)[:, None] * np.ones((1, self.m))
        return Prediction(mean, sd, np.full_like(sd, self.noise))

    def draw(self, candidates: Sequence[Candidate], s: int, seed: int) -> Array:
        rng = np.random.default_rng(seed)
        weights = self.mean[None] + np.einsum("ij,sjm->sim", self.root, rng.normal(size=(s, 150, self.m)))
        return np.einsum("ni,sim->snm", self._features(candidates), weights) + np.array(self.shift)

    def save(self, folder: Path) -> None:
        raise NotImplementedError

    def load(self, folder: Path, problem: Problem) -> None:
        raise NotImplementedError


def dataset(candidates: Sequence[Candidate], values: Array, problem: Problem = MINIMIZE) -> Dataset:
    """Make a dataset of measured candidates, values n × m."""
    rows = []
    for i, (candidate, row) in enumerate(zip(candidates, np.atleast_2d(values.T).T, strict=True)):
        for j, (name, value) in enumerate(zip(problem.properties, row, strict=True)):
            rows.append(Row(i + 1, candidate, {}, name, float(value), None, Outcome.MEASURED, measurement=10 * i + j))
    return Dataset(tuple(rows))


def grid(n: int = 9) -> list[Candidate]:
    """Make an n × n grid of candidates on the unit square."""
    return [point(x, y) for x in np.linspace(0, 1, n) for y in np.linspace(0, 1, n)]


def energy(candidates: Sequence[Candidate]) -> Array:
    """Return a smooth function with its minimum, 0, at (0.625, 0.375)."""
    x = np.array([[c.parameters["x"], c.parameters["y"]] for c in candidates], dtype=float)
    return ((x - [0.625, 0.375]) ** 2).sum(axis=1)


def ready(
    problem: Problem = MINIMIZE, measured: int = 6, values: Array | None = None, space: Sequence[Candidate] = ()
) -> tuple[Bayesian, ListSpace, Dataset]:
    """Return a trained surrogate, the pool and the data."""
    listed = list(space) or grid()
    known = [listed[i] for i in np.random.default_rng(3).permutation(len(listed))[:measured]]
    data = dataset(known, energy(known) if values is None else values[:measured], problem)
    surrogate = Bayesian()
    surrogate.fit(data, problem, 0)
    return surrogate, ListSpace(listed), data


def choose(
    policy: AcquisitionPolicy,
    surrogate: Bayesian | None,
    space: ListSpace,
    data: Dataset,
    *,
    q: int = 3,
    problem: Problem = MINIMIZE,
    pending: Sequence[Candidate] = (),
    closed: frozenset[str] = frozenset(),
    seed: int = 1,
) -> tuple[Proposal, ...]:
    """Call `select` with the rest filled in."""
    return policy.select(
        surrogate,
        space,
        q=q,
        problem=problem,
        dataset=data,
        pending=pending,
        closed=closed,
        costs={"target": 1.0},
        seed=seed,
    )


LEARNING: list[Policy] = [
    LogExpectedImprovement(),
    Greedy(),
    UpperConfidenceBound(),
    UpperConfidenceBound(ConfidenceOptions(batch="top")),
    Thompson(),
    ProbabilityOfOptimality(),
]
ALL: list[Policy] = [*LEARNING, Random(), Diverse()]


def label(policy: Policy) -> str:
    """Name a policy in test ids."""
    return f"{policy.name}-{getattr(policy.options, 'batch', '')}".strip("-")


# --- what every policy must keep --------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ALL, ids=label)
def test_proposes_open_candidates_and_says_why(policy: Policy) -> None:
    """Q different open candidates, none measured, pending or closed; each with reason, rank and JSON details."""
    surrogate, space, data = ready()
    pending, closed = [space.listed[40]], frozenset({space.listed[41].id})
    made = choose(policy, surrogate, space, data, q=4, pending=pending, closed=closed)
    ids = [p.candidate.id for p in made]
    shut = {row.candidate.id for row in data.rows} | {pending[0].id} | closed
    assert len(set(ids)) == 4
    assert not shut & set(ids)
    for rank, proposal in enumerate(made, start=1):
        assert proposal.policy == policy.name
        assert len(proposal.reason.split()) > 3
        assert proposal.details["rank"] == rank
        assert proposal.details["pending"] == 1
        assert proposal.details["open"] == 81 - 6 - 2
        assert set(proposal.details["nearest_measured"]) < {row.candidate.id for row in data.rows}
        assert len(proposal.details["nearest_measured"]) == 3
        json.dumps(dict(proposal.details), allow_nan=False)
        if policy.needs():
            predicted = surrogate.predict([proposal.candidate])
            assert proposal.mean["energy"] == pytest.approx(float(predicted.mean[0, 0]))
            assert proposal.sd["energy"] == pytest.approx(float(predicted.sd[0, 0]))
            assert proposal.score is not None
            assert math.isfinite(proposal.score)


@pytest.mark.parametrize("policy", ALL, ids=label)
def test_the_order_of_the_pool_does_not_matter(policy: Policy) -> None:
    """The same batch, in the same order, whatever the order in which the space and its duplicates are listed."""
    surrogate, space, data = ready()
    pending = (space.listed[40], space.listed[12])
    first = choose(policy, surrogate, space, data, pending=pending)
    again = choose(policy, surrogate, space, data, pending=pending)
    shuffled = [space.listed[i] for i in np.random.default_rng(0).permutation(81)]
    other = choose(policy, surrogate, ListSpace([*shuffled, *shuffled[:9]]), data, pending=pending)
    assert [p.candidate.id for p in first] == [p.candidate.id for p in again]
    assert [p.candidate.id for p in first] == [p.candidate.id for p in other]


@pytest.mark.parametrize("policy", ALL, ids=label)
def test_a_pool_that_is_too_small_gives_fewer_and_an_empty_one_says_so(policy: Policy) -> None:
    """Fewer proposals than asked for where the pool ends; SpaceExhausted where nothing is left."""
    surrogate, space, data = ready()
    known = [row.candidate for row in data.rows]
    two = [c for c in space.listed if c not in known][:2]
    assert len(choose(policy, surrogate, ListSpace([*known, *two]), data, q=5)) == 2
    assert len(choose(policy, surrogate, ListSpace([*known, two[0], two[0]]), data, q=5)) == 1
    with pytest.raises(SpaceExhausted, match="widen"):
        choose(policy, surrogate, ListSpace(known), data)
    with pytest.raises(SpaceExhausted):
        choose(policy, surrogate, ListSpace([*known, *two]), data, pending=two)


@pytest.mark.parametrize("policy", LEARNING, ids=label)
def test_numbers_that_are_not_finite_lead_to_diversity_and_it_is_said(policy: Policy) -> None:
    """A NaN from the surrogate never ranks candidates: the batch is chosen for diversity, and its reason says why."""
    surrogate, space, data = ready()
    for poison in (math.nan, math.inf, -math.inf):
        made = choose(policy, replace(surrogate, poison=poison), space, data)
        assert len(made) == 3
        expected = [p.candidate.id for p in choose(Diverse(), None, space, data)]
        assert [p.candidate.id for p in made] == expected
        for proposal in made:
            assert "not finite" in proposal.reason
            assert proposal.details["fallback"] == "diverse"
            assert proposal.score is None
            assert not proposal.mean


@pytest.mark.parametrize("policy", LEARNING, ids=label)
def test_equal_predictions_still_give_a_batch(policy: Policy) -> None:
    """A surrogate that sees no difference gives q different candidates and finite scores."""
    surrogate, space, data = ready(values=np.full(6, 2.0))
    flat = replace(surrogate, mean=np.zeros((150, 1)), root=np.zeros((150, 150)))
    made = choose(policy, flat, space, data, q=4)
    assert len({p.candidate.id for p in made}) == 4
    assert all(p.score is not None and math.isfinite(p.score) for p in made)


@pytest.mark.parametrize("policy", LEARNING, ids=label)
def test_two_objectives_pick_from_both_ends_and_between(policy: Policy) -> None:
    """With two opposite objectives the batch gains more hypervolume than a random one."""
    problem = Problem((Objective("a", "eV", "minimize"), Objective("b", "eV", "minimize")))
    listed = grid()
    xy = np.array([[c.parameters["x"], c.parameters["y"]] for c in listed], dtype=float)
    both = np.stack([energy(listed), ((xy - [0.1, 0.9]) ** 2).sum(axis=1)], axis=1)
    place = {c.id: i for i, c in enumerate(listed)}
    known = [listed[i] for i in np.random.default_rng(5).permutation(81)[:12]]
    seen = both[[place[c.id] for c in known]]
    data = dataset(known, seen, problem)
    surrogate = Bayesian(length=0.6)
    surrogate.fit(data, problem, 0)
    corner = reference_point(-seen)

    def reached(policy: Policy, seed: int) -> float:
        made = choose(policy, surrogate, ListSpace(listed), data, q=5, problem=problem, seed=seed)
        return hypervolume(-np.concatenate([seen, both[[place[p.candidate.id] for p in made]]]), corner)

    before, chance = hypervolume(-seen, corner), max(reached(Random(), seed) for seed in range(5))
    assert reached(policy, 0) > max(chance, 1.05 * before)


@pytest.mark.parametrize("policy", LEARNING, ids=label)
def test_constraints_are_respected(policy: Policy) -> None:
    """Where half of the pool violates a constraint that the surrogate knows well, all picks lie in the other half."""
    problem = Problem((ENERGY,), (Constraint("x_measured", "dimensionless", high=0.4),))
    listed = grid()
    known = listed[::4]
    values = np.stack([energy(known), [float(c.parameters["x"]) for c in known]], axis=1)
    data = dataset(known, values, problem)
    surrogate = Bayesian(length=0.6)
    surrogate.fit(data, problem, 0)
    made = choose(policy, surrogate, ListSpace(listed), data, q=5, problem=problem)
    assert all(float(p.candidate.parameters["x"]) <= 0.45 for p in made)


@pytest.mark.parametrize("policy", LEARNING, ids=label)
def test_a_target_is_approached_from_both_sides(policy: Policy) -> None:
    """With goal: target the picks are predicted near the target, neither smallest nor largest."""
    problem = Problem((Objective("energy", "eV", "target", target=0.2),))
    surrogate, space, data = ready(problem, measured=40)
    made = choose(policy, surrogate, space, data, problem=problem, q=4)
    distance = np.abs(energy([p.candidate for p in made]) - 0.2)
    assert np.median(np.abs(energy(space.listed) - 0.2)) > 0.1
    assert np.median(distance) < 0.05
    assert distance.min() < 0.02


def test_a_policy_that_needs_a_surrogate_says_so() -> None:
    """No surrogate where one is needed is an error that names the key to add."""
    _, space, data = ready()
    with pytest.raises(IncompatibleError, match="surrogate"):
        choose(Greedy(), None, space, data)


def test_every_policy_comes_through_the_plugin_door() -> None:
    """The entry points load, keep the contract, and refuse options that do not exist; extras say how to get them."""
    needed = {"level_set": {"level": 1.0}}
    for name in plugins.available("acquisition"):
        try:
            policy = plugins.build("acquisition", name, needed.get(name, {}))
        except plugins.PluginError as error:
            assert f"pip install 'matloop[{name}]'" in str(error)  # noqa: PT017  an extra that is not installed here
            continue
        assert isinstance(policy, AcquisitionPolicy)
        assert policy.name == name
        with pytest.raises(plugins.PluginError, match="shortlst"):
            plugins.build("acquisition", name, {"shortlst": 3})


# --- expected improvement ---------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    st.floats(-5, 5),
    st.floats(0.01, 3),
    st.floats(-5, 5),
)
def test_log_expected_improvement_is_the_closed_form(mean: float, sd: float, best: float) -> None:
    """Where the plain formula keeps its digits, the logarithm agrees with it."""
    z = (mean - best) / sd
    plain = sd * (z * norm.cdf(z) + norm.pdf(z))
    value = log_expected_improvement(np.array([mean]), np.array([sd]), best)[0]
    assert math.isfinite(value)
    if z > -5:
        assert value == pytest.approx(math.log(plain), rel=1e-6, abs=1e-8)


def test_log_expected_improvement_falls_steadily_where_the_plain_formula_is_zero() -> None:
    """From -1e6 to 5 standard deviations the value is finite and increasing: no jump between the branches."""
    z = np.concatenate([-np.logspace(6, 0, 400), np.linspace(-0.999, 5, 100)])
    value = log_expected_improvement(z, np.ones(len(z)), 0.0)
    assert np.isfinite(value).all()
    assert (np.diff(value) > 0).all()
    certain = log_expected_improvement(np.array([2.0, -1.0]), np.zeros(2), 1.0)
    assert certain[0] == pytest.approx(0.0)
    assert certain[1] < -600


def test_expected_improvement_towards_a_target_agrees_with_sampling() -> None:
    """The tent formula equals the mean over many draws."""
    objective = Objective("gap", "eV", "target", target=1.5)
    z = np.random.default_rng(0).normal(size=400_000)
    for mean, sd, best in [(1.2, 0.3, -0.4), (3.0, 0.8, -0.2), (1.5, 0.05, -1.0)]:
        sampled = np.maximum(objective.utility(mean + sd * z) - best, 0).mean()
        value = expected_improvement(objective, np.array([mean]), np.array([sd]), best)[0]
        assert value == pytest.approx(sampled, rel=0.02)


def test_probability_of_being_feasible() -> None:
    """One- and two-sided bounds agree with the normal distribution, also far out."""
    mean, sd = np.array([0.0, 2.0, 30.0]), np.array([1.0, 0.5, 1.0])
    between = log_probability_feasible(Constraint("p", "eV", -1.0, 1.5), mean, sd)
    expected = np.log(norm.cdf((1.5 - mean[:2]) / sd[:2]) - norm.cdf((-1.0 - mean[:2]) / sd[:2]))
    assert between[:2] == pytest.approx(expected)
    assert between[2] == pytest.approx(norm.logcdf(1.5 - 30.0), rel=1e-3)
    assert log_probability_feasible(Constraint("p", "eV", low=1.0), mean, sd)[1] == pytest.approx(norm.logcdf(2.0))
    assert log_probability_feasible(Constraint("p", "eV", high=1.0), mean, sd)[1] == pytest.approx(norm.logcdf(-2.0))


@pytest.mark.parametrize(("good", "place"), [(0.0, 0), (0.4, 1), (0.6, 2)])
@pytest.mark.parametrize("q", [1, 2])
def test_the_first_pick_has_the_largest_expected_improvement(good: float, place: int, q: int) -> None:
    """On a posterior known in closed form the score is the analytic one over the poorest of the good, drawn or not."""
    surrogate, space, data = ready(measured=5)
    policy = LogExpectedImprovement(ImprovementOptions(draws=8192, good=good))
    made = choose(policy, surrogate, space, data, q=q)[0]
    known = {row.candidate.id for row in data.rows}
    left = sorted((c for c in space.listed if c.id not in known), key=lambda c: c.id)
    predicted = surrogate.predict(left)
    reached = np.sort(surrogate.predict([row.candidate for row in data.rows]).mean[:, 0])[place]
    score = log_expected_improvement(-predicted.mean[:, 0], predicted.epistemic[:, 0], -reached)
    assert made.score == pytest.approx(float(score.max()), abs=1e-6 if q == 1 else 0.1)
    assert score[[c.id for c in left].index(made.candidate.id)] > score.max() - 0.1


def test_pending_candidates_lower_the_gain_near_them() -> None:
    """The same point is worth less when a neighbour is in flight, and the batch goes elsewhere."""
    surrogate, space, data = ready(measured=5)
    policy = LogExpectedImprovement(ImprovementOptions(draws=2048))
    alone = choose(policy, surrogate, space, data, q=1)[0]
    spot = alone.candidate.parameters
    neighbour = point(float(spot["x"]) + 0.01, float(spot["y"]) + 0.01)
    then = choose(policy, surrogate, space, data, q=81, pending=[neighbour])
    again = next(p for p in then if p.candidate.id == alone.candidate.id)
    assert alone.score is not None
    assert again.score is not None
    assert again.score < alone.score - 1.0
    assert then[0].candidate.id != alone.candidate.id


def test_a_batch_is_worth_more_together_than_the_best_alone() -> None:
    """Greedy batches on draws spread out: their joint expected improvement beats that of the q best single ones."""
    surrogate, space, data = ready(measured=5)
    policy = LogExpectedImprovement(ImprovementOptions(draws=1024))
    made = [p.candidate for p in choose(policy, surrogate, space, data, q=5)]
    known = {row.candidate.id for row in data.rows}
    left = [c for c in space.listed if c.id not in known]
    predicted = surrogate.predict(left)
    reached = surrogate.predict([row.candidate for row in data.rows]).mean[:, 0].min()
    score = log_expected_improvement(-predicted.mean[:, 0], predicted.epistemic[:, 0], -reached)
    alone = [left[i] for i in np.argsort(-score)[:5]]

    def together(batch: Sequence[Candidate]) -> float:
        return float(np.maximum(reached - surrogate.draw(batch, 4000, 99)[..., 0].min(axis=1), 0).mean())

    assert together(made) > 1.02 * together(alone)


def test_confidence_bounds_shrink_by_what_pending_candidates_will_tell() -> None:
    """Beside a pending candidate the bound falls to about the mean; elsewhere it stays, and the batch goes there."""
    surrogate, space, data = ready(measured=3)
    policy = UpperConfidenceBound(ConfidenceOptions(beta=5.0, draws=1024))
    alone = choose(policy, surrogate, space, data, q=1)[0]
    spot = alone.candidate.parameters
    pending = point(float(spot["x"]) - 0.005, float(spot["y"]) - 0.005)
    then = choose(policy, surrogate, space, data, q=78, pending=[pending])
    again = next(p for p in then if p.candidate.id == alone.candidate.id)
    predicted = surrogate.predict([alone.candidate])
    assert alone.score == pytest.approx(float(-predicted.mean[0, 0] + 5 * predicted.epistemic[0, 0]))
    assert again.score == pytest.approx(float(-predicted.mean[0, 0]), abs=0.3 * 5 * float(predicted.epistemic[0, 0]))
    assert then[0].candidate.id != alone.candidate.id
    assert then[0].score is not None
    assert alone.score is not None
    assert then[0].score > alone.score - 0.5


def test_noise_does_not_make_a_lucky_measurement_the_bar() -> None:
    """The incumbent is the best of each drawn function, not the best noisy reading."""
    listed = [point(x) for x in np.linspace(0, 1, 21)]
    known = [listed[0], listed[0], listed[0], listed[10], listed[20]]
    rows = [
        Row(i + 1, c, {}, "energy", value, None, Outcome.MEASURED, measurement=i + 1)
        for i, (c, value) in enumerate(zip(known, [0.0, 0.1, -3.0, 0.05, 0.0], strict=True))
    ]
    data = Dataset(tuple(rows))
    surrogate = Bayesian(noise=1.0)
    surrogate.fit(data, MINIMIZE, 0)
    situation = Situation(surrogate, ListSpace(listed), 1, MINIMIZE, data, (), frozenset())
    drawn = draw(situation, [listed[5]], 512)
    assert len(situation.labels()) == 3
    assert float(-drawn.front.best.mean()) > -2.5


# --- hypervolume ------------------------------------------------------------------------------------------------------


def test_hypervolume_of_known_shapes() -> None:
    """A box, an L-shape and a three-dimensional corner have the volumes of geometry."""
    assert hypervolume(np.array([[2.0, 3.0]]), np.zeros(2)) == pytest.approx(6.0)
    assert hypervolume(np.array([[2.0, 1.0], [1.0, 2.0]]), np.zeros(2)) == pytest.approx(3.0)
    assert hypervolume(np.array([[1.0, 1.0, 1.0], [2.0, 0.5, 0.5]]), np.zeros(3)) == pytest.approx(1.25)
    assert hypervolume(np.zeros((0, 2)), np.zeros(2)) == 0.0


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 3), st.integers(0, 6), st.integers(0, 2**31))
def test_hypervolume_gain_is_the_difference_of_volumes(k: int, n: int, seed: int) -> None:
    """For random fronts, the gain of a point is the volume with it minus the volume without."""
    rng = np.random.default_rng(seed)
    points, new, corner = rng.uniform(-0.2, 1, (n, k)), rng.uniform(-0.2, 1, (5, k)), np.zeros(k)
    front = points[(points > 0).all(axis=1)]
    gains = hypervolume_gains(front, new, corner)
    for i in range(5):
        inside = new[i : i + 1] if (new[i] > 0).all() else np.zeros((0, k))
        grown = hypervolume(np.concatenate([front, inside]), corner) - hypervolume(front, corner)
        assert gains[i] == pytest.approx(grown, abs=1e-9)


def test_the_reference_point_lies_below_the_front() -> None:
    """Every point of the front dominates the inferred corner, also where the front is one point."""
    for points in (
        np.array([[0.0, 1.0], [1.0, 0.0], [-5.0, -5.0]]),
        np.array([[2.0, 2.0]]),
        np.array([[3.0, 1.0]] * 2),
    ):
        corner = reference_point(points)
        front = points[:1] if len({tuple(p) for p in points}) == 1 else points[:2]
        assert (front > corner).all()


# --- designs ----------------------------------------------------------------------------------------------------------


def test_diverse_spreads_further_than_random() -> None:
    """The smallest distance within a diverse batch is larger than within random ones."""
    _, space, data = ready()

    def apart(policy: Policy, seed: int) -> float:
        made = [p.candidate.parameters for p in choose(policy, None, space, data, q=8, seed=seed)]
        xy = np.array([[p["x"], p["y"]] for p in made], dtype=float)
        distances = np.linalg.norm(xy[:, None] - xy[None], axis=-1)
        return float(distances[np.triu_indices(8, 1)].min())

    assert min(apart(Diverse(), s) for s in range(5)) > max(apart(Random(), s) for s in range(5))


def test_designs_depend_on_the_seed_alone() -> None:
    """Another seed gives another design; the same gives the same."""
    space = ListSpace(grid())
    for policy in (Random(), Diverse()):
        one, two, three = (
            [p.candidate.id for p in choose(policy, None, space, Dataset(), q=5, seed=s)] for s in (1, 1, 2)
        )
        assert one == two
        assert one != three


def test_diverse_reads_formulas() -> None:
    """Compositions are told apart by their elements: brackets, decimals and repeated symbols are understood."""
    made = Candidate.make(label="a", composition="Ba(NO3)2")
    assert fractions(made) == pytest.approx({"Ba": 1 / 9, "N": 2 / 9, "O": 6 / 9})
    assert fractions(Candidate.make(label="b", composition="Fe0.5Ni0.5O")) == pytest.approx(
        {"Fe": 0.25, "Ni": 0.25, "O": 0.5}
    )
    formulas = ["BaTiO3", "BaZrO3", "SrTiO3", "CsPbI3", "CsPbBr3"]
    space = ListSpace([Candidate.make(label=f, composition=f) for f in formulas])
    for seed in range(4):
        first, second = choose(Diverse(), None, space, Dataset(), q=2, seed=seed)
        assert first.candidate.label.endswith("I3") + first.candidate.label.endswith("Br3") != (
            second.candidate.label.endswith("I3") + second.candidate.label.endswith("Br3")
        )


# --- the summary ------------------------------------------------------------------------------------------------------


def summary_of(policy: Policy, surrogate: Bayesian | None, space: ListSpace, data: Dataset, **more: Any) -> Any:
    """Call `summary` with the rest filled in."""
    rest = {"problem": MINIMIZE, "pending": (), "closed": frozenset(), "costs": {}, "seed": 4} | more
    return policy.summary(surrogate, space, dataset=data, **rest)


def test_the_summary_tells_a_finished_campaign_from_a_young_one() -> None:
    """With the optimum measured and the function known the probability is near 1 and the gain near 0."""
    surrogate, space, data = ready(measured=4)
    young = summary_of(LogExpectedImprovement(), surrogate, space, data)
    assert young.best == pytest.approx(float(energy([r.candidate for r in data.rows]).min()))
    assert young.open_candidates == 77
    assert young.probability_best < 0.3
    assert young.expected_gain > 0.01
    place = int(np.argmin(energy(space.listed)))
    known = [space.listed[place], *[c for i, c in enumerate(space.listed) if i != place and i % 2 == 0]]
    full = dataset(known, energy(known))
    surrogate.fit(full, MINIMIZE, 0)
    done = summary_of(LogExpectedImprovement(), surrogate, space, full)
    assert done.best == pytest.approx(0.0, abs=1e-9)
    assert done.probability_best > 0.9
    assert done.expected_gain < 0.005
    generous = LogExpectedImprovement(ImprovementOptions(epsilon=5.0))
    assert summary_of(generous, surrogate, space, full).probability_best == 1.0


def test_the_summary_of_designs_and_of_no_data() -> None:
    """Designs know the best and the number left; without data there is no best."""
    _, space, data = ready()
    plain = summary_of(Random(), None, space, data, pending=(space.listed[0],))
    known = {row.candidate.id for row in data.rows} | {space.listed[0].id}
    assert plain.open_candidates == len({c.id for c in space.listed} - known)
    assert plain.probability_best is None
    assert summary_of(Diverse(), None, space, Dataset()).best is None
    constrained = Problem((ENERGY,), (Constraint("energy", "eV", low=10.0),))
    assert summary_of(Random(), None, space, data, problem=constrained).best is None


def test_the_summary_survives_numbers_that_are_not_finite() -> None:
    """A NaN from the surrogate leaves the probability open instead of inventing one."""
    surrogate, space, data = ready()
    made = summary_of(Greedy(), replace(surrogate, poison=math.nan), space, data)
    assert made.probability_best is None
    assert made.best is not None
