"""What the simulator of a device file gives: plain functions of the set-points, without any code in the file.

An output is the sum of its parts: a constant, a polynomial of each parameter without cross terms, and one Gaussian
peak over several parameters; then noise relative to its size, from a seed.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping

from pydantic import Field

from orchestrator.protocols import Options


class Peak(Options):
    """``height × exp(−Σ ((x − at) / width)²)``, in the declared units."""

    height: float
    at: dict[str, float]
    width: dict[str, float]


class Formula(Options):
    """One output as a function of the set-points."""

    constant: float = 0.0
    linear: dict[str, float] = Field(default_factory=dict)
    polynomial: dict[str, tuple[float, ...]] = Field(default_factory=dict)
    """Parameter → factors of x, x², x³ …"""
    peak: Peak | None = None
    noise: float = Field(default=0.0, ge=0)
    """Standard deviation, as a share of the value."""

    def value(self, settings: Mapping[str, float], draws: random.Random) -> float:
        """Compute the output.

        Args:
            settings: set-points in the declared units.
            draws: seeded.

        Returns:
            The value in the output's unit.
        """
        total = self.constant
        total += sum(factor * settings[name] for name, factor in self.linear.items())
        for name, factors in self.polynomial.items():
            total += sum(factor * settings[name] ** (power + 1) for power, factor in enumerate(factors))
        if self.peak is not None:
            apart = sum(((settings[n] - at) / self.peak.width[n]) ** 2 for n, at in self.peak.at.items())
            total += self.peak.height * math.exp(-apart)
        return total * (1.0 + self.noise * draws.gauss(0.0, 1.0)) if self.noise else total

    def names(self) -> set[str]:
        """Name the parameters that it reads."""
        return {*self.linear, *self.polynomial, *(self.peak.at if self.peak else ())}


class Simulation(Options):
    """How the device behaves when the file itself serves it."""

    identity: str
    duration_s: float = Field(default=0.1, ge=0)
    outputs: dict[str, Formula] = Field(default_factory=dict)
    seed: int = 0
    ambient: float = 20.0
    """Where a quantity that settles at a set-point begins, in its unit."""
