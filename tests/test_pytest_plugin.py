"""The pytest plug-in gives one test a rule, says what is wrong, and costs other test sessions nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.bad_drivers import Coulomb
from tests.good_oven import Oven

ROOT = Path(__file__).parents[1]
NAN = '{"instrument": {"use": "simulated_furnace"}, "faults": {"nan": 1}}'


def session(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Start pytest in another folder, as a driver's author would."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-W", "ignore", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=120)


def test_one_test_a_rule(tmp_path: Path) -> None:
    """A good driver passes every rule up to the level; a bad one fails those that it breaks, and is told why."""
    good = session(tmp_path, "-v", "--matloop-instrument", "simulated_furnace", "--matloop-level", "2")
    assert good.returncode == 0, good.stdout + good.stderr
    assert "refuses a value above its bound PASSED" in good.stdout
    assert "refuses a missing structure SKIPPED" in good.stdout
    bad = session(tmp_path, "--matloop-instrument", "simulated", "--matloop-options", NAN, "--matloop-level", "2")
    assert bad.returncode == 1, bad.stdout + bad.stderr
    assert "fire: readings are finite and valid: density is nan percent" in bad.stdout
    assert "2 failed" in bad.stdout


def test_other_sessions_are_left_alone(tmp_path: Path) -> None:
    """Without its option the plug-in adds no test and imports neither pydantic nor numpy nor torch."""
    (tmp_path / "test_it.py").write_text(
        "import sys\n\ndef test_it():\n    assert not {'torch', 'numpy', 'pydantic'} & set(sys.modules)\n"
    )
    done = session(tmp_path, "-v", "-p", "no:anyio", "-p", "no:hypothesispytest", "-p", "no:typeguard")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout


async def test_the_fixture(instrument_contract: object) -> None:
    """The fixture passes a good driver and fails with the rule that a bad one breaks."""
    assert callable(instrument_contract)
    findings = await instrument_contract(Oven(), level=1)
    assert len(findings) > 30
    with pytest.raises(pytest.fail.Exception, match="units are known"):
        await instrument_contract(Coulomb(), level=0)
