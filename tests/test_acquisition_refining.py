"""The shortlist scored again by botorch: the same question, so the same answers where the case is clear."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from orchestrator.acquisition.draws import draw
from orchestrator.acquisition.improvement import ImprovementOptions, LogExpectedImprovement, greedy_batch
from orchestrator.acquisition.marginal import marginal_scores
from orchestrator.acquisition.refining import refined_batch
from orchestrator.acquisition.situation import Situation, predict
from orchestrator.acquisition.worth import Worth
from orchestrator.domain import Candidate, Dataset, Objective, Outcome, Problem, Proposal, Row
from orchestrator.surrogates.gaussian_process import GaussianProcess
from tests.fakes import ListSpace

ONE = Problem((Objective("y", "eV", "maximize"),))
TWO = Problem((Objective("y", "eV", "maximize"), Objective("z", "eV", "minimize")))
LINE = [Candidate.make(label=f"{x:g}", parameters={"x": round(float(x), 4)}) for x in np.linspace(0, 1, 31)]


def learned(problem: Problem) -> tuple[GaussianProcess, Dataset]:
    """Measure seven points of a wavy function and train on them."""
    rows = []
    for i, candidate in enumerate(LINE[::5], 1):
        x = float(candidate.parameters["x"])
        for j, name in enumerate(problem.properties):
            value = math.sin(7 * x + j)
            rows.append(Row(i, candidate, {}, name, value, None, Outcome.MEASURED, measurement=9 * i + j))
    data = Dataset(tuple(rows))
    surrogate = GaussianProcess()
    surrogate.fit(data, problem, 0)
    return surrogate, data


def choose(surrogate: GaussianProcess, data: Dataset, problem: Problem, pool: Sequence[Candidate], **more: Any) -> Any:
    """Call `select` with refinement."""
    policy = LogExpectedImprovement(ImprovementOptions(refine=True, draws=more.pop("draws", 128)))
    made: tuple[Proposal, ...] = policy.select(
        surrogate,
        ListSpace(pool),
        **{"q": 3, "pending": (), "closed": frozenset(), "costs": {}, "seed": 2} | more,
        problem=problem,
        dataset=data,
    )
    return made


def test_scores_agree_with_those_from_joint_draws() -> None:
    """On a posterior known exactly both estimate the same expected improvement, and rank alike."""
    surrogate, data = learned(ONE)
    known = {row.candidate.id for row in data.rows}
    left = [c for c in LINE if c.id not in known]
    situation = Situation(surrogate, ListSpace(LINE), 1, ONE, data, (), frozenset(known), seed=4)
    alone = marginal_scores(situation, predict(surrogate, left), left)
    order = np.argsort(-alone, kind="stable")
    listed = [left[i] for i in order]
    refined = refined_batch(situation, surrogate.to_botorch(), listed, alone[order], 4096)
    assert refined is not None
    sampled = greedy_batch(draw(situation, listed, 8192), alone[order], 1, Worth(situation, listed))
    assert refined[0][0] == sampled[0][0]
    assert refined[0][2] == pytest.approx(sampled[0][2], rel=0.1)


@pytest.mark.parametrize("problem", [ONE, TWO], ids=["one", "two"])
def test_a_refined_batch_keeps_what_every_batch_keeps(problem: Problem) -> None:
    """Open candidates, each once; pending ones push the next away; the order of the pool does not matter."""
    surrogate, data = learned(problem)
    first = choose(surrogate, data, problem, LINE)
    ids = [p.candidate.id for p in first]
    assert len(set(ids)) == 3
    assert not set(ids) & {row.candidate.id for row in data.rows}
    assert all(p.details["refined"] for p in first)
    assert all(p.score is not None and math.isfinite(p.score) for p in first)
    shuffled = [LINE[i] for i in np.random.default_rng(0).permutation(len(LINE))]
    assert [p.candidate.id for p in choose(surrogate, data, problem, shuffled)] == ids
    beside = choose(surrogate, data, problem, LINE, pending=(first[0].candidate,), q=2)
    assert ids[0] not in {p.candidate.id for p in beside}
    assert [p.candidate.id for p in beside] == ids[1:]
