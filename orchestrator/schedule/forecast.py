"""What a campaign's trials will take, before the first of them: a forecast from declared durations.

Trials enter as the campaign's loop lets them in, `parallel` at a time; on each instrument the one whose turn it is by
the plan goes next, as in the executor. Conditions are taken to hold, and nothing fails.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from orchestrator.schedule import plain
from orchestrator.schedule.shop import Job, Operation, Plan, Shop


@dataclass(frozen=True)
class Bar:
    """One step of one trial in the forecast.

    Args:
        trial: number, from 1.
        step: name.
        machine: instrument, or kind of instruments.
        slot: of the machine, from 0.
        ready_s: when it could have begun if the instrument had been free.
        start_s: when it begins.
        end_s: when it ends.
    """

    trial: int
    step: str
    machine: str
    slot: int
    ready_s: float
    start_s: float
    end_s: float


@dataclass(frozen=True)
class Use:
    """How an instrument is used.

    Args:
        slots: how many orders it takes at once.
        share: of the slots' time between the first start and the last end that is work.
        waiting_s: that trials wait for it, summed over them.
    """

    machine: str
    slots: int
    share: float
    waiting_s: float


@dataclass(frozen=True)
class Forecast:
    """What a batch of trials will take.

    Args:
        bars: every step, by start.
        makespan_s: from the first start to the last end.
        uses: by machine, the busiest first.
        alone_s: what one trial would take if it were alone.
    """

    bars: tuple[Bar, ...]
    makespan_s: float
    uses: tuple[Use, ...]
    alone_s: float

    @property
    def bottleneck(self) -> str:
        """The machine that is busiest."""
        return self.uses[0].machine if self.uses else ""


def forecast(
    operations: Sequence[Operation],
    machines: Mapping[str, int],
    *,
    trials: int,
    parallel: int,
    rounds_of: int = 1,
    places: Mapping[str, int] | None = None,
) -> Forecast:
    """Run trials on paper.

    Args:
        operations: the steps of one trial.
        machines: slots by machine.
        trials: how many.
        parallel: how many are in flight at most.
        rounds_of: so many must have ended before new ones begin.
        places: places by resource.

    Returns:
        The forecast.
    """
    shop = Shop((), machines, places or {})
    world = _World(shop, operations, trials=trials, parallel=parallel, rounds_of=rounds_of)
    bars = world.run()
    end = max((bar.end_s for bar in bars), default=0.0)
    uses = []
    for machine, slots in machines.items():
        mine = [bar for bar in bars if bar.machine == machine]
        if mine:
            work = sum(bar.end_s - bar.start_s for bar in mine)
            waiting = sum(bar.start_s - bar.ready_s for bar in mine)
            uses.append(Use(machine, slots, work / (slots * end) if end else 0.0, waiting))
    uses.sort(key=lambda use: (-use.share, -use.waiting_s, use.machine))
    return Forecast(bars, end, tuple(uses), shop.work_s(Job("", tuple(operations))))


def with_one_more(
    operations: Sequence[Operation], machines: Mapping[str, int], machine: str, **how: object
) -> Forecast:
    """Run the trials on paper with one more slot of a machine; `how` as for `forecast`."""
    return forecast(operations, {**machines, machine: machines[machine] + 1}, **how)  # type: ignore[arg-type]  # passed on


@dataclass
class _Trial:
    """A trial on its way: the index of its next step, and since when it could begin."""

    number: int
    step: int = 0
    ready: float = 0.0
    working_until: float = 0.0


class _World:
    """Trials on their way through instruments, event by event."""

    def __init__(
        self, shop: Shop, operations: Sequence[Operation], *, trials: int, parallel: int, rounds_of: int
    ) -> None:
        self.shop = shop
        self.operations = tuple(operations)
        self.left = trials
        self.parallel = parallel
        self.rounds_of = rounds_of
        self.now = 0.0
        self.slots: dict[str, list[bool]] = {name: [False] * count for name, count in shop.machines.items()}
        self.places = dict(shop.places)
        self.flying: dict[int, _Trial] = {}
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        self.count = 0
        self.bars: list[Bar] = []
        self.starts: Mapping[tuple[str, int], float] = {}
        self.next_number = 1

    def run(self) -> tuple[Bar, ...]:
        """Let time pass until every trial has ended."""
        self._enter()
        while True:
            self._dispatch()
            if not self.events:
                return tuple(sorted(self.bars, key=lambda bar: (bar.start_s, bar.trial)))
            self.now, _, act = heapq.heappop(self.events)
            act()
            while self.events and self.events[0][0] <= self.now:
                heapq.heappop(self.events)[2]()

    def _at(self, time: float, act: Callable[[], None]) -> None:
        self.count += 1
        heapq.heappush(self.events, (time, self.count, act))

    def _enter(self) -> None:
        """Let trials in, as the loop does."""
        free = self.parallel - len(self.flying)
        if free < min(self.rounds_of, self.parallel) or not self.left:
            return
        for _ in range(min(free, self.left)):
            self.flying[self.next_number] = _Trial(self.next_number, ready=self.now)
            self.next_number += 1
            self.left -= 1
        self._plan()

    def _plan(self) -> None:
        """Plan what is left of the trials in flight."""
        jobs, offsets = [], {}
        busy: dict[str, list[float]] = {}
        for trial in self.flying.values():
            left = self.operations[trial.step :]
            if trial.working_until > self.now:
                busy.setdefault(self.operations[trial.step - 1].machine, []).append(trial.working_until - self.now)
            if left:
                ready = max(0.0, trial.ready - self.now)
                jobs.append(Job(str(trial.number), left, ready, trial.number))
                offsets[str(trial.number)] = trial.step
        shop = replace(self.shop, jobs=tuple(jobs), busy=busy)
        total = sum(len(job.operations) for job in jobs)
        found: Plan = plain.plan(shop, looks=min(1500, 20_000 // max(1, total)))
        self.starts = {(job, offsets[job] + i): self.now + start for (job, i), start in found.starts.items()}

    def _dispatch(self) -> None:
        """Begin every step that can begin, in the order of the plan."""
        waiting = [t for t in self.flying.values() if t.step < len(self.operations) and t.ready <= self.now]
        waiting = [trial for trial in waiting if trial.working_until <= self.now]
        for trial in sorted(waiting, key=lambda t: (self.starts.get((str(t.number), t.step), 0.0), t.number)):
            operation = self.operations[trial.step]
            slots = self.slots[operation.machine]
            if all(slots) or any(self.places[name] < n for name, n in operation.places.items()):
                continue
            self._begin(trial, operation, slots.index(False))

    def _begin(self, trial: _Trial, operation: Operation, slot: int) -> None:
        self.slots[operation.machine][slot] = True
        for name, amount in operation.places.items():
            self.places[name] -= amount
        end = self.now + operation.seconds
        bar = Bar(trial.number, operation.name, operation.machine, slot, trial.ready, self.now, end)
        self.bars.append(bar)
        trial.step += 1
        trial.working_until = end
        trial.ready = end + operation.wait_s
        self._at(end, lambda: self._end(trial, operation, slot))

    def _end(self, trial: _Trial, operation: Operation, slot: int) -> None:
        self.slots[operation.machine][slot] = False
        for name, amount in operation.places.items():
            self.places[name] += amount
        if trial.step == len(self.operations):
            del self.flying[trial.number]
            self._enter()
        elif operation.wait_s:
            self._at(trial.ready, lambda: None)
