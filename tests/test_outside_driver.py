"""A driver written outside the repository: two files, one command, as `instruments/README.md` tells it."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from instruments import conformance
from orchestrator import plugins

HERE = Path(__file__).parent
CAMPAIGN = """
name: tiles
seed: 1
objectives: [{property: strength, unit: MPa, goal: maximize}]
space: {use: box, options: {parameters: {temperature: {unit: degC, min: 900, max: 1300, resolution: 5}}}}
instruments: {kiln: {use: kiln, options: {ramp: 15}}}
procedure: [{step: fire, instrument: kiln}]
acquisition: {use: random}
initial: {use: random, trials: 2}
budget: {trials: 4}
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build and install the two files with pip into a folder of their own, without any index."""
    base = tmp_path_factory.mktemp("outside")
    source, target = base / "kiln-driver", base / "site"
    shutil.copytree(HERE / "outside_driver", source, ignore=shutil.ignore_patterns("__pycache__"))
    assert sorted(path.name for path in source.iterdir()) == ["kiln_driver.py", "pyproject.toml"]
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    offline = ["--no-deps", "--no-build-isolation", "--no-index", "--target", str(target)]
    subprocess.run([*pip, *offline, str(source)], check=True, timeout=120)
    return target


def matloop(installed: Path, home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Call the command line where the driver is installed."""
    paths = os.pathsep.join(part for part in (str(installed), os.environ.get("PYTHONPATH", "")) if part)
    env = {**os.environ, "PYTHONPATH": paths, "MATLOOP_HOME": str(home), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    command = [sys.executable, "-m", "flows.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=env, cwd=home, check=False, timeout=300)


def test_the_readme_shows_the_scpi_driver_as_it_is() -> None:
    """The thirty lines of `instruments/README.md` are those of `instruments/examples/heater.py`, which is tested."""
    written = (HERE.parent / "instruments" / "examples" / "heater.py").read_text(encoding="utf-8")
    body = written[written.index("class Heater(BlockingInstrument)") :].rstrip()
    assert body in (HERE.parent / "instruments" / "README.md").read_text(encoding="utf-8")
    assert sum(bool(line.strip()) and '"""' not in line for line in body.splitlines()) <= 30


def test_the_readme_shows_a_device_file_that_works(tmp_path: Path) -> None:
    """The YAML of `instruments/README.md` is a whole device, and passes level 2 against its own simulator."""
    readme = (HERE.parent / "instruments" / "README.md").read_text(encoding="utf-8")
    file = tmp_path / "hot_plate.yaml"
    file.write_text(readme[readme.index("# hot_plate.yaml") :].partition("```")[0])
    driver = plugins.build("instruments", "scpi", {"device": file.name, "address": "simulator"}, base=str(tmp_path))
    findings = asyncio.run(conformance.check(driver, level=2))
    assert len(findings) > 30
    assert conformance.failures(findings) == []


def test_it_is_listed_with_its_distribution(installed: Path, tmp_path: Path) -> None:
    """`matloop plugins` and `matloop instrument list` name the driver, its package and its version."""
    for arguments in (("plugins",), ("instrument", "list")):
        done = matloop(installed, tmp_path, *arguments)
        assert done.returncode == 0, done.stderr
        line = next(line for line in done.stdout.splitlines() if "kiln_driver:Kiln" in line)
        assert {"kiln", "kiln-driver", "1.2.0"} <= set(line.split())


def test_it_keeps_the_contract(installed: Path, tmp_path: Path) -> None:
    """`matloop instrument check` passes at every level; what is wrong is told with the option's name."""
    done = matloop(installed, tmp_path, "instrument", "check", "kiln", "--level", "2", "--all")
    assert done.returncode == 0, done.stdout + done.stderr
    assert ", 0 failed, 0 not tried" in done.stdout
    wrong = matloop(installed, tmp_path, "instrument", "check", "kiln", "--options", '{"rump": 3}')
    assert wrong.returncode == 2
    assert "rump" in wrong.stderr
    dead = matloop(installed, tmp_path, "instrument", "check", "kiln", "--options", '{"port": "ttyUSB9"}')
    assert dead.returncode == 1
    assert "no kiln answers at ttyUSB9" in dead.stdout


def test_a_campaign_uses_it(installed: Path, tmp_path: Path) -> None:
    """A campaign file names the driver; the plain loop runs it, and every trial is in the record."""
    (tmp_path / "tiles.yaml").write_text(CAMPAIGN, encoding="utf-8")
    done = matloop(installed, tmp_path, "run", "tiles.yaml", "--plain")
    assert done.returncode == 0, done.stdout + done.stderr
    exported = matloop(installed, tmp_path, "export", "tiles", "--csv", str(tmp_path / "tiles.csv"))
    assert exported.returncode == 0, exported.stdout + exported.stderr
    lines = (tmp_path / "tiles.csv").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 1 + 4
    assert "strength" in lines[0]
