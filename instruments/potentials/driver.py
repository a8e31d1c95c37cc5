"""An interatomic potential as instrument: relax a structure, evaluate it as it is, or run molecular dynamics with it.

A relaxation ends when no force and no component of the cell's gradient exceeds `fmax` (as the cell filter scales them,
so that a single force may stand a few percent above). One that does not end within `max_steps` gives its numbers with
quality *uncertain*: they are kept and looked at, and train nothing. A structure that falls apart (its volume changes by
more than a factor of three, an atom is left alone, a number is not finite) is bad data.

Each slot has a network of its own, by default in a process of its own: see `worker`. Recovery class
*idempotent*: a pure computation may always be sent again.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

from pydantic import BaseModel, Field

from instruments.potentials import catalogue
from instruments.potentials.catalogue import PotentialName
from instruments.potentials.dynamics import Dynamics
from instruments.potentials.relaxation import Settings
from instruments.potentials.relaxed_result import LAST, MEANS, NUMBERS, RELAXED, path_result, result
from instruments.potentials.worker import Elsewhere, Here, Stopped
from instruments.settings import applied
from instruments.sync import BlockingInstrument, Job
from orchestrator.domain import Capability, Crystal, Description, Identity, Parameter, Recovery, Result
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
    longest_s: float = Field(default=600.0, ge=2.0, description="an order that takes longer hangs")
    longest_path_s: float = Field(default=86400.0, ge=2.0, description="the same of a path of molecular dynamics")
    duration: float = Field(default=5.0, ge=0.01, le=1000, description="of a path, in ps, where the order names none")
    friction: float = Field(default=0.01, gt=0, le=1, description="of the thermostat, in 1/fs")
    settle: float = Field(default=0.25, ge=0, le=10, description="share of the path that is run first, uncounted")
    atoms: int = Field(default=32, ge=1, le=10_000, description="for dynamics the cell is repeated to at least so many")


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
        """Declare `relax`, `single_point` and `molecular_dynamics`."""
        version = catalogue.VERSIONS[self.options.name]
        return Description(
            capabilities=tuple(
                Capability(
                    name=name,
                    outputs=outputs,
                    parameters=parameters,
                    takes_structure=True,
                    typical_s=min(typical_s, longest_s),
                    longest_s=longest_s,
                    fidelity=f"potential:{version}",
                )
                for name, outputs, parameters, typical_s, longest_s in (
                    ("relax", (*NUMBERS, RELAXED), (), 2.0, self.options.longest_s),
                    ("single_point", NUMBERS, (), 0.2, self.options.longest_s),
                    ("molecular_dynamics", (*MEANS, LAST), self._path_parameters(), 60.0, self.options.longest_path_s),
                )
            ),
            recovery=Recovery.IDEMPOTENT,
            slots=self.options.slots,
            knows=catalogue.KNOWS[self.options.name],
            simulated=True,
        )

    def connect(self) -> Identity:
        """Load the potential for every slot; its serial number is the hash of its weights."""
        with self._lock:
            self._linked = True
            missing = self.options.slots - len(self._idle)
            self._idle += [self._load() for _ in range(missing)]  # workers load at the same time
            serial, programs = self._idle[0].identity()
        return Identity(name=catalogue.VERSIONS[self.options.name], serial=serial, firmware=programs)

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
        catalogue.refuse_unknown_elements(o.name, crystal)
        if job.order.capability == "molecular_dynamics":
            return self._path(job, crystal)
        settings = Settings(o.fmax, o.max_steps if job.order.capability == "relax" else 0, o.cell)

        def on_step(step: int) -> None:
            job.progress(min(0.99, step / o.max_steps), f"step {step}")

        with self._slot(job) as slot:
            return result(job.order, slot.relax(crystal, settings, on_step, job.abort_requested))

    def _path(self, job: Job, crystal: Crystal) -> Result:
        o, numbers = self.options, job.numbers
        steps = max(1, round(1000 * numbers["duration"] / numbers["timestep"]))
        what = Dynamics(
            temperature=numbers["temperature"],
            steps=steps,
            timestep=numbers["timestep"],
            seed=int.from_bytes(hashlib.sha256(job.order.key.encode()).digest()[:8], "big"),
            friction=o.friction,
            settle=o.settle,
            atoms=o.atoms,
            every=max(1, min(10, steps // 20)),
        )
        whole = steps * (1 + o.settle)

        def on_step(step: int) -> None:
            job.progress(min(0.99, step / whole), f"{step} of {whole:.0f} steps")

        with self._slot(job) as slot:
            found = slot.path(crystal, what, on_step, job.abort_requested)
        return path_result(job.order, found, applied(self.description().capability("molecular_dynamics"), numbers))

    def _path_parameters(self) -> tuple[Parameter, ...]:
        return (
            Parameter("temperature", "kelvin", 1.0, 5000.0, default=300.0),
            Parameter("duration", "ps", 0.01, 1000.0, default=self.options.duration),
            Parameter("timestep", "fs", 0.1, 5.0, default=1.0),
        )

    @contextmanager
    def _slot(self, job: Job) -> Iterator[Here | Elsewhere]:
        slot = self._take()
        try:
            yield slot
        except Stopped as error:
            message = f"{job.order.capability} was stopped on request"
            raise Aborted(message) from error
        except ValueError as error:
            message = f"{self.options.name} cannot describe {job.order.label or 'the structure'}: {error}"
            raise BadData(message) from error
        except Fault:
            slot.close()
            slot = self._load()  # the next order finds a new one
            raise
        finally:
            self._give(slot)

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
