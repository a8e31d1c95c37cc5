"""Back-test a campaign file on known data: how fast would it have found what is already known?

The same planner that runs campaigns chooses from a pool whose answers stand in a table, in synchronous rounds. Scored
are recall of the best share of the pool, simple regret, and the acceleration and enhancement factors against the exact
expectation of random choice without replacement.

Sources: acceleration and enhancement factor: Rohr et al., Chem. Sci. 11, 2696 (2020), doi:10.1039/C9SC05999G;
Liang et al., npj Comput. Mater. 7, 188 (2021), doi:10.1038/s41524-021-00656-9.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from orchestrator.config.read import load_campaign
from orchestrator.config.schema import CampaignConfig, Use
from orchestrator.domain import Array, Candidate, Dataset, Outcome, Proposal, Row, derive_seed
from orchestrator.errors import ConfigError, SpaceExhausted
from orchestrator.fitting import widen
from orchestrator.planner import Parts, Planner
from orchestrator.prospective import Judged
from orchestrator.protocols import FiniteSpace

BOOTSTRAP = 2000
"""Resamples of the seeds behind every interval; more change the bounds by less than their last printed digit."""


@dataclass(frozen=True, eq=False)
class Truth:
    """What is known of a pool.

    Args:
        candidates: n.
        utility: n larger-is-better numbers of the first objective.
        values: n × m values of the modelled properties, NaN where unknown.
    """

    candidates: tuple[Candidate, ...]
    utility: Array
    values: Array

    def best(self, share: float) -> frozenset[str]:
        """Return the ids of the best share of the pool, ties with the last one included."""
        count = max(1, int(np.ceil(share * len(self.utility))))
        bound = np.sort(self.utility)[::-1][count - 1]
        return frozenset(c.id for c, u in zip(self.candidates, self.utility, strict=True) if u >= bound)


@dataclass(frozen=True, eq=False)
class Trajectory:
    """One replayed campaign.

    Args:
        seed: of the campaign.
        chosen: candidate ids in the order of measurement.
        utility: of the first objective, in that order.
        seconds: wall time of training and choosing.
        judged: what was predicted of the chosen candidates, beside what came, by property.
    """

    seed: int
    chosen: tuple[str, ...]
    utility: Array
    seconds: float
    judged: Mapping[str, Judged] = field(default_factory=dict)

    def recall(self, best: frozenset[str]) -> Array:
        """Return the share of `best` found after 1, 2, … measurements."""
        found = np.cumsum([candidate in best for candidate in self.chosen])
        return np.asarray(found / len(best), dtype=float)


@dataclass(frozen=True)
class Interval:
    """A median over seeds with a 90 % bootstrap interval of that median."""

    median: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Score:
    """What one arm reached.

    Args:
        arm: its name.
        recall: by number of measurements.
        regret: best of the pool minus best found, by number of measurements, in the objective's unit.
        enhancement: recall divided by that of random choice, by number of measurements.
        acceleration: measurements that random choice needs, divided by those of the arm, by recall reached.
        seconds: of training and choosing, per campaign.
    """

    arm: str
    recall: Mapping[int, Interval]
    regret: Mapping[int, Interval]
    enhancement: Mapping[int, Interval]
    acceleration: Mapping[str, Interval] = field(default_factory=dict)
    seconds: float = 0.0


def prepare(file: str | Path, data: str | Path | None) -> tuple[CampaignConfig, Parts, Truth]:
    """Read a campaign file for replay.

    Args:
        file: campaign file over a pool; each objective and constraint is a column that the pool keeps as an attribute.
        data: table to use instead of the pool's own path.

    Returns:
        The configuration, its parts, and what is known.

    Raises:
        ConfigError: the space cannot be listed, or a property has no column.
    """
    loaded = load_campaign(file)
    config = loaded.config
    if data is not None:
        options = {**config.space.options, "path": str(Path(data).resolve())}
        config = CampaignConfig.model_validate(
            {**config.snapshot(), "space": {"use": config.space.use, "options": options}}
        )
    parts = Parts.build(config, base=loaded.base, allowed_modules=loaded.lab.allowed_modules)
    return config, parts, known(config, parts, file=str(file))


def known(config: CampaignConfig, parts: Parts, *, file: str = "") -> Truth:
    """Gather what the pool's kept columns say of the modelled properties.

    Raises:
        ConfigError: the space cannot be listed, or a property has no column.
    """
    problem = config.problem()
    if not isinstance(parts.space, FiniteSpace):
        message = f"replay needs a space that can be listed, such as a pool; {config.space.use!r} cannot"
        raise ConfigError(message, file=file, key="space.use")
    candidates = tuple(parts.space.candidates())
    missing = [name for name in problem.properties if name not in candidates[0].attributes]
    if missing:
        message = f"replay finds no column for {', '.join(missing)}: list it under space.options.keep"
        raise ConfigError(message, file=file, key="space.options.keep")
    values = np.array([[float(c.attributes[name]) for name in problem.properties] for c in candidates])
    objective = problem.objectives[0]
    utility = objective.utility(values[:, problem.properties.index(objective.property)])
    return Truth(candidates, utility, values)


def replay_once(config: CampaignConfig, parts: Parts, truth: Truth, seed: int) -> Trajectory:
    """Run one campaign against the table, in rounds of `parallel`.

    Args:
        config: the campaign; its budget caps the number of measurements.
        parts: its plug-ins.
        truth: the answers.
        seed: instead of the file's.

    Returns:
        What was measured, in order.
    """
    config = CampaignConfig.model_validate({**config.snapshot(), "seed": derive_seed(seed, 0, "replay") % 2**31})
    planner = Planner(config, parts)
    place = {candidate.id: i for i, candidate in enumerate(truth.candidates)}
    budget = min(config.budget.trials or len(place), len(place))
    rows: list[Row] = []
    chosen: list[str] = []
    fits, fitted, decision, seconds = 0, None, 0, 0.0
    surrogate, told, widened = None, _Told(planner.problem.properties), dict[str, float]()
    while len(chosen) < budget:
        started = time.perf_counter()
        dataset = Dataset(tuple(rows))
        initial = planner.is_initial(len(chosen), dataset)
        if not initial and planner.refit_due(dataset, fitted):
            fits += 1
            surrogate, report, _ = planner.train(fits, dataset, None)
            fitted, widened = report.labels, widen(surrogate, told.judged())
        decision += 1
        wanted = config.initial.trials - len(chosen) if initial else config.parallel
        try:
            made = planner.choose(
                decision,
                q=min(wanted, budget - len(chosen)),
                initial=initial,
                dataset=dataset,
                pending=(),
                closed=frozenset(chosen),
                surrogate=surrogate,
            ).proposals
        except SpaceExhausted:
            break
        seconds += time.perf_counter() - started
        for proposal in made:
            chosen.append(proposal.candidate.id)
            rows.extend(_answers(planner, truth, place[proposal.candidate.id], trial=len(chosen)))
            told.add(len(chosen), proposal, truth.values[place[proposal.candidate.id]], widened)
    utility = truth.utility[[place[i] for i in chosen]]
    return Trajectory(seed, tuple(chosen), utility, seconds, told.judged())


class _Told:
    """What proposals said, and what the table says."""

    def __init__(self, properties: Sequence[str]) -> None:
        self._rows: dict[str, list[tuple[int, str, float, float, float, float]]] = {name: [] for name in properties}

    def add(self, trial: int, proposal: Proposal, values: Array, widened: Mapping[str, float]) -> None:
        """Take in one proposal with the values of the modelled properties; the initial design said nothing."""
        for (name, rows), value in zip(self._rows.items(), values, strict=True):
            if name in proposal.mean and proposal.sd.get(name, 0.0) > 0 and np.isfinite(value):
                said = (proposal.mean[name], proposal.sd[name], float(value), widened.get(name, 1.0))
                rows.append((trial, proposal.candidate.label, *said))

    def judged(self) -> dict[str, Judged]:
        """Return predictions beside values, by property; without those of which there is none."""
        return {name: Judged.of_rows(name, rows) for name, rows in self._rows.items() if rows}


def _answers(planner: Planner, truth: Truth, place: int, trial: int) -> list[Row]:
    """Turn the table's line of one candidate into dataset rows."""
    candidate = truth.candidates[place]
    return [
        Row(
            trial=trial,
            candidate=candidate,
            applied=dict(candidate.parameters),
            property=name,
            value=float(value),
            std_error=None,
            outcome=Outcome.MEASURED,
            measurement=trial * len(planner.problem.properties) + j,
        )
        for j, (name, value) in enumerate(zip(planner.problem.properties, truth.values[place], strict=True))
        if np.isfinite(value)
    ]


def arms(config: CampaignConfig, against: Sequence[str]) -> dict[str, CampaignConfig]:
    """Return the campaign itself and the same with other acquisition policies.

    Args:
        config: the campaign; its arm is called ``matloop``.
        against: names of acquisition policies, such as ``random`` and ``greedy``.
    """
    made = {"matloop": config}
    for name in against:
        made[name] = CampaignConfig.model_validate({**config.snapshot(), "acquisition": Use(use=name).model_dump()})
    return made


def replay(
    file: str | Path,
    *,
    data: str | Path | None,
    seeds: Sequence[int],
    against: Sequence[str] = ("random", "greedy"),
    share: float = 0.01,
    progress: Callable[[str, int], None] = lambda _arm, _seed: None,
) -> list[Score]:
    """Replay a campaign file and its controls over several seeds.

    Args:
        file: the campaign file.
        data: table to use instead of the pool's own path.
        seeds: one campaign each, the same starts for every arm.
        against: acquisition policies to compare with.
        share: of the pool that counts as the best.
        progress: called before each campaign.

    Returns:
        One score an arm.
    """
    config, _, truth = prepare(file, data)
    base = str(Path(file).resolve().parent)
    scores = []
    for arm, variant in arms(config, against).items():
        parts = Parts.build(variant, base=base)
        done = []
        for seed in seeds:
            progress(arm, seed)
            done.append(replay_once(variant, parts, truth, seed))
        scores.append(score(arm, done, truth, share))
    return scores


def score(arm: str, trajectories: Sequence[Trajectory], truth: Truth, share: float) -> Score:
    """Score the campaigns of one arm.

    Args:
        arm: its name.
        trajectories: one a seed.
        truth: the answers.
        share: of the pool that counts as the best.
    """
    best = truth.best(share)
    pool = len(truth.candidates)
    curves = np.array([t.recall(best) for t in trajectories])
    regrets = np.array([truth.utility.max() - np.maximum.accumulate(t.utility) for t in trajectories])
    marks = sorted({m for m in (10, 20, 50, 100, 120, 200, 500, 1000, curves.shape[1]) if m <= curves.shape[1]})
    return Score(
        arm=arm,
        recall={m: interval(curves[:, m - 1]) for m in marks},
        regret={m: interval(regrets[:, m - 1]) for m in marks},
        enhancement={m: interval(curves[:, m - 1] / (m / pool)) for m in marks},
        acceleration={
            f"{level:.0%}": interval([expected_at_random(level, len(best), pool) / _reached(c, level) for c in curves])
            for level in (0.2, 0.5, 0.8)
            if (curves[:, -1] >= level).all()
        },
        seconds=float(np.median([t.seconds for t in trajectories])),
    )


def expected_at_random(level: float, hits: int, pool: int) -> float:
    """Return how many random choices without replacement are expected to find a share of the hits.

    Args:
        level: share of the hits wanted.
        hits: how many there are.
        pool: size of the pool.

    Returns:
        k (N + 1) / (K + 1), the expected place of the k-th of K hits among N.
    """
    return int(np.ceil(level * hits - 1e-9)) * (pool + 1) / (hits + 1)


def _reached(curve: Array, level: float) -> int:
    """Return after how many measurements a recall curve first reaches a level."""
    return int(np.argmax(curve >= level - 1e-9)) + 1


def interval(values: Any, seed: int = 0) -> Interval:
    """Return the median over seeds and the 90 % bootstrap interval of that median.

    Args:
        values: one number a seed.
        seed: of the resampling.
    """
    data = np.asarray(values, dtype=float)
    draws = np.median(np.random.default_rng(seed).choice(data, size=(BOOTSTRAP, len(data))), axis=1)
    low, high = np.quantile(draws, [0.05, 0.95])
    return Interval(float(np.median(data)), float(low), float(high), len(data))


def as_json(scores: Sequence[Score], *, work: str, command: str) -> dict[str, Any]:
    """Write scores as rows of who, metric, unit, median, low, high, n."""
    rows: list[dict[str, Any]] = []
    for one in scores:
        for kind, unit, table in (
            ("recall", "share", one.recall),
            ("regret", "objective", one.regret),
            ("enhancement", "ratio", one.enhancement),
            ("acceleration", "ratio", one.acceleration),
        ):
            rows.extend(
                {"who": one.arm, "metric": f"{kind}_{mark}", "unit": unit, **vars(value)}
                for mark, value in table.items()
            )
        rows.append({"who": one.arm, "metric": "seconds", "unit": "s", "median": one.seconds, "n": 1})
    return {"benchmark": "replay", "work": work, "command": command, "rows": rows}
