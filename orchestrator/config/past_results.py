"""Past results from a table of one's own: ``initial: {use: table, options: {file, mapping}}``.

A row is matched to the space by what identifies a candidate there: the parameters of a box, or the label or id of a
listed candidate. Floats are never compared: a box rounds to its own resolution.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

from pydantic import Field

from orchestrator.config.messages import nearest
from orchestrator.domain import Candidate, Problem, Value
from orchestrator.errors import MatloopError, SpaceError
from orchestrator.protocols import Axis, BoxSpace, FiniteSpace, InputPath, Options, ProductSpace, SearchSpace
from orchestrator.units import check_unit, convert, scale

CANDIDATE = "candidate"
"""Name in the mapping of the column that holds the label or id of a listed candidate."""

LARGEST_TABLE = 100_000
"""Rows. Past results of a lab are hundreds; a larger table belongs into a pool with table_lookup."""


class Column(Options):
    """A column of the table, with its unit."""

    column: str = Field(min_length=1, description="heading in the first line of the file")
    unit: str | None = Field(default=None, description="unit of the column; default: that of the campaign file")
    std_error: str | None = Field(default=None, description="column with the standard errors, in the same unit")


class TableOptions(Options):
    """Options of ``initial: {use: table}``."""

    file: InputPath = Field(description="CSV with one heading line; relative to the campaign file")
    mapping: dict[str, str | Column] = Field(
        default_factory=dict,
        description="parameter or property → its column; what is not named stands under its own name",
    )
    delimiter: str = Field(default=",", min_length=1, max_length=1)
    outside: str = Field(
        default="refuse", pattern="^(refuse|skip)$", description="rows outside the space: an error, or left out"
    )


@dataclass(frozen=True)
class PastResult:
    """One row of the table.

    Args:
        candidate: what was measured.
        values: property → value and standard error, in the problem's units; only what the row has.
    """

    candidate: Candidate
    values: Mapping[str, tuple[float, float | None]]


@dataclass(frozen=True)
class PastResults:
    """The rows of a table, and the lines that were left out with their reasons."""

    rows: tuple[PastResult, ...]
    left_out: tuple[str, ...] = ()


def read_table(options: TableOptions, space: SearchSpace, problem: Problem) -> PastResults:
    """Read past results.

    Args:
        options: file, mapping and units.
        space: where candidates come from.
        problem: the properties that count, with their units.

    Returns:
        Results in the order of the file.

    Raises:
        SpaceError: a row lies outside the space, or the table has no usable row.
        MatloopError: the file, a heading, a number or a unit is wrong; the message names the line of the table.
    """
    lines = _lines(options)
    return _Reader(options, space, problem, list(lines[0][1])).read(lines)


def _lines(options: TableOptions) -> list[tuple[int, dict[str, str]]]:
    """Read the table as (line number, heading → cell)."""
    try:
        with options.file.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream, delimiter=options.delimiter, strict=True)
            headings = [h.strip() for h in reader.fieldnames or []]
            if len(set(headings)) != len(headings):
                twice = next(h for h in headings if headings.count(h) > 1)
                _refuse(f"{options.file}:1: two columns are headed {twice!r}; rename one")
            reader.fieldnames = headings
            found = []
            for row in reader:
                if None in row or None in row.values():
                    _refuse(
                        f"{options.file}:{reader.line_num}: the line has not the {len(headings)} cells of the heading;"
                        " check the delimiter, and put text with commas in quotes"
                    )
                if any(cell.strip() for cell in row.values()):
                    found.append((reader.line_num, row))
                if len(found) > LARGEST_TABLE:
                    _refuse(
                        f"{options.file} has more than {LARGEST_TABLE:,} rows; use a pool with table_lookup instead"
                    )
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        _refuse(f"the table {options.file} cannot be read: {error}; give a CSV file in UTF-8", error)
    if not found:
        _refuse(f"the table {options.file} has no rows; give a heading line and at least one result")
    return found


class _Reader:
    def __init__(self, options: TableOptions, space: SearchSpace, problem: Problem, headings: Sequence[str]) -> None:
        self.options = options
        self.space = space
        self.problem = problem
        self.headings = headings
        self.axes: dict[str, Axis] = {}
        self.by_label: dict[str, list[Candidate]] = {}
        if isinstance(space, BoxSpace):
            self.axes = {axis.name: axis for axis in space.axes()}
            needed = list(self.axes)
        elif isinstance(space, ProductSpace):
            self.axes = {axis.name: axis for axis in space.settings().axes()}
            self._list(space.materials())
            needed = [CANDIDATE, *self.axes]
        elif isinstance(space, FiniteSpace):
            self._list(space)
            needed = [CANDIDATE]
        else:
            _refuse("past results need a space that is a box or a list of candidates")
        names = [*needed, *problem.properties]
        for name in options.mapping:
            if name not in names:
                _refuse(f"the mapping names {name!r}, which is no parameter or property; {nearest(name, names)}")
        self.columns = {name: self._column(name) for name in names if name in options.mapping or name in headings}
        lacking = [name for name in needed if name not in self.columns]
        if lacking:
            _refuse(
                f"{options.file}: no column is mapped to {lacking[0]!r}; add mapping: {{{lacking[0]}: HEADING}}"
                f" ({nearest(lacking[0], headings)})"
            )
        if not any(o.property in self.columns for o in problem.objectives):
            wanted = problem.objectives[0].property
            _refuse(
                f"{options.file}: no column is mapped to an objective; add mapping: {{{wanted}: HEADING}}"
                f" ({nearest(wanted, headings)})"
            )

    def _list(self, space: FiniteSpace) -> None:
        for candidate in space.candidates():
            self.by_label.setdefault(candidate.label, []).append(candidate)
            self.by_label[candidate.id] = [candidate]

    def read(self, lines: Sequence[tuple[int, Mapping[str, str]]]) -> PastResults:
        """Read every line."""
        rows, left_out = [], []
        for number, cells in lines:
            where = f"{self.options.file}:{number}"
            values = self._values(cells, where)
            if not values:
                left_out.append(f"{where}: nothing is measured")
                continue
            try:
                candidate = self._candidate(cells, where)
            except SpaceError as error:
                if self.options.outside == "refuse":
                    _refuse(f"{where}: {error}; widen the space, or leave such rows out with 'outside: skip'", error)
                left_out.append(f"{where}: {error}")
                continue
            rows.append(PastResult(candidate, values))
        if not rows:
            _refuse(f"{self.options.file} has no usable row; the first reason: {left_out[0]}")
        return PastResults(tuple(rows), tuple(left_out))

    def _column(self, name: str) -> Column:
        given = self.options.mapping.get(name, name)
        column = Column(column=given) if isinstance(given, str) else given
        for heading in (column.column, column.std_error):
            if heading is not None and heading not in self.headings:
                _refuse(f"{self.options.file}:1: there is no column {heading!r}; {nearest(heading, self.headings)}")
        if column.unit is not None:
            check_unit(column.unit)
            convert(1.0, column.unit, self._unit(name))
        return column

    def _unit(self, name: str) -> str:
        return self.axes[name].unit if name in self.axes else self.problem.units.get(name, "dimensionless")

    def _candidate(self, cells: Mapping[str, str], where: str) -> Candidate:
        values = {name: self._setting(axis, cells, where) for name, axis in self.axes.items()}
        if isinstance(self.space, BoxSpace):
            return self.space.make(values)
        found = self._listed(cells, where)
        return (
            self.space.join(found, self.space.settings().make(values))
            if isinstance(self.space, ProductSpace)
            else found
        )

    def _listed(self, cells: Mapping[str, str], where: str) -> Candidate:
        name = cells[self.columns[CANDIDATE].column].strip()
        found = self.by_label.get(name, [])
        if len(found) > 1:
            _refuse(f"{where}: {len(found)} candidates are called {name!r}; write the id instead of the label")
        if not found:
            message = f"the space has no candidate {name!r}"
            raise SpaceError(message)
        return found[0]

    def _setting(self, axis: Axis, cells: Mapping[str, str], where: str) -> Value:
        column = self.columns[axis.name]
        text = cells[column.column].strip()
        if axis.kind == "categorical":
            return text
        value = _number(text, f"{where}: {column.column}")
        if value is None:
            _refuse(f"{where}: {column.column} is empty; a parameter must be given")
        value = convert(value, column.unit or axis.unit, axis.unit)
        return round(value) if axis.kind == "integer" and value == round(value) else value

    def _values(self, cells: Mapping[str, str], where: str) -> dict[str, tuple[float, float | None]]:
        found = {}
        for name in self.problem.properties:
            column = self.columns.get(name)
            if column is None:
                continue
            value = _number(cells[column.column], f"{where}: {column.column}")
            if value is None:
                continue
            unit, to = column.unit or self._unit(name), self._unit(name)
            error = None
            if column.std_error is not None:
                error = _number(cells[column.std_error], f"{where}: {column.std_error}")
                if error is not None and error < 0:
                    _refuse(f"{where}: {column.std_error} is {error:g}; a standard error is not negative")
            found[name] = (convert(value, unit, to), None if error is None else error * abs(scale(unit, to)))
        return found


def _number(text: str, where: str) -> float | None:
    """Read a cell; None where it is empty."""
    text = text.strip()
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        comma = (
            "; write a decimal point, not a comma" if "," in text else "; leave the cell empty if nothing was measured"
        )
        _refuse(f"{where} is {text!r}; a number was expected{comma}")
    if not math.isfinite(value):
        _refuse(f"{where} is {text!r}; a finite number was expected; leave the cell empty if nothing was measured")
    return value


def _refuse(message: str, cause: BaseException | None = None) -> NoReturn:
    raise MatloopError(message) from cause
