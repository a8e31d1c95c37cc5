"""`matloop lab …`: scan devices that describe themselves, and check the instruments of a lab file.

Only click is imported here, so that help appears at once; everything else inside the commands.
"""

# ruff: noqa: PLC0415  the command line's help must not wait for numpy and pydantic

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import click

if TYPE_CHECKING:
    from collections.abc import Mapping

    from instruments.self_described.scans import Scan

FILE = click.Path(path_type=Path, dir_okay=False)
OPEN_S = 15.0
"""For an instrument to open; a potential that is loaded first may take longer than a device."""


@click.group()
def lab() -> None:
    """Scan devices that describe themselves; check the instruments of a lab file."""


@lab.command("scan")
@click.argument("addresses", nargs=-1, required=True, metavar="ADDRESS…")
@click.option("--write", "target", type=FILE, help="Write the scan here; for several addresses give --name for each.")
@click.option("--name", "names", multiple=True, help="Name of the instrument; writes scans/NAME.json.")
@click.option("--unit", default="", help="OPC UA: path of the unit below Objects, or its node id.")
@click.option("--root", type=FILE, help="SiLA 2: PEM file of the certificate that is trusted.")
@click.option("--insecure", is_flag=True, help="Allow a link without encryption to another computer.")
@click.option("--tls/--plain", "tls", default=None, help="SiLA 2: default is plain on this computer, else TLS.")
@click.option("--security", default="None", help="OPC UA: policy, such as Basic256Sha256.")
@click.option("--certificate", type=FILE, help="OPC UA: our certificate, for a security policy.")
@click.option("--private-key", type=FILE, help="OPC UA: its key.")
@click.option("--user-env", default="", help="OPC UA: environment variable with the user's name.")
@click.option("--password-env", default="", help="OPC UA: environment variable with the password.")
def scan_(addresses: tuple[str, ...], target: Path | None, names: tuple[str, ...], **given: Any) -> None:
    """Read what devices say of themselves; nothing is started.

    ADDRESS is sila://HOST:PORT, opcua://HOST:PORT, opc.tcp://HOST:PORT, or http(s)://HOST:PORT/NAME for an instrument
    behind 'matloop host'. Prints what each device can do, with units
    and bounds, and the lines for a lab file and a campaign. With --write or --name it keeps the scan as a hashed file:
    drivers describe themselves from it, offline, and refuse a device that changed.
    """
    from instruments.self_described import scans
    from orchestrator.errors import MatloopError

    if (target is not None or names) and len(addresses) != max(len(names), 1):
        message = f"{len(addresses)} addresses and {len(names)} names; give --name once for each address"
        raise click.UsageError(message)
    failed = False
    for place, address in enumerate(addresses):
        name = names[place] if names else (target.stem if target else _named(address))
        path = target if target is not None else Path("scans") / f"{name}.json"
        try:
            if urlsplit(address).scheme in ("http", "https"):
                _scan_host(address, name, path, given, keep=target is not None or bool(names))
                continue
            scan, options = asyncio.run(_scan(address, given))
        except MatloopError as error:
            click.secho(f"{address}: {error}", fg="red", err=True)
            failed = True
            continue
        if target is not None or names:
            scans.write(scan, path)
        _show(scan, name, options, path, written=target is not None or bool(names))
    sys.exit(1 if failed else 0)


def _named(address: str) -> str:
    """Name an instrument that was given no name: as its host calls it, or by its protocol."""
    where = urlsplit(address)
    own = where.path.strip("/") if where.scheme in ("http", "https") else ""
    return own or where.scheme.replace(".", "_")


@lab.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--only", multiple=True, help="Check this instrument only.")
def check(file: Path, only: tuple[str, ...]) -> None:
    """Open each instrument of a lab file and ask how it is; nothing is started.

    Ends with 1 where an instrument does not open, or is out of order.
    """
    content = _read(file)
    instruments = content.get("instruments") or {}
    unknown = sorted(set(only) - set(instruments))
    if unknown:
        message = f"{file} has no instrument {', '.join(unknown)}; it has: {', '.join(instruments) or 'none'}"
        raise click.UsageError(message)
    chosen = {name: entry for name, entry in instruments.items() if not only or name in only}
    rows = asyncio.run(_checked(chosen, str(file.resolve().parent), list(content.get("allowed_modules") or ())))
    width = max((len(row[0]) for row in rows), default=0)
    for name, fine, text in rows:
        mark = click.style("ok  ", fg="green") if fine else click.style("FAIL", fg="red")
        click.echo(f"{mark}  {name:<{width}}  {text}")
    sys.exit(0 if all(fine for _, fine, _ in rows) else 1)


async def _scan(address: str, given: Mapping[str, Any]) -> tuple[Scan, dict[str, Any]]:
    """Scan one address; returns the options that a lab file needs to find it again."""
    where = urlsplit(address)
    if where.scheme == "sila" and where.hostname and where.port:
        return await _scan_sila(where.hostname, where.port, given)
    if where.scheme in ("opcua", "opc.tcp") and where.hostname and where.port:
        return await _scan_opcua(f"opc.tcp://{where.netloc}{where.path}", given)
    message = (
        f"{address!r} is no address of a device that describes itself; write sila://HOST:PORT or opcua://HOST:PORT"
    )
    raise click.UsageError(message)


def _scan_host(url: str, name: str, path: Path, given: Mapping[str, Any], *, keep: bool) -> None:
    from instruments.host.scan import scan

    for line in scan(url, name, path, ca=given["root"], keep=keep):
        click.echo(line)
    click.echo(
        f"\ndescription {f'written to {path}' if keep else f'not written; keep it with --write {path}'}", err=True
    )


async def _scan_sila(host: str, port: int, given: Mapping[str, Any]) -> tuple[Scan, dict[str, Any]]:
    from instruments.self_described.driver import is_here
    from instruments.sila.link import Where
    from instruments.sila.scanning import scan

    tls = given["tls"] if given["tls"] is not None else bool(given["root"]) or not is_here(host)
    if not tls and not is_here(host) and not given["insecure"]:
        message = f"a link to {host} without TLS can be read and changed by anybody on the network; say --insecure"
        raise click.UsageError(message)
    options: dict[str, Any] = {"host": host, "port": port}
    if not tls:
        options["tls"] = False
    if given["insecure"]:
        options["insecure"] = True
    if given["root"]:
        options["root_certificates"] = given["root"]
    return await scan(Where(host, port, tls=tls, root_certificates=given["root"])), options


async def _scan_opcua(endpoint: str, given: Mapping[str, Any]) -> tuple[Scan, dict[str, Any]]:
    from instruments.opcua.link import Where
    from instruments.opcua.scanning import scan
    from instruments.self_described.driver import is_here

    plain = given["security"] == "None"
    if plain and not is_here(urlsplit(endpoint).hostname or "") and not given["insecure"]:
        message = f"a scan of {endpoint} would go over a link without encryption; give --security, or say --insecure"
        raise click.UsageError(message)
    options: dict[str, Any] = {"endpoint": endpoint}
    for key in ("unit", "user_env", "password_env", "security", "certificate", "private_key"):
        if given[key] and given[key] != "None":
            options[key] = given[key]
    if given["insecure"]:
        options["insecure"] = True
    known = ("user_env", "password_env", "security", "certificate", "private_key")
    where = Where(endpoint, **{key: given[key] for key in known})
    return await scan(where, given["unit"]), options


def _show(scan: Scan, name: str, options: Mapping[str, Any], path: Path, *, written: bool) -> None:
    from instruments.self_described import scan_text

    for line in scan_text.table(scan):
        click.echo(line)
    click.echo()
    for line in (*scan_text.lab_lines(scan, name, options, path), "", *scan_text.space_lines(scan, name)):
        click.echo(line)
    done = f"written to {path}" if written else f"not written; keep it with --write {path}"
    click.echo(f"\nscan {scan.digest[:12]} {done}", err=True)


def _read(file: Path) -> dict[str, Any]:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        content = YAML(typ="safe", pure=True).load(file.read_text(encoding="utf-8"))
    except (YAMLError, OSError) as error:
        message = f"{file} cannot be read: {error}"
        raise click.UsageError(message) from error
    if not isinstance(content, dict) or not isinstance(content.get("instruments") or {}, dict):
        message = f"{file} is no lab file: it needs a mapping 'instruments'"
        raise click.UsageError(message)
    return content


async def _checked(
    instruments: Mapping[str, Mapping[str, Any]], base: str, modules: list[str]
) -> list[tuple[str, bool, str]]:
    rows = await asyncio.gather(*(_one(entry, base, modules) for entry in instruments.values()))
    return [(name, *row) for name, row in zip(instruments, rows, strict=True)]


async def _one(entry: Mapping[str, Any], base: str, modules: list[str]) -> tuple[bool, str]:
    from orchestrator import plugins
    from orchestrator.errors import MatloopError

    try:
        options = entry.get("options") or {}
        driver = plugins.build("instruments", str(entry["use"]), options, base=base, allowed_modules=modules)
        described = await driver.describe()
        try:
            identity = await asyncio.wait_for(driver.open(), OPEN_S)
            health = await driver.health()
        finally:
            await driver.close()
    except MatloopError as error:
        return False, f"{type(error).__name__}: {error}"
    except (KeyError, TypeError) as error:
        return False, f"the entry has no key {error}; it needs 'use'"
    except TimeoutError:
        return False, f"did not open within {OPEN_S:g} s"
    can = ", ".join(capability.name for capability in described.capabilities)
    who = " ".join(part for part in (identity.name, identity.serial, identity.firmware) if part)
    detail = f" ({health.detail})" if health.detail else ""
    return health.state in ("ready", "busy"), f"{health.state}{detail}; {who}; can {can}"
