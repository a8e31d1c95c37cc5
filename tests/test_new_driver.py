"""`matloop instrument new` writes a package that installs, is found by its name, and passes its own tests."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from instruments.commands import instrument


def generated(folder: Path, name: str = "tube_furnace") -> Path:
    """Write a package."""
    done = CliRunner().invoke(instrument, ["new", name, "--folder", str(folder / "package")])
    assert done.exit_code == 0, done.output
    return folder / "package"


@pytest.mark.slow
def test_the_package_passes_as_written(tmp_path: Path) -> None:
    """Install it without any index, then run its tests where it is installed: contract and accidents."""
    package, target = generated(tmp_path), tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    offline = ["--no-deps", "--no-build-isolation", "--no-index", "--target", str(target)]
    subprocess.run([*pip, *offline, str(package)], check=True, timeout=120)
    env = {**os.environ, "PYTHONPATH": str(target), "OMP_NUM_THREADS": "1"}
    listed = subprocess.run(
        [sys.executable, "-m", "flows.cli", "instrument", "list"], capture_output=True, text=True, env=env, check=True
    )
    assert "tube_furnace_driver.driver:TubeFurnace" in listed.stdout
    tests = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "ignore", str(package / "tests")]
    done = subprocess.run(tests, capture_output=True, text=True, env=env, check=False, timeout=300, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    """A folder in use and a name that is none are refused, and say what to do."""
    generated(tmp_path)
    again = CliRunner().invoke(instrument, ["new", "oven", "--folder", str(tmp_path / "package")])
    assert again.exit_code == 2
    assert "give another one with --folder" in again.output
    wrong = CliRunner().invoke(instrument, ["new", "My Oven", "--folder", str(tmp_path / "other")])
    assert wrong.exit_code == 2
    assert "is no name for a driver" in wrong.output
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("name", ["oven", "tube_furnace_2"])
def test_every_placeholder_is_filled(tmp_path: Path, name: str) -> None:
    """No @…@ is left, and every Python file compiles."""
    for path in generated(tmp_path, name).rglob("*"):
        if path.is_file():
            text = path.read_text()
            assert "@name@" not in text
            assert "@Class@" not in text
            assert "@package@" not in text
            if path.suffix == ".py":
                compile(text, str(path), "exec")
