"""What a lab file may say of resources: places that hold samples, and stocks that are used up."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from orchestrator.config.base import Strict, Unit


class ResourceConfig(Strict):
    """A resource that steps share: either places (furnace positions, a rack), or a stock (gas, powder, tips)."""

    places: Annotated[int, Field(ge=1, le=1_000_000)] | None = Field(
        default=None, description="how many samples it holds at once; taken during a step and given back"
    )
    stock: Annotated[float, Field(ge=0)] | None = Field(
        default=None, description="what is there when it is first seen; from then on the campaign database counts"
    )
    unit: Unit = Field(default="dimensionless", description="of the stock, its alarm and its capacity")
    capacity: Annotated[float, Field(gt=0)] | None = Field(default=None, description="the most that it holds")
    alarm: Annotated[float, Field(ge=0)] | None = Field(default=None, description="say so when less is left")

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if (self.places is None) == (self.stock is None):
            message = "give either 'places' (a number of positions) or 'stock' (an amount, with its 'unit')"
            raise ValueError(message)
        extra = [key for key in ("capacity", "alarm") if getattr(self, key) is not None]
        if self.places is not None and (extra or self.unit != "dimensionless"):
            message = f"places are counted: '{(extra or ['unit'])[0]}' goes with 'stock' only"
            raise ValueError(message)
        if self.stock is not None and self.capacity is not None and self.stock > self.capacity:
            message = f"'stock' ({self.stock:g}) is above 'capacity' ({self.capacity:g})"
            raise ValueError(message)
        return self
