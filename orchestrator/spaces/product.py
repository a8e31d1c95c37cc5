"""Materials under process parameters: which compound, at which temperature.

The first factor is a listed space of materials, the second a box. Where the box has few settings the product is a list,
made when it is first looked at; else it is searched (`acquisition.product_search`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import product as pairs
from typing import Any, Literal, Self, cast

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from orchestrator.domain import Candidate, JsonObject, Value, canonical_json, sha256
from orchestrator.errors import SpaceError
from orchestrator.materials.structures import crystal_key
from orchestrator.protocols import Axis, BoxSpace, FiniteSpace, GrowingSpace
from orchestrator.protocols import Options as BaseOptions
from orchestrator.spaces.box import Box
from orchestrator.spaces.columns import Columns
from orchestrator.spaces.pool import Pool
from orchestrator.spaces.prototypes import Prototypes

LISTED = 20_000
"""Combinations up to which a product is listed."""
ROUNDS = 8
"""Times that `sample` pairs anew before it is content with fewer."""
MATERIAL = "material"
"""Attribute of a candidate that holds the id of its material."""
KINDS: Mapping[str, Any] = {"pool": Pool, "prototypes": Prototypes, "columns": Columns}


class Factor(BaseModel):
    """One of the two spaces, written as a space of its own."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    use: str
    options: Any = Field(default_factory=dict, validate_default=True)

    @classmethod
    def _checked(cls, kinds: Mapping[str, Any], use: str | None, options: Any, info: ValidationInfo) -> Any:
        if use is None or use not in kinds:
            message = f"{use!r} cannot be a factor here; write one of {', '.join(sorted(kinds))}"
            raise ValueError(message)
        try:
            return kinds[use].Options.model_validate(options, context=info.context)
        except ValidationError as error:
            first = error.errors()[0]
            message = f"option {'.'.join(map(str, first['loc']))!r} of {use}: {first['msg']}"
            raise ValueError(message) from error


class Materials(Factor):
    """What is made: `pool`, `prototypes` or `columns`."""

    @field_validator("options", mode="after")
    @classmethod
    def _options_of_it(cls, options: Any, info: ValidationInfo) -> Any:
        return cls._checked(KINDS, info.data.get("use"), options, info)


class Settings(Factor):
    """Under which parameters: a `box`."""

    @field_validator("options", mode="after")
    @classmethod
    def _options_of_it(cls, options: Any, info: ValidationInfo) -> Any:
        return cls._checked({"box": Box}, info.data.get("use"), options, info)


class Product:
    """Every material under every setting; a list where there are few combinations."""

    class Options(BaseOptions):
        """The two factors, each as a space is written."""

        of: Materials = Field(description="materials: {use: pool | prototypes | columns, options: {…}}")
        under: Settings = Field(alias="with", description="parameters: {use: box, options: {…}}")

    _materials: FiniteSpace
    _settings: BoxSpace

    def __new__(cls, options: Options) -> Self:
        """Build the factors, and with them decide whether the product is a list: then it is another class."""
        materials: FiniteSpace = KINDS[options.of.use](options.of.options)
        settings = Box(options.under.options)
        if isinstance(materials, GrowingSpace) and materials.growing():
            message = "the materials of a product cannot grow while it is searched: take 'watch' out"
            raise SpaceError(message)
        _refuse_clashes(materials, settings.axes())
        few = _listed(settings, LISTED // max(len(materials.candidates()), 1))
        made = super().__new__(cls if few is None else _listed_class(cls))
        made._materials, made._settings = materials, settings
        made._keys = {}
        if few is not None:
            made._few = few
        return cast("Self", made)

    def __init__(self, options: Options) -> None:
        self._options = options
        self._keys: dict[str, str]
        self._few: Sequence[Candidate]

    def offers(self) -> frozenset[Literal["structure", "composition", "parameters"]]:
        """Name what its candidates carry: what the materials do, and parameters."""
        return self._materials.offers() | {"parameters"}

    def materials(self) -> FiniteSpace:
        """Return the listed space of what is to be made."""
        return self._materials

    def settings(self) -> BoxSpace:
        """Return the box of parameters."""
        return self._settings

    def join(self, material: Candidate, settings: Candidate) -> Candidate:
        """Return the material under the settings as one candidate."""
        key = None
        if material.crystal is not None:
            key = self._keys.get(material.id)
            if key is None:
                key = self._keys[material.id] = crystal_key(material.crystal)
        return Candidate.make(
            label=f"{material.label}, {settings.label}",
            parameters={**material.parameters, **settings.parameters},
            composition=material.composition,
            crystal=material.crystal,
            crystal_key=key,
            attributes={**material.attributes, MATERIAL: material.id},
        )

    def split(self, candidate: Candidate) -> tuple[Candidate, Candidate]:
        """Return the material and the settings of a candidate.

        Raises:
            KeyError: it is none of this space.
        """
        material = self._materials.get(str(candidate.attributes[MATERIAL]))
        values = {axis.name: candidate.parameters[axis.name] for axis in self._settings.axes()}
        try:
            return material, self._settings.make(values)
        except SpaceError as error:
            raise KeyError(candidate.id) from error

    def sample(self, n: int, seed: int) -> list[Candidate]:
        """Draw up to n different candidates: every material, and every setting, about equally often."""
        rng = np.random.default_rng(seed)
        materials = self._materials.sample(n, seed)
        settings = self._settings.sample(n, seed)
        found: dict[str, Candidate] = {}
        for _ in range(ROUNDS):
            which = [rng.permutation(np.resize(np.arange(len(factor)), n)) for factor in (materials, settings)]
            for i, j in zip(*which, strict=True):
                candidate = self.join(materials[int(i)], settings[int(j)])
                found.setdefault(candidate.id, candidate)
                if len(found) == n:
                    return list(found.values())
        return list(found.values())

    def summary(self) -> JsonObject:
        """Describe the space: both factors, and a hash."""
        of, under = self._materials.summary(), self._settings.summary()
        return {
            "kind": "product",
            "of": of,
            "with": under,
            "sha256": sha256(canonical_json([of["sha256"], under["sha256"]])),
        }


class ListedProduct(Product):
    """A product of so few combinations that it is a list."""

    def candidates(self) -> Sequence[Candidate]:
        """Return every candidate, material by material."""
        self._by_id()
        return self._made_in_order

    def get(self, candidate_id: str) -> Candidate:
        """Return a candidate by id.

        Raises:
            KeyError: there is none.
        """
        return self._by_id()[candidate_id]

    def sample(self, n: int, seed: int) -> list[Candidate]:
        """Draw up to n different candidates at random."""
        listed = self.candidates()
        return [listed[i] for i in np.random.default_rng(seed).permutation(len(listed))[:n]]

    def summary(self) -> JsonObject:
        """Describe the space: both factors, a hash, and the number of combinations."""
        return {**super().summary(), "candidates": len(self.candidates())}

    def _by_id(self) -> Mapping[str, Candidate]:
        if not hasattr(self, "_made"):
            made = [self.join(m, s) for m, s in pairs(self._materials.candidates(), self._few)]
            self._made = {candidate.id: candidate for candidate in made}
            self._made_in_order = tuple(self._made.values())
        return self._made


def _listed_class(cls: type[Product]) -> Any:
    return ListedProduct if cls is Product else cls


def _refuse_clashes(materials: FiniteSpace, axes: Sequence[Axis]) -> None:
    """Refuse a parameter that both factors have."""
    named = set(materials.candidates()[0].parameters)
    if both := sorted(named & {axis.name for axis in axes}):
        message = (
            f"the parameter {both[0]!r} stands in both factors of the product; a material that brings its own value"
            " needs no axis of that name: rename one of them"
        )
        raise SpaceError(message)


def _listed(box: BoxSpace, most: int) -> Sequence[Candidate] | None:
    """Return every point of a box; None where there are more than `most`, or one cannot list them."""
    steps = [_values(axis) for axis in box.axes()]
    if any(values is None for values in steps) or math.prod(len(values or ()) for values in steps) > most:
        return None
    names = [axis.name for axis in box.axes()]
    found: dict[str, Candidate] = {}
    for point in pairs(*(values or () for values in steps)):
        try:
            candidate = box.make(dict(zip(names, point, strict=True)))
        except SpaceError:
            continue  # outside a constraint
        found.setdefault(candidate.id, candidate)
    return tuple(found.values())


def _values(axis: Axis) -> Sequence[Value] | None:
    """Return the values of an axis; None where there is no end of them."""
    if axis.kind == "categorical":
        return axis.choices
    if axis.resolution is None:
        return None
    count = math.floor((axis.high - axis.low) / axis.resolution + 1e-9) + 1
    return [axis.low + i * axis.resolution for i in range(min(count, LISTED + 1))]
