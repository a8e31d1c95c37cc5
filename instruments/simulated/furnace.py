"""A simulated sintering furnace with a known optimum: for trying campaigns over process parameters.

A response surface, not physics. Its shape is that of firing a ceramic electrolyte that loses a volatile salt: hotter
and longer is denser, but costs salt, so that the best excess weighed in grows with temperature; too hot and too long
melts the pellet. The best conductivity, `PEAK`, is at `BEST` and known exactly.
"""

from __future__ import annotations

import math
from typing import ClassVar

from pydantic import BaseModel, Field

from instruments.settings import applied
from instruments.sync import BlockingInstrument, Job
from orchestrator.domain import Capability, Description, Output, Parameter, Reading, Recovery, Result
from orchestrator.errors import BadData
from orchestrator.protocols import Options

BEST = {"temperature": 1150.0, "time": 6.0, "excess": 0.40}
"""Set-points of the best conductivity, in degC, hour and gram."""
PEAK = 1.0e-3
"""Conductivity at `BEST`, in S/cm: that of a good oxide electrolyte."""
WIDTH_T, WIDTH_LOG_TIME, WIDTH_EXCESS = 90.0, 0.9, 0.15
"""How far (degC, natural logarithm of hours, gram) from the best the conductivity falls to 1/e."""
LOSS = 0.10
"""Gram of salt lost more for each `WIDTH_T` hotter: a tilted valley, which one parameter at a time does not find."""
MELTS_AT = 1330.0
"""degC at which the pellet melts within an hour; ten times longer melts it 60 degC lower."""
MELTS_SOONER = 60.0


class FurnaceOptions(Options):
    """What a firing costs, and how many pellets fit."""

    cost: float = Field(default=1.0, ge=0)
    slots: int = Field(default=1, ge=1)


class Furnace(BlockingInstrument):
    """Fire a pellet.

    Args:
        options: cost and slots.
    """

    Options: ClassVar[type[BaseModel]] = FurnaceOptions

    def description(self) -> Description:
        """Declare `fire`."""
        fire = Capability(
            name="fire",
            parameters=(
                Parameter("temperature", "degC", 900.0, 1400.0, resolution=1.0),
                Parameter("time", "hour", 0.5, 24.0, resolution=0.1),
                Parameter("excess", "g", 0.0, 1.0, resolution=0.001),
            ),
            outputs=(Output("density", "percent", 0.0, 100.0), Output("conductivity", "S/cm", 0.0, 10.0)),
            typical_s=0.01,
            cost=self.options.cost,
            fidelity="simulated",
        )
        return Description((fire,), recovery=Recovery.IDEMPOTENT, slots=self.options.slots, simulated=True)

    def work(self, job: Job) -> Result:
        """Compute what the firing gives."""
        temperature, time, excess = (job.numbers[name] for name in ("temperature", "time", "excess"))
        if temperature > MELTS_AT - MELTS_SOONER * math.log10(time):
            message = f"the pellet melted: {temperature:g} degC for {time:g} hour; fire cooler or shorter"
            raise BadData(message)
        return Result(
            key=job.order.key,
            readings=(
                Reading("density", density(temperature, time), "percent"),
                Reading("conductivity", conductivity(temperature, time, excess), "S/cm"),
            ),
            applied=applied(self.description().capabilities[0], job.numbers),
        )


def density(temperature: float, time: float) -> float:
    """Return the relative density.

    Args:
        temperature: in degC.
        time: in hours.

    Returns:
        Percent of the theoretical density: 60 for a green pellet, towards 99.
    """
    fired = (temperature - 1050.0) / 70.0 + math.log(time / 4.0)
    return 60.0 + 39.0 / (1.0 + math.exp(-fired))


def conductivity(temperature: float, time: float, excess: float) -> float:
    """Return the ionic conductivity.

    Args:
        temperature: in degC.
        time: in hours.
        excess: salt weighed in beyond the stoichiometric amount, in gram.

    Returns:
        S/cm, at most `PEAK`.
    """
    hot = (temperature - BEST["temperature"]) / WIDTH_T
    long = math.log(time / BEST["time"]) / WIDTH_LOG_TIME
    off = (excess - BEST["excess"] - LOSS * hot) / WIDTH_EXCESS
    return PEAK * math.exp(-(hot**2) - long**2 - off**2)
