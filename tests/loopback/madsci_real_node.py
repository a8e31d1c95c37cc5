"""A real MADSci node (package madsci-node-module), to be run by the Python of an environment that has it.

It offers the same actions as `madsci_node.py`, so that one test serves both.
"""

import argparse
import os
import socket
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path
from typing import Annotated, Any

from madsci.common.types.action_types import ActionFailed
from madsci.common.types.admin_command_types import AdminCommandResponse
from madsci.common.types.node_types import RestNodeConfig
from madsci.node_module.helpers import action
from madsci.node_module.rest_node_module import RestNode
from pydantic import AnyUrl


class Furnace(RestNode):
    """Fire a pellet."""

    config = RestNodeConfig()

    def startup_handler(self) -> None:
        """Begin cold."""
        self.stop = False
        self.setpoint = 25.0

    def state_handler(self) -> None:
        """Say the set-point."""
        self.node_state = {"setpoint": self.setpoint}

    def cancel(self) -> AdminCommandResponse:
        """Stop what runs."""
        self.stop = True
        return AdminCommandResponse(success=True, errors=[])

    @action(name="fire", description="fire a pellet", blocking=True)
    def fire(
        self,
        temperature: Annotated[float, "in degC"],
        minutes: Annotated[int, "whole minutes"] = 1,
        gas: Annotated[str, "what flows"] = "air",
        seconds: Annotated[float, "how long the simulation takes"] = 0.0,
    ) -> tuple[dict[str, Any], Path]:
        """Fire, and give the density and a trace."""
        self.stop = False
        self.setpoint = round(temperature)
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if self.stop:
                return ActionFailed(errors="stopped on request")
            time.sleep(0.02)
        if temperature > 1190:
            return ActionFailed(errors="the pellet melted")
        if gas == "broken":
            message = "the valve is stuck"
            raise RuntimeError(message)
        trace = Path(tempfile.mkdtemp()) / "trace.csv"
        trace.write_text("time,temperature\n0,25\n")
        return {"density": 60.0 + temperature / 100, "reached": float(self.setpoint), "minutes": minutes}, trace


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    port = parser.parse_args().port
    if not port:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
    said = os.dup(1)
    os.dup2(2, 1)  # the node's own lines go elsewhere
    sys.argv = sys.argv[:1]  # the node's settings read the command line, too
    config = RestNodeConfig(
        node_url=AnyUrl(f"http://127.0.0.1:{port}"),
        node_name="furnace",
        enable_rate_limiting=False,
        enable_registry_resolution=False,
    )
    node = Furnace(node_config=config)
    threading.Thread(target=_ready, args=(port, said), daemon=True).start()
    node.start_node()


def _ready(port: int, said: int) -> None:
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/status", timeout=1) as answer:
                if b'"initializing":false' in answer.read():
                    os.write(said, f"READY {port}\n".encode())  # the test waits for this line
                    return
        except OSError:
            pass
        time.sleep(0.1)


if __name__ == "__main__":
    main()
