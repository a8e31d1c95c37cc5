"""Which element could stand where another one does: the counterfactuals of an explanation.

Elements are alike that can carry the same charge and differ little in ionic radius and electronegativity; charges are
those that make the formula neutral, where the tables of `materials.ions` know such a set.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from functools import cache

from orchestrator.domain import Candidate
from orchestrator.materials import ions
from orchestrator.networks.composition import element_table, fractions
from orchestrator.surrogates.coalitions import ELECTRONEGATIVITY, exchanged, imagined

MOST = 5
"""Substitutes tried for each element."""
NEUTRAL = 1e-6
MOST_COMBINATIONS = 4096
"""Sets of charges tried before the commonest states are taken."""
SIX = 6
"""Neighbours at which radii are compared: the number for which Shannon gives most of them."""
RARER = 0.3
"""Distance added for each state of the other element that is commoner than the wanted one."""
NEVER = frozenset({"Pm"})
"""In the tables of ions, but radioactive without a stable isotope."""


def substituted(candidate: Candidate) -> list[tuple[str, str, Candidate]]:
    """List the candidate with one element replaced by a similar one, in the same cell.

    Args:
        candidate: with a crystal or a composition; else there are none.

    Returns:
        Old element, new element, candidate with the new formula as its label.
    """
    if candidate.crystal is None and candidate.composition is None:
        return []
    amounts = fractions(candidate)
    charge = charges(amounts)
    found = []
    for old in amounts:
        for new in alike(old, charge[old]):
            if new in amounts:
                continue
            if candidate.crystal is not None:
                species = tuple(new if symbol == old else symbol for symbol in candidate.crystal.species)
                made = imagined(candidate, candidate.parameters, crystal=replace(candidate.crystal, species=species))
            else:
                made = imagined(candidate, candidate.parameters, amounts=exchanged(amounts, {old: new}))
            found.append((old, new, replace(made, label=renamed(candidate, old, new))))
    return found


def renamed(candidate: Candidate, old: str, new: str) -> str:
    """Return the reduced formula with one element replaced."""
    from pymatgen.core import Composition  # noqa: PLC0415  2 s to import

    if candidate.crystal is None and candidate.composition is not None:
        amounts = Composition(candidate.composition).get_el_amt_dict()
    else:
        amounts = Counter(candidate.crystal.species if candidate.crystal is not None else ())
    return str(Composition(exchanged(amounts, {old: new})).reduced_formula)


def charges(amounts: Mapping[str, float]) -> Mapping[str, int | None]:
    """Give each element the charge it probably has.

    Args:
        amounts: element → amount.

    Returns:
        The neutral set of the commonest states where there is one, else each element's commonest state; None where no
        state is known.
    """
    known = {symbol: ions.states(symbol) for symbol in amounts}
    choices = [range(len(states)) for states in known.values() if states]
    if math.prod(len(choice) for choice in choices) <= MOST_COMBINATIONS and len(choices) == len(known):
        for ranks in sorted(itertools.product(*choices), key=sum):
            picked = {symbol: states[rank] for (symbol, states), rank in zip(known.items(), ranks, strict=True)}
            if abs(sum(amounts[symbol] * charge for symbol, charge in picked.items())) < NEUTRAL:
                return picked
    return {symbol: states[0] if states else None for symbol, states in known.items()}


@cache
def alike(symbol: str, charge: int | None) -> tuple[str, ...]:
    """List the elements most like another one.

    Args:
        symbol: element to be replaced.
        charge: that it carries; None finds nothing.

    Returns:
        At most `MOST` symbols, most similar first.
    """
    if charge is None:
        return ()
    size = ions.radius(symbol, charge, SIX)
    table = element_table()

    def distance(other: str) -> float:
        electronegativity = abs(float(table[other][ELECTRONEGATIVITY] - table[symbol][ELECTRONEGATIVITY]))
        rarity = RARER * ions.states(other).index(charge)
        return abs(ions.radius(other, charge, SIX) - size) + electronegativity + rarity  # H+ has a negative radius

    others = [other for other in ions.STATES if other not in {symbol, *NEVER} and charge in ions.states(other)]
    return tuple(sorted(others, key=lambda other: (distance(other), other))[:MOST])
