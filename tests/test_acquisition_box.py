"""Acquisition on a box of process parameters: gradients, linear constraints, rounding, discrete axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from orchestrator.abilities import BotorchView
from orchestrator.acquisition.confidence import ConfidenceOptions, UpperConfidenceBound
from orchestrator.acquisition.designs import Diverse, Random
from orchestrator.acquisition.encoding import Encoding
from orchestrator.acquisition.greedy import Greedy, GreedyOptions
from orchestrator.acquisition.improvement import ImprovementOptions, LogExpectedImprovement
from orchestrator.acquisition.policy import Policy
from orchestrator.acquisition.thompson import Thompson, ThompsonOptions
from orchestrator.domain import Array, Candidate, Constraint, Dataset, Objective, Outcome, Problem, Proposal, Row
from orchestrator.spaces.box import Box
from orchestrator.surrogates.gaussian_process import GaussianProcess, GaussianProcessOptions

MAXIMIZE = Problem((Objective("yield", "percent", "maximize"),))
QUICK = LogExpectedImprovement(ImprovementOptions(samples=64, restarts=2, draws=32))
POLICIES: list[Policy] = [
    QUICK,
    Greedy(GreedyOptions(samples=128)),
    UpperConfidenceBound(ConfidenceOptions(samples=128, draws=64)),
    Thompson(ThompsonOptions(samples=128)),
    Random(),
    Diverse(),
]


def box(parameters: dict[str, Any], constraints: Sequence[dict[str, Any]] = ()) -> Box:
    """Build a box from what a campaign file would say."""
    return Box(Box.Options.model_validate({"parameters": parameters, "constraints": list(constraints)}))


MIXED = box(
    {
        "temperature": {"unit": "kelvin", "min": 300, "max": 500, "resolution": 5},
        "pressure": {"unit": "Pa", "min": 1, "max": 1000, "log": True},
        "cycles": {"kind": "integer", "min": 1, "max": 9},
        "solvent": {"choices": ["water", "ethanol", "toluene"]},
    },
    [{"sum": {"temperature": 0.01, "cycles": 1}, "at_most": 11}],
)
MIXTURE = box(
    {name: {"min": 0, "max": 1, "resolution": 0.05} for name in ("a", "b", "c")},
    [{"sum": {"a": 1, "b": 1, "c": 1}, "equals": 1}],
)
SQUARE = box({"x": {"min": 0, "max": 1}, "y": {"min": 0, "max": 1}})


def truth(candidate: Candidate) -> float:
    """Return a yield whose best settings are known: 400 K, 50 Pa, 6 cycles, ethanol; or a mixture of 0.5/0.3/0.2."""
    p = candidate.parameters
    if "a" in p:
        return -sum((float(p[k]) - v) ** 2 for k, v in (("a", 0.5), ("b", 0.3), ("c", 0.2)))
    if "x" in p:
        return -((float(p["x"]) - 0.3) ** 2) - (float(p["y"]) - 0.8) ** 2
    off = ((float(p["temperature"]) - 400) / 100) ** 2 + (np.log10(float(p["pressure"]) / 50)) ** 2
    return float(-off - ((float(p["cycles"]) - 6) / 5) ** 2 - (p["solvent"] != "ethanol"))


def measured(space: Box, n: int, problem: Problem = MAXIMIZE, seed: int = 0) -> Dataset:
    """Measure sampled points; a second property is the first axis."""
    rows = []
    for i, candidate in enumerate(space.sample(n, seed), start=1):
        values = (truth(candidate), float(next(iter(candidate.parameters.values()))))
        for j, name in enumerate(problem.properties):
            rows.append(Row(i, candidate, {}, name, values[j], None, Outcome.MEASURED, measurement=10 * i + j))
    return Dataset(tuple(rows))


def trained(data: Dataset, problem: Problem = MAXIMIZE) -> GaussianProcess:
    """Train the shipped Gaussian process."""
    logs = tuple(axis for axis in data.rows[0].candidate.parameters if axis == "pressure")
    surrogate = GaussianProcess(GaussianProcessOptions(log=logs))
    surrogate.fit(data, problem, 0)
    surrogate.update(data)
    return surrogate


def choose(
    policy: Policy,
    space: Box,
    data: Dataset,
    surrogate: Any,
    *,
    q: int = 3,
    problem: Problem = MAXIMIZE,
    pending: Sequence[Candidate] = (),
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
        closed=frozenset(row.candidate.id for row in data.rows),
        costs={},
        seed=seed,
    )


@pytest.mark.parametrize("space", [MIXED, MIXTURE], ids=["mixed", "mixture"])
@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.name)
def test_proposals_are_points_of_the_space(policy: Policy, space: Box) -> None:
    """Different, new, rounded and feasible: making each point again gives the same candidate."""
    data = measured(space, 12)
    surrogate = trained(data) if policy.needs() else None
    made = choose(policy, space, data, surrogate, q=3)
    ids = {p.candidate.id for p in made}
    assert len(ids) == 3
    assert not ids & {row.candidate.id for row in data.rows}
    for proposal in made:
        assert space.make(proposal.candidate.parameters).id == proposal.candidate.id
    again = choose(policy, space, data, surrogate, q=3)
    assert [p.candidate.id for p in made] == [p.candidate.id for p in again]


@pytest.mark.parametrize("space", [MIXED, MIXTURE, SQUARE], ids=["mixed", "mixture", "square"])
def test_a_short_campaign_comes_near_the_best_settings(space: Box) -> None:
    """From 8 random points, 3 rounds of 3 beat 9 further random points by far."""
    data = measured(space, 8)
    for _ in range(3):
        surrogate = trained(data)
        rows = list(data.rows)
        for proposal in choose(QUICK, space, data, surrogate, q=3):
            trial = len(rows) + 1
            value = truth(proposal.candidate)
            rows.append(Row(trial, proposal.candidate, {}, "yield", value, None, Outcome.MEASURED, measurement=trial))
        data = Dataset(tuple(rows))
    reached = max(row.value for row in data.rows if row.value is not None)
    chance = np.median([max(truth(c) for c in space.sample(17, seed)) for seed in range(20)])
    assert reached > 0.6 * float(chance)  # both are negative: 0 is the best there is


def test_gradients_beat_the_samples_they_start_from() -> None:
    """With few samples the polished point is not one of them, and scores at least as high."""
    data = measured(SQUARE, 8)
    made = choose(QUICK, SQUARE, data, trained(data), q=1)[0]
    assert made.details["polished"] is True


def test_pending_points_push_the_next_one_away() -> None:
    """The point that would be chosen alone is not chosen beside itself in flight."""
    data = measured(SQUARE, 8)
    surrogate = trained(data)
    alone = choose(QUICK, SQUARE, data, surrogate, q=1)[0]
    then = choose(QUICK, SQUARE, data, surrogate, q=1, pending=[alone.candidate])[0]
    assert _distance(alone.candidate, then.candidate) > 0.02
    assert alone.score is not None
    assert then.score is not None
    assert then.score < alone.score


def test_constraints_on_results_and_two_objectives() -> None:
    """A measured bound moves the choice to where it holds; two objectives give a batch on both sides."""
    bounded = Problem((MAXIMIZE.objectives[0],), (Constraint("first", "dimensionless", low=0.6),))
    data = measured(SQUARE, 14, bounded)
    made = choose(QUICK, SQUARE, data, trained(data, bounded), problem=bounded, q=2)
    assert all(float(p.candidate.parameters["x"]) > 0.55 for p in made)
    two = Problem((MAXIMIZE.objectives[0], Objective("first", "dimensionless", "maximize")))
    data = measured(SQUARE, 14, two)
    made = choose(QUICK, SQUARE, data, trained(data, two), problem=two, q=3)
    x = [float(p.candidate.parameters["x"]) for p in made]
    assert max(x) > 0.6
    assert all(xi > 0.25 for xi in x)


def test_a_target_inside_the_box() -> None:
    """With goal: target the chosen points are predicted near the target."""
    problem = Problem((Objective("yield", "percent", "target", target=-0.2),))
    data = measured(SQUARE, 16, problem)
    made = choose(QUICK, SQUARE, data, trained(data, problem), problem=problem, q=1)
    assert abs(truth(made[0].candidate) + 0.2) < 0.03


def test_an_exhausted_grid_gives_what_is_left() -> None:
    """On a grid of nine points with seven measured, two proposals come back."""
    tiny = box({name: {"min": 0, "max": 1, "resolution": 0.5} for name in ("x", "y")})
    everything = tiny.sample(9, 0)
    assert len(everything) == 9
    rows = [
        Row(i, c, {}, "yield", truth(c), None, Outcome.MEASURED, measurement=i)
        for i, c in enumerate(everything[:7], start=1)
    ]
    data = Dataset(tuple(rows))
    made = choose(QUICK, tiny, data, trained(data), q=5)
    assert {p.candidate.id for p in made} == {c.id for c in everything[7:]}


class _Encoder:
    """Stands in for a surrogate's botorch view."""

    def __init__(self, twist: float) -> None:
        self.twist = twist

    def __call__(self, candidates: Sequence[Candidate]) -> Array:
        rows = []
        for c in candidates:
            p = c.parameters
            solvent = [float(p["solvent"] == name) for name in ("ethanol", "toluene", "water")]
            pressure = np.log10(float(p["pressure"]))
            twisted = self.twist * float(p["temperature"]) * float(p["cycles"])
            rows.append([float(p["cycles"]), pressure, float(p["temperature"]) - 400 + twisted, *solvent])
        return np.array(rows)


def test_the_encoding_of_a_surrogate_is_found_by_asking() -> None:
    """Shifted, logarithmic and one-hot columns are found exactly; products of parameters are recognised as unknown."""
    points = MIXED.sample(40, 3)
    view = BotorchView(model=None, encode=_Encoder(0.0), differentiable=())
    found = Encoding.find(MIXED.axes(), view, points[:10])
    assert found is not None
    torch = pytest.importorskip("torch")
    mapped = found(torch.from_numpy(found.coordinates(points))).numpy()
    assert mapped == pytest.approx(_Encoder(0.0)(points), abs=1e-9)
    back = [MIXED.make(found.values(row)).id for row in found.coordinates(points)]
    assert back == [c.id for c in points]
    twisted = BotorchView(model=None, encode=_Encoder(0.3), differentiable=())
    assert Encoding.find(MIXED.axes(), twisted, points[:10]) is None


def test_the_summary_of_a_box_has_no_count() -> None:
    """A continuous space cannot be counted; probability and gain come from sampled points."""
    data = measured(SQUARE, 8)
    made = QUICK.summary(
        trained(data), SQUARE, problem=MAXIMIZE, dataset=data, pending=(), closed=frozenset(), costs={}, seed=0
    )
    assert made.open_candidates is None
    assert made.probability_best is not None
    assert made.expected_gain is not None
    assert made.expected_gain > 0


def _distance(one: Candidate, two: Candidate) -> float:
    return float(np.hypot(*(float(one.parameters[k]) - float(two.parameters[k]) for k in ("x", "y"))))
