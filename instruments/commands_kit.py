"""`matloop instrument check | new | chaos`: the tools of driver authors.

Only click is imported here, so that help appears at once; everything else inside the commands.
"""

# ruff: noqa: PLC0415  the command line's help must not wait for numpy and pydantic

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from instruments.simulated.wire import Chaos


@click.command()
@click.option("--to", required=True, metavar="HOST:PORT", help="The device.")
@click.option("--listen", default=0, show_default=True, help="Port on 127.0.0.1 to listen on; 0 takes a free one.")
@click.option("--faults", default="", help="Comma-separated; default: all of them.")
@click.option("--rate", default=0.02, show_default=True, help="Probability that a reply meets a fault.")
@click.option("--seed", default=0, show_default=True, help="Fixes which replies meet which fault.")
@click.option("--delay", default=0.3, show_default=True, help="Seconds that a delayed reply is late.")
@click.option("--freeze", default=1.0, show_default=True, help="Seconds that a frozen line stands still.")
@click.option("--grace", default=0, show_default=True, help="So many replies pass first, such as a handshake's.")
def chaos(
    *, to: str, listen: int, faults: str, rate: float, seed: int, delay: float, freeze: float, grace: int
) -> None:
    """Stand between an adapter and a TCP device, and spoil replies.

    Prints READY and the port. The faults are: delay, trickle, half, duplicate, flip, drop, cut, freeze. Ctrl-C ends it.
    """
    from instruments.simulated.wire import FAULTS, Chaos

    host, _, port = to.rpartition(":")
    if not (host and port.isdigit()):
        message = f"--to is {to!r}; write HOST:PORT, such as 127.0.0.1:5025"
        raise click.UsageError(message)
    chosen = [name.strip() for name in faults.split(",") if name.strip()] or list(FAULTS)
    try:
        proxy = Chaos(
            host,
            int(port),
            faults=chosen,  # type: ignore[arg-type]  Chaos refuses a wrong name, and says which there are
            rate=rate,
            seed=seed,
            delay_s=delay,
            freeze_s=freeze,
            grace=grace,
        )
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    with suppress(KeyboardInterrupt):
        asyncio.run(_serve(proxy, listen))
    click.echo(f"{proxy.replies} replies, {len(proxy.injected)} spoiled")


async def _serve(proxy: Chaos, listen: int) -> None:
    click.echo(f"READY {await proxy.start(listen)}")
    await proxy.serve_forever()
