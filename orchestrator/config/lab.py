"""What a lab file may say: the instruments that exist at a site, and their limits."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import Field, PrivateAttr

from orchestrator.config.base import Finite, Name, PropertyName, Strict
from orchestrator.config.resources import ResourceConfig
from orchestrator.config.safety import (
    AlarmsConfig,
    ApprovalConfig,
    FailureConfig,
    InterlockConfig,
    NotifyConfig,
    ReferenceConfig,
)

PATIENCE_S = 3600.0
"""A link that broke at night is back in an hour, or a person is needed anyway."""


class ParameterEnvelope(Strict):
    """Tighter bounds, in the parameter's declared unit, than the instrument itself has."""

    min: Finite | None = None
    max: Finite | None = None


class LabInstrument(Strict):
    """An instrument that exists at the site."""

    use: str = Field(min_length=1)
    options: dict[str, Any] = Field(default_factory=dict)
    envelope: dict[PropertyName, ParameterEnvelope] = Field(
        default_factory=dict,
        description="safety bounds by parameter: they bound the search and are checked before orders",
    )
    cost: Annotated[float, Field(ge=0)] | None = None
    reference: ReferenceConfig | None = None
    alarms: AlarmsConfig = Field(default_factory=AlarmsConfig)
    lease_s: Annotated[float, Field(gt=0, le=86400)] | None = Field(
        default=None, description="dead-man: the instrument stops by itself where no heartbeat came for so long"
    )
    doubt_after: int = Field(
        default=5, ge=1, le=1000, description="so many failures in a row take a real instrument out of service"
    )


class LabConfig(Strict):
    """One lab file: the instruments that exist, and the modules that files may name classes of."""

    name: Name = "lab"
    instruments: dict[Name, LabInstrument] = Field(default_factory=dict)
    kinds: dict[Name, Annotated[tuple[Name, ...], Field(min_length=1)]] = Field(
        default_factory=dict, description="instruments that can stand in for each other; a step may name the kind"
    )
    interlocks: tuple[InterlockConfig, ...] = ()
    approvals: tuple[ApprovalConfig, ...] = ()
    failures: tuple[FailureConfig, ...] = Field(default=(), description="the lab's own lines of the retry table")
    notify: NotifyConfig | None = None
    patience_s: Annotated[float, Field(ge=0)] = Field(
        default=PATIENCE_S, description="so long a campaign that cannot go on waits for an instrument; then it pauses"
    )
    resources: dict[Name, ResourceConfig] = Field(
        default_factory=dict, description="places and stocks that the steps of all campaigns share"
    )
    allowed_modules: tuple[Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*$")], ...] = ()
    _base: str | None = PrivateAttr(default=None)

    @property
    def base(self) -> str | None:
        """Return the folder that relative paths in the file start from; None where it was made in code."""
        return self._base

    def read_from(self, folder: str) -> Self:
        """Return the same lab, its relative paths starting from a folder."""
        lab = self.model_copy()
        lab._base = folder  # noqa: SLF001  its own kind
        return lab

    def members(self, name: str) -> tuple[str, ...]:
        """Return the instruments that a step may mean by a name: the members of a kind, or the one of that name."""
        return self.kinds.get(name, (name,))

    def bounds(self, name: str, parameter: str) -> ParameterEnvelope | None:
        """Return the lab's envelope of a parameter; of a kind the part that every member allows."""
        entries = [self.instruments[one].envelope for one in self.members(name) if one in self.instruments]
        found = [entry[parameter] for entry in entries if parameter in entry]
        if not found:
            return None
        lows = [one.min for one in found if one.min is not None]
        highs = [one.max for one in found if one.max is not None]
        return ParameterEnvelope(min=max(lows, default=None), max=min(highs, default=None))
