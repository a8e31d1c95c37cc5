"""What a host says of its instruments, kept in a file: so that a campaign can be checked while the host is off."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from pathlib import Path

from instruments.host import tokens, wire
from instruments.host.link import HostLink
from orchestrator.domain import Description, JsonObject
from orchestrator.errors import PluginError

FIND_S = 2.0
"""`describe` of an instrument without a file asks the host; a campaign is not checked slower for it."""


@dataclass(frozen=True)
class Declared:
    """A description with what stands beside it.

    Args:
        description: of the instrument behind the host.
        mixins: protocols that the client must offer, such as ``SafeState``.
        sha256: of the description, by which drift is seen.
    """

    description: Description
    mixins: frozenset[str]
    sha256: str


async def ask(link: HostLink) -> Declared:
    """Ask a host what an instrument can do.

    Args:
        link: to the instrument.

    Raises:
        NotConnected: nobody answers, or the token is wrong.
        PluginError: it speaks another protocol.
    """
    return read(await link.say("GET", answer_s=FIND_S), link.url)


def describe_host(url: str, token: str | None = None, ca: Path | None = None) -> Declared:
    """Ask a host once, for programs that are not async, such as `matloop lab scan`.

    Args:
        url: of the instrument: ``http://127.0.0.1:8700/furnace``.
        token: default: see `tokens.find`.
        ca: certificate to trust.
    """

    async def once() -> Declared:
        link = HostLink(url, token or tokens.find(), ca=ca)
        try:
            return await ask(link)
        finally:
            await link.close()

    return asyncio.run(once())


def write(declared: Declared, path: Path) -> None:
    """Write a description file."""
    content = {
        "protocol": wire.PROTOCOL,
        "sha256": declared.sha256,
        "mixins": sorted(declared.mixins),
        "description": wire.description_json(declared.description),
    }
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def load(path: Path) -> Declared:
    """Read a description file.

    Raises:
        PluginError: it is not there, or was changed by hand.
    """
    again = "make it with 'matloop host … --describe FILE' on the host, or 'matloop lab scan URL'"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        message = f"the description {path} cannot be read: {error}; {again}"
        raise PluginError(message) from error
    declared = read(content, str(path))
    if declared.sha256 != content.get("sha256"):
        message = f"the description {path} was changed: its hash is not the one that stands in it; {again}"
        raise PluginError(message)
    return declared


def read(content: JsonObject, where: str) -> Declared:
    """Read a host's answer or a file's content.

    Raises:
        PluginError: it is no description, or of another protocol.
    """
    if content.get("protocol") != wire.PROTOCOL:
        message = f"{where} speaks protocol {content.get('protocol')!r}; {wire.PROTOCOL} was expected: update Matloop"
        raise PluginError(message)
    try:
        described, mixins = content["description"], content["mixins"]
        assert isinstance(described, dict)  # noqa: S101  narrowed for mypy; a wrong one is reported below
        assert isinstance(mixins, list)  # noqa: S101  the same
        description = wire.description_from(described)
    except (AssertionError, KeyError, TypeError, ValueError) as error:
        message = f"{where} holds no description of an instrument: {type(error).__name__}: {error}"
        raise PluginError(message) from error
    return Declared(description, frozenset(map(str, mixins)), wire.fingerprint(wire.description_json(description)))
