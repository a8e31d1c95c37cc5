"""Which instrument takes a step: one that is in service and has a free slot; of a kind, whichever is free.

An instrument that is doubted goes OUT OF SERVICE: the others of its kind take over, steps that need it wait, and the
rest of the campaign goes on. Where only its link was lost it comes back by itself as soon as it says that it is ready.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from orchestrator.domain import Identity
from orchestrator.errors import StoreError
from orchestrator.execution.lanes import Lane
from orchestrator.execution.turns import Queue, Ticket
from orchestrator.protocols import Instrument
from orchestrator.record.service import PASSING, OutOfService
from orchestrator.record.store import CampaignStore

RETURNS = 3
"""So often an instrument comes back by itself without one order that ended well; then a person must see to it."""
ANSWER_S = 2.0  # `health` answers within a second; a device that needs two is not there
OPEN_S = 20.0  # a session over a slow line takes a while to open


@dataclass(frozen=True)
class Hindrance:
    """Why a step cannot start now.

    Args:
        kind: ``unknown``, ``service``, ``busy``, or a kind of question.
        reason: for people.
        instrument: concerned.
    """

    kind: str
    reason: str
    instrument: str


class Bench:
    """The instruments of one campaign, their slots, and which of them are in service.

    Args:
        store: of the campaign.
        name: of the campaign.
        instruments: by name.
        kinds: members by kind.
    """

    def __init__(
        self,
        store: CampaignStore,
        name: str,
        instruments: Mapping[str, Instrument],
        kinds: Mapping[str, Collection[str]] | None = None,
    ) -> None:
        self.store = store
        self.name = name
        self.instruments = instruments
        self.kinds = {kind: tuple(members) for kind, members in (kinds or {}).items()}
        self.lanes: dict[str, Lane] = {}
        self.identities: dict[str, Identity] = {}
        self.out: dict[str, OutOfService] = store.out_of_service(name)
        self._changed = asyncio.Condition()
        self._queue = Queue()
        self._returns: Counter[str] = Counter()
        self._failures: Counter[str] = Counter()

    def add(self, name: str, slots: int) -> None:
        """Put an instrument on the bench."""
        self.lanes[name] = Lane(slots, self._changed)

    def members(self, name: str) -> tuple[str, ...]:
        """Return the instruments that a step may mean by a name."""
        return self.kinds.get(name, (name,))

    @property
    def working(self) -> bool:
        """Whether any order runs."""
        return any(lane.working for lane in self.lanes.values())

    async def enter(
        self, name: str, avoid: Collection[str] = (), planned: Callable[[], float] = lambda: math.inf
    ) -> str | Hindrance:
        """Wait for a free slot of an instrument, or of any of a kind, and take it.

        Args:
            name: instrument or kind.
            avoid: members that failed at this step and are asked only if there is no other.
            planned: when the plan has the step begin; of those who wait, the earliest takes the slot.

        Returns:
            The name of the instrument; or why none can be had, without a slot.
        """
        async with self._changed, self._in_turn(name, planned) as ticket:
            while True:
                usable = [one for one in self.members(name) if one not in self.out and not self.lanes[one].stuck]
                usable = [one for one in usable if one not in avoid] or usable
                if not usable:
                    return self._hindrance(name)
                free = [one for one in usable if self.lanes[one].free]
                slots = {one: self.lanes[one].slots - self.lanes[one].taken for one in usable}
                if free and self._queue.is_next(ticket, slots):
                    chosen = min(free, key=lambda one: self.lanes[one].working)
                    self.lanes[chosen].working += 1
                    return chosen
                await self._changed.wait()

    @asynccontextmanager
    async def _in_turn(self, name: str, planned: Callable[[], float]) -> AsyncIterator[Ticket]:
        """Stand in the queue; whoever leaves it lets the others look whether it is their turn."""
        try:
            with self._queue.waiting(self.members(name), planned) as ticket:
                yield ticket
        finally:
            self._changed.notify_all()

    async def look_again(self) -> None:
        """Let those who wait look whether it is their turn: the plan has changed."""
        async with self._changed:
            self._changed.notify_all()

    def _hindrance(self, name: str) -> Hindrance:
        stuck = [one for one in self.members(name) if one not in self.out]
        if stuck:
            return Hindrance("unknown", f"{stuck[0]!r} is held by an attempt whose outcome nobody knows", stuck[0])
        first = self.members(name)[0]
        return Hindrance("service", f"instrument {first!r} cannot go on: {self.out[first].reason}", first)

    async def take_note(self) -> None:
        """Read anew which instruments are out of service; it may have been said elsewhere."""
        async with self._changed:
            self.out = self.store.out_of_service(self.name)
            self._changed.notify_all()

    # --- out of service, and back ---------------------------------------------------------------------------------

    async def take_out(self, name: str, cause: str, reason: str) -> None:
        """Take an instrument out of service, and tell the operators."""
        if cause in PASSING and self._returns[name] >= RETURNS:
            cause, reason = "faults", f"{reason} (it came back {RETURNS} times and failed each time)"
        self.store.take_out_of_service(self.name, name, cause=cause, reason=reason, actor="matloop")
        self.store.ask(self.name, "service", reason, instrument=name)
        await self.take_note()

    async def lost(self, name: str, reason: str) -> None:
        """Look whether an instrument is there at all whose work nobody knows; where it is not, take it out."""
        if name in self.out:
            return
        try:
            there = await self._healthy(self.instruments[name])
        except Exception:  # noqa: BLE001  whatever a driver of a missing device raises means: not there
            there = False
        if not there:
            await self.take_out(name, "offline", f"it does not answer any more: {reason}")

    async def put_back(self, name: str, reason: str) -> None:
        """Return an instrument to service because it is ready again."""
        self._returns[name] += 1
        self.store.return_to_service(self.name, name, reason=reason, actor="matloop")
        await self.take_note()

    def succeeded(self, name: str) -> None:
        """Take note that an order ended well."""
        self._returns[name] = self._failures[name] = 0

    def failed(self, name: str) -> int:
        """Take note that an order failed by the instrument's doing; return how many did so in a row."""
        self._failures[name] += 1
        return self._failures[name]

    async def look(self) -> None:
        """Look whether instruments whose link was lost are there again."""
        with suppress(StoreError):
            await self.take_note()
        for name, out in list(self.out.items()):
            if out.passing and name in self.lanes and await self.ready(name):
                await self.put_back(name, "it is there again and says that it is ready")

    async def ready(self, name: str) -> bool:
        """Say whether an instrument answers that it is ready, with a new session where the old one is dead."""
        instrument = self.instruments[name]
        try:
            if name in self.identities and await self._healthy(instrument):
                return True
            with suppress(Exception):  # what is left of the dead session
                await asyncio.wait_for(instrument.close(), ANSWER_S)
            identity = await asyncio.wait_for(instrument.open(), OPEN_S)
            known = self.identities.setdefault(name, identity)
            if known.serial != identity.serial:
                reason = f"it came back as another one: serial number {identity.serial!r}, before {known.serial!r}"
                await self.change_cause(name, "identity", reason)
                return False
            return await self._healthy(instrument)
        except Exception:  # noqa: BLE001  whatever a driver of a missing device raises means: not there
            return False

    async def change_cause(self, name: str, cause: str, reason: str) -> None:
        """Say anew why an instrument is out of service: a person must now bring it back."""
        self.store.return_to_service(self.name, name, reason="the reason changes", actor="matloop")
        await self.take_out(name, cause, reason)

    @staticmethod
    async def _healthy(instrument: Instrument) -> bool:
        return (await asyncio.wait_for(instrument.health(), ANSWER_S)).state in {"ready", "busy"}
