"""Start the servers of the virtual lab as processes, and write the lab file by which campaigns use them."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from instruments.virtual.device import FAULTS, Device, FaultKind
from instruments.virtual.devices import DEVICES
from instruments.virtual.serve import PROTOCOLS
from instruments.virtual.world import World
from orchestrator.errors import NotConnected

T = TypeVar("T")
START_S = 60.0
"""An OPC UA address space and pymatgen take seconds to load, on a busy computer many."""
SCANS = 5
SAFE = {"tube_furnace": {"temperature": {"max": 1650.0}}}
"""Safety envelope of the lab file."""


@dataclass
class Plan:
    """What a virtual lab is to be.

    Args:
        folder: of its world, its logs and its lab file.
        seed: of everything random.
        speed: virtual seconds in a second.
        faults: probability that an order meets a fault of the device.
        kinds: of faults.
        devices: which of them exist.
        protocols: what each of them speaks.
    """

    folder: Path
    seed: int = 0
    speed: float = 3600.0
    faults: float = 0.0
    kinds: Sequence[FaultKind] = FAULTS
    devices: Sequence[str] = tuple(DEVICES)
    protocols: Mapping[str, str] = field(default_factory=lambda: dict(PROTOCOLS))

    def world(self) -> World:
        """Return the world of the lab."""
        return World(self.folder / "world", seed=self.seed, speed=self.speed)


@dataclass
class VirtualLab:
    """The running servers; use it in a `with` statement, which ends them.

    Args:
        plan: what is started.
    """

    plan: Plan
    ports: dict[str, int] = field(default_factory=dict)
    processes: dict[str, subprocess.Popen[str]] = field(default_factory=dict)

    def start(self) -> None:
        """Start every server, all at once, and wait until each listens.

        Raises:
            NotConnected: one does not; the message holds the end of its log.
        """
        self.plan.world()
        for device in self.plan.devices:
            self._launch(device, self.ports.get(device, 0))
        for device in self.plan.devices:
            self.ports[device] = self._ready(device)

    def restart(self, device: str) -> None:
        """Bring a device back on the port that it had."""
        self._launch(device, self.ports[device])
        self._ready(device)

    def kill(self, device: str) -> None:
        """Pull a device's plug."""
        process = self.processes.pop(device)
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()

    def stop(self) -> None:
        """End every server."""
        for device in tuple(self.processes):
            self.kill(device)

    def __enter__(self) -> Self:
        """Start it."""
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it."""
        self.stop()

    def write(self, ports: Mapping[str, int] | None = None) -> Path:
        """Write the lab file, the SCPI device files and the scans beside it.

        The devices are declared as real ones, so that a campaign treats each order as a physical act that may not be
        repeated: that is what is practised here.

        Args:
            ports: other ports than the servers', such as those of proxies before them.

        Returns:
            The lab file.
        """
        folder = self.plan.folder
        there = {**self.ports, **(ports or {})}
        entries = {}
        for name in self.plan.devices:
            device = DEVICES[name](self.plan.world())
            entry = ENTRIES[self.plan.protocols[name]](device, self.ports[name], there[name], folder)
            entries[name] = {**entry, **({"envelope": SAFE[name]} if name in SAFE else {})}
        path = folder / "lab.yaml"
        head = "# Written by `matloop virtual-lab`: every device in it is virtual. JSON is YAML, too.\n"
        path.write_text(head + json.dumps({"name": "virtual-lab", "instruments": entries}, indent=2) + "\n")
        return path

    def _launch(self, device: str, port: int) -> None:
        plan = self.plan
        command = [sys.executable, "-m", "instruments.virtual.serve", device, "--folder", str(plan.folder / "world")]
        command += [
            "--protocol",
            plan.protocols[device],
            "--port",
            str(port),
            "--seed",
            str(plan.seed),
            "--speed",
            repr(plan.speed),
        ]
        command += ["--faults", repr(plan.faults), "--kinds", ",".join(plan.kinds)]
        with (plan.folder / f"{device}.log").open("a") as log:
            self.processes[device] = subprocess.Popen(  # noqa: S603  this Python, with arguments made here
                command, stdout=subprocess.PIPE, stderr=log, stdin=subprocess.DEVNULL, text=True, env=os.environ
            )

    def _ready(self, device: str) -> int:
        process = self.processes[device]
        until = time.monotonic() + START_S
        line = ""
        if process.stdout is not None:
            import select  # noqa: PLC0415  only here

            while time.monotonic() < until and not line.startswith("READY ") and process.poll() is None:
                if select.select([process.stdout], [], [], 0.2)[0]:
                    line = process.stdout.readline()
        if not line.startswith("READY "):
            log = (self.plan.folder / f"{device}.log").read_text(encoding="utf-8", errors="replace")
            message = f"the virtual {device} did not say READY within {START_S:g} s; its log ends: {log[-500:]!r}"
            raise NotConnected(message)
        return int(line.split()[1])


def _patiently(scan: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Scan, and again where a busy computer needs longer than the two seconds after which a device counts as dead."""
    for _ in range(SCANS - 1):
        with suppress(NotConnected):
            return asyncio.run(scan())
    return asyncio.run(scan())


def _scpi(device: Device, port: int, through: int, folder: Path) -> dict[str, Any]:
    from instruments.virtual.scpi_server import device_file  # noqa: PLC0415  with its protocol

    del port
    path = folder / f"{device.name}.yaml"
    path.write_text(json.dumps(device_file(device), indent=2) + "\n")
    address = f"TCPIP::127.0.0.1::{through}::SOCKET"
    return {"use": "scpi", "options": {"device": path.name, "address": address}}


def _sila(device: Device, port: int, through: int, folder: Path) -> dict[str, Any]:
    from instruments.self_described import scans  # noqa: PLC0415  with its protocol
    from instruments.sila.link import Where  # noqa: PLC0415  with its protocol
    from instruments.sila.scanning import scan  # noqa: PLC0415  with its protocol
    from instruments.virtual.sila_server import options  # noqa: PLC0415  with its protocol

    path = folder / f"{device.name}.json"
    scans.write(_patiently(lambda: scan(Where("127.0.0.1", port, tls=False))), path)
    return {"use": "sila", "options": options(device, through, path.name)}


def _opcua(device: Device, port: int, through: int, folder: Path) -> dict[str, Any]:
    from instruments.opcua.link import Where  # noqa: PLC0415  with its protocol
    from instruments.opcua.scanning import scan  # noqa: PLC0415  with its protocol
    from instruments.self_described import scans  # noqa: PLC0415  with its protocol
    from instruments.virtual.opcua_server import options  # noqa: PLC0415  with its protocol

    path = folder / f"{device.name}.json"
    entry = options(device, through, path.name)
    scans.write(_patiently(lambda: scan(Where(f"opc.tcp://127.0.0.1:{port}"), entry["unit"])), path)
    return {"use": "opcua", "options": entry}


ENTRIES = {"scpi": _scpi, "sila": _sila, "opcua": _opcua}
