"""What no policy may ever do, whatever the pool or box, the results and the campaign; Hypothesis chooses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator import plugins
from orchestrator.domain import (
    Array,
    Budget,
    Candidate,
    Constraint,
    Dataset,
    Expense,
    Expenses,
    Fidelity,
    Objective,
    Outcome,
    Prediction,
    Problem,
    Proposal,
    Row,
)
from orchestrator.errors import SpaceExhausted
from orchestrator.surrogates.forest import CompositionForest, CompositionForestOptions
from orchestrator.surrogates.gaussian_process import GaussianProcess
from tests.fakes import ListSpace

POLICIES: dict[str, tuple[str, dict[str, Any]]] = {
    "diverse": ("diverse", {}),
    "greedy": ("greedy", {}),
    "improvement": ("log_expected_improvement", {"draws": 32}),
    "improvement, capped believer": (
        "log_expected_improvement",
        {"draws": 32, "shortlist": 8, "pending": "believer", "most_per_system": 1},
    ),
    "integrated variance": ("integrated_variance", {}),
    "level set": ("level_set", {"level": 0.5}),
    "optimality": ("probability_of_optimality", {"draws": 64}),
    "pandora, pessimistic": ("pandoras_box", {"draws": 32, "pending": "pessimistic"}),
    "random": ("random", {}),
    "thompson": ("thompson", {}),
    "bound": ("upper_confidence_bound", {"draws": 32}),
    "bound, top": ("upper_confidence_bound", {"batch": "top"}),
}
"""Every built-in policy for pools, the cleverer ones in more than one way."""
UNRANKED = {"diverse", "random", "integrated variance", "level set"}
"""Policies whose scores do not come from an objective, or that need no surrogate."""
BOXED = ("diverse", "greedy", "improvement", "optimality", "pandora, pessimistic", "random", "thompson", "bound")
MANY = settings(
    max_examples=8,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
FEW = settings(MANY, max_examples=2)


@dataclass
class State:
    """A campaign at some moment.

    Args:
        listed: the pool.
        data: what is known.
        pending: in flight.
        vetoed: ids that people closed.
        q: how many are wanted.
        seed: of the decision.
        problem: what is pursued.
    """

    listed: list[Candidate]
    data: Dataset
    pending: tuple[Candidate, ...]
    vetoed: frozenset[str]
    q: int
    seed: int
    problem: Problem
    surrogate: Any = field(default=None)

    def left(self) -> set[str]:
        """Return the ids that may be proposed."""
        shut = {row.candidate.id for row in self.data.rows} | {c.id for c in self.pending} | self.vetoed
        return {c.id for c in self.listed} - shut

    def ask(self, name: str, listed: Sequence[Candidate] | None = None) -> list[Proposal]:
        """Ask a policy; an exhausted space gives an empty batch."""
        use, options = POLICIES[name]
        policy = plugins.build("acquisition", use, options)
        try:
            made = policy.select(
                self.surrogate if policy.needs() else None,
                ListSpace(self.listed if listed is None else listed),
                q=self.q,
                problem=self.problem,
                dataset=self.data,
                pending=self.pending,
                closed=self.vetoed,
                costs={},
                seed=self.seed,
            )
        except SpaceExhausted:
            return []
        return list(made)


def rows(candidates: Sequence[Candidate], values: Sequence[float], failed: Sequence[Candidate] = ()) -> Dataset:
    """Make a dataset of results and failures; a value that is no number is recorded as it came."""
    found = [
        Row(i, c, {}, "y", float(v), None, Outcome.MEASURED, measurement=i)
        for i, (c, v) in enumerate(zip(candidates, values, strict=True), 1)
    ]
    start = len(found) + 1
    found += [Row(i, c, {}, "", None, None, Outcome.FAILED, reason="broke") for i, c in enumerate(failed, start)]
    return Dataset(tuple(found))


GOALS = (
    Objective("y", "dimensionless", "maximize"),
    Objective("y", "dimensionless", "minimize"),
    Objective("y", "dimensionless", "target", target=0.3),
    Objective("y", "dimensionless", "window", window=(0.2, 0.4)),
)
PRICED = Expenses(rates={"x": Expense(cost=0.5)}, changeover={"gas": Expense(cost=2.0)})
SCALES = (1.0, 1e-9, 1e9)


def problem(objective: Objective, *, priced: bool) -> Problem:
    """Make a problem with one objective, where trials may differ in price."""
    return Problem(
        (objective,),
        fidelities=(Fidelity("target", 1.0, 0.0),),
        budget=Budget(trials=50, cost=200.0),
        expenses=PRICED if priced else Expenses(),
    )


def scaled(objective: Objective, scale: float) -> Objective:
    """Move the ends of a goal to another scale."""
    if objective.goal == "target":
        return Objective("y", "dimensionless", "target", target=0.3 * scale)
    if objective.goal == "window":
        return Objective("y", "dimensionless", "window", window=(0.2 * scale, 0.4 * scale))
    return objective


@st.composite
def states(draw: st.DrawFn, kind: str) -> State:
    """Choose a campaign over a pool of process parameters or of compositions, with all that can be in its way."""
    seed = draw(st.integers(0, 2**20))
    rng = np.random.default_rng(seed)
    size = draw(st.integers(3, 30))
    if kind == "parameters":
        grid = [(x, gas) for x in range(20) for gas in ("air", "argon")]
        chosen = [grid[i] for i in rng.permutation(len(grid))[:size]]
        listed = [Candidate.make(label=f"{x} {gas}", parameters={"x": x / 20, "gas": gas}) for x, gas in chosen]
        truth = [math.sin(5 * x / 20) + 0.2 * (gas == "air") for x, gas in chosen]
    else:
        every = [(a, b, i) for a, b in (("Cu", "Zn"), ("Ni", "Al"), ("Ti", "W"), ("Fe", "Cr")) for i in range(1, 10)]
        chosen = [every[i] for i in rng.permutation(len(every))[:size]]
        listed = [Candidate.make(label=f"{a}{i}{b}{10 - i}", composition=f"{a}{i}{b}{10 - i}") for a, b, i in chosen]
        truth = [math.sin(i) + (a == "Ti") for a, b, i in chosen]
    scale = draw(st.sampled_from(SCALES))
    values = scale * np.array(truth)
    if draw(st.booleans()):
        values = np.full(size, 0.7 * scale)  # nothing differs
    known = draw(st.integers(3, min(size, 12)))
    seen = values[:known].copy()
    if known > 3 and draw(st.booleans()):
        seen[-1] = math.nan
    rest = listed[known:]
    failed = rest[: draw(st.integers(0, 3))]
    rest = rest[len(failed) :]
    pending = tuple(rest[: draw(st.integers(0, 2))])
    vetoed = frozenset(c.id for c in rest[len(pending) : len(pending) + draw(st.integers(0, 2))])
    objective = scaled(draw(st.sampled_from(GOALS)), scale)
    data = rows(listed[:known], list(seen), failed)
    return State(
        listed=listed,
        data=data,
        pending=pending,
        vetoed=vetoed,
        q=draw(st.integers(1, 5)),
        seed=seed,
        problem=problem(objective, priced=kind == "parameters" and draw(st.booleans())),
    )


def trained(state: State, kind: str) -> State:
    """Train the cheap surrogate of the space."""
    state.surrogate = (
        GaussianProcess() if kind == "parameters" else CompositionForest(CompositionForestOptions(trees=12))
    )
    state.surrogate.fit(state.data, state.problem, 0)
    return state


@pytest.mark.parametrize("kind", ["parameters", "composition"])
@pytest.mark.parametrize("name", POLICIES)
@MANY
@given(data=st.data())
def test_only_open_candidates_are_proposed_and_always_the_same(name: str, kind: str, data: st.DataObject) -> None:
    """As many open candidates as there are, each once; a shuffled pool with repeats changes nothing."""
    state = trained(data.draw(states(kind)), kind)
    made = state.ask(name)
    ids = [p.candidate.id for p in made]
    left = state.left()
    assert len(set(ids)) == len(ids)
    assert set(ids) <= left
    assert len(ids) == min(state.q, len(left))
    for proposal in made:
        assert proposal.score is None or math.isfinite(proposal.score)
        assert proposal.reason
    shuffled = [state.listed[i] for i in np.random.default_rng(state.seed + 1).permutation(len(state.listed))]
    again = state.ask(name, [*shuffled, *shuffled[:4]])
    assert [p.candidate.id for p in again] == ids
    assert [p.score for p in again] == [p.score for p in made]


@pytest.mark.parametrize("name", sorted(set(POLICIES) - {"random"}))
def test_a_pool_of_equals_still_gives_a_batch(name: str) -> None:
    """Candidates that differ only in what nothing is learned from: a full batch, and finite scores."""
    listed = [Candidate.make(label=f"copy {i}", composition=f"Ni{i}Al{i}") for i in range(1, 3)]
    listed += [
        Candidate.make(label=f"same {i}", parameters={"x": 0.5, "gas": "air", f"spare{i}": 1.0}) for i in range(8)
    ]
    same = listed[2:]
    seen = [Candidate.make(label=f"{x}", parameters={"x": x, "gas": "air"}) for x in (0.1, 0.5, 0.9)]
    data = rows(seen, [0.1, 0.4, 0.2])
    state = State(same, data, (), frozenset(), 4, 3, problem(GOALS[0], priced=False))
    state.surrogate = Blind(GaussianProcess())
    state.surrogate.fit(data, state.problem, 0)
    made = state.ask(name)
    assert len({p.candidate.id for p in made}) == 4
    assert all(p.score is None or math.isfinite(p.score) for p in made)


class Blind:
    """A surrogate that sees nothing but x and gas of a candidate."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def seen(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        return [Candidate.make(label="seen", parameters={k: c.parameters[k] for k in ("x", "gas")}) for c in candidates]

    def supports(self) -> frozenset[Any]:
        return frozenset({"parameters", "uncertainty", "draws"})

    def fit(self, dataset: Dataset, problem: Problem, seed: int) -> Any:
        return self.inner.fit(dataset, problem, seed)

    def predict(self, candidates: Sequence[Candidate]) -> Prediction:
        found: Prediction = self.inner.predict(self.seen(candidates))
        return found

    def draw(self, candidates: Sequence[Candidate], s: int, seed: int) -> Array:
        found: Array = self.inner.draw(self.seen(candidates), s, seed)
        return found


@pytest.mark.parametrize("name", POLICIES)
def test_one_candidate_and_one_observation(name: str) -> None:
    """The one open candidate is proposed, also where the campaign knows one result only."""
    pool = [Candidate.make(label=f"{x}", parameters={"x": x / 10, "gas": "air"}) for x in range(5)]
    learned = rows(pool[:3], [0.1, 0.4, 0.2])
    surrogate = GaussianProcess()
    surrogate.fit(learned, problem(GOALS[0], priced=False), 0)
    state = State(pool[:4], learned, (), frozenset(), 3, 1, problem(GOALS[0], priced=True), surrogate)
    assert [p.candidate.id for p in state.ask(name)] == [pool[3].id]
    alone = State(pool, rows(pool[:1], [0.3]), (), frozenset(), 2, 1, problem(GOALS[0], priced=True), surrogate)
    made = alone.ask(name)
    assert len({p.candidate.id for p in made} & {c.id for c in pool[1:]}) == 2
    full = State(pool[:3], learned, (), frozenset(), 3, 1, problem(GOALS[0], priced=False), surrogate)
    assert full.ask(name) == []


class Poisoned(Blind):
    """A surrogate that gives NaN for one candidate."""

    def predict(self, candidates: Sequence[Candidate]) -> Prediction:
        found = super().predict(candidates)
        return Prediction(
            np.where(np.arange(len(found.mean))[:, None] == 0, math.nan, found.mean), found.epistemic, found.noise
        )

    def draw(self, candidates: Sequence[Candidate], s: int, seed: int) -> Array:
        found = np.array(super().draw(candidates, s, seed))
        found[:, -1] = math.inf
        return found


@pytest.mark.parametrize("name", sorted(set(POLICIES) - {"diverse", "random"}))
def test_values_that_are_not_finite_lead_to_space_filling(name: str) -> None:
    """A NaN or an infinity never ranks candidates: the batch fills the space, and reason and details say why."""
    pool = [Candidate.make(label=f"{x}", parameters={"x": x / 10, "gas": "air"}) for x in range(9)]
    data = rows(pool[:3], [0.1, 0.4, 0.2])
    surrogate = Poisoned(GaussianProcess())
    surrogate.fit(data, problem(GOALS[0], priced=False), 0)
    state = State(pool, data, (), frozenset(), 3, 1, problem(GOALS[0], priced=False), surrogate)
    made = state.ask(name)
    assert [p.candidate.id for p in made] == [p.candidate.id for p in state.ask("diverse")]
    for proposal in made:
        assert proposal.score is None
        assert proposal.details["fallback"] == "diverse"
        assert "not finite" in proposal.reason


def test_objectives_of_very_different_scale_weigh_alike() -> None:
    """Two opposite objectives at 1e-9 and 1e9 give the batch that they give at one scale each."""
    pool = [Candidate.make(label=f"{x}", parameters={"x": x / 20}) for x in range(21)]
    batches = []
    for scales in ((1.0, 1.0), (1e-9, 1e9)):
        both = Problem((Objective("a", "eV", "maximize"), Objective("b", "eV", "minimize")))
        found = []
        for i, candidate in enumerate(pool[::5], 1):
            x = float(candidate.parameters["x"])
            for j, value in enumerate((scales[0] * math.sin(3 * x), scales[1] * x**2)):
                row = Row(i, candidate, {}, "ab"[j], value, None, Outcome.MEASURED, measurement=2 * i + j)
                found.append(row)
        data = Dataset(tuple(found))
        surrogate = GaussianProcess()
        surrogate.fit(data, both, 0)
        state = State(pool, data, (), frozenset(), 3, 5, both, surrogate)
        batches.append([[p.candidate.label for p in state.ask(name)] for name in ("greedy", "improvement", "bound")])
    assert batches[0] == batches[1]


# --- boxes --------------------------------------------------------------------------------------------------------


def box() -> Any:
    """Make a mixed box with linear constraints and a resolution."""
    return plugins.build(
        "spaces",
        "box",
        {
            "parameters": {
                "a": {"min": 0, "max": 1, "resolution": 0.05},
                "b": {"min": 0, "max": 1, "resolution": 0.05},
                "n": {"kind": "integer", "min": 1, "max": 4},
                "gas": {"choices": ["air", "argon"]},
            },
            "constraints": [
                {"sum": {"a": 1, "b": 1}, "at_most": 1.2},
                {"sum": {"a": 1, "b": -1}, "at_least": -0.6},
            ],
        },
    )


@pytest.mark.parametrize("name", BOXED)
@FEW
@given(data=st.data())
def test_proposals_of_a_box_lie_inside_and_are_new(name: str, data: st.DataObject) -> None:
    """Proposals are rounded points that satisfy the constraints of the box, neither known nor in flight."""
    seed, q = data.draw(st.integers(0, 2**20)), data.draw(st.integers(1, 3))
    space = box()
    points = space.sample(12, seed)
    known, pending, vetoed = points[:8], tuple(points[8:10]), frozenset(c.id for c in points[10:])
    objective = data.draw(st.sampled_from(GOALS))
    limit = (Constraint("y", "dimensionless", high=0.9),) if data.draw(st.booleans()) else ()
    task = Problem((objective,), limit)
    results = rows(known[:7], [math.sin(4 * float(c.parameters["a"])) for c in known[:7]], known[7:])
    use, options = POLICIES[name]
    small = {"samples": 64, "restarts": 2}
    known_options = plugins.load("acquisition", use).Options.model_fields
    policy = plugins.build("acquisition", use, {**options, **{k: v for k, v in small.items() if k in known_options}})
    surrogate = GaussianProcess()
    surrogate.look_at(space)
    surrogate.fit(results, task, 0)
    batches = []
    for _ in range(2):
        made = policy.select(
            surrogate if policy.needs() else None,
            space,
            q=q,
            problem=task,
            dataset=results,
            pending=pending,
            closed=vetoed,
            costs={},
            seed=seed,
        )
        batches.append([p.candidate.id for p in made])
        assert len(set(batches[-1])) == q
        assert not set(batches[-1]) & {c.id for c in points}
        for proposal in made:
            values = proposal.candidate.parameters
            assert space.make(values).id == proposal.candidate.id
            assert float(values["a"]) + float(values["b"]) <= 1.2 + 1e-9
            assert float(values["a"]) - float(values["b"]) >= -0.6 - 1e-9
    assert batches[0] == batches[1]
