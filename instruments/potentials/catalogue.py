"""Potentials as evaluators: a structure in, energy, forces and stress out.

CHGNet: Deng et al., Nature Machine Intelligence 5, 1031 (2023), doi:10.1038/s42256-023-00716-3; weights come with its
wheel. EMT: Jacobsen, Stoltze and Nørskov, Surface Science 366, 394 (1996), doi:10.1016/0039-6028(96)00816-3, as in ASE;
a light stand-in for tests, meaningful for a few metals only.

torch, chgnet and ASE are imported inside the functions: this module loads in milliseconds.
"""

from __future__ import annotations

import hashlib
from typing import Any, Literal, Protocol

from orchestrator.domain import Array, Crystal
from orchestrator.errors import Rejected

PotentialName = Literal["chgnet", "emt"]
VERSIONS: dict[PotentialName, str] = {"chgnet": "chgnet-0.3.0", "emt": "emt"}
KNOWS: dict[PotentialName, frozenset[str]] = {"chgnet": frozenset({"chgnet-0.3.0"}), "emt": frozenset()}
EMT_ELEMENTS = frozenset({"H", "C", "N", "O", "Al", "Ni", "Cu", "Pd", "Ag", "Pt", "Au"})
CHGNET_HEAVIEST = 94
"""CHGNet has embeddings for hydrogen to plutonium."""


class Potential(Protocol):
    """What a relaxation needs."""

    def identity(self) -> tuple[str, str]:
        """Return the hash of the weights and the versions of the programs."""

    def evaluate(self, atoms: Any) -> tuple[float, Array, Array]:
        """Return energy (eV), forces (n × 3, eV/angstrom) and stress (3 × 3, eV/angstrom**3) of an ASE `Atoms`.

        Raises:
            ValueError: the structure is outside what the potential can describe, such as an isolated atom.
        """


def refuse_unknown_elements(name: PotentialName, crystal: Crystal) -> None:
    """Check that a potential knows the elements of a structure.

    Args:
        name: of the potential.
        crystal: the structure.

    Raises:
        Rejected: names the elements that it does not know.
    """
    from ase.data import atomic_numbers  # noqa: PLC0415  ASE loads with the first order

    if name == "emt":
        unknown = sorted(set(crystal.species) - EMT_ELEMENTS)
    else:
        unknown = sorted(s for s in set(crystal.species) if not 0 < atomic_numbers.get(s, 0) <= CHGNET_HEAVIEST)
    if unknown:
        there = ", ".join(sorted(EMT_ELEMENTS)) if name == "emt" else "hydrogen to plutonium"
        message = f"the potential {name} does not know {', '.join(unknown)}; it knows {there}"
        raise Rejected(message)


def load(name: PotentialName, threads: int) -> Potential:
    """Load a potential.

    Args:
        name: of the potential.
        threads: that torch may use on the thread that evaluates.

    Returns:
        The evaluator.
    """
    return _Chgnet(threads) if name == "chgnet" else _Emt()


class _Chgnet:
    """CHGNet on the CPU, evaluated directly: ASE's calculator for it prints, and computes magnetic moments too."""

    def __init__(self, threads: int) -> None:
        import torch  # noqa: PLC0415  a second or more; only with the first use
        from chgnet.model import model  # noqa: PLC0415  the same
        from pymatgen.io.ase import AseAtomsAdaptor  # noqa: PLC0415  the same

        self._torch = torch
        self._threads = threads
        self._to_structure = AseAtomsAdaptor.get_structure
        vars(model)["print"] = lambda *_: (
            None
        )  # chgnet prints a line for each network, in the midst of our progress bar
        self._network = model.CHGNet.load(model_name="0.3.0", use_device="cpu", verbose=False)
        self._network.eval()
        self._network.graph_converter.set_isolated_atom_response("error")

    def identity(self) -> tuple[str, str]:
        import importlib.metadata  # noqa: PLC0415  only here

        digest = hashlib.sha256()
        for key, tensor in sorted(self._network.state_dict().items()):
            digest.update(key.encode())
            digest.update(tensor.detach().cpu().numpy().tobytes())
        versions = f"chgnet {importlib.metadata.version('chgnet')}, torch {self._torch.__version__}"
        return digest.hexdigest(), versions

    def evaluate(self, atoms: Any) -> tuple[float, Array, Array]:
        from ase.units import GPa  # noqa: PLC0415  ASE loads with the first order

        if self._torch.get_num_threads() != self._threads:  # a setting of the calling thread
            self._torch.set_num_threads(self._threads)
        graph = self._network.graph_converter(self._to_structure(atoms))
        answer = self._network.predict_graph(graph, task="efs")
        energy = float(answer["e"]) * (len(atoms) if self._network.is_intensive else 1)
        return energy, answer["f"].astype(float), answer["s"].astype(float) * GPa


class _Emt:
    """Effective medium theory of ASE."""

    def __init__(self) -> None:
        from ase.calculators.emt import EMT  # noqa: PLC0415  ASE loads with the first order

        self._make = EMT

    def identity(self) -> tuple[str, str]:
        import ase  # noqa: PLC0415  the same

        return "", f"ase {ase.__version__}"

    def evaluate(self, atoms: Any) -> tuple[float, Array, Array]:
        copy = atoms.copy()
        copy.calc = self._make()
        return float(copy.get_potential_energy()), copy.get_forces(), copy.get_stress(voigt=False)
