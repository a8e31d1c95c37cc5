"""A campaign: the only stateful object, and its memory is the store.

It wires the parts together and decides nothing by itself: the planner chooses, the executor measures, the store
remembers. A restarted process builds it anew from the store, so a restart is just another turn of the loop.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from orchestrator import earlier, fitting, growth, measuring
from orchestrator.choosing import Choice, choose, purse_of, queue_of, settle
from orchestrator.config.amendments import differences, refuse_amendment
from orchestrator.config.check import check
from orchestrator.config.defaults import IMPORTED
from orchestrator.config.lab import LabConfig
from orchestrator.config.read import Loaded, load_campaign, load_lab
from orchestrator.config.schema import CampaignConfig
from orchestrator.domain import TARGET, Dataset, DerivedValue, Problem, Proposal, Quantity
from orchestrator.errors import ConfigError
from orchestrator.execution.clock import Clock
from orchestrator.execution.executor import Executor
from orchestrator.execution.told import tell, tell_failed
from orchestrator.planner import Parts, Planner
from orchestrator.protocols import CampaignView, Instrument
from orchestrator.ranking import Best, rank
from orchestrator.record.earlier import Kept
from orchestrator.record.states import CampaignState
from orchestrator.record.store import CampaignStore
from orchestrator.record.views import CampaignInfo, FitInfo, StepPlan, TrialInfo
from orchestrator.standing import OPEN, Standing


@dataclass(frozen=True)
class Plan:
    """What one decision planned.

    Args:
        decision: its number.
        trials: newly planned trials, best first.
        purpose: ``initial`` or ``acquisition``.
        policy: name of the policy that chose.
        seconds: wall time of the choice.
        kept: trials that waited and were chosen again.
        withdrawn: trials that waited and were not.
    """

    decision: int
    trials: tuple[TrialInfo, ...]
    purpose: str
    policy: str
    seconds: float
    kept: tuple[TrialInfo, ...] = ()
    withdrawn: tuple[TrialInfo, ...] = ()


class Campaign:
    """One campaign in one store. Build it with `create` or `open`.

    Args:
        store: the campaign database.
        name: of the campaign.
        config: the current revision.
        lab: the instruments of the site.
        base: folder that relative paths of the campaign file start from.
    """

    def __init__(
        self, store: CampaignStore, name: str, config: CampaignConfig, lab: LabConfig, base: str | None
    ) -> None:
        self.store = store
        self.name = name
        self.config = config
        self.lab = lab
        self.base = base
        self.problem: Problem = config.problem()
        self._planner: Planner | None = None

    # --- opening --------------------------------------------------------------------------------------------------

    @classmethod
    def create(
        cls,
        file: str | Path,
        *,
        store: CampaignStore,
        actor: str,
        name: str | None = None,
        lab: str | Path | None = None,
    ) -> Self:
        """Check a campaign file, and begin its campaign.

        Args:
            file: the campaign file.
            store: where it is recorded.
            actor: who begins it.
            name: instead of the name in the file.
            lab: lab file; default `lab.yaml` beside the campaign file, where there is one.

        Returns:
            The campaign, with results of `initial: {use: table}` already recorded.

        Raises:
            ConfigError: the file is wrong.
            StoreError: the name is taken.
        """
        return cls.begin(load_campaign(file, lab=lab), store=store, actor=actor, name=name)

    @classmethod
    def begin(cls, loaded: Loaded, *, store: CampaignStore, actor: str, name: str | None = None) -> Self:
        """Begin the campaign of a file that is already read; see `create`."""
        checked = check(loaded)
        config = loaded.config if name is None else _renamed(loaded.config, name)
        config = measuring.with_expense(config, checked.descriptions)
        taken = earlier.gather(store, loaded, checked.problem, checked.space)
        store.create_campaign(config, file=str(Path(loaded.file).resolve()) if loaded.file else "", actor=actor)
        if loaded.lab_file:
            store.set_link(config.name, "lab", str(Path(loaded.lab_file).resolve()))
        # as the store gives it back: keys in the order that a resumed process will see too
        config = CampaignConfig.model_validate(dict(store.campaign(config.name).config))
        campaign = cls(store, config.name, config, loaded.lab, loaded.base)
        if taken.rows:
            store.keep_earlier(config.name, Kept(taken.rows, taken.units))
        for notice in (*checked.notices, *taken.notices):
            store.add_event(config.name, kind="notice", actor="matloop", note=notice)
        if config.initial.use == IMPORTED:
            store.import_results(config.name, checked.past_results, actor=actor, units=campaign.problem.units)
        return campaign

    @classmethod
    def open(
        cls, name: str, *, store: CampaignStore, file: str | Path | None = None, lab: str | Path | None = None
    ) -> Self:
        """Open a campaign that exists.

        Args:
            name: of the campaign.
            store: where it is recorded.
            file: the campaign file, if it is to be compared with what is stored.
            lab: lab file, instead of the one the campaign was begun with.

        Returns:
            The campaign.

        Raises:
            StoreError: there is none of that name.
            ConfigError: the file says something else than the stored revision; the message shows the differences.
        """
        info = store.campaign(name)
        config = CampaignConfig.model_validate(dict(info.config))
        base = str(Path(info.file).parent) if info.file else None
        if file is not None:
            read = _renamed(load_campaign(file, lab=lab).config, name)
            changed = differences(config, measuring.with_known_expense(read, config))
            if changed:
                message = (
                    f"the file is not what campaign {name!r} runs (revision {info.revision}):\n  "
                    + "\n  ".join(changed)
                    + f"\nto adopt the changes: matloop amend {file}; to go on as before: matloop resume {name}"
                )
                raise ConfigError(message, file=str(file))
        lab_file = lab or info.links.get("lab")
        return cls(store, name, config, load_lab(lab_file) if lab_file else LabConfig(), base)

    def amend(self, file: str | Path, *, actor: str, lab: str | Path | None = None) -> list[str]:
        """Adopt a changed campaign file as a new revision.

        Args:
            file: the changed file.
            actor: who changes it.
            lab: lab file; default as in `create`.

        Returns:
            The differences, one line each; empty where there are none.

        Raises:
            ConfigError: the file is wrong, or changes what a recorded property means.
        """
        loaded = load_campaign(file, lab=lab)
        config = measuring.with_expense(_renamed(loaded.config, self.name), check(loaded).descriptions)
        changed = differences(self.config, config)
        if not changed:
            return []
        refuse_amendment(self.config, config, file=str(file))
        self.store.amend(self.name, config, actor=actor)
        if self.info.state is CampaignState.DONE:
            self.store.set_state(self.name, CampaignState.ACTIVE, actor=actor, reason="amended")
        config = CampaignConfig.model_validate(dict(self.info.config))
        self.config, self.problem, self.lab, self.base = config, config.problem(), loaded.lab, loaded.base
        self._planner = None
        return changed

    # --- looking --------------------------------------------------------------------------------------------------

    @property
    def info(self) -> CampaignInfo:
        """The campaign's row, read now."""
        return self.store.campaign(self.name)

    @property
    def planner(self) -> Planner:
        """The planner of the current revision, built at first use."""
        if self._planner is None:
            parts = Parts.build(self.config, base=self.base, allowed_modules=self.lab.allowed_modules)
            self._planner = Planner(self.config, parts)
        return self._planner

    @property
    def by_hand(self) -> bool:
        """Whether people measure and tell, for want of a procedure."""
        return not self.config.procedure

    def standing(self) -> Standing:
        """Look at how the campaign stands now."""
        return Standing(self.store, self.name, self.problem)

    def dataset(self) -> Dataset:
        """Read what is known, in the problem's units."""
        return self.standing().dataset

    def open_trials(self) -> list[TrialInfo]:
        """Read the trials that are planned or running."""
        return self.store.trials(self.name, states=OPEN)

    def best(self, n: int = 10) -> list[Best]:
        """Rank the measured candidates.

        Args:
            n: how many are wanted.

        Returns:
            Feasible ones first, by the first objective; with several objectives the non-dominated ones lead.
        """
        return rank(self.problem, self.dataset(), self.store.trials(self.name))[:n]

    # --- deciding -------------------------------------------------------------------------------------------------

    def fit_if_due(self) -> FitInfo | None:
        """Train the surrogate if enough new labels have come in, or they contradict it; judge and store the fit.

        Returns:
            The new fit, or None where none was due or possible.
        """
        return fitting.fit_if_due(self.store, self.name, self.planner, self.standing())

    def propose(self, q: int) -> Plan:
        """Choose up to q candidates and plan their trials: one decision, one transaction.

        Args:
            q: how many are wanted.

        Returns:
            The plan.

        Raises:
            SpaceExhausted: nothing is left to propose.
        """
        return self.settle(self.choose(q))

    def choose(self, q: int, *, begun: Collection[int] | None = None, ahead: int = 0) -> Choice:
        """Choose up to q candidates without writing anything; see `settle`.

        Args:
            q: how many are wanted.
            begun: numbers of the trials that are being carried out; trials that wait beside them are ranked anew. None
                leaves everything that is planned as it is.
            ahead: how many of them are planned ahead; none is while there is nothing to rank by.

        Returns:
            The choice.

        Raises:
            SpaceExhausted: nothing is left to propose.
            SpaceError: candidates were taken out of a growing pool.
        """
        growth.look(self.store, self.name, self.planner.parts.space)
        now = self.standing()
        queued = () if begun is None else queue_of(now, begun)
        return choose(self.store, self.name, self.planner, now, q=q, ahead=ahead, queued=queued)

    def settle(self, choice: Choice, *, begun: Collection[int] = ()) -> Plan:
        """Record a choice, plan its trials and withdraw the waiting ones that it left out, in one transaction.

        Args:
            choice: from `choose`.
            begun: numbers of the trials that are being carried out by now; they are never withdrawn.

        Returns:
            The plan.
        """
        settled = settle(self.store, self.name, choice, self.step_plans, begun)
        chosen = choice.chosen
        return Plan(
            choice.number,
            tuple(settled.made),
            chosen.purpose,
            chosen.policy,
            chosen.seconds,
            kept=tuple(settled.kept),
            withdrawn=tuple(settled.withdrawn),
        )

    def withdraw(self, reason: str, *, begun: Collection[int] = ()) -> list[int]:
        """Abandon the trials that wait: the campaign stops before they begin.

        Args:
            reason: why.
            begun: numbers of the trials that are being carried out; they are never withdrawn.

        Returns:
            The numbers of the trials.
        """
        numbers = [trial.number for trial in queue_of(self.standing(), begun)]
        if numbers:
            self.store.withdraw(self.name, numbers, reason=reason)
        return numbers

    def plan(self, q: int) -> Plan:
        """Train if due, then choose: `fit_if_due` and `propose` in one call."""
        self.fit_if_due()
        return self.propose(q)

    def stop_reason(self, now: Standing | None = None, *, waiting: int = 0) -> str | None:
        """Say why no further trial should be planned, or None.

        Args:
            now: how the campaign stands; looked up where it is not given.
            waiting: planned trials that may be exchanged for others.
        """
        now = now or self.standing()
        info, spent = now.info, now.info.spent
        if info.state is not CampaignState.ACTIVE:
            return f"{info.state.value.lower()}: {info.state_reason}" if info.state_reason else info.state.value.lower()
        used_up = self._used_up(now, waiting)
        if used_up:
            return used_up
        for name, rule in self.planner.parts.stopping.items():
            summaries = tuple(decision.summary for decision in now.decisions)
            view = CampaignView(
                problem=self.problem,
                dataset=now.dataset.of_target,
                spent=spent,
                summary=summaries[-1] if summaries else None,
                decisions=len(summaries),
                summaries=summaries,
            )
            reason = rule.reason(view)
            if reason:
                return f"{name}: {reason}"
        return None

    def _used_up(self, now: Standing, waiting: int) -> str:
        """Say which cap of the budget is reached; empty where none is."""
        info, budget, spent = now.info, self.problem.budget, now.info.spent
        if not waiting and self.trials_left(now) == 0:
            return f"budget: all {budget.trials} trials are used"
        if budget.hours is not None and spent.hours >= budget.hours:
            return f"budget: {spent.hours:.2f} of {budget.hours:g} hours are used"
        if budget.cost is not None and spent.cost + info.reserved_cost >= budget.cost:
            return f"budget: {spent.cost:g} of {budget.cost:g} cost units are used"
        left = purse_of(self.planner, now).left if self.config.priced and not waiting else None
        least = self.problem.fidelity(TARGET).cost
        if left is not None and left < least:
            return f"budget: {left:g} of {budget.cost:g} cost units are left, and a trial costs {least:g}"
        return ""

    def trials_left(self, now: Standing | None = None) -> int | None:
        """Count the trials that the budget still allows to plan; None without a cap.

        Args:
            now: how the campaign stands; looked up where it is not given.
        """
        cap = self.problem.budget.trials
        if cap is None:
            return None
        now = now or self.standing()
        waiting = sum(not trial.charged for trial in now.open_trials)
        return max(0, cap - now.info.spent.trials - now.info.reserved_trials - waiting)

    def derive(self) -> None:
        """Compute the derived properties of the completed trials that lack them."""
        if not self.config.derived:
            return
        records = self.store.trial_records(self.name)
        level = (
            {trial.number: trial.fidelity for trial in self.store.trials(self.name)} if self.config.fidelities else {}
        )
        for derived in self.config.derived:
            function = self.planner.parts.derived[derived.property]
            values: dict[int, DerivedValue] = {}
            for fidelity, procedure in self.config.procedures.items():
                # values of another fidelity are another quantity: a hull is never drawn through both
                if self.by_hand or derived.source in {step.step for step in procedure}:
                    same = [record for record in records if level.get(record.trial, TARGET) == fidelity]
                    values |= function.compute(same, derived.source) if same or fidelity == TARGET else {}
            self.store.record_derived(
                self.name,
                property=derived.property,
                unit=function.unit(),
                version=function.version(),
                values=values,
            )

    # --- measuring ------------------------------------------------------------------------------------------------

    def step_plans(self, proposal: Proposal | None = None) -> list[StepPlan]:
        """Return what a trial consists of, at the fidelity and the price of its proposal."""
        return measuring.step_plans(self.config, proposal)

    def instruments(self) -> dict[str, Instrument]:
        """Build the instruments that the procedures name, from the campaign file and the lab file."""
        return measuring.instruments(self.config, self.lab, self.base)

    def executor(self, clock: Clock | None = None) -> Executor:
        """Build what carries out the trials of this campaign."""
        space = self.planner.parts.space
        return measuring.executor(self.store, self.config, self.lab, base=self.base, space=space, clock=clock)

    def ask(self, n: int = 1) -> list[TrialInfo]:
        """Return n open trials for people to measure; those asked before and not yet told come first.

        Args:
            n: how many are wanted.

        Returns:
            Up to n trials, fewer where the budget or the space ends.
        """
        waiting = self.open_trials()
        left = self.trials_left()
        more = n - len(waiting) if left is None else min(n - len(waiting), left)
        while more > 0 and self.stop_reason() is None:
            made = self.plan(more).trials
            waiting.extend(made)
            more -= len(made)
            if not made:
                break
        return waiting[:n]

    def tell(self, trial: int, values: Mapping[str, Quantity], *, who: str) -> None:
        """Record what a person measured for an asked trial, then derive what follows from it."""
        tell(self.store, self.name, trial, values, who=who, problem=self.problem)
        self.derive()

    def tell_failed(self, trial: int, *, who: str, reason: str) -> None:
        """Record that a trial failed, and why: evidence for the feasibility of its neighbours."""
        tell_failed(self.store, self.name, trial, who=who, reason=reason)


def _renamed(config: CampaignConfig, name: str) -> CampaignConfig:
    return CampaignConfig.model_validate({**config.snapshot(), "name": name})
