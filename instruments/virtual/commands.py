"""`matloop virtual-lab`: a lab for practice, over real protocols.

Only click is imported here, so that help appears at once; everything else inside the command.
"""

# ruff: noqa: PLC0415  the command line's help must not wait for numpy and pydantic

from __future__ import annotations

import fcntl
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

NEXT = """
in another window:
  matloop lab check {file}
  matloop run campaigns/virtual/virtual_synthesis.yaml --lab {file}
Ctrl-C ends the lab. Its ports change when it is started again: resume a campaign with --lab {file}."""


@click.command("virtual-lab")
@click.option(
    "--folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("virtual-lab"),
    show_default=True,
    help="Of its samples, its logs and its lab file; a lab that was ended goes on where it was.",
)
@click.option("--speed", type=click.FloatRange(min=0.001), default=3600.0, show_default=True, help="Virtual s per s.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of noise, drift and faults.")
@click.option(
    "--faults",
    type=click.FloatRange(0, 1),
    default=0.0,
    show_default=True,
    help="Probability that an order meets a fault: door open, broken down, no number, an old number …",
)
@click.option("--refill", is_flag=True, help="Fill the hoppers of the folder's lab, running or not, and do no more.")
def virtual_lab(folder: Path, speed: float, seed: int, faults: float, *, refill: bool) -> None:
    """Start a virtual lab: dispenser, tube furnace, diffractometer and conductivity probe, each over its protocol.

    Prints a line for each device and the path of the lab file for campaigns; Ctrl-C ends it.
    """
    from instruments.virtual.lab import Plan, VirtualLab

    if refill:
        if not folder.is_dir():
            message = f"there is no virtual lab in {folder}; give its --folder"
            raise click.ClickException(message)
        Plan(folder).world().refill("dispenser")
        click.echo("the hoppers of the dispenser are full; a campaign that paused goes on with matloop resume NAME")
        return

    def leave(*_: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, leave)
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder), VirtualLab(Plan(folder, seed=seed, speed=speed, faults=faults)) as lab:
        for device, port in lab.ports.items():
            click.echo(f"READY {device} {lab.plan.protocols[device]} 127.0.0.1:{port}")
        file = lab.write()
        click.echo(f"READY {file}")
        click.echo(NEXT.format(file=file))
        try:
            while all(process.poll() is None for process in lab.processes.values()):
                time.sleep(0.5)
        except KeyboardInterrupt:
            click.echo("\nthe virtual lab is closed; the same command goes on with its samples")
            return
        dead = [name for name, process in lab.processes.items() if process.poll() is not None]
        message = f"the server of {', '.join(dead)} has ended by itself; look into {folder / (dead[0] + '.log')}"
        raise click.ClickException(message)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep a folder for one lab: a second one would write its ports over the first one's lab file."""
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            message = f"a virtual lab runs in {folder} already; end it, or give another --folder"
            raise click.ClickException(message) from error
        yield
