"""The plain plan: list scheduling by several rules, then a small search that puts single operations earlier or later.

A sequence names jobs, one entry an operation; read from the left, each operation is put at the earliest time at which
its machine and places are free for as long as it lasts, gaps included. Every such reading is a feasible plan, and some
sequence gives a shortest one (Giffler & Thompson 1960, doi:10.1287/opre.8.4.487; operation sequences after
Bierwirth 1995, doi:10.1007/BF01719250). The search moves single operations and keeps what is not longer, like the
iterated local search of Ruiz & Stützle 2007, doi:10.1016/j.ejor.2005.12.009. The same problem and seed give the same
plan.
"""

from __future__ import annotations

import random
from bisect import bisect_left, insort
from collections.abc import Callable, Sequence
from types import MappingProxyType

from orchestrator.schedule.shop import CLOSE, Job, Operation, Plan, Shop

LOOKS = 4000
"""Plans that the search looks at: about a second for eight trials over four instruments."""
MOST = 400
"""Operations above which the rules alone decide: a search would take longer than it wins."""
WARM = 0.01
"""Share of the makespan by which a move may make a plan longer at first; falls to nothing."""
BACK = 400
"""Looks without a better plan after which the search goes on from the best one."""

Rule = Callable[[Shop, Job, int, float], tuple[float, ...]]
RULES: tuple[Rule, ...] = (
    lambda shop, job, i, start: (start, -shop.work_s(job, i)),  # the earliest start; most work remaining
    lambda shop, job, i, start: (start - shop.work_s(job, i), start),  # the longest way to the end
    lambda _shop, job, i, start: (start + job.operations[i].seconds, start),  # the earliest end
    lambda _shop, job, _i, start: (job.place, start),  # one trial after the other
)


def plan(shop: Shop, *, looks: int = LOOKS, seed: int = 0) -> Plan:
    """Plan a batch.

    Args:
        shop: the batch and its machines.
        looks: how many plans the search may look at.
        seed: of the search.

    Returns:
        The shortest plan found.
    """
    sequences = [_listed(shop, rule) for rule in RULES]
    found = [_Reading(shop).read(sequence) for sequence in sequences]
    best = min(range(len(found)), key=lambda i: found[i].score)
    reading, sequence = found[best], sequences[best]
    bound = lower_bound(shop)
    if len(sequence) <= MOST and reading.makespan > bound + CLOSE:
        reading = _search(shop, sequence, looks=looks, draw=random.Random(seed), bound=bound)
    return Plan(MappingProxyType(reading.starts), reading.makespan, bound)


def in_order_of_arrival(shop: Shop) -> Plan:
    """Plan without planning: whoever can begin first does, the earlier trial before the later one; to compare with."""
    sequence = _listed(shop, lambda _shop, job, _i, start: (start, job.place))
    reading = _Reading(shop).read(sequence)
    return Plan(MappingProxyType(reading.starts), reading.makespan, lower_bound(shop), by="arrival")


def lower_bound(shop: Shop) -> float:
    """Return a time that no plan can beat: the longest job, and the work of each machine spread over its slots."""
    longest = max((job.ready_s + shop.work_s(job) for job in shop.jobs if job.operations), default=0.0)
    bounds = [longest]
    for machine, slots in shop.machines.items():
        work = head = tail = 0.0
        heads, tails = [], []
        for job in shop.jobs:
            mine = [i for i, one in enumerate(job.operations) if one.machine == machine]
            if not mine:
                continue
            work += sum(job.operations[i].seconds for i in mine)
            heads.append(job.ready_s + shop.work_s(job) - shop.work_s(job, mine[0]))
            last = job.operations[mine[-1]]
            tails.append(shop.work_s(job, mine[-1]) - last.seconds)
        if heads:
            head, tail = min(heads), min(tails)
            bounds.append(head + work / slots + tail)
    return max(bounds)


class _Reading:
    """One reading of a sequence: what is taken when."""

    def __init__(self, shop: Shop) -> None:
        self.shop = shop
        self.starts: dict[tuple[str, int], float] = {}
        self.tracks: dict[str, list[list[tuple[float, float]]]] = {
            name: [[] for _ in range(slots)] for name, slots in shop.machines.items()
        }
        for name, ends in shop.busy.items():
            for track, end in zip(self.tracks[name], sorted(ends, reverse=True), strict=False):
                track.append((0.0, end))
        self.tracks |= {f"place {name}": [[] for _ in range(count)] for name, count in shop.places.items()}
        self.next = [0] * len(shop.jobs)
        self.free = [job.ready_s for job in shop.jobs]
        self.makespan = 0.0
        self.total = 0.0

    @property
    def score(self) -> tuple[float, float]:
        """What a shorter plan has less of: the end of the last job, then the ends of all."""
        return (self.makespan, self.total)

    def read(self, sequence: Sequence[int]) -> _Reading:
        """Put every operation of a sequence at its earliest time."""
        for number in sequence:
            self.put(number)
        self.total = sum(self.free)
        return self

    def earliest(self, number: int) -> tuple[float, list[list[tuple[float, float]]]]:
        """Return when the next operation of a job could begin, and the tracks that it would take."""
        job, i = self.shop.jobs[number], self.next[number]
        operation = job.operations[i]
        start = self.free[number] + self.shop.pause_s(job, i)
        wants = [(operation.machine, 1), *((f"place {name}", n) for name, n in operation.places.items())]
        if len(wants) == 1:
            begin, track = min(
                ((_gap(track, start, operation.seconds), track) for track in self.tracks[operation.machine]),
                key=lambda found: found[0],
            )
            return begin, [track]
        return self._together(operation, wants, start)

    def _together(
        self, operation: Operation, wants: Sequence[tuple[str, int]], start: float
    ) -> tuple[float, list[list[tuple[float, float]]]]:
        """Find the earliest time at which a slot and all places are free together."""
        while True:
            taken: list[list[tuple[float, float]]] = []
            later = start
            for name, count in wants:
                gaps = sorted(
                    ((_gap(track, start, operation.seconds), track) for track in self.tracks[name]),
                    key=lambda found: found[0],
                )[:count]
                later = max(later, gaps[-1][0])
                taken += [track for _, track in gaps]
            if later <= start:
                return start, taken
            start = later

    def put(self, number: int) -> None:
        """Put the next operation of a job."""
        start, tracks = self.earliest(number)
        job, i = self.shop.jobs[number], self.next[number]
        end = start + job.operations[i].seconds
        for track in tracks:
            insort(track, (start, end))
        self.starts[job.name, i] = start
        self.next[number] = i + 1
        self.free[number] = end
        self.makespan = max(self.makespan, end)


def _gap(track: Sequence[tuple[float, float]], start: float, seconds: float) -> float:
    """Return the earliest time from `start` at which a track is free for so long."""
    i = bisect_left(track, (start, start))
    if i > 0 and track[i - 1][1] > start:
        start = track[i - 1][1]
    for begin, end in track[i:]:
        if begin >= start + seconds - CLOSE:
            break
        start = max(start, end)
    return start


def _listed(shop: Shop, rule: Rule) -> list[int]:
    """Make a sequence by a rule: the next is always the operation that the rule puts first."""
    reading = _Reading(shop)
    sequence: list[int] = []
    left = [number for number, job in enumerate(shop.jobs) if job.operations]
    while left:
        starts = {number: reading.earliest(number)[0] for number in left}
        chosen = min(left, key=lambda n: (rule(shop, shop.jobs[n], reading.next[n], starts[n]), shop.jobs[n].place, n))
        reading.put(chosen)
        sequence.append(chosen)
        left = [number for number in left if reading.next[number] < len(shop.jobs[number].operations)]
    return sequence


def _search(shop: Shop, sequence: list[int], *, looks: int, draw: random.Random, bound: float) -> _Reading:
    """Move single operations to other places of the sequence, and keep what is not much longer."""
    best, best_sequence = _Reading(shop).read(sequence), sequence
    now, score, since = sequence, best.score, 0
    for look in range(looks):
        moved = _moved(now, draw)
        tried = _Reading(shop).read(moved)
        allowed = score[0] * (1.0 + WARM * (1.0 - look / looks) * draw.random() ** 2)
        since += 1
        if tried.score <= score or tried.makespan <= allowed:
            now, score = moved, tried.score
        if tried.score < best.score:
            best, best_sequence, since = tried, moved, 0
            if best.makespan <= bound + CLOSE:
                break
        if since >= BACK:
            now, score, since = best_sequence, best.score, 0
    return best


def _moved(sequence: Sequence[int], draw: random.Random) -> list[int]:
    """Return a sequence with one entry elsewhere, or two entries of different jobs exchanged."""
    moved = list(sequence)
    i, j = draw.randrange(len(moved)), draw.randrange(len(moved))
    if draw.random() < 0.5:  # noqa: PLR2004  either kind of move as often
        moved.insert(j, moved.pop(i))
    else:
        moved[i], moved[j] = moved[j], moved[i]
    return moved
