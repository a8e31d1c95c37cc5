"""Reference orders: a sample of known value, measured every so many trials, tells whether an instrument has drifted.

A reference order is an attempt of the step that it is put before, marked in its order. What it gives is kept beside the
trials' results and belongs to none of them; its cost counts. Where it is off, the instrument goes OUT OF SERVICE and
the trials measured since the last good reference are doubted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from orchestrator.config.lab import LabConfig
from orchestrator.config.safety import ReferenceConfig
from orchestrator.domain import Capability, JsonObject, Order
from orchestrator.errors import BadData
from orchestrator.execution.checks import Checked
from orchestrator.execution.choosing_instrument import Bench
from orchestrator.execution.gates import numbers, words
from orchestrator.execution.questions import is_reference
from orchestrator.record.service import ReferenceResult
from orchestrator.record.states import AttemptState
from orchestrator.record.store import CampaignStore
from orchestrator.record.views import AttemptInfo
from orchestrator.units import convert, scale


class References:
    """The reference orders of one campaign.

    Args:
        store: of the campaign.
        name: of the campaign.
        lab: with the instruments' references.
        bench: to take an instrument out of service.
    """

    def __init__(self, store: CampaignStore, name: str, lab: LabConfig, bench: Bench) -> None:
        self.store = store
        self.name = name
        self.lab = lab
        self.bench = bench

    def of(self, instrument: str) -> ReferenceConfig | None:
        """Return the reference of an instrument, where it has one."""
        entry = self.lab.instruments.get(instrument)
        return entry.reference if entry else None

    def due(self, instrument: str) -> ReferenceConfig | None:
        """Return the reference that must be measured before the next order: at first, and every so many trials."""
        reference = self.of(instrument)
        if reference is None:
            return None
        known = self.store.references(self.name, instrument)
        if not known:
            return reference
        return reference if len(self._trials_since(instrument, known[-1].attempt)) >= reference.every else None

    def order(self, reference: ReferenceConfig, capability: Capability) -> tuple[Order, JsonObject]:
        """Build a reference order, and the mark that its attempt carries in the record.

        Args:
            reference: of the instrument.
            capability: that measures it.
        """
        order = Order(
            key="",
            capability=capability.name,
            settings=numbers(reference.settings),
            choices=words(reference.settings),
            sample="reference",
            label="reference",
            deadline_s=capability.longest_s,
        )
        mark: dict[str, Any] = {"value": reference.value, "tolerance": reference.tolerance}
        return order, {"reference": {**mark, "unit": reference.unit, "output": reference.output}}

    async def judge(self, attempt: AttemptInfo, checked: Checked) -> None:
        """Record what a reference order gave, and do what follows where it is off.

        Raises:
            BadData: it gave no number of that name.
        """
        mark: Mapping[str, Any] = cast("Mapping[str, Any]", attempt.order["reference"])
        found = next((one for one in checked.measurements if one.property == mark["output"]), None)
        if found is None:
            message = f"the reference order gave no {mark['output']}"
            raise BadData(message)
        expected = convert(mark["value"], mark["unit"], found.unit)
        tolerance = mark["tolerance"] * abs(scale(mark["unit"], found.unit))
        good = abs(found.value - expected) <= tolerance
        earlier = [one for one in self.store.references(self.name, attempt.instrument) if one.good]
        self.store.record_reference(
            attempt.id,
            ReferenceResult(
                attempt=attempt.id,
                instrument=attempt.instrument,
                property=found.property,
                value=found.value,
                unit=found.unit,
                expected=expected,
                tolerance=tolerance,
                good=good,
                at=found.measured_at,
            ),
        )
        if good:
            return
        reason = (
            f"its reference gave {found.property} = {found.value:g} {found.unit}; "
            f"{expected:g} ± {tolerance:g} was expected"
        )
        suspect = self._trials_since(attempt.instrument, earlier[-1].attempt if earlier else 0)
        self.store.doubt(self.name, suspect, cause="reference", reason=f"{attempt.instrument}: {reason}")
        if suspect:
            subject = ",".join(str(number) for number in sorted(suspect))
            self.store.ask(
                self.name, "doubt", f"trials {subject}: {reason}", instrument=attempt.instrument, subject=subject
            )
        await self.bench.take_out(attempt.instrument, "reference", reason)

    def _trials_since(self, instrument: str, attempt_id: int) -> set[int]:
        """Return the trials that an instrument measured after an attempt."""
        return {
            past.trial
            for past in self.store.attempts(self.name)
            if past.instrument == instrument
            and past.id > attempt_id
            and past.state is AttemptState.RECORDED
            and not is_reference(past)
        }
