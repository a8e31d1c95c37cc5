"""Read what one unit of an OPC UA server says of itself."""

from __future__ import annotations

from instruments.opcua import lads
from instruments.opcua.link import Where, linked, our_errors
from instruments.opcua.nodes import explore, find_unit, scan_of
from instruments.self_described.scans import Scan

CALL_S = 5.0


async def scan(where: Where, unit_path: str = "") -> Scan:
    """Scan a unit; nothing is started or written.

    Args:
        where: the server is.
        unit_path: of the unit; empty for the only one.

    Returns:
        What its nodes say.

    Raises:
        NotConnected: no server answers there, or there is no such unit.
    """
    client = await linked(where, CALL_S)
    try:
        with our_errors({}, "scanning"):
            unit = await explore(await find_unit(client, unit_path))
            build = await client.nodes.server.get_child(["0:ServerStatus", "0:BuildInfo"])
            info = await build.read_value()
            device = {"name": str(info.ProductName or ""), "firmware": str(info.SoftwareVersion or "")}
            if lads.is_lads(unit):
                await lads.read_templates(unit)
                return lads.scan_of(unit, address=where.endpoint, device=device, unit_path=unit_path)
            return scan_of(unit, address=where.endpoint, device=device, unit_path=unit_path)
    finally:
        await client.disconnect()
