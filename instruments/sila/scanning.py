"""Read what a SiLA 2 server says of itself."""

from __future__ import annotations

from instruments.self_described.scans import Scan
from instruments.sila.features import scan_of
from instruments.sila.link import Where, identity_of, linked, our_errors

CALL_S = 5.0
"""A server with many features may take a while over each."""


async def scan(where: Where) -> Scan:
    """Scan a server; nothing is started.

    Args:
        where: the server is.

    Returns:
        What its features say.

    Raises:
        NotConnected: no server answers there.
    """
    client = await linked(where, CALL_S)
    try:
        with our_errors({}, "scanning"):
            identity = await identity_of(client)
        device = {"name": identity.name, "serial": identity.serial, "firmware": identity.firmware}
        return scan_of(client.features.values(), address=where.address, device=device)
    finally:
        await client.close()
