"""The classifier of phases and the policy that looks for their boundaries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator import plugins
from orchestrator.acquisition.phase_boundary import PhaseBoundary, PhaseBoundaryOptions
from orchestrator.domain import Candidate, Dataset, Objective, Outcome, Problem, Row
from orchestrator.errors import IncompatibleError, NotEnoughData, SurrogateError
from orchestrator.surrogates.phase_classifier import PhaseClassifier
from tests.fakes import ListSpace, Nearest

PROBLEM = Problem((Objective("phase", "dimensionless", "learn"),))
GRID = [
    Candidate.make(label=f"{x:g},{y:g}", parameters={"x": round(float(x), 3), "y": round(float(y), 3)})
    for x in np.linspace(0, 1, 9)
    for y in np.linspace(0, 1, 9)
]


def phase_of(candidate: Candidate) -> float:
    """Return 0, 1 or 2: two lines cut the square."""
    x, y = float(candidate.parameters["x"]), float(candidate.parameters["y"])
    return 0.0 if x + y < 0.8 else 1.0 if y < 0.6 else 2.0


def labelled(candidates: list[Candidate], *, value: Any = phase_of) -> Dataset:
    """Measure candidates."""
    return Dataset(
        tuple(
            Row(i + 1, c, c.parameters, "phase", value(c), None, Outcome.MEASURED, measurement=i + 1)
            for i, c in enumerate(candidates)
        )
    )


def some(n: int, seed: int = 1) -> list[Candidate]:
    """Return n candidates of the grid, a seeded choice."""
    return [GRID[i] for i in np.random.default_rng(seed).permutation(len(GRID))[:n]]


def fitted(n: int = 24) -> PhaseClassifier:
    """Train on n labels."""
    surrogate = PhaseClassifier()
    surrogate.fit(labelled(some(n)), PROBLEM, seed=1)
    return surrogate


def test_it_tells_classes_and_how_sure_it_is() -> None:
    """Most of the grid is right after 24 labels, and where it is sure it is right almost always."""
    chances = fitted().chances(GRID, "phase", 128, seed=5).mean(axis=0)
    right = chances.argmax(axis=1) == np.array([phase_of(c) for c in GRID])
    sure = chances.max(axis=1) > 0.9
    assert right.mean() > 0.85
    assert sure.any()
    assert right[sure].mean() > 0.95


def test_means_and_spreads_are_those_of_the_label() -> None:
    """The moments of the drawn labels are the predicted ones; a far point is less known than a labelled one."""
    surrogate = fitted()
    drawn = surrogate.draw(GRID, 800, seed=2)[..., 0]
    told = surrogate.predict(GRID)
    np.testing.assert_allclose(drawn.mean(axis=0), told.mean[:, 0], atol=0.12)
    np.testing.assert_allclose(drawn.std(axis=0), told.epistemic[:, 0], atol=0.12)
    assert np.all(told.noise > 0)


def test_drawn_functions_do_not_depend_on_the_company() -> None:
    """A candidate has the same chances alone and among others, whatever the order."""
    surrogate = fitted()
    together = surrogate.chances(GRID, "phase", 8, seed=3)
    alone = surrogate.chances([GRID[40]], "phase", 8, seed=3)
    np.testing.assert_allclose(together[:, 40], alone[:, 0], atol=1e-9)
    np.testing.assert_allclose(together.sum(axis=-1), 1.0)


def test_a_state_survives_saving_and_updates_are_absolute(tmp_path: Path) -> None:
    """A loaded fit answers alike; an update to more labels and back is no change; new classes are taken in."""
    surrogate = fitted()
    before = surrogate.predict(GRID)
    surrogate.save(tmp_path)
    other = PhaseClassifier()
    other.load(tmp_path, PROBLEM)
    np.testing.assert_allclose(other.predict(GRID).mean, before.mean, atol=1e-9)
    surrogate.update(labelled(some(40), value=lambda c: phase_of(c) + 3.0 * (c.parameters["x"] == 1.0)))
    assert max(surrogate.classes("phase")) > 2
    surrogate.update(labelled(some(24)))
    np.testing.assert_allclose(surrogate.predict(GRID).mean, before.mean, atol=1e-9)


def test_what_cannot_be_learned_is_refused(tmp_path: Path) -> None:
    """Too few labels, labels that are no classes, and questions before training are told so."""
    with pytest.raises(NotEnoughData, match="at least 3"):
        PhaseClassifier().fit(labelled(some(2)), PROBLEM, seed=1)
    with pytest.raises(SurrogateError, match="whole numbers"):
        PhaseClassifier().fit(labelled(some(6), value=lambda _: 0.5), PROBLEM, seed=1)
    with pytest.raises(SurrogateError, match="before it was trained"):
        PhaseClassifier().save(tmp_path)


def choose(
    surrogate: Any, known: list[Candidate], q: int = 3, space: list[Candidate] | None = None, **options: Any
) -> Any:
    """Ask the policy for q candidates."""
    return PhaseBoundary(PhaseBoundaryOptions(**options)).select(
        surrogate,
        ListSpace(space or GRID),  # type: ignore[arg-type]
        q=q,
        problem=PROBLEM,
        dataset=labelled(known),
        pending=(),
        closed=frozenset(),
        costs={},
        seed=7,
    )


@pytest.mark.parametrize("score", ["bald", "entropy"])
def test_it_goes_where_the_phase_is_unclear(score: str) -> None:
    """Every pick has a class that is less sure than that of most candidates; a batch is not all in one place."""
    known = some(24)
    surrogate = fitted()
    sure = surrogate.chances(GRID, "phase", 128, seed=5).mean(axis=0).max(axis=1)
    picks = choose(surrogate, known, score=score)
    places = [GRID.index(pick.candidate) for pick in picks]
    assert len(set(places)) == 3
    assert max(sure[places]) < np.median(sure)
    points = np.array([[float(p.candidate.parameters[k]) for k in "xy"] for p in picks])
    assert np.linalg.norm(points[:, None] - points[None], axis=-1)[np.triu_indices(3, 1)].mean() > 0.4
    assert "least known" in picks[0].reason
    assert picks[0].details["chances"]["phase"].keys() == {"0", "1", "2"}


def test_a_batch_is_new_whatever_the_order_of_the_pool() -> None:
    """Nothing measured or twice is proposed, and a permuted pool gives the same batch."""
    known, surrogate = some(24), fitted()
    picks = [p.candidate.id for p in choose(surrogate, known, q=5, shortlist=8)]
    assert len(set(picks)) == 5
    assert not {c.id for c in known} & set(picks)
    assert picks == [p.candidate.id for p in choose(surrogate, known, q=5, shortlist=8, space=GRID[::-1])]


def test_one_phase_alone_says_nothing() -> None:
    """While every label is the same, it looks far away instead, and says so."""
    same = [c for c in some(40) if phase_of(c) == 1.0][:6]
    surrogate = PhaseClassifier()
    surrogate.fit(labelled(same), PROBLEM, seed=1)
    picks = choose(surrogate, same)
    assert picks[0].details["fallback"] == "diverse"
    assert "only one" in picks[0].reason


def test_another_surrogate_is_refused() -> None:
    """The policy names the surrogate that it needs."""
    with pytest.raises(IncompatibleError, match="phase_classifier"):
        choose(Nearest(), some(6))
    assert "classes" in plugins.build("acquisition", "phase_boundary", {}).needs()
