"""A table as instrument: answers from a file of known results, for replays and tests.

An order carries set-points, choices, a structure and a label; which of them finds the row is the option `match`:

- ``parameters``: the set-points, each rounded to the parameter's `resolution`, and the choices; floats are never
  compared.
- ``structure``: the canonical key of the order's structure (Niggli cell and sites rounded to 1e-4) against the CIF in
  the column. Rows are found by their chemical formula first, so that only rows of that formula are read as structures.
- ``composition``: the reduced formula of the order's structure, or its label read as a formula, against the column.
- ``id``: the order's label against the column; the space must label its candidates with that id.

A candidate without a row is refused. Recovery class *idempotent*: looking twice does no harm.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from functools import reduce
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
from pydantic import BaseModel, Field, model_validator

from instruments.draws import generator
from instruments.settings import Unit, applied
from instruments.sync import BlockingInstrument, Job
from orchestrator.domain import (
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
    sha256,
)
from orchestrator.errors import BadData, MaterialError, NotConnected, PluginError, Rejected
from orchestrator.protocols import InputPath, Options

FORMULA_SUM = re.compile(r"^\s*_chemical_formula_sum\s+(?:'([^']*)'|\"([^\"]*)\"|(\S+))", re.MULTILINE)
ELEMENT = re.compile(r"([A-Z][a-z]?)(\d*\.?\d*)")
SLOTS = 64
"""A lookup takes microseconds; no campaign waits for a slot."""


class OutputColumn(BaseModel, frozen=True, extra="forbid"):
    """A column that holds a property."""

    column: str | None = Field(default=None, description="default: the property's name")
    unit: Unit = "dimensionless"
    std_error: str | None = Field(default=None, description="column of standard errors, in the same unit")


class ParameterColumn(BaseModel, frozen=True, extra="forbid"):
    """A column that holds a set-point; text columns become choices."""

    column: str | None = Field(default=None, description="default: the parameter's name")
    unit: Unit = "dimensionless"
    resolution: float = Field(default=1e-6, gt=0, description="values closer than this are one set-point")


class TableOptions(Options):
    """Which file, and how an order finds its row."""

    file: InputPath = Field(description="CSV, Parquet or JSON (records)")
    match: Literal["parameters", "composition", "structure", "id"]
    column: str | None = Field(default=None, description="with composition, structure (CIF) or id: where it stands")
    parameters: dict[str, ParameterColumn] = Field(default_factory=dict, description="with match: parameters")
    outputs: dict[str, OutputColumn] = Field(min_length=1)
    duplicates: Literal["error", "first", "mean"] = Field(default="error", description="rows that match the same order")
    noise: dict[str, Annotated[float, Field(ge=0)]] = Field(
        default_factory=dict, description="property → standard deviation added to its value, in its unit"
    )
    seed: int = Field(default=0, ge=0, description="of the noise")
    cost: float = Field(default=0.0, ge=0)
    fidelity: str = "table"

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        if (self.match == "parameters") == (not self.parameters):
            message = "'parameters' (name: {column, unit}) goes with 'match: parameters', and only with it"
            raise ValueError(message)
        if (self.match == "parameters") == (self.column is not None):
            message = f"'column' goes with composition, structure, id; seen: match {self.match}, column {self.column!r}"
            raise ValueError(message)
        if unknown := sorted(set(self.noise) - set(self.outputs)):
            message = f"'noise' names {', '.join(unknown)}; the outputs are: {', '.join(self.outputs)}"
            raise ValueError(message)
        return self


class TableLookup(BlockingInstrument):
    """Answer orders from a file.

    Args:
        options: file, columns and how to match.
    """

    Options: ClassVar[type[BaseModel]] = TableOptions

    def __init__(self, options: TableOptions) -> None:
        super().__init__(options)
        self.options: TableOptions = options
        self._table: Any = None
        self._rows: dict[Any, list[int]] = {}
        self._keys: dict[int, str] = {}

    def description(self) -> Description:
        """Declare one capability, `look_up`; bounds of the parameters are those of the table."""
        o = self.options
        return Description(
            capabilities=(
                Capability(
                    name="look_up",
                    outputs=tuple(Output(name, given.unit) for name, given in o.outputs.items()),
                    parameters=tuple(self._parameter(name, given) for name, given in o.parameters.items()),
                    takes_structure=o.match == "structure",
                    typical_s=0.01,
                    longest_s=300.0,
                    cost=o.cost,
                    fidelity=o.fidelity,
                ),
            ),
            recovery=Recovery.IDEMPOTENT,
            slots=SLOTS,
            simulated=True,
        )

    def connect(self) -> Identity:
        """Read the file; its serial number is its hash."""
        table = self._read()
        self._rows = {}
        for number in range(len(table)):
            self._rows.setdefault(self._row_key(number), []).append(number)
        return Identity(name=self.options.file.name, serial=sha256(self.options.file.read_bytes()))

    def work(self, job: Job) -> Result:
        """Find the row and give its values."""
        rows = self._find(job)
        readings = []
        for name, given in self.options.outputs.items():
            values = [self._number(row, given.column or name) for row in rows]
            spread = self.options.noise.get(name, 0.0)
            value = float(np.mean(values))
            if spread:
                value += spread * float(generator(self.options.seed, job.order, f"noise/{name}").standard_normal())
            known = [self._number(row, given.std_error) for row in rows] if given.std_error else []
            error = math.hypot(spread, *known) / len(rows) ** 0.5 if spread or known else None
            readings.append(Reading(name, value, given.unit, error))
        capability = self.description().capabilities[0]
        return Result(
            key=job.order.key,
            readings=tuple(readings),
            applied=applied(capability, job.numbers),
            applied_choices=dict(job.choices),
            notes=f"row {', '.join(str(row + 1) for row in rows)} of {self.options.file.name}",
        )

    def _read(self) -> Any:
        if self._table is None:
            self._table = read_table(self.options.file)
            wanted = [given.column or name for name, given in self.options.outputs.items()]
            wanted += [given.std_error for given in self.options.outputs.values() if given.std_error]
            wanted += [given.column or name for name, given in self.options.parameters.items()]
            wanted += [self.options.column] if self.options.column else []
            missing = sorted(set(wanted) - set(self._table.columns))
            if missing:
                there = ", ".join(map(str, self._table.columns))
                message = f"{self.options.file} has no column {', '.join(missing)}; its columns are: {there}"
                raise PluginError(message)
        return self._table

    def _parameter(self, name: str, given: ParameterColumn) -> Parameter:
        column = self._read()[given.column or name]
        if column.dtype.kind not in "iuf":
            return Parameter(name, choices=tuple(sorted({str(value) for value in column})))
        return Parameter(name, given.unit, float(column.min()), float(column.max()), given.resolution)

    def _row_key(self, number: int) -> Any:
        table, o = self._read(), self.options
        if o.match == "parameters":
            row = {name: table[given.column or name].iloc[number] for name, given in o.parameters.items()}
            numbers = {name: float(v) for name, v in row.items() if not isinstance(v, str)}
            return self._rounded(numbers, {name: v for name, v in row.items() if isinstance(v, str)})
        text = str(table[o.column].iloc[number])
        if o.match == "id":
            return text
        if o.match == "composition":
            return reduced_formula(text)
        found = FORMULA_SUM.search(text)
        return reduced_formula(next(part for part in found.groups() if part)) if found else None

    def _rounded(self, numbers: Any, choices: Any) -> tuple[tuple[str, int | str], ...]:
        parameters = self.options.parameters
        steps = {name: round(value / parameters[name].resolution) for name, value in numbers.items()}
        return tuple(sorted({**steps, **choices}.items()))

    def _find(self, job: Job) -> list[int]:
        order, match = job.order, self.options.match
        if match == "parameters":
            asked = ", ".join(f"{name} {value}" for name, value in {**job.numbers, **job.choices}.items())
            rows = self._rows.get(self._rounded(job.numbers, job.choices), [])
        elif match == "id":
            asked, rows = order.label, self._rows.get(order.label, [])
        elif match == "composition":
            asked = formula_of(order)
            rows = self._rows.get(asked, [])
        else:
            asked = f"the structure {order.label or formula_of(order)}"
            rows = self._same_structure(order.crystal)
        if not rows:
            message = f"{self.options.file.name} has no row for {asked}"
            raise Rejected(message)
        if len(rows) > 1 and self.options.duplicates == "error":
            lines = ", ".join(str(row + 1) for row in rows)
            message = f"rows {lines} of {self.options.file.name} all match {asked}; set 'duplicates: first' or 'mean'"
            raise Rejected(message)
        return rows if self.options.duplicates == "mean" else rows[:1]

    def _same_structure(self, crystal: Crystal | None) -> list[int]:
        from orchestrator.materials import structures  # noqa: PLC0415  reads pymatgen; only with the first structure

        if crystal is None:  # refused before; this is for the type checker
            return []
        wanted = structures.crystal_key(crystal)
        formula = reduced_formula("".join(f"{s}{n}" for s, n in Counter(crystal.species).items()))
        near = self._rows.get(formula, []) + self._rows.get(None, [])
        for row in near:
            if row not in self._keys:
                self._keys[row] = self._structure_key(row)
        return [row for row in near if self._keys[row] == wanted]

    def _structure_key(self, row: int) -> str:
        from orchestrator.materials import files, structures  # noqa: PLC0415  the same

        text = str(self._read()[self.options.column].iloc[row])
        try:
            return structures.crystal_key(files.crystal_from_cif(text, f"row {row + 1}"))
        except MaterialError:
            return f"row {row + 1} cannot be read as a structure"  # equals no key

    def _number(self, row: int, column: str) -> float:
        try:
            value = float(self._read()[column].iloc[row])
        except (TypeError, ValueError) as error:
            message = f"row {row + 1}, column {column!r} of {self.options.file.name} holds no number"
            raise BadData(message) from error
        if not math.isfinite(value):
            message = f"row {row + 1}, column {column!r} of {self.options.file.name} is empty or not finite"
            raise BadData(message)
        return value


def read_table(file: Path) -> Any:
    """Read a table by its ending.

    Args:
        file: CSV (may be compressed), Parquet or JSON records.

    Returns:
        A pandas data frame.

    Raises:
        NotConnected: the file is missing or cannot be read.
    """
    import pandas as pd  # noqa: PLC0415  slow to import; drivers load quickly

    readers = {".csv": pd.read_csv, ".parquet": pd.read_parquet, ".json": pd.read_json}
    ending = next((end for end in file.suffixes if end in readers), None)
    if ending is None:
        message = f"{file} is no table that can be read; the name must end with one of: {', '.join(readers)}"
        raise NotConnected(message)
    try:
        return readers[ending](file)
    except (OSError, ValueError, ImportError) as error:
        message = f"the table {file} cannot be read: {error}"
        raise NotConnected(message) from error


def reduced_formula(text: str) -> str | None:
    """Return a formula in one spelling: elements sorted, amounts divided by their greatest common divisor.

    Args:
        text: such as ``SrTiO3``, ``Sr2 Ti2 O6`` or ``O3TiSr``.

    Returns:
        Such as ``O3Sr1Ti1``; None where the text is no formula of whole amounts.
    """
    compact = re.sub(r"\s", "", text)
    parts = ELEMENT.findall(compact)
    if not parts or "".join(symbol + amount for symbol, amount in parts) != compact:
        return None
    amounts: Counter[str] = Counter()
    for symbol, amount in parts:
        number = float(amount or 1)
        if not number.is_integer() or number < 1:
            return None
        amounts[symbol] += int(number)
    divisor = reduce(math.gcd, amounts.values())
    return "".join(f"{symbol}{amount // divisor}" for symbol, amount in sorted(amounts.items()))


def formula_of(order: Order) -> str:
    """Return the reduced formula of an order's structure, or of its label.

    Args:
        order: what is asked.

    Raises:
        Rejected: there is no structure and the label is no formula.
    """
    text = "".join(f"{s}{n}" for s, n in Counter(order.crystal.species).items()) if order.crystal else order.label
    formula = reduced_formula(text)
    if formula is None:
        message = f"the candidate {order.label!r} has no structure and its label is no chemical formula"
        raise Rejected(message)
    return formula
