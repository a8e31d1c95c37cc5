"""MatBench tasks: official folds, one prediction a fold, results that are gone on with and never mixed."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from pymatgen.core import Lattice, Structure

from flows.cli import main
from orchestrator import matbench
from orchestrator.errors import ConfigError

CATIONS = ("Li", "Na", "K", "Rb", "Cs", "Mg", "Ca", "Sr", "Ba", "Zn")
ANIONS = ("O", "S", "Se", "F", "Cl", "Br")


def phonon_file(folder: Path) -> Path:
    """Write sixty rock-salt cells as MatBench writes them; lighter atoms vibrate faster."""
    rows = []
    for cation in CATIONS:
        for anion in ANIONS:
            half = 2.0 + 0.01 * len(rows)
            lattice = Lattice([[0, half, half], [half, 0, half], [half, half, 0]])  # primitive rock salt
            structure = Structure(lattice, [cation, anion], [[0, 0, 0], [0.5, 0.5, 0.5]])
            mass = float(structure.composition.weight) / len(structure)
            rows.append([structure.as_dict(), 3000.0 / mass])
    path = folder / "matbench_phonons.json.gz"
    content = {"index": list(range(len(rows))), "columns": ["structure", "last phdos peak"], "data": rows}
    path.write_bytes(gzip.compress(json.dumps(content).encode()))
    return path


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> matbench.Task:
    """Return the small task."""
    return matbench.read_task("matbench_phonons", phonon_file(tmp_path_factory.mktemp("task")))


FOREST = matbench.Entry("composition_forest", {"trees": 20})


def test_official_folds() -> None:
    """The folds are those of MatBench: the first test rows of phonons, as stored with its entries."""
    task = matbench.Task("matbench_phonons", "1/cm", False, "", (None,) * 1265, np.zeros(1265))  # type: ignore[arg-type]
    folds = task.folds()
    assert [len(test) for _, test in folds] == [253] * 5
    assert sorted(np.concatenate([test for _, test in folds])) == list(range(1265))
    assert all(not set(train) & set(test) for train, test in folds)
    expected = np.random.RandomState(18012019).permutation(1265)[:253]
    assert set(folds[0][1]) == set(expected)


def test_a_row_is_a_candidate_of_its_own(task: matbench.Task) -> None:
    """Equal crystals in two rows stay two rows, so that a benchmark has as many labels as its file."""
    assert len({candidate.id for candidate in task.candidates}) == len(task) == 60
    assert task.unit == "1/cm"


def test_folds_are_measured_once_and_gone_on_with(task: matbench.Task, tmp_path: Path) -> None:
    """A second call measures only what is missing; the mean over folds and the pooled calibration stand beside them."""
    out, said = tmp_path / "out.json", []
    matbench.benchmark(task, FOREST, out, folds=[1], say=said.append)
    first = json.loads(out.read_text())
    content = matbench.benchmark(task, FOREST, out, say=said.append)
    assert [fold["fold"] for fold in content["folds"]] == [0, 1, 2, 3, 4]
    assert content["folds"][1] == first["folds"][0]
    assert sum("measured already" in line for line in said) == 1
    maes = [fold["metrics"]["mae"] for fold in content["folds"]]
    assert content["metrics"]["mae"] == pytest.approx(np.mean(maes))
    rows = np.concatenate([fold["rows"] for fold in content["folds"]])
    mean = np.concatenate([fold["mean"] for fold in content["folds"]])
    sd = np.concatenate([fold["sd"] for fold in content["folds"]])
    inside = np.abs(task.values[rows] - mean) <= 1.6449 * sd
    assert content["metrics"]["coverage_90"] == pytest.approx(inside.mean())
    assert content["metrics"]["mae"] < np.abs(task.values - task.values.mean()).mean(), "worse than the mean"
    assert json.loads(out.read_text()) == json.loads(json.dumps(content))


def test_results_of_something_else_are_not_mixed(task: matbench.Task, tmp_path: Path) -> None:
    """Another seed, surrogate or file is refused, and the message says which."""
    out = tmp_path / "out.json"
    matbench.benchmark(task, FOREST, out, folds=[0], say=lambda _: None)
    other = matbench.Entry("composition_forest", {"trees": 20}, seed=1)
    with pytest.raises(ConfigError, match="another seed"):
        matbench.benchmark(task, other, out)
    out.write_text("{")
    with pytest.raises(ConfigError, match="no result file"):
        matbench.benchmark(task, FOREST, out)


def test_a_formula_task_and_a_classification(tmp_path: Path) -> None:
    """A CSV of formulas is read; a classification is split by class and judged by the area under its curve."""
    path = tmp_path / "glass.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["formula", "target"])
        for cation in CATIONS:
            for anion in ANIONS:
                writer.writerow([f"{cation}{anion}", 1.0 if anion in {"O", "S", "Se"} else 0.0])
    task = matbench.read_task("matbench_glass", path)
    assert task.classification
    assert task.candidates[0].composition == "LiO"
    assert [task.values[test].mean() for _, test in task.folds()] == [0.5] * 5
    fold = matbench.measure_fold(task, 0, FOREST)
    assert fold["metrics"]["roc_auc"] > 0.9


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("matbench_phonon", "{}", "matbench_phonons"),
        ("matbench_phonons", '{"a": 1}', "'columns'"),
        ("matbench_steels", "a,b\n1,2\n", "'formula' and 'target'"),
    ],
)
def test_wrong_files(tmp_path: Path, name: str, content: str, says: str) -> None:
    """A wrong task or layout is one error that says what was expected."""
    path = tmp_path / "file"
    path.write_text(content)
    with pytest.raises(ConfigError, match=says):
        matbench.read_task(name, path)


def test_the_command(tmp_path: Path) -> None:
    """`matloop benchmark` writes the result file and prints its metrics; wrong options are one line."""
    path, out = phonon_file(tmp_path), tmp_path / "out.json"
    arguments: list[Any] = ["benchmark", "matbench_phonons", "--data", path, "--json", out]
    more = ["--surrogate", "composition_forest", "--options", '{"trees": 20}', "--fold", "2"]
    done = CliRunner().invoke(main, [str(x) for x in [*arguments, *more]])
    assert done.exit_code == 0, done.output
    assert "1 of 5 folds" in done.output
    assert "coverage_90" in done.output
    assert json.loads(out.read_text())["folds"][0]["fold"] == 2
    assert 'with {"trees": 20}' in done.output
    wrong = CliRunner().invoke(main, [str(x) for x in [*arguments, "--options", "trees=20"]])
    assert wrong.exit_code == 2
    assert "write an object" in wrong.output


def test_what_is_recommended(task: matbench.Task, tmp_path: Path) -> None:
    """Where no surrogate is named, phonons are learned from phonons, structures and formulas from what they show."""
    assert "vibrations" in matbench.recommended(task).options["features"]
    path = tmp_path / "steels.csv"
    path.write_text("formula,target\nFe2O3,1.0\nFeO,2.0\n")
    assert matbench.recommended(matbench.read_task("matbench_steels", path)).surrogate == "composition_gp"
    given = ["benchmark", "matbench_steels", "--data", str(path), "--json", str(tmp_path / "out.json")]
    wrong = CliRunner().invoke(main, [*given, "--options", '{"a": 1}'])
    assert wrong.exit_code == 2
    assert "name it by --surrogate" in wrong.output
