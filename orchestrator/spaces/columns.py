"""A columnar pool: up to tens of millions of parameter sets and compositions, kept as arrays instead of objects.

The table is read once; what was read lies in the user's cache folder as one NPY file a column, memory-mapped from
`memory_map_above` rows on. Candidates are made when they are looked at. Rows are sorted by id, so that the order of the
file means nothing and a candidate is found by bisection.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, Self, overload

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from orchestrator.domain import Candidate, Json, JsonObject, Value, canonical_json, frozen
from orchestrator.errors import MaterialError, SpaceError
from orchestrator.protocols import InputPath
from orchestrator.protocols import Options as BaseOptions
from orchestrator.spaces import cache
from orchestrator.spaces.columnar_table import Layout, Rows, check_readable, read_rows
from orchestrator.spaces.featured import featured
from orchestrator.spaces.pool import Column, plain, units_of

Positions = Sequence[int] | npt.NDArray[np.intp]
BYTES_A_SCORE = 8
"""Mean and standard deviation of one property of one candidate, in single precision."""
CHOOSING_S = 2e-6
"""Seconds a candidate to choose a batch from scores that are at hand (tests/benchmarks/pool_scaling.py)."""


class Columns:
    """Candidates of parameters and compositions from a table of any size."""

    class Options(BaseOptions):
        """Which table, and how to read it."""

        path: InputPath = Field(description="CSV, Parquet, NPZ with an array a column, or NPY with named fields")
        composition_column: str | None = Field(default=None, description="chemical formulas")
        parameters: dict[Annotated[str, Field(pattern=r"^[A-Za-z]\w{0,63}$")], Column] = Field(default_factory=dict)
        id_column: str | None = Field(default=None, description="kept as the attribute source_id")
        label_column: str | None = Field(default=None, description="what people call the candidate")
        keep: tuple[str, ...] = Field(default=(), description="columns that candidates carry as attributes")
        duplicates: Literal["refuse", "drop"] = "refuse"
        cache: bool = Field(default=True, description="keep the arrays in the user's cache folder")
        memory_map_above: Annotated[int, Field(ge=0)] = Field(
            default=200_000, description="rows above which arrays stay on disk and are memory-mapped"
        )
        watch: bool = Field(default=False, description="read the table again when it has grown, between decisions")

        @model_validator(mode="after")
        def _something(self) -> Self:
            if not self.parameters and self.composition_column is None:
                message = "name what candidates are: 'parameters', 'composition_column', or both"
                raise ValueError(message)
            return self

    def __init__(self, options: Options) -> None:
        self._options = options
        self._features: tuple[npt.NDArray[np.float32], tuple[str, ...]] | None = None
        self._ranges: Mapping[str, tuple[float, float] | frozenset[str]] | None = None
        self._read()

    # --- as any list of candidates ------------------------------------------------------------------------------------

    def offers(self) -> frozenset[Literal["structure", "composition", "parameters"]]:
        """Name what its candidates carry."""
        composition: frozenset[Literal["composition"]] = frozenset(
            ["composition"] if self._rows.composition is not None else []
        )
        parameters: frozenset[Literal["parameters"]] = frozenset(["parameters"] if self._options.parameters else [])
        return composition | parameters

    def candidates(self) -> Sequence[Candidate]:
        """Return every candidate in the order of their ids; each is made when it is looked at."""
        return Lazy(self)

    def get(self, candidate_id: str) -> Candidate:
        """Return a candidate by id.

        Raises:
            KeyError: there is none.
        """
        try:
            wanted = np.frombuffer(bytes.fromhex(candidate_id), dtype="S32")
        except ValueError:
            raise KeyError(candidate_id) from None
        ids = self._rows.ids
        place = int(np.searchsorted(ids, wanted[0])) if len(wanted) == 1 else len(ids)
        if place == len(ids) or ids[place] != wanted[0]:
            raise KeyError(candidate_id)
        return self.take([place])[0]

    def sample(self, n: int, seed: int) -> list[Candidate]:
        """Draw up to n different candidates at random."""
        rng = np.random.default_rng(seed)
        return self.take(rng.choice(self.count(), size=min(n, self.count()), replace=False))

    def parameter_units(self) -> Mapping[str, str]:
        """Return the unit of each numeric parameter that is given one."""
        return units_of(self._options.parameters)

    def summary(self) -> JsonObject:
        """Describe the space: size, hash, and what holding and choosing from it costs."""
        return {
            "kind": "columns",
            "candidates": self.count(),
            "sha256": self._sha256,
            **self._facts,
            "estimate": {
                "memory_mb": round(self._bytes() / 1e6, 1),
                "memory_mapped": self.count() > self._options.memory_map_above,
                "scores_mb_a_property": round(self.count() * BYTES_A_SCORE / 1e6, 1),
                "choosing_s": round(self.count() * CHOOSING_S, 2),
            },
        }

    # --- as arrays ----------------------------------------------------------------------------------------------------

    def count(self) -> int:
        """Return the number of candidates."""
        return len(self._rows.ids)

    def ids(self) -> npt.NDArray[np.bytes_]:
        """Return the ids as 32 bytes each, sorted: n."""
        return self._rows.ids

    def take(self, positions: Positions) -> list[Candidate]:
        """Make the candidates at given positions in the order of ids."""
        rows, options = self._rows.at(np.asarray(positions, dtype=np.intp)), self._options
        columns: dict[str, list[Value]] = {name: array.tolist() for name, array in rows.numbers.items()}
        columns |= {name: _decoded(array) for name, array in rows.names.items()}
        names = list(options.parameters)
        parameters = [
            dict(zip(names, row, strict=True)) for row in zip(*(columns[name] for name in names), strict=True)
        ]
        formulas = [None] * len(rows.ids) if rows.composition is None else _decoded(rows.composition)
        texts = {name: _decoded(array) for name, array in rows.texts.items()}
        made = []
        for i, identity in enumerate(rows.ids.tolist()):
            own = parameters[i] if names else {}
            formula = formulas[i]
            attributes: dict[str, Any] = {name: plain(texts[name][i]) for name in options.keep}
            source = texts[options.id_column][i] if options.id_column else f"{options.path.name}: row {rows.row[i]}"
            attributes["source_id"] = source
            shown = ", ".join(f"{name}={value}" for name, value in own.items())
            label = texts[options.label_column][i] if options.label_column else ""
            made.append(
                Candidate(
                    id=identity.ljust(32, b"\0").hex(),
                    label=label or " ".join(filter(None, (formula, shown))),
                    parameters=frozen(own),
                    composition=formula,
                    attributes=frozen(attributes),
                )
            )
        return made

    def ranges(self) -> Mapping[str, tuple[float, float] | frozenset[str]]:
        """Return the smallest and the largest value, or the names, of each parameter."""
        if self._ranges is None:
            rows = self._rows
            found: dict[str, tuple[float, float] | frozenset[str]] = {
                name: (float(array.min()), float(array.max())) for name, array in rows.numbers.items()
            }
            found |= {name: frozenset(_decoded(np.unique(array))) for name, array in rows.names.items()}
            self._ranges = {name: found[name] for name in self._options.parameters}
        return self._ranges

    def features(self) -> tuple[npt.NDArray[np.float32], tuple[str, ...]]:
        """Return plain numbers of every candidate, n × d, and what the columns are.

        Numeric parameters with their raw values, one column for each name of the others, then fractions of elements.
        """
        if self._features is None:
            self._features = featured(self._rows, f"{self._key}-features" if self._mapped() else None)
        return self._features

    # --- growing ------------------------------------------------------------------------------------------------------

    def refresh(self) -> bool:
        """Read the table again if it is watched and its content changed; see `GrowingSpace`."""
        if not self._options.watch or cache.signature(self._options.path) == self._signature:
            return False
        before = self._sha256
        self._read()
        return self._sha256 != before

    def growing(self) -> bool:
        """Say whether it is watched."""
        return self._options.watch

    # --- inside -------------------------------------------------------------------------------------------------------

    def _read(self) -> None:
        options = self._options
        try:
            check_readable(options.path)
            self._signature = cache.signature(options.path)
            chosen = options.model_dump(mode="json", exclude={"path", "cache", "memory_map_above", "watch"})
            self._key = cache.key(options.path, canonical_json({"columns": chosen}))
            stored = cache.read_arrays(self._key, memory_map_above=options.memory_map_above) if options.cache else None
            if stored is None:
                rows, dropped = read_rows(options.path, self._layout(), options.duplicates)
                facts: dict[str, Json] = {"left_out_by_duplicates": dropped}
                if options.cache:
                    facts["cache"] = cache.write_arrays(self._key, rows.arrays(), facts)
                    stored = cache.read_arrays(self._key, memory_map_above=options.memory_map_above)
                stored = (stored or (rows.arrays(), facts))[0], facts
        except MaterialError as error:
            message = f"space columns: {error}"
            raise SpaceError(message) from error
        self._rows = Rows.of(stored[0])
        self._sha256 = cache.hash_of_array(self._rows.ids)
        self._facts = {"file": options.path.name, "file_sha256": cache.hash_of(options.path), **stored[1]}
        self._features = self._ranges = None

    def _layout(self) -> Layout:
        options = self._options
        given = {name: (column.column or name, column) for name, column in options.parameters.items()}
        texts = [options.id_column, options.label_column, *options.keep]
        return Layout(
            numbers={name: (place, column.resolution) for name, (place, column) in given.items() if not column.text},
            names={name: place for name, (place, column) in given.items() if column.text},
            composition=options.composition_column,
            texts=tuple(dict.fromkeys(text for text in texts if text is not None)),
        )

    def _mapped(self) -> bool:
        return self._options.cache and self.count() > self._options.memory_map_above

    def _bytes(self) -> int:
        return sum(array.nbytes for array in self._rows.arrays().values())


class Lazy(Sequence[Candidate]):
    """Every candidate of a columnar pool, made when it is looked at.

    Args:
        space: the pool.
    """

    def __init__(self, space: Columns) -> None:
        self._space = space

    def __len__(self) -> int:
        return self._space.count()

    @overload
    def __getitem__(self, place: int) -> Candidate: ...

    @overload
    def __getitem__(self, place: slice) -> list[Candidate]: ...

    def __getitem__(self, place: int | slice) -> Candidate | list[Candidate]:
        if isinstance(place, slice):
            return self._space.take(np.arange(len(self))[place])
        if not -len(self) <= place < len(self):
            message = f"position {place} of a pool of {len(self)} candidates"
            raise IndexError(message)
        return self._space.take([place % len(self)])[0]

    def __iter__(self) -> Iterator[Candidate]:
        for start in range(0, len(self), cache.CHUNK):
            yield from self._space.take(np.arange(start, min(start + cache.CHUNK, len(self))))


def _decoded(array: npt.NDArray[np.bytes_]) -> list[Any]:
    return [cell.decode() for cell in array.tolist()]
