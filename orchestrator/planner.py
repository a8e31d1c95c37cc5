"""Plans: trains the surrogate when that is due, and chooses what to measure next.

Nothing is remembered here but caches. Every answer is a function of what is passed in: the dataset, the pending and the
closed candidates, the fit, and the number that the seed is derived from. That is what lets `matloop verify
--decisions` recompute any decision, and lets replay use the same code without a store.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from orchestrator import plugins
from orchestrator.abilities import ChoosesFidelity
from orchestrator.config.base import Use
from orchestrator.config.defaults import IMPORTED, MULTI_FIDELITY, default_surrogate
from orchestrator.config.schema import CampaignConfig
from orchestrator.domain import (
    TARGET,
    Candidate,
    Dataset,
    DecisionSummary,
    FitReport,
    Problem,
    Proposal,
    derive_seed,
)
from orchestrator.errors import ConfigError, NotEnoughData, SpaceExhausted, Unaffordable
from orchestrator.protocols import (
    AcquisitionPolicy,
    DerivedProperty,
    LooksAtSpace,
    SearchSpace,
    StoppingRule,
    Surrogate,
)
from orchestrator.purse import Purse, pay, too_expensive
from orchestrator.shared_points import at_every_fidelity

TRIES = 20
"""Times that a policy is asked again for something that can be paid."""


@dataclass(frozen=True)
class Parts:
    """The plug-ins of one campaign, built."""

    space: SearchSpace
    surrogate: Use
    policy: AcquisitionPolicy
    initial: AcquisitionPolicy
    stopping: Mapping[str, StoppingRule]
    derived: Mapping[str, DerivedProperty]
    base: str | None
    allowed_modules: tuple[str, ...]

    @classmethod
    def build(cls, config: CampaignConfig, *, base: str | None, allowed_modules: Sequence[str] = ()) -> Parts:
        """Build every plug-in that choosing needs; instruments are built by the campaign.

        Args:
            config: the campaign.
            base: folder that relative paths start from.
            allowed_modules: see `plugins.load`.

        Returns:
            The parts.

        Raises:
            PluginError: a plug-in or an option is wrong.
            SpaceError: the space has no candidates.
        """

        def make(kind: str, use: str, options: Mapping[str, Any]) -> Any:
            return plugins.build(kind, use, options, base=base, allowed_modules=allowed_modules)

        space: SearchSpace = make("spaces", config.space.use, config.space.options)
        initial = config.initial.use if config.initial.use != IMPORTED else "diverse"
        initial_options = config.initial.options if config.initial.use != IMPORTED else {}
        return cls(
            space=space,
            surrogate=config.surrogate or default_surrogate(space, config),
            policy=make("acquisition", config.acquisition.use, config.acquisition.options),
            initial=make("acquisition", initial, initial_options),
            stopping={rule.use: make("stopping", rule.use, rule.options) for rule in config.stop},
            derived={d.property: make("derived", d.use, d.options) for d in config.derived},
            base=base,
            allowed_modules=tuple(allowed_modules),
        )

    def new_surrogate(self) -> Surrogate:
        """Build a surrogate that has learned nothing yet."""
        made: Surrogate = plugins.build(
            "surrogates",
            self.surrogate.use,
            self.surrogate.options,
            base=self.base,
            allowed_modules=self.allowed_modules,
        )
        if isinstance(made, LooksAtSpace):
            made.look_at(self.space)
        return made


@dataclass(frozen=True)
class Chosen:
    """What one decision chose.

    Args:
        proposals: best first.
        policy: name of the policy that chose.
        purpose: ``initial`` or ``acquisition``.
        seed: derived from the campaign's seed and the decision's number.
        summary: for stopping rules.
        seconds: wall time.
    """

    proposals: tuple[Proposal, ...]
    policy: str
    purpose: str
    seed: int
    summary: DecisionSummary
    seconds: float


class Planner:
    """Trains and chooses for one campaign configuration.

    Args:
        config: the campaign.
        parts: its plug-ins.
    """

    def __init__(self, config: CampaignConfig, parts: Parts) -> None:
        self.config = config
        self.parts = parts
        self.problem: Problem = config.problem()
        self._surrogate: Surrogate | None = None
        self._holds: Path | None = None

    @property
    def learns(self) -> bool:
        """Whether the acquisition policy asks a surrogate at all."""
        return bool(self.parts.policy.needs())

    def labels(self, dataset: Dataset) -> int:
        """Count the trials that have a value to learn from, at any fidelity that the surrogate learns from."""
        fidelities = dataset.fidelities if self.parts.surrogate.use == MULTI_FIDELITY else (TARGET,)
        return sum(len(dataset.labels(self.problem.properties, one)) for one in fidelities)

    def fitted_labels(self, fit_labels: int, seen: Collection[int], dataset: Dataset) -> int:
        """Count the labels of a fit as `labels` does.

        Args:
            fit_labels: labels of the target, as its report says.
            seen: tokens of the rows that it was trained on.
            dataset: what is known.
        """
        if self.parts.surrogate.use != MULTI_FIDELITY:
            return fit_labels
        return self.labels(dataset.seen(seen))

    def is_initial(self, planned: int, dataset: Dataset) -> bool:
        """Say whether the next trials belong to the initial design.

        Args:
            planned: trials planned so far, imported ones not counted.
            dataset: what is known.

        Returns:
            True until the initial trials are planned, and while a learning policy has nothing to learn from.
        """
        wanted = 0 if self.config.initial.use == IMPORTED else self.config.initial.trials
        return planned < wanted or (self.learns and self.labels(dataset) == 0)

    def refit_due(self, dataset: Dataset, fitted_labels: int | None) -> bool:
        """Say whether the surrogate must be trained fully before the next decision.

        Args:
            dataset: what is known.
            fitted_labels: labels of the last fit; None where there is none.

        Returns:
            True if there is no fit, or `refit.every` new labels have come in since.
        """
        if not self.learns:
            return False
        return fitted_labels is None or self.labels(dataset) >= fitted_labels + self.config.refit.every

    def cold_due(self, labels: int, cold_labels: int) -> bool:
        """Say whether a training has to start from scratch because there is so much more to learn from.

        Args:
            labels: present number.
            cold_labels: number at the last training from scratch.

        Returns:
            True if the labels are `refit.cold_growth` times as many.
        """
        return labels >= cold_labels * self.config.refit.cold_growth

    def train(self, number: int, dataset: Dataset, parent: Path | None) -> tuple[Surrogate, FitReport, int]:
        """Train fully, from the parent fit where there is one.

        Args:
            number: of the fit, counted from 1.
            dataset: what is known.
            parent: folder of the fit to start from; None trains from nothing.

        Returns:
            The surrogate, its report, and the seed used.

        Raises:
            NotEnoughData: too few labels.
        """
        seed = derive_seed(self.config.seed, number, "fit")
        surrogate = self._surrogate or self.parts.new_surrogate()
        self._holds = None  # whatever happens below, what it held is gone
        if parent is None:
            surrogate = self.parts.new_surrogate()
        else:
            surrogate.load(parent, self.problem)
        started = time.perf_counter()
        report = surrogate.fit(dataset, self.problem, seed)
        report = replace(report, seconds=time.perf_counter() - started, warm=parent is not None and report.warm)
        self._surrogate = surrogate
        return surrogate, report, seed

    def restore(self, folder: Path) -> Surrogate:
        """Read a stored fit, unless the surrogate at hand holds it already: then its caches of the pool still serve.

        Args:
            folder: of the fit, named by its content.

        Returns:
            The surrogate; `update` brings it to any dataset.
        """
        surrogate = self._surrogate or self.parts.new_surrogate()
        if self._holds != folder:
            surrogate.load(folder, self.problem)
        self._surrogate, self._holds = surrogate, folder
        return surrogate

    def choose(
        self,
        number: int,
        *,
        q: int,
        initial: bool,
        dataset: Dataset,
        pending: Sequence[Candidate],
        closed: frozenset[str],
        surrogate: Surrogate | None,
        purse: Purse | None = None,
        summarised: bool = True,
    ) -> Chosen:
        """Choose up to q candidates.

        Args:
            number: of the decision, counted from 1; the seed is derived from it.
            q: how many are wanted.
            initial: whether the initial design chooses.
            dataset: what is known.
            pending: planned or in flight.
            closed: what must not be proposed: ids, and at one fidelity `closed_at` names.
            surrogate: holding the fit; it is updated to `dataset` here.
            purse: what may be spent, where a trial's price follows `expenses`.
            summarised: whether stopping rules will read the summary; a decision on a pool takes a quarter less without
                it.

        Returns:
            The choice.

        Raises:
            SpaceExhausted: nothing is left to propose; `Unaffordable` where the budget pays for nothing.
        """
        seed = derive_seed(self.config.seed, number, "select")
        policy = self.parts.initial if initial else self.parts.policy
        name = (self.config.initial.use if initial else self.config.acquisition.use).replace(IMPORTED, "diverse")
        asked = surrogate if policy.needs() else None
        if policy.needs() and asked is None:
            message = f"policy {name!r} needs a surrogate, and there is no fit yet"
            raise NotEnoughData(message)
        started = time.perf_counter()
        if asked is not None:
            asked.update(dataset)
        several = isinstance(self.parts.policy, ChoosesFidelity) and len(self.problem.fidelities) > 1
        arguments: dict[str, Any] = {
            "problem": self.problem,
            "dataset": dataset if several else dataset.of_target,
            "pending": tuple(pending),
            "closed": closed if several else frozenset(key for key in closed if "@" not in key),
            "costs": {f.name: f.cost for f in self.problem.fidelities},
            "seed": seed,
        }
        select = policy.select
        if initial and several:
            select = partial(_at_every_fidelity, policy)
        proposals = self._affordable(partial(select, asked, self.parts.space), q, arguments, purse)
        if initial and several:
            arguments |= {"dataset": dataset.of_target, "closed": frozenset(k for k in closed if "@" not in k)}
        summary = _summary(policy, asked, self.parts.space, arguments) if summarised else DecisionSummary()
        return Chosen(
            proposals=proposals,
            policy=name,
            purpose="initial" if initial else "acquisition",
            seed=seed,
            summary=summary,
            seconds=time.perf_counter() - started,
        )

    def _affordable(
        self,
        select: Callable[..., tuple[Proposal, ...]],
        q: int,
        arguments: Mapping[str, Any],
        purse: Purse | None,
    ) -> tuple[Proposal, ...]:
        """Choose until the purse pays for something; what it does not pay for is closed."""
        proposals = select(q=q, **arguments)
        if purse is None:
            return proposals
        closed: frozenset[str] = arguments["closed"]
        for _ in range(TRIES):
            paid = pay(proposals, self.problem, purse, q)
            if paid.kept or not paid.dropped:
                return paid.kept
            closed |= too_expensive(self.parts.space, self.problem, purse, paid.dropped)
            try:
                proposals = select(q=q, **{**arguments, "closed": closed})
            except SpaceExhausted:
                break
        message = (
            f"what is left of the budget ({purse.left:g} cost units) pays for no further trial; raise budget.cost in"
            " the campaign file and run `matloop amend`, or let the campaign end"
        )
        raise Unaffordable(message)


def _at_every_fidelity(
    policy: AcquisitionPolicy, surrogate: Surrogate | None, space: SearchSpace, **arguments: Any
) -> tuple[Proposal, ...]:
    del surrogate  # an initial design has none
    return at_every_fidelity(policy, space, **arguments)


def _summary(
    policy: AcquisitionPolicy, surrogate: Surrogate | None, space: SearchSpace, arguments: Mapping[str, Any]
) -> DecisionSummary:
    """Ask the policy what the decision knew; a policy from elsewhere may not say."""
    describe = getattr(policy, "summary", None)
    if describe is None:
        return DecisionSummary()
    answer = describe(surrogate, space, **arguments)
    if not isinstance(answer, DecisionSummary):
        message = f"summary() of {type(policy).__name__} gave {type(answer).__name__}; a DecisionSummary was expected"
        raise ConfigError(message)
    return answer
