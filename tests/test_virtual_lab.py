"""The virtual lab over its real protocols: drivers keep the contract, a campaign runs, the record is what happened."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import socket
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from instruments import conformance
from instruments.conformance.orders import QuietEvents
from instruments.virtual.chemistry import Sample
from instruments.virtual.commands import virtual_lab
from instruments.virtual.device import VIAL
from instruments.virtual.lab import Plan, VirtualLab
from orchestrator import loop, plugins
from orchestrator.campaign import Campaign
from orchestrator.domain import Order, Quantity
from orchestrator.errors import BadData
from orchestrator.record.store import CampaignStore
from tests.loopback_servers import launch

EXAMPLE = Path(__file__).parent.parent / "campaigns" / "virtual" / "virtual_synthesis.yaml"
LIBRARIES = ("pyvisa", "sila", "sila2", "asyncua", "pymatgen")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        any(importlib.util.find_spec(library) is None for library in LIBRARIES),
        reason=f"needs the extras scpi, sila and opcua, and the servers: {', '.join(LIBRARIES)}",
    ),
]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VirtualLab]:
    """All four devices, a virtual day in a second."""
    with VirtualLab(Plan(tmp_path_factory.mktemp("lab"), seed=3, speed=86400.0)) as running:
        running.write()
        yield running


def entry(lab: VirtualLab, device: str) -> dict[str, Any]:
    """Return what the lab file says of a device."""
    text = (lab.plan.folder / "lab.yaml").read_text(encoding="utf-8")
    content: dict[str, Any] = json.loads(text.split("\n", 1)[1])["instruments"][device]
    return content


@pytest.mark.parametrize("device", ["dispenser", "tube_furnace", "diffractometer", "probe"])
def test_drivers_keep_the_contract(lab: VirtualLab, device: str) -> None:
    """Each adapter passes level 2 against the server of its device, on one vial."""
    world = lab.plan.world()
    vial = float(world.new_vial())
    world.keep(round(vial), Sample.mixed(650.0, 385.0))
    content = entry(lab, device)
    driver = plugins.build(
        "instruments", content["use"], content["options"], base=str(lab.plan.folder), allowed_modules=()
    )
    here = Quantity(vial, "dimensionless")
    window = {} if device == "dispenser" else {VIAL: (here, here)}
    findings = asyncio.run(conformance.check(driver, level=2, send=True, window=window))
    assert [finding for finding in findings if finding.passed is False] == []
    assert sum(finding.passed is True for finding in findings) > 20


def test_a_campaign_records_what_happened(lab: VirtualLab, tmp_path: Path) -> None:
    """Eight trials of the example: every number in the record is what the device showed, each order was done once."""
    text = EXAMPLE.read_text(encoding="utf-8")
    text = text.replace("{use: log_expected_improvement}", "{use: random}").replace("parallel: 2", "parallel: 4")
    file = tmp_path / "virtual_synthesis.yaml"
    file.write_text(text)
    before = len(lab.plan.world().events())
    store = CampaignStore.open(tmp_path / "c.db")
    campaign = Campaign.create(file, store=store, lab=lab.plan.folder / "lab.yaml", actor="test")
    reason = asyncio.run(asyncio.wait_for(loop.run(campaign), 120))
    assert "8 trials" in reason
    attempts = {attempt.key: attempt for attempt in store.attempts(campaign.name)}
    assert len(attempts) == 4 * 8
    acts = lab.plan.world().events()[before:]
    started = Counter(line["key"] for line in acts if line["event"] == "started")
    assert started == dict.fromkeys(attempts, 1)
    shown = {line["key"]: line["shown"] for line in acts if line["event"] == "finished"}
    by_place = {(a.trial, a.step): shown[key] for key, a in attempts.items()}
    measured = store.measurements(campaign.name)
    assert len(measured) == sum(len(one) for one in shown.values())
    for one in measured:
        assert one.value == pytest.approx(by_place[one.trial, one.step][one.property], rel=1e-9)
    best = max(one.value for one in measured if one.property == "conductivity")
    assert best > 1e-3  # S/cm: a pellet that conducts
    store.close()


def test_numbers_of_another_order_are_refused(tmp_path: Path) -> None:
    """A display that did not follow looks as good as a new one; the order's key or the time of the number tells."""
    devices = ("tube_furnace", "diffractometer", "probe")
    plan = Plan(tmp_path, seed=1, speed=1e6, faults=1.0, kinds=("stale",), devices=devices)
    world = plan.world()
    vial = float(world.new_vial())
    world.keep(round(vial), Sample.mixed(650.0, 385.0))

    async def orders(lab: VirtualLab, device: str) -> list[str]:
        content = entry(lab, device)
        driver = plugins.build(
            "instruments", content["use"], content["options"], base=str(lab.plan.folder), allowed_modules=()
        )
        (capability,) = (await driver.describe()).capabilities
        middle = {p.name: Quantity(p.default or ((p.low + p.high) / 2), p.unit) for p in capability.parameters}
        settings = {**middle, VIAL: Quantity(vial, "dimensionless")}
        ends = []
        for key in ("first", "second"):
            try:
                await driver.run(Order(key, capability.name, settings), QuietEvents())
                ends.append("good")
            except BadData as error:
                ends.append(f"refused, {error.effect}")
        await driver.close()
        return ends

    with VirtualLab(plan) as lab:
        lab.write()
        for device in devices:
            assert asyncio.run(orders(lab, device)) == ["good", "refused, done"], device


def test_a_device_comes_back_on_its_port_and_remembers(lab: VirtualLab) -> None:
    """SIGKILL of a server and its return: same identity, same last result."""
    content = entry(lab, "dispenser")

    async def identity() -> str:
        driver = plugins.build(
            "instruments", content["use"], content["options"], base=str(lab.plan.folder), allowed_modules=()
        )
        try:
            return str(await driver.open())
        finally:
            await driver.close()

    first = asyncio.run(identity())
    lab.kill("dispenser")
    lab.restart("dispenser")
    assert asyncio.run(identity()) == first


def test_servers_end_with_the_lab(tmp_path: Path) -> None:
    """A lab that is killed leaves no server behind: its port is free within seconds."""
    program = (
        "import sys, time; from pathlib import Path; from instruments.virtual.lab import Plan, VirtualLab\n"
        "lab = VirtualLab(Plan(Path(sys.argv[1]), devices=('probe',))); lab.start()\n"
        "print('READY', lab.ports['probe']); sys.stdout.flush(); time.sleep(60)"
    )
    with launch([sys.executable, "-c", program, str(tmp_path)]) as killed:
        port = killed.port
        socket.create_connection(("127.0.0.1", port), 5).close()
    until = time.monotonic() + 10
    while time.monotonic() < until:
        try:
            socket.create_connection(("127.0.0.1", port), 5).close()
        except OSError:
            return
        time.sleep(0.2)
    pytest.fail("the server outlived its lab")


def test_the_command_tells_its_options() -> None:
    """Help works without any protocol library."""
    result = CliRunner().invoke(virtual_lab, ["--help"])
    assert result.exit_code == 0
    assert "--speed" in result.output
    assert "--faults" in result.output
