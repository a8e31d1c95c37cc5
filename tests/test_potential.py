"""The interatomic potential: relaxations, their failures, and slots in processes of their own."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from typing import Any

import numpy as np
import pytest

from instruments.conformance.orders import QuietEvents
from instruments.potentials import catalogue
from instruments.potentials.driver import InteratomicPotential, PotentialOptions
from instruments.potentials.relaxation import Settings, relax
from instruments.potentials.worker import Elsewhere
from orchestrator.domain import Crystal, Order, Quality, Recovery, Result
from orchestrator.errors import Aborted, BadData, Effect, Fault, Rejected


def copper(length: float = 3.7, rattle: float = 0.05) -> Crystal:
    """Make a rattled cubic cell of four copper atoms."""
    sites = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
    sites = sites + np.random.default_rng(3).normal(0, rattle / length, (4, 3))
    cell = ((length, 0.0, 0.0), (0.0, length, 0.0), (0.0, 0.0, length))
    return Crystal(cell, ("Cu",) * 4, tuple(tuple(map(float, site)) for site in sites))  # type: ignore[misc]


def perovskite(a: str, b: str, x: str, length: float) -> Crystal:
    """Make a rattled cubic perovskite."""
    sites = np.array([[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])
    sites = sites + np.random.default_rng(3).normal(0, 0.05 / length, (5, 3))
    cell = ((length, 0.0, 0.0), (0.0, length, 0.0), (0.0, 0.0, length))
    return Crystal(cell, (a, b, x, x, x), tuple(tuple(map(float, site)) for site in sites))  # type: ignore[misc]


def potential(**options: Any) -> InteratomicPotential:
    """Build the instrument with EMT."""
    return InteratomicPotential(PotentialOptions.model_validate({"name": "emt", **options}))


def order(crystal: Crystal, capability: str = "relax") -> Order:
    """Ask for a relaxation."""
    return Order("k", capability, crystal=crystal, label="sample")


def values(result: Result) -> dict[str, float]:
    """Readings by property."""
    return {reading.property: reading.value for reading in result.readings}


async def test_a_relaxation_finds_the_lattice_constant() -> None:
    """Copper relaxes to EMT's lattice constant, 3.594 angstrom, from a stretched and rattled cell."""
    driver = potential(fmax=0.01)
    before = values(await driver.run(order(copper(), "single_point"), QuietEvents()))
    result = await driver.run(order(copper()), QuietEvents())
    await driver.close()
    after = values(result)
    assert after["volume"] == pytest.approx(3.594**3 / 4, rel=0.005)
    assert after["energy"] < before["energy"] - 0.01
    assert before["max_force"] > 0.5
    assert after["max_force"] < 0.011
    assert abs(after["pressure"]) < 0.2
    assert before["pressure"] < -5.0  # a stretched cell pulls inwards
    assert all(reading.quality is Quality.GOOD for reading in result.readings)
    path = json.loads(result.attachments[0].content)
    assert path["converged"]
    assert len(path["path"]) == path["steps"] + 1
    assert b"Cu" in result.attachments[1].content
    assert result.structures["relaxed"].species == ("Cu",) * 4


async def test_the_relaxed_structure_is_where_the_numbers_are_from() -> None:
    """A single point of the relaxed structure gives the relaxed energy again."""
    driver = potential()
    relaxed = await driver.run(order(copper()), QuietEvents())
    again = await driver.run(order(relaxed.structures["relaxed"], "single_point"), QuietEvents())
    await driver.close()
    assert values(again)["energy"] == pytest.approx(values(relaxed)["energy"], abs=1e-9)
    assert not again.structures


async def test_a_fixed_cell_stays() -> None:
    """Without `cell` only the atoms move."""
    driver = potential(cell=False)
    result = await driver.run(order(copper()), QuietEvents())
    await driver.close()
    assert result.structures["relaxed"].lattice == copper().lattice


async def test_what_does_not_converge_is_uncertain() -> None:
    """Too few steps give numbers that are kept and train nothing."""
    driver = potential(max_steps=2, fmax=1e-6)
    result = await driver.run(order(copper()), QuietEvents())
    await driver.close()
    assert {reading.quality for reading in result.readings} == {Quality.UNCERTAIN}
    assert "not converged within 2 steps" in result.notes


async def test_unknown_elements_are_refused() -> None:
    """EMT knows a few metals; what it does not know is refused without effect, by name."""
    driver = potential()
    with pytest.raises(Rejected, match="does not know Sr, Ti; it knows Ag") as caught:
        await driver.run(order(perovskite("Sr", "Ti", "O", 3.9)), QuietEvents())
    assert caught.value.effect is Effect.NONE
    with pytest.raises(Rejected, match="Xx"):
        catalogue.refuse_unknown_elements("chgnet", perovskite("Xx", "Ti", "O", 3.9))
    await driver.close()


async def test_structures_that_fall_apart_are_bad_data() -> None:
    """Atoms on top of each other, and a cell that runs away, end as bad data with the reason."""
    driver = potential()
    flat = Crystal(
        ((2.5, 0.0, 0.0), (0.0, 2.5, 0.0), (0.0, 0.0, 2.5)), ("Cu", "Cu"), ((0.0, 0.0, 0.0), (0.0, 0.0, 0.0))
    )
    with pytest.raises(BadData, match="cannot describe sample"):
        await driver.run(order(flat), QuietEvents())
    with pytest.raises(BadData, match="falls apart"):
        await driver.run(order(copper(1.2, 0.0)), QuietEvents())
    await driver.close()


async def test_an_abort_ends_between_steps() -> None:
    """A long relaxation stops when the campaign wants it, here and in a worker process."""
    for process in (False, True):
        driver = potential(fmax=1e-9, max_steps=10**6, process=process)
        await driver.open()
        events = QuietEvents()
        job = asyncio.create_task(driver.run(order(copper()), events))
        while not events.fractions:  # noqa: ASYNC110  the other side is a thread
            await asyncio.sleep(0.01)
        await driver.abort("enough")
        with pytest.raises(Aborted):
            await asyncio.wait_for(job, 5)
        assert values(await driver.run(order(copper(), "single_point"), QuietEvents()))["volume"] > 10
        await driver.close()


async def test_processes_give_the_same_numbers() -> None:
    """A worker process computes what the private thread computes, to the last digit, two at once."""
    here, there = potential(), potential(process=True, slots=2)
    expected = await here.run(order(copper()), QuietEvents())
    got = await asyncio.gather(*(there.run(order(copper()), QuietEvents()) for _ in range(2)))
    assert await here.open() == await there.open()
    assert [values(result) for result in got] == [values(expected)] * 2
    assert got[0].structures == expected.structures
    with pytest.raises(BadData, match="falls apart"):
        await there.run(order(copper(1.2, 0.0)), QuietEvents())
    await asyncio.gather(here.close(), there.close())


async def test_a_worker_that_dies_is_replaced() -> None:
    """A killed worker is a fault; the next order finds a new one, and closing leaves no process."""
    driver = potential(process=True)
    await driver.open()
    worker = driver._idle[0]
    assert isinstance(worker, Elsewhere)
    os.kill(worker._process.pid, signal.SIGKILL)
    with pytest.raises(Fault, match="ended with code -9"):
        await driver.run(order(copper()), QuietEvents())
    assert await driver.run(order(copper()), QuietEvents())
    last = driver._idle[0]
    assert isinstance(last, Elsewhere)
    await driver.close()
    assert last._process.poll() is not None


def test_relaxing_twice_gives_the_same() -> None:
    """On one computer the same structure gives the same numbers to the last digit."""
    emt = catalogue.load("emt", 1)
    first, second = (relax(emt, copper(), Settings(0.05, 50, cell=True), lambda _: None) for _ in range(2))
    assert first == second


async def test_what_it_declares() -> None:
    """CHGNet declares its knowledge and fidelity, so that shared knowledge is found; both may be sent again."""
    chgnet = await InteratomicPotential(PotentialOptions()).describe()
    assert chgnet.knows == {"chgnet-0.3.0"}
    assert chgnet.recovery is Recovery.IDEMPOTENT
    assert {c.fidelity for c in chgnet.capabilities} == {"potential:chgnet-0.3.0"}
    assert not (await potential().describe()).knows


@pytest.mark.slow
async def test_chgnet_relaxes_strontium_titanate() -> None:
    """The weights of the wheel give SrTiO3 a lattice constant within 2 % of the measured 3.905 angstrom."""
    driver = InteratomicPotential(PotentialOptions())
    began = time.monotonic()
    identity = await driver.open()
    loaded = time.monotonic()
    result = await driver.run(order(perovskite("Sr", "Ti", "O", 3.95)), QuietEvents())
    took = time.monotonic() - loaded
    with pytest.raises(Rejected, match="Lr"):
        await driver.run(order(perovskite("Lr", "Ti", "O", 3.95)), QuietEvents())
    lonely = Crystal(((40.0, 0.0, 0.0), (0.0, 40.0, 0.0), (0.0, 0.0, 40.0)), ("Sr",), ((0.0, 0.0, 0.0),))
    with pytest.raises(BadData, match="chgnet cannot describe"):
        await driver.run(order(lonely), QuietEvents())
    await driver.close()
    assert identity.name == "chgnet-0.3.0"
    assert len(identity.serial) == 64
    assert (values(result)["volume"] * 5) ** (1 / 3) == pytest.approx(3.905, rel=0.02)
    assert values(result)["energy"] == pytest.approx(-8.42, abs=0.02)
    assert took < 60, f"loading {loaded - began:.1f} s, relaxing {took:.1f} s"
