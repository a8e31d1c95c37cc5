"""Policies for knowing: they must know more, sooner, than random and diverse designs with as many measurements."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator import plugins
from orchestrator.acquisition.covariances import Covariances
from orchestrator.config.read import load_campaign
from orchestrator.config.schema import CampaignConfig
from orchestrator.domain import Candidate, Dataset, Objective, Outcome, Problem, Row
from orchestrator.errors import IncompatibleError
from orchestrator.planner import Parts
from orchestrator.replay import Truth, lesson_of, replay_once
from orchestrator.spaces.box import Box
from tests.fakes import ListSpace

SEEDS = range(5)
PROBLEM = Problem((Objective("v", "dimensionless", "learn"),))
LINE = [Candidate.make(label=f"{x:g}", parameters={"x": round(float(x), 4)}) for x in np.linspace(0, 1, 41)]


def wave(candidate: Candidate) -> float:
    """Return a smooth function of one coordinate."""
    return float(np.sin(9.0 * float(candidate.parameters["x"])))


def labelled(candidates: list[Candidate]) -> Dataset:
    """Measure candidates."""
    return Dataset(
        tuple(
            Row(i + 1, c, c.parameters, "v", wave(c), None, Outcome.MEASURED, measurement=i + 1)
            for i, c in enumerate(candidates)
        )
    )


def choose(name: str, options: Mapping[str, Any], known: list[Candidate], **changes: Any) -> Any:
    """Train on known candidates, and ask a policy."""
    surrogate = plugins.build("surrogates", "gaussian_process", {"bounds": {"x": (0.0, 1.0)}})
    surrogate.fit(labelled(known), PROBLEM, 1)
    asked = {
        "q": 2,
        "problem": PROBLEM,
        "dataset": labelled(known),
        "pending": (),
        "closed": frozenset(),
        "costs": {},
        "seed": 3,
        **changes,
    }
    policy = plugins.build("acquisition", name, options)
    space = asked.pop("space", ListSpace(LINE))
    return policy.select(surrogate, space, **asked)


KNOWN = [LINE[i] for i in (0, 4, 8, 12, 16)]


def test_covariances_shrink_by_what_is_measured() -> None:
    """Measuring a point takes its variance away, and a correlated point's in proportion; others keep theirs."""
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 4000))
    known = Covariances(np.stack([a, a + 0.1 * b, b], axis=1)[..., None], np.array([1e-6]))
    taken = known.explained(np.arange(3), np.arange(3))[:, 0]
    assert taken[0] == pytest.approx(2.0, abs=0.1)
    assert taken[2] == pytest.approx(1.01, abs=0.05)
    known.include(0)
    left = known.left()[:, 0]
    assert left[0] < 0.01
    assert left[1] == pytest.approx(0.1, abs=0.02)
    assert left[2] == pytest.approx(1.0, abs=0.01)


def test_chance_does_not_count_as_covariance() -> None:
    """Of a thousand independent points none explains more than itself, although few draws correlate them by chance."""
    drawn = np.random.default_rng(1).standard_normal((64, 1000, 1))
    known = Covariances(drawn, np.array([1e-6]))
    assert np.median(known.explained(np.arange(50), np.arange(1000))) < 3.0


def test_integrated_variance_goes_where_nothing_is_known() -> None:
    """With one half of the line known, both picks lie in the other half, apart from each other."""
    picks = choose("integrated_variance", {}, KNOWN)
    x = [float(p.candidate.parameters["x"]) for p in picks]
    assert min(x) > 0.45
    assert abs(x[0] - x[1]) > 0.1
    assert 0.0 < picks[1].score < picks[0].score < 1.0
    assert "of the variance of v" in picks[0].reason


def test_pending_trials_count_as_measured() -> None:
    """What is in flight where a policy would go sends it elsewhere."""
    for name, options in (("integrated_variance", {}), ("level_set", {"level": 0.0})):
        first = choose(name, options, KNOWN, q=1)[0].candidate
        second = choose(name, options, KNOWN, q=1, pending=(first,))[0].candidate
        assert abs(float(first.parameters["x"]) - float(second.parameters["x"])) > 0.05


def test_level_set_counts_what_is_unclear() -> None:
    """Each open candidate is surely above, surely below or unclear, and the pick is unclear."""
    pick = choose("level_set", {"level": 0.0}, KNOWN, q=1)[0]
    facts = pick.details
    assert facts["surely_above"] + facts["surely_below"] + facts["unclear"] == len(LINE) - len(KNOWN)
    assert 0.02 < facts["probability_above"] < 0.98
    with pytest.raises(IncompatibleError, match="modelled properties are v"):
        choose("level_set", {"level": 0.0, "property": "w"}, KNOWN)


@pytest.mark.parametrize(("name", "options"), [("integrated_variance", {}), ("level_set", {"level": 0.2})])
def test_a_box_is_searched(name: str, options: dict[str, Any]) -> None:
    """On a box the picks are points of the box, different ones, and the same with the same seed."""
    box = Box(Box.Options.model_validate({"parameters": {"x": {"min": 0, "max": 1, "resolution": 0.001}}}))
    known = [box.make({"x": x}) for x in (0.0, 0.1, 0.2, 0.3, 0.4)]
    one, two = (choose(name, options, known, space=box) for _ in range(2))
    assert [p.candidate.id for p in one] == [p.candidate.id for p in two]
    assert len({p.candidate.id for p in one}) == 2
    assert all(0.0 <= float(p.candidate.parameters["x"]) <= 1.0 for p in one)


@pytest.mark.parametrize(
    ("name", "options"),
    [("integrated_variance", {"points": 16, "shortlist": 12}), ("level_set", {"level": 0.0, "shortlist": 8})],
)
@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_a_batch_is_new_and_does_not_depend_on_the_order_of_the_pool(
    name: str, options: dict[str, Any], data: st.DataObject
) -> None:
    """Nothing measured, pending, closed or twice is proposed, and a permuted pool gives the same batch."""
    order = data.draw(st.permutations(list(range(len(LINE)))))
    known, pending, closed = ([LINE[i] for i in order[a:b]] for a, b in ((0, 6), (6, 8), (8, 12)))
    asked = {"q": 4, "pending": tuple(pending), "closed": frozenset(c.id for c in closed)}
    picks = [p.candidate.id for p in choose(name, options, known, **asked)]
    assert len(set(picks)) == 4
    assert not {c.id for c in (*known, *pending, *closed)} & set(picks)
    permuted = ListSpace([LINE[i] for i in order])
    assert picks == [p.candidate.id for p in choose(name, options, known, **asked, space=permuted)]


CAMPAIGNS = Path(__file__).parent.parent / "campaigns"


@cache
def _learned(file: str, policy: str, trials: int) -> list[dict[str, float]]:
    """Replay an example with a policy, and return what was known in the end, one a seed."""
    loaded = load_campaign(CAMPAIGNS / file)
    own = loaded.config
    parts = Parts.build(own, base=loaded.base)
    changed = {"budget": {"trials": trials}, "refit": {"every": 4}}
    use = own.acquisition.model_dump() if policy == own.acquisition.use else {"use": policy}
    config = CampaignConfig.model_validate({**own.snapshot(), **changed, "acquisition": use})
    lesson = lesson_of(own, parts)
    assert lesson is not None
    values = np.array([[float(c.attributes[own.objectives[0].property])] for c in parts.space.candidates()])  # type: ignore[attr-defined]
    truth = Truth(tuple(parts.space.candidates()), values[:, 0] * 0.0, values)  # type: ignore[attr-defined]
    found = []
    for seed in SEEDS:
        done = replay_once(config, Parts.build(config, base=loaded.base), truth, seed)
        place = {c.id: i for i, c in enumerate(truth.candidates)}
        rows = [
            Row(n, truth.candidates[i], truth.candidates[i].parameters, own.objectives[0].property, float(values[i, 0]),
                None, Outcome.MEASURED, measurement=n)
            for n, i in enumerate((place[key] for key in done.chosen), start=1)
        ]  # fmt: skip
        found.append(lesson.score(truth, Dataset(tuple(rows)), seed))
    return found


@pytest.mark.parametrize(
    ("file", "policy", "metric", "trials", "sign"),
    [
        ("learn_everywhere.yaml", "integrated_variance", "mae", 18, -1),
        ("level_set.yaml", "level_set", "level_set_f1", 20, 1),
        pytest.param("phase_diagram.yaml", "phase_boundary", "macro_f1", 26, 1, marks=pytest.mark.slow),
    ],
)
def test_more_is_known_than_by_a_design(file: str, policy: str, metric: str, trials: int, sign: int) -> None:
    """The median over five starts is better than that of random and of diverse trials, with as many measurements."""
    medians = {
        name: float(np.median([one[metric] for one in _learned(file, name, trials)]))
        for name in (policy, "random", "diverse")
    }
    assert sign * medians[policy] > sign * medians["random"], medians
    assert sign * medians[policy] > sign * medians["diverse"], medians
