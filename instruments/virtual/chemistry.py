"""What happens to a sample: barium carbonate and zirconia become barium zirconate, a proton conductor.

BaCO3 + ZrO2 → BaZrO3 + CO2. The rate is that of a shrinking core, with an activation energy of 294 kJ/mol in dry air
(Ubaldini et al. 2003, doi:10.1111/j.1151-2916.2003.tb03270.x). Carbonate grows Ba2ZrO4 on BaZrO3,
which reacts back with zirconia that is left. Hot
firings sinter the pellet, and lose barium as vapour, which leaves zirconia; hence good pellets need a little barium in
excess (Babilo, Uda & Haile 2007, doi:10.1557/jmr.2007.0163, who reach 7.9e-3 S/cm at 600 °C). The activation
energies of the competing phase, of the evaporation and of sintering, and all prefactors, are chosen so that the best
pellet lies inside the furnace's range; they are no measured values.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

GAS = 8.314462618e-3
"""kJ/(mol·K)"""
BOLTZMANN = 8.617333262e-5
"""eV/K"""
KELVIN = 273.15
MOLAR_MASS = {"BaCO3": 197.336, "ZrO2": 123.218, "BaZrO3": 276.549, "Ba2ZrO4": 429.875}
"""g/mol"""
DENSITY = {"BaCO3": 4.31, "ZrO2": 5.82, "BaZrO3": 6.24, "Ba2ZrO4": 6.06}
"""g/cm³ without pores."""
PHASES = tuple(MOLAR_MASS)

CORE = (294.0, 0.158 / 3600, 1423.15)
"""Shrinking core: kJ/mol, rate in 1/s at the temperature in K. 0.158/h at 1150 °C: 95 % within 4 h."""
RUDDLESDEN = (330.0, 0.25 / 3600, 1473.15)
"""Growth of Ba2ZrO4 on BaZrO3 from BaCO3 in excess; made up."""
VAPOUR = (440.0, 0.012 / 3600, 1773.15)
"""Loss of barium from BaZrO3; made up. Excess barium evaporates `EASIER` times faster."""
EASIER = 8.0
COVERED = 0.01
"""Excess, as a share of the zirconium, above which BaZrO3 loses no barium; made up."""
SINTER = (480.0, 0.25 / 3600, 1773.15)
"""Closing of pores; made up."""
GREEN = 0.55
"""Relative density of a pressed pellet."""
FULL = 0.98

BULK = (7.9e-3, 0.45, 873.15)
"""Conductivity of the dense proton conductor: S/cm at the temperature in K, and eV."""
POOR = 1.0e-8
"""S/cm of everything else, pores included."""
THRESHOLD, EXPONENT = 0.30, 2.0
"""Percolation threshold and exponent of the effective medium."""


@dataclass
class Sample:
    """The state of one pellet.

    Args:
        moles: mmol by phase.
        density: relative, 0 to 1.
        firings: how often it was in the furnace.
        spoiled: why it is no good, where it is not.
    """

    moles: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PHASES, 0.0))
    density: float = GREEN
    firings: int = 0
    spoiled: str = ""

    @classmethod
    def mixed(cls, carbonate_mg: float, zirconia_mg: float) -> Self:
        """Return a pressed pellet of the two powders, masses in mg."""
        moles = dict.fromkeys(PHASES, 0.0)
        moles["BaCO3"] = carbonate_mg / MOLAR_MASS["BaCO3"]
        moles["ZrO2"] = zirconia_mg / MOLAR_MASS["ZrO2"]
        return cls(moles)

    def to_json(self) -> dict[str, Any]:
        """Return the state as JSON content."""
        return {"moles": self.moles, "density": self.density, "firings": self.firings, "spoiled": self.spoiled}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """Build the state from `to_json` content."""
        return cls(
            {phase: float(content["moles"][phase]) for phase in PHASES},
            float(content["density"]),
            int(content["firings"]),
            str(content["spoiled"]),
        )

    def weight_fractions(self) -> dict[str, float]:
        """Return the weight fraction of each phase."""
        return _shares({phase: n * MOLAR_MASS[phase] for phase, n in self.moles.items()})

    def volume_fractions(self) -> dict[str, float]:
        """Return the share of each phase in the solid volume."""
        return _shares({phase: n * MOLAR_MASS[phase] / DENSITY[phase] for phase, n in self.moles.items()})

    def fire(self, steps: Iterable[tuple[float, float]]) -> None:
        """Heat the pellet.

        Args:
            steps: seconds and temperature in degC, one after the other.
        """
        n = self.moles
        whole = n["ZrO2"] + n["BaZrO3"] + n["Ba2ZrO4"]
        for seconds, celsius in steps:
            kelvin = celsius + KELVIN
            left = n["ZrO2"] / whole if whole else 0.0
            radius = max(0.0, left ** (1 / 3) - _rate(CORE, kelvin) * seconds)
            made = min(n["BaCO3"], n["ZrO2"] - whole * radius**3)
            n["BaCO3"] -= made
            n["ZrO2"] -= made
            n["BaZrO3"] += made
            grown = min(n["BaCO3"], n["BaZrO3"] * _part(RUDDLESDEN, kelvin, seconds))
            n["BaCO3"] -= grown
            n["BaZrO3"] -= grown
            n["Ba2ZrO4"] += grown
            joined = min(n["Ba2ZrO4"], n["ZrO2"]) * _part(CORE, kelvin, 3 * seconds)
            n["Ba2ZrO4"] -= joined
            n["ZrO2"] -= joined
            n["BaZrO3"] += 2 * joined
            easy = -math.expm1(-EASIER * _rate(VAPOUR, kelvin) * seconds)
            n["BaCO3"] *= 1 - easy
            shed = n["Ba2ZrO4"] * easy
            n["Ba2ZrO4"] -= shed
            n["BaZrO3"] += shed
            # Barium in excess keeps the vapour saturated, so that BaZrO3 loses none.
            bare = max(0.0, 1 - (n["Ba2ZrO4"] + n["BaCO3"]) / (COVERED * whole)) if whole else 0.0
            lost = bare * n["BaZrO3"] * _part(VAPOUR, kelvin, seconds)
            n["BaZrO3"] -= lost
            n["ZrO2"] += lost
            self.density += (FULL - self.density) * _part(SINTER, kelvin, seconds)
        self.firings += 1

    def conductivity(self, celsius: float) -> float:
        """Return the conductivity.

        Args:
            celsius: temperature of the measurement in degC.

        Returns:
            S/cm, by the general effective medium equation (McLachlan 1987, doi:10.1088/0022-3719/20/7/004).
        """
        kelvin = celsius + KELVIN
        at, energy, reference = BULK
        good = at * reference / kelvin * math.exp(-energy / BOLTZMANN * (1 / kelvin - 1 / reference))
        return effective_medium(self.volume_fractions()["BaZrO3"] * self.density, good, POOR)


def effective_medium(share: float, good: float, poor: float) -> float:
    """Solve McLachlan's general effective medium equation.

    Args:
        share: volume fraction of the good conductor.
        good: its conductivity.
        poor: that of the rest.

    Returns:
        The conductivity of the mixture, between `poor` and `good`, in their unit.
    """
    a = (1 - THRESHOLD) / THRESHOLD
    high, low = good ** (1 / EXPONENT), poor ** (1 / EXPONENT)
    first, last = math.log(poor), math.log(good)
    for _ in range(60):
        middle = (first + last) / 2
        x = math.exp(middle / EXPONENT)
        balance = (1 - share) * (low - x) / (low + a * x) + share * (high - x) / (high + a * x)
        first, last = (middle, last) if balance > 0 else (first, middle)
    return math.exp((first + last) / 2)


def _rate(law: tuple[float, float, float], kelvin: float) -> float:
    energy, rate, reference = law
    return rate * math.exp(-energy / GAS * (1 / kelvin - 1 / reference))


def _part(law: tuple[float, float, float], kelvin: float, seconds: float) -> float:
    return -math.expm1(-_rate(law, kelvin) * seconds)


def _shares(amounts: Mapping[str, float]) -> dict[str, float]:
    total = sum(amounts.values())
    return {name: amount / total if total else 0.0 for name, amount in amounts.items()}
