"""What a file may say of a trial's procedure: steps and where their inputs come from."""

from __future__ import annotations

from typing import Annotated

from pydantic import Discriminator, Field, Tag

from orchestrator.config.base import Finite, Name, Strict, Unit


class FromInput(Strict):
    """A step's input taken from the candidate or from an earlier step's output."""

    source: str = Field(
        alias="from",
        pattern=r"^[A-Za-z][A-Za-z0-9_-]*\.[A-Za-z][A-Za-z0-9_]*$",
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
