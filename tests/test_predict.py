"""Screening: streamed, resumable, in bounded memory, and a bad entry is a row with its reason."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from orchestrator.domain import Candidate, Constraint, Dataset, Objective, Outcome, Prediction, Problem, Row
from orchestrator.errors import ConfigError, IncompatibleError, MaterialError, StoreError
from orchestrator.fits import Recipe, revive
from orchestrator.materials.streams import Columns, stream
from orchestrator.materials.structures import from_pymatgen
from orchestrator.screening import workers
from orchestrator.screening.screen import screen
from orchestrator.screening.spaces import pool_of_file
from orchestrator.screening.workers import Settings
from orchestrator.surrogates.forest import CompositionForest

PROBLEM = Problem((Objective("energy", "eV", "minimize"),), (Constraint("gap", "eV", low=2.0),))
SETTINGS = Settings(level=0.9, chunk=4, most_atoms=20)


def rock_salt(cation: str, anion: str, a: float) -> Structure:
    """Return a primitive rock-salt cell."""
    lattice = Lattice([[0, a / 2, a / 2], [a / 2, 0, a / 2], [a / 2, a / 2, 0]])
    return Structure(lattice, [cation, anion], [[0, 0, 0], [0.5, 0.5, 0.5]])


SALTS = [
    (f"{cation}{anion}", rock_salt(cation, anion, a))
    for cation, a in (("Li", 4.5), ("Na", 5.2), ("K", 6.0), ("Rb", 6.4), ("Mg", 4.2), ("Ca", 4.8), ("Sr", 5.2))
    for anion in ("F", "Cl", "Br", "O")
]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """Train a small forest on formulas, and say how to ask it."""
    rows = []
    for i, (formula, _) in enumerate(SALTS[:12]):
        candidate = Candidate.make(label=formula, composition=formula)
        for name, value in (("energy", -3.0 + 0.1 * i), ("gap", 1.0 + 0.5 * i)):
            rows.append(Row(i + 1, candidate, {}, name, value, None, Outcome.MEASURED, measurement=len(rows)))
    surrogate = CompositionForest(CompositionForest.Options(trees=20))
    surrogate.fit(Dataset(tuple(rows)), PROBLEM, seed=1)
    folder = tmp_path_factory.mktemp("fit")
    surrogate.save(folder)
    return Recipe(str(folder), "composition_forest", {"trees": 20}, PROBLEM, "ab" * 32, title="the forest")


def write_pool(path: Path, entries: Sequence[tuple[str, Any]]) -> Path:
    """Write JSON lines of structures; a text is written as it is."""
    lines = [
        one if isinstance(one, str) else json.dumps({"id": own, "structure": one.as_dict()}) for own, one in entries
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


def rows_of(path: Path) -> list[dict[str, str]]:
    """Read the output."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def run(recipe: Recipe, pool: Path, out: Path, settings: Settings = SETTINGS, **options: Any) -> Any:
    """Screen a file."""
    return screen(recipe, pool_of_file(pool, Columns()), out, settings, **options)


def test_a_row_an_entry_as_the_surrogate_says_it(recipe: Recipe, tmp_path: Path) -> None:
    """Rows stand in the order of the pool with mean, sds and interval of `predict`; the best obey the constraint."""
    pool = write_pool(tmp_path / "pool.jsonl", SALTS)
    report = run(recipe, pool, tmp_path / "out.csv", top=3)
    rows = rows_of(tmp_path / "out.csv")
    assert [row["id"] for row in rows] == [name for name, _ in SALTS]
    candidates = [Candidate.make(label=name, composition=name) for name, _ in SALTS]
    answer = revive(recipe).predict(candidates)
    energies = np.array([float(row["energy [eV]"]) for row in rows])
    np.testing.assert_allclose(energies, answer.mean[:, 0], rtol=1e-8)
    np.testing.assert_allclose([float(row["gap sd [eV]"]) for row in rows], answer.sd[:, 1], rtol=1e-8)
    width = np.array([float(row["energy high 90% [eV]"]) - float(row["energy low 90% [eV]"]) for row in rows])
    np.testing.assert_allclose(width, 2 * 1.6448536 * answer.sd[:, 0], rtol=1e-6)
    assert (report.rows, report.unreadable, report.resumed) == (28, 0, 0)
    allowed = np.flatnonzero(answer.mean[:, 1] >= 2.0)
    wanted = allowed[np.argsort(answer.mean[allowed, 0], kind="stable")[:3]]
    assert [one.mean for one in report.best] == pytest.approx(answer.mean[wanted, 0])
    about = json.loads((tmp_path / "out.csv.json").read_text())
    assert about["fit"] == "the forest"
    assert about["report"]["rows"] == 28
    assert {path.name for path in tmp_path.iterdir()} == {"pool.jsonl", "out.csv", "out.csv.json"}


def test_what_cannot_be_read_is_a_row_with_its_reason(recipe: Recipe, tmp_path: Path) -> None:
    """Broken lines, disorder, overlapping atoms, too large a cell and an unknown element stop nothing."""
    overlap = rock_salt("Na", "Cl", 5.2)
    overlap.translate_sites([1], [0.5, 0.5, 0.4999], frac_coords=True)
    half = Structure(SALTS[0][1].lattice, [{"Li": 0.5, "Na": 0.5}, "F"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    strange = {"lattice": [[3, 0, 0], [0, 3, 0], [0, 0, 3]], "species": ["Qq"], "frac_coords": [[0, 0, 0]]}
    entries: list[tuple[str, Any]] = [
        ("good", SALTS[0][1]),
        ("", "{broken"),
        ("overlap", overlap),
        ("half", half),
        ("big", SALTS[0][1] * (3, 2, 2)),
        ("", json.dumps({"id": "strange", **strange})),
        ("=HYPERLINK(1)", SALTS[1][1]),
    ]
    report = run(recipe, write_pool(tmp_path / "pool.jsonl", entries), tmp_path / "out.csv")
    rows = rows_of(tmp_path / "out.csv")
    words = ["", "no JSON", "on top of each other", "disordered", "24 atoms", "element Qq", ""]
    for row, word in zip(rows, words, strict=True):
        assert (word in row["reason"]) if word else not row["reason"]
        assert bool(row["energy [eV]"]) == (not word)
    assert report.unreadable == 5
    assert rows[6]["id"].startswith("'=")  # what a spreadsheet would run


def test_a_candidate_that_breaks_the_surrogate_is_found(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One entry that the surrogate refuses costs its own row and none of its chunk's."""
    real = revive(recipe)

    class Fussy:
        def supports(self) -> frozenset[str]:
            return real.supports()

        def predict(self, asked: Sequence[Candidate]) -> Prediction:
            if any(one.label == "RbBr" for one in asked):
                message = "RbBr has no neighbours"
                raise MaterialError(message)
            return real.predict(asked)

    monkeypatch.setattr(workers, "revive", lambda _recipe: Fussy())
    run(recipe, write_pool(tmp_path / "pool.jsonl", SALTS), tmp_path / "out.csv", replace(SETTINGS, chunk=10))
    assert [row["id"] for row in rows_of(tmp_path / "out.csv") if row["reason"]] == ["RbBr"]


def test_a_cut_off_screening_goes_on(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Finished chunks are kept and not predicted again, damaged ones are; the output is that of one go."""
    pool = write_pool(tmp_path / "pool.jsonl", SALTS)
    run(recipe, pool, tmp_path / "whole.csv")
    asked: list[int] = []
    real = workers._Predictor.__call__

    def dies(self: Any, number: int, items: Any) -> Any:
        asked.append(number)
        if len(asked) == 4:
            raise KeyboardInterrupt
        return real(self, number, items)

    monkeypatch.setattr(workers._Predictor, "__call__", dies)
    with pytest.raises(KeyboardInterrupt):
        run(recipe, pool, tmp_path / "out.csv")
    parts = tmp_path / "out.csv.parts"
    damaged = next(parts.glob("part-00000001-*"))
    damaged.write_bytes(damaged.read_bytes()[:-9])
    (parts / ".tmp-99.csv").write_text("half a pa")
    report = run(recipe, pool, tmp_path / "out.csv")
    assert asked == [0, 1, 2, 3, 1, 3, 4, 5, 6]
    assert (report.resumed, report.rows) == (8, 28)
    assert (tmp_path / "out.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert not parts.exists()


def test_parts_of_another_question_are_refused(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A changed pool, fit or setting is told by name and nothing is joined; --no-resume begins anew."""
    pool = write_pool(tmp_path / "pool.jsonl", SALTS)

    def dies(*_arguments: Any, **_named: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("orchestrator.screening.screen.join", dies)
        with pytest.raises(KeyboardInterrupt):
            run(recipe, pool, tmp_path / "out.csv")
    with pytest.raises(StoreError, match="the fit differed"):
        run(replace(recipe, state_sha256="cd" * 32), pool, tmp_path / "out.csv")
    with pytest.raises(StoreError, match="--interval, --chunk or --most-atoms differed"):
        run(recipe, pool, tmp_path / "out.csv", replace(SETTINGS, chunk=5))
    write_pool(pool, SALTS[:-1])
    with pytest.raises(StoreError, match=r"the pool differed; finish .*--no-resume"):
        run(recipe, pool, tmp_path / "out.csv")
    report = run(recipe, pool, tmp_path / "out.csv", resume=False)
    assert (report.resumed, report.rows) == (0, 27)


def test_what_no_entry_can_give_is_refused(recipe: Recipe, tmp_path: Path) -> None:
    """A pool of process parameters under a surrogate of crystals is an error, not a file full of reasons."""
    (tmp_path / "pool.csv").write_text("id,temperature\n1,300\n2,400\n")
    potential = replace(recipe, surrogate="composition_forest")
    with pytest.raises(IncompatibleError, match=r"none of the first 2 entries.*temperature"):
        run(potential, tmp_path / "pool.csv", tmp_path / "out.csv")
    with pytest.raises(ConfigError, match=r"\.csv or \.parquet"):
        run(recipe, tmp_path / "pool.csv", tmp_path / "out.xlsx")


def test_parquet_holds_the_same_table(recipe: Recipe, tmp_path: Path) -> None:
    """The Parquet output has the rows of the CSV with their types."""
    parquet = pytest.importorskip("pyarrow.parquet")
    pool = write_pool(tmp_path / "pool.jsonl", [*SALTS[:6], ("", "{broken")])
    run(recipe, pool, tmp_path / "out.csv")
    run(recipe, pool, tmp_path / "out.parquet")
    table = parquet.read_table(tmp_path / "out.parquet").to_pylist()
    for typed, text in zip(table, rows_of(tmp_path / "out.csv"), strict=True):
        assert list(typed) == list(text)
        assert typed["row"] == int(text["row"])
        if typed["energy [eV]"] is None:
            assert text["energy [eV]"] == ""
        else:
            assert typed["energy [eV]"] == pytest.approx(float(text["energy [eV]"]))


def test_two_processes_do_not_share_parts(recipe: Recipe, tmp_path: Path) -> None:
    """A second screening into the same output is refused while the first one lives."""
    from orchestrator.screening.parts import held  # noqa: PLC0415  beside its use

    pool = write_pool(tmp_path / "pool.jsonl", SALTS)
    with held(tmp_path / "out.csv.parts"), pytest.raises(StoreError, match="another process is writing"):
        run(recipe, pool, tmp_path / "out.csv")


def test_memory_is_given_back(tmp_path: Path) -> None:
    """After each chunk a graph surrogate holds nothing of the candidates it was asked about, and answers the same."""
    from orchestrator.networks import environments  # noqa: PLC0415  imports torch
    from orchestrator.surrogates.gnn_gp import GraphGaussianProcess  # noqa: PLC0415  the same

    problem = Problem(PROBLEM.objectives)
    rows, asked = [], []
    for i, (name, structure) in enumerate(SALTS):
        crystal = from_pymatgen(structure)
        asked.append(Candidate.make(label=name, crystal=crystal, crystal_key=name))
        rows.append(Row(i + 1, asked[-1], {}, "energy", -3.0 + 0.1 * i, None, Outcome.MEASURED, measurement=i))
    options = {"network": "cgcnn", "epochs": 1, "device": "cpu", "folds": 2}
    surrogate = GraphGaussianProcess(GraphGaussianProcess.Options(**options))
    surrogate.fit(Dataset(tuple(rows[:12])), problem, seed=1)
    surrogate.save(tmp_path)
    task = workers.Task(Recipe(str(tmp_path), "gnn_gp", options, problem, "x"), SETTINGS, str(tmp_path), ".csv")
    predictor = workers._Predictor(task)
    pool = write_pool(tmp_path / "pool.jsonl", SALTS)
    assert predictor(0, list(stream(pool))).rows == 28
    trunks = predictor._surrogate._trunks  # type: ignore[attr-defined]
    assert (len(trunks._rows), len(trunks._graphs._graphs), len(environments._cache)) == (0, 0, 0)
    with next(tmp_path.glob("part-*")).open(newline="") as file:
        means = [float(row[3]) for row in csv.reader(file)]
    np.testing.assert_allclose(means, surrogate.predict(asked).mean[:, 0], rtol=1e-6)


SCRIPT = """
import sys
from pathlib import Path
from orchestrator.domain import Constraint, Objective, Problem
from orchestrator.fits import Recipe
from orchestrator.materials.streams import Columns
from orchestrator.screening.screen import screen
from orchestrator.screening.spaces import pool_of_file
from orchestrator.screening.workers import Settings

if __name__ == "__main__":
    problem = Problem((Objective("energy", "eV", "minimize"),), (Constraint("gap", "eV", low=2.0),))
    recipe = Recipe(sys.argv[1], "composition_forest", {"trees": 20}, problem, "ab" * 32, title="the forest")
    pool = pool_of_file(Path(sys.argv[2]), Columns())
    screen(recipe, pool, Path(sys.argv[3]), Settings(chunk=20), workers=int(sys.argv[4]))
"""


@pytest.mark.slow
def test_a_kill_at_any_moment_loses_and_repeats_nothing(recipe: Recipe, tmp_path: Path) -> None:
    """SIGKILL of the parent ends its workers too; run again, the output is that of one process in one go."""
    pool = write_pool(tmp_path / "pool.jsonl", [(f"{name}-{i}", one) for i in range(60) for name, one in SALTS])
    script = tmp_path / "work.py"
    script.write_text(SCRIPT)
    out, parts = tmp_path / "out.csv", tmp_path / "out.csv.parts"
    command = [sys.executable, str(script), recipe.folder, str(pool), str(out), "2"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=env, start_new_session=True)
    until = time.monotonic() + 120
    while len(list(parts.glob("part-*"))) < 3 and process.poll() is None:
        assert time.monotonic() < until
        time.sleep(0.01)
    children = subprocess.run(["pgrep", "-g", str(process.pid)], capture_output=True, text=True, check=False).stdout
    process.send_signal(signal.SIGKILL)
    process.wait()
    finished = {path.name for path in parts.glob("part-*")}
    assert len(finished) < 84  # it did die in the middle
    while time.monotonic() < until:
        if not any(Path(f"/proc/{child}/cmdline").exists() for child in children.split() if child != str(process.pid)):
            break
        time.sleep(0.05)
    else:
        pytest.fail("the workers outlived their parent by minutes")
    subprocess.run(command, env=env, check=True, timeout=240)
    rows = rows_of(out)
    assert [int(row["row"]) for row in rows] == list(range(1, 60 * 28 + 1))
    shutil.rmtree(parts, ignore_errors=True)
    run(recipe, pool, tmp_path / "alone.csv", Settings(chunk=20))
    assert out.read_bytes() == (tmp_path / "alone.csv").read_bytes()
