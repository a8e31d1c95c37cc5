"""A simulated balance that doses a powder: the first step of a procedure whose second step uses what it weighed."""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel, Field

from instruments.draws import generator
from instruments.settings import applied
from instruments.sync import BlockingInstrument, Job
from orchestrator.domain import Capability, Description, Output, Parameter, Reading, Recovery, Result
from orchestrator.protocols import Options

READABILITY_G = 1e-4
"""Last digit of an analytical balance."""


class BalanceOptions(Options):
    """How well it doses."""

    scatter_g: float = Field(default=0.002, ge=0, description="standard deviation of the dosed mass, in gram")
    seed: int = Field(default=0, ge=0)
    cost: float = Field(default=0.1, ge=0)
    slots: int = Field(default=1, ge=1)


class Balance(BlockingInstrument):
    """Dose a powder and weigh what was dosed.

    Args:
        options: scatter and seed.
    """

    Options: ClassVar[type[BaseModel]] = BalanceOptions

    def description(self) -> Description:
        """Declare `weigh`."""
        weigh = Capability(
            name="weigh",
            parameters=(Parameter("target", "g", 0.0, 1.0, resolution=0.001),),
            outputs=(Output("mass", "g", 0.0, 1.0),),
            typical_s=0.01,
            cost=self.options.cost,
            fidelity="simulated",
        )
        return Description((weigh,), recovery=Recovery.IDEMPOTENT, slots=self.options.slots, simulated=True)

    def work(self, job: Job) -> Result:
        """Dose about the target and read the mass, which the next step should use."""
        draw = generator(self.options.seed, job.order, "dose").standard_normal()
        dosed = min(1.0, max(0.0, job.numbers["target"] + self.options.scatter_g * float(draw)))
        mass = round(dosed / READABILITY_G) * READABILITY_G
        return Result(
            key=job.order.key,
            readings=(Reading("mass", mass, "g", READABILITY_G),),
            applied=applied(self.description().capabilities[0], job.numbers),
        )
