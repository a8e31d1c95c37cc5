"""What a lab file says of an EPICS or bluesky device: signals by PV or by attribute, with units and bounds."""

from __future__ import annotations

from typing import Any, Self

from pydantic import BaseModel, Field, ValidationInfo, model_validator

from instruments.settings import Unit
from orchestrator.protocols import Options

WORD = r"^[A-Za-z][A-Za-z0-9_]{0,63}$"


class Place(BaseModel, frozen=True, extra="forbid"):
    """Where a signal is found."""

    pv: str | None = Field(default=None, min_length=1, description="EPICS process variable")
    attribute: str | None = Field(
        default=None, pattern=r"^(\.|\w+(\.\w+)*)$", description="of the device: heater.setpoint; '.' is the device"
    )

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.pv is None) == (self.attribute is None):
            message = "give 'pv' or 'attribute'"
            raise ValueError(message)
        return self

    def text(self) -> str:
        """Name it, for people."""
        return self.pv or str(self.attribute)


class SetPoint(Place):
    """One set-point: where it is written, where its true value is read, and how near is near enough."""

    readback: str | None = Field(default=None, description="PV or attribute of the true value; default: the set-point")
    unit: Unit = "dimensionless"
    min: float | None = None
    max: float | None = None
    choices: tuple[str, ...] = ()
    default: float | str | None = None
    resolution: float | None = None
    tolerance: float | None = Field(default=None, gt=0, description="in its unit; default: a millionth of the span")
    settle_s: float = Field(default=60.0, gt=0, description="the read-back must arrive within this time")

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if bool(self.choices) == (self.min is not None and self.max is not None and self.min < self.max):
            message = "give 'min' and 'max' (min below max), or 'choices'"
            raise ValueError(message)
        return self

    def near(self) -> float:
        """Return the tolerance in the unit of the set-point."""
        return self.tolerance or 1e-6 * ((self.max or 0.0) - (self.min or 0.0))


class Measured(Place):
    """One output."""

    field: str | None = Field(default=None, description="key of the device's reading, where it gives several")
    unit: Unit = "dimensionless"
    low: float | None = Field(default=None, description="smallest valid value")
    high: float | None = Field(default=None, description="largest valid value")


class Command(Place):
    """What is written to make something happen."""

    value: float | str = 1


class BusyFlag(Place):
    """What tells that the device is at work."""

    idle: float | str = 0


class OphydOptions(Options):
    """Which signals, and what to do with them."""

    device: str | None = Field(default=None, pattern=r"^[\w.]+:\w+$", description="package.module:Factory of a device")
    arguments: dict[str, Any] = Field(default_factory=dict, description="of the factory")
    servers: tuple[str, ...] = Field(default=(), description="host:port of the EPICS servers; nothing is broadcast")
    capability: str = Field(default="measure", pattern=WORD)
    signals: dict[str, SetPoint] = Field(default_factory=dict, description="set-points, written in this order")
    outputs: dict[str, Measured] = Field(min_length=1)
    start: Command | None = Field(default=None, description="written once, when every set-point has arrived")
    trigger: Place | None = Field(default=None, description="a detector of the device, triggered after the start")
    busy: BusyFlag | None = Field(default=None, description="looked at before, and waited for after the start")
    stop: Command | None = Field(default=None, description="written on an abort and when the time is up")
    safe: dict[str, float | str] = Field(default_factory=dict, description="set-points of the safe state")
    rise_s: float = Field(default=0.5, ge=0, description="how long after the start 'busy' may still say idle")
    connect_s: float = Field(default=1.5, gt=0, le=30)
    egu: dict[str, str] = Field(default_factory=dict, description="what the device calls a unit → our name: {C: degC}")
    simulated: bool = Field(default=False, description="nothing physical moves")
    typical_s: float = Field(default=60.0, gt=0)
    longest_s: float = Field(default=3600.0, gt=0)
    cost: float = Field(default=0.0, ge=0)

    @model_validator(mode="after")
    def _found(self, info: ValidationInfo) -> Self:
        places = [*self.signals.values(), *self.outputs.values(), self.start, self.trigger, self.busy, self.stop]
        by_pv = [place for place in places if place is not None and place.pv is not None]
        by_attribute = [place for place in places if place is not None and place.attribute is not None]
        if by_attribute and self.device is None and not (info.context or {}).get("device"):
            message = f"{by_attribute[0].text()!r} is an attribute, and no 'device' is named"
            raise ValueError(message)
        unknown = sorted(set(self.safe) - set(self.signals))
        if unknown:
            message = f"'safe' names {', '.join(unknown)}; the signals are: {', '.join(self.signals) or 'none'}"
            raise ValueError(message)
        if by_pv and not self.servers:
            message = "'servers' is empty; name host:port of each EPICS server, such as [10.0.0.7:5064]"
            raise ValueError(message)
        if self.trigger is not None and self.trigger.attribute is None:
            message = "'trigger' names a PV; a detector is an attribute of the device (a PV is written with 'start')"
            raise ValueError(message)
        module = (self.device or "").partition(":")[0]
        allowed = (info.context or {}).get("allowed_modules", ())
        if module and not any(module == one or module.startswith(f"{one}.") for one in allowed):
            message = f"the module {module!r} is not allowed here; list it under 'allowed_modules' in lab.yaml"
            raise ValueError(message)
        return self
