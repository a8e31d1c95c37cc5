"""What every acquisition policy shares: the open candidates, the fall-back, how proposals are written down."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from orchestrator.acquisition.features import describe, distances
from orchestrator.acquisition.open import open_candidates, open_count
from orchestrator.domain import (
    Array,
    Candidate,
    Dataset,
    DecisionSummary,
    Labels,
    Prediction,
    Problem,
    Proposal,
    derive_seed,
    frozen,
)
from orchestrator.errors import IncompatibleError, SpaceExhausted
from orchestrator.protocols import FiniteSpace, Options, SearchSpace, Support, Surrogate

CHUNK = 4096
"""Candidates predicted at once: bounds the memory of a graph network on a large pool."""
NEAREST = 3
"""Measured neighbours named with each proposal; people compare with a few, not with many."""


class PolicyOptions(Options):
    """Options that every policy has.

    Args:
        epsilon: differences up to this, in the objective's unit, do not count as an improvement in the summary that
            stopping rules read; with several objectives, a fraction of the dominated hypervolume.
    """

    epsilon: float = Field(default=0.0, ge=0.0)


class NonFiniteValues(Exception):
    """The surrogate or the acquisition function gave NaN or an infinity; the policy falls back to diversity."""


@dataclass(frozen=True, eq=False)
class Situation:
    """Everything that a decision may depend on.

    Args:
        surrogate: updated to `dataset`; None where none is needed.
        space: where candidates come from.
        q: how many are wanted.
        problem: objectives, constraints, fidelities, budget.
        dataset: what is known.
        pending: in flight.
        closed: ids that must not be proposed, the pending ones among them.
        costs: cost by fidelity.
        seed: for everything random.
    """

    surrogate: Surrogate | None
    space: SearchSpace
    q: int
    problem: Problem
    dataset: Dataset
    pending: tuple[Candidate, ...]
    closed: frozenset[str]
    costs: Mapping[str, float] = field(default_factory=frozen)
    seed: int = 0

    @property
    def trained(self) -> Surrogate:
        """The surrogate, where there must be one."""
        if self.surrogate is None:
            message = "this acquisition policy needs a surrogate, and the campaign has none; add the key 'surrogate'"
            raise IncompatibleError(message)
        return self.surrogate

    def labels(self) -> Labels:
        """Return the measured values of the modelled properties, one line a distinct measured point."""
        labels = self.dataset.labels(self.problem.properties)
        first: dict[tuple[str, str], int] = {}
        for i, candidate in enumerate(labels.candidates):
            first.setdefault((candidate.id, repr(sorted(candidate.parameters.items()))), i)
        keep = sorted(first.values())
        return Labels(
            trials=tuple(labels.trials[i] for i in keep),
            candidates=tuple(labels.candidates[i] for i in keep),
            values=labels.values[keep],
            std_errors=labels.std_errors[keep],
        )

    def seed_for(self, purpose: str) -> int:
        """Derive the seed of one purpose."""
        return derive_seed(self.seed, 0, purpose)


@dataclass(frozen=True, eq=False)
class Pick:
    """One chosen candidate before it is written down as a proposal."""

    candidate: Candidate
    score: float | None
    reason: str
    details: Mapping[str, Any] = field(default_factory=frozen)


def predict(surrogate: Surrogate, candidates: Sequence[Candidate]) -> Prediction:
    """Predict in chunks.

    Args:
        surrogate: trained.
        candidates: n.

    Returns:
        Means and standard deviations, n × m.

    Raises:
        NonFiniteValues: something is NaN or infinite.
    """
    parts = [surrogate.predict(candidates[i : i + CHUNK]) for i in range(0, len(candidates), CHUNK)]
    joined = Prediction(
        mean=np.concatenate([p.mean for p in parts]),
        epistemic=np.concatenate([p.epistemic for p in parts]),
        noise=np.concatenate([p.noise for p in parts]),
    )
    good = np.isfinite(joined.mean) & np.isfinite(joined.epistemic) & np.isfinite(joined.noise)
    check_finite(good.all(axis=-1), "predictions")
    return joined


def check_finite(good: Any, what: str) -> None:
    """Refuse a decision whose numbers are not finite.

    Args:
        good: n booleans.
        what: what was checked.

    Raises:
        NonFiniteValues: some are not.
    """
    bad = int(np.size(good) - np.count_nonzero(good))
    if bad:
        message = f"{bad} of {np.size(good)} {what} are not finite"
        raise NonFiniteValues(message)


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
            surrogate if self.needs() else None, space, q, problem, dataset, tuple(pending), shut, costs, seed
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
        neighbours = _nearest(situation, chosen)
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
                details=frozen({"rank": i + 1, **common, "nearest_measured": neighbours[i], **pick.details}),
            )
            for i, pick in enumerate(picks)
        )

    @staticmethod
    def pool(situation: Situation, size: int) -> list[Candidate]:
        """Return the open candidates in the order of their ids; for a box, `size` sampled ones.

        Raises:
            SpaceExhausted: there are none.
        """
        found = open_candidates(situation.space, situation.closed, size, situation.seed_for("sample"))
        if not found:
            raise SpaceExhausted(_EXHAUSTED)
        return found


_EXHAUSTED = (
    "no candidate is left to propose: every one is measured, in flight or closed; widen the space, lift a veto, or"
    " let the campaign end"
)


def _nearest(situation: Situation, chosen: Sequence[Candidate]) -> list[list[str]]:
    measured = list({c.id: c for c in situation.dataset.labels(situation.problem.properties).candidates}.values())
    if not measured:
        return [[] for _ in chosen]
    features = describe([*chosen, *measured], situation.space)
    apart: Array = distances(features[: len(chosen)], features[len(chosen) :])
    order = np.argsort(apart, axis=1, kind="stable")[:, :NEAREST]
    return [[measured[j].id for j in row] for row in order]
