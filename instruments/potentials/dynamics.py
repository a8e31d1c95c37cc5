"""Molecular dynamics with a potential: Langevin at constant volume, means with honest errors.

The thermostat is ASE's Langevin integrator (Vanden-Eijnden and Ciccotti, Chem. Phys. Lett. 429, 310 (2006),
doi:10.1016/j.cplett.2006.07.086). Samples along a path are correlated, so standard errors come from block averages:
blocks are joined in pairs until the error stops growing (Flyvbjerg and Petersen, J. Chem. Phys. 91, 461 (1989),
doi:10.1063/1.457480). The seed comes from the order's key: the same key gives the same path.
"""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from instruments.potentials.catalogue import Potential
from instruments.potentials.relaxation import AseFace
from orchestrator.domain import Array, Crystal

FEWEST_BLOCKS = 8
"""With fewer blocks the error of the error is a quarter and more."""
HOTTEST = 20.0
"""Times the temperature that was asked for: the path has blown up, from a time step that is too long."""


@dataclass(frozen=True)
class Dynamics:
    """What to run.

    Args:
        temperature: kelvin.
        steps: of the path that counts.
        timestep: fs.
        seed: of velocities and thermostat.
        friction: 1/fs.
        settle: share of `steps` that is run first and not counted.
        atoms: the cell is repeated until it has at least so many.
        every: a sample is taken after so many steps.
    """

    temperature: float
    steps: int
    timestep: float
    seed: int
    friction: float
    settle: float
    atoms: int
    every: int


@dataclass(frozen=True)
class Path:
    """What came out.

    Args:
        means: by output: mean and standard error, in the units of `OUTPUTS`.
        blocks: of the error of the energy.
        atoms: in the cell that was run.
        crystal: the last structure, the whole repeated cell.
        samples: every sample, for the attachment.
    """

    means: Mapping[str, tuple[float, float | None]]
    blocks: int
    atoms: int
    crystal: Crystal
    samples: tuple[Mapping[str, float], ...]

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON content."""
        return {**asdict(self), "crystal": self.crystal.to_json(), "samples": [dict(one) for one in self.samples]}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Path:
        """Build it from `to_json` content."""
        means = {name: (float(mean), error) for name, (mean, error) in content["means"].items()}
        crystal = Crystal.from_json(content["crystal"])
        return cls(**{**content, "means": means, "crystal": crystal, "samples": tuple(content["samples"])})


def run(potential: Potential, crystal: Crystal, what: Dynamics, on_step: Callable[[int], None]) -> Path:
    """Run a path and average along it.

    Args:
        potential: gives energy, forces and stress.
        crystal: where to start.
        what: to run.
        on_step: called with the number of steps done, at each sample; what it raises ends the path.

    Returns:
        Means, their errors, and the samples.

    Raises:
        ValueError: the potential cannot describe what the path comes to, or the path blows up.
    """
    from ase import Atoms, units  # noqa: PLC0415  ASE loads with the first order
    from ase.md.langevin import Langevin  # noqa: PLC0415  the same

    atoms = Atoms(symbols=list(crystal.species), scaled_positions=crystal.frac_coords, cell=crystal.lattice, pbc=True)
    atoms = atoms.repeat(_repeats(np.asarray(crystal.lattice), len(atoms), what.atoms))
    face = AseFace(potential)
    atoms.calc = face
    rng = np.random.default_rng(what.seed)
    masses = atoms.get_masses()[:, None]
    momenta = rng.normal(size=(len(atoms), 3)) * np.sqrt(masses * units.kB * what.temperature)  # Maxwell and Boltzmann
    atoms.set_momenta(momenta - masses * momenta.sum(axis=0) / masses.sum())
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what goes wrong is told by the checks of the samples
        # The centre of mass is taken out of displacements below; ASE's own way of holding it is wrong, and going.
        fixed = {"fixcm": False} if "fixcm" in inspect.signature(Langevin).parameters else {}
        path = Langevin(
            atoms,
            what.timestep * units.fs,
            temperature_K=what.temperature,
            friction=what.friction / units.fs,
            rng=rng,
            **fixed,
        )
        settling = int(what.settle * what.steps)
        for done in range(0, settling, what.every):
            path.run(min(what.every, settling - done))
            _sample(atoms, face, what)
            on_step(done)
        start, volume = atoms.get_positions(), float(atoms.get_volume())
        samples = []
        for done in range(what.every, what.steps + 1, what.every):
            path.run(what.every)
            one = _sample(atoms, face, what)
            moved = atoms.get_positions() - start
            moved -= moved.mean(axis=0)
            one["mean_square_displacement"] = float((moved**2).sum(axis=1).mean())
            samples.append({"time": done * what.timestep / 1000.0, **one})
            on_step(settling + done)
    means: dict[str, tuple[float, float | None]] = {}
    blocks = 0
    for name in ("energy", "temperature", "pressure"):
        values = np.array([one[name] for one in samples])
        error, blocks = block_error(values)
        means[name] = float(values.mean()), error
    means["mean_square_displacement"] = samples[-1]["mean_square_displacement"], None
    means["volume"] = volume / len(atoms), None
    return Path(means, blocks, len(atoms), _crystal(atoms), tuple(samples))


def block_error(values: Array) -> tuple[float | None, int]:
    """Estimate the standard error of a correlated series' mean.

    Args:
        values: in order of time, n.

    Returns:
        The largest error over block lengths that leave enough blocks, and how many blocks it rests on; no error where
        the series is too short for any.
    """
    found: tuple[float | None, int] = (None, 0)
    while len(values) >= FEWEST_BLOCKS:
        error = float(values.std(ddof=1) / math.sqrt(len(values)))
        if found[0] is None or error > found[0]:
            found = (error, len(values))
        even = len(values) - len(values) % 2
        values = values[:even].reshape(-1, 2).mean(axis=1)
    return found


def _sample(atoms: Any, face: AseFace, what: Dynamics) -> dict[str, float]:
    from ase.units import GPa  # noqa: PLC0415  loaded by now

    energy, _, stress = face.answer(atoms)
    temperature = float(atoms.get_temperature())
    kinetic = 2 / 3 * float(atoms.get_kinetic_energy()) / float(atoms.get_volume())
    one = {
        "energy": energy / len(atoms),
        "temperature": temperature,
        "pressure": float(-stress.trace() / 3 + kinetic) / float(GPa),
    }
    if not all(map(math.isfinite, one.values())) or temperature > HOTTEST * what.temperature + 1000.0:
        message = f"the path blew up: {temperature:.0f} K at {what.temperature:g} K; take a shorter time step"
        raise ValueError(message)
    return one


def _repeats(lattice: Array, atoms: int, wanted: int) -> tuple[int, int, int]:
    times = [1, 1, 1]
    lengths = np.linalg.norm(lattice, axis=1)
    while atoms * math.prod(times) < wanted:
        times[int(np.argmin(lengths * times))] += 1  # the shortest side, so that the cell becomes round
    return times[0], times[1], times[2]


def _crystal(atoms: Any) -> Crystal:
    return Crystal.from_json(
        {
            "lattice": atoms.cell.array.tolist(),
            "species": atoms.get_chemical_symbols(),
            "frac_coords": atoms.get_scaled_positions(wrap=True).tolist(),
        }
    )
