"""Virtual devices do what they say, once for each order, and show each of their faults."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from click.testing import CliRunner

from instruments.virtual.chemistry import Sample
from instruments.virtual.commands import virtual_lab
from instruments.virtual.device import Device, FaultKind, Job, RefusedError
from instruments.virtual.devices import DEVICES, Diffractometer, Dispenser, Probe, TubeFurnace
from instruments.virtual.lab import Plan
from instruments.virtual.scpi_server import ScpiFront
from instruments.virtual.world import World
from orchestrator.units import check_unit

FAST = 1e7
"""Virtual seconds in a second: every order takes milliseconds."""


@pytest.fixture
def world(tmp_path: Path) -> World:
    """An empty world."""
    return World(tmp_path, seed=5, speed=FAST)


def do(device: Device, key: str = "k1", **values: float) -> Job:
    """Carry out one order, and wait for its end."""
    for name, value in values.items():
        device.set(name, value)
    job = device.start(key)
    assert job.ended.wait(10)
    return job


def pellet(world: World, celsius: float = 1500.0, hours: float = 4.0) -> float:
    """Make a fired pellet, and return its vial."""
    vial = world.new_vial()
    sample = Sample.mixed(650.0, 385.0)
    sample.fire([(60.0, celsius)] * round(60 * hours))
    world.keep(vial, sample)
    return float(vial)


@pytest.mark.parametrize("name", DEVICES)
def test_declarations_can_be_used(world: World, name: str) -> None:
    """Finite bounds and known units everywhere."""
    capability = DEVICES[name](world).capability()
    for value in (*capability.parameters, *capability.outputs):
        assert value.low is not None
        assert value.high is not None
        assert value.low < value.high
        check_unit(value.unit)


def test_a_sample_goes_from_device_to_device(world: World) -> None:
    """Dispense, fire, scan, measure: what the earlier device did is what the later one sees."""
    vial = do(Dispenser(world), ratio=1.05, mass=1000.0).readings["vial"]
    assert do(Probe(world), vial=vial).readings["conductivity"] < 1e-6  # not fired yet
    fired = do(TubeFurnace(world), vial=vial, temperature=1600.0, soak=4.0).readings
    assert fired["peak_temperature"] == pytest.approx(1600.0, abs=5.0)
    assert fired["time_at_temperature"] == pytest.approx(4.0, abs=0.3)
    assert do(Diffractometer(world), vial=vial, scan_time=60.0).readings["zirconate"] > 90
    assert do(Probe(world), vial=vial).readings["conductivity"] > 3e-3


def test_refined_fractions_are_near_the_truth(world: World) -> None:
    """Within five standard errors and two percent, although the refinement knows nothing of the texture."""
    vial = pellet(world, 1150.0, 1.0)
    job = do(Diffractometer(world), vial=vial, scan_time=60.0)
    truth = world.events("diffractometer")[-1]["truth"]["zirconate"]
    assert 5 < truth < 95
    assert abs(job.readings["zirconate"] - truth) < 5 * job.readings["zirconate_error"] + 2.0


def test_same_seed_same_numbers(tmp_path: Path) -> None:
    """Noise is fixed by seed, device and number of the act; another seed gives others."""
    seen = []
    for folder, seed in (("a", 1), ("b", 1), ("c", 2)):
        world = World(tmp_path / folder, seed=seed, speed=FAST)
        seen.append(do(Dispenser(world), ratio=1.0).readings)
    assert seen[0] == seen[1]
    assert seen[0] != seen[2]


def test_an_order_that_is_sent_twice_is_done_twice(world: World) -> None:
    """The device does not protect its users; the log tells."""
    device = Dispenser(world)
    do(device, "same", ratio=1.0)
    do(device, "same", ratio=1.0)
    assert [line["key"] for line in world.events("dispenser") if line["event"] == "started"] == ["same", "same"]


def test_bounds_and_missing_vials_are_refused(world: World) -> None:
    """Nothing is clamped; nothing moves."""
    furnace = TubeFurnace(world)
    with pytest.raises(RefusedError, match="out of range"):
        furnace.set("temperature", 1701.0)
    with pytest.raises(RefusedError, match="out of range"):
        furnace.set("temperature", math.nan)
    furnace.set("vial", 77)
    with pytest.raises(RefusedError, match="no vial 77"):
        furnace.start("k")
    furnace.set("vial", pellet(world))
    furnace.set("gas_flow", 0.0)
    with pytest.raises(RefusedError, match="gas flow") as refused:
        furnace.start("k")
    assert refused.value.kind == "interlocked"
    furnace.set("gas_flow", 100.0)
    furnace.door_open = True
    with pytest.raises(RefusedError, match="door"):
        furnace.start("k")
    assert not [line for line in world.events() if line["event"] == "started"]


def test_an_empty_hopper_refuses(world: World) -> None:
    """Consumables run out, and stay out over a restart."""
    device = Dispenser(world)
    device.state["levels"] = {"BaCO3": 500.0}
    with pytest.raises(RefusedError, match="BaCO3 is nearly empty"):
        device.start("k")
    assert Dispenser(world).level("BaCO3") == pytest.approx(500.0)


def test_a_refill_fills_a_running_dispenser_and_lasts(tmp_path: Path) -> None:
    """The command fills the hoppers of a lab that runs; the level falls again from there, also over a restart."""
    world = Plan(tmp_path, seed=5, speed=FAST).world()
    device = Dispenser(world)
    device.state["levels"] = {"BaCO3": 500.0, "ZrO2": 70_000.0}
    for folder, code in ((tmp_path, 0), (tmp_path / "nowhere", 1)):
        done = CliRunner().invoke(virtual_lab, ["--folder", str(folder), "--refill"])
        assert done.exit_code == code, done.output
    do(device, "k")
    assert 99_000 < device.level("BaCO3") < 99_500
    assert 99_500 < device.level("ZrO2") < 100_000
    assert Dispenser(world).level("BaCO3") == device.level("BaCO3")


@pytest.mark.parametrize("kind", ["busy", "interlocked", "breaks", "nan", "out_of_range", "stale"])
def test_each_fault_shows_and_is_logged(world: World, kind: FaultKind) -> None:
    """What a fault does is what its name says, and the log knows what was true."""
    vial = pellet(world)
    good = Probe(world)
    do(good, "before", vial=vial)
    device = Probe(world, faults=1.0, kinds=(kind,))
    device.set("vial", vial)
    if kind in {"busy", "interlocked"}:
        with pytest.raises(RefusedError) as refused:
            device.start("k")
        assert refused.value.kind == kind
        assert world.events("probe")[-1]["fault"] == kind
        return
    job = do(device, "k")
    line = world.events("probe")[-1]
    assert line["fault"] == kind
    if kind == "breaks":
        assert job.state == "failed"
        return
    true = line["readings"]["conductivity"]
    assert math.isfinite(true)
    shown = device.reading("conductivity")
    assert (math.isnan(shown), shown > 1.0, device.shown_key()) == {
        "nan": (True, False, "k"),
        "out_of_range": (False, True, "k"),
        "stale": (False, False, "before"),
    }[kind]


def test_a_device_that_hangs_can_be_stopped(world: World) -> None:
    """It never ends by itself; while it is at work it takes no other order."""
    device = Probe(world, faults=1.0, kinds=("hangs",))
    device.set("vial", pellet(world))
    job = device.start("k")
    assert not job.ended.wait(0.3)
    with pytest.raises(RefusedError) as refused:
        device.start("other")
    assert refused.value.kind == "busy"
    device.abort()
    assert job.ended.wait(5)
    assert job.state == "aborted"


def test_a_power_cut_spoils_the_sample_and_is_told(world: World) -> None:
    """A device that comes back says which order it began last, and shows no numbers for it."""
    vial = pellet(world)
    world.log("probe", "started", key="cut-key", values={"vial": vial, "probe_temperature": 600.0}, act=1)
    device = Probe(world)
    assert device.last_key() == "cut-key"
    assert math.isnan(device.reading("conductivity"))
    assert "power" in world.sample(round(vial)).spoiled
    assert world.events("probe")[-1]["event"] == "cut"


def test_a_device_remembers_its_last_result(world: World) -> None:
    """After a restart the last finished order can still be read, which recovery relies on."""
    value = do(Probe(world), "kept", vial=pellet(world)).readings["conductivity"]
    again = Probe(world)
    assert again.last_key() == again.shown_key() == "kept"
    assert again.reading("conductivity") == value


def test_scpi_answers_as_scpi_does(world: World) -> None:
    """Identity, read-back, refusals in the error queue, 9.91E37 for no number."""
    front = ScpiFront(Probe(world))
    assert (front.answer("*IDN?") or "").startswith("Matloop,VP-2,")
    assert front.answer("FETC:CONDUCTIVITY?") == "9.91E37"
    front.answer("SOUR:PROBE_TEMPERATURE 5000")
    assert (front.answer("SYST:ERR?") or "").startswith("-222,")
    assert front.answer("SYST:ERR?") == '0,"No error"'
    assert front.answer("SOUR:PROBE_TEMPERATURE?") == "600"
    front.answer("NONSENSE")
    assert (front.answer("SYST:ERR?") or "").startswith("-113,")
    front.answer('INIT "k"')
    assert (front.answer("SYST:ERR?") or "").startswith("-221,")  # there is no vial 1
