"""An interatomic potential as instrument: relax a structure, or evaluate it as it is.

A relaxation ends when no force and no component of the cell's gradient exceeds `fmax` (as the cell filter scales them,
so that a single force may stand a few percent above). One that does not end within `max_steps` gives its numbers with
quality *uncertain*: they are kept and looked at, and train nothing. A structure that falls apart (its volume changes by
more than a factor of three, an atom is left alone, a number is not finite) is bad data.

Each slot has a network of its own, by default in a process of its own: see `potential_worker`. Recovery class
*idempotent*: a pure computation may always be sent again.
"""

from __future__ import annotations

import threading
from typing import ClassVar

from pydantic import BaseModel, Field

from instruments import potentials
from instruments.potential_worker import Elsewhere, Here, Stopped
from instruments.potentials import PotentialName
from instruments.relaxation import Settings
from instruments.relaxed_result import NUMBERS, RELAXED, result
from instruments.sync import BlockingInstrument, Job
from orchestrator.domain import Capability, Description, Identity, Recovery, Result
from orchestrator.errors import Aborted, BadData, Fault
from orchestrator.protocols import Options


class PotentialOptions(Options):
    """Which potential, and how to relax with it."""

    name: PotentialName = Field(default="chgnet", description="chgnet, or emt: a light stand-in for tests, metals only")
    fmax: float = Field(default=0.1, gt=0, description="end of a relaxation, in eV/angstrom")
    max_steps: int = Field(default=200, ge=1, description="after so many steps the numbers are uncertain")
    cell: bool = Field(default=True, description="relax the cell too")
    slots: int = Field(default=1, ge=1, le=256, description="relaxations at once")
    threads: int = Field(default=1, ge=1, description="that torch may use in each slot")
    process: bool | None = Field(default=None, description="each slot in its own process; default: for chgnet, not emt")
    longest_s: float = Field(default=600.0, ge=2.0, description="a relaxation that takes longer hangs")


class InteratomicPotential(BlockingInstrument):
    """Compute energies, forces and relaxed structures with a potential.

    Args:
        options: potential and settings of the relaxation.
    """

    Options: ClassVar[type[BaseModel]] = PotentialOptions

    def __init__(self, options: PotentialOptions) -> None:
        super().__init__(options)
        self.options: PotentialOptions = options
        self._idle: list[Here | Elsewhere] = []
        self._lock = threading.Lock()
        self._linked = False

    def description(self) -> Description:
        """Declare `relax` and `single_point`."""
        version = potentials.VERSIONS[self.options.name]
        return Description(
            capabilities=tuple(
                Capability(
                    name=name,
                    outputs=outputs,
                    takes_structure=True,
                    typical_s=typical_s,
                    longest_s=self.options.longest_s,
                    fidelity=f"potential:{version}",
                )
                for name, outputs, typical_s in (("relax", (*NUMBERS, RELAXED), 2.0), ("single_point", NUMBERS, 0.2))
            ),
            recovery=Recovery.IDEMPOTENT,
            slots=self.options.slots,
            knows=potentials.KNOWS[self.options.name],
            simulated=True,
        )

    def connect(self) -> Identity:
        """Load the potential for every slot; its serial number is the hash of its weights."""
        with self._lock:
            self._linked = True
            missing = self.options.slots - len(self._idle)
            self._idle += [self._load() for _ in range(missing)]  # workers load at the same time
            serial, programs = self._idle[0].identity()
        return Identity(name=potentials.VERSIONS[self.options.name], serial=serial, firmware=programs)

    def disconnect(self) -> None:
        """End the processes of the slots."""
        with self._lock:
            self._linked = False
            while self._idle:
                self._idle.pop().close()

    def work(self, job: Job) -> Result:
        """Relax or evaluate the order's structure."""
        crystal, o = job.order.crystal, self.options
        if crystal is None:  # refused before; this is for the type checker
            message = "the order has no structure"
            raise BadData(message)
        potentials.refuse_unknown_elements(o.name, crystal)
        settings = Settings(o.fmax, o.max_steps if job.order.capability == "relax" else 0, o.cell)

        def on_step(step: int) -> None:
            job.progress(min(0.99, step / o.max_steps), f"step {step}")

        slot = self._take()
        try:
            found = slot.relax(crystal, settings, on_step, job.abort_requested)
        except Stopped as error:
            message = "the relaxation was stopped on request"
            raise Aborted(message) from error
        except ValueError as error:
            message = f"{o.name} cannot describe {job.order.label or 'the structure'}: {error}"
            raise BadData(message) from error
        except Fault:
            slot.close()
            slot = self._load()  # the next order finds a new one
            raise
        finally:
            self._give(slot)
        return result(job.order, found)

    def _load(self) -> Here | Elsewhere:
        apart = self.options.name == "chgnet" if self.options.process is None else self.options.process
        return (Elsewhere if apart else Here)(self.options.name, self.options.threads)

    def _take(self) -> Here | Elsewhere:
        with self._lock:
            if self._idle:
                return self._idle.pop()
        return self._load()

    def _give(self, slot: Here | Elsewhere) -> None:
        with self._lock:
            if self._linked:
                self._idle.append(slot)
                return
        slot.close()  # the instrument was closed meanwhile
