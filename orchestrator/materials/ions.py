"""Ions: oxidation states, ionic radii, and the two factors that say whether a perovskite fits together.

Radii: R. D. Shannon, Acta Cryst. A 32, 751 (1976), doi:10.1107/S0567739476001551, as pymatgen carries them.
Tolerance factor: V. M. Goldschmidt, Naturwissenschaften 14, 477 (1926), doi:10.1007/BF01507527.
Octahedral factor: C. Li et al., J. Alloys Compd. 372, 40 (2004), doi:10.1016/j.jallcom.2003.10.017.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from typing import Any

from pymatgen.core import Element

from orchestrator.errors import MaterialError

COORDINATION = {
    "I": 1, "II": 2, "III": 3, "IV": 4, "V": 5, "VI": 6, "VII": 7, "VIII": 8, "IX": 9, "X": 10, "XI": 11, "XII": 12,
    "XIV": 14,
}  # fmt: skip
SPINS = ("", "High Spin", "Low Spin")
"""Which radius is taken where Shannon gives several: weak-field anions make high spin the usual case."""

EXTRA_RADII = {("Sn", 2): 1.16}
"""Angstrom, six neighbours. Shannon gives none for Sn2+: this is Pb2+ (1.19) less the 0.035 by which half the lattice
parameter of cubic CsSnI3 (6.22) is below that of cubic CsPbI3 (6.29)."""


STATES: Mapping[str, tuple[int, ...]] = {
    **dict.fromkeys(["Li", "Na", "K", "Rb", "Cs", "Ag"], (1,)),
    **dict.fromkeys(["Be", "Mg", "Ca", "Sr", "Ba", "Zn", "Cd", "Hg"], (2,)),
    **dict.fromkeys(["Sc", "Y", "La", "Pr", "Nd", "Pm", "Sm", "Gd", "Tb", "Dy", "Ho", "Er", "Tm", "Lu"], (3,)),
    **dict.fromkeys(["Al", "Ga", "In"], (3,)),
    **dict.fromkeys(["Si", "Zr", "Hf"], (4,)),
    "Ce": (3, 4), "Eu": (3, 2), "Yb": (3, 2), "Tl": (1, 3), "Cu": (2, 1, 3), "Ti": (4, 3, 2), "V": (5, 4, 3, 2),
    "Nb": (5, 4), "Ta": (5,), "Cr": (3, 2, 4, 6), "Mo": (6, 4, 5), "W": (6, 5, 4), "Re": (7, 6, 5, 4),
    "Mn": (2, 3, 4), "Fe": (3, 2, 4), "Co": (2, 3, 4), "Ni": (2, 3), "Ru": (4, 3, 5), "Os": (4, 5), "Rh": (3, 4),
    "Ir": (4, 3, 5), "Pd": (2, 4), "Pt": (4, 2), "Ge": (4, 2), "Sn": (4, 2), "Pb": (2, 4), "Sb": (3, 5), "Bi": (3, 5),
    "O": (-2,), "S": (-2,), "Se": (-2,), "Te": (-2,), "F": (-1,), "Cl": (-1,), "Br": (-1,), "I": (-1,), "N": (-3,),
}  # fmt: skip
"""States known from oxides, halides and chalcogenides, most common first; pymatgen's ICSD list holds rarities too."""


@cache
def states(symbol: str) -> tuple[int, ...]:
    """List the oxidation states of an element that a prototype may use, most common first.

    Args:
        symbol: element symbol.

    Returns:
        The states of `STATES`, else those that pymatgen calls common, as far as there is a radius for them.

    Raises:
        MaterialError: there is no such element.
    """
    element = _element(symbol)
    known = STATES.get(symbol, tuple(int(state) for state in element.common_oxidation_states))
    return tuple(state for state in known if _table(symbol, state))


def radius(symbol: str, state: int, coordination: int) -> float:
    """Return the ionic radius of an ion.

    Args:
        symbol: element symbol.
        state: oxidation state.
        coordination: number of neighbours; where there is no radius for it, that of the nearest number is taken (the
            smaller one of two).

    Returns:
        Shannon's ionic radius in angstrom; high spin where there are two.

    Raises:
        MaterialError: there is no radius for this ion.
    """
    table = _table(symbol, state)
    if not table:
        message = (
            f"no ionic radius for {symbol} in the state {state:+d}; states with a radius: "
            f"{', '.join(f'{s:+d}' for s in states(symbol)) or 'none'}"
        )
        raise MaterialError(message)
    return table[min(table, key=lambda number: (abs(number - coordination), number))]


def tolerance_factor(radius_a: float, radius_b: float, radius_x: float) -> float:
    """Return Goldschmidt's tolerance factor (rA + rX) / √2 (rB + rX) from radii in one unit."""
    return (radius_a + radius_x) / (math.sqrt(2) * (radius_b + radius_x))


def octahedral_factor(radius_b: float, radius_x: float) -> float:
    """Return the octahedral factor rB / rX from radii in one unit."""
    return radius_b / radius_x


@cache
def _table(symbol: str, state: int) -> Mapping[int, float]:
    """Coordination number → ionic radius in angstrom; pyramidal and planar sites only where there is nothing else."""
    if (symbol, state) in EXTRA_RADII:
        return {6: EXTRA_RADII[symbol, state]}
    shannon: Mapping[str, Any] = _element(symbol).data.get("Shannon radii") or {}
    entries: Mapping[str, Any] = shannon.get(str(state), {})
    regular = {COORDINATION[key]: _spin(entry) for key, entry in entries.items() if key in COORDINATION}
    special = {COORDINATION[key[:-2]]: _spin(entry) for key, entry in entries.items() if key[:-2] in COORDINATION}
    return regular or special


def _spin(entry: Mapping[str, Any]) -> float:
    for spin in SPINS:
        if spin in entry:
            return float(entry[spin]["ionic_radius"])
    return float(next(iter(entry.values()))["ionic_radius"])


def _element(symbol: str) -> Any:
    if not Element.is_valid_symbol(symbol):
        message = f"there is no element {symbol!r}; write symbols as in the periodic table, such as Cs, Pb, I"
        raise MaterialError(message)
    return Element(symbol)
