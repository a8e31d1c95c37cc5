"""What a lab file may say of safety: interlocks, approvals, what happens after failures, references, alarms, news."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from orchestrator.config.base import Finite, Name, PropertyName, Strict, Unit
from orchestrator.config.steps import FixedInput
from orchestrator.errors import Effect

ErrorName = Literal[
    "any",
    "NotConnected",
    "Busy",
    "Rejected",
    "Interlocked",
    "TimedOut",
    "ProtocolDesync",
    "Aborted",
    "BadData",
    "Fault",
]
Then = Literal["retry", "other_instrument", "skip", "hold", "ask", "pause", "out_of_service", "fail"]
News = Literal["question", "out_of_service", "back_in_service", "held", "paused", "stopped", "done", "failed"]

TARGET_PATTERN = r"^[A-Za-z][A-Za-z0-9_-]*(\.[A-Za-z][A-Za-z0-9_]*)?$"
MOVED = (Effect.UNKNOWN, Effect.STARTED)
"""Effects after which something may have moved."""


class ReadConfig(Strict):
    """A reading that moves nothing: a door switch, a gas flow."""

    instrument: Name
    capability: str | None = Field(default=None, description="needed where the instrument has several")
    settings: dict[str, FixedInput] = Field(default_factory=dict)


class InterlockConfig(Strict):
    """A condition that must hold right before an order: read anew from an instrument each time."""

    name: Name
    before: tuple[Annotated[str, Field(pattern=TARGET_PATTERN)], ...] = Field(
        min_length=1, description="INSTRUMENT, KIND or INSTRUMENT.CAPABILITY"
    )
    read: ReadConfig
    output: PropertyName
    min: Finite | None = None
    max: Finite | None = None
    equals: Finite | None = None
    message: str = Field(min_length=1, description="what a person reads where the condition does not hold")

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        bounds = self.min is not None or self.max is not None
        if bounds == (self.equals is not None):
            message = (
                f"interlock {self.name!r} says what must hold by 'min' and 'max', or by 'equals'; write one of them"
            )
            raise ValueError(message)
        return self

    def holds(self, value: float) -> bool:
        """Say whether a reading fulfils the condition."""
        if self.equals is not None:
            return value == self.equals
        return (self.min is None or value >= self.min) and (self.max is None or value <= self.max)

    def concerns(self, instrument: str, kind: str, capability: str) -> bool:
        """Say whether an order must wait for it."""
        return any(
            one in {instrument, kind, f"{instrument}.{capability}", f"{kind}.{capability}"} for one in self.before
        )


class ApprovalConfig(Strict):
    """A limit above or below which a person signs each trial before its order may be sent."""

    instrument: Name = Field(description="instrument or kind")
    capability: str | None = None
    parameter: PropertyName
    above: Finite | None = None
    below: Finite | None = None
    unit: Unit = "dimensionless"
    message: str = ""

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if self.above is None and self.below is None:
            message = "an approval needs a limit: write 'above', 'below' or both"
            raise ValueError(message)
        return self

    def wanted(self, value: float) -> bool:
        """Say whether a set-point, in `unit`, needs a signature."""
        return (self.above is not None and value > self.above) or (self.below is not None and value < self.below)


class FailureConfig(Strict):
    """One line of the lab's retry table; the first that fits counts, then comes the built-in one."""

    error: ErrorName = "any"
    effect: Effect = Field(default=Effect.NONE, description="what physically happened, as the error says")
    instrument: Name | None = Field(default=None, description="instrument or kind; every one where it is missing")
    then: Then
    attempts: int = Field(default=3, ge=1, le=100, description="of a step, the first included; for retry")
    wait_s: Annotated[float, Field(ge=0, le=86400)] = 10.0

    @model_validator(mode="after")
    def _safe(self) -> Self:
        if self.effect in MOVED and self.then in {"retry", "other_instrument"}:
            message = (
                f"after the effect {self.effect.value!r} something may have moved, so {self.then!r} could do a physical"
                " act twice: write 'hold', 'ask', 'skip', 'fail', 'pause' or 'out_of_service' (an instrument that"
                " keeps a log of its jobs is asked by itself)"
            )
            raise ValueError(message)
        if self.effect is Effect.UNKNOWN and self.then in {"skip", "fail", "pause"}:
            message = (
                f"only a person can end what is unknown: write 'hold', 'ask' or 'out_of_service', not {self.then!r}"
            )
            raise ValueError(message)
        if self.then == "hold" and self.effect in {Effect.NONE, Effect.STARTED}:
            message = (
                f"after the effect {self.effect.value!r} there is no result that could be held: write 'ask', 'skip',"
                " 'fail', 'pause' or 'out_of_service'"
            )
            raise ValueError(message)
        return self


class ReferenceConfig(Strict):
    """A sample of known value that is measured every so many trials; belongs to no trial's results."""

    every: int = Field(ge=1, description="trials on this instrument between two reference orders")
    capability: str | None = None
    settings: dict[str, FixedInput] = Field(default_factory=dict)
    output: PropertyName
    value: Finite
    tolerance: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    unit: Unit = Field(default="dimensionless", description="of value and tolerance")


class AlarmsConfig(Strict):
    """What a guard that looks at one result at a time cannot see."""

    stuck: int | None = Field(
        default=None, ge=2, le=100, description="so many bit-identical readings in a row at different set-points"
    )
    residual: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="robust standard deviations between a reading and the surrogate's prediction"
    )
    saturation: tuple[PropertyName, ...] = Field(
        default=(), description="outputs that are uncertain where they stand at the end of their range"
    )


class NotifyConfig(Strict):
    """Who is told what; the addresses themselves are secrets and stand in an environment variable."""

    addresses_from: Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9_]*$")] = Field(
        description="name of an environment variable that holds one Apprise address, or several with spaces between"
    )
    on: tuple[News, ...] = ("question", "out_of_service", "paused", "done", "failed")
