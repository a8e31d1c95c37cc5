"""SCPI devices described by YAML alone, over TCP and a serial line, against the simulator that the file serves."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from instruments import conformance
from instruments.scpi.driver import Scpi
from orchestrator import plugins
from orchestrator.domain import Order, Quantity
from tests.loopback_servers import Server, launch

DEVICES = Path(__file__).parent.parent / "campaigns" / "devices"
HEATER = DEVICES / "heater.yaml"


def served(*arguments: str, device: Path = HEATER) -> Server:
    """Start the command that a user types."""
    return launch([sys.executable, "-m", "flows.cli", "instrument", "serve", str(device), *arguments])


def built(address: str, **options: Any) -> Scpi:
    """Build the driver as a lab file does."""
    content = {"device": "heater.yaml", "address": address, "simulated": True, **options}
    driver: Scpi = plugins.build("instruments", "scpi", content, base=str(DEVICES))
    return driver


def tcp(server: Server) -> str:
    """Write the address of a server as VISA does."""
    return f"TCPIP::127.0.0.1::{server.port}::SOCKET"


def order(key: str = "k1", temperature: float = 640.0, minutes: float = 45.0, gas: str = "argon") -> Order:
    """Ask for one anneal."""
    settings = {"temperature": Quantity(temperature, "degC"), "time": Quantity(minutes, "minute")}
    return Order(key, "anneal", settings=settings, choices={"gas": gas})


@pytest.fixture(scope="module")
def heater() -> Iterator[Server]:
    """Serve the example heater."""
    with served() as server:
        yield server


async def test_conformance_over_tcp(heater: Server) -> None:
    """The YAML-only device keeps the whole contract over a socket."""
    findings = await conformance.check(built(tcp(heater)), level=2)
    assert not conformance.failures(findings)


async def test_conformance_over_a_serial_line() -> None:
    """And over a pseudo-terminal."""
    with served("--pty") as server:
        findings = await conformance.check(built(f"ASRL{server.address}::INSTR", baud_rate=115200), level=2)
    assert not conformance.failures(findings)
