"""A table as instrument: every way of matching, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from instruments import conformance
from instruments.conformance.orders import QuietEvents
from instruments.table_lookup import TableLookup, TableOptions, reduced_formula
from orchestrator import plugins
from orchestrator.domain import Crystal, Order, Quantity, Result
from orchestrator.errors import BadData, NotConnected, PluginError, Rejected

RUNS = """temperature,gas,strength,sigma,empty
300,air,10.0,0.1,
300,argon,11.0,0.2,
350.0000001,air,20.0,0.3,5
"""


def cubic(a: str, b: str, x: str, length: float) -> Crystal:
    """Make a cubic perovskite."""
    sites = ((0.0, 0.0, 0.0), (0.5, 0.5, 0.5), (0.5, 0.5, 0.0), (0.5, 0.0, 0.5), (0.0, 0.5, 0.5))
    return Crystal(((length, 0.0, 0.0), (0.0, length, 0.0), (0.0, 0.0, length)), (a, b, x, x, x), sites)


def cif(crystal: Crystal) -> str:
    """Write it as CIF, as pymatgen does."""
    from pymatgen.core import Structure  # noqa: PLC0415  slow to import

    return str(Structure(crystal.lattice, list(crystal.species), crystal.frac_coords).to(fmt="cif"))


def shifted(crystal: Crystal) -> Crystal:
    """Describe the same crystal otherwise: another origin, another order of sites."""
    coords = tuple(tuple((c + 0.25) % 1.0 for c in site) for site in reversed(crystal.frac_coords))
    return Crystal(crystal.lattice, tuple(reversed(crystal.species)), coords)  # type: ignore[arg-type]


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Write a table of process runs."""
    path = tmp_path / "runs.csv"
    path.write_text(RUNS, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def crystals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a table of crystals; two of one formula, one unreadable."""
    import pandas as pd  # noqa: PLC0415  slow to import

    path = tmp_path_factory.mktemp("crystals") / "crystals.csv"
    rows = [
        ("a", "SrTiO3", cif(cubic("Sr", "Ti", "O", 3.9)), 1.0),
        ("b", "TiSrO3", cif(cubic("Sr", "Ti", "O", 4.4)), 2.0),
        ("c", "Cs Pb Cl3", cif(cubic("Cs", "Pb", "Cl", 5.6)), 3.0),
        ("d", "KMgF3", "data_broken\n_chemical_formula_sum 'K1 Mg1 F3'\nloop_\n", 4.0),
    ]
    pd.DataFrame(rows, columns=["id", "formula", "cif", "energy"]).to_csv(path)
    return path


def table(file: Path, **options: Any) -> TableLookup:
    """Build a lookup by set-points."""
    columns = {"temperature": {"unit": "degC", "resolution": 1}, "gas": {}}
    given = {"match": "parameters", "parameters": columns, "outputs": {"strength": {"unit": "MPa"}}, **options}
    return TableLookup(TableOptions.model_validate({"file": file, **given}))


def energies(file: Path, match: str, column: str, **options: Any) -> TableLookup:
    """Build a lookup by structure, formula or id."""
    given = {"match": match, "column": column, "outputs": {"energy": {"unit": "eV/atom"}}, **options}
    return TableLookup(TableOptions.model_validate({"file": file, **given}))


async def ask(driver: TableLookup, **given: Any) -> Result:
    """Look something up."""
    try:
        return await driver.run(Order("k", "look_up", **given), QuietEvents())
    finally:
        await driver.close()


def at(temperature: float, gas: str = "air", unit: str = "degC") -> dict[str, Any]:
    """Set-points."""
    return {"settings": {"temperature": Quantity(temperature, unit)}, "choices": {"gas": gas}}


async def test_the_contract(runs: Path) -> None:
    """A table keeps the instrument contract; bounds are those of the table."""
    good = Order("k", "look_up", **at(300.0))
    findings = await conformance.check(table(runs), level=2, order=good)
    assert not [finding for finding in findings if not finding.passed]
    declared = (await table(runs).describe()).capabilities[0].parameters
    assert (declared[0].low, declared[0].high) == (300.0, 350.0000001)
    assert declared[1].choices == ("air", "argon")


@pytest.mark.parametrize("ending", ["csv", "json", "parquet"])
async def test_every_kind_of_file(runs: Path, tmp_path: Path, ending: str) -> None:
    """CSV, JSON records and Parquet give the same answer."""
    import pandas as pd  # noqa: PLC0415  slow to import

    frame, path = pd.read_csv(runs), tmp_path / f"table.{ending}"
    if ending == "json":
        path.write_text(json.dumps(json.loads(frame.to_json(orient="records"))), encoding="utf-8")
    elif ending == "parquet":
        frame.to_parquet(path)
    else:
        path = runs
    result = await ask(table(path), **at(300.0, "argon"))
    assert (result.readings[0].value, result.readings[0].unit) == (11.0, "MPa")


async def test_set_points_match_by_resolution(runs: Path) -> None:
    """Rounding decides, not the comparison of floats; other units are converted first."""
    assert (await ask(table(runs), **at(350.0))).readings[0].value == 20.0
    assert (await ask(table(runs), **at(623.15, unit="kelvin"))).readings[0].value == 20.0
    with pytest.raises(Rejected, match="no row for temperature 320"):
        await ask(table(runs), **at(320.0))


async def test_standard_errors_come_along(runs: Path) -> None:
    """A column of standard errors is read, and noise adds to it."""
    columns = {"strength": {"unit": "MPa", "std_error": "sigma"}}
    assert (await ask(table(runs, outputs=columns), **at(350.0))).readings[0].std_error == pytest.approx(0.3)
    noisy = (await ask(table(runs, outputs=columns, noise={"strength": 0.4}), **at(350.0))).readings[0]
    assert noisy.std_error == pytest.approx(0.5)
    assert noisy.value != 20.0


async def test_noise_depends_on_the_question_alone(runs: Path) -> None:
    """The same seed and question give the same noise, however often it is asked; other seeds give other noise."""
    values = [
        (await ask(table(runs, noise={"strength": 1.0}, seed=seed), **at(temperature))).readings[0].value
        for seed, temperature in [(1, 300.0), (1, 350.0), (1, 300.0), (2, 300.0)]
    ]
    assert values[0] == values[2] != values[3]
    many = [
        (await ask(table(runs, noise={"strength": 1.0}, seed=seed), **at(300.0))).readings[0].value - 10.0
        for seed in range(100)
    ]
    assert 0.75 < np.std(many) < 1.25


async def test_structures_match_by_their_key(crystals: Path) -> None:
    """The same crystal written otherwise is found; one of the same formula and other size is not; none is refused."""
    driver = energies(crystals, "structure", "cif")
    assert (await ask(driver, crystal=shifted(cubic("Sr", "Ti", "O", 4.4)))).readings[0].value == 2.0
    assert (await ask(driver, crystal=cubic("Cs", "Pb", "Cl", 5.6))).readings[0].value == 3.0
    with pytest.raises(Rejected, match="no row for the structure mine"):
        await ask(driver, crystal=cubic("Sr", "Ti", "O", 4.1), label="mine")
    with pytest.raises(Rejected, match="no row"):
        await ask(driver, crystal=cubic("K", "Mg", "F", 4.0))
    with pytest.raises(Rejected, match="needs a structure"):
        await ask(driver)


async def test_only_rows_of_the_formula_are_read_as_structures(crystals: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of CIFs are not parsed for one question."""
    driver = energies(crystals, "structure", "cif")
    read: list[int] = []
    monkeypatch.setattr(driver, "_structure_key", lambda row: read.append(row) or "")
    with pytest.raises(Rejected):
        await ask(driver, crystal=cubic("Cs", "Pb", "Cl", 5.6))
    assert read == [2]


async def test_ids_and_formulas_match_the_label(crystals: Path) -> None:
    """An id is the candidate's label; a formula is that of the structure, else the label, in any spelling."""
    assert (await ask(energies(crystals, "id", "id"), label="b")).readings[0].value == 2.0
    formula = energies(crystals, "composition", "formula")
    assert (await ask(formula, label="PbCsCl3")).readings[0].value == 3.0
    assert (await ask(formula, crystal=cubic("Cs", "Pb", "Cl", 5.0), label="x")).readings[0].value == 3.0
    with pytest.raises(Rejected, match="no chemical formula"):
        await ask(formula, label="tile 7")


async def test_several_rows_are_a_question(crystals: Path) -> None:
    """Two rows of one formula are refused unless the file says which to take."""
    with pytest.raises(Rejected, match=r"rows 1, 2 .* set 'duplicates"):
        await ask(energies(crystals, "composition", "formula"), label="SrTiO3")
    for duplicates, value in (("first", 1.0), ("mean", 1.5)):
        driver = energies(crystals, "composition", "formula", duplicates=duplicates)
        assert (await ask(driver, label="SrTiO3")).readings[0].value == value


async def test_empty_cells_are_bad_data(runs: Path) -> None:
    """A row without the number gives no value, and the message names row and column."""
    driver = table(runs, outputs={"empty": {"unit": "MPa"}})
    with pytest.raises(BadData, match="row 1, column 'empty'"):
        await ask(driver, **at(300.0))


async def test_wrong_files_say_what_is_there(runs: Path, tmp_path: Path) -> None:
    """Missing files, unknown endings and missing columns are named with what was expected."""
    with pytest.raises(NotConnected, match="cannot be read"):
        await table(tmp_path / "none.csv").open()
    with pytest.raises(NotConnected, match=r"\.csv, \.parquet, \.json"):
        await table(tmp_path / "table.xls").open()
    with pytest.raises(PluginError, match="no column weight; its columns are: temperature, gas"):
        await table(runs, outputs={"weight": {"unit": "g"}}).describe()


@pytest.mark.parametrize(
    "options",
    [
        {"match": "parameters"},
        {"match": "id"},
        {"match": "id", "column": "id", "parameters": {"temperature": {}}},
        {"match": "id", "column": "id", "noise": {"weight": 1.0}},
        {"match": "id", "column": "id", "outputs": {}},
        {"match": "id", "column": "id", "outputs": {"energy": {"unit": "a.u."}}},
    ],
)
def test_options_that_contradict_each_other_are_refused(options: dict[str, Any]) -> None:
    """What does not go together fails before anything is opened."""
    with pytest.raises(ValidationError):
        TableOptions.model_validate({"file": "t.csv", "outputs": {"energy": {}}, **options})


def test_relative_files_start_at_the_campaign_file(runs: Path) -> None:
    """A file beside the campaign file is found from anywhere."""
    options = {"file": "runs.csv", "match": "id", "column": "gas", "outputs": {"strength": {"unit": "MPa"}}}
    built = plugins.build("instruments", "table_lookup", options, base=str(runs.parent))
    assert built.options.file == runs


@pytest.mark.parametrize(
    ("text", "formula"),
    [
        ("SrTiO3", "O3Sr1Ti1"),
        ("Sr2 Ti2 O6", "O3Sr1Ti1"),
        ("O3TiSr", "O3Sr1Ti1"),
        ("Cs1Pb1I3", "Cs1I3Pb1"),
        ("tile 7", None),
        ("Sr0.5TiO3", None),
        ("", None),
    ],
)
def test_formulas_have_one_spelling(text: str, formula: str | None) -> None:
    """Order, spaces and common factors do not matter; what is no formula gives None."""
    assert reduced_formula(text) == formula
