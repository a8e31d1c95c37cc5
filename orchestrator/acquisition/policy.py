"""What every acquisition policy shares: the open candidates, the fall-back, how proposals are written down."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from orchestrator.acquisition.expense import PerExpense
from orchestrator.acquisition.fantasies import Fantasy
from orchestrator.acquisition.features import describe, distances
from orchestrator.acquisition.open import open_count
from orchestrator.acquisition.situation import CHUNK, NonFiniteValues, Situation, check_finite, predict
from orchestrator.domain import Array, Candidate, Dataset, DecisionSummary, Problem, Proposal, frozen
from orchestrator.errors import SpaceExhausted
from orchestrator.protocols import FiniteSpace, Options, SearchSpace, Support, Surrogate

__all__ = [
    "CHUNK",
    "NEAREST",
    "NonFiniteValues",
    "Pick",
    "Policy",
    "PolicyOptions",
    "Situation",
    "check_finite",
    "predict",
]

NEAREST = 3
"""Measured neighbours named with each proposal; people compare with a few, not with many."""


class PolicyOptions(Options):
    """Options that every policy has.

    Args:
        epsilon: differences up to this, in the objective's unit, do not count as an improvement in the summary that
            stopping rules read; with several objectives, a fraction of the dominated hypervolume.
        feasibility: count how likely a trial is to yield a value at all, as the surrogate learned it from failed
            trials; nothing changes before the first failure.
        per_expense: how much the price and the duration of a trial count, where the campaign's ``expenses`` make
            candidates differ.
        most_per_system: how many candidates of one chemical system (set of elements) a batch may have, those in flight
            counted; no cap by default. Where it leaves too few, the batch is filled up all the same, and says so.
        pending: what trials in flight and earlier picks of a batch are taken to yield: ``draws`` (in each drawn
            function its own value), ``believer`` (the mean) or ``pessimistic`` (one standard deviation worse).
    """

    epsilon: float = Field(default=0.0, ge=0.0)
    feasibility: bool = True
    per_expense: PerExpense = PerExpense()
    most_per_system: int | None = Field(default=None, ge=1)
    pending: Fantasy = "draws"


@dataclass(frozen=True, eq=False)
class Pick:
    """One chosen candidate before it is written down as a proposal."""

    candidate: Candidate
    score: float | None
    reason: str
    details: Mapping[str, Any] = field(default_factory=frozen)


class Policy(ABC):
    """Base of the built-in policies: a pure function of its arguments.

    Args:
        options: see `Options`.
    """

    Options: ClassVar[type[PolicyOptions]] = PolicyOptions
    name: ClassVar[str]

    def __init__(self, options: PolicyOptions | None = None) -> None:
        self.options = options if options is not None else self.Options()

    def needs(self) -> frozenset[Support]:
        """Name what the surrogate must support."""
        return frozenset()

    @abstractmethod
    def pick(self, situation: Situation) -> list[Pick]:
        """Choose up to q open candidates, best first.

        Raises:
            NonFiniteValues: numbers that cannot be ranked.
            SpaceExhausted: nothing is left.
        """

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
        """Choose up to q candidates; see `AcquisitionPolicy.select`."""
        shut = frozenset(closed) | {c.id for c in pending} | {row.candidate.id for row in dataset.rows}
        situation = Situation(
            surrogate if self.needs() else None,
            space,
            q,
            problem,
            dataset,
            tuple(pending),
            shut,
            costs,
            seed,
            feasibility=self.options.feasibility,
            per_expense=self.options.per_expense,
            most_per_system=self.options.most_per_system,
            fantasy=self.options.pending,
        )
        if q < 1:
            return ()
        fallback = ""
        try:
            picks = self.pick(situation)
        except NonFiniteValues as error:
            fallback = str(error)
            picks = self._fall_back(situation, fallback)
        if not picks:
            raise SpaceExhausted(_EXHAUSTED)
        return self._written(situation, picks, fallback)

    def summary(
        self,
        surrogate: Surrogate | None,
        space: SearchSpace,
        *,
        q: int = 1,
        problem: Problem,
        dataset: Dataset,
        pending: Sequence[Candidate],
        closed: frozenset[str],
        costs: Mapping[str, float],
        seed: int,
    ) -> DecisionSummary:
        """Say what this decision knew, for stopping rules; same arguments as `select`."""
        from orchestrator.acquisition.summary import summarise  # noqa: PLC0415  summary builds on this module

        del q, costs
        shut = frozenset(closed) | {row.candidate.id for row in dataset.rows}
        return summarise(
            surrogate if self.needs() else None,
            space,
            problem,
            dataset,
            shut,
            seed,
            pending=tuple(pending),
            epsilon=self.options.epsilon,
            feasibility=self.options.feasibility,
        )

    def _fall_back(self, situation: Situation, why: str) -> list[Pick]:
        from orchestrator.acquisition.designs import Diverse  # noqa: PLC0415  Diverse is a Policy itself

        return [
            Pick(
                pick.candidate,
                None,
                f"chosen for diversity, because the surrogate cannot be used ({why}): {pick.reason}",
                {**pick.details, "fallback": "diverse", "why": why},
            )
            for pick in Diverse().pick(situation)
        ]

    def _written(self, situation: Situation, picks: list[Pick], fallback: str) -> tuple[Proposal, ...]:
        chosen = [pick.candidate for pick in picks]
        properties = situation.problem.properties
        mean: list[Mapping[str, float]] = [{}] * len(chosen)
        sd: list[Mapping[str, float]] = [{}] * len(chosen)
        if situation.surrogate is not None and not fallback:
            prediction = situation.surrogate.predict(chosen)
            mean = [dict(zip(properties, map(float, row), strict=True)) for row in prediction.mean]
            sd = [dict(zip(properties, map(float, row), strict=True)) for row in prediction.sd]
        neighbours, apart = _nearest(situation, chosen)
        odds = _odds(situation, chosen)
        expenses = _expenses(situation, chosen)
        beyond = _beyond(situation, chosen)
        common = {"pending": len(situation.pending), "seed": situation.seed}
        if isinstance(situation.space, FiniteSpace):
            common["open"] = open_count(situation.space, situation.closed) or 0
        return tuple(
            Proposal(
                candidate=pick.candidate,
                policy=self.name,
                reason=pick.reason,
                score=pick.score,
                mean=frozen(mean[i]),
                sd=frozen(sd[i]),
                details=frozen(
                    {
                        "rank": i + 1,
                        **common,
                        "nearest_measured": neighbours[i],
                        "nearest_distances": apart[i],
                        **odds[i],
                        **expenses[i],
                        **beyond[i],
                        **pick.details,
                    }
                ),
            )
            for i, pick in enumerate(picks)
        )

    @staticmethod
    def pool(situation: Situation, size: int) -> list[Candidate]:
        """Return the open candidates in the order of their ids; see `to_choose_from`.

        Raises:
            SpaceExhausted: there are none.
        """
        from orchestrator.acquisition.narrowed import to_choose_from  # noqa: PLC0415  it builds on draws, draws on this

        found = to_choose_from(situation, size)
        if not found:
            raise SpaceExhausted(_EXHAUSTED)
        return found


_EXHAUSTED = (
    "no candidate is left to propose: every one is measured, in flight or closed; widen the space, lift a veto, or"
    " let the campaign end"
)


def _nearest(situation: Situation, chosen: Sequence[Candidate]) -> tuple[list[list[str]], list[list[float]]]:
    """Return ids of the measured neighbours of each pick, and how far they are in elements and parameters."""
    measured = list({c.id: c for c in situation.dataset.labels(situation.problem.properties).candidates}.values())
    if not measured:
        return [[] for _ in chosen], [[] for _ in chosen]
    features = describe([*chosen, *measured], situation.space)
    apart: Array = distances(features[: len(chosen)], features[len(chosen) :])
    order = np.argsort(apart, axis=1, kind="stable")[:, :NEAREST]
    return (
        [[measured[j].id for j in row] for row in order],
        [[round(float(apart[i, j]), 6) for j in row] for i, row in enumerate(order)],
    )


def _odds(situation: Situation, chosen: Sequence[Candidate]) -> list[dict[str, float]]:
    """Say how likely each trial is to yield a value, where failed trials have told something."""
    try:
        if situation.predictor is None:
            return [{} for _ in chosen]
        return [{"probability_of_success": float(p)} for p in np.exp(situation.log_success(chosen))]
    except NonFiniteValues:
        return [{} for _ in chosen]


def _expenses(situation: Situation, chosen: Sequence[Candidate]) -> list[dict[str, dict[str, float]]]:
    """Say what each trial costs, the change-over from the pick before it included, where candidates differ in it."""
    if not situation.problem.expenses:
        return [{} for _ in chosen]
    written, before = [], situation.before
    for candidate in chosen:
        one = situation.problem.expense(candidate, before=before)
        written.append({"expense": {"cost": one.cost, "hours": one.hours}})
        before = candidate
    return written


def _beyond(situation: Situation, chosen: Sequence[Candidate]) -> list[dict[str, str]]:
    """Say of which pick the cap on chemical systems was lifted for want of others."""
    from orchestrator.acquisition.slots import lifted  # noqa: PLC0415  built on gains, which need the situation

    most = situation.most_per_system
    note = f"filled up beyond {most} of its chemical system: no other candidate is open"
    return [{"most_per_system": note} if beyond else {} for beyond in lifted(situation, chosen)]
