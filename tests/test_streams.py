"""Pools of every form are read item by item, and what cannot be read is known by its place."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
from pymatgen.core import Lattice, Structure

from orchestrator.domain import Candidate
from orchestrator.errors import MaterialError
from orchestrator.materials.items import Item, read
from orchestrator.materials.streams import Columns, fingerprint, stream

SALT = Structure(Lattice.cubic(5.64), ["Na"] * 4 + ["Cl"] * 4, [
    [0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0], [0.5, 0, 0], [0, 0.5, 0], [0, 0, 0.5], [0.5, 0.5, 0.5],
])  # fmt: skip
OXIDE = Structure(Lattice.cubic(4.21), ["Mg", "O"], [[0, 0, 0], [0.5, 0.5, 0.5]])
OPTIMADE = {
    "id": "odbx/1",
    "type": "structures",
    "attributes": {
        "lattice_vectors": OXIDE.lattice.matrix.tolist(),
        "cartesian_site_positions": OXIDE.cart_coords.tolist(),
        "species_at_sites": ["Mg1", "O1"],
        "species": [
            {"name": "Mg1", "chemical_symbols": ["Mg"], "concentration": [1.0]},
            {"name": "O1", "chemical_symbols": ["O"], "concentration": [1.0]},
        ],
        "nperiodic_dimensions": 3,
    },
}


def candidates(path: Path, **columns: str) -> list[tuple[str, Candidate | str]]:
    """Read a pool to its end: ids with candidates, or with the reason why there is none."""
    found: list[tuple[str, Candidate | str]] = []
    for item in stream(path, Columns(**columns)):
        try:
            found.append((item.id, read(item)))
        except MaterialError as error:
            found.append((item.id, str(error)))
    return found


def labels(found: list[tuple[str, Candidate | str]]) -> list[tuple[str, str]]:
    """Return ids with labels, or with the beginning of the reason."""
    return [(own, one.label if isinstance(one, Candidate) else "!") for own, one in found]


def tar(path: Path, contents: dict[str, str]) -> None:
    """Write a tar file."""
    with tarfile.open(path, "w:gz") as archive:
        for name, text in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))


def test_folders_and_archives_of_cifs(tmp_path: Path) -> None:
    """A folder, a zip and a tar file give the same items; a broken CIF is one unreadable item among the others."""
    contents = {"a.cif": SALT.to(fmt="cif"), "b.cif": "data_broken\n_cell_length_a x\n", "c.cif": OXIDE.to(fmt="cif")}
    folder = tmp_path / "folder"
    folder.mkdir()
    for name, text in contents.items():
        (folder / name).write_text(text)
    (folder / "notes.txt").write_text("nothing to read")
    with zipfile.ZipFile(tmp_path / "pool.zip", "w") as archive:
        for name, text in contents.items():
            archive.writestr(f"inside/{name}", text)
    tar(tmp_path / "pool.tar.gz", contents)
    wanted = [("a", "NaCl"), ("b", "!"), ("c", "MgO")]
    for pool in (folder, tmp_path / "pool.zip", tmp_path / "pool.tar.gz"):
        assert labels(candidates(pool)) == wanted
    whole = tmp_path / "both.cif"
    whole.write_text(SALT.to(fmt="cif") + OXIDE.to(fmt="cif"))
    assert [label for _, label in labels(candidates(whole))] == ["NaCl", "MgO"]


def test_json_lines_of_each_dialect(tmp_path: Path) -> None:
    """pymatgen's, OPTIMADE's and our own structures, bare or under a key, give the same crystal; lines may be bad."""
    own = {"lattice": OXIDE.lattice.matrix.tolist(), "species": ["Mg", "O"], "frac_coords": OXIDE.frac_coords.tolist()}
    disordered = Structure(OXIDE.lattice, [{"Mg": 0.5, "Ca": 0.5}, "O"], OXIDE.frac_coords)
    lines: list[Any] = [
        OXIDE.as_dict(),
        {"material_id": "mp-1265", "structure": OXIDE.as_dict()},
        OPTIMADE,
        {"id": 7, **own},
        {"key": "text", "cif": OXIDE.to(fmt="cif")},
        {"id": "half", "structure": disordered.as_dict()},
        {"id": "flat", "lattice": [[1, 0, 0], [2, 0, 0], [0, 0, 1]], "species": ["H"], "frac_coords": [[0, 0, 0]]},
        {"id": "empty", "lattice": own["lattice"], "species": [], "frac_coords": []},
    ]
    pool = tmp_path / "pool.jsonl.gz"
    with gzip.open(pool, "wt") as file:
        file.write("\n".join(json.dumps(line) for line in lines) + "\n\n{not json\n")
    found = candidates(pool)
    ids = ["pool.jsonl.gz: line 1", "mp-1265", "odbx/1", "7", "text", "half", "flat", "empty", "pool.jsonl.gz: line 10"]
    assert labels(found) == list(zip(ids, ["MgO"] * 5 + ["!"] * 4, strict=True))
    first = found[0][1]
    for _, other in found[1:4]:
        assert isinstance(first, Candidate)
        assert isinstance(other, Candidate)
        assert other.crystal == first.crystal
    assert "disordered" in str(found[5][1])
    assert "volume" in str(found[6][1])
    assert "no atoms" in str(found[7][1])


def test_documents_frames_and_tables(tmp_path: Path) -> None:
    """An OPTIMADE answer, extended XYZ, CSV with CIFs, with formulas and with parameters are read."""
    (tmp_path / "answer.json").write_text(json.dumps({"data": [OPTIMADE, {"id": "x", "attributes": {}}]}))
    assert labels(candidates(tmp_path / "answer.json")) == [("odbx/1", "MgO"), ("x", "!")]
    lattice = " ".join(str(x) for x in OXIDE.lattice.matrix.ravel())
    frame = f'2\nLattice="{lattice}" Properties=species:S:1:pos:R:3 pbc="T T T"\nMg 0 0 0\nO 2.105 2.105 2.105\n'
    (tmp_path / "frames.xyz").write_text(frame + frame.replace("T T T", "T T F") + "2\ncut off\n")
    assert [label for _, label in labels(candidates(tmp_path / "frames.xyz"))] == ["MgO", "!", "!"]
    cell = OXIDE.to(fmt="cif").replace('"', '""')
    (tmp_path / "cifs.csv").write_text(f'material_id,cif,gap\nm-1,"{cell}",7.8\nm-2,nothing,1\n')
    assert labels(candidates(tmp_path / "cifs.csv")) == [("m-1", "MgO"), ("m-2", "!")]
    (tmp_path / "formulas.csv").write_text("name,formula\nsalt,Na2Cl2\nnot one,Xx3\n")
    assert labels(candidates(tmp_path / "formulas.csv")) == [("salt", "NaCl"), ("not one", "!")]
    (tmp_path / "settings.csv").write_text("id,temperature,gas\nt1,640,N2\nt2,nan,N2\n")
    (one, settings), (_, bad) = candidates(tmp_path / "settings.csv")
    assert one == "t1"
    assert isinstance(settings, Candidate)
    assert dict(settings.parameters) == {"temperature": 640.0, "gas": "N2"}
    assert "finite" in str(bad)
    with pytest.raises(MaterialError, match=r"no column 'energy'; it has: name, formula"):
        candidates(tmp_path / "formulas.csv", formula="energy")


def test_parquet_is_read_in_batches(tmp_path: Path) -> None:
    """A Parquet table gives its rows in order, nested structures included."""
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet  # noqa: PLC0415  an extra

    table = pyarrow.table({"id": [f"m{i}" for i in range(2500)], "formula": ["MgO"] * 2500})
    parquet.write_table(table, tmp_path / "pool.parquet")
    items = list(stream(tmp_path / "pool.parquet"))
    assert [item.id for item in items] == [f"m{i}" for i in range(2500)]
    assert items[-1].share == 1.0
    assert read(items[0]).composition == "MgO"


def test_what_is_wrong_with_a_pool_is_named(tmp_path: Path) -> None:
    """No such file, an unknown suffix, an empty folder, a cut-off archive and a huge cell each have their message."""
    with pytest.raises(MaterialError, match="there is no file"):
        list(stream(tmp_path / "no.jsonl"))
    (tmp_path / "pool.odt").write_text("")
    with pytest.raises(MaterialError, match=r"no suffix that is known.*\.jsonl"):
        list(stream(tmp_path / "pool.odt"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(MaterialError, match=r"no file \*\.cif"):
        list(stream(tmp_path / "empty"))
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(b'"MgO"\n' * 5000)[:-20])
    with pytest.raises(MaterialError, match=r"to its end: EOFError.*whole copy"):
        list(stream(tmp_path / "cut.jsonl.gz"))
    item = Item(1, "big", "big", "json", json.dumps((OXIDE * (2, 2, 2)).as_dict()))
    with pytest.raises(MaterialError, match=r"16 atoms.*at most 15"):
        read(item, most_atoms=15)
    assert len(read(item, most_atoms=16).crystal.species) == 16  # type: ignore[union-attr]


def test_the_fingerprint_follows_the_content(tmp_path: Path) -> None:
    """Changing, adding or renaming a file changes a folder's fingerprint; touching it does not."""
    (tmp_path / "a.cif").write_text("one")
    first = fingerprint(tmp_path)
    (tmp_path / "a.cif").touch()
    assert fingerprint(tmp_path) == first
    (tmp_path / "a.cif").rename(tmp_path / "b.cif")
    second = fingerprint(tmp_path)
    (tmp_path / "b.cif").write_text("two")
    assert len({first, second, fingerprint(tmp_path), fingerprint(tmp_path / "b.cif")}) == 4
