"""How soon a lab of four instruments reaches its target: asynchronous against rounds of four, in virtual time.

Durations are lognormal with a mean of one hour, so that a round of four waits for its slowest trial: it takes E[max of
4] hours where four instruments that never wait take one hour for four trials. That ratio is the ideal gain; it would be
reached if an asynchronous choice, which sees every result at once but has three trials in flight, were worth as much as
a choice in rounds. No store and no instruments: the planner of the campaigns, and a queue of events.
"""

from __future__ import annotations

import argparse
import heapq
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from orchestrator.config.schema import CampaignConfig
from orchestrator.domain import Array, Candidate, Dataset, Outcome, Row
from orchestrator.planner import Parts, Planner
from tests.benchmarks import race_code
from tests.benchmarks.units import Unit, merge, protocol, row, run_missing, say, split_arguments, summarise

NAME = "async_lab"
INSTRUMENTS = 4
SIGMAS = (0.5, 1.0)
SEEDS = 30
INITIAL = 8
MOST = 96
"""Trials at most; a campaign that has not reached its target by then counts with the time of its last one."""
ARMS = ("rounds", "draws", "believer", "pessimistic")
"""Rounds of four, and asynchronous with what is taken of trials in flight."""
PROBLEMS = ("hartmann6", "pool")
BOOTSTRAPS = 4000


def hartmann(x: Array) -> float:
    """Return Hartmann's function of six variables in [0, 1], negated, so that its optimum is the largest: 3.32237."""
    alpha = np.array([1.0, 1.2, 3.0, 3.2])
    a = np.array(
        [[10, 3, 17, 3.5, 1.7, 8], [0.05, 10, 17, 0.1, 8, 14], [3, 3.5, 1.7, 10, 17, 8], [17, 8, 0.05, 10, 0.1, 14]]
    )
    p = 1e-4 * np.array(
        [
            [1312, 1696, 5569, 124, 8283, 5886],
            [2329, 4135, 8307, 3736, 1004, 9991],
            [2348, 1451, 3522, 2883, 3047, 6650],
            [4047, 8828, 8732, 5743, 1091, 381],
        ]
    )
    return float(alpha @ np.exp(-(a * (x - p) ** 2).sum(axis=1)))


def ackley(x: Array) -> float:
    """Return Ackley's function, negated, so that its optimum is the largest: 0."""
    return float(20 * np.exp(-0.2 * np.sqrt((x**2).mean())) + np.exp(np.cos(2 * math.pi * x).mean()) - 20.0 - math.e)


def lab(problem: str, arm: str, seed: int, folder: Path) -> tuple[Planner, Callable[[Candidate], float], float]:
    """Build the planner of one arm, the truth and the target.

    Args:
        problem: one of `PROBLEMS`.
        arm: one of `ARMS`.
        seed: of the campaign; the initial design is the same for every arm.
        folder: for the pool's table.

    Returns:
        The planner, what a trial of a candidate yields, and the value to be reached.
    """
    if problem == "hartmann6":
        names = [f"x{i}" for i in range(6)]
        truth, target = hartmann, 3.0
        space: dict[str, Any] = {
            "use": "box",
            "options": {"parameters": {name: {"min": 0, "max": 1} for name in names}},
        }
    else:
        names = [f"x{i}" for i in range(4)]
        points = np.random.default_rng(2026).uniform(-4.0, 4.0, size=(1000, len(names))).round(4)
        truth = ackley
        target = sorted((truth(x) for x in points), reverse=True)[2]  # one of the best three
        table = folder / "pool.csv"
        lines = [",".join(names), *(",".join(f"{value:.4f}" for value in x) for x in points)]
        table.write_text("\n".join(lines))
        space = {"use": "pool", "options": {"path": str(table), "parameters": {name: {} for name in names}}}
    options = {} if arm == "rounds" else {"pending": arm}
    config = CampaignConfig.model_validate(
        {
            "name": "lab",
            "seed": seed,
            "objectives": [{"property": "y", "goal": "maximize"}],
            "space": space,
            "surrogate": {"use": "gaussian_process"},
            "acquisition": {"use": "log_expected_improvement", "options": options},
            "initial": {"use": "diverse", "trials": INITIAL},
            "parallel": INSTRUMENTS,
            "plan_when_free": INSTRUMENTS if arm == "rounds" else 1,
            "budget": {"trials": MOST},
        }
    )

    def yields(candidate: Candidate) -> float:
        return truth(np.array([float(candidate.parameters[name]) for name in names]))

    return Planner(config, Parts.build(config, base=str(folder))), yields, target


def durations(sigma: float, seed: int) -> Array:
    """Return the hours of the first, second, … trial: the same for every arm."""
    normal = np.random.default_rng([seed, 77]).normal(size=MOST)
    return np.asarray(np.exp(sigma * normal - sigma**2 / 2), dtype=np.float64)


def simulate(
    planner: Planner, yields: Callable[[Candidate], float], target: float, hours: Array, *, rounds: bool
) -> list[tuple[float, float]]:
    """Run one campaign in virtual time, until the target is reached.

    Args:
        planner: trains and chooses.
        yields: the truth.
        target: value to be reached.
        hours: of the trials, in the order in which they are started.
        rounds: plan when all instruments are free; otherwise when one is.

    Returns:
        Time of the end and value of every trial, in the order in which they ended.
    """
    rows: list[Row] = []
    ended: list[tuple[float, float]] = []
    flying: list[tuple[float, int, Candidate]] = []
    waiting: list[Candidate] = []
    closed: set[str] = set()
    now, number, decision, fits = 0.0, 0, 0, 0
    surrogate: Any = None
    best = -math.inf
    while best < target and number < MOST + len(flying):
        free = INSTRUMENTS - len(flying)
        if not waiting and number < MOST and (free == INSTRUMENTS or (not rounds and free > 0)):
            dataset = Dataset(tuple(rows))
            initial = decision == 0
            if not initial:
                fits += 1
                surrogate, _, _ = planner.train(fits, dataset, None)
            decision += 1
            chosen = planner.choose(
                decision,
                q=INITIAL if initial else min(free, MOST - number),
                initial=initial,
                dataset=dataset,
                pending=[candidate for _, _, candidate in flying],
                closed=frozenset(closed),
                surrogate=surrogate,
            )
            waiting = [proposal.candidate for proposal in chosen.proposals]
            closed |= {candidate.id for candidate in waiting}
        while waiting and len(flying) < INSTRUMENTS:
            heapq.heappush(flying, (now + float(hours[number]), number, waiting.pop(0)))
            number += 1
            if rounds and len(flying) == INSTRUMENTS:
                break
        if not flying:
            break
        for _ in range(len(flying) if rounds else 1):
            now, trial, candidate = heapq.heappop(flying)
            value = yields(candidate)
            best = max(best, value)
            ended.append((now, value))
            rows.append(Row(trial + 1, candidate, {}, "y", value, None, Outcome.MEASURED, measurement=trial + 1))
    return ended


def reached(ended: Sequence[tuple[float, float]], target: float) -> tuple[float, int, bool]:
    """Return when the target was reached, after how many trials, and whether it was."""
    for count, (time, value) in enumerate(ended, start=1):
        if value >= target:
            return time, count, True
    return max(time for time, _ in ended), len(ended), False


def measure(unit: Unit) -> Mapping[str, Any]:
    """Run one campaign; rounds are run once, since their choices do not depend on how long trials take."""
    given = unit.parameters
    with tempfile.TemporaryDirectory() as folder:
        planner, yields, target = lab(given["problem"], given["arm"], given["seed"], Path(folder))
        if given["arm"] != "rounds":
            hours = durations(given["sigma"], given["seed"])
            time, count, done = reached(simulate(planner, yields, target, hours, rounds=False), target)
            return {"hours": time, "trials": count, "reached": done, "code": learned_by()}
        ended = simulate(planner, yields, target, durations(SIGMAS[0], given["seed"]), rounds=True)
    # the trials of a round and their values are the same whatever the durations: only the clock is run again
    found: dict[str, Any] = {"code": learned_by()}
    for sigma in SIGMAS:
        time, count, done = reached(_again(ended, sigma, given["seed"]), target)
        found[f"{sigma:g}"] = {"hours": time, "trials": count, "reached": done}
    return found


@cache
def learned_by() -> str:
    """Return the hash of the code that chooses on pools and boxes."""
    room = race_code.ROOT / "orchestrator" / "acquisition"
    return protocol([*race_code.used(), *room.glob("box*.py"), room / "continuous.py", room / "encoding.py"])


def _again(ended: Sequence[tuple[float, float]], sigma: float, seed: int) -> list[tuple[float, float]]:
    """Return the trials of rounds, which ended under the first sigma, with the clock of another one."""
    made: list[tuple[float, float]] = []
    first, hours, now = durations(SIGMAS[0], seed), durations(sigma, seed), 0.0
    for start in range(0, len(ended), INSTRUMENTS):
        members = range(start, min(start + INSTRUMENTS, len(ended)))
        order = sorted(members, key=lambda trial: first[trial])  # they ended in this order
        timed = [(now + float(hours[trial]), ended[start + place][1]) for place, trial in enumerate(order)]
        made += sorted(timed)
        now = max(time for time, _ in timed)
    return made


def ideal(sigma: float) -> float:
    """Return E[max of 4] of lognormal durations over their mean."""
    drawn = np.random.default_rng(0).normal(size=(400_000, INSTRUMENTS))
    return float(np.exp(sigma * drawn - sigma**2 / 2).max(axis=1).mean())


def all_units() -> list[Unit]:
    """List the campaigns: every problem, seed, arm and, where choices depend on durations, sigma."""
    units = []
    for seed in range(SEEDS):
        for problem in PROBLEMS:
            units.append(Unit(f"{problem}/rounds/seed {seed}", {"problem": problem, "arm": "rounds", "seed": seed}))
            units += [
                Unit(
                    f"{problem}/{arm}/sigma {sigma:g}/seed {seed}",
                    {"problem": problem, "arm": arm, "sigma": sigma, "seed": seed},
                )
                for arm in ARMS[1:]
                for sigma in SIGMAS
            ]
    return units


def rows_of(lines: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Compare every asynchronous arm with rounds on the seeds that both have, with paired bootstrap intervals."""
    by = {
        (p["problem"], p["arm"], p.get("sigma"), p["seed"]): line["result"]
        for line in lines
        if (p := line["parameters"])
    }
    rows = []
    for sigma in SIGMAS:
        rows.append(row("ideal", f"speed_up_sigma_{sigma:g}", "ratio", [ideal(sigma)]))
        for arm in ARMS[1:]:
            pooled: list[tuple[Array, Array]] = []
            for problem in PROBLEMS:
                pairs = [
                    (by[problem, "rounds", None, seed][f"{sigma:g}"]["hours"], by[problem, arm, sigma, seed]["hours"])
                    for seed in range(SEEDS)
                    if (problem, "rounds", None, seed) in by and (problem, arm, sigma, seed) in by
                ]
                if pairs:
                    slow, fast = np.array(pairs).T
                    pooled.append((slow, fast))
                    rows.append(_ratio(f"matloop {arm}", f"speed_up_{problem}_sigma_{sigma:g}", [(slow, fast)]))
                    rows.append(
                        _ratio(f"matloop {arm}", f"share_of_ideal_{problem}_sigma_{sigma:g}", [(slow, fast)], sigma)
                    )
            if pooled:
                rows.append(_ratio(f"matloop {arm}", f"share_of_ideal_sigma_{sigma:g}", pooled, sigma))
    return rows


def _ratio(who: str, metric: str, pairs: Sequence[tuple[Array, Array]], sigma: float | None = None) -> dict[str, Any]:
    """Return the ratio of mean times, the geometric mean over problems, with the seeds resampled in pairs."""
    rng = np.random.default_rng(1)

    def value(chosen: Sequence[Any]) -> float:
        logs = [np.log(slow[i].mean() / fast[i].mean()) for (slow, fast), i in zip(pairs, chosen, strict=True)]
        return float(np.exp(np.mean(logs))) / (1.0 if sigma is None else ideal_of[sigma])

    ideal_of = {} if sigma is None else {sigma: ideal(sigma)}
    point = value([slice(None)] * len(pairs))
    drawn = [value([rng.integers(len(slow), size=len(slow)) for slow, _ in pairs]) for _ in range(BOOTSTRAPS)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    one = row(who, metric, "ratio", [point], low=float(low), high=float(high))
    return {**one, "n": min(len(slow) for slow, _ in pairs)}


def main() -> None:
    """Run what is missing; write the summary when all is there."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--data", default=None, help="where public data lie; this benchmark needs none")
    split_arguments(parser)
    chosen = parser.parse_args()
    if chosen.merge:
        say(f"{NAME}: {merge(NAME, chosen.merge)} new lines")
    units = all_units()
    lines = run_missing(
        NAME,
        units,
        measure,
        protocol=protocol([Path(__file__)]),
        packages=("botorch", "torch"),
        most=chosen.units,
        part=chosen.part,
        lines=chosen.lines,
        counts=lambda line: line["result"]["code"] == learned_by(),
    )
    if chosen.lines is not None:
        return
    if len(lines) < len(units):
        say(f"{len(lines)} of {len(units)} units are measured; the same command goes on")
    work = (
        f"Simulated lab of {INSTRUMENTS} instruments, lognormal durations with a mean of 1 h: time until the target is"
        f" reached on Hartmann-6 (3.0 of 3.32) and on a pool of 1,000 points of Ackley's function (one of the best 3)."
    )
    written = summarise(
        NAME, rows_of(lines), work=work, command="make bench-async_lab", units=len(lines), of=len(units)
    )
    say(f"written: {written.name}")


if __name__ == "__main__":
    main()
