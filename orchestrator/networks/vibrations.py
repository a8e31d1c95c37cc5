"""What a pretrained potential says of a crystal's vibrations, as features: harmonic phonons without a single label.

Every symmetry-distinct atom of a small supercell is moved by 0.02 Å, a potential whose weights come inside a wheel
gives the forces, and phonopy (Togo et al., Journal of Physics: Condensed Matter 35, 353001, 2023,
doi:10.1088/1361-648X/acd831) makes force constants and frequencies of them. Universal potentials are too soft, in much
the same way everywhere (Deng et al., npj Computational Materials 11, 9, 2025, doi:10.1038/s41524-024-01500-6); a
regression on a few labels corrects that, and what is left is far smaller than the error of a network that starts from
the structure alone.

The crystal is taken as it is: it is not relaxed, and the forces of the undisturbed supercell are subtracted. Phonons
take seconds a crystal, so that they are computed in as many processes as there are cores, and kept.
"""

from __future__ import annotations

import contextlib
import io
import logging
import multiprocessing
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from orchestrator.domain import Array, Crystal
from orchestrator.errors import MaterialError, PluginError
from orchestrator.networks.crystals import to_structure
from orchestrator.networks.feature_cache import FeatureCache, cache_folder

Potential = Literal["chgnet", "sevennet"]
KNOWLEDGE: dict[Potential, str] = {"chgnet": "chgnet-0.3.0", "sevennet": "sevennet-0-11jul2024"}
"""What surrogates that use these features declare in `knows`."""
LAYOUT = 1
"""Version of the columns below; part of the cache's name."""

DISPLACEMENT = 0.02
"""Å: large against the rounding of single-precision forces, small against anharmonicity."""
MOST_ATOMS = 32
"""Atoms a supercell: a cell is doubled along its shortest side as long as it stays below."""
LONG_ENOUGH = 9.0
"""Å: twice the range beyond which force constants hardly matter; no side is made longer."""
MESH = (6, 6, 6)
TO_WAVENUMBER = 33.35641
"""cm⁻¹ for one THz."""
EINSTEIN = 15.633302 * TO_WAVENUMBER
"""√(eV/Å²/u) in cm⁻¹."""
SMEARINGS = (5.0, 10.0, 20.0)
"""cm⁻¹: widths at which the last peak of the density of states is read off."""
VISIBLE = 0.05
"""A peak counts from this share of the highest one on."""
GRID = np.arange(-300.0, 4500.0, 1.0)
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)
COLUMNS = (
    *(f"last_peak_{width:g}" for width in SMEARINGS),
    *(f"frequency_{share:g}" for share in QUANTILES),
    "frequency_max",
    "frequency_min",
    "frequency_mean",
    "frequency_sd",
    "top_branch_mean",
    "top_branch_width",
    "gamma_max",
    "stiffness_mean",
    "stiffness_max",
    "einstein_mean",
    "einstein_max",
    "unstable_share",
)
"""Frequencies in cm⁻¹, imaginary ones negative; stiffness (mean diagonal of an atom's own force constants) in eV/Å²."""
DIMENSION = len(COLUMNS)

Forces = Callable[[Sequence[Any]], list[Array]]
"""Supercells of phonopy → forces on their atoms, in eV/Å."""

_log = logging.getLogger(__name__)


def features(crystals: Sequence[Crystal], potential: Potential = "chgnet") -> Array:
    """Return vibrational features, one to five seconds a crystal and core at first and nothing later.

    Args:
        crystals: n crystals.
        potential: whose forces.

    Returns:
        n × `DIMENSION`, named by `COLUMNS`.

    Raises:
        MaterialError: the potential or the symmetry search cannot read a crystal.
        PluginError: a package is missing; the message names the command to type.
    """
    return _cache(potential).get(crystals)


def describe(crystal: Crystal, forces: Forces) -> npt.NDArray[np.float32]:
    """Return the features of one crystal.

    Args:
        crystal: the structure.
        forces: a potential.

    Returns:
        `DIMENSION` numbers.

    Raises:
        MaterialError: no finite frequencies come out.
    """
    formula = "".join(crystal.species[:8])
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            phonons, harmonic = _phonons(crystal, forces)
            phonons.run_mesh(MESH, is_gamma_center=True)
            mesh = phonons.get_mesh_dict()
    except (RuntimeError, ValueError, IndexError, ArithmeticError) as error:
        message = f"no phonons of {formula} ({len(crystal.species)} atoms): {error}; leave this structure out"
        raise MaterialError(message) from error
    if not (np.all(np.isfinite(mesh["frequencies"])) and np.all(np.isfinite(harmonic))):
        message = f"the phonons of {formula} are not finite; look for atoms on top of each other"
        raise MaterialError(message)
    row: npt.NDArray[np.float32] = _summary(mesh, harmonic, phonons.primitive.masses).astype(np.float32)
    return row


def _phonons(crystal: Crystal, forces: Forces) -> tuple[Any, Array]:
    """Return phonopy's object with force constants, and the force constants of each atom with itself, n × 3 × 3."""
    from phonopy import Phonopy  # noqa: PLC0415  an extra
    from phonopy.structure.atoms import PhonopyAtoms  # noqa: PLC0415

    cell = PhonopyAtoms(
        symbols=list(crystal.species), cell=np.array(crystal.lattice), scaled_positions=np.array(crystal.frac_coords)
    )
    matrix = np.diag(_repeats(np.array(crystal.lattice), len(crystal.species)))
    try:
        phonons = Phonopy(cell, supercell_matrix=matrix, primitive_matrix=np.eye(3), log_level=0)
    except Exception:  # noqa: BLE001  spglib's own errors are no ValueError; without symmetry it is only slower
        phonons = Phonopy(cell, supercell_matrix=matrix, primitive_matrix=np.eye(3), is_symmetry=False, log_level=0)
    phonons.generate_displacements(distance=DISPLACEMENT)
    rest, *moved = forces([phonons.supercell, *phonons.supercells_with_displacements])
    phonons.forces = np.array([own - rest for own in moved])
    phonons.produce_force_constants()
    phonons.symmetrize_force_constants()
    own = phonons.supercell.p2s_map if hasattr(phonons.supercell, "p2s_map") else phonons.primitive.p2s_map
    constants = phonons.force_constants
    rows = constants[own, own] if constants.shape[0] == constants.shape[1] else constants[range(len(own)), own]
    return phonons, np.asarray(rows)


def _repeats(lattice: Array, atoms: int) -> npt.NDArray[np.int64]:
    repeats = np.ones(3, dtype=np.int64)
    sides = np.linalg.norm(lattice, axis=1)
    while True:
        lengths = sides * repeats
        longer = repeats.copy()
        longer[int(np.argmin(lengths))] += 1
        if atoms * int(longer.prod()) > MOST_ATOMS or lengths.min() >= LONG_ENOUGH:
            return repeats
        repeats = longer


def _summary(mesh: dict[str, Any], harmonic: Array, masses: Array) -> Array:
    frequencies = np.asarray(mesh["frequencies"]) * TO_WAVENUMBER  # points × branches
    weights = np.repeat(np.asarray(mesh["weights"], dtype=np.float64), frequencies.shape[1])
    weights /= weights.sum()
    flat = frequencies.ravel()
    order = np.argsort(flat)
    cumulated = np.cumsum(weights[order])
    quantiles = [flat[order][min(int(np.searchsorted(cumulated, q)), len(flat) - 1)] for q in QUANTILES]
    mean = float(weights @ flat)
    top = frequencies[:, -1]
    stiffness = np.trace(harmonic, axis1=1, axis2=2) / 3.0
    einstein = np.sqrt(np.maximum(stiffness, 0.0) / masses) * EINSTEIN
    return np.array(
        [
            *(_last_peak(flat, weights, width) for width in SMEARINGS),
            *quantiles,
            flat.max(),
            flat.min(),
            mean,
            np.sqrt(weights @ (flat - mean) ** 2),
            float(np.average(top, weights=mesh["weights"])),
            np.ptp(top),
            frequencies[0].max(),
            stiffness.mean(),
            stiffness.max(),
            einstein.mean(),
            einstein.max(),
            float(weights[flat < -1.0].sum()),
        ]
    )


def _last_peak(flat: Array, weights: Array, width: float) -> float:
    bins = np.clip(np.round(flat - GRID[0]).astype(np.int64), 0, len(GRID) - 1)
    counts = np.bincount(bins, weights, len(GRID))
    reach = np.arange(-4 * width, 4 * width + 1)
    density = np.convolve(counts, np.exp(-0.5 * (reach / width) ** 2), mode="same")
    inner = density[1:-1]
    peaks = np.flatnonzero((inner > density[:-2]) & (inner >= density[2:]) & (inner > VISIBLE * density.max())) + 1
    return float(GRID[peaks[-1]]) if len(peaks) else float(flat.max())


def _compute(crystals: Sequence[Crystal], potential: Potential) -> Iterator[npt.NDArray[np.float32]]:
    check_packages(potential)
    work = partial(_describe_in_worker, potential)
    workers = min(os.cpu_count() or 1, len(crystals))
    if len(crystals) > 20:  # noqa: PLR2004  some ten seconds: long enough to say so
        _log.info("computing phonons of %d crystals with %s in %d processes", len(crystals), potential, workers)
    if workers < 2:  # noqa: PLR2004  a process of its own is worth nothing for one crystal
        yield from map(work, crystals)
        return
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_one_thread) as pool:
        yield from pool.map(work, crystals, chunksize=1)


def _describe_in_worker(potential: Potential, crystal: Crystal) -> npt.NDArray[np.float32]:
    return describe(crystal, _potential(potential))


def _one_thread() -> None:
    import torch  # noqa: PLC0415

    torch.set_num_threads(1)


def check_packages(potential: Potential) -> None:
    """Refuse to go on without the packages.

    Args:
        potential: whose forces.

    Raises:
        PluginError: one is not installed; the message names the command to type.
    """
    from importlib.util import find_spec  # noqa: PLC0415

    missing = [
        name for name in ("phonopy", *(["sevenn"] if potential == "sevennet" else [])) if find_spec(name) is None
    ]
    if missing:
        message = (
            f"vibrations by {potential} need {', '.join(missing)}, not installed here: type"
            " pip install 'matloop[vibrations]'" + (" 'matloop[sevennet]'" if potential == "sevennet" else "")
        )
        raise PluginError(message)


def _chgnet() -> Forces:
    from chgnet.model import CHGNet  # noqa: PLC0415  seconds to import

    with contextlib.redirect_stdout(io.StringIO()):  # CHGNet prints its size
        network = CHGNet.load(use_device="cpu", verbose=False)

    def forces(cells: Sequence[Any]) -> list[Array]:
        graphs = [network.graph_converter(to_structure(_crystal(cell))) for cell in cells]
        answers = network.predict_graph(graphs, task="ef", batch_size=8)
        return [np.asarray(answer["f"], dtype=np.float64) for answer in answers]

    return forces


def _sevennet() -> Forces:
    from ase import Atoms  # noqa: PLC0415  needed with these features only
    from sevenn.calculator import SevenNetCalculator  # noqa: PLC0415  an extra

    with contextlib.redirect_stdout(io.StringIO()):
        calculator = SevenNetCalculator("7net-0", device="cpu")

    def forces(cells: Sequence[Any]) -> list[Array]:
        found = []
        for cell in cells:
            atoms = Atoms(numbers=cell.numbers, positions=cell.positions, cell=cell.cell, pbc=True)
            atoms.calc = calculator
            found.append(np.asarray(atoms.get_forces(), dtype=np.float64))
        return found

    return forces


def _crystal(cell: Any) -> Crystal:
    return Crystal.from_json(
        {"lattice": cell.cell.tolist(), "species": list(cell.symbols), "frac_coords": cell.scaled_positions.tolist()}
    )


@cache
def _potential(name: Potential) -> Forces:
    return _chgnet() if name == "chgnet" else _sevennet()


@cache
def _cache(potential: Potential) -> FeatureCache:
    folder = cache_folder(f"vibrations-{KNOWLEDGE[potential]}-layout{LAYOUT}")
    return FeatureCache(folder, DIMENSION, partial(_compute, potential=potential), every=20)
