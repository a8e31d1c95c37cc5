"""A SCPI heater in Python: what is left to write where wire, bounds, units, aborts and effects are taken care of."""

from functools import cached_property
from typing import ClassVar

from instruments.scpi.session import ScpiSession
from instruments.sync import BlockingInstrument, Job
from orchestrator.domain import Capability, Description, Health, Identity, Output, Parameter, Quantity, Reading, Result
from orchestrator.protocols import Options


class HeaterOptions(Options):
    """Where it is."""

    address: str


class Heater(BlockingInstrument):
    """Heat a wire and weigh its power."""

    Options: ClassVar = HeaterOptions

    def description(self) -> Description:
        """Declare `heat`."""
        voltage, power = Parameter("voltage", "volt", 0.0, 20.0), Output("power", "watt", 0.0, 400.0)
        return Description((Capability("heat", (power,), (voltage,), longest_s=60.0),))

    @cached_property
    def session(self) -> ScpiSession:
        """Make the session; somebody else at this address is an error."""
        return ScpiSession(self.options.address, expect="2260B")

    def connect(self) -> Identity:
        """Open the line, anew where it was open."""
        return self.session.open()

    def disconnect(self) -> None:
        """Give the line back."""
        self.session.close()

    def check(self) -> Health:
        """Ask how it is."""
        return self.session.health()

    def work(self, job: Job) -> Result:
        """Set, start, wait, read."""
        session, volts = self.session, job.numbers["voltage"]
        with session.order(job, abort="OUTPut 0"):
            seen = session.set(f":SOUR:VOLT {volts:.3f}", ":SOUR:VOLT?", volts, tolerance=0.01)
            session.start("OUTPut 1")
            session.settle(":MEAS:VOLT?", seen, within=0.05, every_s=0.05)
            watts = session.number(":MEAS:POW?")
        applied = {"voltage": Quantity(seen, "volt")}
        return Result(job.order.key, (Reading("power", watts, "watt"),), applied=applied)
