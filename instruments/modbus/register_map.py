"""What a Modbus device file may say: which register means what.

A number in a register times `scale` plus `offset` is the number in `unit`. The order of the words of a long number is
the maker's choice and nowhere on the wire (300.0 read the wrong way round is 2.4e-41), so a file should name a register
whose value is known: `identity.register`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, ValidationInfo, model_validator

from instruments.scpi.device import DeclaredWork, Near, Pattern, opened_file
from instruments.settings import Unit
from orchestrator.domain import Capability, Description, Output, Parameter
from orchestrator.protocols import Options

Kind = Literal["int16", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64"]
Table = Literal["holding", "input", "coil", "discrete"]


class Register(Options):
    """Where a number stands."""

    table: Table = "holding"
    address: int = Field(ge=0, le=65535)
    """As on the wire, from 0: what a manual calls 40001 is holding register 0."""
    type: Kind = "int16"
    word_order: Literal["big", "little"] | None = None
    """Of this register alone; else the device's."""
    scale: float = 1.0
    offset: float = 0.0

    @model_validator(mode="after")
    def _can_be_turned_back(self) -> Self:
        if self.scale == 0:
            message = "scale is 0; write the factor from the register's number to the unit"
            raise ValueError(message)
        return self


class Command(Options):
    """A number that is written to make something happen."""

    table: Literal["holding", "coil"] = "coil"
    address: int = Field(ge=0, le=65535)
    type: Kind = "int16"
    value: int = 1


class Known(Register):
    """A register whose value is known: it proves the address and the order of words."""

    equals: float
    tolerance: float = Field(default=1e-3, ge=0)


class Who(Options):
    """What shows that this is the right device."""

    register_: Known | None = Field(default=None, alias="register")
    expect: Pattern | None = None
    """Pattern of the device identification (function 43/14): vendor, product code and revision, with blanks between."""

    @model_validator(mode="after")
    def _asks_something(self) -> Self:
        if self.register_ is None and self.expect is None:
            message = "give 'register', a register of known value, or 'expect', a pattern of the device identification"
            raise ValueError(message)
        return self


class State(Register):
    """What a register must hold; every part that is given must be so."""

    equals: float | None = None
    one_of: tuple[float, ...] = ()
    within: Near | None = None
    bits_set: int = 0
    bits_clear: int = 0

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.equals is None and self.within is None and not (self.one_of or self.bits_set or self.bits_clear):
            message = "a state needs one of: equals, one_of, within, bits_set, bits_clear"
            raise ValueError(message)
        return self


class Settled(State):
    """When the work is done."""

    every_s: float = Field(default=0.2, gt=0)
    at_most_s: float = Field(default=3600.0, gt=0)
    for_s: float = Field(default=0.0, ge=0)
    after_s: float = Field(default=0.0, ge=0)
    """Before the first look: a controller may need a cycle until it notices the start."""


class Trouble(Register):
    """The error register: 0 for none, codes of refusals, of being busy and of interlocks; any other is a fault."""

    none: tuple[int, ...] = (0,)
    rejected: tuple[int, ...] = ()
    busy: tuple[int, ...] = ()
    interlocked: tuple[int, ...] = ()


class SetRegister(Options):
    """One parameter."""

    register_: Register = Field(alias="register")
    read: Register | None = None
    """Where it is read back, if elsewhere."""
    unit: Unit = "dimensionless"
    low: float | None = None
    high: float | None = None
    resolution: float | None = Field(default=None, gt=0)
    default: float | str | None = None
    choices: dict[str, int] = Field(default_factory=dict)
    tolerance: float | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if not self.choices and (self.low is None or self.high is None or not self.low < self.high):
            message = f"a parameter needs 'low' below 'high', or 'choices' (seen: {self.low} to {self.high})"
            raise ValueError(message)
        if self.register_.table not in {"holding", "coil"}:
            message = f"a set-point cannot be written to the table {self.register_.table!r}; holding or coil can"
            raise ValueError(message)
        return self

    def off(self) -> float:
        """Say how far the device may be off, in the unit."""
        if self.tolerance is not None:
            return self.tolerance
        return self.resolution or 1e-3 * ((self.high or 0.0) - (self.low or 0.0))


class ReadRegister(Options):
    """One output."""

    register_: Register = Field(alias="register")
    unit: Unit = "dimensionless"
    low: float | None = None
    high: float | None = None


class Work(DeclaredWork):
    """One capability."""

    start: Command | None = None
    settle: Settled
    abort: Command | None = None


class RegisterMap(Options):
    """A device file."""

    name: str
    device_id: int = Field(default=1, ge=0, le=255)
    word_order: Literal["big", "little"] = "big"
    timeout_s: float = Field(default=1.0, gt=0)
    twice: bool = False
    """Read set-points, state and outputs until two numbers in a row are the same: Modbus/TCP has no checksum of its
    own, and a gateway may flip a bit; RTU has one."""
    identity: Who
    parameters: dict[str, SetRegister] = Field(default_factory=dict)
    outputs: dict[str, ReadRegister]
    capabilities: dict[str, Work] = Field(min_length=1)
    ready: State | None = None
    errors: Trouble | None = None
    safe: tuple[Command, ...] = ()

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        for name, work in self.capabilities.items():
            wrong = sorted(set(work.parameters or ()) - set(self.parameters))
            wrong += sorted(set(work.outputs or ()) - set(self.outputs))
            near = work.settle.within
            if near is not None and isinstance(near.of, str) and near.of not in self.parameters:
                wrong.append(near.of)
            if wrong:
                there = ", ".join([*self.parameters, *self.outputs])
                message = f"capability {name} names {', '.join(wrong)}; there are: {there}"
                raise ValueError(message)
            if work.start is None and not self.parameters:
                message = f"capability {name} has neither a start nor a parameter: nothing would be done"
                raise ValueError(message)
        return self

    def description(self, *, simulated: bool) -> Description:
        """Declare what the device can do.

        Args:
            simulated: whether nothing physical happens.
        """
        return Description(
            tuple(
                Capability(
                    name,
                    parameters=tuple(
                        Parameter(n, p.unit, p.low, p.high, p.resolution, tuple(p.choices), p.default)
                        for n, p in self.parameters.items()
                        if work.parameters is None or n in work.parameters
                    ),
                    outputs=tuple(
                        Output(n, o.unit, o.low, o.high)
                        for n, o in self.outputs.items()
                        if work.outputs is None or n in work.outputs
                    ),
                    typical_s=work.typical_s,
                    longest_s=work.longest_s,
                    cost=work.cost,
                    fidelity="simulated" if simulated else work.fidelity,
                )
                for name, work in self.capabilities.items()
            ),
            simulated=simulated,
        )


def _opened(given: Any, info: ValidationInfo) -> Any:
    return opened_file(given, info) if isinstance(given, str | Path) else given


MapFile = Annotated[RegisterMap, BeforeValidator(_opened)]
"""A register map in a driver's options: the path of its file, or its content."""
