"""What must hold right before an order: the instrument is the one we know, a person has signed, interlocks hold.

Nothing was sent where a gate is shut: the step waits with a question, and everything else goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress

from orchestrator.config.lab import LabConfig
from orchestrator.config.safety import ApprovalConfig, InterlockConfig
from orchestrator.config.steps import FixedInput
from orchestrator.domain import Description, Order, Quantity, frozen, sha256
from orchestrator.errors import BadData, Busy, IllegalTransition, InstrumentError
from orchestrator.execution.checks import check_order, check_result
from orchestrator.execution.choosing_instrument import Bench, Hindrance
from orchestrator.execution.clock import Clock
from orchestrator.execution.events import OrderEvents, Wish
from orchestrator.execution.guard import supervise
from orchestrator.protocols import Identified, Instrument
from orchestrator.record.store import CampaignStore
from orchestrator.record.views import StepInfo, TrialInfo
from orchestrator.units import convert

QUICK_S = 2.0  # a quick identity is one
READ_S = 10.0  # a door switch answers at once; a slow line takes seconds


class Gates:
    """The gates before the orders of one campaign.

    Args:
        store: of the campaign.
        name: of the campaign.
        clock: of the campaign.
        lab: with interlocks and approvals.
        bench: with the instruments.
        descriptions: of the instruments.
    """

    def __init__(
        self,
        store: CampaignStore,
        name: str,
        clock: Clock,
        *,
        lab: LabConfig,
        bench: Bench,
        descriptions: Mapping[str, Description],
    ) -> None:
        self.store = store
        self.name = name
        self.clock = clock
        self.lab = lab
        self.bench = bench
        self.descriptions = descriptions
        self._reads = 0

    def asked(self, step: StepInfo) -> Hindrance | None:
        """Return the question about a step that must have its answer first, if there is one."""
        for one in self.store.asked(self.name):
            if one.step_id == step.id and one.kind in {"approval", "failure"}:
                return Hindrance(one.kind, one.message, one.instrument)
        return None

    async def hindrance(self, trial: TrialInfo, step: StepInfo, instrument: str, order: Order) -> Hindrance | None:
        """Return why an order must not be sent now; None where all gates are open.

        Args:
            trial: of the step.
            step: to be started.
            instrument: that was chosen.
            order: checked, with its set-points.
        """
        return (
            await self._identity(instrument)
            or self._approval(trial, step, instrument, order)
            or await self.interlocks(trial, step, instrument, order.capability)
        )

    # --- the same instrument as ever ------------------------------------------------------------------------------

    async def _identity(self, name: str) -> Hindrance | None:
        instrument = self.bench.instruments[name]
        known = self.bench.identities.get(name)
        if known is None or not isinstance(instrument, Identified):
            return None
        try:
            identity = await asyncio.wait_for(instrument.identity(), QUICK_S)
        except (InstrumentError, TimeoutError) as error:
            reason = f"it does not say what it is: {error or 'no answer'}"
            await self.bench.take_out(name, "offline", reason)
            return Hindrance("service", reason, name)
        if identity.serial == known.serial:
            return None
        reason = f"it has serial number {identity.serial!r}; {known.serial!r} was opened. Was it exchanged?"
        await self.bench.take_out(name, "identity", reason)
        return Hindrance("service", reason, name)

    # --- a person's signature -------------------------------------------------------------------------------------

    def _approval(self, trial: TrialInfo, step: StepInfo, instrument: str, order: Order) -> Hindrance | None:
        for rule in self.lab.approvals:
            if rule.instrument not in {instrument, step.instrument} or rule.capability not in {None, order.capability}:
                continue
            asked = order.settings.get(rule.parameter)
            if asked is None or not rule.wanted(convert(asked.value, asked.unit, rule.unit)):
                continue
            subject = f"{rule.parameter} = {asked.value:.10g} {asked.unit}"
            known = [
                one
                for one in self.store.asked(self.name, answered=True)
                if (one.kind, one.step_id, one.subject) == ("approval", step.id, subject)
            ]
            if any(one.verb == "approve" for one in known):
                continue
            reason = f"{subject} needs a signature: {_limit(rule)}" + (f"; {rule.message}" if rule.message else "")
            self.store.ask(
                self.name,
                "approval",
                reason,
                trial=trial.number,
                step_id=step.id,
                instrument=step.instrument,
                subject=subject,
            )
            return Hindrance("approval", reason, instrument)
        return None

    # --- interlocks -----------------------------------------------------------------------------------------------

    async def interlocks(self, trial: TrialInfo, step: StepInfo, name: str, capability: str) -> Hindrance | None:
        """Read every interlock of an order anew; return the first that does not hold."""
        shut: Hindrance | None = None
        for interlock in self.lab.interlocks:
            if not interlock.concerns(name, step.instrument, capability):
                continue
            seen = await self._read(interlock)
            if seen is None:
                self._settle(step, interlock.name)
                continue
            reason = f"interlock {interlock.name!r}: {interlock.message} ({seen}); nothing was sent"
            self.store.ask(
                self.name,
                "interlock",
                reason,
                trial=trial.number,
                step_id=step.id,
                instrument=name,
                subject=interlock.name,
            )
            shut = shut or Hindrance("interlock", reason, name)
        return shut

    def _settle(self, step: StepInfo, interlock: str) -> None:
        """Take back the question of an interlock that holds again."""
        for one in self.store.asked(self.name):
            if (one.kind, one.step_id, one.subject) == ("interlock", step.id, interlock):
                with suppress(IllegalTransition):  # answered in this moment
                    self.store.reply(self.name, one.id, "settled", actor="matloop", reason="the condition holds")

    async def _read(self, interlock: InterlockConfig) -> str | None:
        """Read anew; return what is wrong, or None where the condition holds."""
        read = interlock.read
        if read.instrument in self.bench.out:
            return f"{read.instrument!r}, which says it, is out of service"
        instrument = self.bench.instruments[read.instrument]
        capability = self.descriptions[read.instrument].capability(read.capability)
        self._reads += 1
        order = Order(
            key=sha256(f"{self.name}/{interlock.name}/{self._reads}/{self.clock.now()}"),
            capability=capability.name,
            settings=numbers(read.settings),
            choices=words(read.settings),
            label=f"interlock {interlock.name}",
            deadline_s=min(capability.longest_s, READ_S),
        )
        asked_at = self.clock.now()
        until = self.clock.monotonic() + READ_S
        try:
            order = check_order(order, capability)
            while True:
                try:
                    value = await self._value(instrument, order, asked_at, interlock)
                    break
                except Busy:  # another order is just being read by the same meter: no reason to ask a person
                    if self.clock.monotonic() >= until:
                        raise
                await self.clock.sleep(self.clock.poll_s)
        except InstrumentError as error:
            return f"{interlock.output} cannot be read: {type(error).__name__}: {error}"
        return None if interlock.holds(value) else f"{interlock.output} is {value:g}"

    async def _value(self, instrument: Instrument, order: Order, asked_at: int, interlock: InterlockConfig) -> float:
        events = OrderEvents(self.clock, Wish(), lambda _: None, lambda _, __: None)
        running = instrument.run(order, events)
        outcome = await supervise(running, instrument, events, self.clock, deadline_s=order.deadline_s)
        if outcome.error is not None:
            raise outcome.error
        capability = self.descriptions[interlock.read.instrument].capability(interlock.read.capability)
        checked = check_result(outcome.result, order, capability, ordered_at=asked_at, now=self.clock.now())
        for one in checked.measurements:
            if one.property == interlock.output and one.quality.value == "good":
                return one.value
        message = f"{interlock.read.instrument} gave no good {interlock.output}"
        raise BadData(message)


def numbers(settings: Mapping[str, FixedInput]) -> Mapping[str, Quantity]:
    """Turn the fixed numbers of a lab file into set-points."""
    return frozen({k: Quantity(float(v.value), v.unit) for k, v in settings.items() if not isinstance(v.value, str)})


def words(settings: Mapping[str, FixedInput]) -> Mapping[str, str]:
    """Turn the fixed words of a lab file into choices."""
    return frozen({k: v.value for k, v in settings.items() if isinstance(v.value, str)})


def _limit(rule: ApprovalConfig) -> str:
    said = [f"above {rule.above:g} {rule.unit}" if rule.above is not None else ""]
    said.append(f"below {rule.below:g} {rule.unit}" if rule.below is not None else "")
    return " and ".join(one for one in said if one) + " a person signs"
