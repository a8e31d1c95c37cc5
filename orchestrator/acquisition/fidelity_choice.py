"""First the candidate, as if it were measured at the target; then the cheapest fidelity that is worth its price.

Two steps after BoFire's multi-fidelity strategy (Dürholt et al., 2024, arXiv:2408.05040): another policy picks the
candidate, and the fidelity is the one with the most information about the target's value per cost: the share of the
target's variance that a result would remove (Kennedy and O'Hagan, Biometrika 87, 1 (2000), doi:10.1093/biomet/87.1.1),
divided by the price. Cheap results that do not inform cost more than they save (Sabanza-Gil et al., 2024,
arXiv:2410.00544): so a gate asks the held-out labels and the shared points, and closes with its reason said. The target
is visited at least with every k-th pick, and alone towards the end of the budget.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import entry_points
from typing import Any, ClassVar

import numpy as np
from pydantic import Field, ValidationError, ValidationInfo, field_validator

from orchestrator.abilities import JudgesFidelities
from orchestrator.acquisition.visits import Visits
from orchestrator.domain import (
    TARGET,
    Array,
    Candidate,
    Dataset,
    DecisionSummary,
    Problem,
    Proposal,
    closed_at,
    frozen,
)
from orchestrator.protocols import AcquisitionPolicy, Options, SearchSpace, Support, Surrogate

GROUP = "matloop.acquisition"


class Choose(Options):
    """The policy that picks the candidate."""

    use: str = "log_expected_improvement"
    options: dict[str, Any] = Field(default_factory=dict)


class FidelityChoiceOptions(Options):
    """Options of `FidelityChoice`.

    Args:
        choose: the policy that picks the candidate: a name, or {use, options}.
        target_every: at least every so manieth pick is measured at the target.
        last_share: of the budget, in trials and in cost, in which only the target is measured.
        least_share: of the target's variance that a cheaper result has to remove.
        least_correlation: smallest rank correlation, either sign, of a fidelity with the target on shared candidates.
        least_shared: shared candidates below which that correlation is not asked.
        dearest: largest price of a cheaper fidelity, as a share of the target's.
    """

    choose: Choose = Choose()
    target_every: int = Field(default=4, ge=1)
    last_share: float = Field(default=0.2, ge=0.0, le=1.0)
    least_share: float = Field(default=0.1, ge=0.0, le=1.0)
    least_correlation: float = Field(default=0.7, ge=0.0, le=1.0)
    least_shared: int = Field(default=5, ge=3)
    dearest: float = Field(default=0.5, gt=0.0, le=1.0)

    @field_validator("choose", mode="before")
    @classmethod
    def _a_name_does(cls, value: Any) -> Any:
        return {"use": value} if isinstance(value, str) else value

    @field_validator("choose")
    @classmethod
    def _can_be_built(cls, value: Choose, info: ValidationInfo) -> Choose:
        _build(value, info.context)
        return value


class FidelityChoice:
    """Choose candidate and fidelity; see the module.

    Args:
        options: see `FidelityChoiceOptions`.
    """

    Options: ClassVar[type[FidelityChoiceOptions]] = FidelityChoiceOptions
    name = "fidelity_choice"

    def __init__(self, options: FidelityChoiceOptions | None = None) -> None:
        self.options = options or FidelityChoiceOptions()
        self._choose = _build(self.options.choose, None)

    def needs(self) -> frozenset[Support]:
        """Need what the policy needs that picks the candidate."""
        return self._choose.needs()

    def chooses_fidelity(self) -> bool:
        """Say so; see `ChoosesFidelity`."""
        return True

    def select(
        self,
        surrogate: Surrogate | None,
        space: SearchSpace,
        *,
        q: int,
        problem: Problem,
        dataset: Dataset,
        pending: Sequence[Candidate],
        closed: frozenset[str],
        costs: Mapping[str, float],
        seed: int,
    ) -> tuple[Proposal, ...]:
        """Choose up to q candidates, each with its fidelity; see `AcquisitionPolicy.select`.

        A candidate that was measured at a cheaper fidelity may come again at the target, and never twice at the same.
        """
        picks = self._choose.select(
            surrogate,
            space,
            q=q,
            problem=problem,
            dataset=dataset.of_target,
            pending=pending,
            closed=_bare(closed),
            costs=costs,
            seed=seed,
        )
        below = [fidelity.name for fidelity in problem.fidelities if fidelity.name != TARGET]
        if not below or not picks:
            return picks
        said = {name: self._gate(name, problem, dataset, costs) for name in below}
        informs = _informs(surrogate, [pick.candidate for pick in picks], below, dataset, problem)
        visits = Visits.count(problem, dataset, pending, closed)
        made = []
        for pick, shares in zip(picks, informs, strict=True):
            forced = self._forced(visits, problem)
            prices = {
                name: costs.get(name, problem.fidelity(name).cost) + problem.expenses.of(pick.candidate).cost
                for name in [*below, TARGET]
            }
            worth = dict(zip(below, shares.tolist(), strict=True))
            name, why = self._level(pick.candidate, worth, prices, said=said, closed=closed, forced=forced)
            visits = visits.after(name, prices[name])
            details = {
                **pick.details,
                "fidelity_why": why,
                "removes": {one: round(share, 4) for one, share in worth.items()},
                "prices": prices,
            }
            made.append(replace(pick, fidelity=name, reason=f"{pick.reason}; {why}", details=frozen(details)))
        return tuple(made)

    def summary(
        self,
        surrogate: Surrogate | None,
        space: SearchSpace,
        *,
        problem: Problem,
        dataset: Dataset,
        closed: frozenset[str],
        **rest: Any,
    ) -> DecisionSummary:
        """Say what this decision knew of the target, for stopping rules."""
        describe = getattr(self._choose, "summary", None)
        if describe is None:
            return DecisionSummary()
        known = {"problem": problem, "dataset": dataset.of_target, "closed": _bare(closed)}
        answer: DecisionSummary = describe(surrogate, space, **known, **rest)
        return answer

    # --- inside -----------------------------------------------------------------------------------------------------

    def _gate(self, name: str, problem: Problem, dataset: Dataset, costs: Mapping[str, float]) -> str:
        """Say why a fidelity is not used at all; empty where it is."""
        price, full = (costs.get(one, problem.fidelity(one).cost) for one in (name, TARGET))
        if price > self.options.dearest * full:
            return f"{name} costs {price:g}, more than {self.options.dearest:g} of the target's {full:g}"
        correlation, shared = rank_correlation(dataset, problem, name)
        if shared >= self.options.least_shared and abs(correlation) < self.options.least_correlation:
            return f"{name} does not inform: rank correlation {correlation:.2f} on {shared} shared candidates"
        return ""

    def _forced(self, visits: Visits, problem: Problem) -> str:
        """Say why this pick has to be measured at the target; empty where it has not."""
        if visits.since_target + 1 >= self.options.target_every:
            return f"every {self.options.target_every}. pick at least is measured at the target"
        budget, left = problem.budget, 1.0 - self.options.last_share
        if budget.trials is not None and visits.trials >= left * budget.trials:
            return f"the last {self.options.last_share:.0%} of the trials are measured at the target"
        if budget.cost is not None and visits.cost >= left * budget.cost:
            return f"the last {self.options.last_share:.0%} of the budget go to the target"
        return ""

    def _level(
        self,
        candidate: Candidate,
        worth: Mapping[str, float],
        prices: Mapping[str, float],
        *,
        said: Mapping[str, str],
        closed: frozenset[str],
        forced: str,
    ) -> tuple[str, str]:
        """Return the fidelity of one pick, and why."""
        if forced:
            return TARGET, f"at the target: {forced}"
        best, reasons = TARGET, []
        rate = 1.0 / prices[TARGET] if prices[TARGET] > 0 else np.inf
        for name, share in worth.items():
            if said[name]:
                reasons.append(said[name])
            elif closed_at(candidate.id, name) in closed:
                reasons.append(f"{name} is measured already")
            elif share <= 0.0:
                reasons.append(f"held-out labels do not show that {name} tells anything of the target")
            elif share < self.options.least_share:
                reasons.append(f"{name} would remove {share:.0%} of the target's variance here")
            elif share > rate * prices[name]:
                best, rate = name, share / prices[name] if prices[name] > 0 else np.inf
        if best == TARGET:
            return TARGET, f"at the target: {'; '.join(reasons) or 'nothing cheaper tells as much per cost'}"
        return best, (
            f"at {best}: it would remove {worth[best]:.0%} of the target's variance for"
            f" {prices[best]:g} instead of {prices[TARGET]:g}"
        )


def rank_correlation(dataset: Dataset, problem: Problem, fidelity: str) -> tuple[float, int]:
    """Return Spearman's rank correlation of a fidelity with the target on shared candidates, and their number.

    Of several properties the one counts that the fidelity informs about best. A candidate that was measured more than
    once counts with its first value.
    """
    from scipy.stats import spearmanr  # noqa: PLC0415  slow to import

    low, high = _values(dataset, problem, fidelity), _values(dataset, problem, TARGET)
    shared = sorted(low.keys() & high.keys())
    best, most = 0.0, 0
    for j in range(len(problem.properties)):
        pairs = np.array([(low[key][j], high[key][j]) for key in shared]).reshape(-1, 2)
        pairs = pairs[np.isfinite(pairs).all(axis=1)]
        if len(pairs) < 3 or np.ptp(pairs[:, 0]) == 0 or np.ptp(pairs[:, 1]) == 0:  # noqa: PLR2004  two points always agree
            continue
        found = float(spearmanr(pairs[:, 0], pairs[:, 1]).statistic)
        best, most = (found, len(pairs)) if abs(found) >= abs(best) else (best, most)
    return best, most or len(shared)


def _values(dataset: Dataset, problem: Problem, fidelity: str) -> dict[str, Array]:
    labels = dataset.labels(problem.properties, fidelity)
    first: dict[str, Array] = {}
    for candidate, values in zip(labels.candidates, labels.values, strict=True):
        first.setdefault(candidate.id, values)
    return first


def _informs(
    surrogate: Surrogate | None,
    candidates: Sequence[Candidate],
    below: Sequence[str],
    dataset: Dataset,
    problem: Problem,
) -> Array:
    """Return the share of the target's variance that a result of each fidelity would remove, n × fidelities.

    A surrogate that cannot tell has learned from the target alone; then the shared candidates say what they can.
    """
    judge: object = surrogate  # mypy takes the two protocols to exclude each other
    if isinstance(judge, JudgesFidelities):
        return judge.informs(candidates, below)
    shares = [rank_correlation(dataset, problem, name)[0] ** 2 for name in below]
    return np.tile(np.array(shares), (len(candidates), 1))


def _bare(closed: frozenset[str]) -> frozenset[str]:
    """Return what is closed at the target."""
    return frozenset(key for key in closed if "@" not in key)


def _build(chosen: Choose, context: Any) -> AcquisitionPolicy:
    points = {point.name: point for point in entry_points(group=GROUP)}
    if chosen.use not in points or chosen.use == FidelityChoice.name:
        names = ", ".join(sorted(points.keys() - {FidelityChoice.name}))
        message = f"there is no acquisition policy {chosen.use!r} to choose with; there are: {names}"
        raise ValueError(message)
    kind = points[chosen.use].load()
    try:
        made: AcquisitionPolicy = kind(kind.Options.model_validate(chosen.options, context=context))
    except ValidationError as error:
        first = error.errors()[0]
        message = f"option {'.'.join(map(str, first['loc']))!r} of {chosen.use}: {first['msg']}"
        raise ValueError(message) from error
    return made
