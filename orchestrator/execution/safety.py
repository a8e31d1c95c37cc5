"""All that watches over a campaign's orders, in one hand."""

from __future__ import annotations

from dataclasses import dataclass, field

from orchestrator.config.lab import LabConfig
from orchestrator.errors import BadData, Busy, Fault, InstrumentError, Interlocked, ProtocolDesync, TimedOut
from orchestrator.execution.alarms import Alarms
from orchestrator.execution.choosing_instrument import Bench
from orchestrator.execution.gates import Gates
from orchestrator.execution.references import References
from orchestrator.record.store import CampaignStore

DOUBTFUL = (Fault, TimedOut, ProtocolDesync, BadData)
"""Errors that speak against the instrument where they come again and again."""


@dataclass
class Safety:
    """What the lab file says, and what acts on it.

    Args:
        store: of the campaign.
        name: of the campaign.
        lab: the lab file.
        bench: the instruments, and which of them are in service.
    """

    store: CampaignStore
    name: str
    lab: LabConfig
    bench: Bench
    references: References = field(init=False)
    alarms: Alarms = field(init=False)
    gates: Gates | None = None
    """What must hold right before an order; the executor sets it."""
    avoided: dict[int, set[str]] = field(default_factory=dict)
    """By step id: instruments that failed at it, where the lab wants another one to try."""

    def __post_init__(self) -> None:
        """Make the parts."""
        self.references = References(self.store, self.name, self.lab, self.bench)
        self.alarms = Alarms(self.store, self.name, self.lab, self.bench)

    def doubt_after(self, instrument: str) -> int:
        """Return after how many failures in a row an instrument goes out of service."""
        entry = self.lab.instruments.get(instrument)
        return entry.doubt_after if entry else DOUBT_AFTER

    async def failed(self, instrument: str, error: InstrumentError, reason: str, *, hung: bool) -> None:
        """Take note of a failure of a real act, and take the instrument out of service where it is doubted.

        Args:
            instrument: that failed.
            error: that it gave.
            reason: for people.
            hung: whether its driver did not come back even when it was aborted.
        """
        if hung:
            await self.bench.take_out(instrument, "hang", reason)
        elif isinstance(error, DOUBTFUL) and self.bench.failed(instrument) >= self.doubt_after(instrument):
            many = f"{self.doubt_after(instrument)} orders in a row failed, the last one: {reason}"
            await self.bench.take_out(instrument, "faults", many)


DOUBT_AFTER = 5
"""The same for an instrument of the campaign file; a lab says it by `doubt_after`."""


def cause_of(error: InstrumentError) -> str:
    """Return why an instrument goes out of service that could not begin: whether it can come back by itself."""
    if isinstance(error, Busy):
        return "busy"
    if isinstance(error, Interlocked):
        return "interlocked"
    return "fault" if isinstance(error, Fault) else "offline"
