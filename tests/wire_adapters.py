"""Every adapter that speaks over TCP, with a real server of its protocol, for faults on the wire."""

# ruff: noqa: PLC0415  each adapter needs the library of its protocol only when it is measured

from __future__ import annotations

import os
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator import plugins
from orchestrator.domain import Order, Quantity
from orchestrator.protocols import Instrument
from tests.loopback_servers import Server, launch, start

CAMPAIGNS = Path(__file__).parents[1] / "campaigns"
TOKEN = "a-token-for-wire-chaos"  # noqa: S105  of no host that exists


@dataclass(frozen=True)
class Adapter:
    """One adapter on its protocol.

    Args:
        name: of the adapter.
        start: starts the server; may keep files in the folder.
        driver: builds the driver for a port; the second is the server's own, for what must be scanned.
        orders: two that differ in every number that comes back.
        no_checksum: why a flipped bit cannot be told, where it cannot.
    """

    name: str
    start: Callable[[Path], Server]
    driver: Callable[[int, int, Path], Awaitable[Instrument]]
    orders: tuple[Order, Order]
    no_checksum: str = ""


def order(capability: str, choices: dict[str, str] | None = None, /, **settings: tuple[float, str]) -> Order:
    """Make an order; its key is replaced for each use."""
    quantities = {name: Quantity(value, unit) for name, (value, unit) in settings.items()}
    return Order("key", capability, quantities, choices or {}, deadline_s=3.0)


def _serve(*arguments: str) -> Server:
    return launch([sys.executable, "-m", "flows.cli", *arguments])


def _quiet_heater(folder: Path) -> Path:
    """Write the example heater without noise, so that a right answer is known exactly."""
    path = folder / "heater.yaml"
    text = (CAMPAIGNS / "devices" / "heater.yaml").read_text()
    path.write_text(text.replace("noise: 0.005", "noise: 0.0").replace("timeout_s: 1.0", "timeout_s: 0.3"))
    return path


async def _scpi(port: int, own: int, folder: Path) -> Instrument:
    del own
    options = {"device": str(_quiet_heater(folder)), "address": f"TCPIP::127.0.0.1::{port}::SOCKET", "simulated": True}
    driver: Instrument = plugins.build("instruments", "scpi", options)
    return driver


async def _script(port: int, own: int, folder: Path) -> Instrument:
    del own, folder
    from tests.wire_script import Script

    return Script(port)


async def _pymeasure(port: int, own: int, folder: Path) -> Instrument:
    del own, folder
    from orchestrator.config.read import load_lab

    example = dict(load_lab(CAMPAIGNS / "lab_scpi.yaml").instruments["supply"].options)
    options = {**example, "address": f"TCPIP::127.0.0.1::{port}::SOCKET", "simulated": True, "timeout_s": 0.3}
    driver: Instrument = plugins.build("instruments", "pymeasure", options)
    return driver


async def _modbus(port: int, own: int, folder: Path) -> Instrument:
    del own, folder
    device = str(CAMPAIGNS / "devices" / "tube_furnace.yaml")
    options = {"device": device, "address": f"127.0.0.1:{port}", "simulated": True, "timeout_s": 0.3}
    driver: Instrument = plugins.build("instruments", "modbus", options)
    return driver


async def _sila(port: int, own: int, folder: Path) -> Instrument:
    from instruments.self_described import scans
    from instruments.sila.driver import Sila
    from instruments.sila.link import SilaOptions, Where
    from instruments.sila.scanning import scan

    path = folder / "sila.json"
    if not path.exists():
        scans.write(await scan(Where("127.0.0.1", own, tls=False)), path)
    options = {"commands": ["anneal"], "typical_s": 1, "longest_s": 20, "abort_command": "stop"}
    return Sila(SilaOptions(host="127.0.0.1", port=port, tls=False, scan=path, **options))


async def _opcua(port: int, own: int, folder: Path) -> Instrument:
    from instruments.opcua.driver import OpcUa
    from instruments.opcua.link import OpcUaOptions, Where
    from instruments.opcua.scanning import scan
    from instruments.self_described import scans

    path = folder / "opcua.json"
    if not path.exists():
        scans.write(await scan(Where(f"opc.tcp://127.0.0.1:{own}"), "Furnace"), path)
    options: dict[str, Any] = {
        "unit": "Furnace",
        "commands": ["anneal"],
        "outputs": {"mass_loss": {}},
        "key_parameter": "order_key",
        "key_value": "last_order",
        "state": "state",
        "busy": ["Heating"],
        "interlocked": ["DoorOpen"],
        "progress": "progress",
        "abort_command": "stop",
        "typical_s": 1,
        "longest_s": 20,
    }
    return OpcUa(OpcUaOptions(endpoint=f"opc.tcp://127.0.0.1:{port}", scan=path, **options))


def _host(folder: Path) -> Server:
    os.environ["MATLOOP_HOME"] = str(folder)
    os.environ["MATLOOP_HOST_TOKEN"] = TOKEN
    return _serve("host", "furnace=simulated_furnace", "--port", "0")


async def _remote(port: int, own: int, folder: Path) -> Instrument:
    import asyncio

    from instruments.host import descriptions
    from instruments.host.remote import Remote, RemoteOptions

    file = folder / "host.json"
    if not file.exists():
        url = f"http://127.0.0.1:{own}/furnace"
        descriptions.write(await asyncio.to_thread(descriptions.describe_host, url), file)
    return Remote(RemoteOptions(url=f"http://127.0.0.1:{port}/furnace", description=file, patience_s=2.0))


async def _madsci(port: int, own: int, folder: Path) -> Instrument:
    del own, folder
    from instruments.madsci.driver import MadsciNode, MadsciOptions

    fire: dict[str, Any] = {
        "parameters": {
            "temperature": {"unit": "degC", "min": 20, "max": 1200, "read_back": "reached", "resolution": 1},
            "time": {"argument": "minutes", "unit": "minute", "min": 1, "max": 60, "default": 1, "resolution": 1},
            "gas": {"choices": ["air", "argon"], "default": "air"},
        },
        "outputs": {"density": {"unit": "percent", "min": 0, "max": 100}},
        "longest_s": 60,
        "fidelity": "simulated",
        "fixed": {"seconds": 0.1},
    }
    content = {"url": f"http://127.0.0.1:{port}", "actions": {"fire": fire}, "simulated": True}
    return MadsciNode(MadsciOptions.model_validate(content))


HEATS = [
    order("anneal", {"gas": "argon"}, temperature=(640.0, "degC"), time=(45.0, "minute")),
    order("anneal", {"gas": "air"}, temperature=(520.0, "degC"), time=(20.0, "minute")),
]
POWERS = [order("heat", voltage=(10.0, "volt")), order("heat", voltage=(4.0, "volt"))]
FIRES = [
    order("fire", {"gas": "argon"}, temperature=(850.0, "degC"), time=(120.0, "minute")),
    order("fire", {"gas": "air"}, temperature=(600.0, "degC"), time=(60.0, "minute")),
]
ANNEALS = [
    order("anneal", {"atmosphere": "argon"}, target_temperature=(800.0, "degC"), hold_time=(5.0, "minute")),
    order("anneal", {"atmosphere": "air"}, target_temperature=(500.0, "degC"), hold_time=(9.0, "minute")),
]
FURNACES = [
    order("fire", temperature=(1100.0, "degC"), time=(5.0, "hour"), excess=(0.4, "g")),
    order("fire", temperature=(1000.0, "degC"), time=(2.0, "hour"), excess=(0.2, "g")),
]
NODES = [order("fire", temperature=(500.0, "degC")), order("fire", temperature=(700.0, "degC"))]
ADAPTERS: dict[str, Adapter] = {
    one.name: one
    for one in (
        Adapter(
            "scpi",
            lambda folder: _serve("instrument", "serve", str(_quiet_heater(folder))),
            _scpi,
            (HEATS[0], HEATS[1]),
            "lines of text without a checksum",
        ),
        Adapter(
            "script",
            lambda folder: _serve("instrument", "serve", str(_quiet_heater(folder))),
            _script,
            (HEATS[0], HEATS[1]),
            "no adapter: what most lab scripts do",
        ),
        Adapter(
            "pymeasure",
            lambda _: _serve("instrument", "serve", str(CAMPAIGNS / "devices" / "power_supply.yaml")),
            _pymeasure,
            (POWERS[0], POWERS[1]),
            "lines of text without a checksum",
        ),
        Adapter(
            "modbus", lambda _: start("modbus_furnace"), _modbus, (FIRES[0], FIRES[1]), "Modbus/TCP has no checksum"
        ),
        Adapter("sila", lambda _: start("sila_furnace"), _sila, (ANNEALS[0], ANNEALS[1]), "gRPC without TLS"),
        Adapter("opcua", lambda _: start("opcua_furnace"), _opcua, (ANNEALS[0], ANNEALS[1]), "no message security"),
        Adapter("remote", _host, _remote, (FURNACES[0], FURNACES[1])),
        Adapter(
            "madsci", lambda _: start("madsci_node"), _madsci, (NODES[0], NODES[1]), "HTTP without TLS or a digest"
        ),
    )
}
