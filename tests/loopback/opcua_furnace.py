"""Two furnaces behind an asyncua server: one with plain variables and methods, one in the shape of OPC UA LADS.

They refuse by *returned* status codes, as servers do: an exception would reach the client as BadUnexpectedError.
"""

# ruff: noqa: PLR0915, PLR0917  the signatures are those of the device's methods; a server is one long list of nodes

from __future__ import annotations

import argparse
import asyncio
import logging
import socket
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from asyncua import Server, ua, uamethod
from asyncua.common.structures104 import new_struct, new_struct_field
from asyncua.crypto.cert_gen import setup_self_signed_certificate
from asyncua.server.user_managers import User, UserManager, UserRole
from cryptography.x509.oid import ExtendedKeyUsageOID

CODES = {"degC": ("CEL", "°C"), "min": ("MIN", "min"), "percent": ("P1", "%")}
GASES = ["air", "argon", "nitrogen"]
STATES = ["Idle", "Heating", "DoorOpen"]
TYPES = {"State": ua.VariantType.Int32, "Starts": ua.VariantType.Int64, "LastOrder": ua.VariantType.String}
QUALITY = {
    "uncertain": ua.StatusCodes.UncertainSensorNotAccurate,
    "last_usable": ua.StatusCodes.UncertainLastUsableValue,
    "bad": ua.StatusCodes.BadSensorFailure,
}


class Users(UserManager):
    """One user."""

    def __init__(self, password: str) -> None:
        self.password = password

    def get_user(self, iserver: Any, username: Any = None, password: Any = None, certificate: Any = None) -> Any:
        del iserver, certificate
        return User(role=UserRole.User) if username == "lab" and password == self.password else None


def unit(name: str) -> ua.EUInformation:
    """Return a unit as UNECE codes it."""
    code, shown = CODES[name]
    number = int.from_bytes(code.encode(), "big")
    uri = "http://www.opcfoundation.org/UA/units/un/cefact"
    return ua.EUInformation(uri, number, ua.LocalizedText(shown), ua.LocalizedText(shown))


async def analog(parent: Any, space: int, name: str, value: float, of: str, low: float, high: float) -> Any:
    """Add an analog variable with its unit and range."""
    node = await parent.add_variable(space, name, float(value))
    await node.add_property(0, "EngineeringUnits", unit(of))
    await node.add_property(0, "EURange", ua.Range(low, high))
    return node


@dataclass
class Furnace:
    """One tube."""

    bench: Any
    highest: float
    nodes: dict[str, Any] = field(default_factory=dict)
    job: asyncio.Task[None] | None = None
    stopped: bool = False

    async def trouble(self) -> str:
        """Return what is to go wrong."""
        node = await self.bench.get_child("2:Trouble")
        return str(await node.read_value())

    async def seconds(self) -> float:
        """Return how long one order takes."""
        node = await self.bench.get_child("2:Seconds")
        return float(await node.read_value())

    @property
    def busy(self) -> bool:
        """Whether it heats."""
        return self.job is not None and not self.job.done()

    async def set(self, name: str, value: Any) -> None:
        """Show a value, with the quality that the test asks for."""
        node = self.nodes[name]
        status, stamp = ua.StatusCode(), datetime.now(UTC)
        if name == "MassLoss":
            status = ua.StatusCode(QUALITY.get(await self.trouble(), ua.StatusCodes.Good))
            stamp -= timedelta(hours=1) if await self.trouble() == "stale" else timedelta()
        new = ua.DataValue(ua.Variant(value, TYPES.get(name, ua.VariantType.Double)), status, SourceTimestamp=stamp)
        await node.write_value(new)

    async def anneal(self, target: float, hold: float, gas: int, key: str) -> None:
        """Heat, hold and cool; much faster than a furnace would."""
        await self.set("State", 1)
        await self.set("LastOrder", key)
        await self.set("Starts", await self.nodes["Starts"].read_value() + 1)
        begun, seconds = time.monotonic(), await self.seconds()
        while (gone := time.monotonic() - begun) < seconds and not self.stopped:
            await self.set("Progress", 100 * gone / seconds)
            await self.set("Temperature", 25 + (target - 25) * gone / seconds)
            await asyncio.sleep(0.05)
        if not self.stopped:
            await self.set("Temperature", target - 0.5)
            await self.set("MassLoss", 0.004 * (target - 25) + 0.01 * hold)
        await self.set("State", 0)

    async def refusal(self, target: float, hold: float, gas: int) -> Any:
        """Return the status code of an order that is not taken."""
        if await self.trouble() == "door":
            return ua.StatusCode(ua.StatusCodes.BadConditionDisabled)
        if self.busy:
            return ua.StatusCode(ua.StatusCodes.BadInvalidState)
        if not 25 <= target <= self.highest or not 1 <= hold <= 600 or gas not in range(len(GASES)):
            return ua.StatusCode(ua.StatusCodes.BadOutOfRange)
        return None

    def begin(self, target: float, hold: float, gas: int, key: str) -> None:
        """Start the job."""
        self.stopped = False
        self.job = asyncio.create_task(self.anneal(target, hold, gas, key))


async def plain(server: Server, space: int, furnace: Furnace) -> None:
    """Add the furnace with variables and methods."""
    parent = await server.nodes.objects.add_object(space, "Furnace")
    nodes = furnace.nodes
    nodes["TargetTemperature"] = await analog(parent, space, "TargetTemperature", 25, "degC", 25, furnace.highest)
    nodes["HoldTime"] = await analog(parent, space, "HoldTime", 1, "min", 1, 600)
    nodes["Atmosphere"] = await parent.add_variable(space, "Atmosphere", 0, ua.VariantType.Int32)
    await nodes["Atmosphere"].add_property(0, "EnumStrings", [ua.LocalizedText(gas) for gas in GASES])
    for name in ("TargetTemperature", "HoldTime", "Atmosphere"):
        await nodes[name].set_writable()
    nodes["Temperature"] = await analog(parent, space, "Temperature", 25, "degC", -50, 1500)
    nodes["MassLoss"] = await analog(parent, space, "MassLoss", 0, "percent", -5, 100)
    nodes["State"] = await parent.add_variable(space, "State", 0, ua.VariantType.Int32)
    await nodes["State"].add_property(0, "EnumStrings", [ua.LocalizedText(state) for state in STATES])
    nodes["Progress"] = await analog(parent, space, "Progress", 0, "percent", 0, 100)
    nodes["LastOrder"] = await parent.add_variable(space, "LastOrder", "")
    nodes["Starts"] = await parent.add_variable(space, "Starts", 0, ua.VariantType.Int64)
    nodes["SerialNumber"] = await parent.add_variable(space, "SerialNumber", "F-007")

    @uamethod
    async def anneal(parent: Any, target: float, hold: float, gas: int, key: str) -> Any:
        del parent
        if (refused := await furnace.refusal(target, hold, gas)) is not None:
            return refused
        await nodes["TargetTemperature"].write_value(float(target))
        await nodes["HoldTime"].write_value(float(hold))
        await nodes["Atmosphere"].write_value(gas, ua.VariantType.Int32)
        furnace.begin(target, hold, gas, key)
        return "job-1"

    @uamethod
    async def start(parent: Any) -> Any:
        del parent
        target, hold = await nodes["TargetTemperature"].read_value(), await nodes["HoldTime"].read_value()
        gas = await nodes["Atmosphere"].read_value()
        if (refused := await furnace.refusal(target, hold, gas)) is not None:
            return refused
        furnace.begin(target, hold, gas, "")
        return None

    @uamethod
    def stop(parent: Any) -> None:
        del parent
        furnace.stopped = True

    kinds = {"TargetTemperature": 11, "HoldTime": 11, "Atmosphere": 6, "OrderKey": 12}
    arguments = []
    for name, kind in kinds.items():
        arguments.append(ua.Argument(Name=name, DataType=ua.NodeId(kind), ValueRank=-1))
    answer = ua.Argument(Name="JobId", DataType=ua.NodeId(12), ValueRank=-1)
    await parent.add_method(space, "Anneal", anneal, arguments, [answer])
    await parent.add_method(space, "Start", start, [], [])
    await parent.add_method(space, "Stop", stop, [], [])


async def lads(server: Server, space: int, furnace: Furnace) -> None:
    """Add the furnace in the shape of a LADS functional unit."""
    parent = await server.nodes.objects.add_object(space, "Kiln")
    functions = await parent.add_object(space, "FunctionSet")
    nodes = furnace.nodes
    for function, name, of, low, high in (
        ("TemperatureController", "TargetTemperature", "degC", 25, furnace.highest),
        ("HoldTimer", "HoldTime", "min", 1, 600),
    ):
        holder = await functions.add_object(space, function)
        nodes[name] = await analog(holder, space, "TargetValue", low, of, low, high)
        now = await analog(holder, space, "CurrentValue", low, of, low, high)
        nodes["Temperature" if function == "TemperatureController" else "Held"] = now
    sensor = await functions.add_object(space, "MassLossSensor")
    nodes["MassLoss"] = await analog(sensor, space, "SensorValue", 0, "percent", -5, 100)
    machine = await parent.add_object(space, "FunctionalUnitState")
    nodes["CurrentState"] = await machine.add_variable(space, "CurrentState", ua.LocalizedText("Stopped"))
    manager = await parent.add_object(space, "ProgramManager")
    templates = await manager.add_object(space, "ProgramTemplateSet")
    template = await templates.add_object(space, "AnnealTemplate")
    await template.add_property(space, "DeviceTemplateId", "anneal-1")
    active = await manager.add_object(space, "ActiveProgram")
    nodes["Runtime"] = await active.add_variable(space, "CurrentRuntime", 0.0)
    nodes["Estimated"] = await active.add_variable(space, "EstimatedRuntime", 300.0)
    results = await manager.add_object(space, "ResultSet")
    text = ua.VariantType.String
    pair, _ = await new_struct(server, space, "KeyValueType", [new_struct_field(n, text) for n in ("Key", "Value")])
    fields = [new_struct_field(n, text) for n in ("ContainerId", "SampleId", "Position", "CustomData")]
    sample, _ = await new_struct(server, space, "SampleInfoType", fields)
    await server.load_data_type_definitions()
    runs = 0

    async def program(target: float, hold: float, job: str, task: str, samples: Any, number: int) -> None:
        run = await results.add_object(space, f"Run{number}")
        await run.add_property(space, "SupervisoryJobId", job)
        await run.add_property(space, "SupervisoryTaskId", task)
        await run.add_property(space, "DeviceProgramRunId", f"run-{number}")
        await run.add_property(space, "SampleId", samples[0].SampleId if samples else "")
        await run.add_property(space, "Started", datetime.now(UTC))
        stopped = await run.add_property(space, "Stopped", datetime(1601, 1, 1, tzinfo=UTC), ua.VariantType.DateTime)
        values = await run.add_object(space, "VariableSet")
        await nodes["CurrentState"].write_value(ua.LocalizedText("Running"))
        begun, seconds = time.monotonic(), await furnace.seconds()
        await nodes["Estimated"].write_value(1000.0 * seconds)
        while (gone := time.monotonic() - begun) < seconds and not furnace.stopped:
            await nodes["Runtime"].write_value(1000.0 * gone)
            await asyncio.sleep(0.05)
        if not furnace.stopped:
            await nodes["Temperature"].write_value(target - 0.5)
            await nodes["Held"].write_value(hold)
            await analog(values, space, "MassLossSensor", 0.004 * (target - 25) + 0.01 * hold, "percent", -5, 100)
        await stopped.write_value(datetime.now(UTC), ua.VariantType.DateTime)
        await nodes["CurrentState"].write_value(ua.LocalizedText("Aborted" if furnace.stopped else "Stopped"))

    @uamethod
    async def start_program(parent: Any, template: str, pairs: Any, job: str, task: str, samples: Any) -> Any:
        nonlocal runs
        del parent
        given = {pair.Key: float(pair.Value) for pair in pairs or ()}
        target, hold = given.get("TemperatureController", 25.0), given.get("HoldTimer", 1.0)
        if template != "anneal-1" or (refused := await furnace.refusal(target, hold, 0)) is not None:
            return ua.StatusCode(ua.StatusCodes.BadNotFound) if template != "anneal-1" else refused
        runs += 1
        furnace.stopped = False
        await nodes["TargetTemperature"].write_value(target)
        await nodes["HoldTime"].write_value(hold)
        furnace.job = asyncio.create_task(program(target, hold, job, task, samples, runs))
        await asyncio.sleep(0.02)
        return f"run-{runs}"

    @uamethod
    def abort(parent: Any) -> None:
        del parent
        furnace.stopped = True

    kinds = (
        ("ProgramTemplateId", ua.NodeId(12), -1),
        ("Properties", pair.nodeid, 1),
        ("SupervisoryJobId", ua.NodeId(12), -1),
        ("SupervisoryTaskId", ua.NodeId(12), -1),
        ("Samples", sample.nodeid, 1),
    )
    arguments = []
    for name, kind, rank in kinds:
        arguments.append(ua.Argument(Name=name, DataType=kind, ValueRank=rank))
    answer = ua.Argument(Name="DeviceProgramRunId", DataType=ua.NodeId(12), ValueRank=-1)
    await machine.add_method(space, "StartProgram", start_program, arguments, [answer])
    await machine.add_method(space, "Abort", abort, [], [])


async def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=0.3, help="how long one order takes")
    parser.add_argument("--highest", type=float, default=1200.0, help="largest temperature in degC")
    parser.add_argument("--password", default="", help="ask for the user 'lab' with this password")
    parser.add_argument("--secure", type=Path, help="sign and encrypt; write certificates for both sides here")
    given = parser.parse_args()
    logging.disable(logging.CRITICAL)
    server = Server(user_manager=Users(given.password) if given.password else None)
    await server.init()
    port = given.port or _free_port()
    server.set_endpoint(f"opc.tcp://127.0.0.1:{port}")
    server.set_server_name("Furnace room")
    if given.password:
        server.set_identity_tokens([ua.UserNameIdentityToken])
    if given.secure:
        for side, use in (("server", ExtendedKeyUsageOID.SERVER_AUTH), ("client", ExtendedKeyUsageOID.CLIENT_AUTH)):
            key, cert = given.secure / f"{side}.key.pem", given.secure / f"{side}.der"
            await setup_self_signed_certificate(key, cert, f"urn:{side}", "127.0.0.1", [use], {"commonName": side})
        await server.load_certificate(given.secure / "server.der")
        await server.load_private_key(given.secure / "server.key.pem")
        server.set_security_policy([ua.SecurityPolicyType.Basic256Sha256_SignAndEncrypt])
    space = await server.register_namespace("http://example.org/furnace")
    bench = await server.nodes.objects.add_object(space, "Bench")  # through it the tests say what is to go wrong
    await (await bench.add_variable(space, "Trouble", "")).set_writable()
    await (await bench.add_variable(space, "Seconds", given.seconds)).set_writable()
    await plain(server, space, Furnace(bench, given.highest))
    await lads(server, space, Furnace(bench, given.highest))
    async with server:
        print("READY", port, flush=True)  # noqa: T201  how the tests learn the port
        await asyncio.sleep(1e6)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


if __name__ == "__main__":
    asyncio.run(main())
