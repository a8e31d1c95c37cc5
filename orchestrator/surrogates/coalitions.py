"""What if some parts of a candidate were not known: the hypothetical candidates that explanations ask about.

A candidate is a set of parts: the elements on its sites (symmetry-equivalent sites are one part), the elements of its
formula, its process parameters. To leave a part out means to let something typical stand in for it, several times, so
that predictions can be averaged: elements of the same role (anions for anions, others for others) as often as they
occur among the labelled candidates, and settings as they occur there. The cell stays as it is.

A single stand-in would be simpler, and wrong: the commonest anion would then always contribute nothing.
"""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from typing import Any

import numpy as np

from orchestrator.domain import Candidate, Crystal, Value
from orchestrator.materials import ions
from orchestrator.networks.composition import element_table, fractions
from orchestrator.networks.crystals import content_key, to_structure

FEWEST, MOST = 4, 8
"""Stand-ins of each part; more cost more and move a contribution by little."""
MOST_ASKED = 64
"""Imagined candidates of one explanation: more parts get fewer stand-ins, so that a graph network answers in time."""
MOST_PARTS = 4
"""Parts for which every combination is asked; a crystal with more kinds of sites is divided by elements instead."""
SYMMETRY = 0.01
"""Å within which sites count as equivalent."""
ELECTRONEGATIVITY = 5
"""Column of `composition.element_table`."""


@dataclass(frozen=True)
class Part:
    """Something that a coalition has or leaves out.

    Args:
        name: element symbol, or the name of a parameter.
        sites: that the element sits on; empty in a formula and for a parameter.
        stand_ins: what stands there when the part is left out, one value a reference.
        parameter: whether it is a process parameter.
    """

    name: str
    stand_ins: tuple[Value, ...]
    sites: tuple[int, ...] = ()
    parameter: bool = False


class Background:
    """What is typical: the elements and settings of labelled candidates.

    Args:
        labelled: candidates with labels.
        references: how many stand-ins a part gets; None: `FEWEST` to `MOST`, by the number of parts.
        seed: fixes which stand-ins of different parts come together.
    """

    def __init__(self, labelled: Sequence[Candidate], *, references: int | None = None, seed: int = 0) -> None:
        self.references = references
        self._seed = seed
        self._pools = _element_pools(labelled)
        self._settings: dict[tuple[str, bool], list[Any]] = {}
        for candidate in labelled:
            for name, value in candidate.parameters.items():
                self._settings.setdefault((name, isinstance(value, str)), []).append(value)

    def divide(self, candidate: Candidate) -> tuple[Part, ...]:
        """Divide a candidate into parts: elements first, parameters after them, each sorted by name."""
        rng = np.random.default_rng(self._seed)
        groups: Sequence[tuple[str, tuple[int, ...]]] = ()
        if candidate.crystal is not None:
            groups = site_groups(candidate.crystal)
        elif candidate.composition is not None:
            groups = [(symbol, ()) for symbol in fractions(candidate)]
        affordable = MOST_ASKED >> (len(groups) + len(candidate.parameters))
        count = self.references or max(FEWEST, min(MOST, affordable))
        parts = [Part(symbol, self._elements(symbol, count, rng), sites) for symbol, sites in groups]
        for name, value in sorted(candidate.parameters.items()):
            seen = sorted(self._settings.get((name, isinstance(value, str)), [value]))
            parts.append(Part(name, _spread(seen, count, rng), parameter=True))
        return tuple(parts)

    def _elements(self, symbol: str, count: int, rng: np.random.Generator) -> tuple[Value, ...]:
        pool = self._pools[role(symbol)] or self._pools["any"] or [symbol]
        return _spread(pool, count, rng)


def without(candidate: Candidate, parts: Sequence[Part], kept: Sequence[bool], reference: int) -> Candidate:
    """Return the candidate with the stand-ins of one reference in the parts that are not kept.

    Args:
        candidate: as it was divided.
        parts: from `Background.divide`.
        kept: one a part.
        reference: which of the stand-ins.

    Returns:
        The candidate itself where everything is kept.
    """
    left_out = [part for part, stays in zip(parts, kept, strict=True) if not stays]
    if not left_out:
        return candidate
    parameters = dict(candidate.parameters)
    species = list(candidate.crystal.species) if candidate.crystal is not None else []
    new: dict[str, str] = {}
    for part in left_out:
        stand_in = part.stand_ins[reference]
        if part.parameter:
            parameters[part.name] = stand_in
        elif candidate.crystal is None:
            new[part.name] = str(stand_in)
        for site in part.sites:
            species[site] = str(stand_in)
    if candidate.crystal is not None:
        return imagined(candidate, parameters, crystal=replace(candidate.crystal, species=tuple(species)))
    if candidate.composition is not None:
        return imagined(candidate, parameters, amounts=exchanged(fractions(candidate), new))
    return imagined(candidate, parameters)


def imagined(
    candidate: Candidate,
    parameters: Mapping[str, Value],
    *,
    crystal: Crystal | None = None,
    amounts: Mapping[str, float] | None = None,
) -> Candidate:
    """Build a candidate that nobody asked to measure.

    Args:
        candidate: whose label it keeps.
        parameters: its settings.
        crystal: its structure.
        amounts: its composition.

    Returns:
        The candidate, with an id of its own.
    """
    return Candidate.make(
        label=candidate.label,
        parameters=parameters,
        composition="".join(f"{symbol}{amount:.6f}" for symbol, amount in amounts.items()) if amounts else None,
        crystal=crystal,
        crystal_key=f"imagined {content_key(crystal)}" if crystal is not None else None,
    )


def exchanged(amounts: Mapping[str, float], new: Mapping[str, str]) -> dict[str, float]:
    """Return amounts with some elements replaced; equal elements are joined."""
    found: dict[str, float] = {}
    for symbol, amount in amounts.items():
        name = new.get(symbol, symbol)
        found[name] = found.get(name, 0.0) + amount
    return found


@cache
def role(symbol: str) -> str:
    """Say whether an element is commonly an anion: ``anion`` or ``other``."""
    known = ions.states(symbol)
    return "anion" if known and known[0] < 0 else "other"


@lru_cache(maxsize=4096)
def site_groups(crystal: Crystal) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Group the sites of a crystal: symmetry-equivalent ones together, or all of an element where that gives too many.

    Args:
        crystal: any.

    Returns:
        Element and sites, sorted by element and first site.
    """
    elements = Counter(crystal.species)
    by_element = {(symbol, 0): [i for i, s in enumerate(crystal.species) if s == symbol] for symbol in elements}
    groups: dict[tuple[str, int], list[int]] = {}
    for i, orbit in enumerate(_orbits(crystal)):
        groups.setdefault((crystal.species[i], orbit), []).append(i)
    chosen = groups if len(groups) <= MOST_PARTS else by_element
    return tuple((symbol, tuple(chosen[symbol, orbit])) for symbol, orbit in sorted(chosen))


def _orbits(crystal: Crystal) -> Sequence[int]:
    from pymatgen.symmetry.analyzer import SpacegroupAnalyzer  # noqa: PLC0415  2 s to import

    os.environ.setdefault("SPGLIB_WARNING", "OFF")  # else its C part writes to stderr wherever it finds no symmetry
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # spglib announces its next version's errors on every call
            found: Any = SpacegroupAnalyzer(to_structure(crystal), symprec=SYMMETRY).get_symmetry_dataset()
        return [int(i) for i in found.equivalent_atoms]
    except Exception:  # noqa: BLE001  spglib's own errors are no ValueError; without symmetry every site is its own
        return range(len(crystal.species))


def _element_pools(labelled: Sequence[Candidate]) -> Mapping[str, Sequence[str]]:
    """Return the elements of each role as often as labelled candidates have them, from electropositive to negative."""
    table = element_table()
    seen = Counter(
        symbol
        for candidate in labelled
        if candidate.crystal is not None or candidate.composition is not None
        for symbol in fractions(candidate)
    )
    ordered = sorted(seen.elements(), key=lambda symbol: (float(table[symbol][ELECTRONEGATIVITY]), symbol))
    return {
        "any": ordered,
        "anion": [symbol for symbol in ordered if role(symbol) == "anion"],
        "other": [symbol for symbol in ordered if role(symbol) == "other"],
    }


def _spread(ordered: Sequence[Any], count: int, rng: np.random.Generator) -> tuple[Value, ...]:
    """Pick values evenly along an ordered list, and shuffle them."""
    places = ((np.arange(count) + rng.random()) / count * len(ordered)).astype(int)
    return tuple(ordered[i] for i in rng.permutation(places))
