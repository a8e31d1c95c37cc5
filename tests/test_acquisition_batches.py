"""What keeps a batch apart: the cap on chemical systems, and what pending trials are taken to yield."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from orchestrator import plugins
from orchestrator.acquisition.fantasies import believed, conditioned
from orchestrator.acquisition.features import fractions
from orchestrator.domain import Candidate, Dataset, Objective, Outcome, Problem, Proposal, Row
from orchestrator.surrogates.forest import CompositionForest
from orchestrator.surrogates.gaussian_process import GaussianProcess
from tests.fakes import ListSpace

HARDNESS = Problem((Objective("hardness", "GPa", "maximize"),))
POLICIES = (
    "diverse",
    "greedy",
    "integrated_variance",
    "level_set",
    "log_expected_improvement",
    "pandoras_box",
    "probability_of_optimality",
    "random",
    "thompson",
    "upper_confidence_bound",
)
NEEDED: dict[str, dict[str, Any]] = {"level_set": {"level": 10.0}}
"""Options that a policy cannot do without."""


def alloys() -> list[Candidate]:
    """List binary alloys of four systems, one of which is by far the best."""
    pairs = ("CuZn", "NiAl", "FeCr", "TiW")
    found = []
    for pair in pairs:
        one, two = (pair[:2], pair[2:])
        found += [Candidate.make(label=f"{one}{i}{two}", composition=f"{one}{i}{two}{12 - i}") for i in range(1, 12)]
    return found


def hardness(candidate: Candidate) -> float:
    """Return a made-up hardness, high wherever there is tungsten."""
    share = fractions(candidate)
    return 20.0 * share.get("W", 0.0) + 2.0 * share.get("Cr", 0.0) + (15.0 if "W" in share else 0.0)


def measured(candidates: Sequence[Candidate], values: Sequence[float], name: str = "hardness") -> Dataset:
    """Make a dataset."""
    rows = [
        Row(i, c, {}, name, float(v), None, Outcome.MEASURED, measurement=i)
        for i, (c, v) in enumerate(zip(candidates, values, strict=True), 1)
    ]
    return Dataset(tuple(rows))


def choose(name: str, options: dict[str, Any], pool: Sequence[Candidate], data: Dataset, **more: Any) -> list[Proposal]:
    """Build a policy and call `select`."""
    arguments: dict[str, Any] = {
        "surrogate": None,
        "q": 4,
        "problem": HARDNESS,
        "pending": (),
        "closed": frozenset(),
        "costs": {},
        "seed": 3,
    } | more
    policy = plugins.build("acquisition", name, options)
    return list(policy.select(arguments.pop("surrogate"), ListSpace(pool), dataset=data, **arguments))


def systems(candidates: Sequence[Candidate]) -> Counter[frozenset[str]]:
    """Count candidates by their elements."""
    return Counter(frozenset(fractions(c)) for c in candidates)


@pytest.fixture(scope="module")
def metals() -> tuple[list[Candidate], Dataset, CompositionForest]:
    """Return a pool of alloys, what is measured of it, and what was learned from that."""
    pool = alloys()
    data = measured(pool[::4], [hardness(c) for c in pool[::4]])
    forest = CompositionForest()
    forest.fit(data, HARDNESS, 0)
    return pool, data, forest


# --- the cap ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", POLICIES)
def test_no_system_fills_a_batch(name: str, metals: tuple[list[Candidate], Dataset, CompositionForest]) -> None:
    """With a cap every system has at most so many picks, those in flight counted; small shortlists do not lift it."""
    pool, data, forest = metals
    known = {row.candidate.id for row in data.rows}
    tungsten = [c for c in pool if "W" in fractions(c) and c.id not in known]
    options: dict[str, Any] = {"most_per_system": 1, **NEEDED.get(name, {})}
    if name in {"log_expected_improvement", "pandoras_box", "probability_of_optimality", "upper_confidence_bound"}:
        options["shortlist"] = 8
    made = choose(name, options, pool, data, surrogate=forest)
    assert len(made) == 4
    assert set(systems([p.candidate for p in made]).values()) == {1}
    assert not any("most_per_system" in p.details for p in made)
    made = choose(name, options, pool, data, surrogate=forest, pending=tungsten[:1], q=3)
    assert not any("W" in fractions(p.candidate) for p in made)
    assert max(systems([p.candidate for p in made]).values()) == 1


@pytest.mark.parametrize("name", POLICIES)
def test_a_batch_is_filled_up_where_the_cap_leaves_too_few(
    name: str, metals: tuple[list[Candidate], Dataset, CompositionForest]
) -> None:
    """Five picks from four systems: the fifth goes beyond the cap and says so."""
    pool, data, forest = metals
    made = choose(name, {"most_per_system": 1, **NEEDED.get(name, {})}, pool, data, surrogate=forest, q=5)
    assert len(made) == 5
    assert ["most_per_system" in p.details for p in made] == [False] * 4 + [True]


def test_without_a_cap_the_best_system_fills_the_batch(
    metals: tuple[list[Candidate], Dataset, CompositionForest],
) -> None:
    """The cap is what changes the greedy batch; and it says nothing of candidates without elements."""
    pool, data, forest = metals
    made = choose("greedy", {}, pool, data, surrogate=forest)
    assert all("W" in fractions(p.candidate) for p in made)
    points = [Candidate.make(label=f"{x}", parameters={"x": float(x)}) for x in range(9)]
    made = choose("random", {"most_per_system": 1}, points, Dataset())
    assert len(made) == 4
    assert not any("most_per_system" in p.details for p in made)


# --- fantasies ----------------------------------------------------------------------------------------------------


def test_what_a_pending_trial_is_taken_to_yield() -> None:
    """The mean, or one standard deviation worse in the direction of each goal; what has no goal stays at its mean."""
    problem = Problem(
        (
            Objective("a", "eV", "maximize"),
            Objective("b", "eV", "minimize"),
            Objective("c", "eV", "target", target=1.0),
            Objective("d", "eV", "window", window=(0.0, 2.0)),
        )
    )
    mean, sd = np.array([1.0, 1.0, 0.5, 1.5]), np.array([0.1, 0.2, 0.3, 0.4])
    assert believed(problem, mean, sd, "believer") == pytest.approx(mean)
    assert believed(problem, mean, sd, "pessimistic") == pytest.approx([0.9, 1.2, 0.2, 1.9])
    learn = Problem((Objective("a", "eV", "learn"),))
    assert believed(learn, mean[:1], sd[:1], "pessimistic") == pytest.approx([1.0])


def test_draws_are_conditioned_as_a_gaussian_is() -> None:
    """Mean and variance after a fantasy are those of the conditional normal distribution; far points hardly move."""
    covariance = np.array([[1.0, 0.8, 0.0], [0.8, 1.0, 0.0], [0.0, 0.0, 1.0]])
    draws = np.random.default_rng(0).multivariate_normal(np.zeros(3), covariance, size=20_000)[..., None]
    after = conditioned(draws, 0, np.array([2.0]))
    assert after[:, 0, 0] == pytest.approx(np.full(20_000, 2.0))
    assert after[:, 1, 0].mean() == pytest.approx(1.6, abs=0.05)
    assert after[:, 1, 0].var() == pytest.approx(1 - 0.8**2, abs=0.02)
    assert after[:, 2, 0].mean() == pytest.approx(0.0, abs=0.05)
    assert after[:, 2, 0].var() == pytest.approx(1.0, abs=0.05)


LINE = [Candidate.make(label=f"{x:g}", parameters={"x": round(float(x), 4)}) for x in np.linspace(0, 1, 61)]


@pytest.mark.parametrize("name", ["log_expected_improvement", "pandoras_box", "upper_confidence_bound"])
def test_pessimists_keep_away_from_pending_trials(name: str) -> None:
    """The next pick is pushed away from the pending trial by every fantasy, and by a pessimistic one not less."""
    data = measured([LINE[i] for i in (0, 12, 48, 60)], [0.0, 0.4, 0.45, 0.1])
    surrogate = GaussianProcess()
    surrogate.fit(data, HARDNESS, 0)
    alone = choose(name, {}, LINE, data, surrogate=surrogate, q=1)[0].candidate
    away = {}
    for fantasy in ("draws", "believer", "pessimistic"):
        options = {"pending": fantasy}
        one = choose(name, options, LINE, data, surrogate=surrogate, q=1, pending=(alone,))[0]
        assert one.candidate.id != alone.id
        away[fantasy] = abs(float(one.candidate.parameters["x"]) - float(alone.parameters["x"]))
        made = choose(name, options, LINE, data, surrogate=surrogate, q=3)
        assert len({p.candidate.id for p in made}) == 3
        assert all(p.score is not None and np.isfinite(p.score) for p in made)
    assert min(away.values()) > 0.05
    assert away["pessimistic"] >= away["believer"] - 0.02
