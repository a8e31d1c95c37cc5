"""The list of competing phases, and that the shipped energies can be made again."""

import pytest

from orchestrator.materials.competing import Phase, read_phases
from orchestrator.materials.competing_recipe import (
    ANIONS,
    STATES,
    Relaxer,
    Start,
    element_start,
    refined,
    relaxed_phase,
    starts,
)
from orchestrator.materials.structures import check

AGAIN = ("Cu", "NaCl", "CsI", "SrO", "CaF2")
SAME = 2e-3
"""eV/atom between two machines: rounding may change the path of a relaxation, not where it ends."""


@pytest.fixture(scope="module")
def relaxer() -> Relaxer:
    """Load the potential once."""
    return Relaxer()


def test_every_start_is_a_sound_structure() -> None:
    """Starts must have the stated elements, no atoms on top of each other, and a sensible volume."""
    found = list(starts({"Na": (1,), "Ti": (2, 3, 4), "Mn": (2, 3, 4), "Ba": (2,), "Zn": (2,)}, {"O": 2, "Cl": 1}))
    assert {start.formula for start in found} >= {"Na", "O2", "Cl2", "Na2O", "Na2O2", "TiO2", "Ti2O3", "Mn3O4", "BaO2"}
    for start in found:
        assert 5 < start.structure.volume / len(start.structure) < 130


def test_every_cation_has_a_binary_with_every_anion() -> None:
    """No pair of ions of the list may be without a competing phase in the shipped file."""
    formulas = [phase.formula for phase in read_phases().phases]
    for cation in STATES:
        for anion in ANIONS:
            assert any(
                formula.startswith(cation) and formula.rstrip("0123456789").endswith(anion) for formula in formulas
            )


def test_shipped_structures_are_sound() -> None:
    """Every relaxed structure that ships must pass the check of any structure, and match its formula."""
    for phase in read_phases().phases:
        check(phase.crystal, phase.formula)
        assert -15 < phase.energy < 0


def start_of(phase: Phase) -> Start:
    """Build the structure that a shipped phase started from."""
    if phase.formula in STATES:
        return element_start(phase.formula, phase.prototype)
    elements = set(phase.crystal.species)
    cations = {element: STATES[element] for element in elements & set(STATES)}
    anions = {element: ANIONS[element] for element in elements & set(ANIONS)}
    (start,) = [s for s in starts(cations, anions) if (s.formula, s.prototype) == (phase.formula, phase.prototype)]
    return start


@pytest.mark.parametrize("formula", AGAIN)
def test_shipped_energies_can_be_made_again(formula: str, relaxer: Relaxer) -> None:
    """Relaxing from the same prototype must give the energy that ships."""
    (shipped,) = [phase for phase in read_phases().phases if phase.formula == formula]
    made = refined(relaxed_phase(start_of(shipped), relaxer), relaxer)
    assert made.energy == pytest.approx(shipped.energy, abs=SAME)
    assert made.converged
