"""One order to an ASE calculator, in a process of its own: `python -m instruments.programs.ase_worker task.json`.

It runs in the job's folder, reads the task and leaves ``answer.json``. The driver beside it, `ase_calculator`, never
imports a calculator: those bring compiled libraries that print, hang and abort.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from instruments.potentials.relaxation import Settings, relax
from orchestrator.domain import Array, Crystal


class Setup(Exception):
    """The calculator cannot be built, or lacks what is asked."""


class FromAse:
    """An ASE calculator with the method that relaxations ask for.

    Args:
        calculator: of ASE.
        stress: whether it gives one.
    """

    def __init__(self, calculator: Any, *, stress: bool) -> None:
        self._calculator = calculator
        self._stress = stress

    def identity(self) -> tuple[str, str]:
        """Return nothing: the driver names the calculator."""
        return "", ""

    def evaluate(self, atoms: Any) -> tuple[float, Array, Array]:
        """Return energy, forces and stress.

        Raises:
            Setup: the calculator does not compute one of them.
            ValueError: it did not converge, or cannot describe the structure.
        """
        import numpy as np  # noqa: PLC0415  ASE and numpy load with the task
        from ase.calculators.calculator import CalculatorError, PropertyNotImplementedError  # noqa: PLC0415  the same

        copy = atoms.copy()
        copy.calc = self._calculator
        try:
            energy, forces = float(copy.get_potential_energy()), copy.get_forces()
            stress = copy.get_stress(voigt=False) if self._stress else np.zeros((3, 3))
        except PropertyNotImplementedError as error:
            message = f"it does not compute {error}; where that is the stress, say stress: false and cell: false"
            raise Setup(message) from error
        except (CalculatorError, NotImplementedError) as error:  # EMT raises the second for elements it does not know
            raise ValueError(str(error) or type(error).__name__) from error
        return energy, forces, stress


def build(name: str, arguments: Mapping[str, Any]) -> Any:
    """Build a calculator.

    Args:
        name: ASE's, or ``package.module:Class``; the driver has checked that the module is allowed.
        arguments: of the class.

    Returns:
        The calculator.

    Raises:
        Setup: there is none, or it does not take the arguments.
    """
    from ase.calculators.calculator import get_calculator_class  # noqa: PLC0415  ASE loads with the task

    module, dotted, attribute = name.partition(":")
    try:
        kind = getattr(importlib.import_module(module), attribute) if dotted else get_calculator_class(name)
        return kind(**arguments)
    except Exception as error:
        message = f"the calculator {name!r} cannot be built: {type(error).__name__}: {error}"
        raise Setup(message) from error


def answer(task: Mapping[str, Any]) -> dict[str, Any]:
    """Carry out a task.

    Args:
        task: calculator, arguments, stress, crystal, settings.

    Returns:
        One of ``relaxed``, ``setup``, ``impossible`` and ``failed``.
    """
    try:
        potential = FromAse(build(task["calculator"], task["arguments"]), stress=task["stress"])
        found = relax(potential, Crystal.from_json(task["crystal"]), Settings(**task["settings"]), lambda _: None)
    except Setup as error:
        return {"setup": str(error)}
    except ValueError as error:
        return {"impossible": str(error)}
    except Exception as error:  # noqa: BLE001  it is told to the driver, which raises it as a fault
        return {"failed": f"{type(error).__name__}: {error}"}
    return {"relaxed": found.to_json()}


def main(arguments: list[str]) -> int:
    """Answer the question on the command line, or the task in a file."""
    if arguments[0] == "--identify":
        question = json.loads(arguments[1])
        try:
            calculator = build(question["calculator"], question["arguments"])
        except Setup as error:
            print(error, file=sys.stderr)  # noqa: T201  the driver reads it
            return 1
        import ase  # noqa: PLC0415  loaded by now

        print(json.dumps([type(calculator).__name__, f"ase {ase.__version__}"]))  # noqa: T201  the driver reads it
        return 0
    found = answer(json.loads(Path(arguments[0]).read_bytes()))
    beside = Path(".answer.json")
    beside.write_text(json.dumps(found), encoding="utf-8")
    beside.replace("answer.json")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
