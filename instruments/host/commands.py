"""`matloop host`: serve instruments from a process of their own.

Only click is imported here, so that help appears at once; everything else inside the command.
"""

# ruff: noqa: PLC0415  the command line's help must not wait for FastAPI and pydantic

from __future__ import annotations

import asyncio
import ipaddress
import json
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from instruments.host.hosted import Hosted

LOOPBACK = "127.0.0.1"


@click.command()
@click.argument("what", nargs=-1, required=True)
@click.option("--port", default=8700, show_default=True, type=click.IntRange(0, 65535), help="0 takes a free one.")
@click.option(
    "--bind", default=LOOPBACK, show_default=True, help="Address; another one needs a token, --key and --cert."
)
@click.option("--key", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Private key, for https.")
@click.option("--cert", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Certificate, for https.")
@click.option("--token-file", type=click.Path(path_type=Path), help="Holds the token, mode 0600.")
@click.option("--options", default="{}", help="The driver's options as JSON, or @FILE.")
@click.option("--journal", type=click.Path(path_type=Path, dir_okay=False), help="Default: in Matloop's data folder.")
@click.option(
    "--describe", type=click.Path(path_type=Path, dir_okay=False), help="Only write the description, and end."
)
def host(what: tuple[str, ...], **given: Any) -> None:
    """Serve instruments over HTTP, each by its name.

    WHAT is a name of 'matloop instrument list', package.module:factory, or lab.yaml#INSTRUMENT; ALIAS=WHAT gives it
    another name. Clients use it as 'use: remote' with 'options: {url: "http://HOST:PORT/NAME"}'.

    The token comes from $MATLOOP_HOST_TOKEN or --token-file. On this computer alone one is made where there is none,
    and clients of the same user find it.
    """
    from instruments.host import hosted

    options = _options(given["options"])
    served = [one for text in what for one in hosted.build(text, options)]
    names = [one.name for one in served]
    if len(set(names)) < len(names):
        message = f"a name stands twice: {', '.join(names)}; write ALIAS=WHAT"
        raise click.UsageError(message)
    if given["describe"] is not None:
        asyncio.run(_describe(served, given["describe"]))
        return
    _serve(served, given)


def _options(text: str) -> dict[str, Any]:
    content = Path(text[1:]).read_text(encoding="utf-8") if text.startswith("@") else text
    try:
        options: dict[str, Any] = json.loads(content)
    except ValueError as error:
        message = f"--options is no JSON: {error}; write such as '{{\"port\": 5025}}'"
        raise click.UsageError(message) from error
    return options


async def _describe(served: list[Hosted], file: Path) -> None:
    from instruments.host import descriptions, wire
    from instruments.host.journal import Journal
    from instruments.host.station import Station
    from orchestrator.protocols import SafeState

    if len(served) != 1:
        message = f"one instrument has one description; seen: {', '.join(one.name for one in served)}"
        raise click.UsageError(message)
    one = served[0]
    journal: Any = Journal  # describing needs none
    content = wire.description_json(await Station(one.name, one.instrument, journal, one.envelope).describe())
    mixins = frozenset({"SafeState"}) if isinstance(one.instrument, SafeState) else frozenset()
    described = descriptions.Declared(wire.description_from(content), mixins, wire.fingerprint(content))
    descriptions.write(described, file)
    click.echo(f"written: {file}", err=True)


def _serve(served: list[Hosted], given: dict[str, Any]) -> None:
    import uvicorn

    from instruments.host import server, tokens
    from instruments.host.journal import Journal
    from instruments.host.station import Station

    own = _is_own(given["bind"])
    token = tokens.find(given["token_file"])
    if not own and (token is None or given["key"] is None or given["cert"] is None):
        message = (
            f"--bind {given['bind']} can be reached from other computers: it needs a token (${tokens.VARIABLE} or"
            " --token-file) and TLS (--key and --cert); without them, bind to 127.0.0.1 and use an SSH tunnel"
        )
        raise click.UsageError(message)
    if (given["key"] is None) != (given["cert"] is None):
        message = "--key and --cert belong together"
        raise click.UsageError(message)
    token = token or tokens.make()
    file = given["journal"] or tokens.home() / f"{'+'.join(sorted(one.name for one in served))[:100]}.db"
    journal = Journal(file)
    stations = {one.name: Station(one.name, one.instrument, journal, one.envelope) for one in served}
    line = socket.create_server((given["bind"], given["port"]))
    scheme, port = "https" if given["key"] else "http", line.getsockname()[1]
    click.echo(f"READY {port}")
    for name in stations:
        click.echo(f'{name}: {{use: remote, options: {{url: "{scheme}://{given["bind"]}:{port}/{name}"}}}}', err=True)
    config = uvicorn.Config(
        server.application(stations, journal, token),
        log_level="warning",
        access_log=False,  # the token stands in no line of ours, and job ids in none
        ssl_keyfile=given["key"],
        ssl_certfile=given["cert"],
        timeout_graceful_shutdown=5,
        ws="none",
    )
    try:
        uvicorn.Server(config).run(sockets=[line])
    finally:
        journal.close()


def _is_own(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"
