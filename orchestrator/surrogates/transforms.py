"""Monotone transforms of labels, undone with their uncertainty: logarithm and Box-Cox.

Box and Cox, J. R. Stat. Soc. B 26, 211 (1964), doi:10.1111/j.2517-6161.1964.tb00553.x. A surrogate is Gaussian on the
transformed labels; in the property's unit its functions are the transformed-back draws, and means and standard
deviations are the moments of the transformed-back Gaussian.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.optimize import minimize_scalar

from orchestrator.domain import Array
from orchestrator.errors import SurrogateError

TransformName = Literal["none", "log", "box-cox", "auto"]

POWERS = (0.0, 2.0)
"""Powers allowed: below 0 the transformed-back Gaussian has no mean."""
WORTH = 3.0
"""Log likelihood by which ``auto`` wants a transform to be better than none: e³ = 20 to 1; and Box-Cox than log."""
BEYOND = 4.0
"""Latent functions are cut this many standard deviations of the labels beyond them, before they are transformed back:
an exponential function of a wild guess has no useful mean."""
NODES, NODE_WEIGHTS = np.polynomial.hermite_e.hermegauss(48)


@dataclass(frozen=True)
class Transform:
    """A power transform of positive labels.

    Args:
        power: of Box and Cox; 0 is the logarithm.
        centre: geometric mean of the labels, by which they are divided first; in the property's unit.
    """

    power: float
    centre: float

    def forward(self, values: Array) -> Array:
        """Transform positive values; NaN stays NaN."""
        ratio = values / self.centre
        found: Array = np.log(ratio) if self.power == 0.0 else (ratio**self.power - 1.0) / self.power
        return found

    def back(self, latent: Array) -> Array:
        """Undo `forward`; below its range lies 0."""
        if self.power == 0.0:
            return self.centre * np.asarray(np.exp(latent), dtype=np.float64)
        base = np.maximum(1.0 + self.power * latent, 0.0)
        return self.centre * np.asarray(base ** (1.0 / self.power), dtype=np.float64)

    def slope(self, values: Array) -> Array:
        """Return the derivative of `forward`: what turns small errors of labels into those of transformed ones."""
        found: Array = (values / self.centre) ** (self.power - 1.0) / self.centre
        return found


def choose(wanted: TransformName, values: Array, name: str) -> tuple[Transform | None, str]:
    """Choose the transform of one property from its labels.

    Args:
        wanted: as in the options.
        values: n finite labels.
        name: of the property.

    Returns:
        The transform, or None for none, and a note for people (empty where nothing was chosen).

    Raises:
        SurrogateError: labels that are not positive have no logarithm.
    """
    if wanted == "none":
        return None, ""
    least = float(values.min())
    if least <= 0 and wanted != "auto":
        message = (
            f"transform {wanted!r} of {name!r} needs positive labels, and the smallest is {least:g}; write"
            f" 'transforms: {{{name}: none}}'"
        )
        raise SurrogateError(message)
    if least <= 0 or float(np.ptp(values)) <= 0:
        why = "all labels are equal" if least > 0 else f"not every label is positive (smallest: {least:g})"
        return None, f"{name}: no transform, since {why}"
    centre = float(np.exp(np.log(values).mean()))
    logarithm = Transform(0.0, centre)
    if wanted == "log":
        return logarithm, f"{name}: learned as its logarithm"
    found = minimize_scalar(
        lambda power: -log_likelihood(Transform(float(power), centre), values), bounds=POWERS, method="bounded"
    )
    power = Transform(float(found.x), centre)
    note = f"{name}: learned as its power {power.power:.2f} (Box-Cox)"
    return (power, note) if wanted == "box-cox" else _likeliest(logarithm, power, values, name)


def _likeliest(logarithm: Transform, power: Transform, values: Array, name: str) -> tuple[Transform | None, str]:
    """Choose among none, logarithm and power; see `WORTH`."""
    plain = log_likelihood(Transform(1.0, logarithm.centre), values)
    log, free = log_likelihood(logarithm, values), log_likelihood(power, values)
    if free > max(plain, log) + WORTH:
        return power, f"{name}: learned as its power {power.power:.2f} (Box-Cox), chosen by likelihood"
    if log > plain + WORTH:
        return logarithm, f"{name}: learned as its logarithm, chosen by likelihood"
    return None, f"{name}: no transform, chosen by likelihood"


def log_likelihood(transform: Transform, values: Array) -> float:
    """Return the log density of labels whose transform is normal with the best mean and variance, up to a constant.

    The Jacobian of the transform is in it, so that transforms can be compared.
    """
    variance = float(np.var(transform.forward(values)))
    return -0.5 * len(values) * math.log(max(variance, 1e-300)) + float(np.log(transform.slope(values)).sum())
