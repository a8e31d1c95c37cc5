"""Simulated duration, noise and faults around any instrument: a campaign's rehearsal.

Everything random is fixed by the seed and by what is asked, so that a campaign gives the same numbers again: noise and
duration by (seed, question); faults that end a trial (`rejected`, `interlocked`, `fault`) by the same; faults that pass
by (seed, question, how often this process was asked it). Time passes on the campaign's clock. `faults.py` lists the
faults, and which of them the campaign can see.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Annotated, Any, ClassVar, NoReturn, Self

from pydantic import BaseModel, Field, PrivateAttr, ValidationInfo, model_validator

from instruments.draws import content, generator
from instruments.settings import capability_of, checked
from instruments.simulated.faults import LASTING, SLOWER, FaultKind, raise_after, raise_before, spoiled
from orchestrator import plugins
from orchestrator.domain import (
    Description,
    Health,
    Identity,
    JsonObject,
    Order,
    Reading,
    Result,
    Unsure,
    Whereabouts,
    canonical_json,
)
from orchestrator.errors import Aborted, Effect, NotConnected, PluginError, TimedOut
from orchestrator.protocols import Events, Instrument, Options, Recoverable
from orchestrator.units import convert, scale

SLICE_S = 1.0
"""How often a simulated duration looks for an abort."""
FAR_OUT = 10.0
"""Standard deviations of the duration that still count as working."""


class InnerInstrument(BaseModel, frozen=True, extra="forbid"):
    """The instrument inside."""

    use: str = Field(min_length=1)
    options: dict[str, Any] = Field(default_factory=dict)


class Duration(BaseModel, frozen=True, extra="forbid"):
    """How long an order takes, in seconds of the campaign's clock."""

    mean: float = Field(gt=0)
    sd: float = Field(default=0.0, ge=0)


class SimulatedOptions(Options):
    """What is inside, and how it misbehaves."""

    instrument: InnerInstrument
    duration_s: Duration | None = None
    noise: dict[str, Annotated[float, Field(ge=0)]] = Field(
        default_factory=dict, description="property → standard deviation added to its value, in its declared unit"
    )
    faults: dict[FaultKind, Annotated[float, Field(ge=0, le=1)]] = Field(
        default_factory=dict, description="kind → probability that an order meets it"
    )
    seed: int = Field(default=0, ge=0)

    _inner: Any = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _inside(self, info: ValidationInfo) -> Self:
        if sum(self.faults.values()) > 1:
            message = f"the probabilities of 'faults' add up to {sum(self.faults.values()):g}; at most 1 was expected"
            raise ValueError(message)
        context = info.context or {}
        try:
            self._inner = plugins.build(
                "instruments",
                self.instrument.use,
                self.instrument.options,
                base=context.get("base"),
                allowed_modules=context.get("allowed_modules", ()),
                of_lab=context.get("of_lab", True),
            )
        except PluginError as error:
            raise ValueError(str(error)) from error
        return self

    def inner(self) -> Instrument:
        """Return the instrument inside."""
        inner: Instrument = self._inner
        return inner


class Simulated:
    """Another instrument with simulated duration, noise and faults.

    Args:
        options: the instrument inside, and how it misbehaves.
    """

    Options: ClassVar[type[BaseModel]] = SimulatedOptions

    def __init__(self, options: SimulatedOptions) -> None:
        self.options = options
        self.inner = options.inner()
        self._asked: Counter[str] = Counter()
        self._served = 0
        self._aborts: list[str] = []
        self._waiting: list[Events] = []

    async def describe(self) -> Description:
        """Declare what the inner instrument can do, with the simulated duration.

        Raises:
            PluginError: the noise is of a property that the instrument does not give.
        """
        described = await self.inner.describe()
        outputs = {output.name for capability in described.capabilities for output in capability.outputs}
        if unknown := sorted(set(self.options.noise) - outputs):
            message = f"'noise' names {', '.join(unknown)}; the outputs are: {', '.join(sorted(outputs))}"
            raise PluginError(message)
        lasts = self.options.duration_s
        if lasts is None:
            return replace(described, simulated=True)
        capabilities = tuple(
            replace(
                capability,
                typical_s=lasts.mean + capability.typical_s,
                longest_s=lasts.mean + FAR_OUT * lasts.sd + capability.longest_s,
            )
            for capability in described.capabilities
        )
        return replace(described, capabilities=capabilities, simulated=True)

    async def open(self) -> Identity:
        """Open the inner instrument."""
        return await self.inner.open()

    async def close(self) -> None:
        """Close the inner instrument."""
        await self.inner.close()

    async def health(self) -> Health:
        """Say busy while simulated time passes; else what the inner instrument says."""
        health = await self.inner.health()
        at_work = len(self._waiting)
        if health.state == "ready" and at_work >= (await self.inner.describe()).slots:
            return Health("busy", f"{at_work} orders at work")
        return health

    async def run(self, order: Order, events: Events) -> Result:
        """Take simulated time, let the inner instrument work, and spoil what it gives."""
        checked(capability_of(await self.describe(), order), order)
        fault = self._fault(order)
        raise_before(fault)
        self._waiting.append(events)
        try:
            if fault == "hang":
                await _hang(events)
            await self._wait(order, events, SLOWER if fault == "slow" else 1.0)
        finally:
            self._waiting.remove(events)
        if fault == "timed_out_before":
            message = "simulated: no answer in time"
            raise TimedOut(message)
        result = await self.inner.run(order, events)
        if fault == "double_effect":
            result = await self.inner.run(order, events)
        self._served += 1
        raise_after(fault)
        return spoiled(await self._noised(order, result), fault, self._served)

    async def abort(self, reason: str) -> None:
        """Abort what the campaign wants to end; where it names nothing, all that runs."""
        if not any(events.abort_requested() for events in self._waiting):
            self._aborts.append(reason)
        await self.inner.abort(reason)

    async def lookup(self, key: str, handle: JsonObject | None) -> Whereabouts:
        """Ask the inner instrument where the job of a key is."""
        if isinstance(self.inner, Recoverable):
            return await self.inner.lookup(key, handle)
        return Unsure(f"{type(self.inner).__name__} keeps no log of its jobs")

    async def attach(self, handle: JsonObject, events: Events) -> Result:
        """Wait for a job of the inner instrument."""
        if isinstance(self.inner, Recoverable):
            return await self.inner.attach(handle, events)
        message = f"{type(self.inner).__name__} cannot be attached to"
        raise NotConnected(message, effect=TimedOut.default_effect)

    def _fault(self, order: Order) -> FaultKind | None:
        question = canonical_json(content(order))
        self._asked[question] += 1
        lasting = [(kind, p) for kind, p in self.options.faults.items() if kind in LASTING]
        passing = [(kind, p) for kind, p in self.options.faults.items() if kind not in LASTING]
        draw = generator(self.options.seed, order, "fault").random()
        found = _pick(lasting, draw)
        if found is None and passing:
            again = generator(self.options.seed, order, f"fault/{self._asked[question]}").random()
            found = _pick(passing, again * (1 - sum(p for _, p in lasting)))
        return found

    async def _wait(self, order: Order, events: Events, slower: float) -> None:
        lasts = self.options.duration_s
        if lasts is None:
            return
        draw = float(generator(self.options.seed, order, "duration").standard_normal())
        total = slower * max(0.1 * lasts.mean, lasts.mean + lasts.sd * max(-FAR_OUT, min(FAR_OUT, draw)))
        left = min(total, order.deadline_s)
        earlier = len(self._aborts)
        while left > 0:
            if len(self._aborts) > earlier or events.abort_requested():
                reason = next(iter(self._aborts[earlier:]), "the campaign asked for it")
                message = f"simulated: stopped after {total - left:.0f} s: {reason}"
                raise Aborted(message)
            await events.sleep(min(SLICE_S, left))
            left -= SLICE_S
            events.progress(min(1.0, 1 - max(0.0, left) / total))
        if total > order.deadline_s:
            message = f"simulated: no result within {order.deadline_s:g} s; the work would last {total:.0f} s"
            raise TimedOut(message, effect=Effect.STARTED)

    async def _noised(self, order: Order, result: Result) -> Result:
        capability = (await self.describe()).capability(order.capability)
        units = {output.name: output.unit for output in capability.outputs}
        readings = tuple(self._noisy(order, reading, units[reading.property]) for reading in result.readings)
        return replace(result, readings=readings)

    def _noisy(self, order: Order, reading: Reading, unit: str) -> Reading:
        sd = self.options.noise.get(reading.property, 0.0)
        if not sd:
            return reading
        draw = float(generator(self.options.seed, order, f"noise/{reading.property}").standard_normal())
        own = (reading.std_error or 0.0) * scale(reading.unit, unit)
        value = convert(reading.value, reading.unit, unit) + sd * draw
        return replace(reading, value=value, unit=unit, std_error=(own**2 + sd**2) ** 0.5)


def _pick(kinds: list[tuple[FaultKind, float]], draw: float) -> FaultKind | None:
    for kind, probability in kinds:
        draw -= probability
        if draw < 0:
            return kind
    return None


async def _hang(events: Events) -> NoReturn:
    """Hang as a driver does whose library waits for ever: deaf to aborts, until the guard gives it up."""
    while True:
        await events.sleep(SLICE_S)
