"""The plan of OR-tools' CP-SAT: shorter than the plain one where there is room, and with a proof of how good it is.

OR-tools is an extra (Apache-2.0, 30 MB) and is imported inside the functions.
"""

from __future__ import annotations

import math
from importlib.util import find_spec
from types import MappingProxyType
from typing import Any

from orchestrator.errors import PluginError
from orchestrator.schedule import plain
from orchestrator.schedule.shop import Plan, Shop

SECONDS = 5.0
TICKS = 100_000
"""The plain plan is so many ticks of CP-SAT's whole numbers long, or one second is one tick where that is finer."""


def available() -> bool:
    """Say whether OR-tools is installed."""
    return find_spec("ortools") is not None


def require() -> None:
    """Refuse to go on without OR-tools.

    Raises:
        PluginError: it is not installed.
    """
    if not available():
        message = "CP-SAT plans need OR-tools; install it with: pip install 'matloop[schedule]', or use 'plain'"
        raise PluginError(message)


def plan(shop: Shop, *, seconds: float = SECONDS, seed: int = 0, workers: int = 1) -> Plan:
    """Plan a batch.

    Args:
        shop: the batch and its machines.
        seconds: time for the solver.
        seed: of the solver.
        workers: threads.

    Returns:
        The shortest plan found, and the bound that the solver proved. Where times are no whole ticks, durations are
        rounded up, so that the plan can be carried out, and the bound is the plain one.

    Raises:
        PluginError: OR-tools is not installed.
    """
    require()
    from ortools.sat.python import cp_model  # noqa: PLC0415  30 MB that only this needs

    first = plain.plan(shop, seed=seed)
    if first.makespan_s <= first.bound_s:
        return first  # as short as can be; an empty batch among them
    tick = _tick(shop, first.makespan_s)
    scale = _Scale(tick)
    horizon = scale.up(first.makespan_s) + sum(len(job.operations) for job in shop.jobs) * 2
    model = cp_model.CpModel()
    spans: dict[tuple[str, str], list[tuple[Any, int]]] = {}
    starts: dict[tuple[str, int], Any] = {}
    ends: list[Any] = []
    for number, job in enumerate(shop.jobs):
        free: Any = scale.up(job.ready_s)
        for i, operation in enumerate(job.operations):
            length = scale.up(operation.seconds)
            start = model.new_int_var(0, horizon, f"s{number}_{i}")
            span = model.new_fixed_size_interval_var(start, length, f"i{number}_{i}")
            model.add(start >= free + scale.up(shop.pause_s(job, i)))
            model.add_hint(start, scale.up(first.starts[job.name, i]))
            starts[job.name, i] = start
            free = start + length
            spans.setdefault(("machine", operation.machine), []).append((span, 1))
            for name, amount in operation.places.items():
                spans.setdefault(("place", name), []).append((span, amount))
        ends += [free] if job.operations else []
    for machine, taken in shop.busy.items():
        fixed = [model.new_fixed_size_interval_var(0, scale.up(end), f"b{machine}_{i}") for i, end in enumerate(taken)]
        spans.setdefault(("machine", machine), []).extend((span, 1) for span in fixed)
    for (kind, name), wanted in spans.items():
        limit = (shop.machines if kind == "machine" else shop.places)[name]
        if limit == 1:
            model.add_no_overlap([span for span, _ in wanted])
        else:
            model.add_cumulative([span for span, _ in wanted], [amount for _, amount in wanted], limit)
    makespan = model.new_int_var(0, horizon, "makespan")
    model.add_max_equality(makespan, ends)
    model.minimize(makespan)
    solver = cp_model.CpSolver()
    solver.parameters.max_time_in_seconds = seconds
    solver.parameters.num_workers = workers
    solver.parameters.random_seed = seed
    status = solver.solve(model)
    bound = max(first.bound_s, solver.best_objective_bound * tick if scale.exact else 0.0)
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE) or solver.objective_value * tick >= first.makespan_s:
        return Plan(first.starts, first.makespan_s, min(bound, first.makespan_s), by="plain, which CP-SAT did not beat")
    found = {key: solver.value(start) * tick for key, start in starts.items()}
    last = max(found[job.name, i] + one.seconds for job in shop.jobs for i, one in enumerate(job.operations))
    return Plan(MappingProxyType(found), last, min(bound, last), by="cp_sat")


class _Scale:
    """Seconds to whole ticks; remembers whether every time was a whole number of them."""

    def __init__(self, tick: float) -> None:
        self.tick = tick
        self.exact = True

    def up(self, seconds: float) -> int:
        """Return the ticks of a time, rounded up."""
        ticks = seconds / self.tick
        whole = round(ticks)
        if math.isclose(ticks, whole, abs_tol=1e-6):
            return whole
        self.exact = False
        return math.ceil(ticks)


def _tick(shop: Shop, makespan: float) -> float:
    times = {one.seconds for job in shop.jobs for one in job.operations}
    times |= {one.wait_s for job in shop.jobs for one in job.operations}
    if makespan >= 1.0 and all(float(time).is_integer() for time in times):
        return 1.0
    return makespan / TICKS
