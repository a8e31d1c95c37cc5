"""What every part of a campaign file and a lab file is made of."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from orchestrator.units import check_unit

NAME = r"^[A-Za-z][A-Za-z0-9_-]{0,63}$"
Name = Annotated[str, Field(pattern=NAME)]
PropertyName = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]{0,63}$")]
Unit = Annotated[str, AfterValidator(check_unit)]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class Strict(BaseModel):
    """Base of all parts: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Use(Strict):
    """A plug-in by name with its options."""

    use: str = Field(min_length=1, description="entry-point name, or package.module:Class where the lab allows it")
    options: dict[str, Any] = Field(default_factory=dict, description="the plug-in's own options")
