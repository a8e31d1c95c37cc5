"""The problem of a plan as plain values: jobs of operations, machines with slots, places that operations take.

A job is a trial and an operation a step. An operation may begin when the one before it has ended and its wait is over;
it holds one slot of its machine, and its places, as long as it lasts. Seconds everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from orchestrator.domain import frozen

CLOSE = 1e-6
"""Seconds by which times may differ and mean the same."""


@dataclass(frozen=True)
class Operation:
    """One step of a trial.

    Args:
        name: of the step.
        machine: instrument, or kind of instruments, that does it.
        seconds: how long it takes.
        wait_s: time that must pass after it before the job's next operation.
        places: how many places of each resource it holds meanwhile.
    """

    name: str
    machine: str
    seconds: float
    wait_s: float = 0.0
    places: Mapping[str, int] = field(default_factory=frozen)


@dataclass(frozen=True)
class Job:
    """One trial.

    Args:
        name: of the trial.
        operations: what is left of it, in order.
        ready_s: when its first operation may begin.
        place: 0 for the trial that should be preferred where nothing else decides, counted up.
    """

    name: str
    operations: tuple[Operation, ...]
    ready_s: float = 0.0
    place: int = 0


@dataclass(frozen=True)
class Shop:
    """A batch, and what it is carried out on.

    Args:
        jobs: to be planned.
        machines: slots by machine.
        places: places by resource.
        busy: when the slots of a machine that are taken now will come free, in seconds from now.
        transport_s: time from one machine to another one.
    """

    jobs: tuple[Job, ...]
    machines: Mapping[str, int]
    places: Mapping[str, int] = field(default_factory=frozen)
    busy: Mapping[str, Sequence[float]] = field(default_factory=frozen)
    transport_s: float = 0.0

    def pause_s(self, job: Job, index: int) -> float:
        """Return the time between an operation and the one before it: its wait, and the transport."""
        if index == 0:
            return 0.0
        before, now = job.operations[index - 1], job.operations[index]
        return before.wait_s + (self.transport_s if before.machine != now.machine else 0.0)

    def work_s(self, job: Job, index: int = 0) -> float:
        """Return the least time that a job needs from an operation to its end."""
        later = range(index, len(job.operations))
        return sum(job.operations[i].seconds + (self.pause_s(job, i) if i > index else 0.0) for i in later)


@dataclass(frozen=True)
class Plan:
    """Start times.

    Args:
        starts: seconds from now, by the name of the job and the index of the operation.
        makespan_s: when the last operation ends.
        bound_s: no plan can be shorter, where that was proved.
        by: what made it.
    """

    starts: Mapping[tuple[str, int], float]
    makespan_s: float
    bound_s: float = 0.0
    by: str = "plain"


def violations(shop: Shop, plan: Plan) -> Iterator[str]:
    """Find what is wrong with a plan.

    Args:
        shop: the problem.
        plan: its answer.

    Yields:
        One sentence each: a missing operation, a wrong order, a slot or a place used twice.
    """
    used: dict[tuple[str, str], list[tuple[float, float, int]]] = {
        ("machine", machine): [(0.0, end, 1) for end in ends] for machine, ends in shop.busy.items()
    }
    last = 0.0
    for job in shop.jobs:
        free = job.ready_s
        for i, operation in enumerate(job.operations):
            start = plan.starts.get((job.name, i))
            if start is None:
                yield f"{job.name} {operation.name} is not planned"
                continue
            if start < free + shop.pause_s(job, i) - CLOSE:
                yield f"{job.name} {operation.name} begins at {start:g}, before {free + shop.pause_s(job, i):g}"
            free = start + operation.seconds
            last = max(last, free)
            used.setdefault(("machine", operation.machine), []).append((start, free, 1))
            for name, amount in operation.places.items():
                used.setdefault(("place", name), []).append((start, free, amount))
    for (kind, name), spans in used.items():
        yield from _overfull(kind, name, spans, (shop.machines if kind == "machine" else shop.places)[name])
    if abs(last - plan.makespan_s) > CLOSE:
        yield f"the last operation ends at {last:g}, and the plan says {plan.makespan_s:g}"


def _overfull(kind: str, name: str, spans: Sequence[tuple[float, float, int]], limit: int) -> Iterator[str]:
    """Find the times at which more is held than there is; it is most just after something begins."""
    for start, _, _ in spans:
        at_once = sum(amount for begin, end, amount in spans if begin <= start + CLOSE < end - CLOSE)
        if at_once > limit:
            yield f"{at_once} operations hold {kind} {name} at {start:g}, which has {limit}"
