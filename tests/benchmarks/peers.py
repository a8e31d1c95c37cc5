"""What the discovery benchmark compares with: other ways to choose from the same pool, from the same first ten.

They are written with scikit-learn and NumPy only, as a chemist would write them in an afternoon, so that they owe
nothing to what they are compared with.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from orchestrator.domain import Array, Candidate
from orchestrator.networks import pretrained
from orchestrator.networks.crystals import crystals_of

COMPONENTS = 16
"""Principal components of the plain Gaussian process, as the issue states the floor."""

# eV/atom of CHGNet 0.3.0: the lowest of the unrelaxed fcc, bcc, simple cubic and diamond cells at seven volumes around
# the metallic radius; for N, O and F the molecule in a box. Crude, and no better than what anybody would take at first.
# fmt: off
ELEMENTS = {
    "Li": -1.883, "Be": -3.727, "B": -5.891, "N": -8.341, "O": -4.846, "F": -2.013, "Na": -1.297, "Mg": -1.596,
    "Al": -3.666, "Si": -5.100, "S": -3.471, "K": -1.090, "Ca": -1.973, "Sc": -6.273, "Ti": -7.817, "V": -9.074,
    "Cr": -9.539, "Mn": -9.106, "Fe": -8.347, "Co": -7.027, "Ni": -5.748, "Cu": -4.085, "Zn": -1.261, "Ga": -3.005,
    "Ge": -4.432, "As": -4.494, "Rb": -0.965, "Sr": -1.666, "Y": -6.446, "Zr": -8.511, "Nb": -10.016, "Mo": -10.677,
    "Ru": -9.112, "Rh": -7.278, "Pd": -5.181, "Ag": -2.801, "Cd": -0.923, "In": -2.695, "Sn": -3.946, "Sb": -4.056,
    "Te": -3.097, "Cs": -0.878, "Ba": -1.886, "La": -4.907, "Hf": -9.934, "Ta": -11.833, "W": -12.759, "Re": -12.434,
    "Os": -11.120, "Ir": -8.824, "Pt": -6.071, "Au": -3.224, "Hg": -0.288, "Tl": -2.348, "Pb": -3.663, "Bi": -3.817,
}
# fmt: on
"""Energies of the elements, from which a formation energy is made without a single label."""


def crystal_features(candidates: Sequence[Candidate]) -> Array:
    """Return CHGNet's frozen crystal features, n × 64: the mean over the atoms after the last convolution."""
    everything = pretrained.features(crystals_of(candidates))
    return everything[:, list(pretrained.columns(("readout",), ("mean",)))]


def zero_shot(candidates: Sequence[Candidate]) -> Array:
    """Return formation energies in eV/atom from the pretrained potential and crude elemental references, n."""
    column = pretrained.scalar_columns()[pretrained.SCALARS.index("energy")]
    energy = pretrained.features(crystals_of(candidates))[:, column]
    references = [float(np.mean([ELEMENTS[s] for s in c.crystal.species])) for c in candidates if c.crystal is not None]
    return np.asarray(energy - np.array(references), dtype=np.float64)


def plain_process(
    candidates: Sequence[Candidate], utility: Array, start: Sequence[int], *, budget: int, batch: int, beta: float
) -> list[int]:
    """Choose with a plain Gaussian process on frozen CHGNet features.

    PCA to 16 columns over the pool, standardised, Matérn 5/2 with one lengthscale, upper confidence bound, the q
    largest bounds as a batch.

    Args:
        candidates: the pool, n.
        utility: n larger-is-better numbers, read only where measured.
        start: positions measured first.
        budget: measurements in all.
        batch: chosen together.
        beta: standard deviations added to the mean; 0 is greedy.

    Returns:
        Positions in the order of measurement.
    """
    x = _principal(crystal_features(candidates))
    chosen = list(start)
    while len(chosen) < budget:
        known = np.array(chosen)
        process = _process()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # hyperparameters at their bounds: the plain way is to carry on
            process.fit(x[known], utility[known])
        left = np.setdiff1d(np.arange(len(x)), known)
        mean, sd = process.predict(x[left], return_std=True)
        order = np.argsort(-(mean + beta * sd), kind="stable")[: min(batch, budget - len(chosen))]
        chosen += [int(i) for i in left[order]]
    return chosen


def _principal(features: Array) -> Array:
    """Standardise columns, keep the first components, standardise those."""
    spread = features.std(axis=0)
    scaled = (features - features.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    left, sizes, _ = np.linalg.svd(scaled, full_matrices=False)
    kept = left[:, :COMPONENTS] * sizes[:COMPONENTS]
    return np.asarray(kept / kept.std(axis=0), dtype=np.float64)


def _process() -> Any:
    from sklearn.gaussian_process import GaussianProcessRegressor  # noqa: PLC0415  a second that other arms spare
    from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel  # noqa: PLC0415

    kernel = ConstantKernel(1.0, (1e-3, 1e3)) * Matern(4.0, (0.1, 100.0), nu=2.5) + WhiteKernel(1e-2, (1e-5, 1.0))
    return GaussianProcessRegressor(kernel, normalize_y=True)
