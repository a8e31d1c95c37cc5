"""Crystal structures of the virtual lab's phases, from the literature, rounded."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pymatgen.core import Structure

Site = tuple[str, tuple[float, float, float]]
CRYSTALS: dict[str, tuple[str, tuple[float, float, float, float], tuple[Site, ...]]] = {
    # cubic perovskite
    "BaZrO3": (
        "Pm-3m",
        (4.192, 4.192, 4.192, 90.0),
        (("Zr", (0.0, 0.0, 0.0)), ("Ba", (0.5, 0.5, 0.5)), ("O", (0.5, 0.0, 0.0))),
    ),
    # baddeleyite: Howard, Hill & Reichert 1988, doi:10.1107/S0108768187010279
    "ZrO2": (
        "P2_1/c",
        (5.1505, 5.2116, 5.3173, 99.23),
        (("Zr", (0.2754, 0.0395, 0.2083)), ("O", (0.0700, 0.3317, 0.3447)), ("O", (0.4496, 0.7569, 0.4792))),
    ),
    # witherite: de Villiers 1971, American Mineralogist 56, 758; turned from Pmcn
    "BaCO3": (
        "Pnma",
        (6.4284, 5.3126, 8.8958, 90.0),
        (
            ("Ba", (0.7549, 0.25, 0.4163)),
            ("C", (0.9190, 0.25, 0.7570)),
            ("O", (0.9122, 0.25, 0.9011)),
            ("O", (0.9210, 0.4595, 0.6839)),
        ),
    ),
    # K2NiF4 type, cell and coordinates rounded
    "Ba2ZrO4": (
        "I4/mmm",
        (4.180, 4.180, 13.475, 90.0),
        (("Zr", (0.0, 0.0, 0.0)), ("Ba", (0.0, 0.0, 0.3535)), ("O", (0.0, 0.5, 0.0)), ("O", (0.0, 0.0, 0.1560))),
    ),
}
"""By phase: space group, a, b, c in Å and β in degrees, and the sites."""
TEXTURE = {"BaZrO3": 0.97, "ZrO2": 1.0, "BaCO3": 0.85, "Ba2ZrO4": 0.90}
"""March–Dollase parameters of the pressed pellets; refinements do not know them."""


def structure(phase: str) -> Structure:
    """Return the structure of a phase."""
    from pymatgen.core import Lattice, Structure  # noqa: PLC0415  takes a second to import

    group, (a, b, c, beta), sites = CRYSTALS[phase]
    lattice = Lattice.from_parameters(a, b, c, 90.0, beta, 90.0)
    return Structure.from_spacegroup(group, lattice, [name for name, _ in sites], [list(at) for _, at in sites])
