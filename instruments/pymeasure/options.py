"""What a lab file may say of a PyMeasure driver: which attributes are set-points and outputs, and in which units."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, ValidationInfo, field_validator, model_validator

from instruments.scpi.device import Near, Pattern
from instruments.settings import Unit
from orchestrator.protocols import Options

OWN = "pymeasure"
"""Classes of this package may be named by any file; others only where the lab file allows their module."""


def _path(text: str) -> str:
    if not all(part.isidentifier() and not part.startswith("_") for part in text.split(".")):
        message = f"{text!r} is no attribute of an instrument; write such as 'voltage' or 'ch_1.voltage'"
        raise ValueError(message)
    return text


Attribute = Annotated[str, AfterValidator(_path)]


class SetAttribute(Options):
    """One parameter: bounds, or the driver's value for each choice."""

    attribute: Attribute
    readback: Attribute | None = None
    """Where it is read back; the attribute itself where not given."""
    unit: Unit = "dimensionless"
    low: float | None = None
    high: float | None = None
    resolution: float | None = Field(default=None, gt=0)
    default: float | str | None = None
    choices: dict[str, str | float | bool] = Field(default_factory=dict)
    tolerance: float | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if not self.choices and (self.low is None or self.high is None or not self.low < self.high):
            message = f"a parameter needs 'low' below 'high', or 'choices' (seen: {self.low} to {self.high})"
            raise ValueError(message)
        return self

    def off(self) -> float:
        """Say how far the device may be off, in the unit."""
        if self.tolerance is not None:
            return self.tolerance
        return self.resolution or 1e-3 * ((self.high or 0.0) - (self.low or 0.0))


class GetAttribute(Options):
    """One output."""

    attribute: Attribute
    unit: Unit = "dimensionless"
    low: float | None = None
    high: float | None = None


class Act(Options):
    """A method that is called without arguments, or an attribute that is given a value."""

    method: Attribute | None = None
    attribute: Attribute | None = None
    value: str | float | bool | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.method is None) == (self.attribute is None):
            message = "give either 'method', or 'attribute' with 'value'"
            raise ValueError(message)
        return self


class Is(Options):
    """What an attribute must be."""

    attribute: Attribute
    equals: str | float | bool | None = None
    within: Near | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if (self.equals is None) == (self.within is None):
            message = "give 'equals' or 'within'"
            raise ValueError(message)
        return self


class Until(Options):
    """When the work is done: what an attribute is, or a method of the driver that waits."""

    method: Attribute | None = None
    attribute: Attribute | None = None
    equals: str | float | bool | None = None
    within: Near | None = None
    every_s: float = Field(default=0.2, gt=0)
    at_most_s: float = Field(default=3600.0, gt=0)
    for_s: float = Field(default=0.0, ge=0)
    after_s: float = Field(default=0.0, ge=0)

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        states = self.attribute is not None and (self.equals is not None or self.within is not None)
        if states == (self.method is not None):
            message = "give either 'method', or 'attribute' with 'equals' or 'within'"
            raise ValueError(message)
        return self


class PyMeasureOptions(Options):
    """Which driver of PyMeasure, where its device is, and what its attributes mean."""

    driver: str = Field(alias="class", pattern=r"^[A-Za-z_][\w.]*:[A-Za-z]\w*$")
    address: str
    library: str = "@py"
    timeout_s: float = Field(default=1.0, gt=0)
    keywords: dict[str, str | int | float | bool] = Field(default_factory=dict)
    """Further arguments of the class, such as ``baud_rate``."""
    identity: Attribute = "id"
    expect: Pattern = "."
    capability: str = "measure"
    set: dict[str, SetAttribute] = Field(default_factory=dict)
    get: dict[str, GetAttribute] = Field(min_length=1)
    ready: Is | None = None
    """What shows that nothing is at work; without it another's work is not noticed."""
    start: Act | None = None
    wait: Until | None = None
    abort: Act | None = None
    safe: Act | None = None
    errors: bool = False
    """Ask `check_errors` of the driver, which many have."""
    typical_s: float = Field(default=1.0, gt=0)
    longest_s: float = Field(default=3600.0, gt=0)
    cost: float = Field(default=0.0, ge=0)
    fidelity: str = "real"
    effects: Literal["start", "set"] = "start"
    """Where something begins to happen: with the start, or with the first set-point already."""
    simulated: bool = False

    @field_validator("driver")
    @classmethod
    def _allowed(cls, name: str, info: ValidationInfo) -> str:
        module = name.partition(":")[0]
        allowed = (OWN, *(info.context or {}).get("allowed_modules", ()))
        if not any(module == one or module.startswith(f"{one}.") for one in allowed):
            message = (
                f"the class {name!r} is not of PyMeasure; list its module under 'allowed_modules' in lab.yaml, or name"
                " a class such as pymeasure.instruments.keithley:Keithley2400"
            )
            raise ValueError(message)
        return name

    @model_validator(mode="after")
    def _settles_at_something(self) -> Self:
        near = self.wait.within if self.wait else None
        if near is not None and isinstance(near.of, str) and near.of not in self.set:
            message = f"wait.within is about {near.of!r}; the parameters are: {', '.join(self.set)}"
            raise ValueError(message)
        return self
