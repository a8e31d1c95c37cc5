"""A MADSci node as `instruments/madsci/driver.py` meets it, without MADSci.

Compared with a real node (madsci-node-module 0.8.1, `madsci_real_node.py`), whose answers are repeated here word by
word: /info (names, actions, argument types), /status, creating with and without a missing or wrong argument (422) and
with an unknown one (taken, ignored), starting (answer after the action has begun; running, succeeded, failed by the
action, failed by an exception: the node is errored; busy and locked as HTTP 200 with `not_ready`; a second start: "not
found"), status and result of unknown actions, the zip of files, /admin/{lock,unlock,reset,cancel}, /state. Left out:
configuration, log, locations, uploads, ownership, the data manager, the limit of 100 requests a minute (`--limit`:
switched on).
"""

from __future__ import annotations

import argparse
import asyncio
import io
import itertools
import socket
import zipfile
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response
from pydantic import BaseModel

FIRE: dict[str, Any] = {
    "temperature": ("float", True, None),
    "minutes": ("int", False, 1),
    "gas": ("str", False, "air"),
    "seconds": ("float", False, 0.0),
}


class Arguments(BaseModel):
    """Of `fire`."""

    temperature: float
    minutes: int = 1
    gas: str = "air"
    seconds: float = 0.0


class Creation(BaseModel):
    """Body of a creation."""

    args: Arguments


class Node:
    """State of the node."""

    def __init__(self) -> None:
        self.pending: dict[str, Arguments] = {}
        self.results: dict[str, dict[str, Any]] = {}
        self.files: dict[str, bytes] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self.locked = self.errored = self.stop = False
        self.errors: list[dict[str, Any]] = []
        self.setpoint = 25.0
        self.numbers = itertools.count(1)

    def status(self) -> dict[str, Any]:
        """Answer /status."""
        busy = bool(self.tasks)
        reasons = [("Node is busy", busy), ("Node is locked", self.locked), ("Node is in an error state", self.errored)]
        words = "; ".join(text for text, holds in reasons if holds) or "Node is ready"
        return {
            "busy": busy,
            "running_actions": list(self.tasks),
            "paused": False,
            "locked": self.locked,
            "stopped": False,
            "errored": self.errored,
            "disconnected": False,
            "errors": self.errors,
            "initializing": False,
            "waiting_for_config": [],
            "config_values": {},
            "ready": not (busy or self.locked or self.errored),
            "description": words,
        }

    def end(self, identity: str, status: str, result: Any = None, error: tuple[str, str | None] | None = None) -> None:
        """Write down how an action stands."""
        self.results[identity] = {
            "action_id": identity,
            "status": status,
            "errors": [{"message": error[0], "error_type": error[1]}] if error else [],
            "json_result": result,
            "files": ["file"] if status == "succeeded" else None,
            "datapoints": None,
        }

    async def fire(self, identity: str, asked: Arguments) -> None:
        """Carry an action out."""
        self.stop, self.setpoint = False, float(round(asked.temperature))
        loop = asyncio.get_running_loop()
        until = loop.time() + asked.seconds
        while loop.time() < until and not self.stop:  # noqa: ASYNC110  it waits for a time, too
            await asyncio.sleep(0.02)
        if self.stop:
            self.end(identity, "failed", error=("stopped on request", None))
        elif asked.temperature > 1190:
            self.end(identity, "failed", error=("the pellet melted", None))
        elif asked.gas == "broken":
            self.errored = True
            self.errors.append({"message": "the valve is stuck", "error_type": "RuntimeError"})
            self.end(identity, "failed", error=("the valve is stuck", "RuntimeError"))
        else:
            packed = io.BytesIO()
            with zipfile.ZipFile(packed, "w") as archive:
                archive.writestr("trace.csv", "time,temperature\n0,25\n")
            self.files[identity] = packed.getvalue()
            density = 60.0 + asked.temperature / 100
            self.end(identity, "succeeded", {"density": density, "reached": self.setpoint, "minutes": asked.minutes})
        self.tasks.pop(identity, None)


def application(limit: int) -> FastAPI:  # noqa: C901  one short function a route
    """Build the node."""
    app, node, asked = FastAPI(), Node(), itertools.count(1)

    @app.middleware("http")
    async def limited(request: Request, go_on: Any) -> Any:
        if limit and next(asked) > limit:
            return Response('{"detail":"Rate limit exceeded"}', 429, media_type="application/json")
        return await go_on(request)

    @app.get("/info")
    async def info() -> dict[str, Any]:
        arguments = {
            name: {"name": name, "description": "", "argument_type": kind, "required": required, "default": default}
            for name, (kind, required, default) in FIRE.items()
        }
        fire = {"name": "fire", "args": arguments, "locations": {}, "files": {}, "results": {}, "blocking": True}
        return {
            "node_name": "furnace",
            "node_id": "01M831PJ3DQ56V6NHZT9ZAYC2K",
            "module_name": "furnace",
            "module_version": "0.0.1",
            "capabilities": {"admin_commands": ["cancel", "lock", "reset", "shutdown", "unlock"]},
            "actions": {"fire": fire},
        }

    @app.get("/status")
    async def status() -> dict[str, Any]:
        return node.status()

    @app.get("/state")
    async def state() -> dict[str, Any]:
        return {"setpoint": node.setpoint}

    @app.post("/admin/{command}")
    async def admin(command: str) -> dict[str, Any]:
        if command in ("lock", "unlock"):
            node.locked = command == "lock"
        elif command == "reset":
            node.errored = False
        elif command == "cancel":
            node.stop = True
        else:
            error = {"message": f"Admin command {command} not implemented by this node"}
            return {"success": False, "errors": [error], "data": None}
        return {"success": True, "errors": [], "data": None}

    @app.post("/action/fire")
    async def create(body: Creation) -> dict[str, str]:
        identity = f"01M{next(node.numbers):023d}"
        node.pending[identity] = body.args
        return {"action_id": identity}

    @app.post("/action/fire/{identity}/start")
    async def start(identity: str) -> dict[str, Any]:
        asked = node.pending.pop(identity, None)
        if asked is None:
            error = {"message": f"Action {identity} not found", "error_type": "NotFound"}
            return {"action_id": identity, "status": "failed", "errors": [error], "json_result": None, "files": None}
        if not node.status()["ready"]:
            words = f"Node is not ready: {node.status()['description']}"
            node.end(identity, "not_ready", error=(words, "NodeNotReady"))
        else:
            node.end(identity, "running")
            node.tasks[identity] = asyncio.create_task(node.fire(identity, asked))
        await asyncio.sleep(0.5)
        return node.results[identity]

    @app.get("/action/fire/{identity}/status")
    async def action_status(identity: str) -> str:
        return str(node.results.get(identity, {"status": "unknown"})["status"])

    @app.get("/action/fire/{identity}/result")
    async def result(identity: str) -> dict[str, Any]:
        words = f"Action history for action with id '{identity}' not found"
        error = {"message": words, "error_type": "ActionHistoryNotFound"}
        unknown = {"action_id": "another", "status": "unknown", "errors": [error], "json_result": None, "files": None}
        return node.results.get(identity, unknown)

    @app.get("/action/fire/{identity}/download")
    async def download(identity: str) -> Response:
        return Response(node.files[identity], media_type="application/zip")

    return app


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--limit", type=int, default=0)
    given = parser.parse_args()
    line = socket.create_server(("127.0.0.1", given.port))
    print("READY", line.getsockname()[1], flush=True)  # noqa: T201  the test waits for this line
    uvicorn.Server(uvicorn.Config(application(given.limit), log_level="warning")).run(sockets=[line])


if __name__ == "__main__":
    main()
