"""The nodes of an OPC UA unit → what a device can do: variables with units and ranges, methods with their arguments."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

from instruments.opcua.units import from_opcua
from instruments.self_described.scans import STOPPING, Command, Described, Scan, snake, unique
from orchestrator.errors import Effect, NotConnected, UnitError

if TYPE_CHECKING:
    from asyncua import Client

DEPTH = 3
MOST_NODES = 500
"""A unit of a lab device has tens of nodes; a whole plant was meant to be named more closely."""
WRITE_BIT = 1
"""Of the attribute UserAccessLevel: CurrentWrite."""
NUMBER = ("Float", "Double")
WHOLE = ("SByte", "Byte", "Int16", "UInt16", "Int32", "UInt32", "Int64", "UInt64")
WORDS = ("String", "LocalizedText")
Kind = Literal["number", "integer", "text", "boolean", "other"]
Content = Mapping[str, "Any"]


@dataclass
class Unit:
    """The nodes of one unit, by their path below it.

    Args:
        node: of the unit itself.
        variables: path → node.
        types: path → variant type, as it must be written.
        methods: path → (parent, node).
        described: path → variable as described.
        arguments: path → input and output arguments of the method.
        objects: path → node of an object.
        templates: program template → its id; of LADS units only.
    """

    node: Any
    variables: dict[str, Any] = field(default_factory=dict)
    types: dict[str, Any] = field(default_factory=dict)
    methods: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    described: dict[str, Described] = field(default_factory=dict)
    arguments: dict[str, tuple[list[Any], list[Any]]] = field(default_factory=dict)
    objects: dict[str, Any] = field(default_factory=dict)
    templates: dict[str, str] = field(default_factory=dict)


async def find_unit(client: Client, path: str) -> Any:
    """Return the node of a unit.

    Args:
        client: connected.
        path: browse names below Objects parted by slashes, or a node id; empty for the only one that there is.

    Raises:
        NotConnected: there is no such node, or several; the message names them.
    """
    from asyncua import ua  # noqa: PLC0415  optional, and loaded by now

    if path.startswith(("ns=", "i=", "s=", "g=", "b=")):
        return client.get_node(path)
    here = client.nodes.objects
    parts = [part for part in path.split("/") if part]
    for part in parts:
        there = {(await child.read_browse_name()).Name: child for child in await here.get_children()}
        name = part.split(":", 1)[-1]
        if name not in there:
            message = f"there is no {part!r} in {path!r} on the server; there are: {', '.join(sorted(there))}"
            raise NotConnected(message)
        here = there[name]
    if parts:
        return here
    units = {}
    for child in await here.get_children(nodeclassmask=ua.NodeClass.Object):
        name = await child.read_browse_name()
        if name.NamespaceIndex > 0:
            units[name.Name] = child
    if len(units) != 1:
        message = f"the server has {len(units)} units: {', '.join(sorted(units))}; name one with 'unit' (--unit)"
        raise NotConnected(message)
    return next(iter(units.values()))


async def explore(node: Any) -> Unit:
    """Read what is below a unit.

    Args:
        node: of the unit.

    Returns:
        Its variables and methods, down to three levels.
    """
    unit = Unit(node)
    await _below(node, "", unit, DEPTH)
    return unit


def scan_of(unit: Unit, *, address: str, device: Mapping[str, str], unit_path: str) -> Scan:
    """Put together what the nodes of a unit say.

    Args:
        unit: explored.
        address: of the server.
        device: name and the like.
        unit_path: as `find_unit` takes it.
    """
    values = unique([unit.described[path] for path in sorted(unit.described)])
    by_name = {value.name: value for value in values}
    settable = tuple(
        replace(value, via="write")
        for value in values
        if value.writable and (value.numeric or value.choices or value.kind == "boolean")
    )
    commands = []
    for path in sorted(unit.arguments):
        takes, gives = unit.arguments[path]
        name = snake(path.rsplit("/", maxsplit=1)[-1])
        written = () if name in STOPPING else settable  # a method without arguments works on what was written before
        parameters = unique([_argument(one, "argument", by_name) for one in takes]) if takes else written
        answers = unique([_argument(one, "response", {}) for one in gives])
        commands.append(Command(name, path, "method", parameters, answers))
    return Scan(
        protocol="opcua",
        address=address,
        device={**device, "unit": unit_path},
        commands=tuple(_apart(commands)),
        values=values,
        scanned_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _apart(commands: list[Command]) -> list[Command]:
    names = [command.name for command in commands]
    return [c if names.count(c.name) == 1 else replace(c, name=snake(c.source.replace("/", " "))) for c in commands]


async def _below(node: Any, path: str, unit: Unit, depth: int) -> None:
    from asyncua import ua  # noqa: PLC0415  optional, and loaded by now

    for child in await node.get_children(refs=ua.ObjectIds.HierarchicalReferences):
        if len(unit.variables) + len(unit.methods) > MOST_NODES:
            message = f"more than {MOST_NODES} nodes are below this unit; name a smaller one with 'unit' (--unit)"
            raise NotConnected(message, effect=Effect.NONE)
        name = (await child.read_browse_name()).Name
        where = f"{path}/{name}" if path else name
        kind = await child.read_node_class()
        if kind == ua.NodeClass.Variable:
            await _variable(child, where, unit)
        elif kind == ua.NodeClass.Method:
            unit.methods[where] = (node, child)
            unit.arguments[where] = await _arguments(child)
        elif kind == ua.NodeClass.Object:
            unit.objects[where] = child
            if depth > 1 and not where.endswith("ResultSet"):  # results come and go; they are no part of the device
                await _below(child, where, unit, depth - 1)


async def _variable(node: Any, path: str, unit: Unit) -> None:
    from asyncua import ua  # noqa: PLC0415  optional, and loaded by now

    try:
        variant = await node.read_data_type_as_variant_type()
    except ua.UaError:
        variant = None
    rank = await node.read_value_rank()
    kind = _kind(variant.name if variant is not None else "") if rank == ua.ValueRank.Scalar else "other"
    about = {}
    for held in await node.get_properties():
        about[(await held.read_browse_name()).Name] = await held.read_value()
    levels = await node.get_user_access_level()
    unit.variables[path] = node
    unit.types[path] = variant
    unit.described[path] = Described(
        name=snake(_short(path)),
        source=path,
        kind=kind,
        via="value",
        writable=any(level.value == WRITE_BIT for level in levels),
        **_about(about, kind),
    )


def _short(path: str) -> str:
    """Name a variable: the last part of its path; of LADS functions the function's name too."""
    parts = path.split("/")
    return " ".join(parts[-2:]) if len(parts) > 1 else parts[0]


def _about(about: Mapping[str, Any], kind: Kind) -> dict[str, Any]:
    found: dict[str, Any] = {}
    information = about.get("EngineeringUnits")
    if information is not None and kind in ("number", "integer"):
        try:
            shown = information.DisplayName.Text or ""
            found["unit"] = from_opcua(information.NamespaceUri or "", information.UnitId, shown)
        except UnitError as error:
            found["problem"] = str(error)
    span = about.get("EURange") or about.get("InstrumentRange")
    # 0 to 0 is how servers say that nobody filled the range in.
    if span is not None and kind in ("number", "integer") and span.Low < span.High:
        found |= {"low": float(span.Low), "high": float(span.High)}
    if kind == "integer" and about.get("EnumStrings"):
        names = tuple(str(text.Text) for text in about["EnumStrings"])
        found |= {"choices": names, "codes": tuple(range(len(names)))}
    elif kind == "integer" and about.get("EnumValues"):
        values = about["EnumValues"]
        found |= {"choices": tuple(str(v.DisplayName.Text) for v in values), "codes": tuple(v.Value for v in values)}
    return found


def _argument(argument: Any, via: Literal["argument", "response"], values: Mapping[str, Described]) -> Described:
    """Describe an argument of a method; what it lacks, a variable of the same name says."""
    from asyncua import ua  # noqa: PLC0415  optional, and loaded by now

    identifier = argument.DataType.Identifier
    builtin = argument.DataType.NamespaceIndex == 0 and isinstance(identifier, int) and identifier <= 25  # noqa: PLR2004
    kind = _kind(ua.VariantType(identifier).name) if builtin and argument.ValueRank == ua.ValueRank.Scalar else "other"
    name = snake(argument.Name)
    twin = values.get(name)
    if twin is None or twin.kind != kind:
        return Described(name, argument.Name, kind, via)
    return replace(twin, source=argument.Name, via=via, writable=False)


async def _arguments(method: Any) -> tuple[list[Any], list[Any]]:
    found: dict[str, list[Any]] = {}
    for held in await method.get_properties():
        found[(await held.read_browse_name()).Name] = list(await held.read_value() or [])
    return found.get("InputArguments", []), found.get("OutputArguments", [])


def _kind(variant: str) -> Kind:
    if variant in NUMBER:
        return "number"
    if variant in WHOLE:
        return "integer"
    if variant in WORDS:
        return "text"
    return "boolean" if variant == "Boolean" else "other"
