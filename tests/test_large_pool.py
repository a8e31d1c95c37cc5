"""Choosing from a large pool: from arrays, a few thousand candidates, as good as looking at every one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator import kept
from orchestrator.abilities import PoolScores, ScoresPool
from orchestrator.acquisition import large_pool, pool_scores
from orchestrator.acquisition.confidence import UpperConfidenceBound
from orchestrator.acquisition.designs import Diverse, Random
from orchestrator.acquisition.greedy import Greedy
from orchestrator.acquisition.improvement import LogExpectedImprovement
from orchestrator.acquisition.large_pool import greedy_on_members, shortlist
from orchestrator.acquisition.listing import is_open, listing
from orchestrator.acquisition.pool_scores import forget
from orchestrator.acquisition.situation import Situation
from orchestrator.acquisition.thompson import Thompson
from orchestrator.domain import (
    Array,
    Budget,
    Candidate,
    Constraint,
    Dataset,
    Objective,
    Outcome,
    Prediction,
    Problem,
    Row,
)
from orchestrator.spaces.columns import Columns
from tests.fakes import ListSpace
from tests.test_surrogate_contract import CRYSTALS, build, dataset_of
from tests.test_surrogate_contract import PROBLEM as CONTRACT_PROBLEM

N = 3000
PROBLEM = Problem((Objective("y", "eV", "maximize"),), budget=Budget(trials=9))


@pytest.fixture(autouse=True)
def small_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a pool of three thousand a large one, and keep what is written out of the user's cache folder."""
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda _name: str(tmp_path / "cache"))
    monkeypatch.setattr(large_pool, "LARGE", 1000)
    monkeypatch.setattr(large_pool, "SHORTLIST", 400)
    monkeypatch.setattr(large_pool, "BLOCK", 700)
    forget()


def pool(folder: Path, *, compositions: bool = False, order: int | None = None) -> Columns:
    """Return points of a square, of three chemical systems if wanted."""
    rng = np.random.default_rng(0)
    a, b = rng.random((2, N))
    made = {"a": a, "b": b, "formula": np.array(["BaTiO3", "SrTiO3", "NaCl"])[(a + b < 1.7).astype(int) + (a + b < 1)]}
    rows = np.arange(N) if order is None else np.random.default_rng(order).permutation(N)
    path = folder / f"pool{order}.npz"
    np.savez(path, **{name: column[rows] for name, column in made.items()})
    options: dict[str, Any] = {"path": path, "parameters": {"a": {}, "b": {}}}
    return Columns(Columns.Options(**options, composition_column="formula" if compositions else None))


class Bump:
    """A surrogate that is sure of nothing: y = a + b, with a standard deviation of b; its draws shift and tilt that."""

    def __init__(self) -> None:
        self.asked = 0
        self.bad = frozenset[str]()
        self.updates: list[Dataset] = []

    def supports(self) -> frozenset[str]:
        return frozenset({"parameters", "uncertainty", "draws"})

    def predict(self, candidates: Sequence[Candidate]) -> Prediction:
        self.asked += len(candidates)
        mean = np.array([[float(c.parameters["a"]) + float(c.parameters["b"])] for c in candidates]).reshape(-1, 1)
        sd = np.array([[float(c.parameters["b"])] for c in candidates]).reshape(-1, 1)
        wrong = np.array([c.id in self.bad for c in candidates], dtype=bool)
        return Prediction(np.where(wrong[:, None], np.nan, mean), sd, np.full_like(mean, 0.1))

    def update(self, dataset: Dataset) -> None:
        self.updates.append(dataset)

    def draw(self, candidates: Sequence[Candidate], s: int, seed: int) -> Array:
        shift = np.random.default_rng(seed).standard_normal((s, 1, 1))
        said = self.predict(candidates)
        return said.mean[None] + shift * said.epistemic[None]


class Members(Bump):
    """The same with two members, scored from arrays."""

    def score_pool(self, space: Any, start: int, stop: int) -> PoolScores:
        features, names = space.features()
        assert names[:2] == ("a", "b")
        a, b = np.asarray(features[start:stop, 0]), np.asarray(features[start:stop, 1])
        members = np.stack([a + 2 * b, a])[..., None]
        return PoolScores((a + b)[:, None], b[:, None], members)


def known(space: Columns, count: int = 5) -> Dataset:
    """Return some measured points with small values."""
    rows = [
        Row(i + 1, candidate, candidate.parameters, "y", 0.3, None, Outcome.MEASURED)
        for i, candidate in enumerate(sorted(space.candidates(), key=lambda c: float(c.parameters["a"]))[:count])
    ]
    return Dataset(tuple(rows))


def situation(space: Columns, surrogate: Any, problem: Problem = PROBLEM, **more: Any) -> Situation:
    """Return a situation in which five points are measured and closed."""
    dataset = more.pop("dataset", known(space))
    closed = frozenset(row.candidate.id for row in dataset.rows) | more.pop("closed", frozenset())
    return Situation(surrogate, space, 4, problem, dataset, (), closed, seed=3, **more)


def asked(policy: Any, space: Columns, surrogate: Any, problem: Problem = PROBLEM, **more: Any) -> list[Candidate]:
    """Return what a policy proposes."""
    arguments: dict[str, Any] = {"pending": (), "closed": frozenset(), "costs": {}, "seed": 11, "q": 4} | more
    chosen = policy.select(surrogate, space, problem=problem, dataset=known(space), **arguments)
    return [proposal.candidate for proposal in chosen]


def test_shortlist_holds_the_best_of_every_question(tmp_path: Path) -> None:
    """The best means, bounds and doubts are all there, and so is chance; nothing closed, nothing twice."""
    space = pool(tmp_path)
    best = max(space.candidates(), key=lambda c: float(c.parameters["a"]) + float(c.parameters["b"]))
    now = situation(space, Bump(), closed=frozenset({best.id, "no id of this pool"}))
    found = shortlist(now)
    ids = [candidate.id for candidate in found]
    assert len(found) == 400
    assert ids == sorted(set(ids))
    assert not set(ids) & now.closed
    a, b = (np.array([float(c.parameters[name]) for c in space.candidates()]) for name in ("a", "b"))
    free = is_open(listing(space), now.closed)
    for rank in (a + b, a + 3 * b, b):
        first = np.argsort(np.where(free, -rank, np.inf))[:30]
        assert {space.candidates()[int(i)].id for i in first} <= set(ids)
    assert sum(float(c.parameters["a"]) + float(c.parameters["b"]) < 0.8 for c in found) > 10  # nobody asked for them


def test_order_of_the_file_does_not_change_a_batch(tmp_path: Path) -> None:
    """Same seed, same batch, whatever the order of the rows; another seed changes only what chance decides."""
    policies = [LogExpectedImprovement(), UpperConfidenceBound(), Greedy(), Thompson(), Random(), Diverse()]
    for policy in policies:
        spaces = [pool(tmp_path, order=order) for order in (None, 1, 2)]
        batches = [[candidate.id for candidate in asked(policy, space, Bump())] for space in spaces]
        assert batches[0] == batches[1] == batches[2], policy.name
        assert len(set(batches[0])) == 4


@pytest.mark.parametrize("policy", [LogExpectedImprovement(), Greedy(), UpperConfidenceBound()])
def test_choice_is_the_one_among_all(tmp_path: Path, policy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first proposal from the shortlist is that of looking at every candidate."""
    space = pool(tmp_path)
    few = asked(policy, space, Bump(), q=1)
    monkeypatch.setattr(large_pool, "LARGE", 10 * N)
    assert asked(policy, space, Bump(), q=1) == few


def test_a_pool_is_scored_once_in_a_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asking again in the same state costs the shortlist only, in this process and, above a size, in another one."""
    space, surrogate = pool(tmp_path), Bump()
    shortlist(situation(space, surrogate))
    first, surrogate.asked = surrogate.asked, 0
    shortlist(situation(space, surrogate))
    assert first > N
    assert surrogate.asked < 100
    forget()
    monkeypatch.setattr(pool_scores, "MAPPED", 10)
    for _ in range(2):
        surrogate.asked = 0
        shortlist(situation(space, surrogate))
        forget()
    assert surrogate.asked < 100
    assert len(list(kept.folder("scores").glob("*.npy"))) == 1


def test_a_very_large_pool_is_scored_after_every_eighth_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between, the scores of the last eight serve; the surrogate is left with all that is known."""
    monkeypatch.setattr(pool_scores, "RARELY", 1000)
    space, surrogate = pool(tmp_path), Bump()
    asked, brought = [], []
    for count in (7, 8, 9, 15, 16):
        surrogate.asked, surrogate.updates = 0, []
        now = situation(space, surrogate, dataset=known(space, count))
        shortlist(now)
        asked.append(surrogate.asked > N)
        brought.append([len(dataset.trials) for dataset in surrogate.updates])
        first = shortlist(now)
        forget()
        again = shortlist(situation(pool(tmp_path), Bump(), dataset=known(space, count)))
        assert [c.id for c in first] == [c.id for c in again]
        monkeypatch.setattr(pool_scores, "MAPPED", 10)
    assert asked == [True, True, False, False, True]
    assert brought == [[], [], [8, 9], [8, 15], []]


def test_members_are_asked_from_arrays(tmp_path: Path) -> None:
    """A surrogate that scores pools itself makes no candidates for it, and its members' favourites are listed."""
    space, surrogate = pool(tmp_path), Members()
    ids = {candidate.id for candidate in shortlist(situation(space, surrogate))}
    assert surrogate.asked < 100
    favourite = max(space.candidates(), key=lambda c: float(c.parameters["a"]))
    assert favourite.id in ids


def test_greedy_on_members_adds_what_is_new() -> None:
    """The second pick is the one that the member sees whom the first pick did not serve; closed ones stay out."""
    members = np.array([[0.0, 5.0, 4.9, 0.0], [0.0, 0.0, 0.1, 3.0]], dtype=np.float32)
    free = np.ones(4, dtype=bool)
    assert greedy_on_members(members, free, 0.0, 3).tolist() == [1, 3, 2]
    free[1] = False
    assert greedy_on_members(members, free, 0.0, 9).tolist() == [2, 3, 0]


def test_one_chemical_system_does_not_fill_the_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The best are all of one system; others are listed for each question all the same."""
    space = pool(tmp_path, compositions=True)
    best = sorted(space.candidates(), key=lambda c: -float(c.parameters["a"]) - float(c.parameters["b"]))
    assert {candidate.composition for candidate in best[:100]} == {"BaTiO3"}
    good = {candidate.id for candidate in best[:400]}

    def listed() -> Counter[str | None]:
        return Counter(c.composition for c in shortlist(situation(space, Bump())) if c.id in good)

    capped = listed()
    monkeypatch.setattr(large_pool, "SYSTEM_SHARE", 1.0)
    assert capped["SrTiO3"] > 1.2 * listed()["SrTiO3"]


def test_several_objectives_and_constraints(tmp_path: Path) -> None:
    """Both ends of the front are listed; what surely violates a constraint comes last."""

    class Two(Bump):
        def predict(self, candidates: Sequence[Candidate]) -> Prediction:
            mean = np.array([[float(c.parameters[x]) for x in ("a", "b")] for c in candidates]).reshape(-1, 2)
            return Prediction(mean, np.full_like(mean, 0.01), np.full_like(mean, 0.01))

        def draw(self, candidates: Sequence[Candidate], s: int, seed: int) -> Array:
            return np.repeat(self.predict(candidates).mean[None], s, axis=0)

    space = pool(tmp_path)
    problem = Problem((Objective("y", "eV", "maximize"), Objective("z", "eV", "maximize")), budget=Budget(trials=9))
    chosen = asked(LogExpectedImprovement(), space, Two(), problem)
    sums = sorted(float(c.parameters["a"]) + float(c.parameters["b"]) for c in space.candidates())
    assert float(chosen[0].parameters["a"]) + float(chosen[0].parameters["b"]) > sums[-60]
    for name in ("a", "b"):
        edge = max(float(c.parameters[name]) for c in space.candidates())
        assert any(float(c.parameters[name]) == edge for c in shortlist(situation(space, Two(), problem)))
    bounded = Problem((Objective("y", "eV", "maximize"),), (Constraint("z", "eV", high=0.5),), budget=Budget(trials=9))
    best = asked(Greedy(), space, Two(), bounded)
    assert all(float(c.parameters["b"]) <= 0.5 for c in best)
    assert min(float(c.parameters["a"]) for c in best) > 0.98


def test_bad_scores_reach_the_fall_back(tmp_path: Path) -> None:
    """A candidate without a finite prediction refuses the batch, as in a small pool; diversity is proposed instead."""
    space, surrogate = pool(tmp_path), Bump()
    surrogate.bad = frozenset({space.candidates()[N // 2].id})
    chosen = LogExpectedImprovement().select(
        surrogate, space, q=2, problem=PROBLEM, dataset=known(space), pending=(), closed=frozenset(), costs={}, seed=1
    )
    assert all(proposal.details["fallback"] == "diverse" for proposal in chosen)


def test_exhausted_and_nearly_so(tmp_path: Path) -> None:
    """The last open candidate is found among thousands."""
    space = pool(tmp_path)
    last = space.candidates()[17]
    closed = frozenset(c.id for c in space.candidates()) - {last.id}
    assert asked(LogExpectedImprovement(), space, Bump(), closed=closed) == [last]
    summary = LogExpectedImprovement().summary(
        Bump(), space, problem=PROBLEM, dataset=known(space), pending=(), closed=closed, costs={}, seed=1
    )
    assert summary.open_candidates == 1


def test_graph_ensemble_scores_a_pool_with_its_members(monkeypatch: pytest.MonkeyPatch) -> None:
    """Means and deviations are those of `predict`; members differ, and differ about their mean; any list will do."""
    monkeypatch.setattr(large_pool, "LARGE", 5)
    surrogate = build("gnn_ensemble")
    assert isinstance(surrogate, ScoresPool)
    surrogate.fit(dataset_of(CRYSTALS), CONTRACT_PROBLEM, seed=3)
    space = ListSpace(CRYSTALS)
    scores = surrogate.score_pool(listing(space), 2, 9)
    said = surrogate.predict(sorted(CRYSTALS, key=lambda c: c.id)[2:9])
    assert scores.members is not None
    assert np.allclose(scores.mean, said.mean, atol=1e-5)
    assert np.allclose(scores.epistemic, said.epistemic, atol=1e-5)
    assert np.allclose(scores.members.mean(axis=0), said.mean, atol=1e-4)
    assert scores.members.std(axis=0).max() > 1e-3
    proposals = LogExpectedImprovement().select(
        surrogate,
        space,
        q=2,
        problem=CONTRACT_PROBLEM,
        dataset=dataset_of(CRYSTALS),
        pending=(),
        closed=frozenset(),
        costs={},
        seed=1,
    )
    assert {p.candidate.id for p in proposals} <= {c.id for c in CRYSTALS[9:]}
