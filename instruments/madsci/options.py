"""What the options of a MADSci node say, since the node does not: units, bounds, durations, places of numbers."""

from __future__ import annotations

from typing import Any, Self

from pydantic import BaseModel, Field, model_validator

from instruments.settings import Unit
from orchestrator.domain import Capability, Output, Parameter
from orchestrator.protocols import InputPath, Options


class ArgumentOptions(BaseModel, frozen=True, extra="forbid"):
    """What the node does not say about one argument."""

    argument: str = Field(default="", description="its name at the node; default: the parameter's")
    unit: Unit = "dimensionless"
    min: float | None = None
    max: float | None = None
    resolution: float | None = None
    choices: tuple[str, ...] = ()
    default: float | str | None = None
    read_back: str = Field(default="", description="place of the value as applied in the action's result: a.b.c")

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if bool(self.choices) == (self.min is not None and self.max is not None and self.min < self.max):
            message = "give 'min' and 'max' (min below max), or 'choices'; a node declares neither"
            raise ValueError(message)
        return self


class OutputOptions(BaseModel, frozen=True, extra="forbid"):
    """Where one number stands in the action's result."""

    unit: Unit = "dimensionless"
    place: str = Field(default="", description="in the action's result: a.b.c; default: the output's name")
    min: float | None = None
    max: float | None = None


class ActionOptions(BaseModel, frozen=True, extra="forbid"):
    """One action of the node as a capability."""

    parameters: dict[str, ArgumentOptions] = Field(default_factory=dict)
    outputs: dict[str, OutputOptions] = Field(min_length=1)
    fixed: dict[str, Any] = Field(default_factory=dict, description="arguments that are the same every time")
    typical_s: float = Field(default=60.0, gt=0)
    longest_s: float = Field(default=3600.0, gt=0)
    cost: float = Field(default=0.0, ge=0)
    fidelity: str = "real"


class MadsciOptions(Options):
    """Where the node is, and what its actions take and give."""

    url: str = Field(pattern=r"^https?://[^/]+(/.*)?$", description="of the node: http://HOST:2000")
    actions: dict[str, ActionOptions] = Field(min_length=1)
    slots: int = Field(default=1, ge=1, description="how many actions the node takes at once")
    simulated: bool = False
    token_env: str = Field(default="", description="environment variable with a bearer token, for a proxy before it")
    ca: InputPath | None = Field(default=None, description="certificate of the node's authority, for https")
    patience_s: float = Field(default=30.0, gt=0, description="how long a node may be away while it works for us")


def capability(name: str, action: ActionOptions) -> Capability:
    """Declare an action as the options describe it.

    Args:
        name: of the action.
        action: its options.
    """
    return Capability(
        name=name,
        outputs=tuple(Output(output, o.unit, o.min, o.max) for output, o in action.outputs.items()),
        parameters=tuple(
            Parameter(parameter, p.unit, p.min, p.max, p.resolution, p.choices, p.default)
            for parameter, p in action.parameters.items()
        ),
        typical_s=min(action.typical_s, action.longest_s),
        longest_s=action.longest_s,
        cost=action.cost,
        fidelity=action.fidelity,
    )
