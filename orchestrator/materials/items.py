"""One entry of a pool: raw text that becomes a candidate where it is needed, perhaps in another process.

OPTIMADE's structures are those of Andersen et al., Scientific Data 8, 217 (2021), doi:10.1038/s41597-021-00974-z.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from pymatgen.core import Composition

from orchestrator.domain import Candidate, Crystal, Value, sha256
from orchestrator.errors import MaterialError
from orchestrator.materials.files import crystal_from_cif, crystal_from_json
from orchestrator.materials.structures import check, formula, from_pymatgen

Form = Literal["cif", "json", "xyz", "formula", "parameters", "candidate", "unreadable"]
STRUCTURES = ("cif", "structure", "structures", "final_structure")
NAMES = ("id", "material_id", "source_id", "_id", "key", "name", "label", "file")
"""Columns or keys by which structures and ids are found, in this order."""
FULL = 1e-3
"""An occupancy differs from one by rounding only up to here."""


@dataclass(frozen=True)
class Item:
    """One entry of a pool, not read yet.

    Args:
        number: place in the pool, from 1.
        id: the entry's own id where it has one, else its name.
        name: file and place, for messages.
        form: what `content` is.
        content: the text; a formula; parameters or a whole candidate as JSON; or why there is nothing to read.
        share: how much of the pool lies before it, 0 to 1; for progress only.
    """

    number: int
    id: str
    name: str
    form: Form
    content: str
    share: float = math.nan


def read(item: Item, *, most_atoms: int | None = None) -> Candidate:
    """Read the candidate of an item.

    Its id identifies the exact numbers, not the crystal: near equal descriptions of one crystal differ here.

    Args:
        item: from `stream`.
        most_atoms: a larger cell is refused.

    Returns:
        The candidate.

    Raises:
        MaterialError: it cannot be read; the message names the item.
    """
    if item.form == "unreadable":
        raise MaterialError(item.content)
    if item.form == "candidate":
        return Candidate.from_json(json.loads(item.content))
    if item.form == "parameters":
        return _parameters(item)
    if item.form == "formula":
        text = _formula(item.content, item.name)
        return Candidate.make(label=text, composition=text)
    readers: Mapping[str, Callable[[str, str], Crystal]] = {"cif": _cif, "json": _json, "xyz": _xyz}
    crystal = readers[item.form](item.content, item.name)
    if most_atoms is not None and len(crystal.species) > most_atoms:
        message = f"{item.name} has {len(crystal.species)} atoms in its cell; at most {most_atoms} are taken here"
        raise MaterialError(message)
    label = formula(crystal)
    numbers = np.array([*crystal.lattice, *crystal.frac_coords]).tobytes()
    key = sha256(" ".join(crystal.species).encode() + b"|" + numbers)
    return Candidate.make(label=label, composition=label, crystal=crystal, crystal_key=f"exact/{key}")


def _cif(text: str, name: str) -> Crystal:
    return crystal_from_cif(text, name)


def _json(text: str, name: str) -> Crystal:
    try:
        content = json.loads(text)
    except ValueError as error:
        message = f"{name} is no JSON: {error}"
        raise MaterialError(message) from error
    if isinstance(content, dict) and not _looks_like_a_structure(content):
        content = next((content[key] for key in (*STRUCTURES, "attributes") if content.get(key) is not None), content)
        if isinstance(content, str):  # a CIF or a JSON text inside a JSON document
            return _json(content, name) if content.lstrip().startswith("{") else crystal_from_cif(content, name)
    if not isinstance(content, dict):
        message = f"{name} is {str(content)[:40]!r}; a structure was expected: pymatgen's, OPTIMADE's or Matloop's own"
        raise MaterialError(message)
    if "cartesian_site_positions" in content:
        return check(_optimade(content, name), name)
    quick = _pymatgen(content)
    return check(quick, name) if quick is not None else crystal_from_json(content, name)


def _pymatgen(content: Mapping[str, Any]) -> Crystal | None:
    """Read pymatgen's dictionary of an ordered structure, ten times faster than pymatgen; None where it is another."""
    try:
        species = []
        for site in content["sites"]:
            (one,) = site["species"]
            if abs(one.get("occu", 1) - 1) > FULL:
                return None
            species.append(str(one["element"]))
        lattice = content["lattice"]["matrix"]
        coords = [site["abc"] for site in content["sites"]]
        return Crystal.from_json({"lattice": lattice, "species": species, "frac_coords": coords})
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def _optimade(content: Mapping[str, Any], name: str) -> Crystal:
    try:
        if content.get("nperiodic_dimensions", 3) != 3:  # noqa: PLR2004  a crystal
            message = f"{name} is periodic in {content['nperiodic_dimensions']} directions; crystals are needed"
            raise MaterialError(message)
        elements = {}
        for one in content.get("species") or ():
            symbols = one["chemical_symbols"]
            shares = one.get("concentration") or [1.0] * len(symbols)
            if len(symbols) != 1 or abs(shares[0] - 1) > FULL:
                message = (
                    f"{name} is disordered: the species {one['name']!r} is {symbols}; make ordered cells of it first"
                )
                raise MaterialError(message)
            elements[one["name"]] = symbols[0]
        lattice = np.array(content["lattice_vectors"], dtype=float)
        positions = np.array(content["cartesian_site_positions"], dtype=float).reshape(-1, 3)
        species = [elements.get(one, one) for one in content["species_at_sites"]]
        coords = positions @ np.linalg.inv(lattice)
    except (KeyError, TypeError, ValueError, np.linalg.LinAlgError) as error:
        message = f"{name} cannot be read as an OPTIMADE structure: {type(error).__name__}: {error}"
        raise MaterialError(message) from error
    return Crystal.from_json({"lattice": lattice.tolist(), "species": species, "frac_coords": coords.tolist()})


def _xyz(text: str, name: str) -> Crystal:
    from ase.io import read as read_ase  # noqa: PLC0415  0.5 s, and only these files need it
    from pymatgen.io.ase import AseAtomsAdaptor  # noqa: PLC0415  the same

    try:
        atoms = read_ase(io.StringIO(text), format="extxyz")
    except Exception as error:  # ase raises whatever the text makes it stumble over
        message = f"{name} cannot be read as extended XYZ: {type(error).__name__}: {error}"
        raise MaterialError(message) from error
    if not all(atoms.pbc) or abs(atoms.cell.volume) < FULL:
        message = f"{name} is not periodic in three directions; crystals are needed"
        raise MaterialError(message)
    return from_pymatgen(AseAtomsAdaptor.get_structure(atoms), name)


def _formula(text: str, name: str) -> str:
    try:
        composition = Composition(text)
    except (ValueError, TypeError, KeyError):
        composition = Composition()
    if not composition.num_atoms or not composition.valid:
        message = f"{name}: {text!r} is no chemical formula; write it like CsPbI3 or Ba0.5Sr0.5TiO3"
        raise MaterialError(message)
    return str(composition.get_integer_formula_and_factor()[0])


def _parameters(item: Item) -> Candidate:
    parameters: dict[str, Value] = {}
    for key, value in json.loads(item.content).items():
        text = str(value if value is not None else "").strip()
        try:
            number = float(text)
        except ValueError:
            parameters[key] = text
            continue
        if not math.isfinite(number):
            message = f"{item.name}: {key!r} is {text}; a finite number was expected"
            raise MaterialError(message)
        parameters[key] = number
    shown = ", ".join(f"{key}={value}" for key, value in parameters.items())
    if not parameters:
        message = f"{item.name} has no columns besides its id; name the parameters, a structure or a formula"
        raise MaterialError(message)
    return Candidate.make(label=shown, parameters=parameters)


def _looks_like_a_structure(content: Mapping[str, Any]) -> bool:
    return "lattice" in content or "cartesian_site_positions" in content


def own_id(entry: Any) -> str:
    """Return the id that a JSON entry or a row gives itself; empty where it gives none."""
    found = next((entry[key] for key in NAMES if key in entry), "") if isinstance(entry, dict) else ""
    return str(found)
