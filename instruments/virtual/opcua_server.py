"""A virtual device as an OPC UA server, by asyncua (LGPL, an extra).

One object with a variable for each set-point and output (with EngineeringUnits and EURange), a method that starts the
work with the set-points and the order's key, and ``Stop``. ``State``, ``LastOrder``, ``ReadingsOf`` and ``Message`` say
how it is.
"""

from __future__ import annotations

import asyncio
import math
from typing import Any

from instruments.virtual.device import Device, Job, RefusedError
from instruments.virtual.lab_entry import self_described
from instruments.virtual.sila_server import KEY, LAST, SHOWN, STATE, STOP, camel
from orchestrator.domain import Output, Parameter
from orchestrator.errors import PluginError

INSTALL = "a virtual OPC UA device needs asyncua; type: pip install 'matloop[opcua]'"
NAMESPACE = "https://example.org/matloop/virtual"
EVERY_S = 0.05
"""How often variables follow the device."""
UNITS = {
    "degC": ("CEL", "°C"),
    "hour": ("HUR", "h"),
    "min": ("MIN", "min"),
    "K/min": ("F11", "K/min"),
    "mL/min": ("41", "mL/min"),
    "mg": ("MGM", "mg"),
    "percent": ("P1", "%"),
    "S/cm": ("H43", "S/cm"),
}
"""Our unit → UNECE code and label."""
STATUS = {
    "busy": "BadInvalidState",
    "interlocked": "BadNotExecutable",
    "rejected": "BadInvalidArgument",
    "range": "BadOutOfRange",
}


async def serve(device: Device, port: int) -> tuple[int, Any]:
    """Listen on 127.0.0.1.

    Args:
        device: behind it.
        port: 0 takes a free one.

    Returns:
        The port, and what serves.

    Raises:
        PluginError: asyncua is not installed.
    """
    try:
        from asyncua import Server  # noqa: PLC0415  an extra
    except ImportError as error:
        raise PluginError(INSTALL) from error
    from instruments.virtual.sila_server import free_port  # noqa: PLC0415  with its only user

    port = port or free_port()
    server = Server()
    await server.init()
    server.set_endpoint(f"opc.tcp://127.0.0.1:{port}")
    server.set_server_name(f"Virtual {device.name}")
    front = Front(device, server)
    await front.build(await server.register_namespace(NAMESPACE))
    await server.start()
    return port, (server, asyncio.create_task(front.follow()))


class Front:
    """The address space of one device.

    Args:
        device: behind it.
        server: of asyncua.
    """

    def __init__(self, device: Device, server: Any) -> None:
        self.device = device
        self.server = server
        self.setpoints: dict[str, Any] = {}
        self.outputs: dict[str, Any] = {}
        self.words: dict[str, Any] = {}
        self._shown: Job | None = None

    async def build(self, space: int) -> None:
        """Make the nodes.

        Args:
            space: index of the namespace.
        """
        from asyncua import ua, uamethod  # noqa: PLC0415  an extra

        capability = self.device.capability()
        unit = await self.server.nodes.objects.add_object(space, camel(self.device.name))
        for parameter in capability.parameters:
            now = self.device.setpoints[parameter.name]
            self.setpoints[parameter.name] = await _variable(unit, space, parameter, now)
        for output in capability.outputs:
            self.outputs[output.name] = await _variable(unit, space, output, math.nan)
        for name, value in {STATE: "Idle", LAST: "", SHOWN: "", "Message": ""}.items():
            self.words[name] = await unit.add_variable(space, name, value)

        async def start(_: Any, *given: Any) -> Any:
            code = self._start(given)
            await self.show()
            return None if code is None else ua.StatusCode(getattr(ua.StatusCodes, code))

        def stop(_: Any) -> None:
            self.device.abort()

        arguments = [_argument(camel(p.name), ua.VariantType.Double, p.unit) for p in capability.parameters]
        arguments.append(_argument(KEY, ua.VariantType.String, ""))
        await unit.add_method(space, camel(capability.name), uamethod(start), arguments, [])
        await unit.add_method(space, STOP, uamethod(stop), [], [])

    def _start(self, given: tuple[Any, ...]) -> str | None:
        """Begin a job, and return the status code of a refusal."""
        parameters = self.device.capability().parameters
        try:
            for parameter, value in zip(parameters, given, strict=False):
                self.device.set(parameter.name, float(value))
        except RefusedError:
            return STATUS["range"]
        try:
            self.device.start(str(given[len(parameters)] or ""))
        except RefusedError as error:
            return STATUS[error.kind]
        return None

    async def follow(self) -> None:
        """Keep the variables up to date until cancelled."""
        while True:
            await self.show()
            await asyncio.sleep(EVERY_S)

    async def show(self) -> None:
        """Write what the device shows into the variables; readings before the state that says they are there."""
        device, job = self.device, self.device.job
        state = "Idle" if job is None else {"busy": "Busy", "failed": "BrokenDown"}.get(job.state, "Idle")
        for name, node in self.setpoints.items():
            await node.write_value(float(device.setpoints[name]))
        if job is not None and job.state == "done" and job is not self._shown and job.shown_key == job.key:
            for name, node in self.outputs.items():  # numbers of an earlier order keep their time stamps
                await node.write_value(float(device.reading(name)))
        self._shown = job if state != "Busy" else self._shown
        await self.words[LAST].write_value(device.last_key())
        await self.words[SHOWN].write_value(device.shown_key())
        await self.words["Message"].write_value("" if job is None else job.message)
        await self.words[STATE].write_value("DoorOpen" if device.door_open and state == "Idle" else state)


async def _variable(parent: Any, space: int, value: Parameter | Output, start: float) -> Any:
    from asyncua import ua  # noqa: PLC0415  an extra

    node = await parent.add_variable(space, camel(value.name), float(start), ua.VariantType.Double)
    code, label = UNITS.get(value.unit, ("C62", ""))
    number = int.from_bytes(code.encode(), "big")
    unit = ua.EUInformation(
        NamespaceUri="http://www.opcfoundation.org/UA/units/un/cefact",
        UnitId=number,
        DisplayName=ua.LocalizedText(label),
        Description=ua.LocalizedText(value.unit),
    )
    await node.add_property(0, "EngineeringUnits", unit)
    if value.low is not None and value.high is not None:
        await node.add_property(0, "EURange", ua.Range(Low=value.low, High=value.high))
    return node


def _argument(name: str, kind: Any, description: str) -> Any:
    from asyncua import ua  # noqa: PLC0415  an extra

    return ua.Argument(
        Name=name, DataType=ua.NodeId(kind.value), ValueRank=-1, Description=ua.LocalizedText(description)
    )


def options(device: Device, port: int, scan: str) -> dict[str, Any]:
    """Return the options of `use: opcua` for the device.

    Args:
        device: only its declarations are read.
        port: of its server.
        scan: name of the scan file.
    """
    return {
        **self_described(device, scan),
        "endpoint": f"opc.tcp://127.0.0.1:{port}",
        "unit": camel(device.name),
        "failed": ["BrokenDown"],
        "errors": {STATUS["interlocked"]: "interlocked", STATUS["rejected"]: "rejected", STATUS["busy"]: "busy"},
    }
