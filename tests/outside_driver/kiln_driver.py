"""A kiln with a blocking, line-based link, as Matloop sees it; written outside Matloop's repository.

The device here is a few lines at the end of this file, so that the example runs anywhere. A real driver would open a
socket or a serial port in `connect` instead.
"""

from typing import Any, ClassVar

from pydantic import Field

from instruments.settings import applied
from instruments.sync import BlockingInstrument, Job
from orchestrator.domain import Capability, Description, Identity, Output, Parameter, Reading, Recovery, Result
from orchestrator.errors import NotConnected
from orchestrator.protocols import Options


class KilnOptions(Options):
    """What the lab file says about our kiln."""

    port: str = Field(default="simulated", description="serial port; 'simulated' needs no kiln")
    ramp: float = Field(default=10.0, gt=0, le=20, description="heating rate in degC/min")


class Kiln(BlockingInstrument):
    """Fire a tile and measure how strong it became.

    Args:
        options: port and heating rate.
    """

    Options: ClassVar[type[Options]] = KilnOptions

    def description(self) -> Description:
        """Declare what the kiln can do; no device is touched."""
        fire = Capability(
            name="fire",
            parameters=(Parameter("temperature", "degC", 600.0, 1300.0, resolution=5.0),),
            outputs=(Output("strength", "MPa", 0.0, 1000.0),),
            typical_s=1.0,
            longest_s=60.0,
            cost=2.0,
        )
        simulated = self.options.port == "simulated"
        return Description((fire,), recovery=Recovery.BLIND, simulated=simulated)

    def connect(self) -> Identity:
        """Open the link and ask the kiln who it is."""
        if self.options.port != "simulated":
            message = f"no kiln answers at {self.options.port}; is it switched on?"
            raise NotConnected(message)
        self._kiln: Any = _SimulatedKiln()
        return Identity(*self._kiln.ask("*IDN?").split(","))

    def work(self, job: Job) -> Result:
        """Fire at the asked temperature; blocking is fine here."""
        self._kiln.ask(f"SET {job.numbers['temperature']:.0f}")
        while float(self._kiln.ask("TEMP?")) < job.numbers["temperature"] - 0.5:
            job.raise_if_aborted()
            job.sleep(0.01)
        reached = float(self._kiln.ask("TEMP?"))
        return Result(
            key=job.order.key,
            readings=(Reading("strength", float(self._kiln.ask("BREAK?")), "MPa", std_error=2.0),),
            applied=applied(self.description().capabilities[0], {"temperature": reached}),
        )


class _SimulatedKiln:
    """Answers like the real one: strongest tiles at 1100 degC."""

    def __init__(self) -> None:
        self.target = self.now = 25.0

    def ask(self, line: str) -> str:
        if line == "*IDN?":
            return "Kiln 9,SN042,3.1"
        if line.startswith("SET "):
            self.target = float(line.removeprefix("SET "))
            return "OK"
        self.now = min(self.target, self.now + 300.0) if self.now < self.target else self.target
        return f"{self.now if line == 'TEMP?' else 180.0 - ((self.target - 1100.0) / 25.0) ** 2:.1f}"
