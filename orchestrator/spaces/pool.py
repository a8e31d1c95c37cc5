"""A pool: candidates from a file of structures, compositions or parameters."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pymatgen.core import Composition, Element

from orchestrator.domain import Candidate, Json, Value, canonical_json
from orchestrator.errors import MaterialError, SpaceError
from orchestrator.materials.files import Entry, Kind, entries, kind_of
from orchestrator.materials.structures import crystal_key, formula
from orchestrator.protocols import InputPath
from orchestrator.protocols import Options as BaseOptions
from orchestrator.spaces import cache
from orchestrator.spaces.listed import LEFT_OUT, Listed
from orchestrator.units import check_unit

SHOWN = 3
"""How many offenders an error names."""
DIGITS = 12


class Column(BaseModel):
    """Where a parameter's values stand, and what they mean."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    column: str | None = Field(default=None, description="the parameter's name where not given")
    unit: Annotated[str, AfterValidator(check_unit)] = "dimensionless"
    resolution: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="values are rounded to its multiples"
    )
    text: bool = Field(default=False, description="the column holds names, not numbers")


class Filters(BaseModel):
    """What to leave out."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_atoms: Annotated[int, Field(ge=1)] | None = Field(default=None, description="in the cell as given")
    elements: tuple[str, ...] | None = Field(default=None, description="only materials made of these")
    without: tuple[str, ...] = Field(default=(), description="no material that holds one of these elements")

    @model_validator(mode="after")
    def _elements(self) -> Self:
        for symbol in (*(self.elements or ()), *self.without):
            if not Element.is_valid_symbol(symbol):
                message = f"there is no element {symbol!r}"
                raise ValueError(message)
        return self


class Pool(Listed):
    """Candidates from a file. Structures are found once, then read from a cache in the user's cache folder."""

    class Options(BaseOptions):
        """Which file, and how to read it."""

        path: InputPath
        kind: Literal["auto"] | Kind = Field(default="auto", description="by the suffix; a folder is one of CIFs")
        structure_column: str | None = Field(
            default=None,
            description="of a table: CIF text or JSON; 'cif' where there is such a column and no other use",
        )
        composition_column: str | None = Field(default=None, description="of a table: chemical formulas")
        parameters: dict[Annotated[str, Field(pattern=r"^[A-Za-z]\w{0,63}$")], Column] = Field(default_factory=dict)
        id_column: str | None = Field(default=None, description="kept as the attribute source_id")
        label_column: str | None = Field(default=None, description="what people call the candidate; else its formula")
        keep: tuple[str, ...] = Field(default=(), description="columns that candidates carry as attributes")
        filters: Filters = Filters()
        duplicates: Literal["refuse", "drop"] = "refuse"
        unreadable: Literal["refuse", "skip"] = "refuse"
        cache: bool = Field(default=True, description="keep what was read of structures in the user's cache folder")
        watch: bool = Field(default=False, description="read the file or folder again when it grew, between decisions")

        @model_validator(mode="after")
        def _one_meaning(self) -> Self:
            if self.structure_column and self.composition_column:
                message = "give 'structure_column' or 'composition_column': a structure has its composition already"
                raise ValueError(message)
            return self

    def __init__(self, options: Options) -> None:
        self._options = options
        self._seen = cache.signature(options.path) if options.watch else ()
        super().__init__("pool", *self._read())

    def parameter_units(self) -> Mapping[str, str]:
        """Return the unit of each numeric parameter that is given one."""
        return units_of(self._options.parameters)

    def growing(self) -> bool:
        """Say whether it is watched."""
        return self._options.watch

    def refresh(self) -> bool:
        """Read the file or folder again if it is watched and was written; see `GrowingSpace`."""
        if not self._options.watch or cache.signature(self._options.path) == self._seen:
            return False
        seen = cache.signature(self._options.path)
        before = {candidate.id for candidate in self._candidates}
        self._hold(*self._read())
        self._seen = seen
        return {candidate.id for candidate in self._candidates} != before

    def _read(self) -> tuple[Sequence[Candidate], Mapping[str, Json]]:
        """Read the candidates and what was left out, from the cache where they are there."""
        options = self._options
        try:
            told = kind_of(options.path, options.kind)
            chosen = options.model_dump(mode="json", exclude={"path", "cache", "watch"})
            key = cache.key(options.path, canonical_json(chosen))
            stored = cache.read(key) if options.cache else None
            if stored is None:
                found, facts = _Reader(options, told).read()
                if options.cache and any(candidate.crystal for candidate in found):
                    facts["cache"] = cache.write(key, found, facts)
            else:
                found, facts = stored
        except MaterialError as error:
            message = f"space pool: {error}"
            raise SpaceError(message) from error
        return found, {"file": options.path.name, "file_sha256": cache.hash_of(options.path), **facts}


def units_of(parameters: Mapping[str, Column]) -> dict[str, str]:
    """Return the units of numeric columns that are given one; the others' are the instrument's."""
    given = {name: column for name, column in parameters.items() if "unit" in column.model_fields_set}
    return {name: column.unit for name, column in given.items() if not column.text}


class _Reader:
    """Reads the entries of a file into candidates, and counts what is left out."""

    def __init__(self, options: Pool.Options, kind: Kind) -> None:
        self._options = options
        self._kind = kind
        self._left_out = dict.fromkeys(("unreadable", "max_atoms", "elements", "without", "duplicates"), 0)
        self._unreadable: list[str] = []
        self._checked = False

    def read(self) -> tuple[list[Candidate], dict[str, Json]]:
        found: dict[str, tuple[str, Candidate]] = {}
        twice: list[str] = []
        for entry in entries(self._options.path, self._kind, self._structure_column()):
            candidate = self._candidate(entry)
            if candidate is None:
                continue
            if candidate.id in found:
                self._left_out["duplicates"] += 1
                twice.append(f"{entry.name} = {found[candidate.id][0]} ({candidate.label})")
            else:
                found[candidate.id] = (entry.name, candidate)
        if twice and self._options.duplicates == "refuse":
            message = (
                f"{len(twice)} entries of {self._options.path.name} are the same candidate as an earlier one:"
                f" {_some(twice)}; remove them, name columns that tell them apart, or set 'duplicates: drop'"
            )
            raise SpaceError(message)
        facts: dict[str, Json] = {LEFT_OUT + name: count for name, count in self._left_out.items()}
        facts["unreadable"] = list(self._unreadable)
        return [candidate for _, candidate in found.values()], facts

    def _structure_column(self) -> str | None:
        o = self._options
        if self._kind != "table" or o.structure_column or o.composition_column or o.parameters:
            return o.structure_column
        return "cif"

    def _candidate(self, entry: Entry) -> Candidate | None:
        """Return the candidate of an entry; None where a filter, or its being unreadable, leaves it out."""
        o = self._options
        try:
            self._check_columns(entry)
            crystal = entry.read() if entry.read else None
            parameters = {name: _parameter(entry, name, column) for name, column in o.parameters.items()}
            composition = formula(crystal) if crystal else self._composition(entry)
        except MaterialError as error:
            if o.unreadable == "refuse":
                message = f"{error} (or set 'unreadable: skip' to go on without it)"
                raise MaterialError(message) from error
            self._left_out["unreadable"] += 1
            self._unreadable.append(str(error))
            return None
        atoms = len(crystal.species) if crystal else 0
        if self._filtered(atoms, composition):
            return None
        attributes = {name: plain(entry.facts[name]) for name in o.keep}
        attributes["source_id"] = str(entry.facts[o.id_column]) if o.id_column else entry.name
        shown = ", ".join(f"{name}={value}" for name, value in parameters.items())
        label = str(entry.facts[o.label_column]) if o.label_column else " ".join(filter(None, (composition, shown)))
        return Candidate.make(
            label=label,
            parameters=parameters,
            composition=composition,
            crystal=crystal,
            crystal_key=crystal_key(crystal) if crystal else None,
            attributes=attributes,
        )

    def _check_columns(self, entry: Entry) -> None:
        """Refuse names that the file does not have; the first entry tells."""
        if self._checked:
            return
        o = self._options
        asked = [o.composition_column, o.id_column, o.label_column, *o.keep]
        asked += [column.column or name for name, column in o.parameters.items()]
        for name in asked:
            if name is not None and name not in entry.facts:
                message = f"{o.path.name} has no column {name!r}; there are: {', '.join(entry.facts) or 'none'}"
                raise SpaceError(message)
        self._checked = True

    def _composition(self, entry: Entry) -> str | None:
        if self._options.composition_column is None:
            return None
        text = str(entry.facts[self._options.composition_column])
        try:
            composition = Composition(text)
        except (ValueError, TypeError):
            composition = Composition()
        if not composition.num_atoms or not composition.valid:
            message = f"{entry.name}: {text!r} is no chemical formula; write it like CsPbI3 or Ba0.5Sr0.5TiO3"
            raise MaterialError(message)
        return str(composition.get_integer_formula_and_factor()[0])  # 0.5 and 0.5 of two elements are one to one

    def _filtered(self, atoms: int, composition: str | None) -> bool:
        filters = self._options.filters
        present = set(Composition(composition).as_dict()) if composition else set()
        reason = ""
        if filters.max_atoms is not None and atoms > filters.max_atoms:
            reason = "max_atoms"
        elif filters.elements is not None and not present <= set(filters.elements):
            reason = "elements"
        elif present & set(filters.without):
            reason = "without"
        if reason:
            self._left_out[reason] += 1
        return bool(reason)


def _parameter(entry: Entry, name: str, column: Column) -> Value:
    text = str(entry.facts[column.column or name]).strip()
    if column.text and text:
        return text
    try:
        number = float(text) + 0.0  # -0.0 is 0.0
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        message = f"{entry.name}: {column.column or name!r} is {text!r}; a number in {column.unit} was expected"
        raise MaterialError(message)
    if column.resolution is None:
        return number
    return round(round(number / column.resolution) * column.resolution, DIGITS)


def plain(value: Any) -> Json:
    """Return a cell as a number where it is one."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return str(value)
    return number if math.isfinite(number) else str(value)


def _some(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return "; ".join(names[:SHOWN]) + more
