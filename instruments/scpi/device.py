"""What a device file may say: a bench instrument described by YAML alone.

A number of the device times `scale` is the number in `unit`; a set-point is divided by it. Templates know two words,
``{value}`` with a format such as ``{value:.2f}``, and ``{key}``, the order's key.
"""

from __future__ import annotations

import re
import string
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, model_validator

from instruments.scpi.simulation import Simulation
from instruments.settings import Unit
from orchestrator.domain import Capability, Description, Output, Parameter, Recovery
from orchestrator.protocols import Options

LARGEST_FILE = 1_000_000
"""Bytes; a description of a device is a page."""
WHOLE = tuple("bcdoxX")
"""Formats of whole numbers."""
WORDS = {"value", "key"}


def _template(text: str) -> str:
    try:
        fields = [name for _, name, _, _ in string.Formatter().parse(text) if name is not None]
        wrong = sorted(set(fields) - WORDS)
        if not wrong:
            filled(text, value=1.0, key="key")
    except (ValueError, IndexError, KeyError) as error:
        message = f"{text!r} is no template: {error}; write such as 'SOUR:TEMP {{value:.2f}}'"
        raise ValueError(message) from error
    if wrong:
        message = f"{text!r} asks for {', '.join(wrong)}; a template knows: {', '.join(sorted(WORDS))}"
        raise ValueError(message)
    return text


def _pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        message = f"{text!r} is no regular expression: {error}"
        raise ValueError(message) from error
    return text


Template = Annotated[str, AfterValidator(_template)]
Pattern = Annotated[str, AfterValidator(_pattern)]


class WholeAnswer(Options):
    """The identity of the device."""

    query: str = "*IDN?"
    expect: Pattern = "."


class SetPoint(Options):
    """One parameter: bounds, or the device's word for each choice."""

    unit: Unit = "dimensionless"
    low: float | None = None
    high: float | None = None
    resolution: float | None = Field(default=None, gt=0)
    default: float | str | None = None
    choices: dict[str, str] = Field(default_factory=dict)
    set: Template
    read: str
    scale: float = 1.0
    tolerance: float | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if not self.choices and (self.low is None or self.high is None or not self.low < self.high):
            message = f"a parameter needs 'low' below 'high', or 'choices' (seen: {self.low} to {self.high})"
            raise ValueError(message)
        if self.scale == 0:
            message = "scale is 0; write the factor from the device's number to the unit"
            raise ValueError(message)
        return self

    def off(self) -> float:
        """Say how far the device may be off, in the unit."""
        if self.tolerance is not None:
            return self.tolerance
        return self.resolution or 1e-3 * ((self.high or 0.0) - (self.low or 0.0))


class Measured(Options):
    """One output."""

    unit: Unit = "dimensionless"
    low: float | None = None
    high: float | None = None
    query: str
    scale: float = 1.0
    number: Pattern = r"\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*"
    twice: bool | None = None
    """See `Device.twice`; false for a question that measures anew each time."""


class Near(Options):
    """Close to a number, or to a set-point by its name."""

    of: float | str
    tolerance: float = Field(gt=0)


class Condition(Options):
    """What an answer must be; every part that is given must hold."""

    query: str
    equals: str | None = None
    within: Near | None = None
    bits_set: int = 0
    bits_clear: int = 0
    scale: float = 1.0

    def numeric(self) -> bool:
        """Say whether the answer must be a number."""
        return self.within is not None or bool(self.bits_set or self.bits_clear)

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.equals is None and self.within is None and not (self.bits_set or self.bits_clear):
            message = "a condition needs one of: equals, within, bits_set, bits_clear"
            raise ValueError(message)
        return self


class Settle(Condition):
    """When the work is done."""

    every_s: float = Field(default=0.2, gt=0)
    at_most_s: float = Field(default=3600.0, gt=0)
    for_s: float = Field(default=0.0, ge=0)
    after_s: float = Field(default=0.0, ge=0)
    """Before the first question: a device may need a moment until it notices the start."""


class Errors(Options):
    """The error queue: codes of refusals and of interlocks; any other code but 0 is a fault."""

    query: str = "SYST:ERR?"
    rejected: tuple[int, ...] = (-200, -221, -222, -224)
    busy: tuple[int, ...] = (-213,)
    interlocked: tuple[int, ...] = ()


class DeclaredWork(Options):
    """What a device file says of a capability whatever the wire: what belongs to it, how long, what it costs."""

    parameters: tuple[str, ...] | None = None
    outputs: tuple[str, ...] | None = None
    typical_s: float = Field(default=1.0, gt=0)
    longest_s: float = Field(default=3600.0, gt=0)
    cost: float = Field(default=0.0, ge=0)
    fidelity: str = "real"


class Work(DeclaredWork):
    """One capability: which parameters and outputs it has, and how it is done."""

    start: Template | None = None
    settle: Settle
    abort: str | None = None


class Device(Options):
    """A device file."""

    name: str
    identity: WholeAnswer = WholeAnswer()
    terminator: str = "\n"
    timeout_s: float = Field(default=1.0, gt=0)
    twice: bool = False
    """Ask for set-points, state and outputs until two answers in a row are the same: SCPI has no checksum, and nothing
    else notices a flipped bit."""
    parameters: dict[str, SetPoint] = Field(default_factory=dict)
    outputs: dict[str, Measured]
    capabilities: dict[str, Work]
    errors: Errors | None = Errors()
    ready: Condition | None = None
    safe: tuple[str, ...] = ()
    job: str | None = None
    """A question whose answer holds the key of the last order that was started; the start must carry ``{key}``."""
    shown: str | None = None
    """A question whose answer holds the key of the order that the readings belong to: an old display looks as good as a
    new one; the start must carry ``{key}``."""
    simulator: Simulation | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        for name, work in self.capabilities.items():
            for kind, asked, there in (
                ("parameter", work.parameters, self.parameters),
                ("output", work.outputs, self.outputs),
            ):
                unknown = sorted(set(asked or ()) - set(there))
                if unknown:
                    message = f"capability {name}: no {kind} {', '.join(unknown)}; there are: {', '.join(there)}"
                    raise ValueError(message)
            near = work.settle.within
            if near is not None and isinstance(near.of, str) and near.of not in self.parameters:
                message = f"capability {name}: settles at {near.of!r}; the parameters are: {', '.join(self.parameters)}"
                raise ValueError(message)
            if work.start is None and not (work.parameters or self.parameters):
                message = f"capability {name} has neither a start nor a parameter: nothing would be done"
                raise ValueError(message)
            if (self.job or self.shown) and "{key}" not in (work.start or ""):
                message = f"capability {name}: 'job' asks the device for the order's key; put {{key}} into its start"
                raise ValueError(message)
        if not self.capabilities:
            message = "a device needs at least one capability"
            raise ValueError(message)
        return self

    def description(self, *, simulated: bool) -> Description:
        """Declare what the device can do.

        Args:
            simulated: whether it is the file's own simulator.
        """
        return Description(
            tuple(self._capability(name, work, simulated=simulated) for name, work in self.capabilities.items()),
            recovery=Recovery.QUERYABLE if self.job else Recovery.BLIND,
            simulated=simulated,
        )

    def _capability(self, name: str, work: Work, *, simulated: bool) -> Capability:
        return Capability(
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


def filled(template: str, **words: Any) -> str:
    """Fill a template in.

    Args:
        template: with ``{value…}`` or ``{key}``.
        words: what stands for them; a number is rounded where the format wants a whole one.
    """
    parts = []
    for literal, name, given, _ in string.Formatter().parse(template):
        parts.append(literal)
        if name is not None:
            word, form = words[name], given or ""
            whole = isinstance(word, float) and form[-1:] in WHOLE
            parts.append(format(round(word) if whole else word, form))
    return "".join(parts)


def read_device(path: Path) -> dict[str, Any]:
    """Read a device file.

    Args:
        path: of the YAML file.

    Returns:
        Its content, not yet checked.

    Raises:
        ValueError: it cannot be read.
    """
    from ruamel.yaml import YAML  # noqa: PLC0415  slow to import
    from ruamel.yaml.error import YAMLError  # noqa: PLC0415  the same

    try:
        if path.stat().st_size > LARGEST_FILE:
            message = f"{path} is larger than {LARGEST_FILE} bytes; a device file was expected"
            raise ValueError(message)
        content = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except (OSError, YAMLError) as error:
        message = f"the device file {path} cannot be read: {error}"
        raise ValueError(message) from error
    if not isinstance(content, dict):
        message = f"the device file {path} holds {type(content).__name__}; keys such as 'parameters' were expected"
        raise ValueError(message)  # noqa: TRY004  pydantic keeps the place of a ValueError
    return content


def opened_file(given: str | Path, info: ValidationInfo) -> dict[str, Any]:
    """Read a device file that an option names.

    Args:
        given: its path; a relative one starts at the folder of the campaign or lab file.
        info: of pydantic, with that folder.

    Raises:
        ValueError: it cannot be read.
    """
    base = (info.context or {}).get("base")
    path = Path(given)
    return read_device(path if base is None or path.is_absolute() else Path(base) / path)


def _opened(given: Any, info: ValidationInfo) -> Any:
    return opened_file(given, info) if isinstance(given, str | Path) else given


DeviceFile = Annotated[Device, BeforeValidator(_opened)]
"""A device in a driver's options: the path of its file, or its content."""
