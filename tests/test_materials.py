"""Ions, prototypes, and readers of structure files."""

import json
import math
import subprocess
import sys
from pathlib import Path

import ase.io
import numpy as np
import pandas as pd
import pytest
from ase.build import bulk, molecule
from ase.db import connect
from pymatgen.io.cif import CifWriter

from orchestrator.errors import MaterialError
from orchestrator.materials.files import entries, kind_of, read_table
from orchestrator.materials.ions import octahedral_factor, radius, states, tolerance_factor
from orchestrator.materials.prototypes import perovskite, prototypes, rattled, touching
from orchestrator.materials.structures import check, crystal_key, formula, from_pymatgen, to_pymatgen

SALT = prototypes()["rocksalt"].decorate({"cation": "Na", "anion": "Cl"})


def test_radii_are_shannons() -> None:
    """Radii must be those of Shannon's table, high spin where there are two, and the nearest neighbour number."""
    assert radius("Ti", 4, 6) == pytest.approx(0.605)
    assert radius("Cs", 1, 12) == pytest.approx(1.88)
    assert radius("Fe", 2, 6) == pytest.approx(0.78)
    assert radius("Y", 3, 12) == pytest.approx(1.075)  # nine neighbours are the most that the table has
    with pytest.raises(MaterialError, match=r"no ionic radius for Cs in the state \+4.*\+1"):
        radius("Cs", 4, 6)
    with pytest.raises(MaterialError, match="no element 'Xx'"):
        states("Xx")


def test_factors_of_known_perovskites() -> None:
    """SrTiO3 must have a tolerance factor of 1.00, and CsPbI3 one of 0.85 with an octahedral factor of 0.54."""
    assert tolerance_factor(1.44, 0.605, 1.40) == pytest.approx(1.0016, abs=1e-4)
    assert tolerance_factor(1.88, 1.19, 2.20) == pytest.approx(0.851, abs=1e-3)
    assert octahedral_factor(1.19, 2.20) == pytest.approx(0.541, abs=1e-3)


def test_every_prototype_can_be_built() -> None:
    """Each prototype must give a sound primitive cell with its roles, and name its source."""
    elements = {"atom": "Cu", "cation": "Na", "anion": "Cl", "A": "Sr", "B": "Ti", "X": "O"}
    for name, prototype in prototypes().items():
        assert prototype.source
        structure = prototype.decorate({role: elements[role] for role in prototype.roles})
        check(from_pymatgen(structure, name))
        assert {site.specie.symbol for site in structure} == {elements[role] for role in prototype.roles}
    with pytest.raises(MaterialError, match="needs an element for anion"):
        prototypes()["rocksalt"].decorate({"cation": "Na"})


def test_start_volume_lets_the_closest_ions_touch() -> None:
    """Rock salt must come to an edge of 2 (r+ + r-), the cubic perovskite to the longer of its two conditions."""
    salt = touching(SALT, {"Na": 1.02, "Cl": 1.81})
    assert salt.volume == pytest.approx((2 * 2.83) ** 3 / 4)
    titanate = perovskite({"A": "Sr", "B": "Ti", "X": "O"}, {"A": 1.44, "B": 0.605, "X": 1.40})
    assert titanate.lattice[0][0] == pytest.approx(math.sqrt(2) * 2.84)
    assert formula(titanate) == "SrTiO3"


def test_rattling_moves_every_atom_by_the_distance() -> None:
    """Each atom must move by the stated distance, the same for the same seed."""
    ideal = perovskite({"A": "Sr", "B": "Ti", "X": "O"}, {"A": 1.44, "B": 0.605, "X": 1.40})
    moved = rattled(ideal, 0.05, 4)
    steps = (np.array(moved.frac_coords) - np.array(ideal.frac_coords)) @ np.array(ideal.lattice)
    assert np.linalg.norm(steps, axis=1) == pytest.approx([0.05] * 5)
    assert rattled(ideal, 0.05, 4) == moved != rattled(ideal, 0.05, 5)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Write rock salt in every kind of file."""
    text = str(CifWriter(SALT))
    (tmp_path / "cifs").mkdir()
    (tmp_path / "cifs" / "a.cif").write_text(text)
    (tmp_path / "cifs" / "b.cif").write_text("data_x\nno structure")
    own = from_pymatgen(SALT).to_json()
    (tmp_path / "list.json").write_text(json.dumps({"one": SALT.as_dict(), "two": {"structure": own, "gap": 8.5}}))
    ase.io.write(tmp_path / "frames.xyz", [bulk("NaCl", "rocksalt", a=5.6), molecule("H2O")], format="extxyz")
    with connect(tmp_path / "rows.db") as database:
        database.write(bulk("NaCl", "rocksalt", a=5.6), gap=8.5)
    table = pd.DataFrame(
        {"id": ["x", "y"], "cif": [text, json.dumps(own)], "formula": ["NaN", "Na"], "gap": ["8.5", ""]}
    )
    table.to_csv(tmp_path / "table.csv", index=False)
    table.to_csv(tmp_path / "table.csv.gz", index=False)
    table.to_parquet(tmp_path / "table.parquet")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "kind", "good"),
    [
        ("cifs", "cif", [True, False]),
        ("list.json", "json", [True, True]),
        ("frames.xyz", "extxyz", [True, False]),
        ("rows.db", "ase", [True]),
        ("table.csv", "table", [True, True]),
        ("table.csv.gz", "table", [True, True]),
        ("table.parquet", "table", [True, True]),
    ],
)
def test_every_kind_of_file_is_read(folder: Path, name: str, kind: str, good: list[bool]) -> None:
    """Each kind of file must give its structures, and name the entry that cannot be read."""
    assert kind_of(folder / name) == kind
    found = list(entries(folder / name, kind_of(folder / name), "cif" if kind == "table" else None))
    assert len(found) == len(good)
    for entry, readable in zip(found, good, strict=True):
        assert entry.read is not None
        if readable:
            assert formula(entry.read()) == "NaCl"
        else:
            with pytest.raises(MaterialError, match=entry.name):
                entry.read()


def test_the_same_crystal_is_the_same_from_every_file(folder: Path) -> None:
    """CIF text, JSON of pymatgen and JSON of our own must lead to one identity."""
    keys = set()
    for name in ("cifs", "list.json", "table.csv"):
        kind = kind_of(folder / name)
        first = next(iter(entries(folder / name, kind, "cif" if kind == "table" else None)))
        assert first.read is not None
        keys.add(crystal_key(first.read()))
    assert keys == {crystal_key(from_pymatgen(SALT))}


def test_tables_keep_every_cell_as_text(folder: Path) -> None:
    """The formula NaN is sodium nitride, and an empty cell stays empty, in CSV and Parquet."""
    for name in ("table.csv", "table.parquet"):
        table = read_table(folder / name)
        assert list(table["formula"]) == ["NaN", "Na"]
        assert list(table["gap"]) == ["8.5", ""]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("gone.csv", None, "there is no file or folder"),
        ("data.dat", "x", "no suffix that is known"),
        ("empty", None, "holds no file"),
        ("broken.json", "{", "is no JSON"),
        ("number.json", "3", "holds a int"),
        ("broken.xyz", "what\nis\nthis", "cannot be read as extended XYZ"),
        ("broken.db", "this is no database file of any kind" * 99, "cannot be read as an ASE database"),
        ("nocolumn.csv", "a,b\n1,2\n", "no column 'cif' with structures; its columns: a, b"),
    ],
)
def test_unreadable_files_are_named(tmp_path: Path, name: str, content: str | None, words: str) -> None:
    """A file that cannot be read as a whole must be refused with its name and the reason."""
    path = tmp_path / name
    if content is not None:
        path.write_text(content)
    elif name == "empty":
        path.mkdir()
    with pytest.raises(MaterialError, match=words) as caught:
        list(entries(path, kind_of(path), "cif"))
    assert name in str(caught.value)


def test_parquet_without_pyarrow_names_the_command(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the extra is not installed, the error must say what to type."""

    def refuse(*_args: object) -> None:
        message = "Unable to find a usable engine"
        raise ImportError(message)

    monkeypatch.setattr(pd, "read_parquet", refuse)
    with pytest.raises(MaterialError, match=r"pip install 'matloop\[parquet\]'"):
        read_table(folder / "table.parquet")


def test_structures_convert_for_relaxation() -> None:
    """A crystal must come back from ase unchanged, as the instruments convert it."""
    crystal = from_pymatgen(SALT)
    atoms = to_pymatgen(crystal).to_ase_atoms()
    assert np.allclose(atoms.get_scaled_positions() % 1.0, np.array(crystal.frac_coords) % 1.0)


def test_no_torch_is_loaded() -> None:
    """The rooms of materials and spaces must load without torch: drivers and the checks of a campaign file use them."""
    names = "materials.hull", "materials.perovskite", "materials.files", "materials.competing_recipe", "spaces.pool"
    names += ("spaces.box", "spaces.prototypes")
    code = "import sys\n" + "".join(f"import orchestrator.{name}\n" for name in names)
    code += "sys.exit(bool({'torch', 'prefect', 'chgnet'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
