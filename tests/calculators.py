"""ASE calculators that misbehave, for the tests of `ase_calculator`."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, ClassVar

from ase.calculators.calculator import CalculationFailed, Calculator, all_changes
from ase.calculators.emt import EMT


class Hanging(EMT):
    """Starts another process, says who they are, and never answers."""

    def calculate(self, *args: Any, **kwargs: Any) -> None:
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        Path("pids.part").write_text(f"{os.getpid()} {child.pid}")
        Path("pids.part").rename("pids")
        time.sleep(60)


class Crashing(EMT):
    """Takes its process with it, as compiled code does."""

    def calculate(self, *args: Any, **kwargs: Any) -> None:
        os.abort()


class Unconverged(EMT):
    """Its self-consistent field does not converge."""

    def calculate(self, *args: Any, **kwargs: Any) -> None:
        message = "SCF not converged in 250 cycles"
        raise CalculationFailed(message)


class Stressless(Calculator):
    """Gives energies and forces only."""

    implemented_properties: ClassVar[list[str]] = ["energy", "forces"]

    def calculate(
        self, atoms: Any = None, properties: Any = ("energy",), system_changes: Any = tuple(all_changes)
    ) -> None:
        super().calculate(atoms, properties, system_changes)
        self.results = {"energy": -1.5 * len(self.atoms), "forces": 0.0 * self.atoms.positions}
