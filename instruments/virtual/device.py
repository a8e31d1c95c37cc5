"""A virtual device: one job at a time, in virtual time, with faults; what stands behind each protocol server.

A device does what it is told as often as it is told: it does not look whether it has seen a key before, so that an
order that is sent twice is done twice, and the world's log shows it.
"""

from __future__ import annotations

import math
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from instruments.virtual.world import World
from orchestrator.domain import Capability, canonical_json, sha256

FaultKind = Literal["busy", "interlocked", "breaks", "hangs", "nan", "out_of_range", "stale"]
FAULTS: tuple[FaultKind, ...] = ("busy", "interlocked", "breaks", "hangs", "nan", "out_of_range", "stale")
"""What can go wrong with an order: at work by hand, door open, breaks midway, never ends, shows no number, shows a
number off its scale, shows the previous order's numbers as if they were new."""
NEVER_S = 1e6
VIAL = "vial"


class RefusedError(Exception):
    """A device does not take an order; nothing moved.

    Args:
        message: for people.
        kind: why.
    """

    def __init__(self, message: str, kind: Literal["busy", "interlocked", "rejected"] = "rejected") -> None:
        self.kind = kind
        super().__init__(message)


@dataclass
class Job:
    """One order and what became of it.

    Args:
        key: of the order; empty where the protocol carried none.
        values: set-points.
        state: of the job.
        readings: what the device shows.
        shown_key: what the device says whose readings they are.
        message: why it failed.
        begun: by the monotonic clock.
        lasts: seconds of the wall's clock.
    """

    key: str
    values: Mapping[str, float]
    state: Literal["busy", "done", "failed", "aborted"] = "busy"
    readings: dict[str, float] = field(default_factory=dict)
    shown_key: str = ""
    message: str = ""
    begun: float = field(default_factory=time.monotonic)
    lasts: float = 0.0
    ended: threading.Event = field(default_factory=threading.Event)

    def progress(self) -> float:
        """Return how much is done, 0 to 1."""
        if self.state != "busy" or not self.lasts:
            return 1.0
        return min(1.0, (time.monotonic() - self.begun) / self.lasts)


class Device(ABC):
    """Base of the virtual devices. A device writes `capability`, `lasts`, `work`, and `refusal` where it can refuse.

    Args:
        world: where the samples are.
        faults: probability that an order meets a fault.
        kinds: faults to choose from.
    """

    name = "device"
    model = "VIRTUAL"

    def __init__(self, world: World, *, faults: float = 0.0, kinds: tuple[FaultKind, ...] = FAULTS) -> None:
        self.world = world
        self.faults = faults
        self.kinds = kinds
        self.setpoints = {p.name: float(p.default or p.low or 0.0) for p in self.capability().parameters}
        self.door_open = False
        self.job: Job | None = None
        self.state: dict[str, Any] = {"orders": 0, "acts": 0, **world.state(self.name)}
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._after_a_cut()

    # What a device writes.

    @abstractmethod
    def capability(self) -> Capability:
        """Declare set-points and outputs, with units and ranges."""

    @abstractmethod
    def lasts(self, values: Mapping[str, float]) -> float:
        """Return the virtual seconds that an order takes."""

    @abstractmethod
    def work(self, values: Mapping[str, float], share: float, rng: np.random.Generator) -> dict[str, float]:
        """Change the world, and return what the device shows.

        Args:
            values: set-points.
            share: of the time that passed before the end; below 1 where the job was stopped.
            rng: for noise.

        Returns:
            A number for each output; truths that nobody can see have names that begin with an underscore.
        """

    def refusal(self, values: Mapping[str, float]) -> RefusedError | None:
        """Say why an order cannot be taken."""
        if VIAL in values and not self.world.has(round(values[VIAL])):
            return RefusedError(f"there is no vial {values[VIAL]:g}")
        return None

    # What a server calls.

    def set(self, name: str, value: float) -> None:
        """Take over one set-point, rounded to the resolution of the device.

        Raises:
            RefusedError: it is out of range.
        """
        parameter = next(p for p in self.capability().parameters if p.name == name)
        low, high = parameter.low or 0.0, parameter.high or 0.0
        if not (math.isfinite(value) and low <= value <= high):
            message = f"{name} {value:g} is out of range; {low:g} to {high:g} {parameter.unit} were expected"
            raise RefusedError(message)
        if parameter.resolution:
            value = round(value / parameter.resolution) * parameter.resolution
        self.setpoints[name] = min(high, max(low, value))  # rounding may pass a bound by a part of a step

    def start(self, key: str) -> Job:
        """Begin a job with the set-points as they stand.

        Args:
            key: of the order.

        Returns:
            The job, which goes on by itself.

        Raises:
            RefusedError: the device is at work, interlocked, or cannot do this; nothing moved.
        """
        with self._lock:
            if self.busy:
                message = f"{self.name} is at work for {self.last_key()!r}"
                raise RefusedError(message, "busy")
            self.state["orders"] += 1
            fault = self._fault()
            values = dict(self.setpoints)
            refused = self._refused(fault, values)
            if refused is not None:
                self._log("refused", key=key, why=refused.kind, message=str(refused), fault=fault)
                self.world.keep_state(self.name, self.state)
                raise refused
            self.state["acts"] += 1
            self.world.keep_state(self.name, self.state)
            self._log("started", key=key, values=values, fault=fault)
            earlier, job = self.job, Job(key, values, lasts=self.lasts(values) / self.world.speed)
            self.job = job
            self._stop.clear()
        threading.Thread(target=self._carry_out, args=(job, earlier, fault), daemon=True).start()
        return job

    @property
    def busy(self) -> bool:
        """Say whether a job runs."""
        return self.job is not None and self.job.state == "busy"

    def abort(self) -> None:
        """Stop what runs; harmless when idle."""
        self._stop.set()

    def last_key(self) -> str:
        """Return the key of the order that was begun last; empty where there is none."""
        return self.job.key if self.job is not None else ""

    def shown_key(self) -> str:
        """Return the key of the order whose readings are shown."""
        return self.job.shown_key if self.job is not None else ""

    def reading(self, name: str) -> float:
        """Return what the device shows for an output; NaN where there is nothing to show."""
        return self.job.readings.get(name, math.nan) if self.job is not None else math.nan

    # Inside.

    def _refused(self, fault: FaultKind | None, values: Mapping[str, float]) -> RefusedError | None:
        if fault == "busy":
            return RefusedError(f"{self.name} is used by hand", "busy")
        if fault == "interlocked" or self.door_open:
            return RefusedError(f"the door of the {self.name} is open", "interlocked")
        return self.refusal(values)

    def _carry_out(self, job: Job, earlier: Job | None, fault: FaultKind | None) -> None:
        rng = self._rng("act", self.state["acts"])
        lasts = {"hangs": NEVER_S, "breaks": job.lasts * float(rng.uniform(0.2, 0.9))}.get(fault or "", job.lasts)
        stopped = self._stop.wait(lasts)
        share = min(1.0, (time.monotonic() - job.begun) / job.lasts) if job.lasts else 1.0
        whole = not stopped and fault != "breaks"
        shown = self.work(job.values, 1.0 if whole else share, rng)
        truth = {name.lstrip("_"): value for name, value in shown.items() if name.startswith("_")}
        readings = {name: value for name, value in shown.items() if not name.startswith("_")}
        job.shown_key = job.key
        if whole:
            self._spoil(job, readings, earlier, fault)
            self._log("finished", key=job.key, readings=readings, shown=job.readings, truth=truth, fault=fault)
            job.state = "done"
        elif stopped:
            job.message = f"stopped after {share:.0%}"
            self._log("aborted", key=job.key, share=share, truth=truth, fault=fault)
            job.state = "aborted"
        else:
            job.message = f"the {self.name} broke down after {share:.0%} of the work"
            self._log("failed", key=job.key, share=share, truth=truth, fault=fault)
            job.state = "failed"
        self.world.keep_state(self.name, self.state)
        job.ended.set()

    def _spoil(self, job: Job, readings: dict[str, float], earlier: Job | None, fault: FaultKind | None) -> None:
        job.readings = dict(readings)
        outputs = [output for output in self.capability().outputs if output.name != VIAL]
        if fault == "stale" and earlier is not None and earlier.readings:
            job.readings, job.shown_key = dict(earlier.readings), earlier.shown_key
        elif fault == "nan":
            job.readings[outputs[0].name] = math.nan
        elif fault == "out_of_range":
            job.readings[outputs[0].name] = 10.0 * (outputs[0].high or 1.0)

    def _fault(self) -> FaultKind | None:
        rng = self._rng("fault", self.state["orders"])
        if rng.random() >= self.faults:
            return None
        kind = self.kinds[int(rng.integers(len(self.kinds)))]
        earlier = self.job is not None and bool(self.job.readings)
        return kind if kind != "stale" or earlier else None  # without an earlier number there is none to show

    def _rng(self, purpose: str, number: int) -> np.random.Generator:
        return np.random.default_rng(
            int(sha256(canonical_json([self.world.seed, self.name, purpose, number]))[:15], 16)
        )

    def _log(self, event: str, **content: Any) -> None:
        self.world.log(self.name, event, act=self.state["acts"], **content)

    def _after_a_cut(self) -> None:
        """Remember the last job; where the power was cut during it, say so, and spoil its sample."""
        last = next((one for one in reversed(self.world.events(self.name)) if "key" in one), None)
        if last is None:
            return
        values = {p.name: last.get("values", {}).get(p.name, math.nan) for p in self.capability().parameters}
        self.job = Job(last["key"], values, state="failed", shown_key=last["key"])
        if last["event"] == "finished":
            self.job.state, self.job.readings = "done", dict(last["shown"])
        if last["event"] == "started":
            self.job.message = "the power was cut during the work"
            self._log("cut", key=last["key"])
            vial = values.get(VIAL, math.nan)
            if math.isfinite(vial):
                sample = self.world.sample(round(vial))
                sample.spoiled = f"the power of the {self.name} was cut"
                self.world.keep(round(vial), sample)
