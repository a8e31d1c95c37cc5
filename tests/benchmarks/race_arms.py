"""One campaign of one arm on one table, from the same random start as every other arm with that seed."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from orchestrator import plugins
from orchestrator.config.schema import CampaignConfig, Use
from orchestrator.domain import Array, Problem
from orchestrator.pareto import hypervolume
from orchestrator.protocols import AcquisitionPolicy
from orchestrator.replay.campaigns import replay_once
from orchestrator.replay.truth import Truth, prepare
from tests.benchmarks.race_code import learned_by
from tests.benchmarks.race_peers import Forest, PlainBotorch
from tests.benchmarks.race_works import WORKS, Work, write
from tests.benchmarks.units import HERE, Unit

ROOT = HERE.parents[1]
SEEDS = {"matloop": 30, "greedy": 30, "forest": 30, "random": 30, "botorch": 30, "baybe": 10, "ax": 10}
"""Campaigns of each arm: ten where an ask takes a peer about a second or more."""
FEWER = {"redoxmers": {"botorch": 10, "greedy": 10}, "direct_arylation": {"botorch": 10}}
CAPPED = {"redoxmers": {"baybe": 50, "ax": 50, "botorch": 50}}
"""Measurements of peers whose asks take many seconds there: log expected hypervolume improvement of three objectives
over every candidate. What the authors of Olympus published reaches further."""
WORDS = {
    "matloop": "the shipped default: the campaign file names space, problem, budget and seed",
    "greedy": "the same surrogate, its mean only",
    "baybe": "BayBE's default recommender, through the policy `baybe`",
    "ax": "Ax's default generator and its acquisition function at every open candidate, through the policy `ax`",
    "botorch": "SingleTaskGP as it comes, qLogEI (several objectives: qLogNEHVI), optimize_acqf_discrete",
    "forest": "100 trees of scikit-learn, mean plus two standard deviations over the trees",
    "random": "random",
}


def units(name: str) -> list[Unit]:
    """List everything that belongs to a benchmark, seed by seed."""
    counts = {**SEEDS, **FEWER.get(name, {})}
    return [
        Unit(f"{work.name}/{arm}/{seed}", {"work": work.name, "arm": arm, "seed": seed})
        for seed in range(max(counts.values()))
        for work in WORKS[name]
        for arm, seeds in counts.items()
        if seed < seeds
    ]


def policy_of(arm: str, config: CampaignConfig) -> AcquisitionPolicy:
    """Return what chooses."""
    if arm == "botorch":
        return PlainBotorch()
    if arm == "forest":
        return Forest()
    use = config.acquisition if arm == "matloop" else Use(use=arm)
    made: AcquisitionPolicy = plugins.build("acquisition", use.use, use.options)
    return made


def measure(unit: Unit, data: Path) -> Mapping[str, Any]:
    """Run one campaign.

    Returns:
        Places in the table in the order of measurement, seconds an ask, and the marks of `scores`.
    """
    arm, seed = str(unit.parameters["arm"]), int(unit.parameters["seed"])
    (work,) = (w for works in WORKS.values() for w in works if w.name == unit.parameters["work"])
    cap = CAPPED.get(work.name.partition("/")[0], {}).get(arm, work.budget)
    work = replace(work, budget=min(work.budget, cap), marks=tuple(mark for mark in work.marks if mark <= cap))
    _without_compiler()
    with tempfile.TemporaryDirectory() as folder:
        config, parts, truth = prepare(write(work, data, seed, Path(folder)), None)
    parts = replace(parts, policy=policy_of(arm, config))
    done = replay_once(config, parts, truth, seed, enough=_enough(work, truth))
    place = {c.id: i for i, c in enumerate(truth.candidates)}
    order = [place[i] for i in done.chosen]
    asks = [ask.seconds for ask in done.asks]
    return {
        "order": order,
        "ask_s": round(float(np.median(asks)), 4),
        "asks_s": round(float(np.sum(asks)), 2),
        "code": learned_by(arm),
        **scores(work, truth, config.problem(), order),
    }


def _without_compiler() -> None:
    """Keep botorch from compiling C++ in the middle of an ask: minutes for whoever asks first."""
    from botorch.acquisition.multi_objective import logei  # noqa: PLC0415  torch, where it is needed anyway

    if hasattr(logei, "_load_attempted"):
        logei._load_attempted = True  # there is no public switch


def _enough(work: Work, truth: Truth) -> Callable[[Sequence[str]], bool]:
    if len(work.goals) > 1:
        return lambda _: False
    best = truth.best(work.share)

    def enough(chosen: Sequence[str]) -> bool:
        return len(chosen) >= work.least and sum(i in best for i in chosen) >= work.enough * len(best) - 1e-9

    return enough


def scores(work: Work, truth: Truth, problem: Problem, order: Sequence[int]) -> dict[str, Any]:
    """Score one order of measurement.

    Args:
        work: the table.
        truth: its answers.
        problem: objectives.
        order: places in the table.
    """
    if len(work.goals) > 1:
        grown = volumes(truth, problem, order, work.marks)
        return {"hypervolume": {str(mark): value for mark, value in zip(work.marks, grown, strict=True)}}
    best = truth.best(work.share)
    hits = [n + 1 for n, i in enumerate(order) if truth.candidates[i].id in best]
    top = np.maximum.accumulate(truth.utility[list(order)])
    objective = problem.objectives[0]
    return {
        "rows": len(truth.candidates),
        "best": len(best),
        "hits": hits,
        "top": {str(m): float(objective.utility(top[min(m, len(top)) - 1])) for m in work.marks},
        "measured": len(order),
    }


def volumes(truth: Truth, problem: Problem, order: Sequence[int], marks: Sequence[int]) -> list[float]:
    """Return the hypervolume after some numbers of measurements, as a share of that of the whole table.

    Every objective is brought to 0 … 1 over the table, and volume is counted from the worst corner, as Olympus does.
    """
    utility: Array = np.stack([o.utility(truth.values[:, j]) for j, o in enumerate(problem.objectives)], axis=1)
    scaled = (utility - utility.min(axis=0)) / np.ptp(utility, axis=0)
    corner = np.zeros(scaled.shape[1])
    whole = hypervolume(_front(scaled), corner)
    return [round(hypervolume(_front(scaled[list(order[:mark])]), corner) / whole, 5) for mark in marks]


def _front(points: Array) -> Array:
    better = (points[None, :, :] >= points[:, None, :]).all(axis=2) & (points[None, :, :] > points[:, None, :]).any(
        axis=2
    )
    return points[~better.any(axis=1)]
