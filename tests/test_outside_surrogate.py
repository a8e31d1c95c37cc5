"""A surrogate written outside the repository: two files, one command, as its README tells it."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
README = HERE.parent / "orchestrator" / "surrogates" / "README.md"
CAMPAIGN = """
name: salts
seed: 1
objectives: [{property: hardness, unit: GPa, goal: maximize}]
space: {use: pool, options: {path: salts.csv, composition_column: formula}}
instruments:
  table:
    use: table_lookup
    options: {file: salts.csv, match: composition, column: formula, outputs: {hardness: {unit: GPa}}}
procedure: [{step: press, instrument: table}]
surrogate: {use: element_weights, options: {spread: 2.0}}
acquisition: {use: thompson}
initial: {use: random, trials: 4}
budget: {trials: 8}
"""
CATIONS = {"Li": 1.0, "Na": 2.0, "K": 3.0, "Rb": 4.0, "Cs": 5.0}
ANIONS = {"F": 0.5, "Cl": 1.0, "Br": 1.5, "I": 2.0}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build and install the two files with pip into a folder of their own, without any index."""
    base = tmp_path_factory.mktemp("outside")
    source, target = base / "element-weights", base / "site"
    shutil.copytree(HERE / "outside_surrogate", source, ignore=shutil.ignore_patterns("__pycache__"))
    assert sorted(path.name for path in source.iterdir()) == ["element_weights.py", "pyproject.toml"]
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    offline = ["--no-deps", "--no-build-isolation", "--no-index", "--target", str(target)]
    subprocess.run([*pip, *offline, str(source)], check=True, timeout=120)
    return target


def matloop(installed: Path, home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Call the command line where the surrogate is installed."""
    paths = os.pathsep.join(part for part in (str(installed), os.environ.get("PYTHONPATH", "")) if part)
    env = {**os.environ, "PYTHONPATH": paths, "MATLOOP_HOME": str(home), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    command = [sys.executable, "-m", "flows.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=env, cwd=home, check=False, timeout=300)


def test_readme_shows_exactly_these_files() -> None:
    """The code blocks of the README are the two files that are installed here."""
    blocks = dict(re.findall(r"```(toml|python)\n(.*?)```", README.read_text(), flags=re.DOTALL)[:2])
    assert blocks["toml"] == (HERE / "outside_surrogate" / "pyproject.toml").read_text()
    assert blocks["python"] == (HERE / "outside_surrogate" / "element_weights.py").read_text()


def test_readme_names_every_surrogate_network_and_mix_in() -> None:
    """The tables of the README are complete: nothing shipped is missing, nothing named is gone."""
    from orchestrator import abilities, plugins, protocols  # noqa: PLC0415  this test alone
    from orchestrator.networks.trunk import NETWORKS  # noqa: PLC0415  imports torch

    text = README.read_text()
    table = text[text.index("## What is here") :]
    named = set(re.findall(r"^\| `(\w+)` ", table, flags=re.MULTILINE))
    shipped = {name for name, one in plugins.available("surrogates").items() if one.distribution == "matloop"}
    assert named == shipped | set(NETWORKS)
    for method, mixin in re.findall(r"^\| `(\w+)` \| `(\w+)` ", text, flags=re.MULTILINE):
        home = abilities if hasattr(abilities, mixin) else protocols
        assert callable(getattr(getattr(home, mixin), method))


def test_it_is_listed_with_its_distribution(installed: Path, tmp_path: Path) -> None:
    """`matloop plugins` and `matloop surrogate list` name the surrogate, its package and its version."""
    for arguments in (("plugins", "surrogates"), ("surrogate", "list")):
        done = matloop(installed, tmp_path, *arguments)
        assert done.returncode == 0, done.stderr
        line = next(line for line in done.stdout.splitlines() if "element_weights:ElementWeights" in line)
        assert {"element_weights", "element-weights", "0.3.0"} <= set(line.split())


def test_it_keeps_the_contract(installed: Path, tmp_path: Path) -> None:
    """`matloop surrogate check` passes, also as JSON; a wrong option is told by name."""
    done = matloop(installed, tmp_path, "surrogate", "check", "element_weights", "--reads", "composition", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert report["passed"]
    assert len(report["findings"]) > 35
    wrong = matloop(installed, tmp_path, "surrogate", "check", "element_weights", "--options", '{"spraed": 3}')
    assert wrong.returncode == 2
    assert "spraed" in wrong.stderr


def test_a_campaign_uses_it(installed: Path, tmp_path: Path) -> None:
    """A campaign file names it; the plain loop learns with it, verifies its decisions, exports its fit and predicts."""
    lines = [f"{c}{a},{x + y}" for c, x in CATIONS.items() for a, y in ANIONS.items()]
    (tmp_path / "salts.csv").write_text("formula,hardness\n" + "\n".join(lines) + "\n")
    (tmp_path / "salts.yaml").write_text(CAMPAIGN, encoding="utf-8")
    done = matloop(installed, tmp_path, "run", "salts.yaml", "--plain")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "element_weights on" in done.stdout
    verified = matloop(installed, tmp_path, "verify", "--decisions")
    assert verified.returncode == 0, verified.stdout + verified.stderr
    predicted = matloop(installed, tmp_path, "predict", "--campaign", "salts", "--out", "all.csv")
    assert predicted.returncode == 0, predicted.stdout + predicted.stderr
    with (tmp_path / "all.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 20
    truth = {line.split(",")[0]: float(line.split(",")[1]) for line in lines}
    errors = [abs(float(row["hardness [GPa]"]) - truth[row["label"]]) for row in rows]
    assert sum(errors) / len(errors) < 1.0  # the values spread over 1.5 to 7: it did learn
    assert all(float(row["hardness sd [GPa]"]) > 0 for row in rows)
