"""ASE calculators as instruments: energies, relaxations, calculators that fail, hang and crash."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from instruments import conformance
from instruments.conformance.orders import QuietEvents
from instruments.programs.ase_calculator import AseCalculator, AseOptions
from orchestrator import loop
from orchestrator.campaign import Campaign
from orchestrator.domain import Crystal, Finished, Order
from orchestrator.errors import Aborted, BadData, Effect, Fault, NotConnected, TimedOut
from orchestrator.record.states import TrialState
from orchestrator.record.store import CampaignStore

CAMPAIGNS = Path(__file__).parent.parent / "campaigns"
COPPER = Crystal(((0.0, 1.85, 1.85), (1.85, 0.0, 1.85), (1.85, 1.85, 0.0)), ("Cu",), ((0.0, 0.0, 0.0),))


def calculator(folder: Path, name: str = "emt", **options: Any) -> AseCalculator:
    """Build the driver; the calculators of the tests are allowed."""
    given = {"calculator": name, "folder": folder, "grace_s": 0.2, **options}
    return AseCalculator(AseOptions.model_validate(given, context={"allowed_modules": ["tests.calculators"]}))


def order(key: str = "k1", capability: str = "relax", crystal: Crystal = COPPER) -> Order:
    """Ask for one computation."""
    return Order(key, capability, crystal=crystal, label="copper")


def ended(pid: int) -> bool:
    """Say whether a process has ended, waiting a moment; a zombie has."""
    for _ in range(100):
        state = Path(f"/proc/{pid}/stat")
        if not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z":
            return True
        time.sleep(0.02)
    return False


@pytest.mark.slow
async def test_contract(tmp_path: Path) -> None:
    """It keeps the instrument contract, up to orders that work."""
    findings = await conformance.check(calculator(tmp_path), level=2, order=order("c", "single_point"))
    assert conformance.failures(findings) == []


async def test_copper_relaxes_to_the_lattice_constant_of_the_theory(tmp_path: Path) -> None:
    """EMT's copper: 3.594 angstrom; the answer is found again under its key."""
    driver = calculator(tmp_path, fmax=0.005)
    assert (await driver.open()).name == "EMT"
    result = await driver.run(order(), QuietEvents())
    values = {reading.property: reading.value for reading in result.readings}
    assert values["volume"] == pytest.approx(3.594**3 / 4, rel=0.005)
    assert abs(values["pressure"]) < 0.3
    assert result.structures["relaxed"].species == ("Cu",)
    where = await calculator(tmp_path, fmax=0.005).lookup("k1", None)
    assert isinstance(where, Finished)
    assert where.result.readings == result.readings


async def test_what_the_calculator_cannot_do_is_bad_data(tmp_path: Path) -> None:
    """A field that does not converge, and an element that is not known, say something about the candidate."""
    with pytest.raises(BadData, match="SCF not converged"):
        await calculator(tmp_path, "tests.calculators:Unconverged").run(order("a"), QuietEvents())
    silicon = Crystal(COPPER.lattice, ("Si",), COPPER.frac_coords)
    with pytest.raises(BadData, match="Si"):
        await calculator(tmp_path).run(order("b", crystal=silicon), QuietEvents())


async def test_a_crash_takes_nothing_with_it(tmp_path: Path) -> None:
    """A calculator that aborts its process is a fault; the driver can be used again."""
    with pytest.raises(Fault, match="code -6") as seen:
        await calculator(tmp_path, "tests.calculators:Crashing").run(order("a"), QuietEvents())
    assert seen.value.effect is Effect.DONE


async def test_a_hang_ends_with_the_deadline(tmp_path: Path) -> None:
    """The process and what it started are gone."""
    driver = calculator(tmp_path, "tests.calculators:Hanging", longest_s=5.0)
    with pytest.raises(TimedOut):
        await driver.run(order(), QuietEvents())
    assert all(ended(int(pid)) for pid in (tmp_path / "k1/work/pids").read_text().split())


async def test_an_abort_ends_the_calculation(tmp_path: Path) -> None:
    """Within a moment, and with what the calculator started."""
    driver = calculator(tmp_path, "tests.calculators:Hanging")
    job = asyncio.create_task(driver.run(order(), QuietEvents()))
    pids = tmp_path / "k1/work/pids"
    for _ in range(1000):
        if "pids" in {path.name for path in pids.parent.glob("*")}:
            break
        await asyncio.sleep(0.02)
    await driver.abort("enough")
    with pytest.raises(Aborted):
        await asyncio.wait_for(job, 5)
    assert all(ended(int(pid)) for pid in pids.read_text().split())


async def test_a_calculator_without_stress(tmp_path: Path) -> None:
    """It is told what to write; with that it gives no pressure."""
    name = "tests.calculators:Stressless"
    with pytest.raises(NotConnected, match="stress: false"):
        await calculator(tmp_path, name).run(order("a", "single_point"), QuietEvents())
    result = await calculator(tmp_path, name, stress=False, cell=False).run(order("b"), QuietEvents())
    assert {reading.property for reading in result.readings} == {"energy", "max_force", "volume"}
    assert result.readings[0].value == -1.5


async def test_a_calculator_that_is_not_there_is_not_connected(tmp_path: Path) -> None:
    """Opening says so, in words."""
    with pytest.raises(NotConnected, match="cannot be built"):
        await calculator(tmp_path, "no_such_calculator").open()
    with pytest.raises(NotConnected, match="cannot be built"):
        await calculator(tmp_path, arguments={"colour": "red"}, name="tests.calculators:Missing").open()


def test_modules_must_be_allowed(tmp_path: Path) -> None:
    """A file can name code that the lab allows, and no other."""
    with pytest.raises(ValidationError, match="allowed_modules"):
        calculator(tmp_path, "os:system")
    with pytest.raises(ValidationError, match="cell: false"):
        calculator(tmp_path, stress=False)


@pytest.mark.slow
def test_the_example_runs(tmp_path: Path) -> None:
    """A whole campaign over processes of a calculator; every trial is measured."""
    store = CampaignStore.open(tmp_path / "store.db")
    campaign = Campaign.create(CAMPAIGNS / "ase.yaml", lab=CAMPAIGNS / "lab_ase.yaml", store=store, actor="test")
    assert "budget" in asyncio.run(loop.run(campaign))
    assert {trial.state for trial in store.trials("ase")} == {TrialState.COMPLETED}
