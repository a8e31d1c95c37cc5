"""Checks of a whole campaign, plug-ins and all: everything that can be known to be wrong before the first trial.

No device is touched and no network is trained. A campaign that passes can still fail for reasons that only the
instruments know.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchestrator.abilities import ChoosesFidelity, Learns
from orchestrator.config.building import Builder
from orchestrator.config.combinations import INPUTS, policies_for, surrogates_for
from orchestrator.config.defaults import IMPORTED, MULTI_FIDELITY, default_surrogate
from orchestrator.config.lab import LabConfig
from orchestrator.config.lab_check import LabCheck
from orchestrator.config.messages import nearest
from orchestrator.config.past_results import PastResult, PastResults, TableOptions, read_table
from orchestrator.config.procedure import (
    ProcedureCheck,
    check_measured,
    check_units_agree,
    instrument_use,
)
from orchestrator.config.read import Loaded
from orchestrator.config.schema import CampaignConfig
from orchestrator.config.source import Path_
from orchestrator.config.steps import StepConfig
from orchestrator.domain import Dataset, Description, Problem, Spent
from orchestrator.errors import ConfigError, IncompatibleError, PluginError
from orchestrator.protocols import (
    AcquisitionPolicy,
    BoxSpace,
    CampaignView,
    FiniteSpace,
    HasReference,
    SearchSpace,
    StoppingRule,
    Surrogate,
)
from orchestrator.schedule import cp_sat

BY_HAND_STEP = "measure"
"""Name of the one step of a campaign without a procedure, which people measure and tell."""


@dataclass(frozen=True)
class Checked:
    """A campaign that passed every check, with what the checks built.

    Args:
        notices: what the user should know, one sentence each.
        past_results: results of ``initial: {use: table}``, in the problem's units.
        problem: objectives, constraints, fidelities and budget.
        space: where candidates come from.
        surrogate: untrained; None where the acquisition policy needs none and the file names none.
        policy: what chooses.
        descriptions: instrument name → what it can do.
        shared_knowledge: what surrogate and instruments both know; empty unless the file allows it.
    """

    notices: tuple[str, ...]
    past_results: tuple[PastResult, ...]
    problem: Problem
    space: SearchSpace
    surrogate: Surrogate | None
    policy: AcquisitionPolicy
    descriptions: Mapping[str, Description]
    shared_knowledge: frozenset[str] = frozenset()


def check(loaded: Loaded | CampaignConfig, lab: LabConfig | None = None) -> Checked:
    """Check a campaign against its plug-ins.

    Args:
        loaded: from `load_campaign`; or a configuration made in code.
        lab: the lab of a configuration made in code.

    Returns:
        What was built and what the user should know.

    Raises:
        ConfigError: the first thing that is wrong, with its line.
    """
    if isinstance(loaded, CampaignConfig):
        loaded = Loaded(config=loaded, lab=lab or LabConfig())
    return _Check(loaded).run()


class _Check:
    def __init__(self, loaded: Loaded) -> None:
        self.config = loaded.config
        self.loaded = loaded
        self.source = loaded.source
        self.problem = loaded.config.problem()
        modules = loaded.lab.allowed_modules
        self.builder = Builder(loaded.source, loaded.base, modules)
        self.lab_builder = Builder(loaded.lab_source, loaded.lab.base or loaded.base, modules, of_lab=True)
        self.notices: list[str] = []

    def run(self) -> Checked:
        """Check in the order in which people think: where, how measured, what learns, what chooses."""
        check_units_agree(self.config, self.source)
        space = self._space()
        descriptions = self._instruments()
        self._measured(space, descriptions)
        past = self._initial(space)
        policy = self._policy()
        surrogate = self._surrogate(space, policy)
        shared = self._shared(surrogate, descriptions)
        for i, rule in enumerate(self.config.stop):
            built: StoppingRule = self.builder.build("stopping", rule.use, rule.options, ("stop", i))
            try:  # a rule that does not go with the problem says so before there is anything to judge
                built.reason(CampaignView(self.problem, Dataset(), Spent(), None, 0))
            except ConfigError as error:
                raise self.source.error(error.message, ("stop", i, "use")) from error
        self._scheduled()
        self._worth_saying(space, descriptions)
        self._levels(policy)
        return Checked(
            notices=tuple(self.notices),
            past_results=past.rows,
            problem=self.problem,
            space=space,
            surrogate=surrogate,
            policy=policy,
            descriptions=descriptions,
            shared_knowledge=shared,
        )

    def _space(self) -> SearchSpace:
        use = self.config.space
        space: SearchSpace = self.builder.build("spaces", use.use, use.options, ("space",))

        def some() -> int:
            return len(space.candidates()) if isinstance(space, FiniteSpace) else len(space.sample(1, seed=0))

        if self.builder.ask(some, use.options, ("space",)) == 0:
            message = "the space has no candidates: its filters and constraints leave none; loosen one of them"
            raise self.source.error(message, ("space",))
        return space

    def _instruments(self) -> dict[str, Description]:
        lab = LabCheck(self.loaded.lab, self.loaded.lab_source, self._described, self.config.instruments)
        lab.names()
        descriptions: dict[str, Description] = {}
        for place, step in self._steps():
            if step.instrument in descriptions:
                continue
            name, of_lab = instrument_use(self.config, self.loaded.lab, step, place, self.source)
            descriptions[name] = lab.describe(name) if of_lab else self._described(name, of_lab=False)
        for name in self.config.instruments:
            if name not in descriptions:
                message = f"no step uses the instrument {name!r}; name it in a step, or remove it"
                raise self.source.error(message, ("instruments", name), of_key=True)
        self._envelopes(descriptions)
        lab.used(descriptions)
        return descriptions

    def _described(self, name: str, *, of_lab: bool = True) -> Description:
        """Build an instrument and ask it what it can do."""
        builder = self.lab_builder if of_lab else self.builder
        use = self.loaded.lab.instruments[name] if of_lab else self.config.instruments[name]
        at = ("instruments", name)
        instrument = builder.build("instruments", use.use, use.options, at)
        return builder.describe(instrument, use.options, at)

    def _steps(self) -> list[tuple[Path_, StepConfig]]:
        """List the steps of every fidelity with their places in the file, the target's first."""
        steps: list[tuple[Path_, StepConfig]] = [(("procedure", i), s) for i, s in enumerate(self.config.procedure)]
        for name, fidelity in self.config.fidelities.items():
            steps += [(("fidelities", name, "procedure", i), s) for i, s in enumerate(fidelity.procedure)]
        return steps

    def _envelopes(self, descriptions: Mapping[str, Description]) -> None:
        bounded = {one: found for name, found in descriptions.items() for one in self.loaded.lab.members(name)}
        for name, description in bounded.items():
            entry = self.loaded.lab.instruments.get(name)
            known = {p.name for c in description.capabilities for p in c.parameters}
            for parameter in entry.envelope if entry else ():
                if parameter not in known:
                    message = (
                        f"the envelope bounds {parameter!r}, which {name} does not take, so it protects nothing;"
                        f" its parameters are: {', '.join(sorted(known)) or 'none'}"
                    )
                    at = ("instruments", name, "envelope", parameter)
                    raise self.loaded.lab_source.error(message, at, of_key=True)

    def _measured(self, space: SearchSpace, descriptions: Mapping[str, Description]) -> None:
        procedure = ProcedureCheck(self.config, self.loaded.lab, descriptions, space, self.source)
        procedure.run()
        for name in self.config.fidelities:
            below = ProcedureCheck(self.config, self.loaded.lab, descriptions, space, self.source, fidelity=name)
            below.run()
            found = {one: (o.unit, "its step") for one, o in below.measured().items()}
            for derived in self.config.derived:
                if derived.source in below.capabilities:
                    function = self.builder.build("derived", derived.use, derived.options, ("derived",))
                    found[derived.property] = (function.unit(), f"{derived.use!r}")
            if below.procedure:
                check_measured(self.config, found, self.source, name)
        steps = [s.step for s in self.config.procedure] or [BY_HAND_STEP]
        measured = {name: (o.unit, "its step") for name, o in procedure.measured().items()}
        for i, derived in enumerate(self.config.derived):
            at = ("derived", i)
            function = self.builder.build("derived", derived.use, derived.options, at)
            if derived.source not in steps:
                message = f"there is no step {derived.source!r}; steps are: {', '.join(steps)}"
                raise self.source.error(message, (*at, "from"))
            if derived.property in measured:
                message = f"{derived.property!r} is measured by a step already; give the derived property another name"
                raise self.source.error(message, (*at, "property"))
            if isinstance(function, HasReference) and self.config.procedure:
                self._same_origin(function, steps.index(derived.source), descriptions, (*at, "use"))
            measured[derived.property] = (function.unit(), f"{derived.use!r}")
        if self.config.procedure:
            check_measured(self.config, measured, self.source)

    def _same_origin(
        self, function: HasReference, step: int, descriptions: Mapping[str, Description], at: tuple[str | int, ...]
    ) -> None:
        """Refuse a derived property whose reference data have another origin than the step's instrument."""
        config = self.config.procedure[step]
        description = descriptions[config.instrument]
        fidelity = description.capability(config.capability).fidelity.partition(":")[2]
        try:
            function.check_reference(description.knows | {fidelity})
        except IncompatibleError as error:
            raise self.source.error(str(error), at) from error

    def _initial(self, space: SearchSpace) -> PastResults:
        initial, at = self.config.initial, ("initial",)
        if initial.use == IMPORTED:
            options = self.builder.options(TableOptions, initial.options, at)
            past = self.builder.ask(lambda: read_table(options, space, self.problem), initial.options, at)
            self.notices.append(f"{len(past.rows)} past results from {options.file.name} are taken in")
            self.notices.extend(f"left out: {line}" for line in past.left_out)
            return past
        policy: AcquisitionPolicy = self.builder.build("acquisition", initial.use, initial.options, at)
        if policy.needs():
            message = (
                f"{initial.use!r} needs a trained surrogate, and there is none at the start;"
                " write 'diverse', 'random', or 'table' with results of your own"
            )
            raise self.source.error(message, (*at, "use"))
        return PastResults(())

    def _policy(self) -> AcquisitionPolicy:
        use = self.config.acquisition
        policy: AcquisitionPolicy = self.builder.build("acquisition", use.use, use.options, ("acquisition",))
        if self.problem.learns_only and policy.needs() and not isinstance(policy, Learns):
            message = (
                f"policy {use.use!r} looks for the best, and every objective has the goal 'learn'; use"
                " 'integrated_variance', 'level_set' or 'phase_boundary', or give an objective another goal"
            )
            raise self.source.error(message, ("acquisition", "use"))
        return policy

    def _surrogate(self, space: SearchSpace, policy: AcquisitionPolicy) -> Surrogate | None:
        needs = policy.needs()
        if self.config.surrogate is None and not needs:
            return None
        use = self.config.surrogate or default_surrogate(space, self.config)
        surrogate: Surrogate = self.builder.build("surrogates", use.use, use.options, ("surrogate",))
        supports, offers = surrogate.supports(), space.offers()
        takes = supports & INPUTS
        blind_to_parameters = "parameters" in offers and "parameters" not in takes
        modules = self.loaded.lab.allowed_modules
        if not takes & offers or blind_to_parameters:
            fitting = surrogates_for(offers, needs, default_surrogate(space, self.config).use, modules)
            message = (
                f"surrogate {use.use!r} learns from {_words(takes)}, and the space {self.config.space.use!r} offers"
                f" {_words(offers)}; use {_either(fitting)}"
            )
            raise self.source.error(message, ("surrogate", "use"))
        lacking = needs - supports
        if lacking:
            fitting = surrogates_for(offers, needs, default_surrogate(space, self.config).use, modules)
            message = (
                f"policy {self.config.acquisition.use!r} needs {_words(lacking)} of a surrogate, and {use.use!r}"
                f" supports {_words(supports)}; what works here: the surrogate {_either(fitting)}, or with"
                f" {use.use!r} the policy {_either(policies_for(supports))} ('matloop plugins' lists them)"
            )
            raise self.source.error(message, ("acquisition", "use"))
        return surrogate

    def _shared(self, surrogate: Surrogate | None, descriptions: Mapping[str, Description]) -> frozenset[str]:
        if surrogate is None:
            return frozenset()
        knows = surrogate.knows()
        for name, description in descriptions.items():
            shared = knows & description.knows
            if not shared:
                continue
            words = _words(shared)
            if not self.config.allow_shared_knowledge:
                message = (
                    f"the surrogate knows {words}, which is what instrument {name!r} measures with: it would be told"
                    " the answers beforehand, and the campaign would prove nothing. Use a surrogate without it (such"
                    " as 'gnn_gp'), or write 'allow_shared_knowledge: true'; the report then says so in its first line"
                )
                raise self.source.error(message, ("surrogate", "use"))
            self.notices.append(f"shared knowledge is allowed: surrogate and instrument {name!r} both know {words}")
        return frozenset(knows & frozenset[str]().union(*(d.knows for d in descriptions.values())))

    def _scheduled(self) -> None:
        """Refuse the solver where it is not installed, before a campaign that runs needs it."""
        if self.config.schedule.use == "cp_sat":
            try:
                cp_sat.require()
            except PluginError as error:
                raise self.source.error(str(error), ("schedule", "use")) from error

    def _worth_saying(self, space: SearchSpace, descriptions: Mapping[str, Description]) -> None:
        config = self.config
        trials, initial = config.budget.trials, config.initial.trials
        if config.initial.use != IMPORTED and trials is not None and initial >= trials:
            self.notices.append(
                f"the initial design ({initial} trials) uses the whole budget ({trials} trials): nothing is learned"
            )
        for name, description in descriptions.items():
            if description.slots < config.parallel:
                self.notices.append(
                    f"instrument {name!r} does {description.slots} at once, and {config.parallel} trials run in"
                    " parallel: the others wait for it"
                )
        if isinstance(space, FiniteSpace) and not isinstance(space, BoxSpace):
            count = len(space.candidates())
            if trials is not None and trials > count:
                self.notices.append(f"the budget ({trials} trials) is larger than the space ({count} candidates)")

    def _levels(self, policy: AcquisitionPolicy) -> None:
        """Check what is said of fidelities and of earlier campaigns against what chooses and learns."""
        config = self.config
        if config.fidelities and not isinstance(policy, ChoosesFidelity):
            self.notices.append(
                f"policy {config.acquisition.use!r} measures at the target only: no trial of"
                f" {', '.join(config.fidelities)} is ever chosen; 'acquisition: {{use: fidelity_choice}}' chooses"
            )
        blind = config.surrogate is not None and config.surrogate.use != MULTI_FIDELITY
        if blind and (config.fidelities or config.earlier):
            self.notices.append(
                f"the surrogate is told to be {config.surrogate.use if config.surrogate else ''!r}, which learns from"
                f" results of the target alone; {MULTI_FIDELITY!r} around it learns from the others too"
            )
        for i, earlier in enumerate(config.earlier):
            if earlier.campaign == config.name:
                message = "a campaign cannot start from its own results; name another one of the same database"
                raise self.source.error(message, ("earlier", i, "campaign"))
            for name in earlier.properties:
                if name not in self.problem.properties:
                    message = f"{name!r} is no property of this campaign; {nearest(name, self.problem.properties)}"
                    raise self.source.error(message, ("earlier", i, "properties", name), of_key=True)


def _either(names: Sequence[str]) -> str:
    return " or ".join(repr(name) for name in names[:4]) or "(none is installed)"


def _words(names: frozenset[str]) -> str:
    return ", ".join(sorted(names)) or "nothing"
