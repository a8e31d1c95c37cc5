"""A virtual device as a SiLA 2 server, by the `sila2` package (MIT); clients of other makers talk to it.

One feature with one observable command: its parameters are the set-points and the order's key, its responses what the
device shows and which order its readings belong to. Properties say what was applied, and which order was begun last.
"""

from __future__ import annotations

import socket
import uuid
from collections.abc import Callable
from functools import partial
from typing import Any

from instruments.virtual.device import Device, RefusedError
from instruments.virtual.lab_entry import self_described
from orchestrator.domain import Output, Parameter
from orchestrator.errors import PluginError

INSTALL = "a virtual SiLA 2 device needs the package sila2; type: pip install sila2"
KEY, LAST, SHOWN, STATE, STOP = "OrderKey", "LastOrder", "ReadingsOf", "State", "Stop"
ERRORS = {"busy": "AtWork", "interlocked": "DoorOpen", "rejected": "NotAccepted", "failed": "BrokenDown"}
UNITS: dict[str, tuple[str, float, float, dict[str, int]]] = {
    "degC": ("°C", 1.0, 273.15, {"Kelvin": 1}),
    "min": ("min", 60.0, 0.0, {"Second": 1}),
    "hour": ("h", 3600.0, 0.0, {"Second": 1}),
    "mg": ("mg", 1e-6, 0.0, {"Kilogram": 1}),
    "percent": ("%", 0.01, 0.0, {"Dimensionless": 1}),
    "K/min": ("K/min", 1 / 60, 0.0, {"Kelvin": 1, "Second": -1}),
    "mL/min": ("mL/min", 1e-6 / 60, 0.0, {"Meter": 3, "Second": -1}),
    "S/cm": ("S/cm", 100.0, 0.0, {"Kilogram": -1, "Meter": -3, "Second": 3, "Ampere": 2}),
}
"""Our unit → label, factor and offset to SI, SI base units with exponents."""


def camel(name: str) -> str:
    """Return a name as SiLA spells it."""
    return "".join(part.capitalize() for part in name.split("_"))


def feature_xml(device: Device) -> str:
    """Write the feature of a device."""
    capability = device.capability()
    errors = "".join(f"<Identifier>{error}</Identifier>" for error in ERRORS.values())
    body = "".join(_element("Parameter", camel(p.name), _number(p)) for p in capability.parameters)
    body += _element("Parameter", KEY, _basic("String"))
    body += "".join(_element("Response", camel(o.name), _number(o, bounded=False)) for o in capability.outputs)
    body += _element("Response", SHOWN, _basic("String"))
    xml = (
        '<Feature SiLA2Version="1.0" FeatureVersion="1.0" Originator="org.matloop" Category="virtual"'
        f' xmlns="http://www.sila-standard.org">{_named(camel(device.name))}'
        f"<Command>{_named(camel(capability.name))}<Observable>Yes</Observable>{body}"
        f"<DefinedExecutionErrors>{errors}</DefinedExecutionErrors></Command>"
        f"<Command>{_named(STOP)}<Observable>No</Observable></Command>"
    )
    values = {camel(p.name): _number(p) for p in capability.parameters}
    for name, kind in {**values, LAST: _basic("String"), STATE: _basic("String")}.items():
        xml += f"<Property>{_named(name)}<Observable>No</Observable>{kind}</Property>"
    for error in ERRORS.values():
        xml += f"<DefinedExecutionError>{_named(error)}</DefinedExecutionError>"
    return xml + "</Feature>"


def serve(device: Device, port: int) -> tuple[int, Any]:
    """Listen on 127.0.0.1, without TLS.

    Args:
        device: behind it.
        port: 0 takes a free one.

    Returns:
        The port, and the server, which serves already.

    Raises:
        PluginError: `sila2` is not installed.
    """
    try:
        from sila2.framework import Feature  # noqa: PLC0415  needed by practice labs only
        from sila2.server import SilaServer  # noqa: PLC0415  as above
    except ImportError as error:
        raise PluginError(INSTALL) from error
    serial = str(uuid.uuid5(uuid.NAMESPACE_URL, f"matloop/{device.name}/{device.world.seed}"))
    title = f"Virtual{camel(device.name)}"
    server = SilaServer(title, title, f"Virtual {device.name}", "1.0", "https://example.org", serial)
    feature = Feature(feature_xml(device))
    server.set_feature_implementation(feature, _implementation(server, feature, device))
    port = port or free_port()
    server.start_insecure("127.0.0.1", port, enable_discovery=False)
    return port, server


def options(device: Device, port: int, scan: str) -> dict[str, Any]:
    """Return the options of `use: sila` for the device.

    Args:
        device: only its declarations are read.
        port: of its server.
        scan: name of the scan file.
    """
    return {
        **self_described(device, scan),
        "host": "127.0.0.1",
        "port": port,
        "tls": False,
        "feature": camel(device.name),
        "errors": {
            ERRORS["busy"]: "busy",
            ERRORS["interlocked"]: "interlocked",
            ERRORS["rejected"]: "rejected",
            ERRORS["failed"]: "fault",
        },
    }


def _implementation(server: Any, feature: Any, device: Device) -> Any:
    from sila2.framework import DefinedExecutionError  # noqa: PLC0415  as above
    from sila2.server import FeatureImplementationBase  # noqa: PLC0415  as above

    capability = device.capability()

    def failure(message: str, kind: str) -> Exception:
        error: Exception = DefinedExecutionError(feature.defined_execution_errors[ERRORS[kind]], message)
        return error

    def work(_: Any, *given: Any, metadata: Any, instance: Any) -> Any:
        del metadata
        try:
            for parameter, value in zip(capability.parameters, given, strict=False):
                device.set(parameter.name, float(value))
            job = device.start(str(given[len(capability.parameters)]))
        except RefusedError as error:
            raise failure(str(error), error.kind) from error
        instance.begin_execution()
        while not job.ended.wait(0.05):
            instance.progress = job.progress()
        if job.state != "done":
            raise failure(job.message, "failed")
        shown = [job.readings[output.name] for output in capability.outputs]
        return (*shown, job.shown_key)

    def stop(_: Any, *, metadata: Any) -> None:
        del metadata
        device.abort()

    def told(read: Callable[[], Any]) -> Callable[..., Any]:
        return lambda _, *, metadata: read()  # noqa: ARG005  the name is SiLA's

    state = {True: "Busy", False: "Idle"}
    members: dict[str, Any] = {
        camel(capability.name): work,
        STOP: stop,
        f"get_{LAST}": told(device.last_key),
        f"get_{STATE}": told(lambda: "DoorOpen" if device.door_open else state[device.busy]),
    }
    for parameter in capability.parameters:
        members[f"get_{camel(parameter.name)}"] = told(partial(device.setpoints.__getitem__, parameter.name))
    return type(camel(device.name), (FeatureImplementationBase,), members)(server)


def _named(name: str) -> str:
    return f"<Identifier>{name}</Identifier><DisplayName>{name}</DisplayName><Description>{name}</Description>"


def _element(tag: str, name: str, kind: str) -> str:
    return f"<{tag}>{_named(name)}{kind}</{tag}>"


def _basic(name: str) -> str:
    return f"<DataType><Basic>{name}</Basic></DataType>"


def _number(value: Parameter | Output, *, bounded: bool = True) -> str:
    parts = ""
    if value.unit in UNITS:
        label, factor, offset, bases = UNITS[value.unit]
        components = "".join(
            f"<UnitComponent><SIUnit>{base}</SIUnit><Exponent>{exponent}</Exponent></UnitComponent>"
            for base, exponent in bases.items()
        )
        parts += (
            f"<Unit><Label>{label}</Label><Factor>{factor!r}</Factor><Offset>{offset!r}</Offset>{components}</Unit>"
        )
    if bounded and value.low is not None and value.high is not None:
        parts += f"<MaximalInclusive>{value.high:.10g}</MaximalInclusive>"
        parts += f"<MinimalInclusive>{value.low:.10g}</MinimalInclusive>"
    if not parts:
        return _basic("Real")
    return f"<DataType><Constrained>{_basic('Real')}<Constraints>{parts}</Constraints></Constrained></DataType>"


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that is free now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
