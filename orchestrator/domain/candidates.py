"""What can be measured: quantities, crystals, candidates."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from orchestrator.domain.canonical import JsonObject, Value, canonical_json, frozen, sha256


@dataclass(frozen=True)
class Quantity:
    """A number with its unit."""

    value: float
    unit: str

    def __str__(self) -> str:
        """Write the number and its unit."""
        return f"{self.value:g} {self.unit}".strip()


@dataclass(frozen=True)
class Crystal:
    """A periodic structure as plain numbers; `materials.structures` converts from and to pymatgen.

    Args:
        lattice: 3 row vectors in angstrom.
        species: one element symbol a site.
        frac_coords: n × 3 fractional coordinates.
    """

    lattice: tuple[tuple[float, float, float], ...]
    species: tuple[str, ...]
    frac_coords: tuple[tuple[float, float, float], ...]

    def to_json(self) -> JsonObject:
        """Return the structure as JSON content."""
        return {
            "lattice": [list(row) for row in self.lattice],
            "species": list(self.species),
            "frac_coords": [list(row) for row in self.frac_coords],
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Crystal:
        """Build the structure from `to_json` content."""
        return cls(
            lattice=tuple((float(a), float(b), float(c)) for a, b, c in content["lattice"]),
            species=tuple(str(symbol) for symbol in content["species"]),
            frac_coords=tuple((float(a), float(b), float(c)) for a, b, c in content["frac_coords"]),
        )


@dataclass(frozen=True)
class Candidate:
    """One point not yet measured. Build it with `Candidate.make`, which computes the id.

    Args:
        id: SHA-256 of the canonical content, 64 hexadecimal digits.
        label: what people call it, such as a formula; not part of the identity.
        parameters: process parameters, rounded to the space's resolution.
        composition: reduced formula where the candidate is a composition.
        crystal: structure where the candidate is one.
        attributes: what is known beforehand (source id, tolerance factor …); not part of the identity.
    """

    id: str
    label: str
    parameters: Mapping[str, Value] = field(default_factory=frozen)
    composition: str | None = None
    crystal: Crystal | None = None
    attributes: Mapping[str, Any] = field(default_factory=frozen)

    @classmethod
    def make(
        cls,
        *,
        label: str,
        parameters: Mapping[str, Value] | None = None,
        composition: str | None = None,
        crystal: Crystal | None = None,
        crystal_key: str | None = None,
        attributes: Mapping[str, Any] | None = None,
    ) -> Candidate:
        """Build a candidate and its id.

        Args:
            label: what people call it.
            parameters: process parameters, already rounded to the space's resolution.
            composition: reduced formula.
            crystal: structure.
            crystal_key: identity of the structure from `materials.structures.crystal_key`; needed with `crystal`.
            attributes: what is known beforehand.

        Returns:
            The candidate.

        Raises:
            ValueError: nothing identifies the candidate, a number is not finite, or `crystal_key` is missing.
        """
        if crystal is not None and crystal_key is None:
            message = "a candidate with a crystal needs its crystal_key"
            raise ValueError(message)
        content = {
            "parameters": {key: _number_or_text(value) for key, value in (parameters or {}).items()},
            "composition": composition,
            "crystal": crystal_key,
        }
        if not (parameters or composition or crystal_key):
            message = f"candidate {label!r} has no parameters, composition or crystal"
            raise ValueError(message)
        return cls(
            id=sha256(canonical_json(content)),
            label=label,
            parameters=frozen(parameters),
            composition=composition,
            crystal=crystal,
            attributes=frozen(attributes),
        )

    def to_json(self) -> JsonObject:
        """Return the candidate as JSON content."""
        return {
            "id": self.id,
            "label": self.label,
            "parameters": dict(self.parameters),
            "composition": self.composition,
            "crystal": self.crystal.to_json() if self.crystal else None,
            "attributes": dict(self.attributes),
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Candidate:
        """Build the candidate from `to_json` content."""
        return cls(
            id=content["id"],
            label=content["label"],
            parameters=frozen(content["parameters"]),
            composition=content["composition"],
            crystal=Crystal.from_json(content["crystal"]) if content["crystal"] else None,
            attributes=frozen(content["attributes"]),
        )


def _number_or_text(value: Value) -> Value:
    if isinstance(value, str):
        return value
    if not math.isfinite(value):
        message = f"a parameter of a candidate must be finite, not {value}"
        raise ValueError(message)
    return float(value)  # 300 and 300.0 are one setting
