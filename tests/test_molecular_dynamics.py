"""Molecular dynamics with a potential: physics, errors of means, seeds, paths that blow up."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import numpy as np
import pytest

from instruments import conformance
from instruments.conformance.orders import QuietEvents
from instruments.potentials.driver import InteratomicPotential, PotentialOptions
from instruments.potentials.dynamics import block_error
from orchestrator.domain import Crystal, Order, Quality, Quantity, Result
from orchestrator.errors import Aborted, BadData, Rejected

COPPER = Crystal(((0.0, 1.8, 1.8), (1.8, 0.0, 1.8), (1.8, 1.8, 0.0)), ("Cu",), ((0.0, 0.0, 0.0),))
BOLTZMANN = 8.617333e-5
"""eV/kelvin."""


def potential(**options: Any) -> InteratomicPotential:
    """Build the instrument with EMT and small cells."""
    return InteratomicPotential(PotentialOptions.model_validate({"name": "emt", "atoms": 8, **options}))


def order(key: str = "k", temperature: float = 300.0, duration: float = 0.2, timestep: float = 2.0) -> Order:
    """Ask for a path."""
    settings = {
        "temperature": Quantity(temperature, "kelvin"),
        "duration": Quantity(duration, "ps"),
        "timestep": Quantity(timestep, "fs"),
    }
    return Order(key, "molecular_dynamics", settings, crystal=COPPER, label="copper")


async def run(driver: InteratomicPotential, what: Order) -> Result:
    """Run one path."""
    try:
        return await driver.run(what, QuietEvents())
    finally:
        await driver.close()


def values(result: Result) -> dict[str, tuple[float, float | None]]:
    """Readings by property, with their errors."""
    return {reading.property: (reading.value, reading.std_error) for reading in result.readings}


async def test_the_heat_capacity_is_classical() -> None:
    """The potential energy rises by 3/2 k for each kelvin, and the mean temperature is the one asked for."""
    driver = potential(friction=0.05)
    cold = values(await driver.run(order("a", 100.0, 1.2, 4.0), QuietEvents()))
    warm = values(await run(driver, order("b", 300.0, 1.2, 4.0)))
    freedom = 3 * (8 - 1) / 8  # the centre of mass stands still
    assert warm["mean_temperature"][0] == pytest.approx(300.0, rel=0.3)
    gained = warm["energy"][0] - cold["energy"][0]
    error = float(np.hypot(warm["energy"][1] or 0.0, cold["energy"][1] or 0.0))
    assert gained == pytest.approx(freedom / 2 * BOLTZMANN * 200.0, abs=4 * error + 0.003)
    assert warm["mean_square_displacement"][0] < 1.0  # it is a solid


async def test_a_path_has_errors_samples_and_a_last_structure() -> None:
    """Means come with standard errors; every sample is kept; the cell was repeated."""
    result = await run(potential(), order())
    found = values(result)
    assert 0 < (found["energy"][1] or 0.0) < 0.05
    assert 0 < (found["pressure"][1] or 0.0) < 5.0
    assert found["mean_square_displacement"][1] is None
    path = json.loads(result.attachments[0].content)
    assert path["atoms"] == len(result.structures["last"].species) == 8
    assert len(path["samples"]) == 100 // 5
    assert path["samples"][-1]["time"] == pytest.approx(0.2)
    assert result.applied["temperature"] == Quantity(300.0, "kelvin")
    assert all(reading.quality is Quality.GOOD for reading in result.readings)


async def test_the_seed_comes_from_the_key() -> None:
    """The same key gives the same path, here and in a process of its own; another key another path."""
    first = values(await run(potential(), order("a")))
    assert values(await run(potential(process=True), order("a"))) == first
    assert values(await run(potential(), order("b"))) != first


async def test_a_short_path_is_uncertain() -> None:
    """Without enough samples for an error nothing is learned from the means."""
    result = await run(potential(), order(duration=0.01))
    assert {reading.quality for reading in result.readings} == {Quality.UNCERTAIN}
    assert all(reading.std_error is None for reading in result.readings)


async def test_a_path_that_blows_up_is_bad_data() -> None:
    """Atoms that start on top of each other."""
    close = Crystal(((2.0, 0.0, 0.0), (0.0, 2.0, 0.0), (0.0, 0.0, 2.0)), ("Cu", "Cu"), ((0, 0, 0), (0.1, 0, 0)))
    what = order(timestep=5.0)
    crowded = Order(what.key, what.capability, what.settings, crystal=close, label="crowded")
    with pytest.raises(BadData, match="crowded"):
        await run(potential(), crowded)


async def test_an_abort_ends_a_path() -> None:
    """Between two samples, in both kinds of slot."""
    for process in (False, True):
        driver = potential(process=process)
        await driver.open()
        events = QuietEvents()
        job = asyncio.create_task(driver.run(order(duration=900.0), events))
        for _ in range(500):
            if events.fractions:
                break
            await asyncio.sleep(0.02)
        began = time.monotonic()
        await driver.abort("enough")
        with pytest.raises(Aborted):
            await asyncio.wait_for(job, 5)
        assert time.monotonic() - began < 2.0
        await driver.close()


async def test_bounds() -> None:
    """A time step of 50 fs is refused, not clamped."""
    with pytest.raises(Rejected, match="timestep"):
        await run(potential(), order(timestep=50.0))


async def test_contract() -> None:
    """The paths keep the instrument contract too."""
    driver = potential(duration=0.02, atoms=2)
    good = Order("c", "molecular_dynamics", {"temperature": Quantity(300.0, "kelvin")}, crystal=COPPER)
    short = {"duration": (Quantity(0.01, "ps"), Quantity(0.03, "ps"))}  # the longest path takes days
    assert conformance.failures(await conformance.check(driver, level=2, order=good, window=short)) == []


def test_block_averages_see_correlation() -> None:
    """For independent values the error is the plain one; for a correlated series it is several times larger."""
    rng = np.random.default_rng(0)
    white = rng.normal(size=4096)
    error, _ = block_error(white)
    assert error == pytest.approx(1 / 64, rel=0.6)
    slow = np.zeros(4096)
    for i in range(1, len(slow)):
        slow[i] = 0.95 * slow[i - 1] + white[i]
    naive = slow.std() / 64
    exact = naive * np.sqrt(1.95 / 0.05)
    found, blocks = block_error(slow)
    assert found is not None
    assert 0.6 * exact < found < 1.8 * exact
    assert blocks < 4096
    assert block_error(np.ones(3)) == (None, 0)
