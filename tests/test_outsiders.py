"""Other people's optimisers as policies: they obey the same contract, and refuse what they cannot do.

Where a package is missing its tests are skipped; the rows that optimisers are told are tested always.
"""

from __future__ import annotations

import asyncio
import importlib.util
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator import loop, plugins
from orchestrator.acquisition import outsiders
from orchestrator.acquisition.outsiders import Rows
from orchestrator.acquisition.policy import Situation
from orchestrator.campaign import Campaign
from orchestrator.decisions import verify_decisions
from orchestrator.domain import (
    Candidate,
    Constraint,
    Dataset,
    Fidelity,
    Objective,
    Outcome,
    Problem,
    Proposal,
    Row,
)
from orchestrator.errors import IncompatibleError, PluginError
from orchestrator.protocols import SearchSpace
from orchestrator.record.store import CampaignStore
from orchestrator.spaces.box import Box
from orchestrator.spaces.listed import Listed


def there(name: str, *more: Any) -> Any:
    """Return a test's parameters, skipped where the package is missing."""
    missing = importlib.util.find_spec(name) is None
    skip = pytest.mark.skipif(missing, reason=f"{name} is not installed: pip install 'matloop[{name}]'")
    return pytest.param(name, *more, marks=skip)


HERE = [there("baybe"), there("ax")]
CAMPAIGNS = Path(__file__).parent.parent / "campaigns"
STRENGTH = Problem((Objective("strength", "MPa", "maximize"),))
BOWL = [(x / 10, y / 10, word) for x in range(10) for y in range(10) for word in ("air", "argon")]


def made(x: float, y: float, word: str) -> Candidate:
    """Return a candidate with two numbers and a word."""
    return Candidate.make(label=f"{x:g},{y:g},{word}", parameters={"x": x, "y": y, "gas": word})


def height(candidate: Candidate) -> float:
    """Return a smooth made-up strength, largest at x = 0.6, y = 0.3 in argon."""
    p = candidate.parameters
    return -((float(p["x"]) - 0.6) ** 2) - (float(p["y"]) - 0.3) ** 2 + 0.2 * (p["gas"] == "argon")


def known(candidates: Sequence[Candidate], **columns: Any) -> Dataset:
    """Return a dataset of candidates, each property by a function of the candidate."""
    return Dataset(
        tuple(
            Row(i + 1, c, dict(c.parameters), name, float(f(c)), None, Outcome.MEASURED, measurement=10 * i + j)
            for i, c in enumerate(candidates)
            for j, (name, f) in enumerate(columns.items())
        )
    )


POOL = Listed("pool", [made(*p) for p in BOWL], {})
START = [POOL.candidates()[i] for i in np.random.default_rng(1).permutation(len(BOWL))[:12]]
AXES = {"x": {"min": 0, "max": 1, "resolution": 0.05}, "y": {"min": 0, "max": 1}}
BOX = Box(Box.Options.model_validate({"parameters": {**AXES, "gas": {"choices": ["air", "argon"]}}}))
LINE = {"sum": {"x": 1, "y": 1}, "at_most": 1.2}
BOUND = Box(Box.Options.model_validate({"parameters": AXES, "constraints": [LINE]}))


def ask(name: str, space: SearchSpace, problem: Problem, dataset: Dataset, **changes: Any) -> tuple[Proposal, ...]:
    """Ask a policy for q proposals."""
    arguments: dict[str, Any] = {"q": 1, "pending": (), "closed": frozenset(), "costs": {}, "seed": 5, **changes}
    policy = plugins.build("acquisition", name, {})
    chosen: tuple[Proposal, ...] = policy.select(None, space, problem=problem, dataset=dataset, **arguments)
    return chosen


@pytest.mark.parametrize("name", HERE)
def test_a_pool_is_searched_by_id(name: str) -> None:
    """What comes back is of the pool, open, different, the same for the same seed, and says who chose it."""
    dataset = known(START, strength=height)
    pending = (POOL.candidates()[-1],)
    chosen = ask(name, POOL, STRENGTH, dataset, q=3, pending=pending)
    ids = [p.candidate.id for p in chosen]
    assert len(set(ids)) == 3
    assert all(POOL.get(i) is p.candidate for i, p in zip(ids, chosen, strict=True))
    assert not set(ids) & {c.id for c in (*START, *pending)}
    assert [p.candidate.id for p in ask(name, POOL, STRENGTH, dataset, q=3, pending=pending)] == ids
    assert all(p.policy == name and p.details["package"].split()[1] for p in chosen)
    assert "strength" in chosen[0].reason


@pytest.mark.parametrize("name", HERE)
def test_it_climbs(name: str) -> None:
    """Six asks find the best candidate, which is not among the twelve at random: the labels do arrive."""
    done = list(START)
    for seed in range(6):
        done.append(ask(name, POOL, STRENGTH, known(done, strength=height), seed=seed)[0].candidate)
    assert max(map(height, done)) == pytest.approx(0.2)
    goal = Problem((Objective("strength", "MPa", "minimize"),))
    assert height(ask(name, POOL, goal, known(done, strength=height))[0].candidate) < np.median([*map(height, done)])


@pytest.mark.parametrize("name", HERE)
def test_the_order_of_the_pool_does_not_matter(name: str) -> None:
    """A pool listed backwards gives the same choice."""
    backwards = Listed("pool", POOL.candidates()[::-1], {})
    dataset = known(START, strength=height)
    one, two = (ask(name, space, STRENGTH, dataset)[0].candidate.id for space in (POOL, backwards))
    assert one == two


@pytest.mark.parametrize("name", HERE)
@pytest.mark.parametrize(
    "objective",
    [
        Objective("strength", "MPa", "target", target=-0.1),
        Objective("strength", "MPa", "window", window=(-0.12, -0.08)),
    ],
)
def test_targets_and_windows_are_understood(name: str, objective: Objective) -> None:
    """Told of candidates far from the goal only, it proposes one that is nearer than all of them."""
    far = [c for c in POOL.candidates() if abs(height(c) + 0.1) > 0.08][::4]
    chosen = ask(name, POOL, Problem((objective,)), known(far, strength=height))[0].candidate
    assert abs(height(chosen) + 0.1) < min(abs(height(c) + 0.1) for c in far)


@pytest.mark.parametrize("name", HERE)
def test_two_objectives_are_traded_off(name: str) -> None:
    """Two objectives are told together; a result that lacks one of them is no obstacle."""
    problem = Problem((Objective("strength", "MPa", "maximize"), Objective("price", "EUR", "minimize")))
    dataset = known(START, strength=height, price=lambda c: 1 + float(c.parameters["x"]))
    if name == "baybe":
        dataset = Dataset(dataset.rows[:-1])
    chosen = ask(name, POOL, problem, dataset, q=2)
    assert len({p.candidate.id for p in chosen}) == 2


# BayBE searches every choice of a box in turn: half a minute an ask. So do both where choices and constraints meet.
@pytest.mark.parametrize(("name", "box"), [there("baybe", BOUND), there("ax", BOX), there("ax", BOUND)])
def test_a_box_is_searched_within_its_limits(name: str, box: Box) -> None:
    """Points of a box keep its resolution, choices and constraints, and closed ones do not come back."""
    dataset = known(box.sample(8, 3), strength=lambda c: -((float(c.parameters["x"]) - 0.6) ** 2))
    pending = tuple(box.sample(2, 9))
    chosen = ask(name, box, STRENGTH, dataset, q=2, pending=pending)
    ids = {p.candidate.id for p in chosen}
    assert len(ids) == 2
    assert all(box.make(p.candidate.parameters).id == p.candidate.id for p in chosen)
    assert not ids & {c.id for c in pending}
    again = ask(name, box, STRENGTH, dataset, closed=frozenset(ids))
    assert not {p.candidate.id for p in again} & ids


@pytest.mark.parametrize("name", [there("baybe")])
def test_a_mixed_box_is_told_with_its_choices(name: str) -> None:
    """Choices stay words, short lists of whole numbers stay lists, logarithms are told as such."""
    from orchestrator.acquisition import baybe_policy  # noqa: PLC0415  after the skip

    axes = {"t": {"min": 1e-3, "max": 1.0, "log": True}, "n": {"kind": "integer", "min": 1, "max": 3}}
    box = Box(Box.Options.model_validate({"parameters": {**axes, "gas": {"choices": ["air", "argon"]}}}))
    made = [baybe_policy._parameter(f"x{i}", axis, set()) for i, axis in enumerate(box.axes())]
    assert sorted(type(p).__name__.removesuffix("Parameter") for p in made) == [
        "Categorical",
        "NumericalContinuous",
        "NumericalDiscrete",
    ]
    axis = next(a for a in box.axes() if a.name == "t")
    assert baybe_policy._value(axis, baybe_policy._told(axis, 0.01, set()), set()) == pytest.approx(0.01)


@pytest.mark.parametrize("name", HERE)
def test_compositions_and_small_beginnings(name: str) -> None:
    """A pool of formulas is told as fractions of elements; with nothing or one label measured it still answers."""
    pool = Listed("pool", [Candidate.make(label=f, composition=f) for f in ("LiF", "NaF", "NaCl", "KCl", "KBr")], {})
    assert Rows.learn(pool.candidates()).sources[0] == ("fraction", "Br")
    assert ask(name, pool, STRENGTH, Dataset())[0].candidate in pool.candidates()
    first = pool.candidates()[0]
    assert ask(name, pool, STRENGTH, known([first], strength=lambda _: 1.0))[0].candidate is not first


@pytest.mark.parametrize("name", HERE)
def test_what_it_cannot_do_is_refused(name: str) -> None:
    """Goals, bounds, fidelities and sizes that it does not take are named, before it chooses anything."""
    dataset = known(START, strength=height)
    learn = Problem((Objective("strength", "MPa", "learn"),))
    with pytest.raises(IncompatibleError, match="learn"):
        ask(name, POOL, learn, dataset)
    levels = Problem(STRENGTH.objectives, fidelities=(Fidelity("quick"), Fidelity("target")))
    with pytest.raises(IncompatibleError, match="fidelity"):
        ask(name, POOL, levels, dataset)
    with pytest.raises(IncompatibleError, match="largest_pool"):
        plugins.build("acquisition", name, {"largest_pool": 10}).select(
            None, POOL, q=1, problem=STRENGTH, dataset=dataset, pending=(), closed=frozenset(), costs={}, seed=0
        )
    bounded = Problem(STRENGTH.objectives, constraints=(Constraint("strength", "MPa", low=0.0),))
    if name == "baybe":
        with pytest.raises(IncompatibleError, match="bound"):
            ask(name, POOL, bounded, dataset)
    else:
        assert ask(name, POOL, bounded, dataset)


@pytest.mark.parametrize("name", HERE)
def test_the_example_runs_and_its_decisions_can_be_recomputed(name: str, tmp_path: Path) -> None:
    """A whole campaign: the optimiser chooses after the initial design, and a decision is a function of the record."""
    text = (CAMPAIGNS / "other_optimiser.yaml").read_text(encoding="utf-8")
    (tmp_path / "other.yaml").write_text(text.replace("{use: baybe}", f"{{use: {name}}}"), encoding="utf-8")
    shutil.copy(CAMPAIGNS / "ageing.csv", tmp_path)
    store = CampaignStore.open(tmp_path / "test.db")
    campaign = Campaign.create(tmp_path / "other.yaml", store=store, actor="test")
    asyncio.run(loop.run(campaign))
    trials = campaign.store.trials(campaign.name)
    assert [t.proposal.policy for t in trials if t.proposal].count(name) == 5
    assert verify_decisions(campaign) == []


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the package the campaign file is refused, with the words to type."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(PluginError, match=r"pip install 'matloop\[baybe\]'"):
        outsiders.check_installed("baybe", "BayBE", "baybe")


def test_rows_are_found_again_by_place() -> None:
    """Constant columns go, words stay words, and candidates that look alike are one row."""
    twins = [Candidate.make(label="a", composition="SiO2"), Candidate.make(label="b", composition="GeO2")]
    rows = Rows.learn([*twins, twins[0]])
    assert rows.sources == (("fraction", "Ge"), ("fraction", "Si"))
    assert len(rows.distinct([*twins, twins[0]])) == 2
    with pytest.raises(IncompatibleError, match="gas"):
        Rows.learn([made(0, 0, "air"), Candidate.make(label="c", parameters={"x": 1.0, "y": 0.0})])


def test_a_point_that_is_closed_after_rounding_is_replaced() -> None:
    """The nearest open point stands in for a proposed one that is measured already, and says so."""
    taken = BOX.make({"x": 0.5, "y": 0.5, "gas": "air"})
    situation = Situation(None, BOX, 1, STRENGTH, Dataset(), (), frozenset({taken.id}))
    proposed: list[dict[str, Any]] = [{"x": 0.51, "y": 0.5, "gas": "air"}]
    (pick,) = outsiders.settle(situation, BOX, proposed, {}, "r")
    assert pick.candidate.id != taken.id
    assert pick.details["fallback"] == "nearest open point"
    near: Mapping[str, Any] = pick.candidate.parameters
    assert abs(float(near["x"]) - 0.5) + abs(float(near["y"]) - 0.5) < 0.3
