"""Pools and prototypes as search spaces."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pymatgen.io.cif import CifWriter

from orchestrator.errors import PluginError, SpaceError
from orchestrator.materials.perovskite import why_not
from orchestrator.materials.prototypes import prototypes
from orchestrator.plugins import build
from orchestrator.protocols import FiniteSpace

SITES = {"A": ["Cs", "K", "Sr"], "B": ["Pb", "Ti", "Sn"], "X": ["I", "O"]}
A = "Li Na K Rb Cs Ag Tl Mg Ca Sr Ba Cd Pb Sn Eu Y La Ce Pr Nd Sm Gd Tb Dy Ho Er Lu Bi"
B = "Li Mg Ca Sr Zn Cd Hg Sc Y In Al Ga Ti Zr Hf V Nb Ta Cr Mo W Mn Fe Co Ni Cu Ag Si Ge Sn Pb Sb Bi Ru Rh Ir Pd Pt Eu"
WIDE = {
    "sites": {"A": A.split(" "), "B": B.split(" "), "X": ["O", "F", "Cl", "Br", "I"]},
    "tolerance_factor": [0.75, 1.1],
    "octahedral_factor": [0.3, 1.0],
}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda name: str(tmp_path / "cache" / name))


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Write a table of two structures, three compositions and a temperature."""
    salts = [prototypes()[name].decorate({"cation": "Na", "anion": "Cl"}) for name in ("rocksalt", "cesium_chloride")]
    texts = [str(CifWriter(salt)) for salt in salts]
    frame = pd.DataFrame(
        {
            "material_id": ["mp-1", "mp-2", "mp-3"],
            "cif": [texts[0], texts[1], "data_x\nnothing"],
            "formula": ["NaN", "Na2N2", "Cs0.5Rb0.5PbI3"],
            "T": ["300", "449.6", "12"],
            "gas": ["air", "argon", "air"],
            "gap": ["8.5", "8.1", "1"],
        }
    )
    path = tmp_path / "table.csv"
    frame.to_csv(path, index=False)
    return path


def pool(path: Path, **options: Any) -> Any:
    """Build a pool from the folder of its file."""
    return build("spaces", "pool", {"path": path.name, **options}, base=str(path.parent))


# --- prototypes -------------------------------------------------------------------------------------------------------


def test_decorations_are_charge_neutral_and_named_a_first() -> None:
    """Only neutral decorations must be candidates, each called after its formula with A first."""
    space = build("spaces", "prototypes", {"sites": SITES})
    labels = {candidate.label for candidate in space.candidates()}
    assert labels == {"CsPbI3", "CsTiI3", "CsSnI3", "KPbI3", "KTiI3", "KSnI3", "SrPbO3", "SrTiO3", "SrSnO3"}
    for candidate in space.candidates():
        charges = candidate.attributes["oxidation_states"]
        assert sum(charges[symbol] for symbol in candidate.crystal.species) == 0
    assert space.offers() == {"structure", "composition"}
    assert space.summary()["left_out_by_not_charge_neutral"] == 9


def test_windows_leave_out_what_does_not_fit() -> None:
    """The windows must be obeyed, and the summary must say how many each removed."""
    space = build("spaces", "prototypes", {"sites": SITES, "tolerance_factor": [0.8, 1.1]})
    factors = [candidate.attributes["tolerance_factor"] for candidate in space.candidates()]
    assert all(0.8 <= factor <= 1.1 for factor in factors)
    assert len(factors) + space.summary()["left_out_by_tolerance_factor"] == 9


def test_rattle_depends_on_the_composition_and_the_seed_alone() -> None:
    """A candidate must keep its id when the space grows, and get another when the seed changes."""
    few = build("spaces", "prototypes", {"sites": {"A": ["Cs"], "B": ["Pb"], "X": ["I"]}})
    many = {c.label: c.id for c in build("spaces", "prototypes", {"sites": SITES}).candidates()}
    assert few.candidates()[0].id == many["CsPbI3"]
    reseeded = build("spaces", "prototypes", {"sites": SITES, "rattle_seed": 1})
    assert many["CsPbI3"] not in {candidate.id for candidate in reseeded.candidates()}
    ideal = build("spaces", "prototypes", {"sites": SITES, "rattle": 0})
    assert ideal.candidates()[0].crystal.frac_coords[1] == (0.0, 0.0, 0.0)


def test_the_demonstration_has_a_thousand_candidates() -> None:
    """The space of the demonstration must hold more than a thousand different perovskites."""
    space = build("spaces", "prototypes", WIDE)
    assert isinstance(space, FiniteSpace)
    found = space.candidates()
    assert len(found) == 1019
    assert len({candidate.id for candidate in found}) == 1019
    assert space.get(found[7].id) is found[7]
    assert space.sample(5, 3) == space.sample(5, 3) != space.sample(5, 4)
    for candidate in space.sample(25, 0):
        assert why_not(candidate.crystal) == ""
        assert candidate.id == type(candidate).from_json(json.loads(json.dumps(candidate.to_json()))).id


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sites": {"A": ["Cs"], "B": ["Pb"], "X": ["O"]}}, "no candidates .*not charge neutral: 1"),
        ({"sites": SITES, "tolerance_factor": [2, 3]}, "left out by tolerance factor: 9"),
        ({"sites": {**SITES, "A": ["Qq"]}}, "no element 'Qq'"),
        ({"sites": {**SITES, "A": ["He"]}}, "no ionic radius for He"),
        ({"sites": SITES, "oxidation_states": {"Cs": [3]}}, r"Cs has no ionic radius in the state \+3"),
    ],
)
def test_impossible_prototype_spaces_say_why(options: dict[str, Any], words: str) -> None:
    """A space without candidates or with impossible elements must say what removed them."""
    with pytest.raises(SpaceError, match=words):
        build("spaces", "prototypes", options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sites": {"A": ["Cs"], "B": ["Pb"]}}, "lacks X"),
        ({"sites": {**SITES, "A": ["Cs", "Cs"]}}, "names Cs twice"),
        ({"sites": SITES, "tolerance_factor": [1.1, 0.8]}, "is empty"),
        ({"sites": SITES, "prototype": "spinel"}, "perovskite"),
    ],
)
def test_wrong_prototype_options_are_refused(options: dict[str, Any], words: str) -> None:
    """Options that mean nothing must be refused before anything is built."""
    with pytest.raises(PluginError, match=words):
        build("spaces", "prototypes", options)


# --- pool -------------------------------------------------------------------------------------------------------------


def test_pool_of_structures(table: Path) -> None:
    """Structures must become candidates with formula, source id and the columns that are kept."""
    space = pool(table, id_column="material_id", keep=["gap"], unreadable="skip")
    first, second = space.candidates()
    assert (first.label, first.attributes["source_id"], first.attributes["gap"]) == ("NaCl", "mp-1", 8.5)
    assert first.id != second.id
    assert space.offers() == {"structure", "composition"}
    summary = space.summary()
    assert summary["left_out_by_unreadable"] == 1
    assert "row 3" in summary["unreadable"][0]


def test_unreadable_entries_are_refused_unless_told_otherwise(table: Path) -> None:
    """One unreadable structure must stop the pool, named, with the option that skips it."""
    with pytest.raises(SpaceError, match=r"table\.csv: row 3 cannot be read.*'unreadable: skip'"):
        pool(table)


def test_pool_of_compositions_finds_duplicates(table: Path) -> None:
    """NaN and Na2N2 are one composition: refused by name, or dropped and counted."""
    with pytest.raises(SpaceError, match=r"1 entries .*row 2 = table\.csv: row 1 \(NaN\).*duplicates: drop"):
        pool(table, composition_column="formula")
    space = pool(table, composition_column="formula", duplicates="drop", label_column="material_id")
    assert [candidate.composition for candidate in space.candidates()] == ["NaN", "CsRb(PbI3)2"]
    assert space.candidates()[1].label == "mp-3"
    assert space.summary()["left_out_by_duplicates"] == 1


def test_pool_of_parameters(table: Path) -> None:
    """Columns of numbers are rounded to their resolution, columns of names are kept as names."""
    space = pool(
        table, parameters={"temperature": {"column": "T", "unit": "degC", "resolution": 5}, "gas": {"text": True}}
    )
    assert [dict(candidate.parameters) for candidate in space.candidates()] == [
        {"temperature": 300.0, "gas": "air"},
        {"temperature": 450.0, "gas": "argon"},
        {"temperature": 10.0, "gas": "air"},
    ]
    assert space.offers() == {"parameters"}
    with pytest.raises(SpaceError, match=r"row 1: 'gas' is 'air'; a number in dimensionless was expected"):
        pool(table, parameters={"gas": {}})


def test_filters_are_counted(table: Path) -> None:
    """Filters must leave out what they say; where nothing is left the counts are told."""
    options = {"unreadable": "skip", "id_column": "material_id"}
    assert len(pool(table, **options, filters={"max_atoms": 2}).candidates()) == 2
    with pytest.raises(SpaceError, match=r"no candidates \(left out by unreadable: 1; left out by without: 2\)"):
        pool(table, **options, filters={"without": ["Na"]})
    with pytest.raises(SpaceError, match="left out by elements: 2"):
        pool(table, **options, filters={"elements": ["K", "Cl"]})
    with pytest.raises(PluginError, match="no element 'Zz'"):
        pool(table, filters={"without": ["Zz"]})


def test_unknown_columns_are_named(table: Path) -> None:
    """A column that is not there must be named with those that are."""
    with pytest.raises(SpaceError, match="no column 'mass'; there are: material_id, formula, T, gas, gap"):
        pool(table, keep=["mass"])
    with pytest.raises(SpaceError, match="no column 'xyz' with structures"):
        pool(table, structure_column="xyz")
    with pytest.raises(SpaceError, match="no file or folder"):
        pool(table.with_name("gone.csv"))


def test_cache_gives_the_same_candidates_and_heals(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second reading must come from the cache, a changed file or option must not, a damaged entry is replaced."""
    first = pool(table, unreadable="skip")
    assert first.summary()["cache"] == "written"
    (stored,) = (tmp_path / "cache").rglob("*.json")
    monkeypatch.setattr("orchestrator.spaces.pool.entries", None)  # reading again would fail
    again = pool(table, unreadable="skip")
    assert again.candidates() == first.candidates()
    assert again.summary()["sha256"] == first.summary()["sha256"]
    monkeypatch.undo()
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda name: str(tmp_path / "cache" / name))
    stored.write_text(stored.read_text().replace("NaCl", "NaBr"))
    assert pool(table, unreadable="skip").candidates() == first.candidates()
    assert len(pool(table, unreadable="skip", filters={"max_atoms": 2}, keep=["gap"]).candidates()) == 2
    assert len(list((tmp_path / "cache").rglob("*.json"))) == 2


def test_a_cache_that_cannot_be_written_is_told(table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache folder that cannot be made must cost nothing but time, and be told in the summary."""
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda _name: str(tmp_path / "file"))
    assert pool(table, unreadable="skip").summary()["cache"].startswith("not written: ")


def test_one_identity_across_spaces(tmp_path: Path) -> None:
    """The same crystal must be the same candidate from a pool and from a prototype space."""
    space = build("spaces", "prototypes", {"sites": {"A": ["Cs"], "B": ["Pb"], "X": ["I"]}})
    crystal = space.candidates()[0].crystal
    (tmp_path / "one.json").write_text(json.dumps([crystal.to_json()]))
    assert pool(tmp_path / "one.json").candidates()[0].id == space.candidates()[0].id
