"""Past results from a table of one's own: columns, units, matching to the space, errors with their line."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.config.past_results import PastResults, TableOptions, read_table
from orchestrator.domain import Candidate, Objective, Problem
from orchestrator.errors import MatloopError
from orchestrator.plugins import build

PROBLEM = Problem(
    objectives=(Objective("conductivity", "S/cm", "maximize"), Objective("density", "percent", "maximize")),
)
BOX = {
    "parameters": {
        "temperature": {"unit": "degC", "min": 900, "max": 1300, "resolution": 5},
        "passes": {"kind": "integer", "min": 1, "max": 5},
        "gas": {"choices": ["air", "argon"]},
    }
}
MAPPING = {
    "temperature": {"column": "T", "unit": "kelvin"},
    "conductivity": {"column": "sigma", "unit": "mS/cm", "std_error": "sd"},
    "density": "rho",
}
HEAD = "T,passes,gas,sigma,sd,rho\n"


class Listed:
    """A space of three candidates, two of which share a label."""

    def __init__(self) -> None:
        """Make the candidates."""
        self._all = [Candidate.make(label=label, parameters={"x": float(i)}) for i, label in enumerate("ABB")]

    def offers(self) -> frozenset[str]:
        """Offer parameters."""
        return frozenset({"parameters"})

    def sample(self, n: int, seed: int) -> list[Candidate]:
        """Return the first."""
        return self._all[:n]

    def summary(self) -> dict[str, object]:
        """Return nothing."""
        return {}

    def candidates(self) -> list[Candidate]:
        """Return all three."""
        return self._all

    def get(self, candidate_id: str) -> Candidate:
        """Find by id."""
        return next(c for c in self._all if c.id == candidate_id)


def read(folder: Path, text: str, **options: object) -> PastResults:
    """Read a table into the box."""
    file = folder / "past.csv"
    file.write_text(text, encoding="utf-8")
    wanted = TableOptions.model_validate({"file": str(file), "mapping": MAPPING, **options})
    return read_table(wanted, build("spaces", "box", BOX), PROBLEM)


def test_units_and_errors_are_converted(tmp_path: Path) -> None:
    """Kelvin becomes degC, mS/cm becomes S/cm for values and standard errors, and the box rounds."""
    past = read(tmp_path, HEAD + "1374.15,2,air,0.5,0.02,91.5\n")
    row = past.rows[0]
    assert row.candidate.parameters == {"temperature": pytest.approx(1100.0), "passes": 2, "gas": "air"}
    assert row.values["conductivity"] == (pytest.approx(5e-4), pytest.approx(2e-5))
    assert row.values["density"] == (91.5, None)


def test_empty_cells_are_not_measured(tmp_path: Path) -> None:
    """An empty cell leaves the property out; a row without any value is left out and said."""
    past = read(tmp_path, HEAD + "1373.15,2,air,,,91.5\n1373.15,3,argon,,,\n\n1373.15,4,argon,0.1,,\n")
    assert [set(row.values) for row in past.rows] == [{"density"}, {"conductivity"}]
    assert past.rows[1].values["conductivity"][1] is None
    assert len(past.left_out) == 1
    assert "past.csv:3" in past.left_out[0]


def test_repeats_are_kept(tmp_path: Path) -> None:
    """Two rows of the same set-points are two results of one candidate."""
    past = read(tmp_path, HEAD + "1373.15,2,air,0.5,,\n1373.15,2,air,0.6,,\n")
    assert past.rows[0].candidate.id == past.rows[1].candidate.id


def test_rows_outside_are_refused_or_left_out(tmp_path: Path) -> None:
    """A row outside the space is an error with its line, unless the user asked to leave such rows out."""
    text = HEAD + "1373.15,2,air,0.5,,\n2000,2,air,0.5,,\n"
    with pytest.raises(MatloopError, match=r"past.csv:3: .*outside: skip"):
        read(tmp_path, text)
    past = read(tmp_path, text, outside="skip")
    assert len(past.rows) == 1
    assert "past.csv:3" in past.left_out[0]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no rows"),
        (HEAD, "no rows"),
        (HEAD + "1373,2,air,0.5\n", "past.csv:2: the line has not the 6 cells"),
        (HEAD + "1373,2,air,n/a,,\n", "past.csv:2: sigma is 'n/a'"),
        (HEAD + '1373,2,air,"0,5",,\n', "decimal point"),
        (HEAD + "1373,2,air,nan,,\n", "finite"),
        (HEAD + "1373,2,air,0.5,-1,\n", "not negative"),
        (HEAD + ",2,air,0.5,,\n", "must be given"),
        (HEAD + "1373,2,helium,0.5,,\n", "helium"),
        ("T,passes,gas,sigma,rho\n1373,2,air,1,2\n", "there is no column 'sd'"),
        ("T,passes,sigma,sd,rho\n1373,2,1,,2\n", "no column is mapped to 'gas'"),
        ("T,T,passes,gas,sigma,sd,rho\n1,1,2,air,1,,2\n", "two columns are headed 'T'"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, says: str) -> None:
    """Every mistake in a table is named with what to do."""
    with pytest.raises(MatloopError) as caught:
        read(tmp_path, text)
    assert says in str(caught.value)


def test_mapping_and_units_are_checked(tmp_path: Path) -> None:
    """A mapped name that is no parameter or property, and a unit of another dimension, are refused."""
    text = HEAD + "1373,2,air,1,,2\n"
    with pytest.raises(MatloopError, match="did you mean 'density'"):
        read(tmp_path, text, mapping={**MAPPING, "densty": "rho"})
    with pytest.raises(MatloopError, match="measure different things"):
        read(tmp_path, text, mapping={**MAPPING, "density": {"column": "rho", "unit": "g/cm**3"}})
    with pytest.raises(MatloopError, match="no column is mapped to an objective"):
        read(tmp_path, "T,passes,gas\n1373,2,air\n", mapping={"temperature": "T"})


def test_missing_file_is_named(tmp_path: Path) -> None:
    """A table that is not there is said so."""
    options = TableOptions(file=tmp_path / "absent.csv")
    with pytest.raises(MatloopError, match=r"absent.csv cannot be read"):
        read_table(options, build("spaces", "box", BOX), PROBLEM)


def test_listed_candidates_are_matched_by_name_never_by_numbers(tmp_path: Path) -> None:
    """In a list a row names its candidate by label or id; an ambiguous label is refused."""
    space = Listed()
    file = tmp_path / "past.csv"
    options = TableOptions.model_validate({"file": str(file), "mapping": {"candidate": "sample"}})
    file.write_text(f"sample,density\nA,90\n{space.candidates()[2].id},80\n")
    past = read_table(options, space, PROBLEM)
    assert [row.candidate.id for row in past.rows] == [space.candidates()[0].id, space.candidates()[2].id]
    file.write_text("sample,density\nB,90\n")
    with pytest.raises(MatloopError, match="2 candidates are called 'B'"):
        read_table(options, space, PROBLEM)
    file.write_text("sample,density\nC,90\n")
    with pytest.raises(MatloopError, match="no candidate 'C'"):
        read_table(options, space, PROBLEM)


@settings(max_examples=40, deadline=None)
@given(cells=st.lists(st.text(max_size=8), min_size=6, max_size=6))
def test_any_cells_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, cells: list[str]) -> None:
    """Whatever stands in the cells, the only error is one that Matloop raises on purpose."""
    folder = tmp_path_factory.mktemp("table")
    said = "past.csv"
    try:
        read(folder, HEAD + ",".join(cells) + "\n")
    except MatloopError as error:
        said = str(error)
    assert "past.csv" in said
