"""What a trial of a campaign consists of, and what carries it out."""

from __future__ import annotations

from collections.abc import Mapping

from orchestrator import plugins
from orchestrator.config.check import BY_HAND_STEP
from orchestrator.config.lab import LabConfig
from orchestrator.config.schema import CampaignConfig
from orchestrator.config.steps import expanded
from orchestrator.domain import TARGET, Description, Proposal
from orchestrator.execution.clock import Clock
from orchestrator.execution.executor import Executor
from orchestrator.execution.opening import needed
from orchestrator.protocols import BoxSpace, HasParameterUnits, Instrument, SearchSpace
from orchestrator.record.store import CampaignStore
from orchestrator.record.views import StepPlan

PERSON = "person"
"""Instrument name of a step that is measured by hand and told."""


def step_plans(config: CampaignConfig, proposal: Proposal | None = None) -> list[StepPlan]:
    """Return what a trial consists of; one told step where people measure.

    A trial whose price follows `expenses` is paid with its first step: so it is never left half done for want of money.

    Args:
        config: the campaign.
        proposal: of the trial, for its fidelity and its price; None is any at the target.
    """
    procedure = config.procedures[proposal.fidelity if proposal is not None else TARGET]
    if not procedure:
        plans = [StepPlan(name=BY_HAND_STEP, instrument=PERSON, capability="tell")]
    else:
        plans = [
            StepPlan(name=name, instrument=s.instrument, capability=s.capability or "", cost=s.cost or 0.0)
            for name, s in expanded(procedure).items()
        ]
    if proposal is None or not config.priced or "expense" not in proposal.details:
        return plans
    price = float(proposal.details["expense"]["cost"])
    return [
        StepPlan(plan.name, plan.instrument, plan.capability, price if i == 0 else 0.0) for i, plan in enumerate(plans)
    ]


def with_expense(config: CampaignConfig, descriptions: Mapping[str, Description]) -> CampaignConfig:
    """Fill in what a trial at the target costs and takes, where a file with prices leaves it to the instruments.

    Args:
        config: the campaign.
        descriptions: what each instrument can do.
    """
    if not config.priced or not config.procedure:
        return config
    cost = hours = 0.0
    for step in config.procedure:
        capability = descriptions[step.instrument].capability(step.capability)
        cost += step.repeat * (capability.cost if step.cost is None else step.cost)
        hours += step.repeat * (capability.typical_s + (step.wait.total_s if step.wait else 0.0)) / 3600
    given = config.expenses
    filled = {"cost": (cost or 1.0) if given.cost is None else given.cost}
    filled["hours"] = hours if given.hours is None else given.hours
    return _with(config, filled)


def with_known_expense(config: CampaignConfig, stored: CampaignConfig) -> CampaignConfig:
    """Fill in what `with_expense` filled in when the campaign was begun, so that the two can be compared."""
    if not config.priced:
        return config
    known = {"cost": stored.expenses.cost, "hours": stored.expenses.hours}
    return _with(config, {key: value for key, value in known.items() if getattr(config.expenses, key) is None})


def _with(config: CampaignConfig, expenses: Mapping[str, float | None]) -> CampaignConfig:
    snapshot = config.snapshot()
    return CampaignConfig.model_validate({**snapshot, "expenses": {**snapshot["expenses"], **expenses}})


def instruments(config: CampaignConfig, lab: LabConfig, base: str | None) -> dict[str, Instrument]:
    """Build the instruments that the procedures name, from the campaign file and the lab file.

    Args:
        config: the campaign.
        lab: the site's instruments.
        base: folder that relative paths start from.
    """
    built: dict[str, Instrument] = {}
    steps = [step for procedure in config.procedures.values() for step in procedure]
    for name in needed(steps, lab):
        built[name] = instrument(name, config, lab, base)
    return built


def instrument(name: str, config: CampaignConfig, lab: LabConfig, base: str | None) -> Instrument:
    """Build one instrument by the file that declares it: that file's folder is where its relative paths start.

    Args:
        name: of the instrument.
        config: the campaign.
        lab: the site's instruments.
        base: folder of the campaign file.
    """
    own = config.instruments.get(name)
    use, folder = (lab.instruments[name], lab.base or base) if own is None else (own, base)
    modules = lab.allowed_modules
    built: Instrument = plugins.build(
        "instruments", use.use, use.options, base=folder, allowed_modules=modules, of_lab=own is None
    )
    return built


def executor(
    store: CampaignStore,
    config: CampaignConfig,
    lab: LabConfig,
    *,
    base: str | None,
    space: SearchSpace,
    clock: Clock | None = None,
) -> Executor:
    """Build what carries out the trials of a campaign.

    Args:
        store: of the campaign.
        config: the campaign.
        lab: the site's instruments.
        base: folder that relative paths start from.
        space: for the units of the candidates' parameters.
        clock: the wall's unless given.
    """
    return Executor(
        store,
        config.name,
        instruments(config, lab, base),
        config.procedure,
        envelopes={name: entry.envelope for name, entry in lab.instruments.items()},
        clock=clock,
        units=parameter_units(space),
        below={name: one.procedure for name, one in config.fidelities.items()},
        priced=config.priced,
        resources=lab.resources,
        schedule=config.schedule,
        lab=lab,
    )


def parameter_units(space: SearchSpace) -> Mapping[str, str]:
    """Return the units of a space's parameters, where it says them."""
    if isinstance(space, BoxSpace):
        return {axis.name: axis.unit for axis in space.axes()}
    return dict(space.parameter_units()) if isinstance(space, HasParameterUnits) else {}
