"""The potential hull against hulls computed by hand."""

import json
from pathlib import Path

import pytest
from pymatgen.core import Composition

from orchestrator.domain import Candidate, Crystal, Measurement, Quality, TrialRecord
from orchestrator.errors import IncompatibleError, MaterialError
from orchestrator.materials.competing import CompetingPhases, Phase, read_phases, write_phases
from orchestrator.materials.hull import Hull, PotentialHull
from orchestrator.plugins import build

ATOM = Crystal(((3.0, 0.0, 0.0), (0.0, 3.0, 0.0), (0.0, 0.0, 3.0)), ("Na",), ((0.0, 0.0, 0.0),))
# By hand: with Na at -1 and Cl at -2 eV/atom, NaCl at -3.5 has a formation energy of -2, NaCl3 at -2.5 one of -0.75:
# the tie line from NaCl to Cl passes x(Cl) = 0.75 at -1, so NaCl3 lies 0.25 above it and is no part of the hull.
ENERGIES = {"Na": -1.0, "Cl2": -2.0, "NaCl": -3.5, "NaCl3": -2.5}


def phases(energies: dict[str, float]) -> tuple[Phase, ...]:
    """Build phases whose structures do not matter."""
    return tuple(Phase(name, "made up", energy, ATOM) for name, energy in energies.items())


def hull_file(folder: Path, energies: dict[str, float]) -> Path:
    """Write a file of competing phases."""
    write_phases(folder / "phases.json", "toy-1", phases(energies), {"unit": "eV/atom"})
    return folder / "phases.json"


def record(formula: str, energy: float | None, unit: str = "eV/atom") -> TrialRecord:
    """Build a completed trial of a composition."""
    measured = Measurement(1, 1, "energy", energy or 0.0, unit, 0.01, Quality.GOOD, 0, None, "relax")
    return TrialRecord(
        1,
        Candidate.make(label=formula, composition=formula),
        {"relax": {"energy": measured}} if energy is not None else {},
    )


@pytest.mark.parametrize(
    ("formula", "energy", "expected"),
    [
        ("NaCl", -3.5, 0.0),
        ("NaCl", -3.6, -0.1),  # more stable than the hull without it
        ("NaCl3", -2.5, 0.25),
        ("Na3Cl", -2.0, 0.25),  # 0.5 Na + 0.5 NaCl: 0.5 × -1 + 0.5 × -3.5 = -2.25
        ("Na", -1.0, 0.0),
    ],
)
def test_energy_above_hull_equals_the_hand_computed_one(formula: str, energy: float, expected: float) -> None:
    """Energies above a binary hull must be those computed by hand."""
    hull = Hull(CompetingPhases("toy-1", phases(ENERGIES), {}))
    assert hull.energy_above(Composition(formula), energy) == pytest.approx(expected, abs=1e-9)


def test_decomposition_names_the_best_mixture() -> None:
    """Na3Cl must fall apart into sodium and salt, half of the atoms each."""
    hull = Hull(CompetingPhases("toy-1", phases(ENERGIES), {}))
    assert hull.decomposition(Composition("Na3Cl")) == pytest.approx({"Na": 0.5, "NaCl": 0.5})


def test_derived_property_reads_the_step(tmp_path: Path) -> None:
    """The plug-in must give value, standard error and unit; other units are converted."""
    hull = build("derived", "potential_hull", {"phases": "phases.json"}, base=str(hull_file(tmp_path, ENERGIES).parent))
    found = hull.compute([record("NaCl3", -2.5)], "relax")[1]
    assert (found.value, found.std_error) == (pytest.approx(0.25), 0.01)
    assert hull.unit() == "eV/atom"
    found = hull.compute([record("NaCl3", -2500.0, "meV/atom")], "relax")[1]
    assert (found.value, found.std_error) == (pytest.approx(0.25), pytest.approx(1e-5))


def test_what_has_no_value_has_a_reason(tmp_path: Path) -> None:
    """A missing element, a missing measurement and a candidate without composition must each say why."""
    hull = PotentialHull(PotentialHull.Options(phases=hull_file(tmp_path, ENERGIES)))
    missing = hull.compute([record("KCl", -3.0)], "relax")[1]
    assert missing.value is None
    assert "no element K" in missing.reason
    assert "no good measurement" in hull.compute([record("NaCl", None)], "relax")[1].reason
    bare = TrialRecord(1, Candidate.make(label="x", parameters={"t": 1.0}), record("NaCl", -3.0).measurements)
    assert "neither a structure" in hull.compute([bare], "relax")[1].reason


def test_version_follows_the_phases(tmp_path: Path) -> None:
    """Another list of competing phases must be another version, so that values are computed anew."""
    one = PotentialHull(PotentialHull.Options(phases=hull_file(tmp_path, ENERGIES))).version()
    other = PotentialHull(PotentialHull.Options(phases=hull_file(tmp_path, {**ENERGIES, "NaCl2": -3.0}))).version()
    assert one != other
    assert one.startswith("potential_hull/1/")


def test_another_potential_is_refused(tmp_path: Path) -> None:
    """Energies of another potential cannot be compared with the file's."""
    hull = PotentialHull(PotentialHull.Options(phases=hull_file(tmp_path, ENERGIES)))
    hull.check_reference(frozenset({"toy-1"}))
    with pytest.raises(IncompatibleError, match="competing phases of toy-1, but the energies come from emt"):
        hull.check_reference(frozenset({"emt"}))


def test_damaged_or_foreign_files_are_refused(tmp_path: Path) -> None:
    """A file that was changed, is of another format or is none must be refused by name."""
    file = hull_file(tmp_path, ENERGIES)
    content = json.loads(file.read_text())
    content["phases"][0]["energy"] -= 1.0
    file.write_text(json.dumps(content))
    with pytest.raises(MaterialError, match="do not match their hash"):
        read_phases(file)
    file.write_text(json.dumps({**content, "format": 99}))
    with pytest.raises(MaterialError, match="has format 99"):
        read_phases(file)
    file.write_text("no json")
    with pytest.raises(MaterialError, match=r"phases\.json cannot be read.*make the file with"):
        read_phases(file)


def test_shipped_phases_cover_the_demonstration() -> None:
    """The file that ships must be whole, name its potential, and have a reference for every element of the demo."""
    shipped = read_phases()
    assert shipped.potential == "chgnet-0.3.0"
    assert len(shipped.about["weights_sha256"]) == 64
    assert len({phase.formula for phase in shipped.phases}) == len(shipped.phases) > 400
    demo = (
        "Li Na K Rb Cs Ag Tl Mg Ca Sr Ba Cd Pb Sn Eu Y La Ce Pr Nd Sm Gd Tb Dy Ho Er Lu Bi Zn Hg Sc In Al Ga Ti Zr Hf"
        " V Nb Ta Cr Mo W Mn Fe Co Ni Cu Si Ge Sb Ru Rh Ir Pd Pt O F Cl Br I"
    )
    assert set(demo.split()) <= Hull(shipped).elements
    for formula in ("CsI", "PbI2", "SrO", "TiO2", "Al2O3", "K2O", "Nb2O5"):
        assert formula in {phase.formula for phase in shipped.phases}
