"""Vibrational features: invariance, instability, bounded supercells, the cache, and what a missing package says."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from orchestrator.domain import Array, Candidate, Crystal, Dataset, Objective, Outcome, Problem, Row
from orchestrator.errors import MaterialError, PluginError
from orchestrator.networks import feature_cache, sevennet, vibrations
from orchestrator.surrogates.potential_gp import PotentialGaussianProcess, PotentialGaussianProcessOptions

SALT = Structure(
    Lattice([[0.0, 2.8, 2.8], [2.8, 0.0, 2.8], [2.8, 2.8, 0.0]]), ["Na", "Cl"], [[0.0, 0.0, 0.0], [0.5, 0.5, 0.5]]
)
PLACE = {name: i for i, name in enumerate(vibrations.COLUMNS)}
STIFFNESS = 2.0
"""eV/Å² of the springs below."""


def crystal_of(structure: Structure) -> Crystal:
    """Return a pymatgen structure as a domain value."""
    return Crystal.from_json(
        {
            "lattice": structure.lattice.matrix.tolist(),
            "species": [site.specie.symbol for site in structure],
            "frac_coords": structure.frac_coords.tolist(),
        }
    )


def springs(stiffness: float, seen: list[int] | None = None) -> vibrations.Forces:
    """Return a potential of equal springs between nearest neighbours, along and across their bonds."""

    def forces(cells: Sequence[Any]) -> list[Array]:
        rest = cells[0]
        if seen is not None:
            seen.append(len(rest))
        structure = Structure(Lattice(rest.cell), rest.symbols, rest.scaled_positions)
        centres, others, _, lengths = structure.get_neighbor_list(4.5)
        nearest = lengths < 1.05 * lengths.min()
        found = []
        for cell in cells:
            moved = cell.positions - rest.positions
            force = np.zeros_like(moved)
            np.add.at(force, centres[nearest], stiffness / 6.0 * (moved[others[nearest]] - moved[centres[nearest]]))
            found.append(force)
        return found

    return forces


def test_columns_are_those_of_springs() -> None:
    """A crystal of equal springs has the stiffness put in, its frequencies in closed form, and no instability."""
    row = vibrations.describe(crystal_of(SALT), springs(STIFFNESS))
    assert row.shape == (vibrations.DIMENSION,)
    assert np.all(np.isfinite(row))
    assert row[PLACE["stiffness_mean"]] == pytest.approx(STIFFNESS, rel=1e-3)
    # At the zone's centre the two atoms move against each other: ω² = k (1/m₁ + 1/m₂).
    optical = vibrations.EINSTEIN * np.sqrt(STIFFNESS * (1 / 22.98977 + 1 / 35.453))
    assert row[PLACE["gamma_max"]] == pytest.approx(optical, rel=1e-3)
    assert row[PLACE["frequency_max"]] == pytest.approx(optical, rel=1e-3)
    assert abs(row[PLACE["frequency_min"]]) < 1.0  # acoustic branches start at zero
    assert row[PLACE["unstable_share"]] == 0.0
    quantiles = [row[PLACE[f"frequency_{share:g}"]] for share in vibrations.QUANTILES]
    assert quantiles == sorted(quantiles)


def test_rotation_and_order_of_atoms_change_nothing() -> None:
    """The features of a turned, shifted or reordered cell are those of the original."""
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    turned = Structure(Lattice(SALT.lattice.matrix @ turn), SALT.species, SALT.frac_coords)
    shifted = Structure(SALT.lattice, SALT.species, np.add(SALT.frac_coords, (0.13, 0.4, -0.2)))
    reordered = Structure(SALT.lattice, SALT.species[::-1], SALT.frac_coords[::-1])
    whole = vibrations.describe(crystal_of(SALT), springs(STIFFNESS))
    for other in (turned, shifted, reordered):
        row = vibrations.describe(crystal_of(other), springs(STIFFNESS))
        # 1 cm⁻¹: the density of states is read off a grid of that width.
        np.testing.assert_allclose(row, whole, rtol=1e-3, atol=1.0)


def test_an_unstable_crystal_has_negative_frequencies() -> None:
    """Springs that push give imaginary frequencies, written as negative ones."""
    row = vibrations.describe(crystal_of(SALT), springs(-STIFFNESS))
    assert row[PLACE["frequency_min"]] < -100.0
    assert row[PLACE["unstable_share"]] > 0.5
    assert row[PLACE["einstein_max"]] == 0.0


@pytest.mark.parametrize(("side", "atoms"), [(2.0, 1), (3.0, 2), (4.0, 5), (12.0, 30), (15.0, 120)])
def test_supercells_are_bounded(side: float, atoms: int) -> None:
    """A small cell is repeated up to so many atoms, no side is made longer than needed, a large cell stays alone."""
    repeats = vibrations._repeats(np.diag([side, side, 1.5 * side]), atoms)
    assert atoms * int(repeats.prod()) <= max(vibrations.MOST_ATOMS, atoms)
    assert np.all(repeats * np.array([side, side, 1.5 * side]) < vibrations.LONG_ENOUGH + 1.5 * side)
    if atoms > vibrations.MOST_ATOMS:
        assert repeats.tolist() == [1, 1, 1]


def test_the_potential_sees_the_bounded_supercell() -> None:
    """What the potential is asked about is the supercell, not the cell, and within the bound."""
    seen: list[int] = []
    vibrations.describe(crystal_of(SALT), springs(STIFFNESS, seen))
    assert seen == [2 * int(vibrations._repeats(SALT.lattice.matrix, 2).prod())]
    assert 16 <= seen[0] <= vibrations.MOST_ATOMS


def test_a_cell_without_phonons_is_named() -> None:
    """Forces that are no numbers give an error with the formula."""

    def broken(cells: Sequence[Any]) -> list[Array]:
        return [np.full((len(cell), 3), np.nan) for cell in cells]

    with pytest.raises(MaterialError, match="NaCl"):
        vibrations.describe(crystal_of(SALT), broken)


def test_files_are_read_again_without_the_potential(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CHGNet's phonons of rock salt are sensible, and a second process takes them from disk."""
    monkeypatch.setenv(feature_cache.CACHE_VARIABLE, str(tmp_path))
    crystal = crystal_of(SALT)
    vibrations._cache.cache_clear()
    try:
        first = vibrations.features([crystal])
        assert first.shape == (1, vibrations.DIMENSION)
        assert 100.0 < first[0, PLACE["frequency_max"]] < 400.0  # measured: about 260 cm⁻¹; potentials are soft
        assert {path.suffix for folder in tmp_path.iterdir() for path in folder.iterdir()} == {".safetensors"}
        vibrations._cache.cache_clear()

        def absent(_potential: str) -> None:
            message = "the potential was asked"
            raise AssertionError(message)

        monkeypatch.setattr(vibrations, "_potential", absent)
        np.testing.assert_array_equal(vibrations.features([crystal]), first)
    finally:
        vibrations._cache.cache_clear()


def test_a_missing_package_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without phonopy or sevenn the surrogate is refused when it is built, with what to type."""
    real = importlib.util.find_spec

    def without(name: str, package: str | None = None) -> Any:
        return None if name in {"phonopy", "sevenn"} else real(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", without)
    monkeypatch.setattr(sevennet, "find_spec", without)
    for features, more, command in (
        (("vibrations",), {}, r"pip install 'matloop\[vibrations\]'"),
        (("vibrations",), {"vibrations_by": "sevennet"}, r"phonopy, sevenn.*'matloop\[sevennet\]'"),
        (("sevennet",), {}, r"pip install 'matloop\[sevennet\]'"),
    ):
        with pytest.raises(PluginError, match=command):
            PotentialGaussianProcess(PotentialGaussianProcessOptions(features=features, **more))


def test_knowledge_names_every_potential_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """A surrogate on phonons knows the potential that gave them; one on composition alone knows nothing."""
    monkeypatch.setattr(sevennet, "check_package", lambda: None)
    monkeypatch.setattr(vibrations, "check_packages", lambda _: None)

    def knows(*features: str, **more: Any) -> frozenset[str]:
        return PotentialGaussianProcess(PotentialGaussianProcessOptions(features=features, **more)).knows()

    assert knows("composition") == frozenset()
    assert knows("vibrations") == {"chgnet-0.3.0"}
    assert knows("vibrations", vibrations_by="sevennet") == {"sevennet-0-11jul2024"}
    assert knows("sevennet", "energies") == {"chgnet-0.3.0", "sevennet-0-11jul2024"}


def test_a_surrogate_learns_from_phonons(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With labels that are soft frequencies stretched, a few of them are enough, also after saving and loading."""
    names = ["Li", "Na", "K", "Rb", "Cs"]
    candidates = []
    for k, (cation, anion) in enumerate((c, a) for c in names for a in ("F", "Cl", "Br")):
        structure = Structure(SALT.lattice, [cation, anion], SALT.frac_coords)
        candidates.append(Candidate.make(label=f"{cation}{anion}", crystal=crystal_of(structure), crystal_key=str(k)))

    def described(crystals: Sequence[Crystal], potential: str = "chgnet") -> Array:
        assert potential == "chgnet"
        return np.array([vibrations.describe(crystal, springs(STIFFNESS)) for crystal in crystals], dtype=np.float64)

    monkeypatch.setattr(vibrations, "features", described)
    labels = 1.2 * described([c.crystal for c in candidates if c.crystal])[:, PLACE["frequency_max"]] + 7.0
    rows = [
        Row(i + 1, c, {}, "peak", float(y), None, Outcome.MEASURED, measurement=i)
        for i, (c, y) in enumerate(zip(candidates[:10], labels, strict=False))
    ]
    options = PotentialGaussianProcessOptions(features=("vibrations",))
    surrogate = PotentialGaussianProcess(options)
    problem = Problem((Objective("peak", "cm^-1", "maximize"),))
    surrogate.fit(Dataset(tuple(rows)), problem, seed=0)
    guess = surrogate.predict(candidates[10:]).mean[:, 0]
    assert np.abs(guess - labels[10:]).mean() < 0.1 * labels.std()
    surrogate.save(tmp_path)
    loaded = PotentialGaussianProcess(options)
    loaded.load(tmp_path, problem)
    np.testing.assert_array_equal(loaded.predict(candidates[10:]).mean[:, 0], guess)


def test_sevennet_features_do_not_depend_on_the_description() -> None:
    """Scalars of SevenNet are the same for a turned and reordered cell; energies are an atom's."""
    pytest.importorskip("sevenn", reason="the extra sevennet is not installed")
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    turned = Structure(Lattice(SALT.lattice.matrix @ turn), SALT.species[::-1], SALT.frac_coords[::-1])
    network = sevennet._network()
    rows = [network.describe(crystal_of(structure)) for structure in (SALT, turned, SALT * (2, 1, 1))]
    assert rows[0].shape == (sevennet.DIMENSION,)
    np.testing.assert_allclose(rows[1], rows[0], atol=1e-4)
    np.testing.assert_allclose(rows[2], rows[0], atol=1e-4)
    assert rows[0][-1] == pytest.approx(-3.38, abs=0.05)
