"""`matloop instrument serve`: a device file serves its own simulator."""

# ruff: noqa: PLC0415  the help of the command line must not wait for pydantic
from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from pydantic import ValidationError


@click.command()
@click.argument("device", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--port", type=int, default=0, show_default=True, help="TCP port on this computer; 0 takes a free one.")
@click.option("--pty", is_flag=True, help="Serve a serial line (a pseudo-terminal) instead.")
@click.option("--late", type=float, default=0.0, help="Share of the answers that come late, for trying it out.")
@click.option("--late-by", type=float, default=0.15, show_default=True, help="Seconds by which they do.")
@click.option("--duration", type=float, help="Seconds that a job lasts, instead of what the file says.")
def serve(device: Path, *, port: int, pty: bool, late: float, late_by: float, duration: float | None) -> None:
    """Serve the simulator of a SCPI device file.

    DEVICE is a YAML file with a 'simulator'. Prints 'READY ADDRESS' when it listens: a port, or the name of a line.
    """
    from pydantic import ValidationError

    from instruments.scpi import simulator as simulators
    from instruments.scpi.device import Device, read_device
    from orchestrator.errors import NotConnected

    try:
        described = Device.model_validate(read_device(device))
        if duration is not None and described.simulator is not None:
            plan = described.simulator.model_copy(update={"duration_s": duration})
            described = described.model_copy(update={"simulator": plan})
        simulator = simulators.Simulator(described, late=(late, late_by))
    except ValidationError as error:
        raise click.ClickException("\n".join(f"{device}: {line}" for line in _wrong(error))) from error
    except (ValueError, NotConnected) as error:
        raise click.ClickException(str(error)) from error
    try:
        asyncio.run(simulators.serve(simulator, None if pty else port, lambda address: click.echo(f"READY {address}")))
    except OSError as error:
        message = f"port {port} cannot be served ({error.strerror}); --port 0 takes a free one"
        raise click.ClickException(message) from error
    except KeyboardInterrupt:
        click.echo("the simulator is closed")


def _wrong(error: ValidationError) -> list[str]:
    """Say what is wrong in a device file, keys that do not exist first: a misspelt one is also a missing one."""
    lines: dict[str, list[str]] = {"extra_forbidden": [], "missing": []}
    for one in error.errors():
        where = ".".join(str(part) for part in one["loc"])
        if one["type"] in {"extra_forbidden", "missing"}:
            said = "there is no such key" if one["type"] == "extra_forbidden" else "this key is missing"
            lines[one["type"]].append(f"{where}: {said}")
        else:
            said = one["msg"].removeprefix("Value error, ")
            lines.setdefault("", []).append(f"{where}: {said} (seen: {one.get('input')!r})")
    return [line for group in lines.values() for line in group]
