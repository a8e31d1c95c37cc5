r"""A program as instrument: one process an order, in a folder named by the order's key.

::

    use: command_line
    options:
      program: [lmp, -in, in.melt, -log, none]
      inputs: {in.melt: {file: in.melt}}            # a template: ${temperature} becomes the set-point
      parameters: {temperature: {unit: kelvin, min: 300, max: 2000}}
      outputs: {density: {unit: g/cm**3, regex: 'density = (\S+)'}}

No shell reads anything; set-points are checked before they are written into arguments or input files. The program gets
only the environment variables that the options name. When its time is up its whole process group is ended.

After a crash of the campaign the folder is found again: a job that still runs is waited for, one that has ended is
read, and none is started twice with the same key. Recovery class *idempotent* for computations; *queryable* where the
program moves something (`physical: true`), since sending that again would be a second act.
"""

from __future__ import annotations

import io
import os
import shutil
import string
import subprocess
from collections.abc import Mapping
from typing import ClassVar, Literal, Self

from pydantic import BaseModel, Field, ValidationInfo, model_validator

from instruments.people.operator import ParameterOptions
from instruments.programs import output as program_output
from instruments.programs.folders import Exit, Job, JobFolder, tail
from instruments.programs.job_instrument import JobInstrument, default_folder
from instruments.programs.output import FileName, OutputOptions
from instruments.settings import applied, capability_of, checked, only_of_lab
from orchestrator.domain import (
    Attachment,
    Capability,
    Crystal,
    Description,
    Identity,
    Order,
    Output,
    Parameter,
    Reading,
    Recovery,
    Result,
)
from orchestrator.errors import BadData, Busy, Effect, Fault, InstrumentError, Interlocked, NotConnected, Rejected
from orchestrator.protocols import InputPath, Options

ErrorName = Literal["bad_data", "busy", "fault", "interlocked", "rejected"]
ERRORS: Mapping[ErrorName, type[InstrumentError]] = {
    "bad_data": BadData,
    "busy": Busy,
    "fault": Fault,
    "interlocked": Interlocked,
    "rejected": Rejected,
}
PASSED_ON = ("HOME", "LANG", "LC_ALL", "PATH", "TMPDIR")
VERSION_S = 10.0
LOG_BYTES = 2**20
"""Of stdout and stderr that are attached: the end, where programs say what went wrong."""


class ArgumentOptions(ParameterOptions):
    """One set-point: a number with bounds, or a choice; how it is written."""

    default: float | str | None = None
    resolution: float | None = None
    write: str = Field(default="", description="Python format of the number, such as .3f; default: every digit")

    @model_validator(mode="after")
    def _writes(self) -> Self:
        try:
            float(format(1.5, self.write))
        except ValueError as error:
            message = f"'write' is {self.write!r}; a format of numbers was expected, such as .3f or .6e"
            raise ValueError(message) from error
        return self

    def written(self, value: float) -> str:
        """Write a number as the program wants it."""
        return format(value, self.write) if self.write else repr(value)


class InputOptions(BaseModel, frozen=True, extra="forbid"):
    """One input file."""

    file: InputPath | None = Field(default=None, description="read when the order starts")
    text: str = ""
    fill: bool = Field(default=True, description="replace ${name}; false copies the file as it is")

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.file is None) == (not self.text):
            message = "give 'file' or 'text'"
            raise ValueError(message)
        return self


class StructureFile(BaseModel, frozen=True, extra="forbid"):
    """A structure file, in a format that ASE writes and reads."""

    file: FileName
    format: str = Field(default="vasp", description="of ASE: vasp, cif, xsf, espresso-in, lammps-data …")


class CommandLineOptions(Options):
    """Which program, what it gets, and where its numbers stand."""

    program: tuple[str, ...] = Field(min_length=1, description="program and arguments; ${name} becomes a set-point")
    version: tuple[str, ...] = Field(default=(), description="prints the program's version; asked when opened")
    capability: str = Field(default="compute", pattern=r"^[A-Za-z][A-Za-z0-9_]{0,63}$")
    parameters: dict[str, ArgumentOptions] = Field(default_factory=dict)
    outputs: dict[str, OutputOptions] = Field(min_length=1)
    inputs: dict[FileName, InputOptions] = Field(default_factory=dict, description="files that the program reads")
    structure: StructureFile | None = Field(default=None, description="the order's structure, written for the program")
    structures: dict[str, StructureFile] = Field(default_factory=dict, description="structures that it writes")
    exit_codes: dict[int, ErrorName] = Field(default_factory=dict, description="what a code means; others: fault")
    attach: tuple[FileName, ...] = Field(default=(), description="files that are kept with the result, where present")
    environment: dict[str, str] = Field(default_factory=dict, description="variables that the program gets")
    pass_on: tuple[str, ...] = Field(default=PASSED_ON, description="variables that it gets from here")
    folder: InputPath | None = Field(default=None, description="of the jobs; default: in the user's data folder")
    physical: bool = Field(default=False, description="the program moves something; never sent twice")
    fidelity: str | None = Field(default=None, description="default: computed, or real where physical")
    slots: int = Field(default=1, ge=1, le=256)
    typical_s: float = Field(default=60.0, gt=0)
    longest_s: float = Field(default=3600.0, gt=0, description="after so many seconds its process group is ended")
    grace_s: float = Field(default=2.0, ge=0, description="between SIGTERM and SIGKILL")
    cost: float = Field(default=0.0, ge=0)

    @model_validator(mode="after")
    def _names(self, info: ValidationInfo) -> Self:
        only_of_lab(info, "command_line")
        known = {*self.parameters, "key"}
        texts = [*self.program[1:], *(i.text for i in self.inputs.values() if i.fill)]
        for text in texts:
            template = string.Template(text)
            unknown = sorted(set(template.get_identifiers()) - known)
            if unknown or not template.is_valid():
                what = f"names ${{{unknown[0]}}}" if unknown else "has a single $ (write $$ for one)"
                message = f"{text[:80]!r} {what}; these can be filled in: {', '.join(sorted(known))}"
                raise ValueError(message)
        both = sorted(set(self.outputs) & set(self.structures))
        if both:
            message = f"{', '.join(both)} stands under 'outputs' and under 'structures'"
            raise ValueError(message)
        return self


class CommandLine(JobInstrument):
    """Run a program for each order.

    Args:
        options: the program, its inputs and outputs.
    """

    Options: ClassVar[type[BaseModel]] = CommandLineOptions

    def __init__(self, options: CommandLineOptions) -> None:
        self.options = options
        super().__init__(options.folder or default_folder("command_line"), options.grace_s)

    def description(self) -> Description:
        """Return the declared capability."""
        o = self.options
        return Description(
            capabilities=(
                Capability(
                    name=o.capability,
                    outputs=(
                        *(where.declared(name) for name, where in o.outputs.items()),
                        *(Output(name, kind="structure") for name in o.structures),
                    ),
                    parameters=tuple(
                        Parameter(name, p.unit, p.min, p.max, p.resolution, p.choices, p.default)
                        for name, p in o.parameters.items()
                    ),
                    takes_structure=o.structure is not None,
                    typical_s=min(o.typical_s, o.longest_s),
                    longest_s=o.longest_s,
                    cost=o.cost,
                    fidelity=o.fidelity or ("real" if o.physical else "computed"),
                ),
            ),
            recovery=Recovery.QUERYABLE if o.physical else Recovery.IDEMPOTENT,
            slots=o.slots,
            simulated=not o.physical,
        )

    def identify(self) -> Identity:
        """Find the program, and ask its version."""
        environment = self._environment()
        path = shutil.which(self.options.program[0], path=environment.get("PATH"))
        if path is None:
            message = f"the program {self.options.program[0]!r} is not found; install it, or give its whole path"
            raise NotConnected(message)
        if not self.options.version:
            return Identity(name=path)
        try:
            asked = subprocess.run(  # noqa: S603  named by the lab file, without a shell
                self.options.version,
                capture_output=True,
                timeout=VERSION_S,
                stdin=subprocess.DEVNULL,
                check=False,
                env=environment,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            message = f"{' '.join(self.options.version)!r} did not tell a version: {error}"
            raise NotConnected(message) from error
        lines = (asked.stdout or asked.stderr).decode(errors="replace").strip().splitlines()
        return Identity(name=path, firmware=lines[0] if lines else "")

    def prepare(
        self, order: Order, capability: Capability, numbers: Mapping[str, float], choices: Mapping[str, str]
    ) -> Job:
        """Fill set-points into arguments and input files."""
        del capability
        o = self.options
        values = {name: o.parameters[name].written(value) for name, value in numbers.items()}
        values.update(choices, key=order.key)
        files = {name: _input(name, given, values) for name, given in o.inputs.items()}
        if o.structure is not None and order.crystal is not None:
            files[o.structure.file] = _written(order.crystal, o.structure.format)
        argv = (o.program[0], *(string.Template(part).substitute(values) for part in o.program[1:]))
        return Job(argv, files, self._environment())

    def collect(self, order: Order, folder: JobFolder, ended: Exit) -> Result:
        """Read the outputs, or raise what the exit code means."""
        o = self.options
        logs = {name: folder.read(name) or b"" for name in ("stdout", "stderr")}
        if ended.code != 0:
            kind = ERRORS[o.exit_codes.get(ended.code or 0, "fault")]
            said = tail(logs["stderr"]) or tail(logs["stdout"]) or "it said nothing"
            message = f"{o.program[0]} ended with code {ended.code}: {said} (in {folder.path})"
            raise kind(message, effect=Effect.DONE if kind is Fault and not o.physical else None)
        capability = capability_of(self.description(), order)
        numbers, choices = checked(capability, order)
        readings = tuple(
            Reading(name, program_output.number(name, where, folder.read), where.unit)
            for name, where in o.outputs.items()
        )
        structures = {name: _structure(name, where, folder) for name, where in o.structures.items()}
        kept = {name: content for name in o.attach if (content := folder.read(name)) is not None}
        kept |= {f"{name}.txt": content[-LOG_BYTES:] for name, content in logs.items() if content}
        return Result(
            key=order.key,
            readings=readings,
            structures=structures,
            applied=applied(capability, numbers),
            applied_choices=dict(choices),
            attachments=tuple(Attachment(name, _media(name), content) for name, content in kept.items()),
            notes=f"{o.program[0]} took {ended.seconds:.1f} s",
        )

    def _environment(self) -> dict[str, str]:
        passed = {name: os.environ[name] for name in self.options.pass_on if name in os.environ}
        return {**passed, **self.options.environment}


def _input(name: str, given: InputOptions, values: Mapping[str, str]) -> bytes:
    try:
        content = given.text.encode() if given.file is None else given.file.read_bytes()
    except OSError as error:
        message = f"the input file {name} cannot be read: {error}"
        raise NotConnected(message) from error
    if not given.fill:
        return content
    try:
        return string.Template(content.decode()).substitute(values).encode()
    except (KeyError, ValueError) as error:
        message = (
            f"the template of {name} cannot be filled in: {error}; it may name {', '.join(sorted(values))},"
            " and a dollar sign is written $$"
        )
        raise Rejected(message) from error


def _written(crystal: Crystal, kind: str) -> bytes:
    from ase import Atoms  # noqa: PLC0415  ASE loads with the first order
    from ase.io import write  # noqa: PLC0415  the same

    atoms = Atoms(symbols=list(crystal.species), scaled_positions=crystal.frac_coords, cell=crystal.lattice, pbc=True)
    text = io.StringIO()
    try:
        write(text, atoms, format=kind)
    except Exception as error:
        message = f"ASE cannot write the structure as {kind!r}: {type(error).__name__}: {error}"
        raise Rejected(message) from error
    return text.getvalue().encode()


def _structure(name: str, where: StructureFile, folder: JobFolder) -> Crystal:
    from ase.io import read  # noqa: PLC0415  ASE loads with the first order

    content = folder.read(where.file)
    try:
        atoms = read(io.StringIO((content or b"").decode()), format=where.format)
        return Crystal.from_json(
            {
                "lattice": atoms.cell.array.tolist(),
                "species": atoms.get_chemical_symbols(),
                "frac_coords": atoms.get_scaled_positions(wrap=True).tolist(),
            }
        )
    except Exception as error:
        message = f"{name}: {where.file} is no structure in the format {where.format!r}: {error}"
        raise BadData(message) from error


def _media(name: str) -> str:
    kinds = {"json": "application/json", "csv": "text/csv", "cif": "chemical/x-cif"}
    return kinds.get(name.rpartition(".")[2], "text/plain")
