"""What a lab file may say: the instruments that exist at a site, and their limits."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from orchestrator.config.base import Finite, Name, PropertyName, Strict
from orchestrator.config.resources import ResourceConfig


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


class LabConfig(Strict):
    """One lab file: the instruments that exist, and the modules that files may name classes of."""

    name: Name = "lab"
    instruments: dict[Name, LabInstrument] = Field(default_factory=dict)
    resources: dict[Name, ResourceConfig] = Field(
        default_factory=dict, description="places and stocks that the steps of all campaigns share"
    )
    allowed_modules: tuple[Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*$")], ...] = ()
