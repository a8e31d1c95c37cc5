"""What the elements in a formula say: statistics of tabulated element properties, no network and no pretraining.

The statistics are those of Ward et al., npj Computational Materials 2, 16028 (2016), doi:10.1038/npjcompumats.2016.28:
mean, mean absolute deviation, smallest, largest and range of each element property, weighted by the fractions, with
norms of the fractions. The properties are those that pymatgen tabulates for every element.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache, lru_cache

import numpy as np

from orchestrator.domain import Array, Candidate
from orchestrator.errors import MaterialError

PROPERTIES = (
    "number",
    "row",
    "group",
    "mendeleev",
    "mass",
    "electronegativity",
    "radius",
    "ionic_radius",
    "melting_point",
    "molar_volume",
    "ionization_energy",
    "electron_affinity",
    "common_oxidation",
    "max_oxidation",
    "min_oxidation",
    "valence_s",
    "valence_p",
    "valence_d",
    "valence_f",
)
FLOOR = 0.1
"""Smallest scale of a feature, in units of `spread`: what hardly varies among the labelled ones may vary elsewhere."""
STATISTICS = ("mean", "deviation", "min", "max", "range")
MOST_ELEMENTS = 103
"""Hydrogen to lawrencium: the elements that pymatgen tabulates with a position in the periodic table."""


@cache
def element_table() -> Mapping[str, Array]:
    """Return the properties of each element, gaps filled with the median over the elements that have the property.

    Returns:
        Element symbol → vector over `PROPERTIES`.
    """
    from pymatgen.core.periodic_table import Element  # noqa: PLC0415  2 s to import, needed with crystals only

    symbols = [Element.from_Z(z).symbol for z in range(1, MOST_ELEMENTS + 1)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pymatgen warns of each gap; gaps are filled below
        table = np.array([_properties(Element(symbol)) for symbol in symbols])
    for j in range(table.shape[1]):
        gaps = ~np.isfinite(table[:, j])
        table[gaps, j] = np.median(table[~gaps, j])
    return {symbol: table[i] for i, symbol in enumerate(symbols)}


@cache
def scaled_element_table() -> Mapping[str, Array]:
    """Return `element_table` with every property at mean 0 and variance 1 over the elements."""
    table = element_table()
    values = np.array(list(table.values()))
    scaled = (values - values.mean(0)) / values.std(0)
    return {symbol: scaled[i] for i, symbol in enumerate(table)}


def fractions(candidate: Candidate) -> Mapping[str, float]:
    """Return the element fractions of a candidate's crystal or formula.

    Args:
        candidate: with a crystal or a composition.

    Returns:
        Element symbol → fraction, summing to 1, sorted by symbol.

    Raises:
        MaterialError: the candidate has neither, or the formula cannot be read.
    """
    if candidate.crystal is not None:
        counts: Mapping[str, float] = Counter(candidate.crystal.species)
    elif candidate.composition is not None:
        counts = _parse(candidate.composition)
    else:
        message = f"candidate {candidate.label!r} has neither a crystal nor a composition, which the features need"
        raise MaterialError(message)
    if not counts:
        message = f"candidate {candidate.label!r} has a crystal without atoms; give at least one site"
        raise MaterialError(message)
    unknown = sorted(set(counts) - set(element_table()))
    if unknown:
        message = f"candidate {candidate.label!r} contains {', '.join(unknown)}, which is no element from H to Lr"
        raise MaterialError(message)
    total = sum(counts.values())
    return {symbol: counts[symbol] / total for symbol in sorted(counts)}


def statistics(candidates: Sequence[Candidate]) -> Array:
    """Return the composition features.

    Args:
        candidates: n candidates with a crystal or a composition.

    Returns:
        n × (5 × properties + 4): statistics of every element property, then norms of the fractions.
    """
    return np.array([_one(tuple(fractions(candidate).items())) for candidate in candidates]).reshape(
        len(candidates), len(STATISTICS) * len(PROPERTIES) + len(NORMS)
    )


@cache
def spread() -> Array:
    """Return a typical size of each column of `statistics`: the spread of its property over the elements."""
    values = np.array(list(element_table().values()))
    return np.concatenate([np.tile(values.std(0), len(STATISTICS)), np.ones(len(NORMS))])


MOST_CACHED = 20_000
"""Formulas kept in memory: 1.5 kB each."""
NORMS = (0, 2, 3, 5)
"""Orders of the norms of the fractions; order 0 counts the elements."""


@lru_cache(maxsize=MOST_CACHED)
def _one(parts: tuple[tuple[str, float], ...]) -> Array:
    table = element_table()
    values = np.array([table[symbol] for symbol, _ in parts])
    weights = np.array([fraction for _, fraction in parts])
    mean = weights @ values
    deviation = weights @ np.abs(values - mean)
    low, high = values.min(0), values.max(0)
    norms = [float(len(parts)) if order == 0 else float((weights**order).sum() ** (1 / order)) for order in NORMS]
    return np.concatenate([mean, deviation, low, high, high - low, norms])


@lru_cache(maxsize=MOST_CACHED)
def _parse(formula: str) -> Mapping[str, float]:
    from pymatgen.core import Composition  # noqa: PLC0415  2 s to import, needed with compositions only

    try:
        composition = Composition(formula)
    except Exception as error:  # pymatgen raises ValueError, KeyError and its own, depending on what is wrong
        message = f"formula {formula!r} cannot be read: {error}; write it as in LaMnO3 or Ba0.5Sr0.5TiO3"
        raise MaterialError(message) from error
    counts = {str(symbol): float(amount) for symbol, amount in composition.get_el_amt_dict().items()}
    if not counts:
        message = f"formula {formula!r} names no element"
        raise MaterialError(message)
    return counts


def _properties(element: object) -> list[float]:
    oxidations = list(getattr(element, "common_oxidation_states", ()) or (0,))
    allowed = list(getattr(element, "oxidation_states", ()) or (0,))
    shells = dict.fromkeys("spdf", 0.0)
    for shell, electrons in _valence_shells(element):
        shells[shell] += electrons
    return [
        _number(element, "Z"),
        _number(element, "row"),
        _number(element, "group"),
        _number(element, "mendeleev_no"),
        _number(element, "atomic_mass"),
        _number(element, "X"),
        _number(element, "atomic_radius"),
        _number(element, "average_ionic_radius"),
        _number(element, "melting_point"),
        _number(element, "molar_volume"),
        _number(element, "ionization_energy"),
        _number(element, "electron_affinity"),
        float(np.mean(oxidations)),
        float(max(allowed)),
        float(min(allowed)),
        *shells.values(),
    ]


def _valence_shells(element: object) -> list[tuple[str, float]]:
    structure = getattr(element, "full_electronic_structure", ())
    if not structure:
        return []
    outer = max(entry[0] for entry in structure)
    return [
        (str(shell), float(electrons))
        for number, shell, electrons in structure
        if (shell in "sp" and number == outer)
        or (shell == "d" and number == outer - 1)
        or (shell == "f" and number == outer - 2)
    ]


def _number(element: object, name: str) -> float:
    try:
        value = getattr(element, name)
        return float("nan") if value is None else float(value)
    except (AttributeError, TypeError, ValueError):
        return float("nan")  # a gap in the table; filled with the median
