"""Make the file of competing phases: elements and binaries from prototypes, relaxed with CHGNet.

Run it as ``python -m orchestrator.materials.competing_recipe --out FILE``. It takes about twenty minutes of one core.
CHGNet: B. Deng et al., Nat. Mach. Intell. 5, 1031 (2023), doi:10.1038/s42256-023-00716-3.

What the list leaves out, so that materials look more stable than they are: ternary and higher phases, intermetallics,
and binaries whose ground state is none of the prototypes here. Ytterbium is in the list, but the data that the
potential learned from has it divalent only: leave it out of searches.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from pymatgen.core import Element, Structure

from orchestrator.domain import Crystal, sha256
from orchestrator.errors import MaterialError
from orchestrator.materials.competing import Phase, write_phases
from orchestrator.materials.ions import radius, states
from orchestrator.materials.prototypes import prototypes, touching
from orchestrator.materials.structures import from_pymatgen, to_pymatgen

POTENTIAL = "chgnet-0.3.0"
COARSE, FINE = 0.1, 0.03
"""Largest force in eV/angstrom: every start is relaxed to the first, the lowest one of a composition to the second."""
STEPS = 150
"""At most, in each of the two relaxations."""
SHRUNK, GROWN = 0.4, 2.5
"""Bounds of the volume after relaxation over the one before; outside, the potential has left what it knows."""

STATES: Mapping[str, tuple[int, ...]] = {
    **dict.fromkeys(["Li", "Na", "K", "Rb", "Cs"], (1,)),
    **dict.fromkeys(["Mg", "Ca", "Sr", "Ba", "Zn", "Cd", "Hg"], (2,)),
    **dict.fromkeys(["Sc", "Y", "La", "Nd", "Gd", "Tb", "Dy", "Ho", "Er", "Lu", "Al", "Ga"], (3,)),
    **dict.fromkeys(["Zr", "Hf"], (4,)),
    "Ag": (1, 2), "Cu": (1, 2), "Tl": (1, 3), "In": (1, 3), "Eu": (2, 3), "Yb": (2, 3), "Sm": (2, 3),
    "Ce": (3, 4), "Pr": (3, 4), "Ti": (2, 3, 4), "V": (2, 3, 4, 5), "Nb": (2, 4, 5), "Ta": (4, 5),
    "Cr": (2, 3, 4, 6), "Mo": (2, 3, 4, 6), "W": (4, 6), "Mn": (2, 3, 4), "Fe": (2, 3), "Co": (2, 3, 4), "Ni": (2, 4),
    "Ru": (3, 4), "Rh": (3, 4), "Ir": (3, 4), "Pd": (2, 4), "Pt": (2, 4), "Si": (4,), "Ge": (2, 4), "Sn": (2, 4),
    "Pb": (2, 4), "Sb": (3, 5), "Bi": (3, 5),
}  # fmt: skip
"""Cations and the states in which they are tried against every anion."""
ANIONS: Mapping[str, int] = {"O": 2, "F": 1, "Cl": 1, "Br": 1, "I": 1}

METALS = ("fcc", "bcc", "hcp")
ELEMENTS: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(["La", "Ce", "Pr", "Nd"], (*METALS, "dhcp")),
    **dict.fromkeys(["Sm", "Gd"], (*METALS, "alpha_sm")),
    **dict.fromkeys(["Si", "Ge"], ("diamond", "beta_tin")),
    **dict.fromkeys(["Sb", "Bi"], ("alpha_arsenic", "bcc")),
    "Sn": ("diamond", "beta_tin", "fcc"), "In": ("indium", "fcc"), "Ga": ("alpha_gallium", "fcc"),
    "Mn": (*METALS, "alpha_manganese"), "Hg": ("alpha_mercury", "fcc"),
}  # fmt: skip
"""Structures tried for an element; those not named are tried as simple metals."""
MOLECULES: Mapping[str, tuple[str, float]] = {
    "O": ("alpha_oxygen", 17.4), "F": ("chlorine", 16.0), "Cl": ("chlorine", 27.5), "Br": ("bromine", 33.6),
    "I": ("iodine", 40.7),
}  # fmt: skip
"""Molecular crystal, and measured volume in cubic angstrom per atom at low temperature. The cell is kept: the potential
does not hold molecules together, and lone molecules are outside of what it was trained on."""

LARGE = frozenset(["Ca", "Sr", "Ba", "Pb", "Sn", "Eu", "Yb", "Sm"])
"""Divalent ions large enough for nine neighbours."""
BIXBYITES = frozenset(["Sc", "Y", "In", "Mn", "Tl", "Eu", "Sm", "Gd", "Tb", "Dy", "Ho", "Er", "Yb", "Lu", "Nd", "Bi"])
"""Whose sesquioxide may have the bixbyite structure; 40 atoms, so it is tried only there."""
LONE_PAIRS = frozenset(["Sb", "Bi"])
SPINELS = frozenset(["Mn", "Fe", "Co"])
PEROXIDES = frozenset(["Li", "Na", "K", "Rb", "Cs", "Ca", "Sr", "Ba"])

HALIDES: Mapping[int, tuple[str, ...]] = {
    1: ("rocksalt", "cesium_chloride", "zincblende", "thallium_iodide"),
    2: ("fluorite", "rutile", "cadmium_iodide", "cadmium_chloride"),
    3: ("rhenium_trioxide", "bismuth_iodide", "aluminium_chloride", "iron_fluoride", "lanthanum_chloride"),
    4: ("tin_fluoride", "silicon_fluoride"),
}
OXIDES: Mapping[int, tuple[str, ...]] = {
    1: ("fluorite", "cuprite", "cadmium_chloride"),  # the first and last with the roles exchanged
    2: ("rocksalt", "wurtzite", "nickel_arsenide", "litharge", "cooperite"),
    3: ("corundum", "lanthanum_oxide"),
    4: ("rutile", "fluorite", "anatase", "baddeleyite"),
    5: ("vanadium_pentoxide",),
    6: ("rhenium_trioxide",),
}


@dataclass(frozen=True)
class Start:
    """One structure to relax."""

    prototype: str
    structure: Structure
    cell: bool = True
    """Whether the cell is relaxed too."""

    @property
    def formula(self) -> str:
        """Reduced formula."""
        return str(self.structure.composition.reduced_formula)


def starts(cations: Mapping[str, Sequence[int]] = STATES, anions: Mapping[str, int] = ANIONS) -> Iterator[Start]:
    """Give every structure to relax, elements first.

    Args:
        cations: element → oxidation states.
        anions: element → charge without its sign.

    Yields:
        Structures in which ions, atoms or molecules just touch.
    """
    for element in sorted({*cations, *anions}):
        for name in (MOLECULES[element][0],) if element in MOLECULES else ELEMENTS.get(element, METALS):
            yield element_start(element, name)
    for cation, tried in cations.items():
        for anion, charge in anions.items():
            for state in tried:
                for name in _kinds(cation, state, anion, charge):
                    yield binary_start(name, cation, state, anion, charge)
            if anion == "O" and cation in SPINELS:
                yield binary_start("spinel", cation, 3, anion, charge)
            if anion == "O" and cation in PEROXIDES:
                name = "lithium_peroxide" if cation in {"Li", "Na"} else "barium_peroxide"
                yield binary_start(name, cation, tried[0], anion, charge)


def element_start(element: str, name: str) -> Start:
    """Build an element in a prototype: atoms that touch by their atomic radius, molecules in their measured cell."""
    structure = prototypes()[name].decorate({"atom": element})
    if element in MOLECULES:
        structure.scale_lattice(MOLECULES[element][1] * len(structure))
        return Start(name, structure, cell=False)
    return Start(name, touching(structure, {element: float(Element(element).atomic_radius)}, unlike=False))


def binary_start(name: str, cation: str, state: int, anion: str, charge: int) -> Start:
    """Build a binary in a prototype whose closest ions touch; roles are exchanged where cations outnumber anions."""
    exchanged = state < charge and name in {"fluorite", "cadmium_chloride"}
    roles = {"cation": anion, "anion": cation} if exchanged else {"cation": cation, "anion": anion}
    known = state if state in states(cation) else states(cation)[0]
    radii = {cation: radius(cation, known, 6), anion: radius(anion, -charge, 6)}
    return Start(name, touching(prototypes()[name].decorate(roles), radii))


def _kinds(cation: str, state: int, anion: str, charge: int) -> tuple[str, ...]:
    extra: list[str] = []
    if charge == 1:
        if state == 2 and cation in LARGE:  # noqa: PLR2004  the oxidation state
            extra += ["cotunnite"]
        if cation == "Zn":
            extra += ["cristobalite"]
        return (*HALIDES.get(state, ()), *extra)
    if anion == "O":
        extra += {("Cu", 2): ["tenorite"], ("Si", 4): ["quartz"], ("Ge", 4): ["quartz"]}.get((cation, state), [])
        if state == 3:  # noqa: PLR2004  the oxidation state
            extra += ["bixbyite"] if cation in BIXBYITES else []
            extra += ["valentinite"] if cation in LONE_PAIRS else []
    return (*OXIDES.get(state, ()), *extra)


class Relaxer:
    """Relaxes cells with CHGNet on one core, the same way every time."""

    def __init__(self) -> None:
        import torch  # noqa: PLC0415  heavy, and only the recipe needs it
        from chgnet.model import CHGNet  # noqa: PLC0415  the same
        from chgnet.model.dynamics import CHGNetCalculator  # noqa: PLC0415  the same

        torch.set_num_threads(1)
        network = CHGNet.load(model_name="0.3.0", use_device="cpu", verbose=False)
        self._calculator = CHGNetCalculator(network, use_device="cpu")

    def relax(self, start: Start, fmax: float) -> tuple[Structure, float, bool]:
        """Relax positions, and the cell unless it is kept.

        Args:
            start: structure.
            fmax: largest force allowed at the end, in eV/angstrom.

        Returns:
            Relaxed structure, energy in eV per atom, whether the force bound was reached.
        """
        from ase.filters import FrechetCellFilter  # noqa: PLC0415  only the recipe needs it
        from ase.optimize import BFGS  # noqa: PLC0415  the same

        atoms = start.structure.to_ase_atoms()
        atoms.calc = self._calculator
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Converting a tensor with requires_grad=True")  # chgnet's own
            converged = BFGS(FrechetCellFilter(atoms) if start.cell else atoms, logfile=None).run(fmax, STEPS)
        relaxed = Structure(atoms.cell.array, atoms.get_chemical_symbols(), atoms.get_scaled_positions())
        return relaxed, float(atoms.get_potential_energy()) / len(atoms), bool(converged)


def relaxed_phase(start: Start, relaxer: Relaxer, fmax: float = COARSE) -> Phase:
    """Relax one start.

    Raises:
        MaterialError: the relaxation left what the potential knows: atoms on top of each other, a collapsed or blown-up
            cell, or no finite energy.
    """
    structure, energy, converged = relaxer.relax(start, fmax)
    ratio = structure.volume / start.structure.volume
    if not (np.isfinite(energy) and SHRUNK < ratio < GROWN):
        message = f"{start.formula} ({start.prototype}): {energy} eV/atom at {ratio:.2f} of the start volume"
        raise MaterialError(message)
    crystal = from_pymatgen(structure, f"{start.formula} ({start.prototype})")
    return Phase(start.formula, start.prototype, round(energy, 6), _rounded(crystal), converged)


def refined(phase: Phase, relaxer: Relaxer) -> Phase:
    """Relax a coarsely relaxed phase further."""
    cell = not set(phase.crystal.species) <= set(MOLECULES)
    return relaxed_phase(Start(phase.prototype, to_pymatgen(phase.crystal), cell=cell), relaxer, FINE)


def _rounded(crystal: Crystal) -> Crystal:
    content: Any = crystal.to_json()
    for key in ("lattice", "frac_coords"):
        content[key] = [[round(value, 5) for value in row] for row in content[key]]
    return Crystal.from_json(content)


def _weights_sha256() -> str:
    import chgnet  # noqa: PLC0415  see Relaxer

    (path,) = (Path(chgnet.__file__).parent / "pretrained" / "0.3.0").glob("*.pth.tar")
    return sha256(path.read_bytes())


@click.command()
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), required=True, help="the file to write")
def main(out: Path) -> None:
    """Relax every start, keep the lowest one of each composition, and write the file."""
    from importlib.metadata import version  # noqa: PLC0415  beside its only use

    relaxer = Relaxer()
    best: dict[str, Phase] = {}
    left_out: list[str] = []
    tried = 0
    for tried, start in enumerate(starts(), start=1):
        try:
            phase = relaxed_phase(start, relaxer)
        except MaterialError as error:
            left_out.append(str(error))
            continue
        if phase.formula not in best or phase.energy < best[phase.formula].energy:
            best[phase.formula] = phase
        sys.stderr.write(f"{tried} {phase.formula} {phase.prototype} {phase.energy:.4f} {phase.converged}\n")
    phases = [refined(phase, relaxer) for phase in best.values()]
    about = {
        "unit": "eV/atom",
        "package": f"chgnet {version('chgnet')}",
        "weights_sha256": _weights_sha256(),
        "command": "python -m orchestrator.materials.competing_recipe --out FILE",
        "relaxation": f"ase BFGS, FrechetCellFilter (molecular crystals: positions only), fmax {COARSE} then {FINE}"
        f" eV/angstrom, at most {STEPS} steps, CPU",
        "sources": "orchestrator/materials/data/prototypes.json names the source of each prototype",
        "tried": tried,
        "left_out": left_out,
    }
    made = write_phases(out, POTENTIAL, phases, about)
    click.echo(f"{len(made.phases)} phases from {tried} structures, {len(left_out)} left out: {out}")


if __name__ == "__main__":
    main()
