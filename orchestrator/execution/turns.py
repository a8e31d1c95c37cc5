"""Whose turn it is on an instrument that several trials wait for: by a plan of the batch, not by arrival.

The plan is made of what is left of the trials in flight, with the declared durations. It only ranks: an instrument that
is free never waits for a trial that the plan would rather have there later, so that wrong durations cost little.
"""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from orchestrator.config.schema import ScheduleConfig
from orchestrator.config.steps import StepConfig
from orchestrator.domain import Description
from orchestrator.execution.clock import Clock
from orchestrator.record.states import STEP_DONE, StepState
from orchestrator.record.views import StepInfo, TrialInfo
from orchestrator.schedule import cp_sat, plain
from orchestrator.schedule.shop import Job, Operation, Plan, Shop

WORTH_S = 60.0
"""Batches shorter than this are ranked by the rules alone: a search would take longer than it can save."""
MOST_READ = 60_000
"""Operations that one search may put into place: a third of a second."""
MOST_TRIALS = 64
"""Trials in flight above which arrival decides: so many are computed, not made, and reading them all takes time."""
MICROSECONDS = 1_000_000
Rank = tuple[float, int]


@dataclass
class Ticket:
    """One trial that waits for an instrument.

    Args:
        wanted: instruments that it could take.
        rank: the smaller, the earlier it is its turn; asked anew at each look, since a new plan changes it.
    """

    wanted: frozenset[str]
    rank: Callable[[], Rank]


class Queue:
    """Those who wait, over all instruments of a bench."""

    def __init__(self) -> None:
        self._tickets: list[Ticket] = []
        self._arrivals = itertools.count()

    @contextmanager
    def waiting(self, wanted: Collection[str], planned: Callable[[], float] = lambda: math.inf) -> Iterator[Ticket]:
        """Stand in the queue.

        Args:
            wanted: instruments that would do.
            planned: when the plan has the step begin; infinite where there is none.

        Yields:
            The ticket.
        """
        arrival = next(self._arrivals)
        ticket = Ticket(frozenset(wanted), lambda: (planned(), arrival))
        self._tickets.append(ticket)
        try:
            yield ticket
        finally:
            self._tickets.remove(ticket)

    def is_next(self, ticket: Ticket, free: Mapping[str, int]) -> bool:
        """Say whether it is a ticket's turn.

        Args:
            ticket: that asks.
            free: slots that are free, by instrument.
        """
        rank = ticket.rank()
        before = sum(
            other.rank() < rank and any(free.get(name, 0) for name in other.wanted & ticket.wanted)
            for other in self._tickets
            if other is not ticket
        )
        return before < sum(free.get(name, 0) for name in ticket.wanted)


class Turns:
    """The plan of a campaign's trials in flight.

    Args:
        schedule: how to plan.
        clock: of the campaign.
        procedures: steps by the name under which they are planned, by fidelity.
        members: gives the instruments that a step may mean by a name.
        descriptions: of the instruments.
        places: number of places by resource.
    """

    def __init__(
        self,
        schedule: ScheduleConfig,
        clock: Clock,
        procedures: Mapping[str, Mapping[str, StepConfig]],
        *,
        members: Callable[[str], tuple[str, ...]],
        descriptions: Mapping[str, Description],
        places: Mapping[str, int],
    ) -> None:
        self._schedule = schedule
        self._clock = clock
        self._procedures = procedures
        self._members = members
        self._descriptions = descriptions
        self._places = places
        self._starts: Mapping[tuple[str, str], float] = {}
        self._planned: frozenset[int] = frozenset()
        self._begun: dict[int, tuple[str, float]] = {}
        self._planning: asyncio.Task[None] | None = None

    def planned(self, trial: int, step: str) -> float:
        """Return when the plan has a step begin; infinite where no plan names it."""
        return self._starts.get((str(trial), step), math.inf)

    @contextmanager
    def at_work(self, trial: int, step: StepInfo, machine: str) -> Iterator[None]:
        """Take note that a step runs, and for how long that usually takes."""
        self._begun[trial] = (machine, self._clock.monotonic() + self._seconds(machine, step))
        try:
            yield
        finally:
            self._begun.pop(trial, None)

    async def look(self, in_flight: Collection[int], trials: Callable[[], Sequence[TrialInfo]]) -> bool:
        """Plan anew where other trials are in flight than when the plan was made; say whether there is a new plan.

        Args:
            in_flight: numbers of the trials that are being carried out.
            trials: reads them.
        """
        new = frozenset(in_flight) != self._planned and len(in_flight) <= MOST_TRIALS
        if new and (self._planning is None or self._planning.done()):
            self._planned = frozenset(in_flight)
            self._planning = asyncio.create_task(self._plan(trials()))
        if self._planning is not None:  # also those who did not ask for it wait, so that nobody slips past the plan
            await asyncio.shield(self._planning)
        return new

    async def _plan(self, trials: Sequence[TrialInfo]) -> None:
        shop, names = self._shop(trials)
        if sum(len(job.operations) > 1 for job in shop.jobs) == 0 or len(shop.jobs) < 2:  # noqa: PLR2004  a batch is two
            self._starts = {}
            return
        found = await self._solved(shop)
        self._starts = {(job, names[job][i]): start for (job, i), start in found.starts.items()}

    async def _solved(self, shop: Shop) -> Plan:
        """Plan, on a thread where it takes a while."""
        quick = plain.plan(shop, looks=0)
        if quick.makespan_s < WORTH_S or quick.makespan_s <= quick.bound_s:
            return quick
        if self._schedule.use == "cp_sat":
            return await asyncio.to_thread(cp_sat.plan, shop, seconds=self._schedule.seconds)
        looks = min(plain.LOOKS, MOST_READ // max(1, sum(len(job.operations) for job in shop.jobs)))
        return await asyncio.to_thread(plain.plan, shop, looks=looks)

    def _shop(self, trials: Sequence[TrialInfo]) -> tuple[Shop, dict[str, list[str]]]:
        """Say what is left of some trials as a problem, with the names of the steps of each job."""
        now = self._clock.monotonic()
        jobs, names = [], {}
        for place, trial in enumerate(trials):
            procedure = self._procedures.get(trial.fidelity, {})
            left = [step for step in trial.steps if step.state not in STEP_DONE and step.name in procedure]
            ready = 0.0
            if left and left[0].state is StepState.OPEN:
                _, end = self._begun.get(trial.number, ("", now))
                ready = max(0.0, end - now) + self._wait_s(procedure[left[0].name])
                left = left[1:]
            elif left and left[0].not_before is not None:
                ready = max(0.0, (left[0].not_before - self._clock.now()) / MICROSECONDS)
            operations = tuple(self._operation(step, procedure[step.name]) for step in left)
            if operations:
                jobs.append(Job(str(trial.number), operations, ready, place))
                names[str(trial.number)] = [step.name for step in left]
        machines = {step.instrument for procedure in self._procedures.values() for step in procedure.values()}
        slots = {name: sum(self._descriptions[m].slots for m in self._members(name)) for name in machines}
        busy: dict[str, list[float]] = {}
        for machine, end in self._begun.values():
            busy.setdefault(machine, []).append(max(0.0, end - now))
        fitting = {
            name: tuple(sorted(ends, reverse=True)[: slots[name]]) for name, ends in busy.items() if name in slots
        }
        return Shop(tuple(jobs), slots, self._places, fitting), names

    def _operation(self, step: StepInfo, config: StepConfig) -> Operation:
        places = {name: round(need.amount) for name, need in config.needs.items() if name in self._places}
        return Operation(
            step.name, config.instrument, self._seconds(config.instrument, step), self._wait_s(config), places
        )

    def _seconds(self, machine: str, step: StepInfo) -> float:
        """Return how long a step usually takes."""
        description = self._descriptions[self._members(machine)[0]]
        return description.capability(step.capability or None).typical_s

    @staticmethod
    def _wait_s(config: StepConfig) -> float:
        return config.wait.total_s if config.wait is not None else 0.0
