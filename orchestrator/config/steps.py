"""What a file may say of a trial's procedure: steps, their inputs and conditions, and what they need.

A step with ``repeat: 3`` is three orders, planned and recorded as the steps ``NAME#1``, ``NAME#2`` and ``NAME#3``;
whatever reads a trial's results sees their mean under ``NAME``, with the standard error of the mean.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Discriminator, Field, Tag, field_validator, model_validator

from orchestrator.config.base import Finite, Name, Strict, Unit

MARK = "#"
"""Parts the name of a repeated step from its number; no name in a file can contain it."""
SOURCE = r"^[A-Za-z][A-Za-z0-9_-]*\.[A-Za-z][A-Za-z0-9_]*$"
AMOUNT = re.compile(r"^\s*(?P<number>[0-9.]+(?:[eE][+-]?[0-9]+)?)\s*(?P<unit>\S.*?)?\s*$")


class FromInput(Strict):
    """A step's input taken from the candidate or from an earlier step's output."""

    source: str = Field(
        alias="from",
        pattern=SOURCE,
        description="candidate.PARAMETER, candidate.structure, or STEP.OUTPUT",
    )


class FixedInput(Strict):
    """A step's input with the same value in every trial."""

    value: Finite | str
    unit: Unit = "dimensionless"


def _input_kind(content: object) -> str:
    """Say which kind of input is meant, so that an error speaks of that kind only."""
    is_from = "from" in content if isinstance(content, dict) else isinstance(content, FromInput)
    return "from" if is_from else "value"


StepInput = Annotated[
    Annotated[FromInput, Tag("from")] | Annotated[FixedInput, Tag("value")], Discriminator(_input_kind)
]


class Condition(Strict):
    """Something that must hold for a step to be done; all the bounds that are given must."""

    source: str = Field(alias="from", pattern=SOURCE, description="candidate.PARAMETER or STEP.OUTPUT")
    above: Finite | None = None
    below: Finite | None = None
    at_least: Finite | None = None
    at_most: Finite | None = None
    equals: Finite | str | None = None
    unit: Unit | None = Field(default=None, description="of the numbers here; that of what is compared where not given")

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if not self.bounds and self.equals is None:
            message = "give 'above', 'below', 'at_least', 'at_most' or 'equals'"
            raise ValueError(message)
        if isinstance(self.equals, str) and self.bounds:
            message = (
                f"'equals' is the name {self.equals!r}, which cannot be above or below anything; remove one of them"
            )
            raise ValueError(message)
        return self

    @property
    def bounds(self) -> dict[str, float]:
        """The numeric bounds that are given, by their key."""
        given = {"above": self.above, "below": self.below, "at_least": self.at_least, "at_most": self.at_most}
        return {key: value for key, value in given.items() if value is not None}


class WaitConfig(Strict):
    """A time that must pass after a step, such as for cooling; the parts add up."""

    hours: Annotated[float, Field(ge=0)] = 0.0
    minutes: Annotated[float, Field(ge=0)] = 0.0
    seconds: Annotated[float, Field(ge=0)] = 0.0

    @property
    def total_s(self) -> float:
        """The whole time in seconds."""
        return 3600 * self.hours + 60 * self.minutes + self.seconds


class NeedConfig(Strict):
    """How much of a resource a step needs; a file may write ``2`` or ``2 L`` for it."""

    amount: Annotated[float, Field(gt=0)]
    unit: Unit = "dimensionless"


def _amount(content: Any) -> Any:
    """Read ``2 L``, ``1`` and the like."""
    if isinstance(content, int | float) and not isinstance(content, bool):
        return {"amount": content}
    if isinstance(content, str):
        found = AMOUNT.match(content)
        if found is None:
            message = f"{content!r} is no amount; write a number with its unit, such as '2 L', or a count, such as 1"
            raise ValueError(message)
        return {"amount": float(found["number"]), "unit": found["unit"] or "dimensionless"}
    return content


Need = Annotated[NeedConfig, BeforeValidator(_amount)]


def _one_or_more(content: Any) -> Any:
    return (content,) if isinstance(content, str | dict | Condition) else content


class SampleConfig(Strict):
    """What a step does with samples. Without it a step works on the sample that the step before it left."""

    takes: Annotated[tuple[Name, ...], BeforeValidator(_one_or_more)] = Field(
        default=(), description="samples it works on; the one that the step before left where not given"
    )
    makes: Name | None = Field(default=None, description="the sample that it makes of those it takes, or of nothing")
    splits: tuple[Name, ...] = Field(default=(), description="the parts into which it divides the sample it takes")
    spends: bool | None = Field(
        default=None, description="whether what it takes is used up; yes with 'makes' and 'splits', no otherwise"
    )
    discards: bool = Field(default=False, description="whether what it takes is thrown away afterwards")
    at: Name | None = Field(default=None, description="where the sample is afterwards: a resource with places")

    @field_validator("splits")
    @classmethod
    def _two_parts(cls, parts: tuple[str, ...]) -> tuple[str, ...]:
        if len(parts) == 1 or len(set(parts)) != len(parts):
            message = f"'splits' names two parts or more, each once, not {list(parts)}"
            raise ValueError(message)
        return parts

    @model_validator(mode="after")
    def _one_fate(self) -> Self:
        if self.makes is not None and self.splits:
            message = "a step either 'makes' one sample or 'splits' one into parts; make two steps of it"
            raise ValueError(message)
        if self.splits and len(self.takes) > 1:
            message = f"'splits' divides one sample, and 'takes' names {len(self.takes)}"
            raise ValueError(message)
        if self.splits and self.spends is False:
            message = "a sample that is split is no longer there as a whole: remove 'spends: false'"
            raise ValueError(message)
        return self

    @property
    def uses_up(self) -> bool:
        """Whether what the step takes is gone afterwards."""
        return self.spends if self.spends is not None else bool(self.makes or self.splits)


class StepConfig(Strict):
    """One order to one instrument; steps run in the order of the file."""

    step: Name
    instrument: Name
    capability: str | None = Field(default=None, description="needed where the instrument has several")
    inputs: dict[str, StepInput] = Field(
        default_factory=dict,
        description="set-points by name; what is not named here comes from the candidate's parameter of that name",
    )
    cost: Annotated[float, Field(ge=0)] | None = Field(default=None, description="instead of the capability's own cost")
    when: Annotated[tuple[Condition, ...], BeforeValidator(_one_or_more)] = Field(
        default=(), description="conditions that must all hold for the step to be done; it is skipped otherwise"
    )
    repeat: Annotated[int, Field(ge=1, le=100)] = Field(
        default=1, description="how often it is done; results are averaged, with the standard error of the mean"
    )
    wait: WaitConfig | None = Field(default=None, description="time that must pass before the trial's next step")
    needs: dict[Name, Need] = Field(
        default_factory=dict, description="resources of the lab that it takes up (places) or uses up (stocks)"
    )
    sample: SampleConfig | None = Field(default=None, description="what it does with samples")

    @property
    def names(self) -> tuple[str, ...]:
        """The names under which it is planned and recorded: its own, or one for each repeat."""
        return (self.step,) if self.repeat == 1 else tuple(f"{self.step}{MARK}{i + 1}" for i in range(self.repeat))


def base_name(step: str) -> str:
    """Return the name that the file gives a step, of the name under which it is recorded."""
    return step.partition(MARK)[0]


def expanded(procedure: Sequence[StepConfig]) -> dict[str, StepConfig]:
    """Return the steps of a procedure as they are planned and recorded, by name, in order; repeats one by one."""
    return {name: step for step in procedure for name in step.names}
