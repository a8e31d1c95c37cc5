"""Any ASE calculator as instrument: relax a structure, or evaluate it as it is.

::

    use: ase_calculator
    options: {calculator: tblite, arguments: {method: GFN1-xTB}, cell: false}

A calculator is named as ASE names it, or as ``package.module:Class`` where the lab file allows the module. Each order
is a process of its own (see `job_instrument`): a calculator that hangs, eats the memory or crashes takes nothing with
it, what it starts is ended with it, and after a crash of the campaign its answer is found again under the order's key.
Starting one costs about a second: `interatomic_potential` keeps its potentials loaded. Recovery class *idempotent*.

Atomic simulation environment: Larsen et al., J. Phys.: Condens. Matter 29, 273002 (2017),
doi:10.1088/1361-648X/aa680e.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any, ClassVar, Self

from pydantic import BaseModel, Field, ValidationInfo, model_validator

from instruments.potentials.relaxation import Relaxed
from instruments.potentials.relaxed_result import NUMBERS, RELAXED, result
from instruments.programs.folders import Exit, Job, JobFolder, tail
from instruments.programs.job_instrument import JobInstrument, default_folder
from instruments.settings import only_of_lab
from orchestrator.domain import Capability, Description, Identity, Order, Recovery, Result
from orchestrator.errors import BadData, Effect, Fault, InstrumentError, NotConnected
from orchestrator.protocols import InputPath, Options

WORKER = (sys.executable, "-P", "-m", "instruments.programs.ase_worker")
IDENTIFY_S = 60.0
"""Calculators that load a network take seconds; one that takes a minute to be built hangs."""
ERRORS: Mapping[str, type[InstrumentError]] = {"setup": NotConnected, "impossible": BadData, "failed": Fault}
"""What the worker says → the error. A calculator that cannot be set up is in the way of every candidate alike, so the
campaign pauses; one that does not converge says something about the candidate."""


class AseOptions(Options):
    """Which calculator, and how to relax with it."""

    calculator: str = Field(pattern=r"^[\w.]+(:\w+)?$", description="ASE's name, such as emt, or package.module:Class")
    arguments: dict[str, Any] = Field(default_factory=dict, description="that the calculator is built with")
    stress: bool = Field(default=True, description="false for calculators that give none; then no pressure is given")
    cell: bool = Field(default=True, description="relax the cell too; needs the stress")
    fmax: float = Field(default=0.05, gt=0, description="end of a relaxation, in eV/angstrom")
    max_steps: int = Field(default=200, ge=1, description="after so many steps the numbers are uncertain")
    slots: int = Field(default=1, ge=1, le=256, description="processes at once")
    threads: int = Field(default=1, ge=1, description="OMP_NUM_THREADS of each")
    environment: dict[str, str] = Field(default_factory=dict, description="more variables of the processes")
    folder: InputPath | None = Field(default=None, description="of the jobs; default: in the user's data folder")
    fidelity: str | None = Field(default=None, description="default: ase:CALCULATOR")
    knows: frozenset[str] = Field(default=frozenset(), description="pretrained knowledge inside")
    typical_s: float = Field(default=60.0, gt=0)
    longest_s: float = Field(default=3600.0, ge=2, description="after so many seconds its process group is ended")
    grace_s: float = Field(default=2.0, ge=0, description="between SIGTERM and SIGKILL")
    cost: float = Field(default=0.0, ge=0)

    @model_validator(mode="after")
    def _allowed(self, info: ValidationInfo) -> Self:
        only_of_lab(info, "ase_calculator")  # the arguments of many calculators are commands
        module, dotted, _ = self.calculator.partition(":")
        allowed = (info.context or {}).get("allowed_modules", ())
        if dotted and not any(module == one or module.startswith(f"{one}.") for one in allowed):
            message = f"the module {module!r} is not allowed here; list it under 'allowed_modules' in lab.yaml"
            raise ValueError(message)
        if self.cell and not self.stress:
            message = "'cell' is true and 'stress' false; without stress no cell can be relaxed: say cell: false"
            raise ValueError(message)
        return self


class AseCalculator(JobInstrument):
    """Compute with any ASE calculator, in a process an order.

    Args:
        options: the calculator and the settings of relaxations.
    """

    Options: ClassVar[type[BaseModel]] = AseOptions

    def __init__(self, options: AseOptions) -> None:
        self.options = options
        super().__init__(options.folder or default_folder("ase_calculator"), options.grace_s)
        self._numbers = tuple(o for o in NUMBERS if o.name != "pressure" or options.stress)

    def description(self) -> Description:
        """Declare `relax` and `single_point`."""
        o = self.options
        return Description(
            capabilities=tuple(
                Capability(
                    name=name,
                    outputs=outputs,
                    takes_structure=True,
                    typical_s=min(o.typical_s, o.longest_s),
                    longest_s=o.longest_s,
                    cost=o.cost,
                    fidelity=o.fidelity or f"ase:{o.calculator}",
                )
                for name, outputs in (("relax", (*self._numbers, RELAXED)), ("single_point", self._numbers))
            ),
            recovery=Recovery.IDEMPOTENT,
            slots=o.slots,
            knows=o.knows,
            simulated=True,
        )

    def identify(self) -> Identity:
        """Build the calculator once, in a process of its own, and name it with its versions."""
        question = json.dumps({"calculator": self.options.calculator, "arguments": self.options.arguments})
        try:
            asked = subprocess.run(  # noqa: S603  our own interpreter with our own module
                [*WORKER, "--identify", question],
                capture_output=True,
                timeout=IDENTIFY_S,
                stdin=subprocess.DEVNULL,
                check=False,
                env=self._environment(),
                cwd=self.root,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            message = f"the calculator {self.options.calculator!r} cannot be built: {error}"
            raise NotConnected(message) from error
        if asked.returncode != 0:
            message = f"the calculator {self.options.calculator!r} cannot be built: {tail(asked.stderr, 1)}"
            raise NotConnected(message)
        name, versions = json.loads(asked.stdout.splitlines()[-1])
        return Identity(name=name, firmware=versions)

    def prepare(
        self, order: Order, capability: Capability, numbers: Mapping[str, float], choices: Mapping[str, str]
    ) -> Job:
        """Write the structure and what to do with it."""
        del numbers, choices  # there are none
        o = self.options
        task = {
            "calculator": o.calculator,
            "arguments": o.arguments,
            "stress": o.stress,
            "crystal": order.crystal.to_json() if order.crystal else None,
            "settings": {"fmax": o.fmax, "steps": o.max_steps if capability.name == "relax" else 0, "cell": o.cell},
        }
        return Job((*WORKER, "task.json"), {"task.json": json.dumps(task).encode()}, self._environment())

    def collect(self, order: Order, folder: JobFolder, ended: Exit) -> Result:
        """Read the answer, or raise what the calculator failed of."""
        content = folder.read("answer.json")
        label = order.label or "the structure"
        if content is None:
            said = tail(folder.read("stderr") or b"", 1) or "it said nothing"
            message = f"{self.options.calculator} ended with code {ended.code} on {label}: {said} (in {folder.path})"
            raise Fault(message, effect=Effect.DONE)
        answer = json.loads(content)
        for word, error in ERRORS.items():
            if word in answer:
                message = f"{self.options.calculator} on {label}: {answer[word]}"
                raise error(message, effect=Effect.DONE if error is Fault else None)
        return result(order, Relaxed.from_json(answer["relaxed"]), self._numbers, notes=f"took {ended.seconds:.1f} s")

    def _environment(self) -> dict[str, str]:
        paths = os.pathsep.join(part for part in sys.path if part)  # the allowed modules are found as they are here
        threads = str(self.options.threads)
        return {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": threads, **self.options.environment}
