"""`matloop up`: server, page, form and the worker that starts campaigns, kept alive until Ctrl-C."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType
from typing import NoReturn

import click

from flows.places import data_folder
from flows.server import Server, ensure_server, running_server
from flows.session import STORE_VARIABLE

POLL_S = "3"
"""Seconds until a submitted form is noticed; Prefect's own 10 feel broken."""

RESTART_S = 5.0
WATCH_S = 2.0
PATIENCE_S = 20.0


class _Ended(Exception):
    """Ctrl-C or SIGTERM."""


def serve(folder: Path, *, at_once: int, store: str | None) -> None:
    """Serve the form until Ctrl-C.

    Args:
        folder: whose campaign files the form offers.
        at_once: campaigns that may run at the same time.
        store: the campaign database that they use.
    """
    if store:
        os.environ[STORE_VARIABLE] = store if "://" in store else str(Path(store).resolve())
    server = ensure_server(click.echo)
    server.use()
    from flows.campaign import FOLDER_VARIABLE  # noqa: PLC0415  Prefect must be imported after its address is set
    from flows.deploy import POOL, deploy  # noqa: PLC0415  the same

    os.environ[FOLDER_VARIABLE] = str(folder)
    identity = asyncio.run(deploy(folder, at_once=at_once))
    click.echo(f"Prefect page:      {server.ui}")
    click.echo(f"start a campaign:  {server.ui}/v2/deployments/deployment/{identity}/run")
    click.echo(f"campaign files:    {folder}")
    click.echo("Ctrl-C ends the worker; the server stays until 'matloop down'")
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _end)
    worker = _worker(POOL)
    try:
        while True:
            time.sleep(WATCH_S)
            if worker.poll() is not None:
                click.echo(f"the worker ended with code {worker.returncode}; starting it again", err=True)
                time.sleep(RESTART_S)
                _server_again(server)
                worker = _worker(POOL)
    except _Ended:
        click.echo("ending the worker")
        worker.terminate()
        try:
            worker.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            worker.kill()
        click.echo("campaigns that were started go on with: matloop resume NAME")


def _end(number: int, frame: FrameType | None) -> NoReturn:
    del number, frame
    raise _Ended


def _server_again(server: Server) -> None:
    if server.ours and running_server() is None:
        ensure_server(click.echo)


def _worker(pool: str) -> subprocess.Popen[bytes]:
    log = data_folder() / "worker.log"
    environment = {**os.environ, "PREFECT_WORKER_QUERY_SECONDS": POLL_S}
    with log.open("ab") as out:
        return subprocess.Popen(  # noqa: S603  our own interpreter, a fixed pool
            [sys.executable, "-m", "prefect", "worker", "start", "--pool", pool, "--type", "process"],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,  # Ctrl-C here must not reach the campaigns that it runs
        )
