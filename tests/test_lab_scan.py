"""`matloop lab scan` brings a device's units and bounds into lab and campaign files; `matloop lab check` asks a lab."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from ruamel.yaml import YAML

from instruments.self_described import scans
from instruments.self_described.commands import lab
from instruments.self_described.scans import Command, Described, Scan, snake
from instruments.sila.units import from_sila
from orchestrator import plugins
from orchestrator.errors import UnitError
from tests import loopback_servers

pytest.importorskip("sila")
pytest.importorskip("sila2")
pytest.importorskip("asyncua")
CAMPAIGNS = Path(__file__).parent.parent / "campaigns"


@pytest.fixture(scope="module")
def sila() -> Iterator[loopback_servers.Server]:
    """Serve a SiLA 2 furnace."""
    with loopback_servers.start("sila_furnace") as one:
        yield one


@pytest.fixture(scope="module")
def opcua() -> Iterator[loopback_servers.Server]:
    """Serve OPC UA furnaces."""
    with loopback_servers.start("opcua_furnace") as one:
        yield one


def _run(*arguments: str) -> Any:
    return CliRunner().invoke(lab, arguments, catch_exceptions=False)


def _parts(text: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the printed lines of the lab file and of the first campaign, as YAML."""
    _, lab_part, campaign, *_ = text.split("# into ")
    yaml = YAML(typ="safe", pure=True)
    return yaml.load(lab_part.partition("\n")[2]), yaml.load(campaign.partition("\n")[2])


def test_what_is_printed_is_a_lab_and_a_space(
    sila: loopback_servers.Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pasted lines build an instrument and a search space with the device's own units and bounds."""
    monkeypatch.chdir(tmp_path)
    done = _run("scan", f"sila://127.0.0.1:{sila.port}", "--name", "furnace")
    assert done.exit_code == 0, done.output
    written, campaign = _parts(done.stdout)
    entry = written["instruments"]["furnace"]
    driver = plugins.build("instruments", entry["use"], entry["options"], base=str(tmp_path))
    description = asyncio.run(driver.describe())
    assert [capability.name for capability in description.capabilities] == ["anneal", "weigh"]
    box = plugins.build("spaces", campaign["space"]["use"], campaign["space"]["options"])
    axes = {axis.name: (axis.unit, axis.low, axis.high, axis.choices) for axis in box.axes()}
    declared = {p.name: p for p in description.capability("anneal").parameters}
    assert axes["target_temperature"][:3] == ("degC", 25.0, 1200.0)
    assert axes["atmosphere"][3] == declared["atmosphere"].choices
    assert campaign["procedure"][0]["capability"] == "anneal"


@pytest.mark.parametrize(("unit", "command"), [("Furnace", "anneal"), ("Kiln", "anneal_template")])
def test_an_opcua_unit_is_scanned(unit: str, command: str, opcua: loopback_servers.Server, tmp_path: Path) -> None:
    """Both shapes of a unit; what stops is not offered as work."""
    path = tmp_path / "unit.json"
    done = _run("scan", f"opcua://127.0.0.1:{opcua.port}", "--unit", unit, "--write", str(path))
    assert done.exit_code == 0, done.output
    written, campaign = _parts(done.stdout)
    assert campaign["procedure"][0]["capability"] == command
    assert "stop" not in written["instruments"]["unit"]["options"].get("commands", [])
    assert scans.read(path, "opcua").command(command) is not None


def test_the_committed_scans_are_what_the_practice_devices_say(
    sila: loopback_servers.Server, opcua: loopback_servers.Server, tmp_path: Path
) -> None:
    """The examples work as they stand against the servers that their first lines name."""
    for name, address, more in (
        ("sila_furnace", f"sila://127.0.0.1:{sila.port}", ()),
        ("opcua_furnace", f"opcua://127.0.0.1:{opcua.port}", ("--unit", "Furnace")),
        ("opcua_kiln", f"opcua://127.0.0.1:{opcua.port}", ("--unit", "Kiln")),
    ):
        path = tmp_path / f"{name}.json"
        assert _run("scan", address, *more, "--write", str(path)).exit_code == 0
        protocol = name.partition("_")[0]
        now, kept = scans.read(path, protocol), scans.read(CAMPAIGNS / "scans" / f"{name}.json", protocol)
        assert list(scans.differences(kept, now)) == []


def test_a_lab_is_checked(sila: loopback_servers.Server, opcua: loopback_servers.Server, tmp_path: Path) -> None:
    """Each instrument of the example files opens and says how it is; one that is away is named, and the exit code 1."""
    content: dict[str, Any] = {"instruments": {}}
    yaml = YAML(typ="safe", pure=True)
    for file in ("lab_sila.yaml", "lab_opcua.yaml"):
        for name, entry in yaml.load((CAMPAIGNS / file).read_text())["instruments"].items():
            options = entry["options"]
            if "port" in options:
                options["port"] = sila.port
            else:
                options["endpoint"] = f"opc.tcp://127.0.0.1:{opcua.port}"
            options["scan"] = str(CAMPAIGNS / options["scan"])
            content["instruments"][f"{entry['use']}_{name}"] = entry
    path = tmp_path / "lab.yaml"
    path.write_text(json.dumps(content))
    done = _run("check", str(path))
    assert done.exit_code == 0, done.output
    assert done.output.count("ready") == 3
    content["instruments"]["sila_furnace"]["options"]["port"] = 1
    path.write_text(json.dumps(content))
    done = _run("check", str(path))
    assert done.exit_code == 1
    assert "FAIL  sila_furnace   NotConnected" in done.output
    assert _run("check", str(path), "--only", "opcua_kiln").exit_code == 0
    assert _run("check", str(path), "--only", "oven").exit_code == 2


def test_a_secured_server_is_scanned(tmp_path: Path) -> None:
    """The policy goes into the lines for the lab file; a policy without certificates is refused by name."""
    with loopback_servers.start("opcua_furnace", "--secure", str(tmp_path)) as server:
        address = f"opcua://127.0.0.1:{server.port}"
        keys = ("--certificate", str(tmp_path / "client.der"), "--private-key", str(tmp_path / "client.key.pem"))
        done = _run("scan", address, "--unit", "Kiln", "--security", "Basic256Sha256", *keys)
        assert done.exit_code == 0, done.output
        assert "security: Basic256Sha256" in done.stdout
        assert _run("scan", address, "--unit", "Kiln").exit_code == 1
        assert _run("scan", address, "--unit", "Kiln", "--security", "Basic256Sha256").exit_code == 1


def test_what_cannot_be_scanned_is_said() -> None:
    """No device, no address, no encryption."""
    done = _run("scan", "sila://127.0.0.1:1")
    assert done.exit_code == 1
    assert "no SiLA 2 server answers" in done.stderr
    assert _run("scan", "ftp://127.0.0.1:1").exit_code == 2
    assert "--insecure" in _run("scan", "opcua://10.0.0.7:4840").output


def test_differences_name_what_changed() -> None:
    """A unit, a bound and a command that is gone, each by its place."""
    one = Scan(
        "sila",
        "sila://a:1",
        {},
        (
            Command("heat", "f/Heat", "observable", (Described("power", "Power", "number", low=0.0, high=5.0),)),
            Command("vent", "f/Vent", "unobservable"),
        ),
        (Described("mass", "f/Mass", "number", "property", unit="g"),),
    )
    other = Scan(
        "sila",
        "sila://b:2",
        {"name": "another"},
        (Command("heat", "f/Heat", "observable", (Described("power", "Power", "number", low=0.0, high=4.0),)),),
        (Described("mass", "f/Mass", "number", "property", unit="kg"),),
    )
    assert list(scans.differences(one, other)) == ["heat.power.high: 5 → 4", "mass.unit: g → kg", "vent is gone"]
    assert one.digest != other.digest
    assert Scan.from_json(one.to_json()) == one


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("TargetTemperature", "target_temperature"),
        ("CO2Flow", "co2_flow"),
        ("Set Point (°C)", "set_point_c"),
        ("2Theta", "x_2_theta"),
    ],
)
def test_names_of_devices_become_names_of_ours(name: str, ours: str) -> None:
    """Letters, digits and underscores, beginning with a letter."""
    assert snake(name) == ours


@pytest.mark.parametrize(
    ("label", "components", "factor", "offset", "found"),
    [
        ("°C", [("Kelvin", 1)], 1.0, 273.15, ("degC", 1.0)),
        ("min", [("Second", 1)], 60.0, 0.0, ("minute", 1.0)),
        ("%", [("Dimensionless", 1)], 0.01, 0.0, ("percent", 1.0)),
        ("µL/min", [("Meter", 3), ("Second", -1)], 1e-9 / 60, 0.0, ("uL/min", 1.0)),
        ("odd", [("Meter", 2), ("Second", -3)], 7.5, 0.0, ("meter ** 2 * second ** -3", 7.5)),
    ],
)
def test_units_of_sila(
    label: str, components: list[tuple[str, int]], factor: float, offset: float, found: tuple[str, float]
) -> None:
    """The numbers decide; a unit that has no name is given in SI units with its factor."""
    assert from_sila(label, components, factor, offset) == found


def test_a_label_that_contradicts_the_numbers_is_refused() -> None:
    """One of the two is wrong, and somebody must look which."""
    with pytest.raises(UnitError, match="label says '°C'"):
        from_sila("°C", [("Kelvin", 1)], 1.0, 0.0)
    with pytest.raises(UnitError, match="no unit is known"):
        from_sila("warm", [("Kelvin", 1)], 2.0, 5.0)
